"""A masked round as both ends see it, and how the coordinator leads it: from one phase's messages to the next phase's.

    keys    -> the list of keys          -> seals
    seals   -> each site's column        -> join        (the session exists)
    join    -> each site's roster, J     -> masked
    masked  -> U2                        -> confirm
    confirm -> a quorum's signatures     -> unmask
    unmask  -> the streams that remain in the sum

Everything is computed from durable messages, so a replica that takes over computes the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from locum.federation.identity import PublicKey
from locum.federation.round import Round
from locum.federation.wire import Assignment
from locum.secagg import cohort, session
from locum.secagg.cohort import Joined, Part
from locum.secagg.errors import MaskingRefused, Unrecoverable
from locum.secagg.kdf import digest
from locum.secagg.parameters import quorum
from locum.secagg.session import Setup
from locum.secagg.suites import choose
from locum.secagg.topology import Manifest
from locum.study.manifest import Terms

Load = Callable[[str], Mapping[str, bytes]]
"""phase -> the well-formed messages of that phase by sender; of 'masked' only the contexts, for the vectors are large."""


class PublicSession(msgspec.Struct, frozen=True):
    """What the coordinator keeps of a session: who is in it, and the seed of its graphs. No secret."""

    id: bytes
    members: tuple[str, ...]
    seed: bytes


@dataclass(frozen=True)
class Turn:
    """What the round goes on with. notices: what each site is asked to answer; empty to wait for more in the same phase."""

    phase: str
    notices: Mapping[str, bytes]
    needed: int
    session: PublicSession | None = None


def manifest_of(a: Assignment, raw: bytes, keys: Mapping[str, PublicKey], terms: Terms, *, own_min: int = 0) -> Manifest:
    """The manifest that the signed assignment `raw` is. keys: of the consortium's signed roster."""
    asked = {name: keys[name] for name in a.roster if name in keys}
    if len(asked) < len(a.roster):
        stranger = next(name for name in a.roster if name not in keys)
        raise MaskingRefused(f"'{stranger}' is not in the consortium's roster.", why="The coordinator may not add sites of its own.")
    if list(a.roster) != sorted(set(a.roster)):
        raise MaskingRefused("The round's roster is not sorted, or names a site twice.")
    return Manifest(digest("manifest", raw), a.seq, a.roster, asked, terms.min_cohort, terms.masking, own_min)


def setup_of(a: Assignment, keys: Mapping[str, PublicKey], terms: Terms, n_min: int) -> Setup:
    """The set-up that this round's session comes from."""
    where = a.session
    if where is None:
        raise MaskingRefused("The round names no session.")
    suite = choose(terms.masking.suite)
    return Setup.of(study=a.study, run=a.run, t=where.seq, roster=where.roster, suite=suite, keys=keys, n_min=n_min, buckets=terms.masking.buckets)


class Conductor:
    """The coordinator's side of one masked round. Pure: it reads messages through `load` and keeps nothing that they do not say."""

    def __init__(self, a: Assignment, raw: bytes, keys: Mapping[str, PublicKey], terms: Terms, known: PublicSession | None, load: Load) -> None:
        self.terms, self.load, self.session = terms, load, known
        self.manifest = manifest_of(a, raw, keys, terms)
        self.setup = setup_of(a, self.manifest.keys, terms, terms.min_cohort)  # type: ignore[arg-type]
        self._joined: Joined | None = None

    @property
    def joined(self) -> Joined:
        """U1 and J, from the JOIN messages. Raises `MaskingRefused`."""
        if self.session is None:
            raise MaskingRefused("The round's session was never set up.")
        if self._joined is None:
            s = self.session
            self._joined = cohort.joined(self.manifest, s.id, s.members, s.seed, self._numbered("join"))
        return self._joined

    def turn(self, round_: Round) -> Turn | list[Part]:
        """What comes after the present phase: the next one, more waiting, or (after `unmask`) what remains in the sum.

        Raises `MaskingRefused` or `Unrecoverable` if the round cannot be finished.
        """
        return {
            "keys": self._keys, "seals": self._seals, "join": self._join,
            "masked": self._masked, "confirm": self._confirm, "unmask": self._unmask,
        }[round_.phase](round_)  # fmt: skip

    def _keys(self, round_: Round) -> Turn:
        return Turn("seals", session.key_list(self.setup, self.load("keys")), round_.needed)

    def _seals(self, round_: Round) -> Turn:
        listed = session.key_list(self.setup, self.load("keys"))
        if not listed:
            raise MaskingRefused("No site's session key was signed well.")
        seed, columns = session.columns(self.setup, self.load("seals"), next(iter(listed.values())))
        self.session = PublicSession(self.setup.id, tuple(sorted(columns)), seed)
        return Turn("join", columns, max(round_.needed, quorum(len(columns))), self.session)

    def _join(self, round_: Round) -> Turn:
        topology, joined = self.joined.topology, frozenset(self.joined.joins)
        topology.check_joined(joined, self.manifest.n_min, self.terms.masking.dropout)
        return Turn("masked", self._named(cohort.rosters(self.joined)), max(round_.needed, topology.quorum))

    def _masked(self, round_: Round) -> Turn:
        alive = self.survivors()
        self.joined.topology.check_survivors(frozenset(alive), frozenset(self.joined.joins), self.manifest.n_min, self.terms.masking.dropout)
        return Turn("confirm", self._named(dict.fromkeys(alive, cohort.survivors(alive))), self.joined.topology.quorum)

    def survivors(self) -> list[int]:
        """U2: of U1, those whose vector is here and was masked under this J."""
        here = self._numbered("masked")
        return sorted(i for i, context in here.items() if i in self.joined.joins and context == self.joined.j.hex().encode())

    def _confirm(self, round_: Round) -> Turn:
        request, count = cohort.request(self.manifest, self.joined, self.survivors(), self._numbered("confirm"))
        if count < self.joined.topology.quorum:
            return Turn("confirm", {}, len(round_.answered) + 1)
        return Turn("unmask", self._named(dict.fromkeys(self.survivors(), request)), self.joined.topology.quorum)

    def _unmask(self, round_: Round) -> Turn | list[Part]:
        try:
            return self.parts()
        except Unrecoverable:
            if len(round_.answered) + len(round_.declined.keys() & set(round_.asked)) >= len(round_.asked):
                raise
            return Turn("unmask", {}, len(round_.answered) + 1)

    def parts(self) -> list[Part]:
        """What remains in the sum, bucket by bucket. Raises `Unrecoverable`."""
        return cohort.recover(self.manifest, self.joined, self.survivors(), self._numbered("unmask"))

    def names(self, numbers: tuple[int, ...]) -> list[str]:
        return [self.manifest.roster[i] for i in numbers]

    def _numbered(self, phase: str) -> dict[int, bytes]:
        return {self.manifest.number(name): body for name, body in self.load(phase).items()}

    def _named(self, bodies: Mapping[int, bytes]) -> dict[str, bytes]:
        return {self.manifest.roster[i]: body for i, body in bodies.items()}
