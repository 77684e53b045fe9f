"""The Wisconsin diagnostic breast cancer data, as scikit-learn ships it: one hospital, to be partitioned."""

from __future__ import annotations

import polars as pl

from locum.data.catalog.base import DataSet, File, csv, mapping, spec, yes

_CELL = ("radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave_points", "symmetry", "fractal_dimension")
_NUCLEI = [f"{statistic}_{measure}" for statistic in ("mean", "error", "worst") for measure in _CELL]

BREAST_CANCER = DataSet(
    name="breast_cancer",
    title="Wisconsin diagnostic breast cancer: 30 measures of cell nuclei, 569 tumours",
    licence="CC BY 4.0; shipped by scikit-learn (BSD-3-Clause)",
    citation="Street, Wolberg, Mangasarian, Proc SPIE 1905:861-870, 1993; doi 10.24432/C5DW2B",
    published="https://archive.ics.uci.edu/dataset/17",
    folder="breast_cancer",
    files=(
        File(
            "breast_cancer.csv",
            "fed3eb72d0575ef6192293f5093c6e801b1476b577d0386bf4455504522172ed",
            119913,
            package="sklearn",
            inside="datasets/data/breast_cancer.csv",
        ),
    ),
    read=csv("breast_cancer.csv", has_header=False, skip_rows=1, new_columns=[*_NUCLEI, "target"]),
    sites={"hospital": pl.lit("wisconsin")},
    note="One hospital: make up sites with a partition, for example dirichlet:alpha=0.3,sites=20,label=malignant, and say so where you report it.",
    data=spec(**{n: {"minimum": 0} for n in _NUCLEI}, malignant=yes("malignant tumour") | {"role": "outcome", "max_missing": 0}),
    mapping=mapping(malignant={"column": "target", "values": {"0": 1, "1": 0}}),
)
