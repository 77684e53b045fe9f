"""Apple Health exports (export.xml, alone or in export.zip), summed up by day while they are read.

An export is parsed as a stream by expat, one element at a time, so that memory grows with the days and not with the file. Its document
type is cut off first: no declaration of an entity and no outside reference is let through (so neither a billion laughs nor a file of this
machine), while the element declarations that Apple writes are skipped, as they must be: those of iOS 16 are not well-formed.
"""

from __future__ import annotations

import datetime
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, cast
from xml.parsers import expat

import polars as pl

from locum.data.sources.apple_health_days import QUANTITIES, SLEEP, Days
from locum.data.sources.base import CHUNK, MAX_RATIO, MAX_UNPACKED_BYTES, Bounded, Source, SourceSpec, Tally, Unusable, existing, known
from locum.data.sources.files import files, identity
from locum.errors import TooLarge

MAX_PROLOG_BYTES = 1 << 20
_READ = 1 << 18
_SEX = {"HKBiologicalSexFemale": "F", "HKBiologicalSexMale": "M"}


class Spec(SourceSpec):
    """per: a row for each day. sources: words in the name or the device of a source, the most trusted first; of two that count the same
    steps in the same five minutes only the first is heard. Other sources come last."""

    type: Literal["apple_health"] | None = None
    per: Literal["day"] = "day"
    sources: tuple[str, ...] = ("watch", "iphone")


def open_source(spec: Spec, path: Path | None) -> Source:
    return AppleHealthSource(existing(path, folder=True), spec)


@dataclass
class AppleHealthSource:
    """One export, or a folder with one for each person.

    Columns: patient (the export's path below the folder), date (by the clock of the place where it was recorded), sex and age where the
    export has them, and what `apple_health_days` sums up: steps, heart_rate_mean, sleep_hours and so on. The tally counts the export's
    records; those of a kind that is not summed up are left out, and all of a damaged export are refused.
    """

    path: Path
    spec: Spec
    tally: Tally = field(default_factory=Tally)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def schema(self) -> dict[str, Any]:
        return {"patient": pl.String, "date": pl.Date, "sex": pl.String, "age": pl.Int64, **dict.fromkeys(Days.columns(), pl.Float64)}

    def columns(self) -> list[str]:
        return [*self.schema]

    def chunks(self, names: Sequence[str], size: int = CHUNK) -> Iterator[pl.DataFrame]:
        known(names, self.columns(), self.name)
        self.tally = Tally()
        schema = {n: self.schema[n] for n in names}
        for file in files(self.path, (".xml", ".zip")):
            if file != self.path and file.name.lower().endswith("_cda.xml"):  # the same data as a clinical document
                continue
            export = _Export(Days(self.spec.sources))
            try:
                with _open(file) as stream:
                    export.parse(stream)
            except (Unusable, OSError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError, TooLarge) as error:
                reason = str(error) if isinstance(error, Unusable) else "a record of an export that cannot be unpacked"
                self.tally.read += max(1, export.tally.read)
                self.tally.refused[reason] += max(1, export.tally.read)
                continue
            self._add(export.tally)
            rows = export.rows(self._patient(file))
            while some := [r for _, r in zip(range(size), rows, strict=False)]:
                yield pl.DataFrame({n: [r.get(n) for r in some] for n in names}, schema=schema)

    def _patient(self, file: Path) -> str:
        name = PurePosixPath(identity(file, self.path))
        return name.parent.as_posix() if name.name.lower() in ("export", "apple_health_export") and len(name.parts) > 1 else name.as_posix()

    def _add(self, tally: Tally) -> None:
        self.tally.read += tally.read
        self.tally.used += tally.used
        self.tally.refused += tally.refused
        self.tally.left_out += tally.left_out


class _Export:
    """One export while it is parsed."""

    def __init__(self, days: Days) -> None:
        self.days, self.tally = days, Tally()
        self.born: datetime.date | None = None
        self.sex: str | None = None
        self.root: str | None = None

    def parse(self, stream: BinaryIO) -> None:
        """The whole stream; raises `Unusable`."""
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._element
        parser.StartDoctypeDeclHandler = _forbidden
        parser.EntityDeclHandler = _forbidden
        parser.ExternalEntityRefHandler = _forbidden
        try:
            parser.Parse(_without_doctype(stream), False)
            while data := stream.read(_READ):
                parser.Parse(data, False)
            parser.Parse(b"", True)
        except expat.ExpatError:
            raise Unusable("a record of an export that is cut off or is not well-formed XML") from None
        except (ValueError, LookupError):  # an encoding that Python lacks
            raise Unusable("a record of an export in an unknown encoding") from None

    def _element(self, tag: str, attributes: dict[str, str]) -> None:
        if self.root is None:
            self.root = tag
            if tag != "HealthData":
                raise Unusable("a file that is no Apple Health export")
        if tag == "Record":
            self._record(attributes)
        elif tag == "Me":
            self.sex = _SEX.get(attributes.get("HKCharacteristicTypeIdentifierBiologicalSex", ""))
            born = attributes.get("HKCharacteristicTypeIdentifierDateOfBirth", "")
            if re.fullmatch(r"\d{4}-\d\d-\d\d", born, re.ASCII):
                try:
                    self.born = datetime.date.fromisoformat(born)
                except ValueError:
                    self.born = None

    def _record(self, attributes: dict[str, str]) -> None:
        self.tally.read += 1
        kind = attributes.get("type", "")
        if kind != SLEEP and kind not in QUANTITIES:
            self.tally.left_out["a record of a kind that is not summed up"] += 1
            return
        try:
            self.days.add(kind, attributes)
        except Unusable as reason:
            self.tally.refused[str(reason)] += 1
        else:
            self.tally.used += 1

    def rows(self, patient: str) -> Iterator[dict[str, Any]]:
        for day, values in self.days.rows():
            age = day.year - self.born.year - ((day.month, day.day) < (self.born.month, self.born.day)) if self.born else None
            yield {"patient": patient, "date": day, "sex": self.sex, "age": age, **values}


def _forbidden(*_: Any) -> Any:
    raise Unusable("a record of an export with a document type that declares more than elements")


def _without_doctype(stream: BinaryIO) -> bytes:
    """The start of the stream up to the root element, and a little more, without the document type; raises `Unusable`."""
    head = stream.read(_READ)
    if b"<!DOCTYPE" not in head.partition(b"<HealthData")[0]:
        return head
    start = head.index(b"<!DOCTYPE")
    while (end := re.search(rb"\]\s*>\s*(?=<)", head[start:])) is None and len(head) < MAX_PROLOG_BYTES:
        more = stream.read(_READ)
        if not more:
            break
        head += more
    doctype = head[start : start + end.end()] if end else b""
    if not doctype or b"<!ENTITY" in doctype or b"%" in doctype or re.match(rb"<!DOCTYPE\s+\S+\s+(SYSTEM|PUBLIC)", doctype):
        _forbidden()
    return head[:start] + b"\n" * doctype.count(b"\n") + head[start + len(doctype) :]


def _open(file: Path) -> BinaryIO:
    """The bytes of the export, from the zip file that the Health app shares if it is one; raises `Unusable`, or TooLarge while reading."""
    if file.suffix.lower() != ".zip":
        return file.open("rb")
    archive = zipfile.ZipFile(file)
    members = [m for m in archive.infolist() if m.filename.lower().endswith(".xml") and not m.filename.lower().endswith("_cda.xml")]
    named = [m for m in members if PurePosixPath(m.filename).name.lower() == "export.xml"] or members  # the name is translated
    if len(named) != 1:
        raise Unusable("a zip file that holds no single export")
    most = min(MAX_UNPACKED_BYTES, max(1 << 20, named[0].compress_size * MAX_RATIO))
    return cast(BinaryIO, Bounded(cast(BinaryIO, archive.open(named[0])), file.name, most))
