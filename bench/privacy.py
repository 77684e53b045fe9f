"""Differential privacy: what noise costs in time and in accuracy, beside none, beside noise of each site's own, and beside the central ceiling.

Utility runs the whole path in process: manifest, calibration, ledgers, sampling, clipping, integer noise of every site, encoding, sum. Each of
20 seeds has a split and noise of its own (seeded, so that the figures can be had again); scores are then computed on the test patients in the
open, which no study could do. `central` adds the noise once, to the pooled sum: nothing that keeps the promise does better with that recipe.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.report import Report
from bench.secagg import cores, spread, timed
from locum import Rows, Study, simulate
from locum.data import registry
from locum.federation.budget import budget_of
from locum.privacy.noise import DiscreteGaussian, Skellam, keystream
from locum.study.manifest import DataSpec, Split
from locum.study.vector import Total
from locum.tasks import State, build_plan

Floats = NDArray[np.float64]
Sites = Mapping[str, Rows]
SEEDS = 20
EXACT = "none"


def run(report: Report, *, quick: bool = False, only: str | None = None) -> None:
    parts: dict[str, Callable[[Report, bool], None]] = {
        "noise": noise, "step": step, "quote": quotes, "breast": breast, "heart": heart, "ist": ist, "audit": audit,
    }  # fmt: skip
    for name, part in parts.items():
        if only in (None, name):
            part(report, quick)


# --- speed ------------------------------------------------------------------------------------------------------------


def noise(report: Report, quick: bool) -> None:
    """A million samples on one core, beside the keystream they are drawn from and floats that protect less."""
    n = 10_000 if quick else 1_000_000
    rng, key = np.random.default_rng(0), os.urandom(32)
    with cores(1):
        works = [
            lambda: DiscreteGaussian(2000.0).sample(key, n),
            lambda: DiscreteGaussian(200.0).sample(key, n),
            lambda: Skellam(2000.0).sample(key, n),
            lambda: keystream(key, 8 * n),
            lambda: rng.normal(size=n),
        ]
        large, small, skellam, stream, floats = timed(*works)
    reference = statistics.median(stream)
    report.add(
        "gaussian_1m_s",
        statistics.median(large),
        "s",
        reference=reference,
        note=f"sigma 2000, one core ({spread(large)}); aim 0.5; reference: 8 bytes of AES-CTR a sample",
    )
    report.add("gaussian_1m_small_s", statistics.median(small), "s", reference=reference, note="sigma 200: one table look-up")
    report.add("skellam_1m_s", statistics.median(skellam), "s", reference=reference, note="sigma 2000")
    report.add("numpy_normal_1m_s", statistics.median(floats), "s", reference=reference, note="floats of a generator that is no CSPRNG: for scale only")


def step(report: Report, quick: bool) -> None:
    """One site's part of a training round: plain gradient, and clipped per patient with its noise."""
    for model, n, p, options in (("logistic", 20_000, 50, {}), ("mlp", 4_000, 50, {"model": "mlp", "hidden": [64, 32]})):
        n = n // 20 if quick else n
        rng = np.random.default_rng(1)
        names = [f"x{j}" for j in range(p)]
        rows = Rows.of({**{x: rng.normal(size=n).clip(-4, 4) for x in names}, "y": (rng.random(n) < 0.4).astype(float)})
        variables = {**{x: {"minimum": -4, "maximum": 4} for x in names}, "y": {"type": "boolean"}}
        plan = [{"name": "m", "task": "sgd", "features": names, "outcome": "y", "rounds": 50, **options}]

        def made(privacy: Any, variables: Any = variables, plan: Any = plan) -> Study:
            return Study.parse({"name": "b", "data": {"variables": variables}, "terms": {"privacy": privacy}, "plan": plan})

        exact, private = made(EXACT), made({"eps": 3.0, "delta": 1e-6, "patients": n})
        (plain,), (noisy,), budget = build_plan(exact), build_plan(private), budget_of(private)
        assert budget
        layout = noisy.layout({})

        def protected(noisy: Any = noisy, rows: Rows = rows, layout: Any = layout, budget: Any = budget) -> None:
            budget.add_noise(0, layout, noisy.visit({}, rows, {}, np.random.default_rng(0)).vector, os.urandom(32))

        with cores(1):
            a, b = timed(lambda plain=plain, rows=rows: plain.visit({}, rows, {}, np.random.default_rng(0)), protected, runs=9)
        ratio = statistics.median(y / x for x, y in zip(a, b, strict=True))
        note = f"{n:,} patients, {p} features{', hidden 64-32' if options else ''}: clip, noise and all; plain {statistics.median(a) * 1e3:.1f} ms; aim 2"
        report.add(f"step_over_plain_{model}", ratio, "ratio", note=note)


STUDY = """
name = "quoted"
[data.variables]
age = { minimum = 0, maximum = 120 }
died = { type = "boolean" }
[terms.privacy]
eps = 3.0
delta = 1e-6
patients = 10000
[[plan]]
name = "scale"
task = "standardise"
variables = ["age"]
share = 0.1
[[plan]]
name = "model"
task = "sgd"
features = ["age"]
outcome = "died"
rounds = 1000
"""


def quotes(report: Report, quick: bool) -> None:
    """The command as a user types it: a new process each time."""
    with tempfile.TemporaryDirectory() as folder:
        for metric, text, note in (
            ("quote_s", STUDY + "sample = 0.02\n", "1,000 sampled rounds (privacy loss distributions)"),
            ("quote_full_s", STUDY, "the same without sampling"),
        ):
            path = Path(folder) / "study.toml"
            path.write_text(text)
            seconds = []
            for _ in range(2 if quick else 5):
                start = time.perf_counter()
                subprocess.run([sys.executable, "-m", "locum", "privacy", "quote", str(path)], check=True, capture_output=True)
                seconds.append(time.perf_counter() - start)
            report.add(metric, statistics.median(seconds), "s", note=f"{note}; a process from start to end ({spread(seconds)}); aim 2")


def audit(report: Report, quick: bool) -> None:
    from locum.privacy.attacks.audit import run as attack

    start = time.perf_counter()
    found = attack(full=False, progress=lambda _: None)
    report.add("audit_s", time.perf_counter() - start, "s", note=f"the fast part of locum privacy audit, {'passed' if found.passed else 'FAILED'}; aim 180")


# --- utility ----------------------------------------------------------------------------------------------------------


class Trial:
    """One data set, one model step, one figure of merit on the test patients."""

    def __init__(self, sites: Sites, spec: DataSpec, step: dict[str, Any], merit: Callable[[list[tuple[Floats, Floats]]], float], **terms: Any) -> None:
        self.sites, self.step, self.merit, self.terms = sites, step, merit, terms
        self.variables = spec.model_dump()["variables"]
        self.names = [*step["features"], step["outcome"]]

    def study(self, seed: int, privacy: Any, **terms: Any) -> Study:
        split = {"salt": f"split {seed}", "test_share": self.terms["test_share"]}
        given = {"min_cohort": self.terms["min_cohort"], "privacy": privacy, **terms}
        plan = [{"name": "m", "part": "train", **self.step}]
        return Study.parse({"name": "b", "seed": seed, "data": {"variables": self.variables, "split": split}, "terms": given, "plan": plan})

    def private(self, seed: int, eps: float, *, local: bool = False) -> Study:
        privacy = {"eps": eps, "delta": self.terms["delta"], "patients": self.terms["patients"], "spare": 0, "override": "a benchmark" if eps > 8 else ""}
        if local:
            return self.study(seed, privacy, aggregation="clear")
        return self.study(seed, {**privacy, "honest": self.terms["honest"]})

    def merit_of(self, study: Study, seed: int) -> float:
        """Run it, and look at the test patients in the open."""
        state = simulate(study, self.sites, entropy=np.random.default_rng(seed).bytes).state
        return self.look(build_plan(study)[0], state, study.data.split)

    def look(self, task: Any, state: State, split: Split) -> float:
        found = []
        for rows in self.sites.values():
            test = rows.part("test", split)
            test = test.take(np.all([np.isfinite(test.columns[n]) for n in self.names], axis=0))
            found.append((task.scores(state, test), test.columns[self.step["outcome"]]))
        return self.merit(found)

    def central(self, seed: int, eps: float) -> float:
        """The same recipe on the pooled training patients, with float noise of the same multiplier added once to each sum."""
        study = self.private(seed, eps, local=True)  # calibrated to one holder of all the noise
        budget, rng, state = budget_of(study), np.random.default_rng(seed), {}
        assert budget
        train = {name: rows.part("train", study.data.split) for name, rows in self.sites.items()}
        pooled = Rows(
            {n: np.concatenate([rows.columns[n] for rows in train.values()]) for n in self.variables},
            np.concatenate([[f"{name}/{p}" for p in rows.patient] for name, rows in train.items()]),
        )
        (task,) = build_plan(Study.parse({**study.model_dump(by_alias=True), "plan": [{**study.plan[0].model_dump(), "part": "all"}]}))
        while not state or not task.done(state):
            layout = task.layout(state)
            sd = budget.mechanism(0, layout).std(1)
            given = task.visit(state, pooled, {}, rng).vector
            state = task.combine(state, Total({f.name: given[f.name] + sd * rng.normal(size=f.shape) for f in layout.fields}, 1.0, 1, sd))
        return self.look(task, state, study.data.split)


def table(report: Report, name: str, trial: Trial, levels: tuple[float, ...], references: Mapping[tuple[float, str], float], seeds: int, note: str) -> None:
    """Rows name_eps1 (distributed), name_eps1_local, name_eps1_central; mean over the seeds with a 95 % interval."""
    exact = [trial.merit_of(trial.study(s, EXACT), s) for s in range(seeds)]
    report.add(f"{name}_exact", float(np.mean(exact)), "", reference=references.get((0.0, "exact")), note=f"no noise, the same recipe; {interval(exact)}")
    for eps in levels:
        label = f"{eps:g}".replace(".", "_")
        shared = [trial.merit_of(trial.private(s, eps), s) for s in range(seeds)]
        local = [trial.merit_of(trial.private(s, eps, local=True), s) for s in range(seeds)]
        central = [trial.central(s, eps) for s in range(seeds)]
        report.add(f"{name}_eps{label}", float(np.mean(shared)), "", reference=references.get((eps, "shared")), note=f"{note}; {interval(shared)}")
        report.add(
            f"{name}_eps{label}_local", float(np.mean(local)), "", reference=references.get((eps, "local")), note=f"each site's own noise; {interval(local)}"
        )
        report.add(f"{name}_eps{label}_central", float(np.mean(central)), "", note=f"the ceiling: noise added once to the pooled sum; {interval(central)}")


def interval(values: list[float]) -> str:
    half = 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{len(values)} seeds, 95 % interval {np.mean(values) - half:.4f} to {np.mean(values) + half:.4f}"


def auc(found: list[tuple[Floats, Floats]]) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.concatenate([y for _, y in found]), np.concatenate([s for s, _ in found])))


def mean_accuracy(found: list[tuple[Floats, Floats]]) -> float:
    return float(np.mean([((s > 0) == (y == 1)).mean() for s, y in found]))


def breast(report: Report, quick: bool) -> None:
    """scikit-learn's breast cancer, spread over four silos at random; delta 1e-5, 25 % of the patients for the test."""
    from sklearn.datasets import load_breast_cancer

    raw = load_breast_cancer()
    names = [n.replace(" ", "_") for n in raw.feature_names]
    parts = np.array_split(np.random.default_rng(0).permutation(len(raw.target)), 4)
    sites = {
        f"silo-{i}": Rows.of({**{n: raw.data[ix, j] for j, n in enumerate(names)}, "malignant": 1.0 - raw.target[ix]}, patient=ix.tolist())
        for i, ix in enumerate(parts)
    }
    mean, sd = raw.data.mean(axis=0), raw.data.std(axis=0)
    scales = {
        # the reference standardises by the data's own moments and does not charge them: the same, as if they were published
        "breast_auc": (mean - 3 * sd, mean + 3 * sd, "scaled by mean and sd as if published, like the reference"),
        "breast_auc_ranges": (raw.data.min(axis=0), raw.data.max(axis=0), "scaled by the published minima and maxima"),
    }
    references = {(0.0, "exact"): 0.992, (0.5, "shared"): 0.988, (0.5, "local"): 0.978, (1.0, "shared"): 0.990, (1.0, "local"): 0.987, (2.0, "shared"): 0.991}
    for name, (low, high, note) in scales.items():
        variables = {n: {"minimum": float(a), "maximum": float(b)} for n, a, b in zip(names, low, high, strict=True)}
        spec = DataSpec.parse({"variables": {**variables, "malignant": {"type": "boolean", "role": "outcome"}}})
        step = {"task": "sgd", "features": names, "outcome": "malignant"}
        trial = Trial(sites, spec, step, auc, min_cohort=4, honest=4, delta=1e-5, patients=570, test_share=0.25)
        table(report, name, trial, (0.5, 1.0, 2.0), references, 2 if quick else SEEDS, note)


HEART = ["age", "sex", "cp", "trestbps", "fbs", "restecg", "thalach", "exang", "oldpeak"]


def heart(report: Report, quick: bool) -> None:
    """Four hospitals, mean accuracy of the four on a third of their patients; delta 1e-4 as in the reference (FLamby)."""
    spec = _some(registry.get("heart_disease").data, [*HEART, "num"])
    try:
        sites = registry.load("heart_disease", spec)
    except Exception as error:
        _absent("heart_acc_eps1", error)
        return
    references = {(0.0, "exact"): 0.713, (10.0, "shared"): 0.700, (5.0, "shared"): 0.704, (1.0, "shared"): 0.685, (0.1, "shared"): 0.606}
    step = {"task": "sgd", "features": HEART, "outcome": "num"}
    trial = Trial(sites, spec, step, mean_accuracy, min_cohort=4, honest=4, delta=1e-4, patients=750, test_share=0.34)
    note = "logistic model of 9 variables without cholesterol (0 means missing in all of Switzerland); reference: its own recipe"
    table(report, "heart_acc", trial, (10.0, 5.0, 1.0, 0.1), references, 2 if quick else SEEDS, note)


def ist(report: Report, quick: bool) -> None:
    """466 hospitals, death or dependency at six months, private Newton steps; 70/30 split within each hospital."""
    data = registry.get("ist").data
    features = [n for n, v in data.variables.items() if v.role == "feature"]
    try:
        sites = registry.load("ist", data)
    except Exception as error:
        _absent("ist_auc_eps3", error)
        return
    step = {"task": "logistic", "features": features, "outcome": "dead_or_dependent"}
    trial = Trial(sites, data, {**step, "ridge": 0.1}, auc, min_cohort=400, honest=360, delta=1e-6, patients=18_000, test_share=0.3)
    note = "466 hospitals, at least 400 in each sum and 360 honest; the reference is the pooled model without noise"
    table(report, "ist_auc", trial, (3.0, 1.0), {(0.0, "exact"): 0.792, (3.0, "shared"): 0.792}, 1 if quick else SEEDS, note)


def _some(spec: DataSpec, names: list[str]) -> DataSpec:
    return DataSpec.parse({"variables": {n: v for n, v in spec.model_dump()["variables"].items() if n in names}})


def _absent(metric: str, error: Exception) -> None:
    print(f"{metric} was not measured: {error}", file=sys.stderr)
