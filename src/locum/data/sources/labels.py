"""Outcomes and covariates for images: a table of labels, joined to each image by its patient or its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from locum.data.sources.base import SourceSpec, open_source, read
from locum.errors import DataError, ManifestError


@dataclass(frozen=True)
class Labels:
    """frame: the table without its key. row: key -> row number."""

    frame: pl.DataFrame
    row: dict[str, int]

    @property
    def columns(self) -> list[str]:
        return self.frame.columns


def load_labels(path: Path, key: str, taken: Sequence[str]) -> Labels:
    """The table at `path` (any kind of table that a source reads), by its column `key`, in which a value may stand once.

    Raises `DataError`, also where a column has a name that is `taken` by the images' own.
    """
    source = open_source(SourceSpec(), path)
    names = source.columns()
    if key not in names:
        raise DataError(f"{path.name} has no column '{key}' to join by.", fix="name its column of identifiers as label_key under [source]")
    both = [n for n in names if n in taken and n != key]
    if both:
        raise ManifestError(f"The column '{both[0]}' of {path.name} has the name of a column of the images.", fix="rename it in the table of labels")
    frame = read(source, names)
    keys = frame[key].cast(pl.String).str.strip_chars().to_list()
    row = {k: i for i, k in enumerate(keys) if k}
    twice = len([k for k in keys if k]) - len(row)
    if twice:
        raise DataError(f"{twice} rows of {path.name} have a '{key}' that an earlier row has.", fix="keep one row of labels for each")
    return Labels(frame.drop(key), row)
