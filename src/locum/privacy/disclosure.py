"""Which cells of a table of counts may be shown, so that nobody reads a small one off it, nor computes it from a margin.

Precondition   counts of disjoint cells; the reader knows the shown cells and, if `total_known`, their total (a table: all margins)
Pseudocode     hide every cell from 1 to threshold - 1; while a hidden cell can be bounded within less than the threshold,
               hide the smallest shown cell that is not empty as well (a table: one of its lines)
Postcondition  for each hidden cell, the highest and the lowest value that fit all that is shown lie at least `threshold` apart. Where no
               choice achieves that, because the total itself is so small, everything is hidden; with it the total should be.
Sources        Cox (1980), JASA 75:377 (complementary suppression); Fischetti and Salazar (2001), Management Science 47:1008 (intervals);
               the threshold of 11 and the shown zeros are those of the CMS cell size suppression policy.

A shown zero says that nobody is in the cell. So a reader knows that a hidden cell holds at least one, and the intervals take that
into account. Where zeros are hidden too (`zeros=False`, for noisy counts), they start at zero.
A reader who knows the rule itself may conclude more: of a hidden cell that needed a partner, that it is small. No suppression that
depends on the counts alone prevents that; noise does.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from locum.errors import ManifestError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

THRESHOLD = 11
"""A shown cell is empty or holds at least so many."""
HIDDEN = -1.0
"""What stands in an array for a hidden count."""


def suppress(counts: ArrayLike, threshold: float = THRESHOLD, total_known: bool = True, *, zeros: bool = True, also: ArrayLike | None = None) -> Floats:
    """The counts (n,) with `HIDDEN` in place of small ones and of those that would give them away.

    counts: at least 0, whole or noisy. zeros: whether empty cells are shown.
    also: a mask (n,) of cells to hide in any case, for example because few patients stand behind many records.
    """
    c = np.asarray(counts, dtype=np.float64)
    hidden = _small(c, threshold, zeros)
    if also is not None:
        hidden |= np.asarray(also, dtype=bool)
    least = 1.0 if zeros else 0.0
    while total_known and hidden.any() and not _vague(c[hidden], least, threshold):
        partners = np.flatnonzero(~hidden & (c > 0))
        if not len(partners):
            hidden[:] = True
            break
        hidden[partners[c[partners].argmin()]] = True
    return np.where(hidden, HIDDEN, c)


def suppress_table(counts: ArrayLike, threshold: float = THRESHOLD, *, zeros: bool = True) -> Floats:
    """The two-way table (r, c) with its margins, (r + 1, c + 1), small cells and what would give them away replaced by `HIDDEN`.

    The last row and column are the totals; those that cannot be shown are hidden like cells. Intervals are exact (a linear
    program over a network matrix has whole-numbered vertices), two programs per hidden cell: for up to some hundred cells.
    """
    full = _with_margins(np.asarray(counts, dtype=np.float64))
    hidden = _small(full, threshold, zeros)
    least, safe = (1.0 if zeros else 0.0), np.zeros_like(hidden)
    while True:
        exposed = _exposed(full, hidden, safe, least, threshold)
        if exposed is None:
            return np.where(hidden, HIDDEN, full)
        following = _partner(full, hidden, exposed)
        if following is None:
            return np.full_like(full, HIDDEN)
        hidden[following] = True


def shown(counts: ArrayLike) -> list[int | None]:
    """Suppressed counts as they are printed: rounded, None where hidden."""
    return [None if c == HIDDEN else round(float(c)) for c in np.asarray(counts, dtype=np.float64)]


def nested(a: ArrayLike, b: ArrayLike) -> bool:
    """Whether one set of bins only joins bins of the other, so that their difference shows nothing narrower than the finer one.

    Both must end at the same edge: the last bin holds its upper edge and no other bin does, so the difference of two ends
    would count the values that are exactly there.
    """
    one, other = {float(e) for e in np.asarray(a)}, {float(e) for e in np.asarray(b)}
    return max(one) == max(other) and (one <= other or other <= one)


def check_bins(bins: Sequence[tuple[str, ArrayLike]], *, suppressed: bool = False) -> None:
    """Raise `ManifestError` where two steps' bins of one variable could be subtracted to count a narrower cell.

    bins: (step, edges). suppressed: small cells are hidden in at least one; then only equal bins pass, for a coarser table is a
    set of subtotals, from which a hidden cell of the finer one may follow.
    """
    for (one, a), (other, b) in combinations(bins, 2):
        same = np.array_equal(np.asarray(a, float), np.asarray(b, float))
        if same or (nested(a, b) and not suppressed):
            continue
        raise ManifestError(
            f"The steps '{one}' and '{other}' count the same variable in different bins.",
            why="One answer minus the other counts the patients in a narrower bin, or gives away a suppressed cell.",
            fix=f"give '{other}' the edges of '{one}' and join bins after the run, or leave one step out",
        )


def _small(c: Floats, threshold: float, zeros: bool) -> Bools:
    return (c < threshold) & ((c > 0) if zeros else True)


def _vague(hidden: Floats, least: float, threshold: float) -> bool:
    """Of which only the sum is known: each may be anything from `least` to the sum less the others' least."""
    return len(hidden) > 1 and float(hidden.sum()) - len(hidden) * least >= threshold


def _with_margins(c: Floats) -> Floats:
    rows = np.column_stack([c, c.sum(axis=1)])
    return np.vstack([rows, rows.sum(axis=0)])


def _exposed(full: Floats, hidden: Bools, safe: Bools, least: float, threshold: float) -> tuple[int, int] | None:
    """A hidden cell that is bounded too tightly; the others are marked safe, which they remain when more is hidden."""
    for i, j in np.argwhere(hidden & ~safe):
        low, high = interval(full, hidden, (int(i), int(j)), least)
        if high - low < threshold - 1e-6:
            return int(i), int(j)
        safe[i, j] = True
    return None


def interval(full: Floats, hidden: Bools, cell: tuple[int, int], least: float) -> tuple[float, float]:
    """The lowest and the highest value of a hidden cell of a table with margins that fit everything shown; high may be infinite."""
    from scipy.optimize import linprog  # only tables need it, and it takes a while to import

    where = np.argwhere(hidden)
    sign = np.where(np.arange(full.shape[1]) == full.shape[1] - 1, -1.0, 1.0)
    known = np.where(hidden, 0.0, full)
    rows = np.array([[sign[j] * (i == k) for i, j in where] for k in range(full.shape[0])])
    sign_of_row = np.where(np.arange(full.shape[0]) == full.shape[0] - 1, -1.0, 1.0)
    columns = np.array([[sign_of_row[i] * (j == k) for i, j in where] for k in range(full.shape[1])])
    equal, right = np.vstack([rows, columns]), -np.r_[known @ sign, sign_of_row @ known]
    goal = np.array([float((i, j) == cell) for i, j in where])
    ends = []
    for direction in (1.0, -1.0):
        found = linprog(direction * goal, A_eq=equal, b_eq=right, bounds=(least, None))
        ends.append(float("inf") if found.status == 3 else direction * float(found.fun))
    return ends[0], ends[1]


def _partner(full: Floats, hidden: Bools, cell: tuple[int, int]) -> tuple[int, int] | None:
    """The shown cell to hide next: one that leaves the fewest lines with a single hidden cell, which follows from its margin at once;
    of those the smallest. Where there is no such line, one of the exposed cell's own row or column, if any."""
    candidates = ~hidden & (full > 0)
    own = np.zeros_like(hidden)
    own[cell[0]], own[:, cell[1]] = True, True
    if not _lonely(hidden) and (candidates & own).any():
        candidates &= own
    best, found = (np.inf, np.inf), None
    for i, j in np.argwhere(candidates):
        more = hidden.copy()
        more[i, j] = True
        score = (float(_lonely(more)), float(full[i, j]))
        if score < best:
            best, found = score, (int(i), int(j))
    return found


def _lonely(hidden: Bools) -> int:
    return sum(int((hidden.sum(axis=axis) == 1).sum()) for axis in (0, 1))
