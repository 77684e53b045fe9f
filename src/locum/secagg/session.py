"""The set-up of a session, once for a roster: every pair of sites comes to share a secret root that the coordinator cannot know.

    site i                                  coordinator                              site j
    KEYS: session key, commit to nonce  ->  all keys                             ->  verifies all
    SEALS: 32 bytes for each j, nonce   ->  to each j its column, all nonces     ->  opens its column
    root_ij = HKDF(both secrets, transcript of the pair)        seed = H(all nonces)

The root is ratcheted after every round and the old one deleted: what is taken from a site tomorrow does not open what was
recorded today. The seed, to which every member contributed by commit and reveal, draws the graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from locum.secagg.errors import MaskingRefused, ProtocolError, SessionLost
from locum.secagg.kdf import KEY_BYTES, digest, hkdf, join, label
from locum.secagg.messages import Column, KeyList, Keys, Seal, Seals, decode, encode
from locum.secagg.parameters import COMPLETE_UP_TO, lot
from locum.secagg.suites import Suite

Entropy = Callable[[int], bytes]
"""`os.urandom`, or in tests something that repeats itself."""
Sign = Callable[[bytes, bytes], bytes]
"""(label, message) -> 64 bytes, by this site's identity key."""
MAX_SKIPPED = 2_000
"""Rounds that a site may miss before it needs a new session."""


class Verifier(Protocol):
    """Another site's identity key."""

    def verify(self, label: bytes, signature: bytes, message: bytes) -> bool: ...


@dataclass(frozen=True)
class Setup:
    """What both ends know of a set-up. keys: the identity keys of the round's sites, from the consortium's signed roster.

    buckets: of the study's terms.
    """

    id: bytes
    suite: Suite
    keys: Mapping[str, Verifier]
    n_min: int
    buckets: int = 1

    @classmethod
    def of(cls, *, study: str, run: str, t: int, roster: str, suite: Suite, keys: Mapping[str, Verifier], n_min: int, buckets: int = 1) -> Setup:
        """The set-up in round `t` of a run. roster: digest of the consortium's roster."""
        return cls(digest("session", study, run, t, roster, suite.name), suite, keys, n_min, buckets)

    def complete(self, members: Iterable[str], listed: Iterable[str]) -> bool:
        """Whether these members may make the session. Where the topology is drawn by lot nobody may be left out after the
        nonces are known: leaving out one or another would be drawing again.
        """
        listed = set(listed)
        return not lot(len(listed), self.buckets) or set(members) == listed


class Pending(msgspec.Struct):
    """A site's secrets while a set-up is under way."""

    private: bytes
    nonce: bytes
    secrets: dict[str, bytes] = {}
    keys: dict[str, tuple[bytes, bytes]] = {}
    sealed: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return "Pending(...)"


class Session(msgspec.Struct):
    """A site's side of a session. roots: of round t, by the other member's name."""

    id: bytes
    members: tuple[str, ...]
    seed: bytes
    t: int
    roots: dict[str, bytes]

    def __repr__(self) -> str:
        return f"Session(t={self.t}, members={len(self.members)})"

    def advance(self, t: int) -> None:
        """Ratchet the roots up to round t. Raises `MaskingRefused` for a round that was passed already."""
        if t < self.t:
            raise MaskingRefused(f"Round {t} is over at this site; the next is {self.t}.", why="A round that comes twice could take two sums.")
        if t - self.t > MAX_SKIPPED:
            raise SessionLost("The session has gone too far without this site.", fix="nothing to do: the next round sets up a new one")
        for _ in range(t - self.t):
            self.roots = {name: hkdf(root, b"", "ratchet") for name, root in self.roots.items()}
        self.t = t


# --- a site's steps ---------------------------------------------------------------------------------------------------


def announce(setup: Setup, me: str, sign: Sign, entropy: Entropy) -> tuple[Pending, bytes]:
    """KEYS: a fresh session key and a commitment to a fresh nonce."""
    private, nonce = setup.suite.generate(), entropy(KEY_BYTES)
    public, commitment = setup.suite.public(private), _commitment(setup, me, nonce)
    body = Keys(public, commitment, sign(label("keys"), _keys_message(setup, me, public, commitment)))
    return Pending(private, nonce), encode(body)


def seal(setup: Setup, me: str, pending: Pending, raw: bytes, sign: Sign, entropy: Entropy) -> bytes:
    """SEALS: a secret for every other site of the key list. Raises `MaskingRefused` or `ProtocolError`; `pending` is updated."""
    if pending.secrets:
        raise MaskingRefused("This site has sealed in this set-up already.", why="Its nonce is known by now.")
    listed = decode(raw, KeyList).keys
    own = listed.get(me)
    if own is None or own.commitment != _commitment(setup, me, pending.nonce) or own.public != setup.suite.public(pending.private):
        raise MaskingRefused("The key list does not hold this site's own key.", why="Somebody between replaced it.")
    if len(listed) < setup.n_min:
        raise MaskingRefused(f"Only {len(listed)} sites take part in the set-up; {setup.n_min} are the minimum here.")
    for name, keys in listed.items():
        _check_keys(setup, name, keys)
    secrets, seals = {}, {}
    for name, keys in listed.items():
        if name != me:
            secrets[name] = entropy(KEY_BYTES)
            sealed = setup.suite.seal(keys.public, secrets[name], join(setup.id, me, name))
            seals[name] = Seal(sealed, sign(label("sealed"), join(setup.id, me, name, sealed)))
    pending.secrets = secrets
    pending.sealed = {name: s.sealed for name, s in seals.items()}
    pending.keys = {name: (k.public, k.commitment) for name, k in listed.items()}
    return encode(Seals(pending.nonce, seals))


def open_column(setup: Setup, me: str, pending: Pending, raw: bytes, t: int) -> Session:
    """The session from what the others sealed for this site. Raises `MaskingRefused` or `ProtocolError`."""
    column = decode(raw, Column)
    members = tuple(sorted(column.nonces))
    if me not in column.nonces or set(column.seals) != set(members) - {me} or not set(members) <= set(pending.keys):
        raise MaskingRefused("The session's members are not those whose keys this site has seen.")
    if len(members) < setup.n_min:
        raise MaskingRefused(f"Only {len(members)} sites are in the session; {setup.n_min} are the minimum here.")
    if not setup.complete(members, pending.keys):
        raise MaskingRefused("Sites that gave their keys are left out of the session.", why="The coordinator could draw the graph it likes.")
    for name, nonce in column.nonces.items():
        if pending.keys[name][1] != _commitment(setup, name, nonce):
            raise MaskingRefused(f"The nonce of '{name}' is not the one that it committed to.", why="The graph would not be random.")
    seed = graph_seed(setup, column.nonces)
    roots, open_ = {}, setup.suite.opener(pending.private)
    for name, theirs in column.seals.items():
        if not setup.keys[name].verify(label("sealed"), theirs.signature, join(setup.id, name, me, theirs.sealed)):
            raise MaskingRefused(f"The seal of '{name}' is not signed by it.", why="Somebody between made or altered it.")
        secret = open_(theirs.sealed, join(setup.id, name, me))
        roots[name] = _root(setup, seed, (me, pending.secrets[name], pending.sealed[name]), (name, secret, theirs.sealed), pending)
    return Session(setup.id, members, seed, t, roots)


# --- the coordinator's steps ------------------------------------------------------------------------------------------


def key_list(setup: Setup, bodies: Mapping[str, bytes]) -> dict[str, bytes]:
    """The one list of all well-signed keys that can be sealed to, for each of their senders; others are left out."""
    listed = {}
    for name, raw in bodies.items():
        try:
            keys = decode(raw, Keys)
            _check_keys(setup, name, keys)
            setup.suite.seal(keys.public, bytes(KEY_BYTES), b"")  # a key that nobody can seal to would stop all the others
        except (ProtocolError, MaskingRefused):
            continue
        listed[name] = keys
    body = encode(KeyList(dict(sorted(listed.items()))))
    return dict.fromkeys(sorted(listed), body)


def columns(setup: Setup, bodies: Mapping[str, bytes], listed: bytes) -> tuple[bytes, dict[str, bytes]]:
    """The session's seed, and for each member what the others sealed for it. Who did not seal well for all is left out.

    Raises `MaskingRefused` where nobody may be left out; then the set-up must be tried again.
    """
    keys = decode(listed, KeyList).keys
    rows: dict[str, Seals] = {}
    for name, raw in bodies.items():
        try:
            seals = decode(raw, Seals)
        except ProtocolError:
            continue
        whole = name in keys and set(seals.seals) == set(keys) - {name} and keys[name].commitment == _commitment(setup, name, seals.nonce)
        if whole and (len(keys) > COMPLETE_UP_TO or _signed(setup, name, seals)):
            rows[name] = seals
    if not setup.complete(rows, keys):
        raise MaskingRefused(f"{len(keys) - len(rows)} of {len(keys)} sites did not seal for the others.", fix="nothing to do: the set-up is tried again")
    nonces = {name: rows[name].nonce for name in sorted(rows)}
    made = {me: encode(Column(nonces, {name: row.seals[me] for name, row in rows.items() if name != me})) for me in nonces}
    return graph_seed(setup, nonces), made


# --- shared -----------------------------------------------------------------------------------------------------------


def graph_seed(setup: Setup, nonces: Mapping[str, bytes]) -> bytes:
    """The seed to which every member contributed."""
    return digest("seed", setup.id, *(part for name in sorted(nonces) for part in (name, nonces[name])))


def _signed(setup: Setup, name: str, seals: Seals) -> bool:
    """Whether every seal is signed: one that is not would stop its receiver. Checked here while n^2 signatures take a second."""
    key = setup.keys[name]
    return all(key.verify(label("sealed"), s.signature, join(setup.id, name, other, s.sealed)) for other, s in seals.seals.items())


def _commitment(setup: Setup, name: str, nonce: bytes) -> bytes:
    return digest("nonce", setup.id, name, nonce)


def _keys_message(setup: Setup, name: str, public: bytes, commitment: bytes) -> bytes:
    return join(setup.id, name, public, commitment)


def _check_keys(setup: Setup, name: str, keys: Keys) -> None:
    key = setup.keys.get(name)
    if key is None:
        raise MaskingRefused(f"'{name}' is not in the consortium's roster for this round.", why="The coordinator may not add sites of its own.")
    if not key.verify(label("keys"), keys.signature, _keys_message(setup, name, keys.public, keys.commitment)):
        raise MaskingRefused(f"The session key of '{name}' is not signed by it.", why="Somebody between replaced it.")


def _root(setup: Setup, seed: bytes, mine: tuple[str, bytes, bytes], theirs: tuple[str, bytes, bytes], pending: Pending) -> bytes:
    """The same at both ends: everything in the order of the names. The seed binds the list of members: sites that were shown
    different lists share nothing, else one could be made to count in a smaller cohort than it knows of.
    """
    (low, s_low, c_low), (high, s_high, c_high) = sorted((mine, theirs))
    transcript = digest("pair", setup.id, low, high, pending.keys[low][0], pending.keys[high][0], c_low, c_high)
    return hkdf(s_low + s_high, transcript, "root", low, high, seed)
