"""What does adapting the federated model to each hospital gain? Every form of it is tried on the same test patients.

With b the federated coefficients and eta = x b:
    federated     eta as it is
    intercept     a_s + eta: recalibration in the large
    recalibrated  a_s + c_s eta (Cox, 1958, Biometrika 45:562; Steyerberg et al., 2004, Statistics in Medicine 23:2567, methods 1 to 3)
    shrunk        argmax_c loglik_s(c) - lambda/2 sum_j (c_j - b_j)^2 on the scale on which b was fitted, the intercept's precision being
                  intercept_share * lambda: the mode of a hierarchical model with its variance estimated (empirical Bayes; Efron and Morris, 1975)
    local         the site's own ridge fit, without the federation
    majority      the site's own share of patients with the outcome

Round 1: each site keeps a part of its training patients back (a hash of the patient decides), fits the rest for every lambda of a grid, and
releases the log-likelihood of those kept back; the best sum decides, the federated model itself being the grid's last entry. b has seen the
patients kept back: with very few sites that favours shrinking more. Round 2: each site fits each form on all of its training patients,
counts on its test patients, and keeps the coefficients in its memory.

A model with site intercepts has no common intercept, so there 'intercept' takes the place of 'federated', and shrinkage leaves intercepts free.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from locum.data.patients import is_test
from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.study.manifest import Name, Split, Step, Study
from locum.study.vector import Contribution, Layout, Total
from locum.tasks import adapt_report as report
from locum.tasks.adapt_forms import FORMS, only_intercept, own_intercept, own_line, penalised, precisions, smoothed_log_odds
from locum.tasks.base import BaseTask, Memory, Params, State, register
from locum.tasks.concordance import pairs
from locum.tasks.design import earlier, linear_predictor, usable
from locum.tasks.evaluate_binary import SPAN, check_unseen
from locum.tasks.glm import Linear, Logistic, expit

Floats = NDArray[np.float64]
LEAST_SITES = 3
"""Classes of size are published of at least so many sites."""
MEMORY = "coefficients"
"""The name in a site's memory under which its coefficients lie, shape (forms, p): see `Adapt.personal`."""
Grid = Annotated[tuple[Annotated[float, Field(gt=0, le=1e9)], ...], Field(min_length=1, max_length=64)]


class AdaptParams(Params):
    """model: an earlier 'logistic' or 'linear' step, fitted on part 'train'. precisions: the grid of lambda, on the scale on which the model is
    fitted (so standardise). intercept_share: the intercept's precision as a share of lambda: levels differ more between hospitals than effects do.
    inner_share: of the training patients kept back to choose lambda. ridge: of the local model. min_rows: training patients below which 'intercept'
    and 'recalibrated' fall back to the federated model. sizes: where classes of sites by test patients begin. bins: of the scores, for the AUC."""

    model: Name
    precisions: Grid = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
    intercept_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    inner_share: Annotated[float, Field(ge=0.05, le=0.95)] = 0.3
    ridge: Annotated[float, Field(gt=0)] = 0.1
    min_rows: Annotated[int, Field(ge=1)] = 20
    sizes: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(max_length=20)] = (10, 30, 100)
    bins: Annotated[int, Field(ge=16, le=65_536)] = 512
    part: Literal["test"] = "test"

    @model_validator(mode="after")
    def _increasing(self) -> AdaptParams:
        for name in ("precisions", "sizes"):
            values = getattr(self, name)
            if any(a >= b for a, b in pairwise(values)):
                raise ValueError(f"{name} must increase")
        return self


@register
class Adapt(BaseTask[AdaptParams]):
    """Two rounds: how far to shrink; and what each form is worth."""

    kind = "adapt"
    Config = AdaptParams

    def __init__(self, step: Step, params: AdaptParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.model: Logistic | Linear = earlier(self, params.model, "model", "logistic", "linear")
        check_unseen(self, self.model)
        self.free = self.model.params.site_intercepts
        if not self.free and not self.model.has_intercept:
            raise ManifestError(f"Step '{step.name}': the model '{params.model}' has no intercept to adapt.", fix="set intercept = true there")
        self.binary = isinstance(self.model, Logistic)
        self.forms = FORMS[1:] if self.free else FORMS
        self.p = self.model.design.size + int(self.free)
        self.metrics = ("log_loss", "brier", "accuracy", "auc_within_sites", "accuracy_mean_of_sites") if self.binary else ("mse", "mse_mean_of_sites")

    def reads(self) -> tuple[str, ...]:
        return self.model.reads()

    def leaves(self) -> str:
        tables = f", how many with and without the outcome have a score in each of {self.params.bins} bins" if self.binary else ""
        return (
            f"First {self.layout({}).size} sums: how well models shrunk to {len(self.params.precisions)} degrees fit training patients kept back. Then, for "
            f"each of {len(self.forms)} forms of the model: sums of its errors on the site's test patients, by size of site, with their squares{tables}. "
            "The site's own coefficients stay."
        )

    def layout(self, state: State) -> Layout:
        if self.key("held_out") not in state:
            return Layout.of(held_out=(len(self.params.precisions) + 1,), held_out_patients=(), left_out=())
        f, c = len(self.forms), len(self.params.sizes) + 1
        out: dict[str, tuple[int, ...]] = {"sites": (), "left_out": (), "outcome": (), "sites_by_size": (c,), "fallbacks": (f,)}
        for m in self.metrics:
            out |= {f"{m}:sums": (c, f), f"{m}:weight": (c,), f"{m}:sites": (), f"{m}:squares": (2, f), f"{m}:cross": (2, f), f"{m}:weight2": ()}
        if self.binary:
            out |= {"expected": (f,), "positive": (f, self.params.bins), "negative": (f, self.params.bins)}
        return Layout.of(**out)

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        train, test = (usable(self, rows, part) for part in ("train", "test"))
        vector = self.layout(state).zeros()
        if self.key("held_out") not in state:
            vector["left_out"] = np.asarray(float(train.left_out))
            return Contribution(vector | self._held_out(state, train.rows), train.rows.patients, self.leaves())
        coefficients, fell = self._fit(state, train.rows)
        memory[MEMORY] = coefficients
        vector |= {"sites": np.asarray(float(len(train.rows) + len(test.rows) > 0)), "left_out": np.asarray(float(test.left_out))}
        if len(test.rows):
            vector |= self._counts(state, test.rows, coefficients) | {"fallbacks": fell}
        return Contribution(vector, train.rows.patients + test.rows.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        if self.key("held_out") not in state:
            held = np.asarray(total["held_out"], float)
            chosen = int(np.argmax(held)) if float(total["held_out_patients"]) > 0 else len(held) - 1
            return self.merge(state, held_out=held, held_out_patients=total["held_out_patients"], train_left_out=total["left_out"], chosen=chosen)
        if not np.asarray(total[f"{self.metrics[0]}:weight"]).any():
            raise TaskError("No site has a test patient without missing values.", fix="use a larger test share, or impute in an earlier step")
        out = {f.name: np.asarray(total[f.name], float) for f in self.layout(state).fields}
        if self.binary:  # a bin may hold one patient, so that the tables themselves stay here
            tables = zip(out.pop("positive"), out.pop("negative"), strict=True)
            found, curves = zip(*(report.summary(p, n, SPAN) for p, n in tables), strict=True)
            out |= {"found": np.stack(found), "curves": np.stack(curves)}
        groups = report.merged(out["sites_by_size"], LEAST_SITES)
        begins = {group[-1]: float(group[0]) for group in groups}
        for name in ("sites_by_size", *(f"{m}:{what}" for m in self.metrics for what in ("sums", "weight"))):
            table = np.zeros_like(out[name])
            for group in groups:
                table[group[-1]] = out[name][group].sum(axis=0)
            out[name] = table
        return self.merge(state, **out, begins=[begins.get(k, 0.0) for k in range(len(self.params.sizes) + 1)])

    def done(self, state: State) -> bool:
        return self.key("sites") in state

    def result(self, state: State) -> dict[str, Any]:
        if not self.done(state):
            return {"forms": {}, "warnings": [f"Step '{self.step.name}' had one round; it needs two."]}
        values, differences = self._estimates(state)
        reference = self.forms[0]
        fell = dict(zip(self.forms, self.own(state, "fallbacks").astype(int).tolist(), strict=True))
        shrinkage = self._shrinkage(state)
        main = self.metrics[0]
        judged = {f: d for f, d in differences.items() if f != "shrunk" or shrinkage["precision"] is not None}
        return {
            "part": self.params.part,
            "n": round(float(self.own(state, f"{main}:weight").sum())),
            "outcome_sum": float(self.own(state, "outcome")),
            "left_out": int(self.own(state, "left_out")),
            "sites": int(self.own(state, "sites")),
            "sites_with_test_patients": int(self.own(state, f"{main}:sites")),
            "reference": reference,
            "shrinkage": shrinkage,
            "forms": values,
            "differences": differences,
            "by_size": self._by_size(state),
            "fell_back": fell,
            "warnings": [*self._few(state), *self._warnings(shrinkage), *report.verdicts(judged, main, reference)],
        }

    def personal(self, state: State, rows: Rows, memory: Memory, form: str) -> Floats:
        """At the site: the linear predictor of each row by its own form of the model, shape (n,); raises `TaskError` before round 2."""
        if MEMORY not in memory:
            raise TaskError(f"Step '{self.step.name}' has not adapted the model here yet.", fix="run the step to its end")
        return linear_predictor(self._matrix(state, rows), memory[MEMORY][self.forms.index(form)])

    # --- at the site --------------------------------------------------------------------------------------------------

    def _matrix(self, state: State, rows: Rows) -> Floats:
        x = self.model.design.matrix(state, rows)
        return np.column_stack([np.ones(len(x)), x]) if self.free else x

    def _data(self, state: State, rows: Rows) -> tuple[Floats, Floats]:
        y = rows.columns[self.model.params.outcome]
        problem = self.model.outcome_error(y)
        if problem:
            raise TaskError(f"The outcome '{self.model.params.outcome}' {problem}.", fix="correct the mapping")
        return self._matrix(state, rows), y

    def _base(self, state: State, x: Floats, y: Floats) -> tuple[Floats, bool]:
        """The model that the site adapts, and whether its intercept is a fall-back, (p,): with site intercepts, it has to find its own."""
        b = self.model.coefficients(state)
        if not self.free:
            return b, False
        eta = x[:, 1:] @ b
        a = own_intercept(self.model.likelihood, y, eta)
        if a is not None:
            return np.r_[a, b], False
        level = self._level(y) - (float(eta.mean()) if len(eta) else 0.0)
        return np.r_[level, b], True

    def _level(self, y: Floats) -> float:
        return smoothed_log_odds(y) if self.binary else (float(y.mean()) if len(y) else 0.0)

    def _shrunk(self, x: Floats, y: Floats, base: Floats, k: int) -> Floats:
        """The coefficients for the k-th precision, (p,)."""
        if k == len(self.params.precisions) or not len(y):
            return base
        value = self.params.precisions[k]
        both = len(y) > 1 and y.min() < y.max()
        intercept = self.params.intercept_share * value if not self.free else (0.0 if both else value)
        found = penalised(self.model.likelihood, x, y, base, precisions(self.p, value, intercept))
        return base if found is None else found

    def _held_out(self, state: State, train: Rows) -> dict[str, Floats]:
        if not len(train):
            return {}
        back = is_test(train.distinct, Split(test_share=self.params.inner_share, salt=f"{self.study.data.split.salt}/{self.step.name}"))[train.codes]
        (x, y), (xb, yb) = self._data(state, train.take(~back)), self._data(state, train.take(back))
        if not len(yb):
            return {}
        base, _ = self._base(state, x, y)
        values = [self.model.likelihood(yb, xb @ self._shrunk(x, y, base, k))[0] for k in range(len(self.params.precisions) + 1)]
        return {"held_out": np.asarray(values), "held_out_patients": np.asarray(float(len(yb)))}

    def _fit(self, state: State, train: Rows) -> tuple[Floats, Floats]:
        """The coefficients of every form (F, p), and which of them fell back (F,)."""
        x, y = self._data(state, train)
        base, no_intercept = self._base(state, x, y)
        enough, eta = len(y) >= self.params.min_rows, x @ base
        moved, line = (own_intercept(self.model.likelihood, y, eta), own_line(self.model.likelihood, y, eta)) if enough else (None, None)
        level, ridge = only_intercept(self.p, self._level(y)), precisions(self.p, self.params.ridge, 0.0)
        alone = penalised(self.model.likelihood, x, y, np.zeros(self.p), ridge) if len(y) and y.min() < y.max() else None
        large = base if moved is None else base + only_intercept(self.p, moved)
        recalibrated = large if line is None else line[1] * base + only_intercept(self.p, line[0])
        forms = {
            "federated": (base, False),
            "intercept": (base, no_intercept) if self.free else (large, moved is None),
            "recalibrated": (recalibrated, line is None),
            "shrunk": (self._shrunk(x, y, base, int(self.own(state, "chosen"))), not len(y)),
            "local": (level if alone is None else alone, alone is None),
            "majority": (level, not len(y)),
        }
        return np.stack([forms[f][0] for f in self.forms]), np.asarray([float(forms[f][1]) for f in self.forms])

    def _counts(self, state: State, test: Rows, coefficients: Floats) -> dict[str, Floats]:
        x, y = self._data(state, test)
        eta = np.stack([linear_predictor(x, c) for c in coefficients])
        c = int(np.searchsorted(self.params.sizes, len(y), side="right"))
        out: dict[str, Any] = {"outcome": y.sum(), "sites_by_size": np.eye(len(self.params.sizes) + 1)[c]}
        for m, (sums, weight) in (self._binary(eta, y) if self.binary else self._squared(eta, y)).items():
            both = np.stack([sums, sums - sums[0]])
            where = np.eye(len(self.params.sizes) + 1)[c]
            out |= {f"{m}:sums": np.outer(where, sums), f"{m}:weight": where * weight, f"{m}:sites": weight > 0}
            out |= {f"{m}:squares": both**2, f"{m}:cross": both * weight, f"{m}:weight2": weight**2}
        if self.binary:
            out |= {"expected": expit(eta).sum(axis=1), "positive": self._table(eta[:, y == 1.0]), "negative": self._table(eta[:, y == 0.0])}
        return {name: np.asarray(value, dtype=np.float64) for name, value in out.items()}

    def _binary(self, eta: Floats, y: Floats) -> dict[str, tuple[Floats, float]]:
        n, event = float(len(y)), y == 1.0
        right = np.asarray(((eta > 0) == event).sum(axis=1), float)
        return {
            "log_loss": ((np.logaddexp(0.0, eta) - y * eta).sum(axis=1), n),
            "brier": (((y - expit(eta)) ** 2).sum(axis=1), n),
            "accuracy": (right, n),
            "auc_within_sites": (np.asarray([pairs(e[event], e[~event]) for e in eta]), float(event.sum() * (~event).sum())),
            "accuracy_mean_of_sites": (right / n, 1.0),
        }

    def _squared(self, eta: Floats, y: Floats) -> dict[str, tuple[Floats, float]]:
        squares = ((y - eta) ** 2).sum(axis=1)
        return {"mse": (squares, float(len(y))), "mse_mean_of_sites": (squares / len(y), 1.0)}

    def _table(self, eta: Floats) -> Floats:
        where = np.clip(np.floor((eta + SPAN) / (2.0 * SPAN) * self.params.bins), 0, self.params.bins - 1).astype(np.int64)
        return np.stack([np.bincount(w, minlength=self.params.bins) for w in where]).astype(np.float64)

    # --- from the sums ------------------------------------------------------------------------------------------------

    def _estimates(self, state: State) -> tuple[dict[str, Any], dict[str, Any]]:
        values: dict[str, Any] = {f: {} for f in self.forms}
        differences: dict[str, Any] = {f: {} for f in self.forms[1:]}
        for m in self.metrics:
            get = {k: self.own(state, f"{m}:{k}") for k in ("sums", "weight", "sites", "squares", "cross", "weight2")}
            sums, w, ww, sites = get["sums"].sum(axis=0), float(get["weight"].sum()), float(get["weight2"]), float(get["sites"])
            for j, f in enumerate(self.forms):
                values[f][m] = report.ratio(float(sums[j]), float(get["squares"][0, j]), float(get["cross"][0, j]), w, ww, sites)
                if j:
                    differences[f][m] = report.ratio(float(sums[j] - sums[0]), float(get["squares"][1, j]), float(get["cross"][1, j]), w, ww, sites)
        if self.binary:
            for j, f in enumerate(self.forms):
                found, curve, expected = (self.own(state, k)[j] for k in ("found", "curves", "expected"))
                values[f]["auc"] = report.discrimination(found)
                values[f]["calibration"] = report.calibration(found, curve, float(self.own(state, "outcome")), float(expected))
        return values, differences

    def _by_size(self, state: State) -> list[dict[str, Any]]:
        sites, begins, out = self.own(state, "sites_by_size"), self.own(state, "begins"), []
        for k in np.flatnonzero(sites).tolist():
            row: dict[str, Any] = {"test_patients": report.label([int(begins[k]), k], self.params.sizes), "sites": int(sites[k])}
            row["n"] = round(float(self.own(state, f"{self.metrics[0]}:weight")[k]))
            for m in self.metrics:
                sums, w = self.own(state, f"{m}:sums")[k], float(self.own(state, f"{m}:weight")[k])
                row[m] = {f: float(s) / w if w > 0 else None for f, s in zip(self.forms, sums, strict=True)}
            out.append(row)
        return out

    def _shrinkage(self, state: State) -> dict[str, Any]:
        n, held, k = float(self.own(state, "held_out_patients")), self.own(state, "held_out"), int(self.own(state, "chosen"))
        grid: list[float | None] = [*self.params.precisions, None]
        losses = (-held / n).tolist() if n else [None] * len(grid)
        return {"precision": grid[k], "grid": grid, "held_out_loss": losses, "held_out_patients": int(n), "intercept_share": self.params.intercept_share}

    def _few(self, state: State) -> list[str]:
        sites = int(self.own(state, f"{self.metrics[0]}:sites"))
        return [f"Only {sites} of the sites have test patients: these figures are theirs, and nobody else's."] if sites < LEAST_SITES else []

    def _warnings(self, shrinkage: dict[str, Any]) -> list[str]:
        out = []
        if not shrinkage["held_out_patients"]:
            out.append("No training patient could be kept back, so nothing said how far to shrink: 'shrunk' is the federated model.")
        elif shrinkage["precision"] is None:
            out.append("On the patients kept back no shrunk model beat the federated one: 'shrunk' is the federated model.")
        elif shrinkage["precision"] == self.params.precisions[0]:
            out.append(f"The smallest precision of the grid, {shrinkage['precision']:g}, was best: give smaller ones under precisions.")
        return out
