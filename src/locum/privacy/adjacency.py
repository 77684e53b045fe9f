"""What "one patient more or less" means: the only adjacency, as a type.

Precondition   every released sum is over vectors clipped to L2 norm <= clip, one vector for a unit (all of its records together).
Adjacency      two data sets are neighbours if one has a unit that the other lacks. Nothing else changes: no count, no weight, no normaliser.
Postcondition  the L2 sensitivity of the clipped sum is exactly `clip`.

"Replace one" is refused: its sensitivity is 2 clips, and the accountants of dp-accounting 0.6 disagree about it (the Renyi
accountant refuses or takes one clip where the privacy loss distribution takes two), so the same words would mean two things.

Source: Dwork & Roth 2014, definition 2.4 (histograms at L1 distance one).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from locum.privacy.errors import PrivacyError

if TYPE_CHECKING:
    from dp_accounting import NeighboringRelation

Unit = Literal["patient", "site"]
Kind = Literal["add_or_remove_one"]


@dataclass(frozen=True, slots=True)
class Adjacency:
    """Add or remove one unit. Raises `PrivacyError` for another unit or another kind."""

    unit: Unit = "patient"
    kind: Kind = "add_or_remove_one"

    def __post_init__(self) -> None:
        check_unit(self.unit)
        if self.kind not in get_args(Kind):
            raise PrivacyError(
                f"The adjacency {self.kind!r} is not accounted.",
                why="replacing one unit moves a sum by up to two clips, and accountants disagree about it",
                fix="use add_or_remove_one; to replace is to remove and to add, at twice its mu",
            )

    @property
    def relation(self) -> NeighboringRelation:
        """The same, in the words of dp-accounting."""
        from dp_accounting import NeighboringRelation

        return NeighboringRelation.ADD_OR_REMOVE_ONE

    def sensitivity(self, clip: float) -> float:
        """The L2 sensitivity of a sum of vectors of norm <= clip: the clip itself."""
        return clip


def check_unit(unit: str) -> None:
    """Raises `PrivacyError` unless `unit` is one that can be protected."""
    if unit not in get_args(Unit):
        raise PrivacyError(
            f"The unit {unit!r} is not known.",
            why="a promise must say whom it protects",
            fix='use unit = "patient" (all records of a patient at a site) or unit = "site"',
        )
