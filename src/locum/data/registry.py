"""Public data sets by name: find their files, verify them, load them site by site, or write them out one site per file.

A file is looked for in LOCUM_DATA_DIR (hospital networks have no way out), then in the package that ships it, then in
the cache (LOCUM_CACHE, by default ~/.cache/locum/data); only then is it downloaded. Wherever it is found, it is verified.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from locum.data.catalog import CATALOG, DataSet, File
from locum.data.contract import to_rows
from locum.data.fetch import Progress, download, sha256_of
from locum.data.rows import Rows
from locum.data.sources import FrameSource, SourceSpec
from locum.errors import DataError, ManifestError, NotFound, Unavailable
from locum.study.document import nearest
from locum.study.manifest import DataSpec


def names() -> list[str]:
    """The data sets of the registry."""
    return sorted(CATALOG)


def get(name: str | DataSet) -> DataSet:
    """The data set called `name`; raises `NotFound`. A `DataSet` of one's own is returned as it is."""
    if isinstance(name, DataSet):
        return name
    if name not in CATALOG:
        raise NotFound(f"There is no data set '{name}'.", fix=nearest(name, names()))
    return CATALOG[name]


def listing() -> list[dict[str, Any]]:
    """For `locum data list`: every data set as plain JSON data, with `here` telling whether its files are on this machine."""
    return [
        {
            "name": d.name,
            "title": d.title,
            "licence": d.licence,
            "citation": d.citation,
            "published": d.published,
            "note": d.note,
            "sites": list(d.sites),
            "bytes": sum(f.size for f in d.files),
            "here": all(_find(d, f) is not None for f in d.files),
        }
        for d in (CATALOG[n] for n in names())
    ]


def fetch(name: str | DataSet, progress: Progress | None = None) -> dict[str, Any]:
    """For `locum data get`: download what is not on this machine and verify all of it; where it is, as plain JSON data."""
    dataset = get(name)
    return _receipt(dataset, _files(dataset, progress))


def verify(name: str | DataSet) -> dict[str, Any]:
    """Verify the files on this machine without any download; raises `NotFound` or `DataError`."""
    dataset = get(name)
    paths = {f.name: _find(dataset, f) for f in dataset.files}
    missing = [n for n, path in paths.items() if path is None]
    if missing:
        raise NotFound(f"{missing[0]} of the data set '{dataset.name}' is not on this machine.", fix=f"run: locum data get {dataset.name}")
    return _receipt(dataset, {f.name: _verified(p, f) for f in dataset.files if (p := paths[f.name])})


def load(name: str | DataSet, data: DataSpec | None = None, *, by: str | None = None, progress: Progress | None = None) -> dict[str, Rows]:
    """Site name -> its rows, under `data` (a study's contract; by default the data set's own).

    by: how sites are formed, one of the data set's `sites`. The rows are the same, in the same order and with the same
    patients, as a site reads from its file of `export`. Raises `DataError`, `ManifestError`, `Unavailable` or `NotFound`.
    """
    dataset = get(name)
    table, site = _table(dataset, by, progress)
    spec = data or dataset.data
    rows = to_rows(spec, FrameSource(table, dataset.name), dataset.mapping)
    named = any(v.role == "patient" for v in spec.variables.values())
    parts = {s: rows.take(np.flatnonzero(site == s)) for s in sorted(set(site.tolist()))}
    return parts if named else {s: Rows.of(part.columns) for s, part in parts.items()}


def export(name: str | DataSet, folder: str | Path, *, by: str | None = None, progress: Progress | None = None) -> dict[str, Path]:
    """Write one CSV file per site and the `mapping.toml` that fits each; site name -> its file.

    A site is then given its own file and the mapping: `load_rows(study, folder / "mapping.toml", folder / "inst-01.csv")`.
    """
    dataset, folder = get(name), Path(folder)
    table, site = _table(dataset, by, progress)
    folder.mkdir(parents=True, exist_ok=True)
    mapping = dataset.mapping.model_copy(update={"source": SourceSpec(type="csv")})
    (folder / "mapping.toml").write_text(f"# {dataset.title}\n# {dataset.citation}. Licence: {dataset.licence}.\n{mapping.to_toml()}", encoding="utf-8")
    out = {s: folder / f"{s}.csv" for s in sorted(set(site.tolist()))}
    for s, path in out.items():
        table.filter(pl.Series(site == s)).write_csv(path)
    return out


def _table(dataset: DataSet, by: str | None, progress: Progress | None) -> tuple[pl.DataFrame, np.ndarray[Any, np.dtype[np.str_]]]:
    """The raw table without the rows that belong to no site, and the site of each row."""
    by = by or next(iter(dataset.sites))
    if by not in dataset.sites:
        raise ManifestError(f"'{dataset.name}' has no sites by '{by}'.", fix=nearest(by, [*dataset.sites]))
    table = dataset.read(_files(dataset, progress))
    site = table.select(dataset.sites[by].alias("site")).to_series()
    site = site.new_from_index(0, len(table)) if len(site) == 1 else site  # a literal: all rows are of one site
    return table.filter(site.is_not_null()), site.drop_nulls().to_numpy().astype(np.str_)


def _files(dataset: DataSet, progress: Progress | None) -> dict[str, Path]:
    """Every file of the data set, verified; downloaded where it is not on this machine."""
    return {f.name: _verified(_find(dataset, f) or _download(dataset, f, progress), f) for f in dataset.files}


def _find(dataset: DataSet, file: File) -> Path | None:
    given = os.environ.get("LOCUM_DATA_DIR")
    places = [Path(given) / dataset.folder / file.name] if given else []
    package = importlib.util.find_spec(file.package) if file.package else None
    places += [Path(root) / file.inside for root in (package.submodule_search_locations or [] if package else [])]
    return next((p for p in [*places, _cache() / dataset.folder / file.name] if p.is_file()), None)


def _cache() -> Path:
    return Path(os.environ.get("LOCUM_CACHE") or Path.home() / ".cache" / "locum" / "data")


def _verified(path: Path, file: File) -> Path:
    if path.stat().st_size != file.size or sha256_of(path) != file.sha256:
        raise DataError(
            f"{path} is not the {file.name} that the registry knows.",
            why=f"Its SHA-256 is not {file.sha256}.",
            fix="remove it and run: locum data get, or bring the published file",
        )
    return path


def _download(dataset: DataSet, file: File, progress: Progress | None) -> Path:
    if file.url:
        return download(file.url, _cache() / dataset.folder / file.name, sha256=file.sha256, size=file.size, progress=progress)
    if file.package:
        pip = {"sklearn": "scikit-learn"}.get(file.package, file.package)
        raise Unavailable(f"'{dataset.name}' is shipped by {pip}, which is not installed.", fix=f"run: pip install {pip}")
    raise Unavailable(
        f"{file.name} of '{dataset.name}' is not on this machine, and is not published in this form.",
        why=dataset.note,
        fix=f"set LOCUM_DATA_DIR to a folder that holds {dataset.folder}/{file.name}; the original is at {dataset.published}",
    )


def _receipt(dataset: DataSet, paths: dict[str, Path]) -> dict[str, Any]:
    files = [{"name": f.name, "path": str(paths[f.name]), "sha256": f.sha256, "bytes": f.size} for f in dataset.files]
    return {"name": dataset.name, "licence": dataset.licence, "citation": dataset.citation, "files": files}
