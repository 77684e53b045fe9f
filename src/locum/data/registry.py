"""Public data sets by name: find their files, verify them, load them site by site, or write them out one site per file.

    from locum.data import registry
    sites = registry.load("ist", by="country")                             # site name -> Rows, ready for locum.simulate
    sites = registry.load("flusight", as_of="2024-11-16", lags="1 2 3")    # a data set's own options
    sites = registry.load("breast_cancer", partition="dirichlet:alpha=0.3,sites=20,label=malignant")
    registry.export("heart_disease", "folder")                             # one file a site, and the mapping that fits them

A file is looked for in LOCUM_DATA_DIR (hospital networks have no way out), then in the package that ships it, then in
the cache (LOCUM_CACHE, by default ~/.cache/locum/data); only then is it downloaded. Wherever it is found, it is verified.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from locum.data.catalog import CATALOG, FIXTURES, DataSet, Published
from locum.data.catalog.files import Paths, find, receipt, verified
from locum.data.convert import convert
from locum.data.fetch import Progress
from locum.data.load import to_rows
from locum.data.mapping import Column
from locum.data.partition import Ints, Partition, Shift, parse
from locum.data.rows import Rows
from locum.data.sources.base import FrameSource
from locum.data.sources.table import Spec as TableSpec
from locum.errors import DataError, ManifestError, NotFound, Unavailable
from locum.study.document import nearest
from locum.study.manifest import DataSpec, Variable

_SITE = "locum_site"
"""The number of a row's site, as a column beside the data set's own."""


def names() -> list[str]:
    """Everything in the registry."""
    return sorted([*CATALOG, *FIXTURES])


def entry(name: str | Published) -> Published:
    """What is called `name`, with sites or without; raises `NotFound`. A `DataSet` of one's own is returned as it is."""
    if isinstance(name, Published):
        return name
    if name not in CATALOG and name not in FIXTURES:
        raise NotFound(f"There is no data set '{name}'.", fix=nearest(name, names()))
    return CATALOG.get(name) or FIXTURES[name]


def get(name: str | Published) -> DataSet:
    """The data set with sites called `name`; raises `NotFound`."""
    found = entry(name)
    if not isinstance(found, DataSet):
        raise NotFound(f"'{found.name}' has files to try a source on, and no sites.", fix=nearest(found.name, sorted(CATALOG)))
    return found


def listing() -> list[dict[str, Any]]:
    """For `locum data list`: everything as plain JSON data, with `here` telling whether its files are on this machine."""
    return [
        {
            "name": d.name,
            "kind": d.kind,
            "title": d.title,
            "licence": d.licence,
            "citation": d.citation,
            "published": d.published,
            "note": d.note,
            "sites": list(d.sites) if isinstance(d, DataSet) else [],
            "options": dict(d.options) if isinstance(d, DataSet) else {},
            "bytes": sum(f.size for f in d.files),
            "here": all(find(d, f) is not None for f in d.files),
        }
        for d in (entry(n) for n in names())
    ]


def fetch(name: str | Published, progress: Progress | None = None) -> dict[str, Any]:
    """For `locum data get`: download what is not on this machine and verify all of it; where it is, as plain JSON data."""
    dataset = entry(name)
    paths, order = Paths(dataset, progress), sorted(dataset.files, key=lambda f: f.url is None and f.package is None)
    return receipt(dataset, {f.name: paths[f.name] for f in order})  # what can be had comes first


def verify(name: str | Published) -> dict[str, Any]:
    """Verify the files on this machine without any download; raises `NotFound` or `DataError`."""
    dataset = entry(name)
    paths = {f.name: find(dataset, f) for f in dataset.files}
    missing = [n for n, path in paths.items() if path is None]
    if missing:
        raise NotFound(f"{missing[0]} of the data set '{dataset.name}' is not on this machine.", fix=f"run: locum data get {dataset.name}")
    return receipt(dataset, {f.name: verified(p, f) for f in dataset.files if (p := paths[f.name])})


def load(
    name: str | DataSet,
    data: DataSpec | None = None,
    *,
    by: str | None = None,
    partition: str | Partition | None = None,
    progress: Progress | None = None,
    **options: str,
) -> dict[str, Rows]:
    """Site name -> its rows, under `data` (a study's contract; by default the data set's own).

    by: how sites are formed, one of the data set's `sites`. partition: made-up sites instead, as `locum.data.partition.parse` reads
    them. options: the data set's own. The rows are the same, in the same order and with the same patients, as a site reads
    from its file of `export`; a site of which nobody belongs to the study's cohort is absent. Raises `DataError`, `ManifestError`,
    `Unavailable` or `NotFound`.
    """
    dataset, spec = get(name), data or get(name).data
    dealt = _deal(dataset, by, partition, options, progress)
    marked = spec.model_copy(update={"variables": {**spec.variables, _SITE: Variable(role="group")}})
    rows = to_rows(marked, FrameSource(dealt.table.with_columns(pl.Series(_SITE, dealt.site)), dataset.name), dataset.mapping)
    site = rows.columns[_SITE].astype(np.int64)
    rows = replace(rows, columns={n: c for n, c in rows.columns.items() if n != _SITE})
    identified = spec.of_role("patient") is not None
    return {n: part if identified else _renumbered(part) for n, part in zip(dealt.names, _parts(rows, site, len(dealt.names)), strict=True) if len(part)}


def sizes(
    name: str | DataSet, *, by: str | None = None, partition: str | Partition | None = None, progress: Progress | None = None, **options: str
) -> dict[str, int]:
    """Site name -> how many rows it has."""
    dealt = _deal(get(name), by, partition, options, progress)
    return dict(zip(dealt.names, np.bincount(dealt.site, minlength=len(dealt.names)).tolist(), strict=True))


def export(
    name: str | DataSet,
    folder: str | Path,
    *,
    by: str | None = None,
    partition: str | Partition | None = None,
    progress: Progress | None = None,
    **options: str,
) -> dict[str, Path]:
    """Write one file per site and the `mapping.toml` that fits each; site name -> its file. CSV, or Parquet where rows hold arrays.

    A site is then given its own file and the mapping: `load_rows(study, folder / "mapping.toml", folder / "inst-01.csv")`.
    """
    dataset, folder = get(name), Path(folder)
    dealt = _deal(dataset, by, partition, options, progress)
    arrays = any(isinstance(kind, pl.Array) for kind in dealt.table.dtypes)
    kind = "parquet" if arrays else "csv"
    made = f"# Sites made up by {parse(partition).to_text()}.\n" if partition is not None else ""
    mapping = dataset.mapping.model_copy(update={"source": TableSpec(type="parquet" if arrays else "csv")})
    out = {n: folder / f"{n}.{kind}" for n in dealt.names}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = f"# {dataset.title}\n# {dataset.citation}. Licence: {dataset.licence}.\n{made}{mapping.to_toml()}"
        (folder / "mapping.toml").write_text(text, encoding="utf-8")
        for path, rows in zip(out.values(), _positions(dealt.site, len(dealt.names)), strict=True):
            part = dealt.table[rows]
            part.write_parquet(path) if arrays else part.write_csv(path)
    except OSError as error:
        raise Unavailable(f"The sites cannot be written to {folder}: {error.strerror}.", fix="name a folder with space that you may write to") from None
    return out


# --- sites ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Dealt:
    """The raw table without the rows that belong to no site, the number of each row's site, and the sites' names."""

    table: pl.DataFrame
    site: Ints
    names: list[str]


def _deal(dataset: DataSet, by: str | None, partition: str | Partition | None, options: Mapping[str, str], progress: Progress | None) -> _Dealt:
    made = None if partition is None else parse(partition)
    if made is not None and by is not None:
        raise ManifestError("Sites are formed by the data set or by a partition, not by both.", fix="leave one of them out")
    by = by or next(iter(dataset.sites))
    if by not in dataset.sites:
        raise ManifestError(f"'{dataset.name}' has no sites by '{by}'.", fix=nearest(by, [*dataset.sites]))
    strange = [key for key in options if key not in dataset.options]
    if strange:
        fix = nearest(strange[0], [*dataset.options]) if dataset.options else "leave it out"
        raise ManifestError(f"'{dataset.name}' has no option '{strange[0]}'.", fix=fix)
    table = dataset.read(Paths(dataset, progress), **options)
    site = table.select(dataset.sites[by].alias("site")).to_series()
    site = site.new_from_index(0, len(table)) if len(site) == 1 else site  # a literal: all rows are of one site
    table = table.filter(site.is_not_null())
    if made is not None:
        return _made_up(dataset, table, made)
    found, number = np.unique(site.drop_nulls().to_numpy().astype(np.str_), return_inverse=True)
    return _Dealt(table, number.reshape(-1).astype(np.int64), found.tolist())


def _made_up(dataset: DataSet, table: pl.DataFrame, partition: Partition) -> _Dealt:
    """The sites of a partition, which looks at the variables of the data set's own contract, whatever the study's is."""
    contract, reads = dataset.data, partition.reads
    if reads is not None and (reads not in contract.variables or contract.variables[reads].type in ("array", "text")):
        numbers = [n for n, v in contract.variables.items() if v.type not in ("array", "text") and v.role != "patient"]
        raise ManifestError(f"'{dataset.name}' has no variable '{reads}' to make up sites by.", fix=nearest(reads, numbers))
    needed = {n: v for n, v in contract.variables.items() if n == reads or v.role == "patient"}
    unit, values = np.arange(len(table)).astype(np.str_), None
    if needed:
        rows = to_rows(contract.model_copy(update={"variables": needed}), FrameSource(table, dataset.name), dataset.mapping)
        unit, values = rows.patient, None if reads is None else rows.columns[reads]
    site = partition.assign(unit, values)
    if isinstance(partition, Shift):
        table = table.with_columns(_shifted(dataset, table, partition, site))
    return _Dealt(table, site, partition.names())


def _shifted(dataset: DataSet, table: pl.DataFrame, partition: Shift, site: Ints) -> pl.Series:
    """The raw column of the variable as the sites measure it; a cell that means "no value" stays without one."""
    name = partition.variable
    variable, column = dataset.data.variables.get(name), dataset.mapping.columns.get(name) or Column(column=name)
    if variable is None or variable.type != "number" or column != Column(column=column.column or name):
        numbers = [n for n, v in dataset.data.variables.items() if v.type == "number"]
        raise ManifestError(f"'{name}' of '{dataset.name}' is no number that could be measured another way.", fix=nearest(name, numbers))
    cells = table[column.column or name]
    values, wrong = convert(cells, variable, column, dataset.mapping.source)
    if wrong:
        raise DataError(f"{wrong} cells of '{name}' are no numbers.", fix="shift another variable")
    return pl.Series(cells.name, partition.shifted(values, site)).fill_nan(None)


def _positions(site: NDArray[np.int64], n: int) -> list[NDArray[np.int64]]:
    """For each of n sites the positions of its rows, in their order."""
    order = np.argsort(site, kind="stable").astype(np.int64)
    return np.split(order, np.searchsorted(site[order], np.arange(1, n)))


def _parts(rows: Rows, site: NDArray[np.int64], n: int) -> Iterator[Rows]:
    for positions in _positions(site, n):
        yield rows.take(positions)


def _renumbered(rows: Rows) -> Rows:
    """Where the contract names no patient every row is one, and a site counts its own."""
    return replace(rows, patient=np.arange(len(rows)).astype(np.str_))
