"""DICOM: a folder, a .zip or a file of images -> one row an image, or one row a series, de-identified before anything is kept.

A first pass reads the headers (the patient's first study is day 0, and a series has to be put in order); a second pass decodes image by
image, so memory holds one image, or one series, and one chunk of finished arrays.
"""

from __future__ import annotations

import io
import json
import math
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from locum.data import deidentify, images
from locum.data.burned_in import says_header, shows_text
from locum.data.sources import dicom_file
from locum.data.sources.base import CHUNK, Source, SourceSpec, Tally, Unusable, known, need
from locum.data.sources.cache import ArrayCache
from locum.data.sources.decode import Decoder
from locum.data.sources.labels import Labels, load_labels
from locum.data.sources.tree import Tree, contents, open_tree, opened

CHUNK_BYTES = 1 << 26
MAX_ROW_BYTES = 1 << 28
MAX_SERIES_SAMPLES = 1 << 28
_OTHER = (".txt", ".csv", ".tsv", ".json", ".md", ".xml", ".pdf", ".jpg", ".png", ".html", ".toml")
"""Files so named, that are no DICOM, are left out; any other file that is no DICOM is refused."""


class Spec(SourceSpec):
    """How images become arrays.

    per: "image" (a row for each frame) or "series" (a row for each volume; images of a series have to be evenly spaced). size: (height, width), or
    (depth, height, width) for a series. spacing: mm between samples in the same order; the image is brought to it, then cut or padded with black to
    `size`; without it the image is stretched to `size`. window: (centre, width) in the modality's units; "file", each file's own, or where it has none
    as "range"; "range", least to greatest value. Whatever the window, 0 is black and 1 is white. colour: pixels have three channels first. modality:
    others are left out. burned_in: "refuse" images with text in their pixels as header or pixels say, believe the "header" alone, or "allow" all.
    cache_path: a folder for finished arrays. labels_file: a table joined by `key`, which it holds in its column `label_key` (default: so
    named); images without labels are left out.
    """

    type: Literal["dicom"] | None = None
    per: Literal["image", "series"] = "image"
    size: tuple[Annotated[int, Field(ge=1, le=4096)], ...]
    spacing: tuple[Annotated[float, Field(gt=0.01, le=100)], ...] = ()
    window: tuple[float, Annotated[float, Field(ge=1)]] | Literal["file", "range"] = "file"
    colour: bool = False
    modality: tuple[str, ...] = ()
    burned_in: Literal["refuse", "header", "allow"] = "refuse"
    cache_path: str | None = None
    labels_file: str | None = None
    key: Literal["patient", "file"] = "patient"
    label_key: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        axes = 2 if self.per == "image" else 3
        if len(self.size) != axes:
            raise ValueError(f'size has {axes} numbers where per = "{self.per}"')
        if len(self.spacing) not in (0, axes):
            raise ValueError(f'spacing has {axes} numbers where per = "{self.per}"')
        if self.colour and self.per == "series":
            raise ValueError('colour goes with per = "image"')
        if math.prod(self.shape) * 4 > MAX_ROW_BYTES:
            raise ValueError(f"size asks for more than {MAX_ROW_BYTES >> 20} MiB a row")
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row's pixels."""
        return (3, *self.size) if self.colour else self.size


def open_source(spec: Spec, path: Path | None, *, secret: bytes = b"") -> Source:
    """secret: the site's, 1 to 64 bytes, for the pseudonyms of studies and series. Without one they are the cache's, or hold for this read only."""
    need("pydicom", "imaging", "DICOM")
    return DicomSource(open_tree(path), spec, secret)


@dataclass
class _File:
    """What the first pass keeps of a file."""

    name: str
    patient: str
    series: str
    day: date | None
    order: tuple[float, str]
    problem: str = ""


@dataclass
class DicomSource:
    tree: Tree
    spec: Spec
    secret: bytes = b""
    tally: Tally = field(default_factory=Tally)
    _labels: Labels | None = None

    def __post_init__(self) -> None:
        self._cache = ArrayCache(Path(self.spec.cache_path)) if self.spec.cache_path else None
        self._key = self.secret[:64] or (self._cache.key if self._cache else secrets.token_bytes(32))
        if self.spec.labels_file:
            self._labels = load_labels(Path(self.spec.labels_file), self.spec.label_key or self.spec.key, self._own())

    @property
    def name(self) -> str:
        return self.tree.name

    def _own(self) -> list[str]:
        return ["file", "patient", "frame" if self.spec.per == "image" else "slices", "pixels", *deidentify.PUBLIC]

    def columns(self) -> list[str]:
        return self._own() + (self._labels.columns if self._labels else [])

    def chunks(self, names: Sequence[str], size: int = CHUNK) -> Iterator[pl.DataFrame]:
        known(names, self.columns(), self.name)
        self.tally = Tally()
        most = max(1, min(size, CHUNK_BYTES // (4 * math.prod(self.spec.shape))))
        rows: list[dict[str, Any]] = []
        with dicom_file.quiet():
            files = self._index()
        with Decoder() as decoder:
            first: dict[str, date] = {}
            for f in files:
                if f.day and f.patient:
                    first[f.patient] = min(first.get(f.patient, f.day), f.day)
            for group in self._groups(files):
                with dicom_file.quiet():
                    rows += self._rows(group, first.get(group[0].patient), decoder)
                while len(rows) >= most:
                    yield self._frame(rows[:most], names)
                    del rows[:most]
        if rows or not self.tally.used:
            yield self._frame(rows, names)

    def _index(self) -> list[_File]:
        """The first pass: every file that may hold an image; what does not is counted here."""
        found = []
        for name in self.tree.files():
            try:
                found.append(self._look(name))
            except Unusable as why:
                other = why.reason == "not a DICOM file" and name.lower().endswith(_OTHER)
                self._count(why if not other else Unusable(why.reason, left_out=True))
        return found

    def _look(self, name: str) -> _File:
        with opened(self.tree, name) as stream:
            header = dicom_file.parse(stream, pixels=False).header
        dicom_file.check_image(header)
        if self.spec.modality and deidentify.text(header, "Modality") not in self.spec.modality:
            raise Unusable("of another modality", left_out=True)
        problem = (says_header(header) if self.spec.burned_in != "allow" else None) or ""
        patient, series = deidentify.text(header, "PatientID"), deidentify.text(header, "SeriesInstanceUID")
        if self.spec.per == "series" and not series:
            raise Unusable("it does not say of which series it is")
        place = dicom_file.depth(header)
        order = deidentify.number(header, "InstanceNumber", -1e9, 1e9) if place is None else place
        return _File(name, patient, series, deidentify.day_of(header, "StudyDate"), (math.inf if order is None else order, name), problem)

    def _groups(self, files: list[_File]) -> Iterator[list[_File]]:
        """The files of each row to be, in a stable order."""
        if self.spec.per == "image":
            yield from ([f] for f in files)
            return
        groups: dict[tuple[str, str], list[_File]] = {}
        for f in files:
            groups.setdefault((f.patient, f.series), []).append(f)
        yield from (sorted(group, key=lambda f: f.order) for group in groups.values())

    def _rows(self, group: list[_File], first: date | None, decoder: Decoder) -> list[dict[str, Any]]:
        """The finished rows of one image or series; counts them, or why there are none."""
        try:
            label = self._label(group[0])
            problem = next((f.problem for f in group if f.problem), "")
            if problem:
                raise Unusable(problem)
            data = [contents(self.tree, f.name, dicom_file.MAX_FILE_BYTES) for f in group]
            header = _parsed(data[0], pixels=False).header
            arrays = self._arrays(data, decoder)
        except Unusable as why:
            self._count(why)
            return []
        common: dict[str, Any] = {"file": group[0].name, "patient": group[0].patient or None, **deidentify.deidentify(header, self._key, first), "label": label}
        self.tally.read += len(arrays)
        self.tally.used += len(arrays)
        if self.spec.per == "series":
            return [{**common, "slices": float(max(len(data), common["frames"] or 1)), "pixels": arrays[0]}]
        return [{**common, "frame": float(i), "pixels": a} for i, a in enumerate(arrays)]

    def _label(self, file: _File) -> int | None:
        if self._labels is None:
            return None
        row = self._labels.row.get(file.patient if self.spec.key == "patient" else file.name)
        if row is None:
            raise Unusable("without a row in the table of labels", left_out=True)
        return row

    def _count(self, why: Unusable) -> None:
        self.tally.read += 1
        counter: Counter[str] = self.tally.left_out if why.left_out else self.tally.refused
        counter[why.reason] += 1

    def _arrays(self, data: list[bytes], decoder: Decoder) -> images.Image:
        """Finished arrays, shape (k, *spec.shape), from the cache where the very files were read before in the same way."""
        if self._cache is None:
            return self._made(data, decoder)
        options = self.spec.model_dump(include={"per", "size", "spacing", "window", "colour", "burned_in"}, mode="json")
        name = self._cache.name([json.dumps(options, sort_keys=True).encode(), *data])
        arrays = self._cache.get(name, self.spec.shape)
        if arrays is None:
            arrays = self._made(data, decoder)
            self._cache.put(name, arrays)
        return arrays

    def _made(self, data: list[bytes], decoder: Decoder) -> images.Image:
        if self.spec.per == "image":
            parsed = _parsed(data[0], pixels=True)
            frames = self._checked(dicom_file.to_unit(parsed, dicom_file.frames(parsed, decoder), self.spec.window, colour=self.spec.colour))
            scale = _scale(dicom_file.spacing(parsed.header), self.spec.spacing)
            return np.stack([self._fit(frame, scale) for frame in frames])
        volume, scale3 = self._volume([_parsed(d, pixels=True) for d in data], decoder)
        return self._fit(self._checked(volume), scale3)[None]

    def _volume(self, slices: list[dicom_file.Parsed], decoder: Decoder) -> tuple[images.Image, tuple[float, ...] | None]:
        """The series as (depth, rows, columns) and the spacing of its samples in mm, if spacing is asked for."""
        header = slices[0].header
        samples = sum(int(np.prod([int(deidentify.number(s.header, k, 1, 65535) or 1) for k in ("Rows", "Columns")])) for s in slices)
        if samples > MAX_SERIES_SAMPLES:
            raise Unusable(f"its series has more than {MAX_SERIES_SAMPLES:,} pixels")
        stored = [dicom_file.frames(s, decoder) for s in slices]
        if len({s.shape for s in stored}) > 1 or (len(stored) > 1 and len(stored[0]) > 1) or stored[0].ndim == 4:
            raise Unusable("the images of its series are not slices of one size")
        between = dicom_file.slice_spacing(header) if len(slices) == 1 else _even([dicom_file.depth(s.header) for s in slices])
        units = np.concatenate([dicom_file.values(s.header, f) for s, f in zip(slices, stored, strict=True)])
        volume = dicom_file.shade(header, units, self.spec.window)
        plane = dicom_file.spacing(header)
        return volume, _scale((between, *plane) if between and plane else None, self.spec.spacing)

    def _checked(self, frames: images.Image) -> images.Image:
        """The frames, unless letters seem to stand in one of them."""
        if self.spec.burned_in == "refuse" and any(shows_text(f if f.ndim == 2 else f.mean(axis=0)) for f in frames):
            raise Unusable("marks like letters stand near the border of its pixels")
        return frames

    def _fit(self, image: images.Image, scale: tuple[float, ...] | None) -> images.Image:
        """One image in the shape that the mapping asks for; `scale` mm between its samples where spacing is asked for."""
        if self.spec.colour:
            return np.stack([_fitted(channel, self.spec, scale) for channel in image])
        return _fitted(image, self.spec, scale)

    def _frame(self, rows: list[dict[str, Any]], names: Sequence[str]) -> pl.DataFrame:
        columns = []
        for name in names:
            if name == "pixels":
                array = np.stack([r["pixels"] for r in rows]) if rows else np.empty((0, *self.spec.shape), np.float32)
                columns.append(pl.Series(name, array, dtype=pl.Array(pl.Float32, self.spec.shape)))
            elif self._labels is not None and name in self._labels.columns:
                columns.append(self._labels.frame[name].gather([r["label"] for r in rows]))
            else:
                kind = pl.String if name in deidentify.TEXT or name in ("file", "patient") else pl.Float64
                columns.append(pl.Series(name, [r[name] for r in rows], dtype=kind))
        return pl.DataFrame(columns)


def _parsed(data: bytes, *, pixels: bool) -> dicom_file.Parsed:
    return dicom_file.parse(io.BytesIO(data), pixels=pixels)


def _scale(found: tuple[float, ...] | None, wanted: tuple[float, ...]) -> tuple[float, ...] | None:
    if wanted and found is None:
        raise Unusable("it does not say how many millimetres its pixels are apart")
    return found if wanted else None


def _fitted(image: images.Image, spec: Spec, scale: tuple[float, ...] | None) -> images.Image:
    if scale is None:
        return images.resize(image, spec.size)
    size = images.at_spacing(image.shape, scale, spec.spacing)
    if max(size) > 1 << 14 or math.prod(size) > MAX_SERIES_SAMPLES:
        raise Unusable("it is too large at the spacing that the mapping asks for")
    return images.crop_pad(images.resize(image, size), spec.size)


def _even(places: list[float | None]) -> float:
    """Millimetres between slices that lie at `places`; raises `Unusable` where one is missing, or stands twice."""
    if any(p is None for p in places):
        raise Unusable("the images of its series do not say where they lie")
    steps = np.diff(np.asarray(places, dtype=float))
    middle = float(np.median(steps))
    if middle <= 1e-3 or bool((np.abs(steps - middle) > max(0.05 * middle, 0.02)).any()):
        raise Unusable("the images of its series are not evenly spaced: one is missing, or there are several")
    return middle
