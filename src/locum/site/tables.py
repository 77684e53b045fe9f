"""The tables that a site has named: how one is opened, and by what it is told whether it is still the same.

A table is a file, a folder, or something live: a database or a server, which has no path. What a ledger stands for is told by bytes: those
of the files, or, of something live, those of the mapping that says what is asked of it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from locum.data.gates import Progress, Report, check_source
from locum.data.gates.drift import Distance, with_drift
from locum.data.mapping import SiteMapping
from locum.data.patients import load_key
from locum.data.sources import Source, open_source
from locum.errors import DataError, ManifestError, TooLarge
from locum.federation.identity import PublicKey
from locum.federation.state import decode_state
from locum.site.store import DataSet, Store
from locum.site.waivers import in_force
from locum.study.manifest import Study
from locum.tasks.base import build
from locum.tasks.drift import Drift

MAX_FILES = 1_000_000


def open_table(data: DataSet, key: bytes) -> tuple[SiteMapping, Source]:
    """The mapping and the source of a data set. key: the site's, for pseudonyms. Raises `ManifestError`, `DataError`, `TooLarge` or `Unavailable`."""
    mapping = SiteMapping.load(data.mapping) if data.mapping else SiteMapping()
    return mapping, open_source(mapping.source, data.source or None, key)


def judged(store: Store, key: PublicKey, study: Study, name: str, min_patients: int, progress: Progress | None = None) -> Report:
    """What the gates say of the table called `name`, with the waivers in force. Raises `LocumError` where it cannot be read at all."""
    mapping, source = open_table(next(d for d in store.data() if d.name == name), load_key(store.folder))
    report = check_source(study.data, source, mapping, min_patients=min_patients, progress=progress)
    return with_drift(report, drift_found(store, study)).waived(in_force(store, key, study.digest, name))


def drift_found(store: Store, study: Study) -> dict[str, Distance]:
    """How far this site lay from the federation when the study last ran here, for each variable of its drift steps. It stays here."""
    steps = [i for i, step in enumerate(study.plan) if step.task == Drift.kind]
    memories = store.last_memory(study.digest) if steps else {}
    found: dict[str, Distance] = {}
    for i in steps:
        if i in memories:
            task = build(study.plan[i], study)
            found |= task.kept(dict(decode_state(memories[i]))) if isinstance(task, Drift) else {}
    return found


def live(data: DataSet) -> bool:
    """Whether it can change without any file changing, so that it is read anew for every run."""
    return not data.source


def stamp(data: DataSet) -> object:
    """Changes whenever a file of the data set does; None if one is gone."""
    try:
        return [(str(p), s.st_mtime_ns, s.st_size, s.st_ino) for p in _files(data) for s in [p.stat()]]
    except OSError:
        return None


def table_sha256(data: DataSet) -> str:
    """SHA-256 of the table alone: of a file its bytes, of a folder the names and bytes of its files. Raises `DataError`."""
    if live(data):
        return _sha256(data, Path(data.mapping))
    source = Path(data.source)
    if not source.is_dir():
        return _sha256(data, source)
    digest = hashlib.sha256(b"locum/folder/1\0")
    for path in _within(source):
        digest.update(f"{path.relative_to(source)}\0{_sha256(data, path)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def fingerprint(data: DataSet) -> str:
    """SHA-256 over a data set's table and its mapping, which says what tells the patients apart, with the queries, views and labels that
    it names. Raises `DataError`."""
    parts = [table_sha256(data), *(_sha256(data, path) for path in _mapping_files(data))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def same_table(one: DataSet, other: DataSet) -> bool:
    """Whether two data sets are of one table now, whatever their mappings say."""
    try:
        return table_sha256(one) == table_sha256(other)
    except DataError:
        return False


def _files(data: DataSet) -> Iterator[Path]:
    source = Path(data.source) if data.source else None
    if source is not None:
        yield from _within(source) if source.is_dir() else [source]
    yield from _mapping_files(data)


def _mapping_files(data: DataSet) -> list[Path]:
    """The mapping and what it names. One that cannot be read any more is told of where its table is opened."""
    if not data.mapping:
        return []
    try:
        return [Path(data.mapping), *SiteMapping.load(data.mapping).source.companions()]
    except ManifestError:
        return [Path(data.mapping)]


def _within(folder: Path) -> list[Path]:
    """The files below a folder, in a fixed order; links are not followed."""
    found: list[Path] = []
    for root, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        found += [Path(root) / name for name in sorted(names)]
        if len(found) > MAX_FILES:
            raise TooLarge(f"{folder.name} holds more than {MAX_FILES:,} files.", fix="name a folder that holds the study's files only")
    return found


def _sha256(data: DataSet, path: Path) -> str:
    try:
        with path.open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"The files of '{data.name}' cannot be read: {error.strerror}.", fix="add the data set again") from None
