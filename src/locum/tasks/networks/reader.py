"""From the contract's variables to the tensors that a network is given."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.tasks.base import BaseTask, State
from locum.tasks.design import midpoint, usable
from locum.tasks.networks.options import Inputs
from locum.tasks.sgd import SPREAD, Scaled, TrainingParams

if TYPE_CHECKING:
    from locum.tasks.network import NetworkParams

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ready:
    """Rows as tensors: arrays (n, *shape) and features (n, p) where there are any, and the outcome (n,)."""

    x: list[Any]
    y: Any
    patients: int
    left_out: int


class Reader:
    """What a step's network reads. outcome: 'category', 'binary' (a boolean or two categories) or 'number'. inputs: their shapes."""

    def __init__(self, task: BaseTask[NetworkParams], params: NetworkParams) -> None:
        self.task, self.params, self.contract = task, params, task.study.data.variables
        task.require(*params.arrays, *params.features, params.outcome)
        self._check_types()
        self.design: Scaled | None = None
        if params.features:
            self.design = Scaled(task, TrainingParams(features=params.features, outcome=params.outcome, standardise=params.standardise))
        outcome = self.contract[params.outcome]
        self.outcome = "number" if outcome.type in ("number", "integer") else "binary" if len(outcome.categories) in (0, 2) else "category"
        self.inputs = Inputs(self._shape(), self.design.size - 1 if self.design else 0)
        self._kept: dict[int, tuple[weakref.ref[Rows], bytes, Ready]] = {}

    def ready(self, state: State, rows: Rows) -> Ready:
        """The usable rows of the step's part; kept as long as the rows are, so that a round does not make again what the round before did."""
        scale = repr((self.outcome_location(state), self.design.location(state) if self.design else None)).encode()
        key, found = id(rows), self._kept.get(id(rows))
        if found is not None and found[0]() is rows and found[1] == scale:
            return found[2]
        used, kept = usable(self.task, rows, self.params.part, (*self.params.features, self.params.outcome)), self._kept
        made = Ready(self.tensors(state, used.rows), self.target(state, used.rows), used.rows.patients, used.left_out)
        kept[key] = weakref.ref(rows, lambda _: kept.pop(key, None)), scale, made
        return made

    def tensors(self, state: State, rows: Rows) -> list[Any]:
        """The arrays as one tensor, and the features as another, where there are any; raises `TaskError`."""
        from locum.tasks.networks.engine import tensor

        out, p = [], self.params
        if p.arrays:
            flat = np.concatenate([self._array(name, rows).reshape(len(rows), math.prod(self.contract[name].shape)) for name in p.arrays], axis=1)
            out.append(tensor((flat.reshape(len(rows), *self.inputs.shape) - p.centre) / p.scale))
        if self.design:
            out.append(tensor(self.design.matrix(state, rows)[:, 1:]))
        return out

    def target(self, state: State, rows: Rows) -> Any:
        """The outcome as the loss reads it; raises `TaskError`."""
        from locum.tasks.networks.engine import tensor

        y = rows.columns[self.params.outcome]
        problem = self.outcome_error(y)
        if problem:
            raise TaskError(f"The outcome '{self.params.outcome}' {problem}.", fix="correct the mapping")
        centre, scale = self.outcome_location(state)
        return tensor(y, np.int64) if self.outcome == "category" else tensor((y - centre) / scale)

    def outcome_error(self, y: Floats) -> str:
        """What is wrong with the outcome, or ''."""
        if self.outcome == "category" and not np.isin(y, np.arange(len(self.contract[self.params.outcome].categories))).all():
            return "has values that are no category"
        return "has values other than 0 and 1" if self.outcome == "binary" and not np.isin(y, (0.0, 1.0)).all() else ""

    def outcome_location(self, state: State) -> tuple[float, float]:
        """Centre and scale of an outcome that is a number: of the 'standardise' step, else of its declared range."""
        if self.outcome != "number":
            return 0.0, 1.0
        if self.design is not None:
            return self.design.location_of(state, self.params.outcome)
        variable = self.contract[self.params.outcome]
        if variable.minimum is None or variable.maximum is None:
            return 0.0, 1.0
        return midpoint(variable), (variable.maximum / 2.0 - variable.minimum / 2.0) / SPREAD

    def _array(self, name: str, rows: Rows) -> NDArray[np.float32]:
        shape, found = self.contract[name].shape, rows.arrays.get(name)
        if found is None or found.shape[1:] != shape:
            what = f"'{name}' is not an array of shape {list(shape)} in this site's rows."
            raise TaskError(what, fix="map it, and set the source's size to that shape")
        if not np.isfinite(found).all():
            raise TaskError(f"The array '{name}' holds NaN or infinity.", fix="leave these rows out, or correct them at their source")
        return found

    def _check_types(self) -> None:
        p, step = self.params, self.task.step.name
        for name in p.arrays:
            if self.contract[name].type != "array":
                raise ManifestError(f"Step '{step}': '{name}' is of type '{self.contract[name].type}', not an array.", fix="list it under features")
        for name in (*p.features, p.outcome):
            if self.contract[name].type == "array":
                raise ManifestError(f"Step '{step}': '{name}' is an array.", fix="list it under arrays; the outcome is a category or a number")
        if p.outcome in p.features:
            raise ManifestError(f"Step '{step}': '{p.outcome}' is both a feature and the outcome.", fix="drop it from features")
        if self.contract[p.outcome].type == "date":
            raise ManifestError(f"Step '{step}': the outcome '{p.outcome}' is a date.", fix="name a category, a boolean or a number")
        twice = sorted({n for n in p.arrays if p.arrays.count(n) > 1})
        if twice:
            raise ManifestError(f"Step '{step}' lists the array '{twice[0]}' twice.", fix="list it once")

    def _shape(self) -> tuple[int, ...]:
        """Of the arrays as one: channels first, then the axes that they share."""
        kind, axes, step = self.params.network.kind, self.params.network.axes, self.task.step.name
        shapes = [self.contract[n].shape for n in self.params.arrays]
        if not shapes and axes is not None:
            raise ManifestError(f"Step '{step}': '{kind}' needs an array.", fix="name one under arrays, or take 'mlp'")
        if not shapes:
            return ()
        wanted = len(shapes[0]) + 1 if axes is None else axes + 1
        if axes is not None or len(shapes) > 1:
            shapes = [s if len(s) == wanted else (1, *s) for s in shapes]
            if any(len(s) != wanted for s in shapes):
                want = {1: "(length) or (channels, length)", 2: "(height, width) or (channels, height, width)"}.get(axes or 0, "one and the same")
                raise ManifestError(f"Step '{step}': '{kind}' needs arrays of shape {want}.", fix="take another network, or other arrays")
        if len({s[1:] for s in shapes}) > 1:
            raise ManifestError(f"Step '{step}': its arrays differ in shape.", fix="bring them to one shape when they are read")
        return (sum(s[0] for s in shapes), *shapes[0][1:]) if len(shapes) > 1 or axes is not None else shapes[0]
