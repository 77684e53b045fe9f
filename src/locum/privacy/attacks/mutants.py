"""Ways to get the protection wrong that have happened to others; the audit must catch each.

Every mutant breaks one method of the real thing. What catches it is recorded, so that a check that catches nothing is seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.privacy.attacks.findings import Finding
from locum.privacy.attacks.subject import Floats, Ints, Rows, Subject
from locum.privacy.mechanism import Mechanism
from locum.privacy.sampler import Sampler


class HalfTheNoise(Subject):
    """A factor of two is lost on the way to the sampler."""

    name = "half the noise"

    def protect(self, mechanism: Mechanism, vector: Floats, key: bytes) -> Ints:
        bare = np.rint(vector * mechanism.grid).astype(np.int64)
        return bare + (super().protect(mechanism, vector, key) - bare) // 2


class NoClip(Subject):
    """A patient weighs as much as their records do."""

    name = "no clip"

    def clip(self, rows: Rows) -> Floats:
        return np.asarray(rows.vectors.sum(axis=0))


class ClipEachRecord(Subject):
    """The record is clipped, the patient is promised."""

    name = "clip each record instead of each patient"

    def clip(self, rows: Rows) -> Floats:
        return super().clip(replace(rows, patients=np.arange(len(rows.vectors), dtype=np.int64)))


class SameNoiseAgain(Subject):
    """A key is derived from the site alone, and so is the same in the next release."""

    name = "the same noise in every release"

    def key(self, release: str, site: int) -> bytes:
        return super().key("", site)


class SameNoiseEverywhere(Subject):
    """All sites draw from one seed, so that whoever knows it knows all the noise."""

    name = "the same noise at every site"

    def key(self, release: str, site: int) -> bytes:
        return super().key(release, 0)


class ShareOfAllSites(Subject):
    """The noise is shared among all sites, half of which may collude, instead of among those that are guaranteed."""

    name = "noise shared among all sites, not the honest ones"

    def mechanism(self, multiplier: float, honest: int, dimension: int, *, spread: float = 1.0) -> Mechanism:
        return super().mechanism(multiplier, 2 * honest, dimension, spread=spread)


class AlwaysDrawn(Subject):
    """Every patient is in every round, the accountant counts on sampling."""

    name = "a Poisson sampler that always includes"

    def draw(self, sampler: Sampler, patients: NDArray[np.str_], iteration: int, key: bytes) -> NDArray[np.bool_]:
        return np.ones(len(patients), dtype=np.bool_)


class SameDraw(Subject):
    """The sampler forgets the iteration: the same patients in every round."""

    name = "a Poisson sampler that draws the same patients in every round"

    def draw(self, sampler: Sampler, patients: NDArray[np.str_], iteration: int, key: bytes) -> NDArray[np.bool_]:
        return super().draw(sampler, patients, 0, key)


class FixedSize(Subject):
    """Batches of one size, accounted as Poisson."""

    name = "batches of a fixed size accounted as Poisson"

    def draw(self, sampler: Sampler, patients: NDArray[np.str_], iteration: int, key: bytes) -> NDArray[np.bool_]:
        chosen = np.random.default_rng([iteration, *key]).permutation(len(patients))[: round(sampler.rate * len(patients))]
        drawn = np.zeros(len(patients), dtype=np.bool_)
        drawn[chosen] = True
        return drawn


MUTANTS: tuple[type[Subject], ...] = (
    HalfTheNoise,
    NoClip,
    ClipEachRecord,
    SameNoiseAgain,
    SameNoiseEverywhere,
    ShareOfAllSites,
    AlwaysDrawn,
    SameDraw,
    FixedSize,
)


@dataclass(frozen=True)
class Caught:
    """A mutant and the figures that were out of their limits on it."""

    mutant: str
    failed: tuple[Finding, ...]

    @property
    def by(self) -> tuple[str, ...]:
        """The checks that caught it."""
        return tuple(dict.fromkeys(f.check for f in self.failed))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"mutant": self.mutant, "caught": bool(self.failed), "by": list(self.by), "failed": [f.to_json() for f in self.failed]}
