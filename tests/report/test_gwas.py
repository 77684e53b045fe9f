"""The plots are well-formed, bounded in size, and hold no markup that a file of variants brought along."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import polars as pl
import pytest

from locum.report.gwas import manhattan, qq, qq_of
from locum.tasks.gwas import qq_points

SVG = "{http://www.w3.org/2000/svg}"


def made(n, *, chromosomes=22, seed=0):
    r = np.random.default_rng(seed)
    y = -np.log10(r.uniform(size=n))
    chrom = [str(c) for c in np.sort(r.integers(1, chromosomes + 1, n))]
    return pl.DataFrame({"name": [f"rs{k}" for k in range(n)], "chrom": chrom, "pos": r.integers(1, 10**8, n), "column": range(n), "minus_log10_p": y})


def test_manhattan_of_very_many_variants_stays_small():
    text = manhattan(made(300_000))
    root = ET.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert len(text) < 400_000
    labels = [t.text for t in root.iter(f"{SVG}text")]
    order = [k for k in labels if k in {str(c) for c in range(1, 23)}]
    assert [str(c) for c in range(1, 23)] == list(dict.fromkeys(order[-22:]))
    assert not re.search(r"nan|inf", text)


def test_the_smallest_p_is_named_where_it_lies():
    table = made(2000).with_columns(pl.when(pl.col("column") == 700).then(30.0).otherwise(pl.col("minus_log10_p")).alias("minus_log10_p"))
    root = ET.fromstring(manhattan(table))
    named = [c for c in root.iter(f"{SVG}circle") if c.find(f"{SVG}title").text.startswith("rs700:")]
    assert len(named) == 1
    assert named[0].get("fill") == "#aa3333"
    assert float(named[0].get("cy")) < 60


def test_names_are_escaped():
    table = made(50).with_columns(pl.lit('<script>"&').alias("name"), pl.lit("</text>").alias("chrom"), pl.lit(9.0).alias("minus_log10_p"))
    text = manhattan(table, title="<b>")
    assert "<script>" not in text
    ET.fromstring(text)


def test_without_positions_the_order_of_the_array_is_drawn():
    text = manhattan(made(100).select("column", "minus_log10_p"))
    assert "order of the array" in text
    ET.fromstring(text)


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_and_one(n):
    for text in (manhattan(made(n)), manhattan(made(n).select("column", "minus_log10_p")), qq(np.ones(n)), qq(np.ones(n), lambda_gc=1.0)):
        ET.fromstring(text)
        assert not re.search(r"nan|inf", text)


def test_chromosomes_in_their_order():
    table = made(60).with_columns(pl.Series("chrom", ["chrX", "chr10", "chr2", "chrMT", "chr1", "chr22"] * 10))
    labels = [t.text for t in ET.fromstring(manhattan(table)).iter(f"{SVG}text")]
    assert [x for x in labels if x and x.startswith("chr") and x != "chromosome"] == ["chr1", "chr2", "chr10", "chr22", "chrMT", "chrX"]


def test_qq_from_all_and_from_the_result_agree():
    y = made(5000)["minus_log10_p"].to_numpy()
    every, few = qq(y, lambda_gc=1.002), qq_of({"qq": qq_points(y), "tested": 5000, "lambda_gc": 1.002})
    for text in (every, few):
        root = ET.fromstring(text)
        assert any("lambda_GC = 1.002" in (t.text or "") for t in root.iter(f"{SVG}text"))
        assert len(text) < 60_000
    points = np.asarray(qq_points(y))
    assert (np.diff(points, axis=0) <= 0).all()
    assert points[0, 1] == y.max()
