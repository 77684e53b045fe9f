"""Handwritten digits, as scikit-learn ships them: 1,797 real scans of 8 by 8 pixels, to be partitioned."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from locum.data.catalog.base import DataSet, File, arrays, mapping, spec
from locum.errors import DataError

CLASSES = tuple("0123456789")


def _read(paths: Mapping[str, Path]) -> pl.DataFrame:
    """One row an image, in the order of the file: 64 pixels, of 0 to 16 in the file, and the digit."""
    try:
        with gzip.open(paths["digits.csv.gz"], "rt", encoding="ascii") as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.float32)
    except (OSError, ValueError) as error:
        raise DataError("digits.csv.gz cannot be read as numbers.", fix="install scikit-learn again", local=str(error)) from None
    return pl.DataFrame({"pixels": arrays("pixels", table[:, :-1].reshape(-1, 8, 8) / 16.0), "digit": table[:, -1].astype(np.int64).astype(str)})


DIGITS = DataSet(
    name="digits",
    title="Handwritten digits: 1,797 scans of 8 by 8 pixels",
    licence="CC BY 4.0; shipped by scikit-learn (BSD-3-Clause)",
    citation="Alpaydin, Kaynak, UCI machine learning repository, 1998; doi 10.24432/C50P49",
    published="https://archive.ics.uci.edu/dataset/80",
    folder="digits",
    files=(
        File(
            "digits.csv.gz",
            "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22",
            57523,
            package="sklearn",
            inside="datasets/data/digits.csv.gz",
        ),
    ),
    read=_read,
    sites={"office": pl.lit("one")},
    note="No medical images: real scans that are at hand. Make up sites with a partition, for example dirichlet:alpha=0.5,sites=8,label=digit, and say so.",
    data=spec(
        pixels={"type": "array", "shape": [8, 8], "label": "ink in each pixel, 0 to 1"},
        digit={"type": "category", "role": "outcome", "categories": [*CLASSES], "label": "digit that was written", "max_missing": 0},
    ),
    mapping=mapping(),
)
