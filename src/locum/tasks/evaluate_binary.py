"""How well a logistic model predicts on patients it has not seen: discrimination, calibration, accuracy.

The AUC comes from counts of scores in fixed bins of the linear predictor, which keep the order of probabilities, with a
rigorous bound on what the binning may cost. Calibration is the logistic regression of the outcome on the linear
predictor (Cox, 1958, Biometrika 45:562), fitted exactly by Newton over the rounds; the groups of a calibration plot come from the
same counts, with the risk of a bin's middle. Pairs within a site are counted exactly.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.rows import Part, Rows
from locum.errors import ManifestError, TaskError
from locum.study.manifest import Name, Step, Study
from locum.study.vector import Contribution, Layout, Total
from locum.tasks import newton, score_groups
from locum.tasks.base import BaseTask, Memory, Params, State, register
from locum.tasks.concordance import auc_table, pairs
from locum.tasks.design import earlier, usable
from locum.tasks.glm import Logistic, expit
from locum.tasks.newton import Problem, Progress, Quadratic

Floats = NDArray[np.float64]
SPAN = 16.0
"""The bins cover linear predictors from -16 to 16, probabilities from 1e-7 to 1 - 1e-7; beyond, the outermost bins."""
SCORED = ("rows", "left_out", "correct", "squared_error", "expected", "within_concordant", "within_pairs")


class EvaluateParams(Params):
    """model: the earlier step whose model is evaluated. part: on which patients; 'test' needs a model fitted on 'train'."""

    model: Name
    part: Part = "test"


class EvaluateBinaryParams(EvaluateParams):
    """bins: of the score histogram; the AUC's error bound falls in proportion."""

    bins: Annotated[int, Field(ge=2, le=1_000_000)] = 4096


@register
class EvaluateBinary(BaseTask[EvaluateBinaryParams]):
    """The first round counts; the following ones only refine the calibration line."""

    kind = "evaluate_binary"
    Config = EvaluateBinaryParams
    takes = (*BaseTask.takes, "array")

    def __init__(self, step: Step, params: EvaluateBinaryParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.model: Logistic = earlier(self, params.model, "model", "logistic", "sgd", "boosted_trees", "elastic_net", "network")
        check_unseen(self, self.model)
        if not getattr(self.model, "binary", True):
            raise ManifestError(f"Step '{step.name}': the model '{params.model}' predicts a number, not a 0/1 outcome.", fix="name a logistic model")
        if self.model.params.site_intercepts:
            raise ManifestError(
                f"Step '{step.name}': the model '{params.model}' has an intercept per site, which never leaves it, so it gives no probabilities.",
                fix="evaluate a model with site_intercepts = false",
            )

    def reads(self) -> tuple[str, ...]:
        return self.model.reads()

    def leaves(self) -> str:
        return (
            f"How many patients with and without the outcome have a predicted risk in each of {self.params.bins} bins, seven counts and sums, "
            f"and then, each round, six sums for the calibration line."
        )

    def layout(self, state: State) -> Layout:
        line: dict[str, tuple[int, ...]] = {"objective": (), "gradient": (2,), "information": (3,), "squares": (2,)}
        if self.key("auc") in state:
            return Layout.of(**line)
        shape = (self.params.bins,)
        return Layout.of(**dict.fromkeys(SCORED, ()), positive=shape, negative=shape, **line)

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        used = usable(self, rows, self.params.part, getattr(self.model, "needed", None))  # trees take missing features
        vector = self.layout(state).zeros()
        first = "rows" in vector
        if first:
            vector["left_out"] = np.asarray(float(used.left_out))
        if len(used.rows):
            eta, y = self.model.scores(state, used.rows), used.rows.columns[self.model.params.outcome]
            problem = self.model.outcome_error(y)
            if problem:
                raise TaskError(f"The outcome '{self.model.params.outcome}' {problem}.", fix="correct the mapping")
            vector |= self._scored(eta, y) if first else {}
            here = self._line(eta, y, self._progress(state).at)
            squares = np.asarray([float(len(y)), float((eta**2).sum())])
            vector |= {"objective": np.asarray(here.value), "gradient": here.gradient, "information": newton.pack(here.information), "squares": squares}
        return Contribution(vector, used.rows.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        if self.key("auc") not in state:
            state = self._count(state, total)
        here = Quadratic(float(total["objective"]), np.asarray(total["gradient"], float), newton.unpack(total["information"], 2))
        names = ("calibration intercept", "calibration slope")
        try:
            following = newton.advance(self._progress(state), here, Problem(names, np.asarray(total["squares"], float), 1e-9, "perfect discrimination"))
        except TaskError:  # all scores equal, or a perfect separation: there is no line, and the other figures stand
            return self.merge(state, no_line=1)
        return self.merge(state, **following.arrays())

    def done(self, state: State) -> bool:
        return self.key("no_line") in state or bool(self._progress(state).converged)

    def result(self, state: State) -> dict[str, Any]:
        n, positive, expected, pairs_within = (float(self.own(state, k)) for k in ("rows", "positives", "expected", "within_pairs"))
        se = float(self.own(state, "auc_se"))
        return {
            "part": self.params.part,
            "n": int(n),
            "positives": int(positive),
            "left_out": int(self.own(state, "left_out")),
            "auc": {"value": float(self.own(state, "auc")), "error_bound": float(self.own(state, "auc_bound")), "se": se if se >= 0 else None},
            "auc_within_sites": {"value": float(self.own(state, "within_concordant")) / pairs_within if pairs_within else None, "pairs": int(pairs_within)},
            "accuracy": float(self.own(state, "correct")) / n,
            "brier": float(self.own(state, "squared_error")) / n,
            "calibration": {"observed_over_expected": positive / expected if expected > 0 else None, **self._fitted_line(state)},
            "calibration_bins": score_groups.described(np.asarray(self.own(state, "groups"), float)) if self.key("groups") in state else [],
            "calibration_bins_error_bound": SPAN / self.params.bins / 4.0,  # half a bin, where the risk changes fastest
        }

    def _scored(self, eta: Floats, y: Floats) -> dict[str, Floats]:
        mu, event = expit(eta), y == 1.0
        where = np.clip(np.floor((eta + SPAN) / (2.0 * SPAN) * self.params.bins), 0, self.params.bins - 1).astype(np.int64)
        numbers = {
            "rows": len(y),
            "correct": ((eta > 0) == event).sum(),
            "squared_error": ((y - mu) ** 2).sum(),
            "expected": mu.sum(),
            "within_concordant": pairs(eta[event], eta[~event]),
            "within_pairs": event.sum() * (~event).sum(),
        }
        tables = {name: np.bincount(where[mask], minlength=self.params.bins) for name, mask in (("positive", event), ("negative", ~event))}
        return {name: np.asarray(value, dtype=np.float64) for name, value in {**numbers, **tables}.items()}

    def _line(self, eta: Floats, y: Floats, b: Floats) -> Quadratic:
        x = np.column_stack([np.ones(len(y)), eta])
        value, residual, w = self.model.likelihood(y, b[0] + b[1] * eta)
        return Quadratic(value, x.T @ residual, x.T @ (x * w[:, None]))

    def _count(self, state: State, total: Total) -> State:
        positive, negative = np.asarray(total["positive"], float), np.asarray(total["negative"], float)
        if not positive.any() or not negative.any():
            raise TaskError(
                f"The patients of part '{self.params.part}' do not include both outcomes of '{self.model.params.outcome}', so there is no AUC.",
                fix="use a larger test share, another outcome, or part = 'all'",
            )
        auc, bound, se = auc_table(positive, negative)
        middles = -SPAN + (np.arange(self.params.bins) + 0.5) * 2.0 * SPAN / self.params.bins
        found = score_groups.groups(positive, negative, expit(middles))
        state = self.merge(state, groups=found) if len(found) else state  # the tables themselves stay here: a bin may hold one patient
        return self.merge(state, **{k: total[k] for k in SCORED}, auc=auc, auc_bound=bound, auc_se=-1.0 if se is None else se, positives=positive.sum())

    def _fitted_line(self, state: State) -> dict[str, Any]:
        if self.key("no_line") in state or self.key("best") not in state:
            return {"intercept": None, "slope": None, "converged": False}
        progress = self._progress(state)
        se = np.sqrt(np.diag(newton.covariance(progress.information)))
        (a, b), (sa, sb) = progress.best.tolist(), se.tolist()
        return {"intercept": a, "intercept_se": sa, "slope": b, "slope_se": sb, "converged": bool(progress.converged)}

    def _progress(self, state: State) -> Progress:
        if self.key("at") not in state:
            return Progress.start(np.asarray([0.0, 1.0]))
        return Progress.of(lambda name: self.own(state, name))


def check_unseen(task: BaseTask[Any], model: Any) -> None:
    """Raise `ManifestError` where a model fitted on the test patients would be evaluated on them."""
    if task.params.part == "test" and model.params.part != "train":
        raise ManifestError(
            f"Step '{task.step.name}' evaluates on the test patients, but the model '{task.params.model}' is fitted on part '{model.params.part}'.",
            why="The evaluation would be too good.",
            fix=f"set part = 'train' in step '{task.params.model}', or part = 'all' here for the apparent performance",
        )
