"""What each site could have done alone: its own model from its own training patients, tried on its own test patients.

The fair question for a federation is not whether its model is good, but whether it is better than none. Both models are
compared on the same pairs of test patients of the same sites, those where a local model can be fitted at all.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.rows import Rows
from locum.errors import ManifestError
from locum.study.manifest import Name, Step, Study
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import BaseTask, Memory, Params, State, register
from locum.tasks.concordance import harrell, pairs
from locum.tasks.cox import Cox
from locum.tasks.design import earlier, linear_predictor, usable
from locum.tasks.evaluate_binary import check_unseen
from locum.tasks.event_times import checked_event
from locum.tasks.glm import Logistic

Floats = NDArray[np.float64]
COUNTS = ("sites", "sites_fitted", "rows", "local_concordant", "federated_concordant", "pairs")
CLASSES = ("local_correct", "federated_correct", "majority_correct")


class LocalBaselineParams(Params):
    """model: the federated model, whose features the local models use. ridge: the local models' penalty, on the scale
    that the federated model is fitted on, so that small sites get an answer too."""

    model: Name
    ridge: Annotated[float, Field(ge=0)] = 0.1
    part: Literal["test"] = "test"


@register
class LocalBaseline(BaseTask[LocalBaselineParams]):
    """One round: fit, predict, count."""

    kind = "local_baseline"
    Config = LocalBaselineParams

    def __init__(self, step: Step, params: LocalBaselineParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.model: Logistic | Cox = earlier(self, params.model, "model", "logistic", "cox")
        check_unseen(self, self.model)
        self.binary = isinstance(self.model, Logistic)
        if isinstance(self.model, Logistic) and self.model.params.site_intercepts:
            raise ManifestError(f"Step '{step.name}': the model '{params.model}' has no common intercept to compare.", fix="set site_intercepts = false there")

    def reads(self) -> tuple[str, ...]:
        return self.model.reads()

    def leaves(self) -> str:
        more = "how many patients each of them, and the majority class, predicts rightly; " if self.binary else ""
        return (
            f"Whether the site could fit a model of its own, how many pairs of its test patients that model and the federated one rank rightly; {more}"
            f"{self.layout({}).size} counts in all. The local model stays."
        )

    def layout(self, state: State) -> Layout:
        return Layout.of(**dict.fromkeys((*COUNTS, *CLASSES) if self.binary else COUNTS, ()))

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        train, test = (usable(self, rows, part).rows for part in ("train", "test"))
        vector = self.layout(state).zeros()
        patients = train.patients + test.patients
        vector["sites"] = np.asarray(float(patients > 0))
        own = self.model.fit_here(state, train, self.params.ridge) if len(train) else None
        if own is not None and len(test):
            local, federated = linear_predictor(self.model.design.matrix(state, test), own), self.model.scores(state, test)
            counts = self._binary(train, test, local, federated) if isinstance(self.model, Logistic) else self._survival(test, local, federated)
            vector |= {name: np.asarray(float(v)) for name, v in {"sites_fitted": 1, "rows": len(test), **counts}.items()}
        return Contribution(vector, patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        return self.merge(state, **{f.name: total[f.name] for f in self.layout(state).fields})

    def done(self, state: State) -> bool:
        return self.key("sites") in state

    def result(self, state: State) -> dict[str, Any]:
        pairs_, rows = float(self.own(state, "pairs")), float(self.own(state, "rows"))
        out: dict[str, Any] = {k: int(self.own(state, k)) for k in ("sites", "sites_fitted", "pairs")}
        out |= {"n": int(rows), "ridge": self.params.ridge}
        out |= {f"{who}_concordance": float(self.own(state, f"{who}_concordant")) / pairs_ if pairs_ else None for who in ("local", "federated")}
        if self.binary:
            out |= {f"{who}_accuracy": float(self.own(state, f"{who}_correct")) / rows if rows else None for who in ("local", "federated", "majority")}
        return out

    def _binary(self, train: Rows, test: Rows, local: Floats, federated: Floats) -> dict[str, float]:
        outcome = self.model.params.outcome  # type: ignore[union-attr]
        event = test.columns[outcome] == 1.0
        majority = train.columns[outcome].mean() > 0.5
        return {
            "local_concordant": pairs(local[event], local[~event]),
            "federated_concordant": pairs(federated[event], federated[~event]),
            "pairs": float(event.sum() * (~event).sum()),
            "local_correct": float(((local > 0) == event).sum()),
            "federated_correct": float(((federated > 0) == event).sum()),
            "majority_correct": float((event == majority).sum()),
        }

    def _survival(self, test: Rows, local: Floats, federated: Floats) -> dict[str, float]:
        time, event = test.columns[self.model.params.time], checked_event(test.columns[self.model.params.event])  # type: ignore[union-attr]
        concordant, comparable = harrell(time, event, local)
        return {"local_concordant": concordant, "federated_concordant": harrell(time, event, federated)[0], "pairs": comparable}
