"""One round's cohort: who is in it, in which bucket, who masks with whom, and how many shares give a secret.

Every site computes this for itself, from the manifest, the approved terms and the session: the coordinator cannot lower it. It is
the same in every round of a session with the same cohort: a graph drawn anew for each round number could be chosen by its number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import floor

from locum.secagg.errors import MaskingRefused, SessionLost
from locum.secagg.graph import draw, permutation
from locum.secagg.kdf import digest, hkdf
from locum.secagg.parameters import Parameters, find, lot, most_dropped, quorum
from locum.secagg.session import Verifier
from locum.study.manifest import Masking


@dataclass(frozen=True)
class Manifest:
    """The terms of one round. digest: Mh, over the coordinator's signed assignment. t: the round's number, ever increasing.

    roster: the names that numbers refer to, sorted. n_min: the study's minimum cohort, the same for all; own_min: what this
    site asks for itself.
    """

    digest: bytes
    t: int
    roster: tuple[str, ...]
    keys: Mapping[str, Verifier]
    n_min: int
    terms: Masking
    own_min: int = 0

    @property
    def minimum(self) -> int:
        return max(self.n_min, self.own_min)

    def number(self, name: str) -> int:
        """Raises `MaskingRefused` for a site that is not in the roster."""
        if name not in self.roster:
            raise MaskingRefused(f"'{name}' is not in the round's roster.")
        return self.roster.index(name)


class _Neighbours(Mapping[int, tuple[int, ...]]):
    """Each site's neighbours, drawn when they are asked for: a site asks for its own."""

    def __init__(self, buckets: tuple[tuple[int, ...], ...], drawn: list[Callable[[int], tuple[int, ...]]]) -> None:
        self._places = {site: (bucket, i, near) for bucket, near in zip(buckets, drawn, strict=True) for i, site in enumerate(bucket)}
        self._known: dict[int, tuple[int, ...]] = {}

    def __getitem__(self, site: int) -> tuple[int, ...]:
        if site not in self._known:
            bucket, i, near = self._places[site]
            self._known[site] = tuple(bucket[j] for j in near(i))
        return self._known[site]

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True)
class Topology:
    """Numbers are positions in the manifest's roster. buckets: disjoint, together the cohort; neighbours are in the same bucket."""

    buckets: tuple[tuple[int, ...], ...]
    parameters: tuple[Parameters, ...]
    neighbours: Mapping[int, tuple[int, ...]]

    @classmethod
    def of(cls, manifest: Manifest, members: Iterable[str], seed: bytes) -> Topology:
        """The cohort is who is both in the round's roster and in the session. Raises `MaskingRefused` below the minimum.

        Where the topology is drawn by lot it is always drawn over all members: a roster that leaves some out would be another draw.
        """
        member = set(members)
        if lot(len(member), manifest.terms.buckets) and not member <= set(manifest.roster):
            raise SessionLost("Members of the session are left out of the round.", fix="nothing to do: the next round sets up a new session")
        cohort = [i for i, name in enumerate(manifest.roster) if name in member]
        buckets = tuple(tuple(cohort[i] for i in bucket) for bucket in draw_buckets(len(cohort), manifest.n_min, manifest.terms, seed))
        least, what = min(len(b) for b in buckets), "A bucket" if len(buckets) > 1 else "The cohort"
        if least < manifest.minimum:
            raise MaskingRefused(f"{what} has {least} sites; {manifest.minimum} are the minimum here.", why="The sum over few says too much of each.")
        chosen = tuple(find(len(b), manifest.terms.corrupt, manifest.terms.dropout) for b in buckets)
        drawn = [draw(p, hkdf(seed, b"", "bucket graph", number), 0) for number, p in enumerate(chosen)]
        return cls(buckets, chosen, _Neighbours(buckets, drawn))

    @property
    def cohort(self) -> frozenset[int]:
        return frozenset(i for bucket in self.buckets for i in bucket)

    def threshold(self, site: int) -> int:
        """tau: how many shares give a secret of this site."""
        return self._of(site)[1].tau

    def _of(self, site: int) -> tuple[tuple[int, ...], Parameters]:
        return next((b, p) for b, p in zip(self.buckets, self.parameters, strict=True) if site in b)

    def connected(self, site: int, joined: frozenset[int]) -> bool:
        """Whether enough of a site's neighbours have joined: tau of them; in a complete graph the site counts as one."""
        p = self._of(site)[1]
        return len(joined.intersection(self.neighbours[site])) + (1 if p.complete else 0) >= p.tau

    @property
    def quorum(self) -> int:
        """How many must be there, and sign, at every step."""
        return quorum(len(self.cohort))

    def check_joined(self, joined: frozenset[int], n_min: int, dropout: float) -> None:
        """U1 must lie in the cohort, be a quorum of it, and leave no bucket below the minimum. Raises `MaskingRefused`."""
        if not joined <= self.cohort:
            raise MaskingRefused("Sites that are not in the cohort are listed as joined.", why="The coordinator may not add sites of its own.")
        self._check_minimum(joined, n_min)
        if len(joined) < self.quorum:
            raise MaskingRefused(f"{len(joined)} of {len(self.cohort)} sites are said to have joined; {self.quorum} must.", why="Others may see another list.")
        self._check_missing(joined, dropout)

    def check_survivors(self, survivors: frozenset[int], joined: frozenset[int], n_min: int, dropout: float) -> None:
        """U2 must lie in U1, keep every bucket at the minimum, and not have lost more than was agreed. Raises `MaskingRefused`."""
        if not survivors <= joined:
            raise MaskingRefused("Sites that did not join are listed as survivors.")
        self._check_minimum(survivors, n_min)
        self._check_missing(survivors, dropout)
        for bucket in self.buckets:
            here = joined.intersection(bucket)
            lost, most = len(here - survivors), most_dropped(len(here), dropout)
            if lost > most:
                raise MaskingRefused(f"{lost} sites are said to have dropped out; {most} are the most.", why="Dropping sites would shrink the sum.")

    def _check_missing(self, present: frozenset[int], dropout: float) -> None:
        """A k-regular graph was drawn for so many missing sites in all, absent from the start or lost later: whoever chooses
        more could cut the graph, and read the sums of its parts.
        """
        for bucket, p in zip(self.buckets, self.parameters, strict=True):
            missing, most = len(bucket) - len(present.intersection(bucket)), most_dropped(len(bucket), dropout)
            if not p.complete and missing > most:
                raise MaskingRefused(f"{missing} of {len(bucket)} sites are missing; {most} are the most.", fix="raise terms.masking.dropout in a new study")

    def _check_minimum(self, sites: frozenset[int], n_min: int) -> None:
        for bucket in self.buckets:
            count = len(sites.intersection(bucket))
            if count < n_min:
                raise MaskingRefused(f"{count} sites would be in the sum; {n_min} are the minimum here.", why="The sum over few says too much of each.")


def draw_buckets(n: int, n_min: int, terms: Masking, seed: bytes) -> list[list[int]]:
    """0..n-1 in random buckets of about equal size, as many as were agreed if each can hold the minimum, and more sites than
    all that may collude are a quorum of. Raises `MaskingRefused`.
    """
    count = max(1, min(terms.buckets, n // n_min))
    while count > 1 and floor(terms.corrupt * n + 1e-9) >= quorum(n // count):
        count -= 1
    if count < 2 * terms.trim + 1:
        raise MaskingRefused(f"{n} sites make {count} buckets; trimming needs {2 * terms.trim + 1}.", fix="wait for more sites")
    order = permutation(n, seed, 0, "bucket")
    return [sorted(order[b::count]) for b in range(count)]


def survivors_digest(survivors: Iterable[int]) -> bytes:
    """H(U2)."""
    return digest("survivors", *sorted(survivors))


def transcript(manifest: Manifest, session: bytes, seed: bytes, joined: Mapping[int, bytes]) -> bytes:
    """J: the manifest, the session, its seed, and every JOIN of U1 by number and digest. Other views give another J."""
    return digest("joined", manifest.digest, session, seed, *(part for i in sorted(joined) for part in (i, joined[i])))


def confirmation(manifest: Manifest, j: bytes, survivors: Iterable[int]) -> bytes:
    """What a CONFIRM signs."""
    return digest("confirm", manifest.digest, j, survivors_digest(survivors))
