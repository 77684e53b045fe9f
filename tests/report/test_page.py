"""The page says what protected the updates, escapes what strangers wrote, and loads nothing."""

import re
from html.parser import HTMLParser

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


def test_forest_places_one_in_the_middle_and_keeps_intervals_in_order() -> None:
    circles = re.findall(r'x1="([\d.]+)" x2="([\d.]+)" y1="13" y2="13".*?<circle cx="([\d.]+)"', html(), re.S)
    low, high, point = map(float, circles[0])
    assert 0 <= low < 200 < point < high <= 400


def test_a_failed_run_says_why() -> None:
    assert "collinear" in html(status="failed", model=None, error="Columns are collinear.", results={})
