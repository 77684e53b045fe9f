"""Every scenario has a page that says how to run it and where to start, and every study file is one that can be signed."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from locum.data import registry
from locum.federation.budget import budget_of
from locum.scenarios import MODES, names, scenario, studies
from locum.tasks import build_plan

PAGES = Path(__file__).parents[2] / "docs" / "scenarios"
WORDS = re.compile(r"locum scenario run ([a-z-]+)((?: --[a-z]+(?: (?!#)[\w.-]+)?)*)")


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", names())
def test_each_scenario_has_a_page_that_says_how_to_run_it_and_where_to_start(name: str) -> None:
    text, s = page(name), scenario(name)
    assert text.startswith("# ")
    assert f"locum scenario run {name}" in text
    started = re.findall(r"locum study new \S+ --from ([a-z-]+)", text)
    assert started, "the page says from which study to start"
    assert {*started} <= {*s.studies}
    for dataset in s.data:
        assert f"locum data get {dataset}" in text or dataset in ("lung", "digits"), f"{dataset} does not come with a package"
    for heading in ("What each protection costs", "What it does not show", "Traps"):
        assert re.search(rf"^## {heading}$", text, re.MULTILINE), heading


@pytest.mark.parametrize("name", names())
def test_what_a_page_asks_to_run_exists(name: str) -> None:
    for ran, options in WORDS.findall(page(name)):
        assert ran in names()
        for mode in re.findall(r"--mode ([a-z]+)", options):
            assert mode == "all" or mode in scenario(ran).modes, f"{ran} has no mode {mode}"
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page(name)):
        assert (PAGES / target).exists(), target


@pytest.mark.parametrize("name", names())
def test_a_scenario_names_what_there_is(name: str) -> None:
    s = scenario(name)
    assert s.name == name
    assert s.studies, "there is a study to start from"
    assert {*s.studies} <= {*studies.names()}
    assert all(registry.entry(d).name == d for d in s.data)
    assert {*s.modes} <= {*MODES}
    assert all(s.reason(m) for m in MODES if m not in s.modes)
    assert all(importlib.util.find_spec(module) for module in s.needs)
    assert f"{s.studies[0]}-private" in s.studies or "private" not in s.modes


@pytest.mark.parametrize("name", studies.names())
def test_every_study_file_can_be_signed(name: str) -> None:
    if name == "blank":
        pytest.skip("it has gaps for the command to fill in")
    study = studies.study(name)
    budget_of(study)
    assert [task.leaves() for task in build_plan(study)]
    assert study.terms.privacy.on == name.endswith("-private")
    assert "@" not in studies.text(name), "no gap is left to fill in"
    assert all((study.title, study.question, study.requester, study.purpose))


def test_the_index_names_every_page_and_every_page_is_of_a_scenario() -> None:
    found = {f.stem for f in PAGES.glob("*.md")} - {"README"}
    assert found == {*names()}
    index = (PAGES / "README.md").read_text(encoding="utf-8")
    assert {*re.findall(r"\]\(([a-z-]+)\.md\)", index)} == found
