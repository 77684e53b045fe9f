"""Every plot is well-formed, stands alone, escapes what strangers wrote, and survives nothing, one, and NaN."""

from __future__ import annotations

import datetime as dt
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.errors import LocumError
from locum.report import plots
from locum.report.plots import axes, maps

SVG = "{http://www.w3.org/2000/svg}"
EVIL = '<script>alert(1)</script>"\' onload="x" & \x00\x0b]]> \u202e ' + "long " * 30
NAN = float("nan")
Q = (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)


def curve(n: int = 3) -> dict[str, list[float]]:
    s = [1 - (k + 1) / (n + 1) for k in range(n)]
    return {"time": list(range(1, n + 1)), "survival": s, "low": [v / 2 for v in s], "high": [(1 + v) / 2 for v in s], "at_risk": list(range(n, 0, -1))}


def series(n: int = 5, ahead: int = 3) -> dict[str, Any]:
    days = [(dt.date(2024, 1, 6) + dt.timedelta(7 * k)).isoformat() for k in range(n + ahead)]
    return {"time": days[:n], "observed": [10.0] * n, "ahead": days[n:], "quantiles": {q: [20 * q] * ahead for q in Q}}


# name -> (usual, with hostile names, one point, with NaN, empty): each draws a picture.
DRAWN: dict[str, list[Callable[[], str]]] = {
    "kaplan_meier": [
        lambda: plots.kaplan_meier({"men": curve(), "women": curve(200)}, title="t", unit="days"),
        lambda: plots.kaplan_meier({EVIL: curve(), EVIL + "2": curve()}, title=EVIL, unit=EVIL),
        lambda: plots.kaplan_meier({"": curve(1)}, title="t"),
        lambda: plots.kaplan_meier({"a": {**curve(), "low": [NAN, 0.1, 0.1], "survival": [0.7, None, 0.2]}}, title="t"),
        lambda: plots.kaplan_meier({}, title="t"),
    ],
    "forest": [
        lambda: plots.forest([("age", 1.1, 0.9, 1.3), {"name": "all", "value": 1.0, "low": 0.9, "high": 1.1, "summary": True}], title="t", label="HR"),
        lambda: plots.forest([(EVIL, 1.1, 0.9, 1.3, 0.5)], title=EVIL, label=EVIL),
        lambda: plots.forest([("a", 5e-9, 0.0, math.inf)], title="t", label="OR"),
        lambda: plots.forest([("a", NAN, 1, 2), ("b", 1.0, None, NAN), ("c", -1.0, -2, 0)], title="t", label="OR"),
        lambda: plots.forest([], title="t", label="OR", log=False),
    ],
    "calibration": [
        lambda: plots.calibration([(0.1, 0.12, 0.1, 0.14, 900), (0.4, 0.35, 0.3, 0.4, 100)], title="t"),
        lambda: plots.calibration([(0.1, 0.12, 0.1, 0.14, 900)], title=EVIL),
        lambda: plots.calibration([{"predicted": 0.0, "observed": 0.0}], title="t"),
        lambda: plots.calibration([(NAN, 0.1, 0, 1, 5), (0.2, 0.3, NAN, None, NAN)], title="t"),
        lambda: plots.calibration([], title="t"),
    ],
    "fan": [
        lambda: plots.fan({"CA": series(), "NY": series(40)}, title="t", unit="a week"),
        lambda: plots.fan({EVIL: series(), "b": series()}, title=EVIL, unit=EVIL),
        lambda: plots.fan({"CA": {"time": [1], "observed": [2], "ahead": [2], "quantiles": {"0.5": [3], "0.025": [1], "0.975": [4]}}}, title="t"),
        lambda: plots.fan({"CA": {**series(), "observed": [1, NAN, None, 2, 3]}}, title="t"),
        lambda: plots.fan({"CA": {"time": [], "observed": []}}, title="t"),
    ],
    "us_map": [
        lambda: plots.us_map({s: k for k, s in enumerate(maps.TILES)}, title="t", label="per million"),
        lambda: plots.us_map({"ca": -1.5, "NY": 2.5e9}, title=EVIL, label=EVIL),
        lambda: plots.us_map({"PR": 0.0}, title="t", label="l"),
        lambda: plots.us_map({"PR": 3.0, "DC": NAN, "TX": None}, title="t", label="l"),
        lambda: plots.us_map({}, title="t", label="l"),
    ],
    "bars": [
        lambda: plots.bars([("a", 3), ("b", -1.5, -2, -1)], title="t", label="l"),
        lambda: plots.bars([(EVIL, 3)], title=EVIL, label=EVIL, missing=EVIL),
        lambda: plots.bars([("a", 0)], title="t", label="l"),
        lambda: plots.bars([("a", None), ("b", NAN), ("c", math.inf)], title="t", label="l"),
        lambda: plots.bars([], title="t", label="l"),
    ],
    "lines": [
        lambda: plots.lines({"a": [(0, 1), (1, 2)], "b": {"x": [0, 1], "y": [1, 2], "low": [0, 1], "high": [2, 3]}}, title="t", x="x", y="y"),
        lambda: plots.lines({EVIL: [(0, 1), (1, 2)]}, title=EVIL, x=EVIL, y=EVIL),
        lambda: plots.lines({"a": [(1e9, -1e-9)]}, title="t", x="x", y="y"),
        lambda: plots.lines({"a": [(0, 1), (1, NAN), (2, None), (3, 4)]}, title="t", x="x", y="y"),
        lambda: plots.lines({"a": []}, title="t", x="x", y="y"),
    ],
    "scatter": [
        lambda: plots.scatter(np.arange(20.0).reshape(10, 2), title="t", x="x", y="y", diagonal=True),
        lambda: plots.scatter({EVIL: [(0, 1)], "b": {"x": [1], "y": [2]}}, title=EVIL, x=EVIL, y=EVIL),
        lambda: plots.scatter([(3, 3)], title="t", x="x", y="y"),
        lambda: plots.scatter([(NAN, 1), (1, 2)], title="t", x="x", y="y"),
        lambda: plots.scatter([], title="t", x="x", y="y"),
    ],
    "confusion": [
        lambda: plots.confusion([[5, 1], [0, 4]], ["a", "b"], title="t"),
        lambda: plots.confusion([[5, 1], [0, 4]], [EVIL, "b"], title=EVIL),
        lambda: plots.confusion([[1]], ["a"], title="t"),
        lambda: plots.confusion([[5, NAN], [0, 0]], ["a", "b"], title="t"),
        lambda: plots.confusion([], [], title="t"),
    ],
    "heat": [
        lambda: plots.heat(np.arange(100.0).reshape(10, 10), np.eye(5), title="t"),
        lambda: plots.heat(np.ones((300, 200)), title=EVIL),
        lambda: plots.heat([[1]], [[0]], title="t"),
        lambda: plots.heat([[1, NAN], [2, 3]], [[NAN, 1], [0, 0]], title="t"),
        lambda: plots.heat([], title="t"),
    ],
}
CASES = ("usual", "hostile", "one", "nan", "empty")


def test_every_plot_is_here() -> None:
    assert set(DRAWN) == set(plots.__all__) - {"PlotError"}


@pytest.mark.parametrize(("name", "case"), [(n, c) for n in DRAWN for c in range(len(CASES))], ids=lambda v: CASES[v] if isinstance(v, int) else v)
def test_a_plot_stands_alone(name: str, case: int) -> None:
    text = DRAWN[name][case]()
    root = ET.fromstring(text)
    assert (root.tag, root.get("role")) == (f"{SVG}svg", "img")
    assert root.get("aria-label")
    assert root[0].tag == f"{SVG}title"
    assert {e.tag.removeprefix(SVG) for e in root.iter()} <= {"svg", "title", "rect", "line", "path", "circle", "text", "g"}
    for element in root.iter():
        assert not [a for a in element.attrib if "href" in a or a.startswith("on") or a == "src"]
        for key, value in element.attrib.items():
            if key != "aria-label":
                assert not re.search(r"nan|inf", value), (key, value)
    assert len(text) < 60_000
    assert "<script" not in text
    if CASES[case] == "empty":
        assert "no data" in text


def test_files_stay_small_whatever_the_number_of_points() -> None:
    rng = np.random.default_rng(0)
    noise, x = rng.random((50_000, 2)), np.arange(20_000.0)
    assert len(plots.scatter(noise, title="t", x="x", y="y")) < 500_000
    text = plots.lines({"a": np.column_stack([x, noise[:20_000, 0]])}, title="t", x="x", y="y")
    assert len(text) < 60_000
    assert len(plots.kaplan_meier({"a": curve(5000)}, title="t")) < 80_000


BAD: list[Callable[[], Any]] = [
    lambda: plots.kaplan_meier({"a": {**curve(), "survival": [0.5]}}, title="t"),
    lambda: plots.kaplan_meier({"a": {**curve(), "time": [3, 2, 1]}}, title="t"),
    lambda: plots.kaplan_meier({"a": {**curve(), "survival": [2, 1, 0]}}, title="t"),
    lambda: plots.kaplan_meier({"a": [1, 2]}, title="t"),  # type: ignore[dict-item]
    lambda: plots.forest([("a", "one", 0, 2)], title="t", label="l"),
    lambda: plots.forest([3], title="t", label="l"),
    lambda: plots.forest([()], title="t", label="l"),
    lambda: plots.calibration(["0.1"], title="t"),
    lambda: plots.fan({"a": {"time": ["yesterday"], "observed": [1]}}, title="t"),
    lambda: plots.fan({"a": {"time": [1, 2], "observed": [1]}}, title="t"),
    lambda: plots.fan({"a": {**series(), "quantiles": {"median": [1]}}}, title="t"),
    lambda: plots.fan({"a": {"time": [NAN], "observed": [1]}}, title="t"),
    lambda: plots.us_map({"US": 3}, title="t", label="l"),
    lambda: plots.us_map({"CA": "many"}, title="t", label="l"),
    lambda: plots.bars([("a", [1])], title="t", label="l"),
    lambda: plots.lines({"a": "text"}, title="t", x="x", y="y"),
    lambda: plots.lines({"a": [(1, 2, 3)]}, title="t", x="x", y="y"),
    lambda: plots.lines({"a": {"x": [1], "y": [1, 2]}}, title="t", x="x", y="y"),
    lambda: plots.scatter(np.zeros((200_000, 2)), title="t", x="x", y="y"),
    lambda: plots.confusion([[1, 2], [3]], ["a", "b"], title="t"),
    lambda: plots.confusion([[1]], ["a", "b"], title="t"),
    lambda: plots.confusion([[-1]], ["a"], title="t"),
    lambda: plots.heat([1, 2, 3], title="t"),
    lambda: plots.heat([["a"]], title="t"),
]


@pytest.mark.parametrize("draw", BAD)
def test_what_cannot_be_drawn_says_why(draw: Callable[[], str]) -> None:
    with pytest.raises(LocumError) as caught:
        draw()
    assert caught.value.fix


def test_survival_falls_to_the_right_and_counts_who_is_at_risk() -> None:
    text = plots.kaplan_meier({"men": {**curve(), "n": 9}}, title="t", unit="days")
    found = [e.text for e in ET.fromstring(text).iter(f"{SVG}text")]
    assert "Number at risk" in found
    assert "9" in found, "everybody at time 0"
    step = next(e.get("d", "") for e in ET.fromstring(text).iter(f"{SVG}path") if e.get("fill") == "none")
    x, y = zip(*(map(float, p.split()) for p in step[1:].split("L")), strict=True)
    assert list(x) == sorted(x)
    assert list(y) == sorted(y), "downwards"


def test_what_was_known_to_a_forecast_is_filled() -> None:
    one = series(8, 2)
    one["ahead"] = one["time"][6:]
    one["quantiles"] = {q: [1.0, 2.0] for q in Q}
    circles = list(ET.fromstring(plots.fan({"CA": one}, title="t")).iter(f"{SVG}circle"))[2:]  # two are the legend's
    assert [c.get("fill") == "#fff" for c in circles] == [False] * 6 + [True] * 2


def test_the_map_has_every_state_once() -> None:
    assert len(maps.TILES) == 52
    assert len(set(maps.TILES.values())) == 52
    assert {"DC", "PR", "AK", "HI"} <= set(maps.TILES)


def test_the_saliency_is_drawn_over_the_image() -> None:
    image, overlay = np.zeros((4, 4)), np.zeros((2, 2))
    overlay[0, 1] = 1.0
    text = plots.heat(image, overlay, title="t")
    assert '<path d="M1 0h1v1h-1z" fill="#e0301e" fill-opacity="0.75"/>' in text


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9))
def test_ticks_are_few_and_within(low: float, span: float) -> None:
    ticks = axes.nice_ticks(low, low + span)
    step = axes.nice_step(span)
    assert len(ticks) <= 8
    assert all(low - 1e-6 * (abs(low) + span) <= t <= low + span + 1e-6 * (abs(low) + span) for t in ticks)
    assert float(f"{step:.0e}") == pytest.approx(step)
    assert f"{step:.0e}"[0] in "125"


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-9, 1e9), st.floats(1.01, 1e9))
def test_log_ticks_are_few_and_within(low: float, factor: float) -> None:
    ticks = axes.log_ticks(low, low * factor)
    assert len(ticks) <= 9
    assert all(low * (1 - 1e-6) <= t <= low * factor * (1 + 1e-6) for t in ticks)
    if factor > 20:
        assert len(ticks) >= 2


numbers = st.one_of(st.none(), st.floats(), st.integers(-(10**6), 10**6))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=12), numbers, numbers, numbers), max_size=8), st.booleans(), st.text(max_size=40))
def test_no_numbers_and_no_names_break_a_forest_or_bars(rows: list[Any], log: bool, title: str) -> None:
    for text in (plots.forest(rows, title=title, label=title, log=log), plots.bars(rows, title=title, label=title)):
        for element in ET.fromstring(text).iter():
            assert not [v for k, v in element.attrib.items() if k != "aria-label" and re.search(r"nan|inf", v)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(numbers, numbers), max_size=20))
def test_no_numbers_break_lines_or_points(points: list[Any]) -> None:
    for draw in (plots.lines, plots.scatter):
        text = draw({"a": points}, title="t", x="x", y="y")  # type: ignore[operator]
        for element in ET.fromstring(text).iter():
            assert not [v for k, v in element.attrib.items() if k != "aria-label" and re.search(r"nan|inf", v)]


@pytest.mark.parametrize(("value", "text"), [(0.0, "0"), (1234.5, "1,234"), (0.12345, "0.123"), (-12.345, "-12.3"), (3e-9, "3.00e-09"), (NAN, "?")])
def test_numbers_as_people_write_them(value: float, text: str) -> None:
    from locum.report.plots.draw import shown

    assert shown(value) == text


def test_dates_are_named_by_month_or_by_year() -> None:
    first = dt.date(2023, 10, 7).toordinal()
    assert [t for _, t in axes.date_ticks(first, first + 280)][:2] == ["Nov 2023", "Jan 2024"]
    assert axes.date_ticks(first, first + 3650)[0][1] == "2024"
    assert axes.date_ticks(first, first + 28)[0][1] == "07 Oct"
    assert axes.labels([0.0, 0.5, 1.0]) == ["0.0", "0.5", "1.0"]
    assert axes.labels([1994.0, 1995.0]) == ["1994", "1995"]
    assert axes.labels([0.0, 20000.0]) == ["0", "20,000"]
