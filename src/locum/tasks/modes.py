"""The most frequent category of each variable, from summed counts: a part of the task `impute`."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Part, Rows
from locum.errors import TaskError
from locum.study.manifest import Step, Study, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import BaseTask, Memory, Params, State
from locum.tasks.design import usable


class ModesParams(Params):
    variables: tuple[VariableName, ...]
    part: Part = "all"


class Modes(BaseTask[ModesParams]):
    """Of equally frequent categories the first one. The counts themselves are not kept: some may be of single patients."""

    kind = "modes"
    Config: ClassVar[type[Any]] = ModesParams
    takes = ("category", "boolean")

    def __init__(self, step: Step, params: ModesParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.require(*params.variables)
        self.sizes = {name: len(study.data.variables[name].categories) or 2 for name in params.variables}

    def reads(self) -> tuple[str, ...]:
        return self.params.variables

    def layout(self, state: State) -> Layout:
        return Layout.of(**{name: (size,) for name, size in self.sizes.items()})

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        rows = usable(self, rows, self.params.part, ()).rows
        vector, used = {}, np.zeros(len(rows), dtype=bool)
        for name, size in self.sizes.items():
            cells = self.cells(rows, name)
            vector[name] = np.bincount(cells, minlength=size + 1)[:size].astype(np.float64)
            used |= cells < size
        return Contribution(vector, rows.take(used).patients, "how many records are of each category")

    def cells(self, rows: Rows, name: str) -> NDArray[np.int64]:
        """The category of each row, shape (n,); one more than the last where there is none."""
        if name not in rows.columns:
            raise TaskError(f"Step '{self.step.name}' reads '{name}', which this site's rows do not have.", fix="map that variable, or leave the study")
        x, size = rows.columns[name], self.sizes[name]
        return np.where((x >= 0) & (x < size), x, size).astype(np.int64)

    def combine(self, state: State, total: Total) -> State:
        counts = {name: np.asarray(total[name], float) for name in self.sizes}
        for name, of in counts.items():
            if not of.any():
                raise TaskError(f"'{name}' is missing in every row of the cohort.", fix=f"drop it from step '{self.step.name}', or correct the mapping")
        return self.merge(state, mode=[int(of.argmax()) for of in counts.values()])

    def done(self, state: State) -> bool:
        return self.key("mode") in state

    def mode(self, state: State, name: str) -> int:
        """The category's index."""
        return int(self.own(state, "mode")[list(self.sizes).index(name)])
