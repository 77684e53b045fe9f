"""What boosted trees do at a site: bin the rows once, keep the predictions, and sum the histograms of a level."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.errors import TaskError
from locum.study.vector import Array
from locum.tasks.base import Memory
from locum.tasks.boosting_loss import Target
from locum.tasks.tree import Bins, Trees

Floats = NDArray[np.float64]
ONE = 2.0**30
"""Sums are of whole numbers in units of 2^-30, so that their order, and with it the split of rows to sites, means nothing."""
MOST_SUM = 2.0**53


@dataclass(frozen=True)
class Ready:
    """A site's rows, binned (n, features). cells: each one's place in a histogram row. share: 1/k for each of a patient's k rows, in units.
    held: which rows are held out. digest: of the bins."""

    binned: NDArray[np.uint8]
    cells: NDArray[np.int64]
    target: Target
    share: Floats
    held: NDArray[np.bool_]
    patients: int
    digest: bytes

    @classmethod
    def of(cls, binned: NDArray[np.uint8], bins: Bins, target: Target, rows: Rows, held: NDArray[np.bool_]) -> Ready:
        digest = hashlib.sha256(f"{binned.shape}".encode() + binned.tobytes()).digest()
        return cls(binned, binned + bins.starts, target, shares(rows), held, rows.patients, digest)


def shares(rows: Rows) -> Floats:
    """1/k for each of a patient's k rows, in whole units, shape (n,): their sum over any rows is at most the number of patients there."""
    return np.asarray(np.floor(ONE / np.bincount(rows.codes, minlength=1)[rows.codes]) if len(rows) else np.zeros(0))


def units(x: Floats) -> Floats:
    """x in whole units; raises `TaskError` where their sum might not be exact."""
    whole = np.rint(x * ONE)
    if not np.abs(whole).sum() < MOST_SUM:
        raise TaskError(
            "The sums of gradients at this site are too large to be exact.", why="There is an extreme outcome, or training diverged.", fix="lower rate"
        )
    return np.asarray(whole)


def exact_sum(x: Floats) -> Array:
    """The exact sum over rows, shape (n, ...) -> (...)."""
    return np.asarray(units(x).sum(axis=0), dtype=np.int64)


def predictions(trees: Trees, start: float, ready: Ready, depth: int, memory: Memory, digests: dict[int, bytes]) -> Floats:
    """The prediction of each row by all `trees`, which are finished. The memory holds those of the round before, and by which trees of which rows
    they are; where that is not so they are made from the start. digests: of so many first trees, as far as they are known."""

    def key(count: int) -> Array:
        if count not in digests:
            h = hashlib.sha256(np.float64(start).tobytes())
            for array in trees.first(count).arrays().values():
                h.update(np.ascontiguousarray(array).tobytes())
            digests[count] = h.digest()
        return np.frombuffer(hashlib.sha256(digests[count] + ready.digest).digest(), dtype=np.int64)

    known = int(memory["trees"]) if {"trees", "key", "score"} <= set(memory) else -1
    if not 0 <= known <= len(trees) or not np.array_equal(memory["key"], key(known)):
        known = 0
        memory["score"] = np.full(len(ready.binned), start)
    if known < len(trees) or "key" not in memory:
        memory["score"] = trees.after(known).add(np.asarray(memory["score"]), ready.binned, depth)
    memory.update(trees=np.asarray(len(trees), dtype=np.int64), key=key(len(trees)))
    return np.asarray(memory["score"])


def histogram(trees: Trees, open_: NDArray[np.int64], level: int, ready: Ready, bins: Bins, sums: Sequence[Floats]) -> Array:
    """The sums (each of whole units (n,)) by open node, feature and bin, shape (len(sums), len(open_), bins.total)."""
    place = np.full(len(trees.child), -1)
    place[open_] = np.arange(len(open_))
    here = place[trees.route(ready.binned, np.full(len(ready.binned), trees.roots[-1]), level)]
    inside = (here >= 0) & ~ready.held
    cells = (ready.cells[inside] + here[inside, None] * bins.total).reshape(-1)
    size, width = len(open_) * bins.total, ready.binned.shape[1]
    made = [np.bincount(cells, weights=np.repeat(s[inside], width), minlength=size) for s in sums]
    return np.asarray(made, dtype=np.int64).reshape(len(sums), len(open_), bins.total)
