"""What every task with differential privacy shares: a sum over units of vectors of norm at most 1, and nothing else, leaves.

Precondition   each unit's vector is computed from that unit's own rows, the public state and public numbers; `scale`s are public
Pseudocode     v_u = the unit's vector, all tensors of the layout together;  v_u <- v_u min(1, 1 / |v_u|);  addend = sum_u v_u
Postcondition  adding or removing one unit moves the addend by at most 1 in L2: the bound to which the door calibrates the noise
Source         Dwork and Roth (2014), section 3.5.1; Abadi et al. (2016), CCS, algorithm 1, with patients in place of examples

A private task declines for no row's sake (that a site declined would say something about a row): rows that it cannot use add
nothing. Nothing depends on a private count: means and learning rates are normalised by terms.privacy.patients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Part, Rows
from locum.errors import ManifestError
from locum.privacy.accountant import Request
from locum.privacy.clipping import clipped_sum
from locum.privacy.sampler import FullBatch, Sampler
from locum.study.manifest import Step, Study
from locum.study.vector import Bound, Contribution
from locum.tasks.base import BaseTask, Params, Task

Floats = NDArray[np.float64]
P = TypeVar("P", bound=Params)


@runtime_checkable
class Private(Task, Protocol):
    """A task that a study with differential privacy may name."""

    def request(self) -> Request:
        """How many sums it releases, and over which sample of the units."""


class PrivateTask(BaseTask[P]):
    """Base of the private forms. units: whom it can protect."""

    units: ClassVar[tuple[str, ...]] = ("patient",)

    @classmethod
    def build(cls, step: Step, study: Study) -> Self:
        privacy = study.terms.privacy
        if privacy.unit not in cls.units:
            raise ManifestError(
                f"Step '{step.name}': the task '{step.task}' cannot protect a {privacy.unit} as a whole.",
                fix=f"set terms.privacy.unit to '{cls.units[0]}', or leave the step out",
            )
        if privacy.unit == "patient" and privacy.patients is None:
            raise ManifestError(
                "terms.privacy.patients is missing: about how many patients the cohort has.",
                why="Sums are normalised by it, for a private count must not leak through a normaliser.",
                fix="give a round public figure, for example patients = 10000; it also bounds delta",
            )
        return super().build(step, study)

    def leaves(self) -> str:
        raise NotImplementedError

    def request(self) -> Request:
        return self.releases(1)

    def releases(self, rounds: int, sampler: Sampler | None = None) -> Request:
        """A request for so many sums; of all patients, unless a sampler says otherwise."""
        return Request(self.step.name, sampler or FullBatch(), rounds, self.step.share)

    @property
    def patients(self) -> int:
        """The public planning figure for the cohort's patients."""
        return self.study.terms.privacy.patients or 1

    def sum_over_patients(self, rows: Rows, records: Mapping[str, Floats]) -> Contribution:
        """The addend: per patient the sum of the records' vectors, clipped once to norm 1, summed.

        records: the layout's tensors, one entry per row: shape (n, *field.shape), finite.
        """
        sizes = {name: int(np.prod(a.shape[1:], dtype=np.int64)) for name, a in records.items()}
        flat = np.concatenate([a.reshape(len(rows), sizes[name]) for name, a in records.items()], axis=1)
        total, at = clipped_sum(flat, rows.codes).total, 0
        vector = {}
        for name, a in records.items():
            vector[name] = total[at : at + sizes[name]].reshape(a.shape[1:])
            at += sizes[name]
        return self.addend(vector, rows.patients)

    def addend(self, vector: Mapping[str, Any], patients: int) -> Contribution:
        """A vector that is such a sum already."""
        return Contribution(vector, patients, self.leaves(), bound=Bound("l2", 1.0, "patient"))


def complete(task: BaseTask[Any], rows: Rows, part: Part, names: tuple[str, ...]) -> Rows:
    """The rows of `part` in which every named column is finite; the others add nothing, and nothing is said of them."""
    rows = rows.part(part, task.study.data.split)
    keep = np.ones(len(rows), dtype=bool)
    for name in names:
        keep &= np.isfinite(rows.columns[name])
    return rows if keep.all() else rows.take(keep)  # the same rows keep what was computed of them
