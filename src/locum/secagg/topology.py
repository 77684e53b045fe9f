"""One round's cohort: who is in it, in which bucket, who masks with whom, and how many shares give a secret.

Every site computes this for itself, from the manifest, the approved terms and the session: the coordinator cannot lower it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from locum.secagg.errors import MaskingRefused
from locum.secagg.graph import neighbours, permutation
from locum.secagg.kdf import digest, hkdf
from locum.secagg.parameters import Parameters, find, most_dropped
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
        return self.roster.index(name)


@dataclass(frozen=True)
class Topology:
    """Numbers are positions in the manifest's roster. buckets: disjoint, together the cohort; neighbours are in the same bucket."""

    buckets: tuple[tuple[int, ...], ...]
    neighbours: Mapping[int, tuple[int, ...]]
    parameters: tuple[Parameters, ...]

    @classmethod
    def of(cls, manifest: Manifest, members: Iterable[str], seed: bytes) -> Topology:
        """The cohort is who is both in the round's roster and in the session. Raises `MaskingRefused` below the minimum."""
        member = set(members)
        cohort = [i for i, name in enumerate(manifest.roster) if name in member]
        if len(cohort) < manifest.minimum:
            raise MaskingRefused(f"The cohort has {len(cohort)} sites; {manifest.minimum} are the minimum here.", why="The sum over few says too much of each.")
        buckets = tuple(tuple(cohort[i] for i in bucket) for bucket in draw_buckets(len(cohort), manifest.n_min, manifest.terms, seed, manifest.t))
        chosen = tuple(find(len(b), manifest.terms.corrupt, manifest.terms.dropout) for b in buckets)
        around: dict[int, tuple[int, ...]] = {}
        for number, (bucket, p) in enumerate(zip(buckets, chosen, strict=True)):
            drawn = neighbours(p, hkdf(seed, b"", "bucket graph", number), manifest.t)
            around |= {site: tuple(bucket[j] for j in drawn[i]) for i, site in enumerate(bucket)}
        return cls(buckets, around, chosen)

    @property
    def cohort(self) -> frozenset[int]:
        return frozenset(self.neighbours)

    def threshold(self, site: int) -> int:
        """tau: how many shares give a secret of this site."""
        return self._of(site)[1].tau

    def _of(self, site: int) -> tuple[tuple[int, ...], Parameters]:
        return next((b, p) for b, p in zip(self.buckets, self.parameters, strict=True) if site in b)

    def connected(self, site: int, joined: frozenset[int]) -> bool:
        """Whether enough of a site's neighbours have joined: tau of them; in a complete graph the site counts as one."""
        p = self._of(site)[1]
        return len(joined.intersection(self.neighbours[site])) + (1 if p.complete else 0) >= p.tau

    def check_joined(self, joined: frozenset[int], n_min: int) -> None:
        """U1 must lie in the cohort and leave no bucket below the minimum. Raises `MaskingRefused`."""
        if not joined <= self.cohort:
            raise MaskingRefused("Sites that are not in the cohort are listed as joined.", why="The coordinator may not add sites of its own.")
        self._check_minimum(joined, n_min)

    def check_survivors(self, survivors: frozenset[int], joined: frozenset[int], n_min: int, dropout: float) -> None:
        """U2 must lie in U1, keep every bucket at the minimum, and not have lost more than was agreed. Raises `MaskingRefused`."""
        if not survivors <= joined:
            raise MaskingRefused("Sites that did not join are listed as survivors.")
        self._check_minimum(survivors, n_min)
        for bucket in self.buckets:
            here = joined.intersection(bucket)
            lost, most = len(here - survivors), most_dropped(len(here), dropout)
            if lost > most:
                raise MaskingRefused(f"{lost} sites are said to have dropped out; {most} are the most.", why="Dropping sites would shrink the sum.")

    def _check_minimum(self, sites: frozenset[int], n_min: int) -> None:
        for bucket in self.buckets:
            count = len(sites.intersection(bucket))
            if count < n_min:
                raise MaskingRefused(f"{count} sites would be in the sum; {n_min} are the minimum here.", why="The sum over few says too much of each.")


def draw_buckets(n: int, n_min: int, terms: Masking, seed: bytes, t: int) -> list[list[int]]:
    """0..n-1 in random buckets of about equal size, as many as were agreed if each can hold the minimum. Raises `MaskingRefused`."""
    count = max(1, min(terms.buckets, n // n_min))
    if count < 2 * terms.trim + 1:
        raise MaskingRefused(f"{n} sites make {count} buckets; trimming needs {2 * terms.trim + 1}.", fix="wait for more sites")
    order = permutation(n, seed, t, "bucket")
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
