"""What a step of boosted trees may say in a study."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from locum.data.rows import Part
from locum.privacy.disclosure import THRESHOLD
from locum.study.manifest import VariableName
from locum.tasks.base import Params
from locum.tasks.tree import MOST_BINS


class BoostedTreesParams(Params):
    """objective, outcome: a 0/1 outcome, a number, or (survival) time and event, with a baseline hazard in `intervals`.

    trees, depth, rate (of learning), l2 (lambda), min_child_weight (the least sum of Hessians): as in xgboost. gamma: the least gain of a
    split (lightgbm's min_gain_to_split). bins: of a number, at most. stop_after: boosting ends when so many trees did not lower the loss on a fifth
    of the patients of `part`, held out by a hash, or (stop_on) on the test part; the best number of trees is kept. The step needs
    trees * depth + 4 rounds.
    """

    features: Annotated[tuple[VariableName, ...], Field(min_length=1, max_length=512)]
    objective: Literal["binary", "squared_error", "survival"] = "binary"
    outcome: VariableName | None = None
    time: VariableName | None = None
    event: VariableName | None = None
    intervals: Annotated[int, Field(ge=1, le=64)] = 10
    trees: Annotated[int, Field(ge=1, le=5000)] = 100
    depth: Annotated[int, Field(ge=1, le=8)] = 4
    rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    l2: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    gamma: Annotated[float, Field(ge=0)] = 0.0
    min_child_weight: Annotated[float, Field(ge=0)] = 1.0
    min_child_patients: Annotated[int, Field(ge=THRESHOLD, le=1_000_000)] = 20
    bins: Annotated[int, Field(ge=2, le=MOST_BINS)] = 32
    stop_after: Annotated[int, Field(ge=1)] | None = None
    stop_on: Literal["validation", "test"] = "validation"
    part: Part = "all"
    site_intercepts: ClassVar[bool] = False
    """What an evaluation asks of a model: there is one start for all."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        survival = self.objective == "survival"
        if survival != (self.time is not None) or survival != (self.event is not None) or survival == (self.outcome is not None):
            raise ValueError("time and event are given for objective 'survival', outcome for the others")
        if self.stop_on == "test" and self.stop_after and self.part != "train":
            raise ValueError("stop_on = 'test' needs part = 'train'")
        return self
