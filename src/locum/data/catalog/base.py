"""What the registry knows of a data set, and the helpers that its descriptions share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from locum.data.mapping import SiteMapping
from locum.errors import DataError
from locum.study.manifest import DataSpec

Reader = Callable[..., pl.DataFrame]
"""From the verified files by name, and options as text, to one raw table. It opens only the files that it needs."""


@dataclass(frozen=True)
class File:
    """One file of a data set. `url` where exactly these bytes are published; `package` and `inside` where a package ships them."""

    name: str
    sha256: str
    size: int
    url: str | None = None
    package: str | None = None
    inside: str = ""


@dataclass(frozen=True, kw_only=True)
class Published:
    """Files that somebody published. folder: where they lie below LOCUM_DATA_DIR."""

    kind: ClassVar[Literal["sites", "fixture"]] = "fixture"
    name: str
    title: str
    licence: str
    citation: str
    published: str
    files: tuple[File, ...]
    folder: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class DataSet(Published):
    """A data set of several sites. `read` makes one raw table of its files, `data` is its contract and `mapping` leads from one to the other.

    sites: how a row's site is named, the first way by default; a row without a name belongs to no site. options: what `read`
    understands, and what it means.
    """

    kind: ClassVar[Literal["sites", "fixture"]] = "sites"
    data: DataSpec
    mapping: SiteMapping
    read: Reader
    sites: Mapping[str, pl.Expr]
    options: Mapping[str, str] = field(default_factory=dict)


AGE: dict[str, Any] = {"unit": "a", "label": "age", "minimum": 15, "maximum": 120, "plausible": [18, 100]}
EVENT: dict[str, Any] = {"type": "boolean", "role": "event", "max_missing": 0}


def spec(**variables: dict[str, Any]) -> DataSpec:
    """A contract of these variables."""
    return DataSpec.parse({"variables": variables})


def mapping(**columns: Any) -> SiteMapping:
    """A mapping of these columns."""
    return SiteMapping.parse({"columns": columns})


def yes(label: str) -> dict[str, Any]:
    """A variable that is 0 or 1."""
    return {"type": "boolean", "label": label}


def csv(name: str, **options: Any) -> Reader:
    """A reader of one CSV file, every cell as text."""
    return lambda paths: pl.read_csv(paths[name], infer_schema=False, **options)


def number(column: str, width: int) -> pl.Expr:
    """A column of numbers as text with leading zeros, for the names of sites."""
    return pl.col(column).cast(pl.Float64).cast(pl.Int64).cast(pl.String).str.zfill(width)


def npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz file by name; nothing in it is ever unpickled."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path.name} cannot be read as arrays.", fix="bring the published file", local=str(error)) from None


def arrays(name: str, values: NDArray[Any]) -> pl.Series:
    """One array a row, shape (n, *shape), as a column of float32."""
    return pl.Series(name, values.astype(np.float32), dtype=pl.Array(pl.Float32, values.shape[1:]))
