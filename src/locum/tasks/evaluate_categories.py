"""How well a model of several categories predicts on patients it has not seen.

Of K categories, with p_ik the predicted probability of category k in row i, and the most probable one as the prediction:

    confusion        rows by true and predicted category: accuracy, sensitivity (recall) and precision by category
    F1               2 TP / (2 TP + FP + FN) = 2 J / (1 + J) with the proportion J = TP / (TP + FP + FN), whose Wilson interval it takes over
                     (Hand, Christen and Kirielle, 2021, Machine Learning 110:451)
    AUC              of each category against the rest, from counts of log(p / (1 - p)) in fixed bins, with a rigorous bound on what the binning
                     may cost (`concordance.auc_table`); the macro-AUC is the unweighted mean over categories (Hand and Till, 2001, compare pairs instead)
    log loss, Brier  mean of -log p_iy and of sum_k (1[y = k] - p_ik)^2
    calibration      of each category: rows, mean probability and share observed in ten bins of probability, neighbours joined until each holds
                     five rows of the category and five of others

Intervals are Wilson's (1927, JASA 22:209), for rows as if each were somebody else. A device gives thousands of rows of one person, who are alike:
`ci95_by_patient` is of the ratio estimator over patients (Cochran, 1977, Sampling Techniques, section 2.9): with c_i of n_i rows of
patient i, a = sum c / sum n, its variance is v = e / (e - 1) sum (c_i - a n_i)^2 / (sum n)^2, which three sums of squares give, with the
effective number of patients e = (sum n)^2 / sum n^2 (Kish, 1965). The interval is Wilson's for a (1 - a) / v rows (Korn and Graubard, 1998, Survey
Methodology 24:193), for e of them where all or none are right, with Student's t of e - 1 degrees of freedom. In simulations of 4 to 100 patients,
nominal 95 % intervals held in 92 to 98 %; a +- 1.96 sqrt(v) held in 70 to 94 %. There is none for fewer than two effective patients.
"""

from __future__ import annotations

from itertools import takewhile
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.rows import Rows
from locum.errors import LocumError, ManifestError, TaskError
from locum.privacy.disclosure import THRESHOLD
from locum.study.document import nearest
from locum.study.manifest import Step, Study
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import BaseTask, Memory, State, build, register
from locum.tasks.concordance import auc_table
from locum.tasks.design import earlier, usable
from locum.tasks.evaluate_binary import SPAN, EvaluateParams, check_unseen
from locum.tasks.tails import Z95, student_95

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
KINDS = ("multinomial", "ordinal")
DECILES = 10
MOST_NUMBERS = 1 << 22
FEWEST = 5
"""Rows of a category, and rows of others, that a shown bin of its calibration holds at least."""
TABLES = ("own", "rest", "calibration")
"""What only the coordinator sees in full: a bin may hold one row, so that the state keeps what follows from them."""
RATES = ("accuracy", "sensitivity", "precision")


class EvaluateCategoriesParams(EvaluateParams):
    """bins: of each score histogram. macro: the categories whose mean AUC is reported; by default all that part of the rows have."""

    bins: Annotated[int, Field(ge=2, le=100_000)] = 1024
    macro: tuple[str, ...] = ()


@register
class EvaluateCategories(BaseTask[EvaluateCategoriesParams]):
    """One round of counts. The model: any earlier step with `categories` (K names) and `probabilities(state, rows)` (n, K)."""

    kind = "evaluate_categories"
    Config = EvaluateCategoriesParams
    takes = (*BaseTask.takes, "array")

    def __init__(self, step: Step, params: EvaluateCategoriesParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.model: Any = model_of(self, params.model)
        check_unseen(self, self.model)
        self.categories: tuple[str, ...] = tuple(self.model.categories)
        strange = [c for c in params.macro if c not in self.categories]
        if strange:
            raise ManifestError(f"Step '{step.name}': macro names '{strange[0]}', which is no category.", fix=nearest(strange[0], [*self.categories]))

        if self.layout({}).size > MOST_NUMBERS:
            raise ManifestError(
                f"Step '{step.name}' would send {self.layout({}).size:,} numbers; at most {MOST_NUMBERS:,}.",
                why=f"{len(self.categories)} categories, {params.bins} bins.",
                fix="use fewer bins, or merge categories",
            )

    @property
    def size(self) -> int:
        return len(self.categories)

    def reads(self) -> tuple[str, ...]:
        return tuple(self.model.reads())

    def leaves(self) -> str:
        k, b = self.size, self.params.bins
        return (
            f"How many rows of each of the {k} categories were predicted as each, and have a predicted risk in each of {b} bins; sums of the log loss, "
            f"of squared errors and of probabilities; over patients, sums of squares of how many rows were predicted rightly: {self.layout({}).size} numbers."
        )

    def layout(self, state: State) -> Layout:
        k, b = self.size, self.params.bins
        squares = {f"{rate}_squares": (1 if rate == "accuracy" else k, 3) for rate in RATES}
        return Layout.of(
            confusion=(k, k), own=(k, b), rest=(k, b), calibration=(k, DECILES, 3), **squares,
            patients=(), left_out=(), log_loss=(), brier=(),
        )  # fmt: skip

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        used = usable(self, rows, self.params.part, getattr(self.model, "needed", None))
        vector = self.layout(state).zeros() | {"left_out": np.asarray(float(used.left_out))}
        if len(used.rows):
            y, p = observed(self.model, used.rows), np.asarray(self.model.probabilities(state, used.rows), dtype=np.float64)
            vector |= scored(y, p, self.params.bins) | by_patient(y, p.argmax(axis=1), used.rows.codes, self.size)
            vector["patients"] = np.asarray(float(used.rows.patients))
        return Contribution(vector, used.rows.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        confusion = np.asarray(total["confusion"], float)
        if not confusion.any():
            fix = "use a larger test share, or look for a variable that is missing everywhere"
            raise TaskError(f"No usable row is in part '{self.params.part}' for step '{self.step.name}'.", fix=fix)
        if np.count_nonzero(confusion.sum(axis=1)) < 2:
            only = self.categories[int(confusion.sum(axis=1).argmax())]
            raise TaskError(f"All rows of part '{self.params.part}' have '{only}', so there is nothing to tell apart.", fix="use a larger test share")
        own, rest, bins = (np.asarray(total[name], float) for name in TABLES)
        auc = [found_auc(a, b) for a, b in zip(own, rest, strict=True)]
        expected = bins[:, :, 1].sum(axis=1)
        kept = {f.name: total[f.name] for f in self.layout(state).fields if f.name not in TABLES}
        return self.merge(state, sites=total.sites, auc=auc, expected=expected, calibration=[joined(t) for t in bins], **kept)

    def done(self, state: State) -> bool:
        return self.key("confusion") in state

    def result(self, state: State) -> dict[str, Any]:
        names = [f.name for f in self.layout(state).fields if f.name not in TABLES]
        get = {name: np.asarray(self.own(state, name), float) for name in (*names, "auc", "expected", "calibration")}
        confusion, n = get["confusion"], float(get["confusion"].sum())
        classes = {name: self._category(k, get) for k, name in enumerate(self.categories)}
        wanted = self.params.macro or self.categories
        counted = [c for c in wanted if classes[c]["auc"] is not None]
        absent = [c for c in wanted if classes[c]["auc"] is None]
        macro = None if not counted else float(np.mean([classes[c]["auc"]["value"] for c in counted]))
        bound = None if not counted else float(np.mean([classes[c]["auc"]["error_bound"] for c in counted]))
        found = {
            "part": self.params.part,
            "n": int(n),
            "patients": int(get["patients"]),
            "sites": int(self.own(state, "sites")),
            "left_out": int(get["left_out"]),
            "categories": list(self.categories),
            "confusion": confusion.astype(int).tolist(),
            "accuracy": proportion(float(np.trace(confusion)), n, get["accuracy_squares"][0], get["patients"]),
            "majority": {"category": self.categories[int(confusion.sum(axis=1).argmax())], "accuracy": float(confusion.sum(axis=1).max() / n)},
            "macro_auc": {"value": macro, "error_bound": bound, "over": counted, "left_out": absent},
            "macro_sensitivity": float(np.mean([c["sensitivity"]["value"] for c in classes.values() if c["n"]])),
            "log_loss": float(get["log_loss"]) / n,
            "brier": float(get["brier"]) / n,
            "classes": classes,
        }
        return found | self._size() | {"warnings": self._warnings(found, confusion)}

    def _category(self, k: int, get: dict[str, Floats]) -> dict[str, Any]:
        confusion, patients = get["confusion"], get["patients"]
        hit, true, said = float(confusion[k, k]), float(confusion[k].sum()), float(confusion[:, k].sum())
        value, bound, se = get["auc"][k].tolist()
        auc = None if value < 0 else {"value": value, "error_bound": bound, "se": se if se >= 0 else None}
        bins = [
            {"n": int(m), "predicted": p / m, "observed": e / m, "ci95": wilson(e, m)} for m, p, e in get["calibration"][k].tolist() if m > 0
        ]  # fmt: skip
        expected = float(get["expected"][k])
        return {
            "n": int(true),
            "predicted": int(said),
            "sensitivity": proportion(hit, true, get["sensitivity_squares"][k], patients),
            "precision": proportion(hit, said, get["precision_squares"][k], patients),
            "f1": f1(hit, true, said),
            "auc": auc,
            "calibration": {"observed_over_expected": true / expected if expected > 0 else None, "bins": bins},
        }

    def _size(self) -> dict[str, Any]:
        """How large the model is, where it says so: what a phone would have to hold."""
        size = getattr(self.model, "size", None)
        return {"model": {"parameters": size, "bytes_float32": 4 * size}} if isinstance(size, int) else {}

    def _warnings(self, found: dict[str, Any], confusion: Floats) -> list[str]:
        out = []
        if found["macro_auc"]["left_out"]:
            out.append(f"The macro-AUC leaves out {', '.join(found['macro_auc']['left_out'])}, of which part '{self.params.part}' has no row.")
        never = [c for c, k in found["classes"].items() if k["n"] and not k["predicted"]]
        if never:
            out.append(f"The model never predicts {', '.join(never)}: there is no precision.")
        few = int(((confusion > 0) & (confusion < THRESHOLD)).sum())
        if few:
            out.append(f"{few} cells of the confusion matrix hold fewer than {THRESHOLD} rows: hide them before the table is published.")
        if found["n"] > 1.5 * found["patients"]:
            out.append("Patients have several rows each: read the intervals by patient; the others, and the standard errors of AUC, take rows as independent.")
        thin = [c for c, k in found["classes"].items() if k["n"] and k["sensitivity"]["ci95_by_patient"] is None]
        if thin:
            out.append(f"Nearly all rows of {', '.join(thin)} are of one patient: what is said of them is said of that patient.")
        if found["patients"] < 30:
            out.append(f"There are {found['patients']} patients: an interval by patient from so few is rough.")
        return out


def model_of(task: BaseTask[Any], name: str) -> Any:
    """The earlier step called `name`, if it predicts categories; raises `ManifestError`."""
    before = {s.name: s for s in takewhile(lambda s: s.name != task.step.name, task.study.plan)}
    if name in before and before[name].task not in KINDS:
        try:
            found = build(before[name], task.study)
        except LocumError:
            found = None
        if hasattr(found, "probabilities") and hasattr(found, "categories"):
            return found
    return earlier(task, name, "model", *KINDS)


def observed(model: Any, rows: Rows) -> Ints:
    """The position of each row's category among `model.categories`, shape (n,). Raises `TaskError`."""
    if hasattr(model, "observed"):
        return np.asarray(model.observed(rows))
    outcome = model.params.outcome
    y = rows.columns[outcome]
    if not np.isin(y, np.arange(len(model.categories))).all():
        raise TaskError(f"The outcome '{outcome}' has values that are none of its categories.", fix="correct the mapping")
    return y.astype(np.int64)


def scored(y: Ints, p: Floats, bins: int) -> dict[str, Floats]:
    """The counts and sums of rows with categories y (n,) and probabilities p (n, K). Raises `TaskError` where p is no probability."""
    n, k = p.shape
    if not np.isfinite(p).all() or (p < 0).any() or np.abs(p.sum(axis=1) - 1.0).max() > 1e-6:
        raise TaskError("The model's probabilities do not add up to one.", fix="look at the model's own step: it may have diverged")
    right = y[:, None] == np.arange(k)
    with np.errstate(divide="ignore"):
        score = np.log(p) - np.log1p(-np.minimum(p, 1.0))
    place = np.clip(np.floor((score + SPAN) / (2.0 * SPAN) * bins), 0, bins - 1).astype(np.int64)
    decile = np.minimum((p * DECILES).astype(np.int64), DECILES - 1)
    table = [np.bincount(place[right[:, c], c], minlength=bins) for c in range(k)]
    rest = [np.bincount(place[~right[:, c], c], minlength=bins) for c in range(k)]
    curve = [[np.bincount(decile[:, c], w, DECILES) for w in (None, p[:, c], right[:, c].astype(float))] for c in range(k)]
    return {
        "confusion": np.bincount(y * k + p.argmax(axis=1), minlength=k * k).reshape(k, k).astype(float),
        "own": np.asarray(table, float),
        "rest": np.asarray(rest, float),
        "calibration": np.moveaxis(np.asarray(curve, float), 1, 2),
        "log_loss": np.asarray(-np.log(np.maximum(p[np.arange(n), y], np.finfo(float).tiny)).sum()),
        "brier": np.asarray(((right - p) ** 2).sum()),
    }


def found_auc(own: Floats, rest: Floats) -> tuple[float, float, float]:
    """AUC, its error bound and its standard error from score bins; -1 where there is none."""
    if not own.any() or not rest.any():
        return -1.0, -1.0, -1.0
    value, bound, se = auc_table(own, rest)
    return value, bound, -1.0 if se is None else se


def joined(bins: Floats) -> Floats:
    """Bins (DECILES, 3) of rows, sums of probabilities and rows of the category, neighbours joined until none tells of few; the others zero."""
    out, pending, last = np.zeros_like(bins), np.zeros(3), -1
    for k, here in enumerate(bins):
        pending = pending + here
        if min(pending[2], pending[0] - pending[2]) >= FEWEST:
            out[k], pending, last = pending, np.zeros(3), k
    if last >= 0:
        out[last] += pending
    return out


def by_patient(y: Ints, said: Ints, codes: Ints, k: int) -> dict[str, Floats]:
    """For each rate the sums over patients of c^2, c n and n^2, where c of a patient's n rows were right: (1, 3) or (K, 3)."""

    def sums(of: Ints, among: int) -> Floats:
        cells, size = codes * among + of, (int(codes.max()) + 1) * among
        right, all_ = (np.bincount(cells, w, size).reshape(-1, among) for w in ((y == said).astype(float), None))
        return np.asarray(np.stack([(right**2).sum(axis=0), (right * all_).sum(axis=0), (all_.astype(float) ** 2).sum(axis=0)], axis=1), float)

    return {"accuracy_squares": sums(np.zeros_like(y), 1), "sensitivity_squares": sums(y, k), "precision_squares": sums(said, k)}


def proportion(c: float, n: float, squares: Floats, patients: Any) -> dict[str, Any]:
    """c / n with Wilson's interval, and the one by patient (None for fewer than two)."""
    if n == 0:
        return {"value": None, "ci95": None, "ci95_by_patient": None}
    a = c / n
    out: dict[str, Any] = {"value": a, "ci95": wilson(c, n), "ci95_by_patient": None}
    effective = min(float(patients), n * n / float(squares[2])) if squares[2] > 0 else 0.0
    if effective >= 2.0:
        spread = max(0.0, float(squares[0] - 2.0 * a * squares[1] + a * a * squares[2]))
        variance = effective / (effective - 1.0) * spread / n**2
        like = min(n, a * (1.0 - a) / variance) if 0.0 < a < 1.0 and variance > 0 else effective
        out["ci95_by_patient"] = wilson(a * like, like, student_95(effective - 1.0))
    return out


def wilson(c: float, n: float, reach: float = Z95) -> list[float]:
    """Wilson's 95 % interval of c of n. reach: the quantile that it is made with."""
    z, a = reach**2, c / n
    middle, half = a + z / (2.0 * n), reach * float(np.sqrt(a * (1.0 - a) / n + z / (4.0 * n * n)))
    return [max(0.0, (middle - half) / (1.0 + z / n)), min(1.0, (middle + half) / (1.0 + z / n))]


def f1(hit: float, true: float, said: float) -> dict[str, Any]:
    """F1 with its interval; None where the category neither occurs nor is predicted."""
    union = true + said - hit
    if not union:
        return {"value": None, "ci95": None}
    return {"value": 2.0 * hit / (true + said), "ci95": [2.0 * j / (1.0 + j) for j in wilson(hit, union)]}
