"""`locum scenario` as a person at a terminal meets it: the table, what fails, what is written; and that any width is readable."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from locum import scenarios
from locum.cli import main
from locum.cli.scenario_table import print_lines
from locum.scenarios import Lab, Line, Outcome, Scenario

LINES = (
    Line(
        "pooled",
        "AUC",
        0.7909,
        (0.7786, 0.8033),
        0.792,
        "statsmodels on all rows together, long enough to wrap in a narrow terminal",
    ),
    Line("federated", "AUC", 0.79, (0.7786, 0.8032), None, "466 sites"),
    Line("each site alone", "hospitals that can fit", 0.0, None, None, "of 170"),
    Line("each site alone", "AUC", None, None, None, "one patient: no model"),
    Line("federated", "difference from pooled", 3e-9),
)


def answer(lab: Lab) -> Outcome:
    lab.say("something [bold]that is no markup[/bold]")
    return Outcome(LINES, {"curve": "<svg xmlns='http://www.w3.org/2000/svg'></svg>"}, ("A limit of it.",), {"some_metric": 0.79})


def interrupted(lab: Lab) -> Outcome:
    raise KeyboardInterrupt


def without_a_library(lab: Lab) -> Outcome:
    raise ModuleNotFoundError("No module named 'lightgbm'", name="lightgbm")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A command's exit status, output and errors; the scenario 'lung' is replaced by a quick one."""

    def go(*words: str, by=answer, needs: tuple[str, ...] = ()) -> tuple[int, str, str]:
        made = Scenario("lung", "A question", "What is it?", ("lung",), ("lung",), by, without={"private": "it would drown"}, needs=needs)
        monkeypatch.setattr(scenarios, "scenario", lambda name: made if name == "lung" else REAL(name))
        monkeypatch.setattr(sys, "argv", ["locum", "scenario", *words])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out = capsys.readouterr()
        return code, out.out, out.err

    return go


REAL = scenarios.scenario


def test_lines_are_grouped_by_measure_with_the_same_decimals(run) -> None:
    code, out, _ = run("run", "lung")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    group = [["AUC"], ["pooled"], ["federated", "0.7900"], ["each", "site", "alone", "-"]]
    at = [next(k for k, row in enumerate(rows) if row[: len(words)] == words) for words in group]
    assert at == [*range(at[0], at[0] + 4)], "what is of one measure stands together"
    assert ["each", "site", "alone", "0", "of", "170"] in rows
    assert "3.0e-09" in out
    assert "- A limit of it." in out
    assert "locum study new FILE --from lung" in out


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_every_width_shows_every_figure_and_note(columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    monkeypatch.setattr("locum.cli.scenario_table.console", lambda: Console(width=columns, highlight=False))
    print_lines(LINES)
    out = capsys.readouterr().out
    assert all(len(line) <= columns for line in out.splitlines())
    flat = " ".join(out.split())
    assert "0.7909 0.7786 to 0.8033 0.792" in flat
    for word in " ".join(x.note for x in LINES).split():
        assert word in flat


def test_what_is_written(run, tmp_path: Path) -> None:
    code, out, _ = run("run", "lung", "--mode", "clear", "--mode", "masked", "--out", str(tmp_path / "answer"), "--json")
    assert code == 0
    told = json.loads(out)
    assert [*told["modes"]] == ["clear", "masked"]
    assert told["modes"]["clear"]["metrics"] == {"some_metric": 0.79}
    assert {f.name for f in (tmp_path / "answer").iterdir()} == {"report.html", "curve.svg", "lung.toml", "answer.json"} == {*told["files"]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "lungs"), "did you mean 'lung'?"),
        (("show", "lungs"), "did you mean 'lung'?"),
        (("run", "lung", "--mode", "priv"), "did you mean 'private'?"),
        (("run", "lung", "--mode", "private"), "it would drown"),
        (("run", "lung", "--out", "/proc/nowhere"), "choose another place"),
    ],
)
def test_wrong_words_name_the_remedy(run, words: tuple[str, ...], said: str) -> None:
    code, _, err = run(*words)
    assert code == 1
    assert said in err


def test_an_absent_library_names_the_extra(run) -> None:
    code, _, err = run("run", "lung", by=without_a_library)
    assert code == 1
    assert "needs 'lightgbm'" in err
    assert "pip install 'locum[scenarios]'" in err
    code, _, err = run("run", "lung", by=interrupted, needs=("nowhere_at_all",))
    assert code == 1, "before any work"
    assert "needs 'nowhere_at_all'" in err


def test_ctrl_c_says_that_nothing_was_written(run, tmp_path: Path) -> None:
    code, out, err = run("run", "lung", "--out", str(tmp_path / "answer"), by=interrupted)
    assert code == 130
    assert "nothing was written" in err
    assert not out
    assert not (tmp_path / "answer").exists()


def test_list_and_show(run) -> None:
    code, out, _ = run("list")
    assert code == 0
    assert all(name in out for name in scenarios.names())
    code, out, _ = run("show", "lung")
    assert code == 0
    for part in ("What is it?", "not offered: it would drown", "study to start from", "locum scenario run lung", "locum study new FILE --from lung"):
        assert part in out, part
    assert "simulated" in run("show", "gwas")[1]
    assert json.loads(run("list", "--json")[1])[0]["name"] == "stroke"
