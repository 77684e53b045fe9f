"""Results as they come from the tasks, drawn; and results that hold nothing to draw."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from typing import Any

import msgspec
import numpy as np
import pytest

from locum.data.rows import Rows
from locum.errors import Conflict
from locum.report import figures_of
from locum.report.figures import files_of
from locum.simulate import simulate
from locum.study import Study

SVG = "{http://www.w3.org/2000/svg}"
NUMBERS = {"minimum": -10, "maximum": 10}
DATA = {
    "x": NUMBERS,
    "z": NUMBERS,
    "time": {"minimum": 0, "maximum": 30, "unit": "d"},
    "dead": {"type": "boolean", "role": "event"},
    "y": {"type": "boolean", "role": "outcome"},
    "arm": {"type": "boolean"},
}
PLAN: list[dict[str, Any]] = [
    {"name": "grid", "task": "event_times", "time": "time", "event": "dead"},
    {"name": "km", "task": "kaplan_meier", "time": "time", "event": "dead", "times": "grid", "by": "arm"},
    {"name": "test", "task": "logrank", "time": "time", "event": "dead", "times": "grid", "by": "arm"},
    {"name": "cox", "task": "cox", "features": ["x", "z"], "time": "time", "event": "dead", "times": "grid"},
    {"name": "parts", "task": "piecewise_exponential", "features": ["x"], "time": "time", "event": "dead", "cuts": [5.0, 10.0]},
    {"name": "fit", "task": "logistic", "features": ["x", "z"], "outcome": "y", "part": "train"},
    {"name": "eval", "task": "evaluate_binary", "model": "fit"},
    {"name": "alone", "task": "local_baseline", "model": "fit"},
    {"name": "dist", "task": "histogram", "variable": "x", "bins": 8},
    {"name": "axes", "task": "pca", "variables": ["x", "z"]},
    {"name": "kinds", "task": "kmeans", "features": ["x", "z"], "clusters": [2, 3]},
    {"name": "meta", "task": "meta_analysis", "treatment": "arm", "outcome": "y", "measure": "log_odds_ratio"},
    {"name": "propensity", "task": "logistic", "features": ["x"], "outcome": "arm"},
    {"name": "effect", "task": "treatment_effect", "treatment": "arm", "outcome": "y", "propensity": "propensity"},
    {"name": "trees", "task": "boosted_trees", "features": ["x", "z"], "outcome": "y", "trees": 5, "depth": 2, "part": "train"},
]
SHOWN = {
    "km": ["km: survival (Kaplan-Meier)"],
    "test": ["test: events observed over expected"],
    "cox": ["cox: hazard ratios"],
    "parts": ["parts: hazard ratios", "parts: survival at the mean of the covariates"],
    "fit": ["fit: odds ratios"],
    "eval": ["eval: calibration, test patients"],
    "alone": ["alone: concordance", "alone: accuracy"],
    "dist": ["dist: distribution of x"],
    "axes": ["axes: variance explained"],
    "kinds": ["kinds: which number of clusters", "kinds: size of the 2 clusters"],
    "meta": ["meta: odds ratio over the sites"],
    "effect": ["effect: difference", "effect: risk ratio", "effect: odds ratio", "effect: balance of the arms"],
    "trees": ["trees: importance of the features"],
}


@pytest.fixture(scope="module")
def ran() -> tuple[dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(3)
    n = 900
    x, z, arm = rng.normal(size=n), rng.normal(size=n), rng.integers(0, 2, n).astype(float)
    time = np.minimum(np.ceil(rng.exponential(8 * np.exp(-0.4 * x))), 30)
    columns = {"x": x, "z": z, "arm": arm, "time": time, "dead": (time < 30).astype(float), "y": (rng.random(n) < 1 / (1 + np.exp(-x + arm))).astype(float)}
    rows = Rows.of(columns)
    sites = {f"s{k}": rows.take(part) for k, part in enumerate(np.split(np.arange(n), [200, 400, 600]))}
    study = Study.parse({"name": "t", "data": {"variables": DATA}, "terms": {"privacy": "none", "min_cohort": 4}, "plan": PLAN})
    return simulate(study, sites).results, json.loads(study.canonical)


def test_every_step_has_its_figures(ran: tuple[dict[str, Any], dict[str, Any]]) -> None:
    results, study = ran
    figures = figures_of(results, study)
    for step, titles in SHOWN.items():
        assert [re.sub(r"of the \d", "of the 2", t) for t in figures if t.startswith(f"{step}:")] == titles
    for title, svg in figures.items():
        assert ET.fromstring(svg).get("aria-label") == title
        assert "no data" not in svg
    assert "time (days)" in figures["km: survival (Kaplan-Meier)"]
    assert sum(len(svg) for svg in figures.values()) < 150_000


def test_the_calibration_plot_has_a_point_for_each_group(ran: tuple[dict[str, Any], dict[str, Any]]) -> None:
    results, _ = ran
    svg = figures_of(results)["eval: calibration, test patients"]
    assert len(list(ET.fromstring(svg).iter(f"{SVG}circle"))) == len(results["eval"]["calibration_bins"]) > 3


def test_a_gwas_shows_its_quantiles_and_its_smallest_p() -> None:
    hits = [{"column": k, "variant": f"<rs{k}>", "minus_log10_p": 9.0 - k} for k in range(5)]
    figures = figures_of({"gwas": {"hits": hits, "qq": [[3.0, 9.0], [2.0, 2.0]], "tested": 1000, "lambda_gc": 1.01}})
    assert list(figures) == ["gwas: quantiles of 1,000 variants", "gwas: the 5 variants with the smallest p"]
    for svg in figures.values():
        ET.fromstring(svg)


@pytest.mark.parametrize(
    "result", [{}, None, 3, [], {"coefficients": []}, {"groups": {}}, {"coefficients": [{"name": "a", "coef": 1.0}]}, {"edges": [1], "counts": 3}]
)
def test_a_result_without_a_figure_adds_none(result: Any) -> None:
    assert figures_of({"step": result}) == {}


def test_of_very_many_coefficients_the_strongest_are_drawn() -> None:
    rows = [{"name": f"v{k}", "coef": k / 100, "se": 1.0, "odds_ratio": 1.0, "odds_ratio_ci95": [0.5, 2.0]} for k in range(500)]
    ((title, svg),) = figures_of({"m": {"coefficients": rows}}).items()
    assert "the 60 of 500" in title
    assert ">v499<" in svg
    assert ">v3<" not in svg


def test_files_have_plain_names_that_differ() -> None:
    made = files_of({"km: A/B": "1", "km: a b": "2", "../..": "3", "": "4"})
    assert list(made) == ["km-a-b.svg", "km-a-b-2.svg", "figure.svg", "figure-2.svg"]


def test_the_command_writes_them(ran: tuple[dict[str, Any], dict[str, Any]], tmp_path: Any) -> None:
    from locum.cli.run_ import _figures

    results, study = ran
    files = _figures(tmp_path / "new" / "figures", results, study)
    assert len(files) == len(figures_of(results))
    assert all(f.read_text(encoding="utf-8").startswith("<svg") for f in files)
    (tmp_path / "file").write_text("")
    with pytest.raises(Conflict, match="cannot be made"):
        _figures(tmp_path / "file", results, study)


def test_the_report_command_takes_a_folder_for_them(ran: tuple[dict[str, Any], dict[str, Any]], tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from typer.testing import CliRunner

    from locum.cli import run_
    from locum.federation.wire import RunView

    results, study = ran
    empty = {field.name: field.default for field in msgspec.structs.fields(RunView)}
    given = {"id": "r1", "study": "d" * 64, "name": "t", "status": "finished", "protection": "updates: masked", "results": results, "error": "", "model": None}
    view = RunView(**{**{k: 0 if v is msgspec.NODEFAULT else v for k, v in empty.items()}, **given})  # type: ignore[arg-type]
    hub = SimpleNamespace(run=lambda _: view, rounds=lambda _: [], study=lambda _: SimpleNamespace(manifest=json.dumps(study)))
    monkeypatch.setattr(run_, "client", lambda _: hub)
    monkeypatch.setattr(run_, "find_run", lambda *_: view)
    monkeypatch.setattr(run_, "privacy_card", lambda *_: {})
    done = CliRunner().invoke(run_.app, ["report", "r1", str(tmp_path / "r.html"), "--figures", str(tmp_path / "f"), "--json"])
    assert done.exit_code == 0, done.output
    assert sorted(f.name for f in (tmp_path / "f").iterdir()) == sorted(files_of(figures_of(results, study)))
    assert len(json.loads(done.output)["figures"]) == len(figures_of(results, study))
    assert (tmp_path / "r.html").read_text(encoding="utf-8").count("<figure>") == len(figures_of(results, study))
