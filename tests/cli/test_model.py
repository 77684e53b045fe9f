"""A model from its run to the version in use and back, command by command, on real processes: gate, subgroups and all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from locum.cli.app import app
from locum.errors import LocumError
from locum.site.review import decide
from locum.study import Study
from locum.testing.federation import LocalFederation, populate

SITES = tuple(f"hospital-{k}" for k in "abcde")
STUDY = """
name = "sepsis"
seed = 0
[data.variables]
lactate = { minimum = -10, maximum = 10 }
age = { minimum = 0, maximum = 120 }
sex = { type = "category", categories = ["female", "male"] }
died = { type = "boolean", role = "outcome" }
[terms]
privacy = "none"
aggregation = "clear"
min_cohort = 5
[governance.gate]
evaluation = "test"
at_least = { auc = 0.65 }
margin = { auc = 0.1 }
ratio = [0.6, 1.6]
subgroups = "groups"
gap = { auc = 0.3 }
worst_site = { auc = 0.4 }
[governance.envelope]
may_change = ["seed", "plan.fit.ridge"]
protocol = "Refit on the same plan each quarter."
impact = "Coefficients move; what is read and released stays."
[[plan]]
name = "fit"
task = "logistic"
features = ["lactate", "age"]
outcome = "died"
part = "train"
[[plan]]
name = "test"
task = "evaluate_binary"
model = "fit"
[[plan]]
name = "groups"
task = "subgroups"
model = "fit"
by = { sex = [], age = [0, 50, 70, 120] }
floor = { auc = 0.5 }
"""


class Desk:
    """Commands of the people of one federation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *words: str, who: str, code: int = 0, answer: str = "") -> str:
        """What a command says; the coordinator and the sites are other processes, and only this side is not."""
        done = CliRunner().invoke(app, [*words, "--home", str(self.folder / who)], input=answer)
        if isinstance(done.exception, LocumError):
            assert code == 1, (words, str(done.exception))
            return f"{done.output} {done.exception}"
        assert done.exit_code == code, (words, done.output, done.exception)
        return done.output

    def json(self, *words: str, who: str) -> Any:
        return json.loads(self(*words, "--json", who=who))


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(8)
    with LocalFederation(folder) as made:
        made.init()
        made.start_coordinator()
        data: dict[str, tuple[Path, Path | None]] = {}
        for name in SITES:
            x, age, sex = rng.normal(size=220), rng.uniform(25, 95, 220), rng.integers(0, 2, 220)
            died = rng.random(220) < 1 / (1 + np.exp(-1.3 * x - 0.02 * (age - 60)))
            rows = [f"{a:.4f},{b:.1f},{'female' if s else 'male'},{int(d)}" for a, b, s, d in zip(x, age, sex, died, strict=True)]
            data[name] = folder / f"{name}.csv", folder / "map.toml"
            (folder / f"{name}.csv").write_text("lactate,age,sex,died\n" + "\n".join(rows) + "\n")
        (folder / "map.toml").write_text('[columns]\nlactate = "lactate"\nage = "age"\nsex = "sex"\ndied = "died"\n')
        populate(made, data)
        for who, role in (("ada", "investigator"), ("eve", "approver")):
            made.enrol(who, role=role, folder=folder / who)
        yield made


def run_study(desk: Desk, federation: LocalFederation, text: str) -> dict[str, Any]:
    (desk.folder / "study.toml").write_text(text)
    desk.json("study", "submit", str(desk.folder / "study.toml"), who="ada")
    digest = Study.load(desk.folder / "study.toml").digest
    for name in SITES:
        decide(federation.site(name), digest, approve=True, exact=True)
    view: dict[str, Any] = desk.json("study", "watch", digest, who="ada")
    return view


def test_from_a_run_to_the_version_in_use_and_back(federation: LocalFederation) -> None:
    desk = Desk(federation.folder)
    first = run_study(desk, federation, STUDY)
    groups = first["results"]["groups"]
    assert {g["variable"] for g in groups["subgroups"]} == {"sex", "age"}
    assert groups["sites"]["auc"]["sites"] == 5

    said = desk("model", "propose", "sepsis", first["id"], "--reason", "first of the line", who="ada")
    assert said.startswith("PASS: all")
    assert "AUC, gap by sex" in said
    assert "Only an approver does that" in desk("model", "promote", "sepsis@1", "--yes", who="ada", code=1)
    assert "Aborted" in desk("model", "promote", "sepsis@1", who="eve", code=1, answer="n\n")
    assert desk.json("model", "show", "sepsis@1", who="eve")["status"] == "candidate"
    assert desk.json("model", "promote", "sepsis@1", "--yes", who="eve")["status"] == "current"

    second = run_study(desk, federation, STUDY.replace("seed = 0", "seed = 1").replace('outcome = "died"', 'outcome = "died"\nridge = 5.0'))
    assert desk.json("model", "propose", "sepsis", second["id"], who="ada")["passes"]
    diff = desk.json("model", "diff", "sepsis@1", "sepsis@2", who="ada")
    assert {c["path"] for c in diff["studies"]} == {"seed", "plan.fit.ridge"}
    assert any(row["figure"] == "fit lactate coef" and row["change"] < 0 for row in diff["coefficients"])
    assert any(row["figure"] == "test auc value" for row in diff["figures"])
    assert "plan.fit.ridge" in desk("model", "diff", "sepsis@1", "sepsis@2", who="eve")
    desk("model", "promote", "sepsis@2", who="eve", answer="y\n")

    third = run_study(desk, federation, STUDY.replace("auc = 0.65", "auc = 0.999"))
    said = desk("model", "propose", "sepsis", third["id"], who="ada")
    assert said.startswith("BLOCK: ")
    assert "asked: at least 0.999" in said
    refused = desk("model", "promote", "sepsis@3", "--yes", who="eve", code=1)
    assert "The gate blocks version 3 of 'sepsis'" in refused

    listed = {v["version"]: v["status"] for m in desk.json("model", "list", who="ada") for v in m["versions"]}
    assert listed == {1: "superseded", 2: "current", 3: "candidate"}
    assert "superseded" in desk("model", "list", who="eve")
    assert desk.json("model", "rollback", "sepsis@1", "--reason", "alarms too often", who="eve")["status"] == "current"
    shown = desk.json("model", "show", "sepsis", who="eve")
    assert (shown["version"], [s["decision"] for s in shown["signed"]]) == (1, ["propose", "promote", "roll-back"])
    assert "alarms too often" in desk("model", "show", "sepsis@1", who="ada")
    site = str(federation.site(SITES[0]))
    assert desk.json("model", "show", "sepsis", who=site)["model"] == first["model"]
    assert desk.json("model", "export", "sepsis", str(desk.folder / "m.safetensors"), who=site)["sha256"] == first["model"]
    assert desk.json("model", "withdraw", "sepsis@3", "--reason", "not good enough", who="ada")["status"] == "withdrawn"
    for words in (("show", "sepsis@9"), ("show", "sepsis@x"), ("show", "spesis@1"), ("diff", "sepsis@1", "nothing"), ("rollback", "sepsis", "--reason", "x")):
        assert "To fix it" in desk("model", *words, who="eve", code=1)


def test_a_wrong_metric_is_named_before_anything_runs(federation: LocalFederation) -> None:
    desk = Desk(federation.folder)
    (desk.folder / "bad.toml").write_text(STUDY.replace("at_least = { auc", "at_least = { acu"))
    assert "did you mean 'auc'?" in desk("study", "submit", str(desk.folder / "bad.toml"), who="ada", code=1)
