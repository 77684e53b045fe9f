"""The page that stays at the site."""

import re
import stat

import numpy as np
import pytest

from locum.data.gates.page import page, write_page
from locum.data.gates.summary import outgoing
from locum.errors import DataError


def report_of(g):
    return g.report(
        g.frame(
            60,
            age=["<script>alert(1)</script>", "hidden-cell"] + ["50"] * 58,
            stage=["other-code"] * 3 + ["early", "late"] * 28 + [None],
            chol=np.r_[np.linspace(3, 7, 59), 999].tolist(),
        )
    )


def test_it_shows_every_variable_its_gates_and_its_examples(g):
    report = report_of(g)
    html = page(report, title="a study", source="t.csv", seen=outgoing(report, 11))
    for name in g.VARIABLES:
        assert f"<strong>{name}</strong>" in html
    assert html.count("<svg") == 7
    assert "hidden-cell" in html
    assert "other-code" in html
    assert "&lt;script&gt;" in html
    assert "To fix it" in html
    assert "stays at this site" in html


def test_it_is_self_contained_and_runs_nothing(g):
    html = page(report_of(g), title="a study", source="t.csv")
    assert "default-src 'none'" in html
    assert not re.search(r"<script|<link|<img|<iframe|src=|href=|url\(|@import|\son\w+=", html)


def test_without_examples_no_cell_is_in_it(g):
    report = report_of(g)
    html = page(report, title="a study", source="t.csv", examples=False)
    assert not any(cell in html for cell in ("hidden-cell", "other-code", "script", "For example"))
    assert "2 of 60 cells in the column" in html


def test_only_its_owner_may_read_it(tmp_path, g):
    path = tmp_path / "page.html"
    path.write_text("<!doctype html>before")
    path.chmod(0o644)
    write_page(path, page(report_of(g), title="s", source="t"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().startswith("<!doctype html>")
    with pytest.raises(DataError, match="cannot be written"):
        write_page(tmp_path / "no" / "page.html", "x")


def test_an_empty_report_has_a_page_too(g):
    report = g.report(g.frame(2).drop("age", "chol").head(0))
    assert "REFUSE" in page(report, title="s", source="t")
