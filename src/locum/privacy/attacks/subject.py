"""The protection under attack: exactly the functions that the door calls, each behind one method that a mutant can break.

Seeded keys make an audit repeatable. Nothing else differs from a real release: clip each patient, add the share of noise as
integers, sum over the honest sites, read the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from locum.privacy.clipping import clipped_sum
from locum.privacy.mechanism import Kind, Mechanism
from locum.privacy.sampler import Sampler

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CLIP = 1.0
SITES = 8
"""Honest sites in every experiment; their noise is all that counts."""


@dataclass(frozen=True)
class Rows:
    """One site's vectors (n, d) and whose each is, (n,)."""

    vectors: Floats
    patients: Ints

    @classmethod
    def one_each(cls, vectors: Floats) -> Rows:
        """A patient has one record."""
        return cls(vectors, np.arange(len(vectors), dtype=np.int64))

    @classmethod
    def none(cls, dimension: int) -> Rows:
        """A site that takes part without a patient."""
        return cls.one_each(np.zeros((0, dimension)))


class Subject:
    """The real protection. seed: decides every key, so that an audit gives the same figures again."""

    name = "as shipped"

    def __init__(self, seed: int = 0, kind: Kind = "gaussian") -> None:
        self.seed, self.kind = seed, kind

    def mechanism(self, multiplier: float, honest: int, dimension: int, *, spread: float = 1.0) -> Mechanism:
        """What a site sets up when policy guarantees `honest` honest sites."""
        return Mechanism(multiplier, honest, dimension, self.kind, spread=spread)

    def clip(self, rows: Rows) -> Floats:
        """(d,): the sum over patients, each clipped once."""
        return clipped_sum(rows.vectors, rows.patients, CLIP).total

    def protect(self, mechanism: Mechanism, vector: Floats, key: bytes) -> Ints:
        """(d,): what a site masks and sends."""
        return mechanism.protect(vector, key)

    def draw(self, sampler: Sampler, patients: NDArray[np.str_], iteration: int, key: bytes) -> NDArray[np.bool_]:
        """Who takes part in a round."""
        return sampler.draw(patients, iteration, key)

    def key(self, release: str, site: int) -> bytes:
        """The 32-byte noise key of one site for one release. At the door it is random."""
        return blake2b(f"{self.seed}/{release}/{site}".encode(), digest_size=32).digest()

    def draw_key(self, name: str) -> bytes:
        """The 32-byte key of one step's draws."""
        return blake2b(f"{self.seed}/draw/{name}".encode(), digest_size=32).digest()

    def release(self, mechanism: Mechanism, sites: Sequence[Rows], release: str) -> Floats:
        """(d,): what the coordinator reads: the protected sum over `sites`, in clips."""
        total = sum((self.protect(mechanism, self.clip(rows), self.key(release, i)) for i, rows in enumerate(sites)), np.zeros(mechanism.dimension, np.int64))
        return mechanism.reveal(total)
