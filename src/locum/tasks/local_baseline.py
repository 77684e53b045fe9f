"""What each site could have done alone: its own model from its own training patients, tried on its own test patients.

The fair question for a federation is not whether its model is good, but whether it is better than none. Both models are
compared on the same pairs of test patients of the same sites, those where a local model can be fitted at all; how many cannot
is an answer too. Two averages are given, which differ where sites do: over pairs, so that a site with many patients counts more,
and over sites, each with one voice. Pairs are those of the AUC for a 0/1 outcome, and Harrell's for survival.

By size, the same is said of sites with few, more and many test patients: a federation gains most where sites are small.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.rows import Rows
from locum.errors import ManifestError
from locum.privacy.disclosure import HIDDEN, suppress
from locum.study.manifest import Name, Step, Study
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.alone import fitted_alone, local_form
from locum.tasks.base import BaseTask, Memory, Params, State, register
from locum.tasks.concordance import harrell, pairs
from locum.tasks.design import earlier, usable
from locum.tasks.evaluate_binary import check_unseen
from locum.tasks.event_times import checked_event

Floats = NDArray[np.float64]
TAKES_RIDGE = {
    "logistic": True, "elastic_net": False, "sgd": False, "boosted_trees": False, "cox": True, "piecewise_exponential": True, "discrete_time": True,
}  # fmt: skip
"""The models that have an evaluation, and whether they take a ridge penalty; the others have penalties of their own, which their local form keeps."""
COUNTS = ("sites", "sites_fitted", "sites_tried", "rows", "local_concordant", "federated_concordant", "pairs", "local_share", "federated_share", "sites_ranked")
CLASSES = ("local_correct", "federated_correct", "majority_correct")
SIZES = {"none": 0, "1-9": 1, "10-29": 10, "30 or more": 30}
"""Classes of site and from how many test rows on a site is in one."""
FEWEST = 3
"""Of fewer sites a class's figures are not printed: of two, each could subtract itself. Nor are those of a class that all others would give away."""


class LocalBaselineParams(Params):
    """model: the federated model, whose parameters the local models share. ridge: the local models' penalty, on the scale that the federated
    model is fitted on, so that small sites get an answer too; elastic net, trees and descent keep their own. by_size: whether to count
    sites with 0, 1-9, 10-29 and 30 or more test rows apart."""

    model: Name
    ridge: Annotated[float, Field(ge=0)] = 0.1
    part: Literal["test"] = "test"
    by_size: bool = False


@register
class LocalBaseline(BaseTask[LocalBaselineParams]):
    """One round: fit, predict, count."""

    kind = "local_baseline"
    Config = LocalBaselineParams

    def __init__(self, step: Step, params: LocalBaselineParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.model: Any = earlier(self, params.model, "model", *TAKES_RIDGE)
        check_unseen(self, self.model)
        self.survival = bool(getattr(self.model.params, "time", None))
        if not self.survival and not getattr(self.model, "binary", True):
            raise ManifestError(f"Step '{step.name}': the model '{params.model}' predicts a number, so it has no pairs to rank.", fix="name a 0/1 outcome")
        if getattr(self.model.params, "site_intercepts", False):
            raise ManifestError(f"Step '{step.name}': the model '{params.model}' has no common intercept to compare.", fix="set site_intercepts = false there")
        chosen_by = next((p for p in ("choose", "stop_on") if getattr(self.model.params, p, None) == "test"), None)
        if chosen_by and (chosen_by == "choose" or self.model.params.stop_after):
            raise ManifestError(
                f"Step '{step.name}': the model '{params.model}' was chosen by the test patients ({chosen_by} = 'test').",
                why="Local models are tried on those patients, and the federated one would have seen them.",
                fix=f"leave {chosen_by} out there",
            )
        self.ridge = params.ridge if TAKES_RIDGE[self.model.kind] else None
        self.alone = local_form(self.model, step.name, **({} if self.ridge is None else {"ridge": self.ridge}))
        self.names = COUNTS if self.survival else (*COUNTS, *CLASSES)

    def reads(self) -> tuple[str, ...]:
        read: tuple[str, ...] = self.model.reads()
        return read

    def leaves(self) -> str:
        more = "" if self.survival else "how many patients each of them, and the majority class, predicts rightly; "
        size = " By size of site; what is said of fewer than three sites is hidden in the answer." if self.params.by_size else ""
        return (
            f"Whether the site could fit a model of its own, how many pairs of its test patients, and which share, that model and the federated one rank "
            f"rightly; {more}{len(self.names)} counts and shares in all. The local model stays.{size}"
        )

    def layout(self, state: State) -> Layout:
        return Layout.of(**dict.fromkeys(self.names, (len(SIZES) if self.params.by_size else 1,)))

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        needed = getattr(self.model, "needed", None)  # trees take missing features
        train, test = (usable(self, rows, part, needed).rows for part in ("train", "test"))
        patients, own = train.patients + test.patients, fitted_alone(self.alone, state, train, rng) if len(train) else None
        counts = {"sites": float(patients > 0), "sites_fitted": float(own is not None)}
        if own is not None and len(test):
            local, federated = self.alone.scores(own, test), self.model.scores(state, test)
            ranked = self._survival(test, local, federated) if self.survival else self._binary(train, test, local, federated)
            if ranked["pairs"]:
                ranked |= {f"{who}_share": ranked[f"{who}_concordant"] / ranked["pairs"] for who in ("local", "federated")} | {"sites_ranked": 1.0}
            counts |= {"sites_tried": 1.0, "rows": float(len(test)), **ranked}
        vector = self.layout(state).zeros()
        size = int(np.searchsorted(list(SIZES.values()), len(test), side="right")) - 1 if self.params.by_size else 0
        for name, value in counts.items():
            vector[name][size] = value
        return Contribution(vector, patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        table = {name: np.asarray(total[name], float) for name in self.names}
        shown = suppress(table["sites"], FEWEST) != HIDDEN
        kept = {name: np.where(shown, a, 0.0) if self.params.by_size else a for name, a in table.items()}
        return self.merge(state, **kept, shown=shown.astype(np.float64), **{f"all_{name}": a.sum() for name, a in table.items()})

    def done(self, state: State) -> bool:
        return self.key("sites") in state

    def result(self, state: State) -> dict[str, Any]:
        table = {name: np.asarray(self.own(state, name), dtype=np.float64) for name in self.names}
        every, shown = {name: float(self.own(state, f"all_{name}")) for name in self.names}, self.own(state, "shown")
        few = 0 < every["sites_tried"] < FEWEST
        warnings = [f"Only {int(every['sites_tried'])} of the sites could be tried: these are their figures, and nobody else's."] if few else []
        out = {**self._figures(every), "ridge": self.ridge, "warnings": warnings}
        if not self.params.by_size:
            return out
        sizes = [self._of_size(size, {name: float(a[k]) for name, a in table.items()}, bool(shown[k])) for k, size in enumerate(SIZES)]
        return {**out, "by_test_rows": sizes}

    def _of_size(self, size: str, c: dict[str, float], shown: bool) -> dict[str, Any]:
        why = f"fewer than {FEWEST} sites, or the other classes would give such a class away"
        figures = {"sites": None, "withheld": why} if not shown else self._figures(c) if c["sites"] else {"sites": 0}
        return {"test_rows": size, **figures}

    def _figures(self, c: dict[str, float]) -> dict[str, Any]:
        """What the counts say; None where there is nothing to divide by."""

        def share(name: str, of: str) -> float | None:
            return c[name] / c[of] if c[of] else None

        out: dict[str, Any] = {name: int(c[name]) for name in ("sites", "sites_fitted", "sites_tried", "sites_ranked", "pairs")}
        out |= {"sites_without_model": int(c["sites"] - c["sites_fitted"]), "n": int(c["rows"])}
        out |= {f"{who}_concordance": share(f"{who}_concordant", "pairs") for who in ("local", "federated")}
        out |= {f"{who}_concordance_mean_of_sites": share(f"{who}_share", "sites_ranked") for who in ("local", "federated")}
        if not self.survival:
            out |= {f"{who}_accuracy": share(f"{who}_correct", "rows") for who in ("local", "federated", "majority")}
        return out

    def _binary(self, train: Rows, test: Rows, local: Floats, federated: Floats) -> dict[str, float]:
        outcome = self.model.params.outcome
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
        time, event = test.columns[self.model.params.time], checked_event(test.columns[self.model.params.event])
        concordant, comparable = harrell(time, event, local)
        return {"local_concordant": concordant, "federated_concordant": harrell(time, event, federated)[0], "pairs": comparable}
