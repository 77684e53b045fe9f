"""What each site could have done alone, for a model of several categories: `local_baseline` with a multinomial model.

Each site that has at least two categories among its own training rows fits its own softmax to them, with the features, the scaling and
a ridge penalty as the federated model has them, and both are tried on the site's own test rows. A category that the site never saw
has probability 0 in its own model.

Where every site's patients are all trained on or all tested on, as with one person a device, no site can try anything on its own: then
there is no answer, and the comparison needs rows of other devices, which only public data give.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.rows import Rows
from locum.study.manifest import Name, Step, Study
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import BaseTask, Memory, Params, State, register
from locum.tasks.concordance import pairs
from locum.tasks.design import earlier, usable
from locum.tasks.evaluate_binary import check_unseen
from locum.tasks.multinomial import Multinomial

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
WHO = ("local", "federated")


class LocalCategoriesParams(Params):
    """model: the federated multinomial model. ridge: the local models' penalty, on the scale that the federated model is fitted on."""

    model: Name
    ridge: Annotated[float, Field(gt=0)] = 1.0
    part: Literal["test"] = "test"


@register
class LocalCategories(BaseTask[LocalCategoriesParams]):
    """One round: fit, predict, count."""

    kind = "local_categories"
    Config = LocalCategoriesParams

    def __init__(self, step: Step, params: LocalCategoriesParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.model: Multinomial = earlier(self, params.model, "model", "multinomial")
        check_unseen(self, self.model)

    def reads(self) -> tuple[str, ...]:
        return self.model.reads()

    def leaves(self) -> str:
        return (
            "Whether the site could fit a model of its own; how many of its test rows that model, the federated one and its most frequent category predict "
            f"rightly, and how many pairs of them each model ranks rightly; {self.layout({}).size} counts in all. The local model stays."
        )

    def layout(self, state: State) -> Layout:
        k = (len(self.model.categories),)
        counts = ("sites", "sites_fitted", "rows", "local_correct", "federated_correct", "majority_correct")
        return Layout.of(**dict.fromkeys(counts, ()), local_concordant=k, federated_concordant=k, pairs=k)

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        train, test = (usable(self, rows, part).rows for part in ("train", "test"))
        vector, patients = self.layout(state).zeros(), train.patients + test.patients
        vector["sites"] = np.asarray(float(patients > 0))
        own = self.model.fit_here(state, train, self.params.ridge) if len(train) and len(test) else None
        if own is not None:
            y, counts = self.model.observed(test), np.bincount(self.model.observed(train))
            vector |= {"sites_fitted": np.asarray(1.0), "rows": np.asarray(float(len(test)))}
            vector["majority_correct"] = np.asarray(float((y == counts.argmax()).sum()))
            vector["pairs"] = np.asarray([(y == k).sum() * (y != k).sum() for k in range(len(self.model.categories))], float)
            for who, p in zip(WHO, (own.probabilities(state, test), self.model.probabilities(state, test)), strict=True):
                vector[f"{who}_correct"] = np.asarray(float((p.argmax(axis=1) == y).sum()))
                vector[f"{who}_concordant"] = ranked(y, p)
        return Contribution(vector, patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        return self.merge(state, **{f.name: total[f.name] for f in self.layout(state).fields})

    def done(self, state: State) -> bool:
        return self.key("sites") in state

    def result(self, state: State) -> dict[str, Any]:
        rows, pairs_ = float(self.own(state, "rows")), np.asarray(self.own(state, "pairs"), float)
        out: dict[str, Any] = {k: int(self.own(state, k)) for k in ("sites", "sites_fitted")} | {"n": int(rows), "ridge": self.params.ridge}
        out |= {f"{who}_accuracy": float(self.own(state, f"{who}_correct")) / rows if rows else None for who in (*WHO, "majority")}
        there = pairs_ > 0
        for who in WHO:
            right = np.asarray(self.own(state, f"{who}_concordant"), float)
            out[f"{who}_macro_auc_within_sites"] = float((right[there] / pairs_[there]).mean()) if there.any() else None
        if not rows:
            out["warnings"] = ["No site has training rows of two categories and test rows: nothing can be compared at the sites."]
        return out


def ranked(y: Ints, p: Floats) -> Floats:
    """For each category the pairs of a row of it and a row of another that its probability ranks rightly, ties one half. Shape (K,)."""
    return np.asarray([pairs(p[y == k, k], p[y != k, k]) for k in range(p.shape[1])], float)
