"""Where the files of a data set are on this machine, and that they are the published ones."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from locum.data.catalog.base import File, Published
from locum.data.fetch import Progress, download, sha256_of
from locum.errors import DataError, Unavailable


class Paths(Mapping[str, Path]):
    """The files of a data set by name, each verified, and downloaded where it is not on this machine, once somebody asks for it."""

    def __init__(self, dataset: Published, progress: Progress | None) -> None:
        self._dataset, self._progress, self._files = dataset, progress, {f.name: f for f in dataset.files}
        self._known: dict[str, Path] = {}

    def __getitem__(self, name: str) -> Path:
        if name not in self._known:
            file = self._files[name]
            self._known[name] = verified(find(self._dataset, file) or _download(self._dataset, file, self._progress), file)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def find(dataset: Published, file: File) -> Path | None:
    """The file in LOCUM_DATA_DIR, else in the package that ships it, else in the cache; not yet verified."""
    given = os.environ.get("LOCUM_DATA_DIR")
    places = [Path(given) / dataset.folder / file.name] if given else []
    package = importlib.util.find_spec(file.package) if file.package else None
    places += [Path(root) / file.inside for root in (package.submodule_search_locations or [] if package else [])]
    return next((p for p in [*places, _cache() / dataset.folder / file.name] if os.path.isfile(p)), None)


def _cache() -> Path:
    return Path(os.environ.get("LOCUM_CACHE") or Path.home() / ".cache" / "locum" / "data")


def verified(path: Path, file: File) -> Path:
    """The same path; raises `DataError` unless its bytes are the published ones."""
    if path.stat().st_size != file.size or sha256_of(path) != file.sha256:
        raise DataError(
            f"{path} is not the {file.name} that the registry knows.",
            why=f"Its SHA-256 is not {file.sha256}.",
            fix="remove it and run: locum data get, or bring the published file",
        )
    return path


def _download(dataset: Published, file: File, progress: Progress | None) -> Path:
    if file.url:
        return download(file.url, _cache() / dataset.folder / file.name, sha256=file.sha256, size=file.size, progress=progress)
    if file.package:
        pip = {"sklearn": "scikit-learn"}.get(file.package, file.package)
        raise Unavailable(f"'{dataset.name}' is shipped by {pip}, which is not installed.", fix=f"run: pip install {pip}")
    raise Unavailable(
        f"{file.name} of '{dataset.name}' is not on this machine, and is not published in this form.",
        why=dataset.note,
        fix=f"set LOCUM_DATA_DIR to the folder in which {dataset.folder}/{file.name} lies; the original is at {dataset.published}",
    )


def receipt(dataset: Published, paths: Mapping[str, Path]) -> dict[str, Any]:
    """What was found, on what licence, and how to cite it, as plain JSON data."""
    files = [{"name": f.name, "path": str(paths[f.name]), "sha256": f.sha256, "bytes": f.size} for f in dataset.files]
    return {"name": dataset.name, "kind": dataset.kind, "licence": dataset.licence, "citation": dataset.citation, "files": files}
