"""A site's side of a peer round: JOIN, MASKED, CONFIRM, UNMASK. Each step checks first, and changes nothing if it refuses.

    join     fresh b, K;  p_ij = HKDF(root_ij, "pair");  shares of b and K to the neighbours;  escrow = AEAD(K, all p_ij)
    mask     y = x + PRG(b, "self", J) + sum over neighbours j in U1 of +-PRG(p_ij, "pair", J)
    confirm  one signature over (Mh, J, H(U2))
    unmask   a quorum of the cohort has signed this very U2: own b; shares of b_j for neighbours in U2, of K_j for those who dropped out

The caller makes the returned `Secrets` durable before the message leaves: that is how "once" survives a crash. From a site
nobody ever gets both secrets of another: a share of b_j and a share of K_j are never given for the same j.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from locum.secagg import shamir
from locum.secagg.errors import MaskingRefused, ProtocolError
from locum.secagg.kdf import KEY_BYTES, digest, hkdf, label
from locum.secagg.kdf import join as concat
from locum.secagg.masks import Stream
from locum.secagg.messages import Confirm, Join, Request, Roster, Survivors, Unmask, decode, encode
from locum.secagg.session import Entropy, Session, Sign
from locum.secagg.topology import Manifest, Topology, confirmation, transcript

Phase = Literal["joined", "masked", "confirmed", "unmasked"]
_NONCE = bytes(12)  # every AEAD key here encrypts one message


class Secrets(msgspec.Struct):
    """What a site keeps of a round in progress. phase: the last step taken. shares: of b and K, by the neighbour they belong to."""

    manifest: bytes
    session: bytes
    members: tuple[str, ...]
    seed: bytes
    phase: Phase
    own: bytes
    b: bytes = b""
    k: bytes = b""
    pairs: dict[int, bytes] = {}
    channels: dict[int, bytes] = {}
    shares: dict[int, tuple[bytes, bytes]] = {}
    joined: dict[int, tuple[bytes, bytes]] = {}
    survivors: tuple[int, ...] = ()
    j: bytes = b""

    def __repr__(self) -> str:
        return f"Secrets(phase={self.phase!r})"


def join(manifest: Manifest, session: Session, me: str, sign: Sign, entropy: Entropy) -> tuple[Secrets, bytes]:
    """JOIN, after local training. The session moves on to the next round: its roots of this one are gone.

    Raises `MaskingRefused`; then nothing has changed.
    """
    topology = Topology.of(manifest, session.members, session.seed)
    number = manifest.number(me)
    if number not in topology.cohort:
        raise MaskingRefused("This site is not in the round's cohort.")
    around, names = topology.neighbours[number], manifest.roster
    session.advance(manifest.t)
    b, k = entropy(KEY_BYTES), entropy(KEY_BYTES)
    pairs = {i: hkdf(session.roots[names[i]], manifest.digest, "pair") for i in around}
    channels = {i: session.roots[names[i]] for i in around}
    tau = topology.threshold(number)
    of_b, of_k = shamir.split(b, around, tau, entropy), shamir.split(k, around, tau, entropy)
    sealed = tuple(_seal(channels[i], manifest, number, i, mine + theirs) for i, mine, theirs in zip(around, of_b, of_k, strict=True))
    escrow = AESGCM(k).encrypt(_NONCE, b"".join(pairs[i] for i in around), concat(manifest.digest, number))
    body = Join(around, commit("b", manifest, number, b), commit("k", manifest, number, k), sealed, escrow, bytes(64))
    own = join_digest(manifest, number, body)
    body = msgspec.structs.replace(body, signature=sign(label("join"), own))
    incoming = {i: _channel(root, manifest, i, number) for i, root in channels.items()}
    session.advance(manifest.t + 1)
    return Secrets(manifest.digest, session.id, session.members, session.seed, "joined", own, b, k, pairs, incoming), encode(body)


def mask(manifest: Manifest, secrets: Secrets, me: str, raw: bytes) -> list[Stream]:
    """The keystreams to add to x, with `secrets.j` as transcript. Raises `MaskingRefused` or `ProtocolError`."""
    topology = _resume(manifest, secrets, "joined")
    number = manifest.number(me)
    roster = decode(raw, Roster)
    joined = frozenset(roster.joined)
    topology.check_joined(joined, manifest.minimum, manifest.terms.dropout)
    if number not in joined or roster.joined[number][0] != secrets.own:
        raise MaskingRefused("The list of who joined does not hold this site's own JOIN.", why="It was replaced, or belongs to another round.")
    if not topology.connected(number, joined):
        raise MaskingRefused("Too few of this site's neighbours have joined.", why="Its masks could be removed without it.")
    near = joined.intersection(topology.neighbours[number])
    if set(roster.shares) != near:
        raise MaskingRefused("The shares for this site are not those of its neighbours.")
    _verify_joins(manifest, {i: roster.joined[i] for i in near})
    shares = {i: _open(secrets.channels[i], manifest, i, number, roster.shares[i]) for i in near}
    j = transcript(manifest, secrets.session, secrets.seed, {i: d for i, (d, _) in roster.joined.items()})
    # From here on nothing raises.
    secrets.shares, secrets.joined, secrets.j, secrets.phase = shares, dict(roster.joined), j, "masked"
    return [Stream(secrets.b, "self", 1), *(Stream(secrets.pairs[i], "pair", 1 if number < i else -1) for i in sorted(near))]


def confirm(manifest: Manifest, secrets: Secrets, me: str, raw: bytes, sign: Sign) -> bytes:
    """CONFIRM: this site's one signature on U2. Raises `MaskingRefused` or `ProtocolError`."""
    survivors = _ascending(decode(raw, Survivors).survivors)
    _accept(manifest, secrets, me, survivors)
    secrets.survivors, secrets.phase = survivors, "confirmed"
    return encode(Confirm(sign(label("confirm"), confirmation(manifest, secrets.j, survivors))))


def unmask(manifest: Manifest, secrets: Secrets, me: str, raw: bytes) -> bytes:
    """UNMASK, if a quorum of the cohort has signed this U2. The secrets are erased. Raises `MaskingRefused` or `ProtocolError`."""
    request = decode(raw, Request)
    survivors = _ascending(request.survivors)
    if secrets.phase == "confirmed":
        topology = _resume(manifest, secrets, "confirmed")
        if survivors != secrets.survivors:
            raise MaskingRefused("Another list of survivors was confirmed here.", why="Two lists would take two sums.")
    else:  # the quorum was reached without this site's signature
        topology = _accept(manifest, secrets, me, survivors)
    need, message = topology.quorum, confirmation(manifest, secrets.j, survivors)
    if not set(request.signatures) <= set(survivors) or len(request.signatures) < need:
        raise MaskingRefused(f"{len(request.signatures)} sites have confirmed the survivors; {need} are needed.", why="Others may see another list.")
    for i, signature in request.signatures.items():
        if not manifest.keys[manifest.roster[i]].verify(label("confirm"), signature, message):
            raise MaskingRefused(f"The confirmation of '{manifest.roster[i]}' is not signed by it, or is for another list.")
    near = frozenset(secrets.joined).intersection(topology.neighbours[manifest.number(me)])
    alive = near.intersection(survivors)
    body = Unmask(secrets.b, {i: secrets.shares[i][0] for i in sorted(alive)}, {i: secrets.shares[i][1] for i in sorted(near - alive)})
    secrets.survivors, secrets.phase = survivors, "unmasked"
    erase(secrets)
    return encode(body)


def erase(secrets: Secrets) -> None:
    """Forget the seeds and shares; the record of what was done stays."""
    secrets.b = secrets.k = b""
    secrets.pairs, secrets.channels, secrets.shares = {}, {}, {}


# --- parts that both ends use -----------------------------------------------------------------------------------------


def commit(which: str, manifest: Manifest, number: int, secret: bytes) -> bytes:
    """The commitment by which a reconstructed secret is recognised."""
    return digest("commit " + which, manifest.digest, number, secret)


def join_digest(manifest: Manifest, number: int, body: Join) -> bytes:
    """What a JOIN's signature covers: the manifest, the sender, and every part of the message."""
    shares = hashlib.sha256(concat(*body.shares)).digest()
    escrow = hashlib.sha256(body.escrow).digest()
    return digest("join", manifest.digest, number, concat(*body.neighbours), body.commit_b, body.commit_k, shares, escrow)


def open_escrow(manifest: Manifest, number: int, k: bytes, body: Join) -> dict[int, bytes]:
    """The pair seeds of a site that dropped out. Raises `ProtocolError`."""
    try:
        plain = AESGCM(k).decrypt(_NONCE, body.escrow, concat(manifest.digest, number))
    except InvalidTag:
        raise ProtocolError(f"The escrow of '{manifest.roster[number]}' does not open.", why="It was corrupt from the start, or altered.") from None
    if len(plain) != KEY_BYTES * len(body.neighbours):
        raise ProtocolError(f"The escrow of '{manifest.roster[number]}' is not of the right length.")
    return {i: plain[at : at + KEY_BYTES] for i, at in zip(body.neighbours, range(0, len(plain), KEY_BYTES), strict=True)}


def _resume(manifest: Manifest, secrets: Secrets, phase: Phase) -> Topology:
    if secrets.manifest != manifest.digest:
        raise MaskingRefused("This message belongs to another manifest than the one that was joined.")
    if secrets.phase != phase:
        raise MaskingRefused(f"This site has {secrets.phase} in this round already.", why="Each step is taken once.")
    return Topology.of(manifest, secrets.members, secrets.seed)


def _accept(manifest: Manifest, secrets: Secrets, me: str, survivors: tuple[int, ...]) -> Topology:
    """Check U2, and the JOINs that were not checked before: y is under b until UNMASK, so this is soon enough for them."""
    topology = _resume(manifest, secrets, "masked")
    number, alive, joined = manifest.number(me), frozenset(survivors), frozenset(secrets.joined)
    topology.check_survivors(alive, joined, manifest.minimum, manifest.terms.dropout)
    if number not in alive:
        raise MaskingRefused("This site is not among the survivors.", why="Its own vector would not be in the sum.")
    near = joined.intersection(topology.neighbours[number])
    _verify_joins(manifest, {i: secrets.joined[i] for i in joined - near - {number}})
    return topology


def _verify_joins(manifest: Manifest, joined: dict[int, tuple[bytes, bytes]]) -> None:
    for i, (own, signature) in joined.items():
        if not manifest.keys[manifest.roster[i]].verify(label("join"), signature, own):
            raise MaskingRefused(f"The JOIN of '{manifest.roster[i]}' is not signed by it.", why="The coordinator may not speak for a site.")


def _ascending(numbers: tuple[int, ...]) -> tuple[int, ...]:
    if any(a >= b for a, b in pairwise(numbers)):
        raise ProtocolError("The survivors are not listed once each, in ascending order.")
    return numbers


def _channel(root: bytes, manifest: Manifest, sender: int, receiver: int) -> bytes:
    return hkdf(root, manifest.digest, "channel", sender, receiver)


def _seal(root: bytes, manifest: Manifest, sender: int, receiver: int, shares: bytes) -> bytes:
    return AESGCM(_channel(root, manifest, sender, receiver)).encrypt(_NONCE, shares, concat(manifest.digest, sender, receiver))


def _open(channel: bytes, manifest: Manifest, sender: int, receiver: int, sealed: bytes) -> tuple[bytes, bytes]:
    try:
        plain = AESGCM(channel).decrypt(_NONCE, sealed, concat(manifest.digest, sender, receiver))
    except InvalidTag:
        raise MaskingRefused(f"The share from '{manifest.roster[sender]}' does not open.", why="It was altered, or made for another round.") from None
    if len(plain) != 2 * shamir.SHARE_BYTES:
        raise MaskingRefused(f"The share from '{manifest.roster[sender]}' is not of the right length.")
    return plain[: shamir.SHARE_BYTES], plain[shamir.SHARE_BYTES :]
