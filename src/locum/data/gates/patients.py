"""How many patients a table has, and who is on both sides of the split, from 64-bit hashes of the identifiers.

The hash is keyed with a number that is drawn for this pass and forgotten after it, so that the hashes mean nothing elsewhere; it is fast and not
cryptographic, and never leaves memory. Two of n patients share a hash with probability n^2 / 2^65: 3e-6 for ten million patients.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
_PENDING = 1 << 24
"""Hashes that are gathered before they are counted: 128 MiB."""


class Seen:
    """How often each hash was seen: 12 bytes for each different one, and at most 128 MiB of those not counted yet."""

    def __init__(self) -> None:
        self.keys: Hashes = np.empty(0, dtype=np.uint64)
        self._counts: NDArray[np.uint32] = np.empty(0, dtype=np.uint32)
        self._new: list[Hashes] = []
        self._waiting = 0

    def add(self, hashes: Hashes) -> None:
        self._new.append(hashes)
        self._waiting += len(hashes)
        if self._waiting >= _PENDING:
            self.count()

    def count(self) -> None:
        """Count what was gathered: `keys` is then sorted and without repetition."""
        if not self._new:
            return
        gathered = np.concatenate(self._new)
        self._new, self._waiting = [], 0
        gathered.sort()
        starts = np.flatnonzero(np.concatenate([[True], gathered[1:] != gathered[:-1]]) if len(gathered) else np.empty(0, dtype=bool))
        counts = np.diff(starts, append=len(gathered)).astype(np.uint32)
        keys = gathered[starts]
        if len(self.keys):
            keys = np.concatenate([self.keys, keys])
            order = np.argsort(keys, kind="stable")
            keys, counts = keys[order], np.concatenate([self._counts, counts])[order]
            starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
            keys, counts = keys[starts], np.add.reduceat(counts, starts, dtype=np.uint32)
        self.keys, self._counts = keys, counts

    @property
    def most(self) -> int:
        """How often the most frequent one was seen."""
        return int(self._counts.max(initial=0))

    @property
    def again(self) -> int:
        """How many were seen before."""
        return int(self._counts.sum(dtype=np.int64)) - len(self.keys)


@dataclass(frozen=True)
class Tally:
    """patients: different ones. repeated: rows of a patient beyond the first. most_rows: of any one patient, at most. both: patients in the training and
    in the test part. copies: rows that equal an earlier one in every column. undecided: rows that do not say in which part they are."""

    patients: int
    repeated: int = 0
    most_rows: int = 1
    both: int = 0
    copies: int = 0
    undecided: int = 0


class Patients:
    """The patients of the cohort's rows. Without identifiers every row is a patient of its own."""

    def __init__(self) -> None:
        self._key = secrets.randbits(64)
        self._parts = (Seen(), Seen())  # of training and of test patients
        self._rows = 0
        self._nameless = 0
        self._copies = Seen()
        self._undecided = 0

    def add(self, identifiers: pl.Series | int, rows: pl.DataFrame | None = None, test: NDArray[np.float64] | None = None) -> None:
        """identifiers: text (n,), or where the contract names no patient, how many rows. rows: the raw rows (n, columns), in which exact
        copies are looked for. test: 1, 0, or NaN where a row does not say, (n,)."""
        if test is not None:
            self._undecided += int(np.isnan(test).sum())
        if isinstance(identifiers, int):
            self._rows += identifiers
            self._nameless += identifiers
            return
        self._rows += len(identifiers)
        hashes, named = identifiers.hash(self._key).to_numpy(), identifiers.is_not_null().to_numpy()
        self._nameless += len(named) - int(named.sum())
        tested = (test == 1) if test is not None else np.zeros(len(named), dtype=bool)
        for part, where in zip(self._parts, (named & ~tested, named & tested), strict=True):
            part.add(hashes if where.all() else hashes[where])
        if rows is not None:
            self._copies.add(rows.hash_rows(self._key).to_numpy())

    def finish(self) -> Tally:
        """Count them. A row without an identifier counts as a patient of its own; the gate of conformance refuses it."""
        train, test = self._parts
        for seen in (train, test, self._copies):
            seen.count()
        both = len(np.intersect1d(train.keys, test.keys, assume_unique=True))
        patients = len(train.keys) + len(test.keys) - both + self._nameless
        most = train.most + test.most if both else max(train.most, test.most, 1)
        return Tally(patients, self._rows - patients, most, both, self._copies.again, self._undecided)
