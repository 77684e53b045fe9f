"""The page shows the card first: the promise in words, every check with its status as text, and each step's share of the budget as a bar."""

import json
import re
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest

from locum import Study
from locum.federation.wire import RoundView, RunView
from locum.report import card_of, page

PLAN = [{"name": "ages", "task": "histogram", "variable": "age", "bins": 6}, {"name": "mean", "task": "moments", "variables": ["age"], "share": 3.0}]
PRIVATE = {"eps": 1.0, "delta": 1e-6, "patients": 600}


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "rect", "line", "circle") or not (self.get_starttag_text() or "").endswith("/>"):
            self.open += [] if tag in ("meta", "br") else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def html(privacy: dict[str, Any] | str, *, repeats: int = 0, **results: Any) -> tuple[str, dict[str, Any]]:
    variables = {"age": {"minimum": 0, "maximum": 120}, "who": {"type": "integer", "role": "patient"}}
    study = Study.parse({"name": "t", "title": "T", "data": {"variables": variables}, "terms": {"privacy": privacy}, "plan": PLAN})
    run = RunView(
        id="r1", study=study.digest, name="t", status="finished", version=1, step=2, steps=("ages", "mean"), iteration=0, seq=2, asked=6, answered=6,
        approvals=6, needed=5, created=0.0, started=1.0, ended=2.0, protection=study.terms.protection(), model=None, error="", results=results,
    )  # fmt: skip
    shape: dict[str, Any] = {"iteration": 0, "status": "closed", "opened": 1.0, "closed": 2.0, "asked": 6, "answered": 6, "declined": {}, "summed": 6}
    rounds = [RoundView(seq=i, step=s, bytes_in=1, bytes_out=1, **shape) for i, s in enumerate(("ages", "mean", *["mean"] * repeats))]
    card = card_of(study, run, rounds)
    plain = {"study": json.loads(study.canonical), "run": msgspec.to_builtins(run), "rounds": msgspec.to_builtins(rounds)}
    return page(**plain, card=card), card


def test_the_promise_comes_before_any_result() -> None:
    text, card = html(PRIVATE, mean={"n": 5})
    assert text.index("<h2>Privacy</h2>") < text.index("For any one patient at this site") < text.index("Every step's answer")
    assert 'class="kept"' in text
    assert "sums were exact" not in text
    assert re.findall(r'class="status (\w+)">(\w+)<', text) == [(c["status"], c["status"]) for c in card["checks"]]


def test_each_steps_share_is_a_bar_of_that_length() -> None:
    text, card = html(PRIVATE)
    bars = [float(w) for w in re.findall(r'<rect width="([\d.]+)" height="14" fill="#245"/>', text)]
    assert bars == [pytest.approx(150 * step["share"], abs=0.06) for step in card["steps"]]
    assert bars[1] == pytest.approx(3 * bars[0], abs=0.3)
    assert "75.0 %" in text


def test_exact_sums_are_shown_as_a_warning() -> None:
    text, _ = html("none")
    assert "Nothing protects a single patient beyond the cohort" in text
    assert "The sums were exact, so the published result itself may reveal a patient" in text
    assert 'class="kept"' not in text
    assert "share of the budget" not in text


def test_a_card_that_fails_is_red_and_says_so_first() -> None:
    text, _ = html(PRIVATE, repeats=2)
    assert re.search(r'<div class="fail"><p>What follows does not hold as it stands', text)
    assert '<span class="status FAIL">FAIL</span>' in text


@pytest.mark.parametrize("privacy", [PRIVATE, "none"])
def test_the_page_is_well_formed_loads_nothing_and_never_says_certain_words(privacy: dict[str, Any] | str) -> None:
    text, _ = html(privacy, mean={"subgroups": [{"name": "<script>x", "auc": 0.7}]})
    parser = Tags()
    parser.feed(text)
    assert not parser.open
    assert {tag for tag, _ in parser.seen}.isdisjoint({"script", "img", "link", "iframe"})
    assert not [a for _, attrs in parser.seen for a in attrs if a.startswith("on") or a in ("src", "href")]
    visible = text.replace("Content-Security-Policy", "")  # the name of a header
    assert not [word for word in ("anonym", "complian", "secur") if word in visible.lower()]
    assert "auc 0.7" in text
