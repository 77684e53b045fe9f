"""The page says what protected the updates, escapes what strangers wrote, and loads nothing."""

import re
from html.parser import HTMLParser

import pytest

from locum.report import page

RUN = {
    "id": "r1", "study": "d" * 64, "name": "s", "status": "finished", "model": "m" * 64, "error": "", "started": 1.0, "ended": 3.5,
    "protection": "updates: clear text, visible to the coordinator",
    "results": {
        "cox": {"coefficients": [{"name": "<script>age", "coef": 0.1, "se": 0.2, "z": 0.5, "p": 0.6, "hazard_ratio": 1.1, "ci95": [0.7, 1.6]}], "n": 9},
        "check": {"warnings": ["<b>bold</b>"], "rows": 9},
    },
}  # fmt: skip
ROUND = {
    "seq": 0,
    "step": "cox",
    "iteration": 0,
    "status": "closed",
    "opened": 1.0,
    "closed": 2.0,
    "asked": 3,
    "answered": 3,
    "declined": {"a": "no_rows"},
    "bytes_in": 10,
    "bytes_out": 20,
    "vector_bytes": 96,
    "scalars": 6,
}


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict]] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.seen.append((tag, dict(attrs)))


def html(**change: object) -> str:
    return page(study={"name": "s", "title": "<img src=x>", "question": "Q & A?"}, run={**RUN, **change}, rounds=[ROUND])


def test_page_is_self_contained_and_escaped() -> None:
    text = html()
    parser = Tags()
    parser.feed(text)
    assert {tag for tag, _ in parser.seen}.isdisjoint({"script", "img", "link", "iframe", "b"})
    assert not [a for _, attrs in parser.seen for a in attrs if a.startswith("on") or a in ("src", "href")]
    assert "updates: clear text, visible to the coordinator" in text
    assert "no_rows" in text


def test_the_forest_keeps_point_and_interval_in_order_around_one() -> None:
    svg = html().split("<h2>cox</h2>")[1].split("</svg>")[0]
    low, high, point = map(float, re.findall(r'<line x1="([\d.]+)" y1="[\d.]+" x2="([\d.]+)" [^>]*stroke-width="2"/><circle cx="([\d.]+)"', svg)[0])
    one = float(re.findall(r'<line x1="([\d.]+)"[^>]*stroke-dasharray="3 3"', svg)[0])
    assert low < one < point < high


def test_a_failed_run_says_why() -> None:
    assert "collinear" in html(status="failed", model=None, error="Columns are collinear.", results={})


@pytest.mark.parametrize(
    ("row", "heads"),
    [
        ({"coef": 0.5, "se": 0.1, "z": 5.0, "p": 1e-6, "odds_ratio": 1.6, "odds_ratio_ci95": [1.4, 1.9], "ci95": [0.3, 0.7]}, ["coefficient", "SE", "z", "p"]),
        ({"coef": 0.5, "se": 0.1, "t": 5.0, "p": 1e-6, "ci95": [0.3, 0.7], "privacy_share": 0.25}, ["coefficient", "SE", "t", "p", "variance from noise"]),
        ({"coef": 0.5, "odds_ratio": 1.6}, ["coefficient"]),
        (
            {"coef": 900.0, "se": 0.1, "z": 9000.0, "p": 0.0, "odds_ratio": None, "odds_ratio_ci95": [None, None], "ci95": [899.8, 900.2]},
            ["coefficient", "SE", "z", "p"],
        ),
    ],
    ids=["logistic", "linear with noise", "descent", "without a finite ratio"],
)
def test_every_kind_of_model_has_its_table(row: dict, heads: list[str]) -> None:
    text = html(results={"m": {"coefficients": [{"name": "(intercept)", **row}, {"name": "age", **row}]}})
    for head in heads:
        assert f'<th class="n">{head}</th>' in text
    if row.get("odds_ratio_ci95") == [1.4, 1.9]:
        assert "1.600 (1.400 to 1.900)" in text, "the interval of the ratio, not of the coefficient"
    assert ("<svg" in text.split("Every step")[0].split("<h2>m</h2>")[1]) == ("odds_ratio_ci95" in row)
