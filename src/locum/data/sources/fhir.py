"""FHIR R4 resources in files: NDJSON as bulk exports write it, Bundles, or a folder of them, read through a view of SQL on FHIR v2.

NDJSON is read a block at a time, so its size does not matter; a Bundle is one JSON document and is held in memory, so its size is bounded.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec
import polars as pl

from locum.data.fhir.definition import ViewDefinition
from locum.data.fhir.table import Table
from locum.data.sources.base import CHUNK, SourceSpec, Tally, existing, known, open_bounded, reading
from locum.errors import DataError, ManifestError, TooLarge

BLOCK_BYTES = 1 << 22
MAX_RECORD_BYTES = 1 << 25
"""Bytes of one line."""
MAX_DOCUMENT_BYTES = 1 << 30
"""Bytes of a Bundle, unpacked."""
BATCH = 2000
BROKEN = "line that is not a JSON object"
BROKEN_ENTRY = "Bundle entry that is not a JSON object"
TOO_LONG = f"line longer than {MAX_RECORD_BYTES >> 20} MiB"
NO_RESOURCE = "Bundle entry without a resource"
_LINES = (".ndjson", ".jsonl", ".ndjson.gz", ".jsonl.gz")
_DOCUMENTS = (".json", ".json.gz")


_NOTHING = msgspec.Raw(b"")


class Spec(SourceSpec):
    """`view`: a ViewDefinition, as the path of a JSON file from the mapping's folder, or written out as a table."""

    type: Literal["fhir"] = "fhir"
    view: str | dict[str, Any]

    def found_from(self, folder: Path) -> SourceSpec:
        found = super().found_from(folder)
        return found.model_copy(update={"view": str(folder / self.view)}) if isinstance(self.view, str) else found


class Entry(msgspec.Struct):
    """One entry of a Bundle, its resource not decoded yet."""

    resource: msgspec.Raw = _NOTHING


class Link(msgspec.Struct):
    relation: str = ""
    url: str = ""


class Bundle(msgspec.Struct):
    """The parts of a Bundle that are read."""

    resourceType: str = ""
    entry: list[Entry] = []
    link: list[Link] = []


BUNDLE = msgspec.json.Decoder(Bundle)


@dataclass
class FhirSource:
    """Files of FHIR resources. first_refused: reason -> where it was met first; for this machine only."""

    files: list[Path]
    view: ViewDefinition
    name: str
    tally: Tally = field(default_factory=Tally)
    first_refused: dict[str, str] = field(default_factory=dict)
    not_read: int = 0

    def columns(self) -> list[str]:
        return [c.name for c in self.view.columns()]

    def chunks(self, names: Sequence[str], size: int = CHUNK) -> Iterator[pl.DataFrame]:
        known(names, self.columns(), self.name)
        self.tally, self.first_refused = Tally(), {}
        if self.not_read:
            self.tally.notes["file or folder of another kind in the folder, not read"] = self.not_read
        table = Table(self.view, names)
        yield from table.chunks(self._batches(table.decoder), size, self.tally)

    def _batches(self, decoder: msgspec.json.Decoder[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        for path in self.files:
            with reading(path.name):
                try:
                    with open_bounded(path) as file:
                        if path.name.lower().endswith(_LINES):
                            yield from self._lines(file, path.name, decoder)
                        else:
                            yield from self._document(file, path.name, decoder)
                except zlib.error as error:
                    raise DataError(f"{path.name} is damaged: it cannot be unpacked.", fix="copy or export it again", local=str(error)) from None

    def _lines(self, file: BinaryIO, name: str, decoder: msgspec.json.Decoder[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        line = 1
        for block, ended in blocks(file):
            if ended == TOO_LONG:
                self.tally.read += 1
                self._refuse(TOO_LONG, f"line {line} of {name}")
                line += 1
                continue
            try:
                found = decoder.decode_lines(block)
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                found = self._one_by_one(block, line, name, decoder)
            else:
                self.tally.read += len(found)
            line += block.count(b"\n")
            yield found

    def _one_by_one(self, block: bytes, line: int, name: str, decoder: msgspec.json.Decoder[dict[str, Any]]) -> list[dict[str, Any]]:
        """The resources of a block that holds a broken line."""
        found = []
        for number, text in enumerate(block.split(b"\n"), line):
            if text.strip():
                self.tally.read += 1
                try:
                    found.append(decoder.decode(text))
                except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
                    self._refuse(BROKEN, f"line {number} of {name}: {error}")
        return found

    def _document(self, file: BinaryIO, name: str, decoder: msgspec.json.Decoder[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        text = file.read(MAX_DOCUMENT_BYTES + 1)
        if len(text) > MAX_DOCUMENT_BYTES:
            raise TooLarge(f"{name} is one JSON document of more than {MAX_DOCUMENT_BYTES >> 30} GiB.", fix="export it as NDJSON, which is read line by line")
        text = text.removeprefix(b"\xef\xbb\xbf")
        try:
            bundle = BUNDLE.decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise DataError(f"{name} is not a whole JSON document.", fix="export it again; NDJSON belongs in a file named .ndjson", local=str(error)) from None
        if bundle.resourceType == "Bundle":
            yield from entries(bundle, decoder, self.tally, lambda at, error: self._refuse(BROKEN_ENTRY, f"entry {at} of {name}: {error}"))
        else:
            self.tally.read += 1
            yield [decoder.decode(text)]

    def _refuse(self, reason: str, where: str) -> None:
        self.tally.refused[reason] += 1
        self.first_refused.setdefault(reason, where)


def entries(bundle: Bundle, decoder: msgspec.json.Decoder[dict[str, Any]], tally: Tally, refuse: Any) -> Iterator[list[dict[str, Any]]]:
    """The resources of a Bundle, decoded in batches. refuse: called with an entry's number and error where its resource is no object."""
    for start in range(0, len(bundle.entry), BATCH):
        found = []
        for at, entry in enumerate(bundle.entry[start : start + BATCH], start + 1):
            tally.read += 1
            if entry.resource == _NOTHING:
                tally.left_out[NO_RESOURCE] += 1
                continue
            try:
                found.append(decoder.decode(entry.resource))
            except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
                refuse(at, error)
        yield found


def blocks(file: BinaryIO) -> Iterator[tuple[bytes, str]]:
    """Whole lines, some MiB at a time. A line beyond `MAX_RECORD_BYTES` is skipped, and told by an empty block with the reason `TOO_LONG`."""
    rest, skipping = file.read(3).removeprefix(b"\xef\xbb\xbf"), False
    while block := file.read(BLOCK_BYTES):
        if skipping:
            end = block.find(b"\n")
            if end < 0:
                continue
            block, skipping = block[end + 1 :], False
        cut = block.rfind(b"\n") + 1
        if cut:
            yield rest + block[:cut], ""
            rest = block[cut:]
        else:
            rest += block
        if len(rest) > MAX_RECORD_BYTES:
            yield b"", TOO_LONG
            rest, skipping = b"", True
    if rest:
        yield rest, ""


def load_view(view: str | dict[str, Any]) -> ViewDefinition:
    """The view that a mapping names or holds; raises `ManifestError`."""
    return ViewDefinition.read(Path(view)) if isinstance(view, str) else ViewDefinition.load(view, where="[source.view]")


def open_source(spec: Spec, path: Path | None) -> FhirSource:
    """The resources at `path`: a file, or all files of a folder in the order of their names."""
    place = existing(path, folder=True)
    view = load_view(spec.view)
    if place.is_file():
        return FhirSource([place], view, place.name)
    inside = sorted(p for p in place.iterdir() if not p.name.startswith("."))
    files = [p for p in inside if p.is_file() and p.name.lower().endswith(_LINES + _DOCUMENTS)]
    if not files:
        raise ManifestError(f"The folder {place.name} holds no FHIR files.", fix="they are named .ndjson, .jsonl or .json, or these with .gz behind")
    return FhirSource(files, view, place.name, not_read=len(inside) - len(files))
