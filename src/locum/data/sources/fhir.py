"""FHIR R4 resources in files: NDJSON as bulk exports write it, Bundles, or a folder of them, read through views of SQL on FHIR v2 (`fhir_views`).

NDJSON is read a block at a time, so its size does not matter; a Bundle is one JSON document and is held in memory, so its size is bounded.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec

from locum.data.sources.base import Tally, existing, open_bounded, reading
from locum.data.sources.fhir_views import Decoder, JoinedSource, Viewed, ViewSource, open_views
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


class Spec(Viewed):
    """path: NDJSON, a Bundle, or a folder of them, read in one pass whatever the number of views."""

    type: Literal["fhir"] = "fhir"


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
class Files:
    """Files of FHIR resources. first_refused: reason -> where it was met first; for this machine only."""

    files: list[Path]
    name: str
    tally: Tally = field(default_factory=Tally)
    first_refused: dict[str, str] = field(default_factory=dict)
    not_read: int = 0

    def restart(self) -> None:
        self.tally, self.first_refused = Tally(), {}
        if self.not_read:
            self.tally.notes["file or folder of another kind in the folder, not read"] = self.not_read

    def batches(self, decoder: Decoder, view: str | None = None) -> Iterator[list[dict[str, Any]]]:
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

    def _lines(self, file: BinaryIO, name: str, decoder: Decoder) -> Iterator[list[dict[str, Any]]]:
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

    def _one_by_one(self, block: bytes, line: int, name: str, decoder: Decoder) -> list[dict[str, Any]]:
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

    def _document(self, file: BinaryIO, name: str, decoder: Decoder) -> Iterator[list[dict[str, Any]]]:
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


def entries(bundle: Bundle, decoder: Decoder, tally: Tally, refuse: Any) -> Iterator[list[dict[str, Any]]]:
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


def open_source(spec: Spec, path: Path | None) -> ViewSource | JoinedSource:
    """The resources at `path`: a file, or all files of a folder in the order of their names."""
    return open_views(spec, _files(path))


def _files(path: Path | None) -> Files:
    place = existing(path, folder=True)
    if place.is_file():
        return Files([place], place.name)
    inside = sorted(p for p in place.iterdir() if not p.name.startswith("."))
    files = [p for p in inside if p.is_file() and p.name.lower().endswith(_LINES + _DOCUMENTS)]
    if not files:
        raise ManifestError(f"The folder {place.name} holds no FHIR files.", fix="they are named .ndjson, .jsonl or .json, or these with .gz behind")
    return Files(files, place.name, not_read=len(inside) - len(files))
