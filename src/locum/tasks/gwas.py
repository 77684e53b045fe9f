"""A genome-wide association study: a score test of every variant of a genotype array, in one round of sums.

An earlier `linear` or `logistic` step is the null model: phenotype on covariates. It is fitted once; `gwas_sums` has the formulas of the
tests. Where that step has site_intercepts, the study is stratified by site: differences of ancestry and phenotype between sites cancel.
Principal components of an earlier `genotype_pca` step, as features of the null model, take out structure within sites.

Rows are patients who are not related to each other. The null model's maximum is moved on by one Newton step should other sites answer than
those that it was fitted on: exact for `linear`, to second order for `logistic`. Where the sites' files name their variants, the sum says
whether all have the same ones and count the same alleles (`gwas_lists`).

Sources: Rao (1948), Proc. Camb. Phil. Soc. 44:50; Cochran (1954), Biometrics 10:417, and Mantel and Haenszel (1959), J. Nat. Cancer Inst. 22:719
(strata); Devlin and Roeder (1999), Biometrics 55:997 (genomic inflation); Homer et al. (2008), PLoS Genetics 4:e1000167 (what exact
allele frequencies of very many variants tell).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from locum.data.genotypes import Genotypes
from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.privacy.disclosure import THRESHOLD
from locum.study.manifest import Name, Step, Study, VariableName
from locum.study.vector import Array, Contribution, Layout, Total
from locum.tasks import gwas_lists, newton
from locum.tasks.base import BaseTask, Memory, Params, State, register
from locum.tasks.design import earlier, usable
from locum.tasks.glm import GLM
from locum.tasks.gwas_sums import Null, Tests, block_size, fields, inflation, minus_log10_p, p_values, site_sums
from locum.tasks.tails import Z95

Floats = NDArray[np.float64]
GENOME_WIDE = 5e-8
"""The usual level of a genome-wide study: Risch and Merikangas (1996), Science 273:1516; about 5 % over a million independent variants."""
TOP = 100
"""Variants in the JSON result; `table` has all."""
POOR = 10.0
"""Copies of the rarer allele among the rarer outcome below which the normal approximation gives tails that are too light."""
STATUS = (
    "shown",
    "fewer copies of the rarer allele than min_count, or none",
    "called in too few patients (min_call_rate)",
    "far from Hardy-Weinberg equilibrium (min_hwe_p)",
    "determined by the covariates and the strata",
)
"""What the array `status` of the state says of each variant."""
_COLUMNS = ("chi2", "effect", "se", "frequency", "called", "hwe_chi2")
_FACTS = ("rows", "left_out", "uninformative_rows", "intercepts", "outcome")
_ROW = "(row)"


class GwasParams(Params):
    """null: an earlier linear or logistic step, whose outcome, features, part and intercepts are used. genotypes: an array variable of shape
    [variants]: copies of the counted allele, 0 to 2, NaN where not called. variants: their names, if they are few enough for a manifest.

    min_count: a variant with fewer copies of its rarer allele in the cohort is not shown. min_call_rate, min_hwe_p: nor is one that
    was called in a smaller share of the patients, or whose Hardy-Weinberg test has a smaller p.
    """

    null: Name
    genotypes: VariableName = "genotypes"
    variants: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], Field(max_length=100_000)] = ()
    min_count: Annotated[int, Field(ge=THRESHOLD)] = 20
    min_call_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    min_hwe_p: Annotated[float, Field(ge=0, lt=1)] = 0.0


@register
class Gwas(BaseTask[GwasParams]):
    kind = "gwas"
    Config = GwasParams
    takes = (*BaseTask.takes, "array")

    def __init__(self, step: Step, params: GwasParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.null: GLM = earlier(self, params.null, "null", "linear", "logistic")
        self.centre = self.null.params.site_intercepts
        self.columns = self.null.design.size
        self.require(*self.reads())
        self.variants = size_of(self, params.genotypes)
        if self.null.params.ridge:
            raise ManifestError(f"Step '{step.name}': the null model '{params.null}' has a ridge penalty, with which there is no score test.", fix="drop ridge")
        if not self.centre and not self.null.has_intercept:
            raise ManifestError(f"Step '{step.name}': the null model '{params.null}' has no intercept.", fix="set intercept or site_intercepts to true")
        if params.variants and len(params.variants) != self.variants:
            raise ManifestError(
                f"Step '{step.name}' names {len(params.variants)} variants, and '{params.genotypes}' has {self.variants}.", fix="name each, in order, or none"
            )

    def reads(self) -> tuple[str, ...]:
        return (*self.null.reads(), self.params.genotypes)

    def leaves(self) -> str:
        strata = "Hardy-Weinberg excess and variance" if self.centre else "counts of the three genotypes"
        return (
            f"Once, for each of {self.variants:,} variants: patients called, their alleles, the score, its variance, {self.columns} products with "
            f"covariates and the {strata}; the null model's sums; and a hash of the list of variants; {self.layout({}).size:,} numbers in all."
        )

    def layout(self, state: State) -> Layout:
        p = self.columns
        facts: dict[str, tuple[int, ...]] = dict.fromkeys((*_FACTS, "weights", "residual_squares"), ())
        shapes = fields(self.variants, p, centre=self.centre)
        return Layout.of(**facts, **gwas_lists.FIELDS, gradient=(p,), information=(p * (p + 1) // 2,), **shapes)

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        genotypes = array_of(self, rows, self.params.genotypes)
        kept, left_out = _used(self.null, rows)
        vector = self.layout(state).zeros()
        vector["left_out"] = np.asarray(float(left_out))
        if not len(kept.columns[_ROW]):
            return Contribution(vector, 0, self.leaves())
        y, eta = kept.columns[self.null.params.outcome], self.null.scores(state, kept)
        problem = self.null.outcome_error(y)
        if problem:
            raise TaskError(f"The outcome '{self.null.params.outcome}' {problem}.", fix="correct the mapping, or take another null model")
        own = self.null.profiled(y, eta) if self.centre else 0.0
        if own is None:  # all outcomes of this site are alike: its intercept takes them all, and nothing is left to test
            vector["uninformative_rows"] = np.asarray(float(len(y)))
            return Contribution(vector, kept.patients, self.leaves())
        _, residual, w = self.null.likelihood(y, eta + own)
        null = Null.of(self.null.design.matrix(state, kept), residual, w, centre=self.centre)
        vector |= site_sums(_blocks(genotypes, kept.columns[_ROW].astype(np.intp)), null, self.variants)
        vector |= {
            "rows": np.asarray(float(len(y))),
            "intercepts": np.asarray(float(self.centre)),
            "outcome": np.asarray(y.sum()),
            "weights": np.asarray(w.sum()),
            "residual_squares": np.asarray(residual @ residual),
            "gradient": null.x.T @ residual,
            "information": newton.pack(null.x.T @ (null.x * w[:, None])),
        }
        vector |= gwas_lists.facts(genotypes)
        return Contribution(vector, kept.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        rows = float(total["rows"])
        if not rows:
            raise TaskError(f"No site has a usable row for step '{self.step.name}'.", fix="look for a variable that is missing everywhere")
        if not self.null.done(state):
            raise TaskError(f"The null model '{self.params.null}' has not converged, so there is nothing to test against.", fix="give that step more rounds")
        gwas_lists.check(total, self.step.name)
        gradient = np.asarray(total["gradient"], float)
        information = newton.unpack(total["information"], self.columns)
        newton.diagnose(information, newton.Problem(self.null.design.names, np.diag(information), 1e-9, ""))
        off = float(gradient @ newton.solve(information, gradient))
        phi = self._dispersion(total, off)
        tests = Tests.of(total.vector, information, gradient, float(total["weights"]), rows, centre=self.centre)
        status = self._status(tests, rows)
        shown = status == 0
        v = np.where(shown, tests.variance, 1.0)
        arrays = {
            "chi2": tests.score**2 / (phi * v),
            "effect": tests.score / v,
            "se": np.sqrt(phi / v),
            "frequency": tests.alleles / np.maximum(2.0 * tests.called, 1.0),
            "called": tests.called,
            "hwe_chi2": tests.hwe,
        }
        facts = {k: total[k] for k in (*_FACTS, "lists", "lists_unknown")}
        hidden = {k: np.where(shown, a, 0.0) for k, a in arrays.items()}  # what is not shown is not kept either
        constant = float((tests.minor <= 0.0).sum())
        return self.merge(state, **hidden, **facts, status=status.astype(np.int64), constant=constant, off=off / phi, sites=float(total.sites), finished=1)

    def _dispersion(self, total: Total, off: float) -> float:
        if self.null.kind == "logistic":
            return 1.0
        df = float(total["rows"]) - self.columns - float(total["intercepts"])
        if df < 1:
            raise TaskError(f"The null model '{self.params.null}' has as many coefficients as rows.", fix="use fewer covariates")
        rss = float(total["residual_squares"]) - off
        if rss <= 1e-12 * max(float(total["outcome"]) ** 2 / float(total["rows"]), np.finfo(float).tiny):
            raise TaskError("The covariates determine the phenotype: no variance is left to explain.", fix="drop the covariate that is computed from it")
        return float(rss / df)

    def _status(self, tests: Tests, rows: float) -> NDArray[np.int8]:
        p = self.params
        why = (
            tests.minor < p.min_count - 1e-6,  # dosages add up with rounding
            tests.called < p.min_call_rate * rows,
            p_values(tests.hwe) < p.min_hwe_p,
            tests.variance <= tests.least,
        )
        return np.select(why, np.arange(1, len(STATUS), dtype=np.int8), np.int8(0))

    def done(self, state: State) -> bool:
        return self.key("finished") in state

    def result(self, state: State) -> dict[str, Any]:
        if not self.done(state):
            raise TaskError(f"Step '{self.step.name}' has not run.", fix="keep the plan's order")
        status, chi2 = self.own(state, "status"), self.own(state, "chi2")
        shown = np.flatnonzero(status == 0)
        top = shown[np.argsort(-chi2[shown], kind="stable")[:TOP]]
        constant = int(self.own(state, "constant"))
        counts = np.bincount(status, minlength=len(STATUS))
        lambda_gc = inflation(chi2[shown])
        return {
            "family": self.null.kind,
            "stratified": self.centre,
            "n": int(self.own(state, "rows")),
            "sites": int(self.own(state, "sites")),
            "left_out": int(self.own(state, "left_out")),
            "rows_without_information": int(self.own(state, "uninformative_rows")),
            "outcome_sum": float(self.own(state, "outcome")),
            "variants": self.variants,
            "tested": len(shown),
            "not_shown": {"no variation": constant, "rare": int(counts[1]) - constant, **{STATUS[k]: int(counts[k]) for k in range(2, len(STATUS))}},
            "lambda_gc": lambda_gc,
            "genome_wide_significant": int((minus_log10_p(chi2[shown]) >= -np.log10(GENOME_WIDE)).sum()),
            "hits": self._hits(state, top),
            "qq": qq_points(minus_log10_p(chi2[shown])),
            "warnings": self._warnings(state, shown, lambda_gc),
        }

    def _hits(self, state: State, top: NDArray[np.intp]) -> list[dict[str, Any]]:
        frame = table(state, self.step.name, shown=False)[top]
        names = self.params.variants
        out = []
        for row in frame.iter_rows(named=True):
            effect, se = row["effect"], row["se"]
            low, high = effect - Z95 * se, effect + Z95 * se
            row |= {"variant": names[row["column"]] if names else None, "ci95": [low, high]}
            if self.null.kind == "logistic":
                row |= {"odds_ratio": _exp(effect), "odds_ratio_ci95": [_exp(low), _exp(high)]}
            out.append({k: v for k, v in row.items() if k != "status"})
        return out

    def _warnings(self, state: State, shown: NDArray[np.intp], lambda_gc: float | None) -> list[str]:
        out, n = gwas_lists.warning({k: self.own(state, k) for k in ("lists", "lists_unknown")}), float(self.own(state, "rows"))
        if lambda_gc is not None and lambda_gc > 1.05:
            cure = "principal components among the null model's features" if self.centre else f"site_intercepts = true in step '{self.params.null}'"
            out.append(f"lambda_GC is {lambda_gc:.3f}: population structure, relatedness or many true effects inflate the statistics; try {cure}.")
        fitted = float(self.null.own(state, "rows")) - (float(self.null.own(state, "uninformative_rows")) if self.centre else 0.0)
        if n != fitted or float(self.own(state, "off")) > 1e-6:
            out.append(f"The null model was fitted on {fitted:.0f} rows and the tests are of {n:.0f}: it was moved on by one Newton step.")
        if self.null.kind == "logistic":
            cases = float(self.own(state, "outcome"))
            f = self.own(state, "frequency")[shown]
            few = int((2.0 * np.minimum(f, 1.0 - f) * min(cases, n - cases) < POOR).sum())
            if few:
                out.append(f"{few} variants have fewer than {POOR:.0f} expected copies among the rarer outcome: their small p-values are too small.")
        if len(shown) > TOP:
            out.append("Exact frequencies of very many variants tell whoever has a person's genotypes whether that person took part (Homer et al., 2008).")
        return out


def size_of(task: BaseTask[Any], name: str) -> int:
    """How many variants an array variable holds; raises `ManifestError` unless it is one row of numbers."""
    variable = task.study.data.variables[name]
    if variable.type != "array" or len(variable.shape) != 1:
        raise ManifestError(f"Step '{task.step.name}': '{name}' is no array of shape [variants].", fix="name a variable of type 'array' with one dimension")
    return variable.shape[0]


def array_of(task: BaseTask[Any], rows: Rows, name: str) -> NDArray[np.float32] | Genotypes:
    """The genotypes of a site whose rows are patients, shape (n, variants). Raises `TaskError`."""
    if name not in rows.arrays:
        raise TaskError(f"Step '{task.step.name}' reads '{name}', which this site's rows do not have.", fix="map that variable, or leave the study")
    if rows.patients < len(rows):
        raise TaskError("A patient has more than one row of genotypes.", why="Each would count as another person.", fix="keep one row for each patient")
    return rows.arrays[name]


def table(state: State, step: str = "gwas", variants: pl.DataFrame | None = None, *, shown: bool = True) -> pl.DataFrame:
    """All variants of a run's state, one row each: column (its place in the array), chi2, p, minus_log10_p, effect, se, frequency (of the counted
    allele), called, call_rate, hwe_p, status. variants: what is known of them (name, chrom, pos, ref, alt), in the array's order. shown:
    only those with a test; the others have nulls. Write it with `write_csv` or `write_parquet`."""
    arrays = {name: np.asarray(state[f"{step}.{name}"]) for name in (*_COLUMNS, "status")}
    size, rows = len(arrays["status"]), float(state[f"{step}.rows"])
    if variants is not None and len(variants) != size:
        raise TaskError(f"{len(variants)} variants are described, and {size} were tested.", fix="give the list that the genotype arrays were made by")
    frame = pl.DataFrame({"column": np.arange(size), "chi2": arrays["chi2"], "p": p_values(arrays["chi2"]), "minus_log10_p": minus_log10_p(arrays["chi2"])})
    more = {name: arrays[name] for name in ("effect", "se", "frequency", "called")}
    frame = frame.with_columns(pl.Series(n, a) for n, a in (more | {"call_rate": arrays["called"] / rows, "hwe_p": p_values(arrays["hwe_chi2"])}).items())
    visible = pl.Series(arrays["status"] == 0)
    frame = frame.with_columns(pl.when(visible).then(pl.exclude("column")).otherwise(None))
    frame = frame.with_columns(pl.col("called").cast(pl.Int64), pl.Series("status", arrays["status"]))
    frame = pl.concat([variants, frame], how="horizontal") if variants is not None else frame
    return frame.filter(visible) if shown else frame


def qq_points(observed: Floats, most: int = 200) -> list[list[float]]:
    """Pairs (expected, observed) of -log10 p, the largest first, at ranks that are dense among the smallest p."""
    m = len(observed)
    if not m:
        return []
    ranks = np.unique(np.rint(np.geomspace(1, m, min(m, most))).astype(int))
    ordered = -np.sort(-observed)
    return [[float(-np.log10((r - 0.5) / m)), float(ordered[r - 1])] for r in ranks]


def _used(null: GLM, rows: Rows) -> tuple[Rows, int]:
    """The rows that the null model uses, without their arrays, and with the place of each among `rows` as a column; and how many it leaves out."""
    bare = Rows({**rows.columns, _ROW: np.arange(len(rows), dtype=np.float64)}, rows.patient, test=rows.test)
    used = usable(null, bare, null.params.part)
    return used.rows, used.left_out


def _blocks(genotypes: NDArray[np.float32] | Genotypes, kept: NDArray[np.intp]) -> Iterator[Array]:
    """The kept rows of a site, some variants at a time."""
    size = block_size(len(kept))
    for first in range(0, genotypes.shape[1], size):
        columns = slice(first, first + size)
        yield genotypes.calls(kept, columns) if isinstance(genotypes, Genotypes) else genotypes[kept, columns]


def _exp(x: float) -> float | None:
    return float(np.exp(x)) if x < 700.0 else None
