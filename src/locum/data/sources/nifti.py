"""NIfTI volumes (.nii, .nii.gz): a folder, a .zip or a file -> one row a volume, with the participants.tsv of a BIDS data set.

Of a header only sizes, spacing and orientation are used: descrip, aux_file, intent_name, db_name and extensions, where names of patients
have been found, are never read into a row. A head's volume shows a face: strip it before the volumes get here.
"""

from __future__ import annotations

import gzip
import io
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from locum.data import images
from locum.data.sources.base import CHUNK, Source, SourceSpec, Tally, Unusable, known, need
from locum.data.sources.labels import Labels, load_labels
from locum.data.sources.tree import Folder, Tree, contents, open_tree

CHUNK_BYTES = 1 << 26
MAX_ROW_BYTES = 1 << 28
MAX_VOXELS = 1 << 28
MAX_FILE_BYTES = 1 << 30
MAX_RATIO = 1000
"""A segmentation is nearly all zeros, and shrinks several hundredfold."""
_OWN = ("file", "patient", "session", "suffix", "voxels")
_MM = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}


class Spec(SourceSpec):
    """How volumes become arrays. Axes are right, anterior, superior (RAS+), the closest to the volume's own, without interpolation.

    size: samples along each. spacing: mm between samples; a volume is brought to it, then cut or padded with zeros to `size`; without it,
    it is stretched to `size`. intensity: "none"; "zscore", mean 0 and standard deviation 1 over the voxels that are not 0; "percentile", the
    first to the 99th percentile as 0 to 1. volume: which one of a four-dimensional file. labels_file: a table joined by `key`, which it holds in its column
    `label_key`; without one, participants.tsv is used where the folder has it. Volumes without a row in the table are left out.
    """

    type: Literal["nifti"] | None = None
    size: tuple[Annotated[int, Field(ge=1, le=2048)], Annotated[int, Field(ge=1, le=2048)], Annotated[int, Field(ge=1, le=2048)]]
    spacing: tuple[Annotated[float, Field(gt=0.01, le=100)], Annotated[float, Field(gt=0.01, le=100)], Annotated[float, Field(gt=0.01, le=100)]] | None = None
    intensity: Literal["none", "zscore", "percentile"] = "none"
    volume: Annotated[int, Field(ge=0)] | None = None
    suffix: str | None = None
    labels_file: str | None = None
    key: Literal["patient", "file"] = "patient"
    label_key: str | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if math.prod(self.size) * 4 > MAX_ROW_BYTES:
            raise ValueError(f"size asks for more than {MAX_ROW_BYTES >> 20} MiB a row")
        return self


def open_source(spec: Spec, path: Path | None) -> Source:
    need("nibabel", "imaging", "NIfTI")
    return NiftiSource(open_tree(path), spec)


@dataclass
class NiftiSource:
    tree: Tree
    spec: Spec
    tally: Tally = field(default_factory=Tally)
    _labels: Labels | None = None

    def __post_init__(self) -> None:
        if self.spec.labels_file:
            self._labels = load_labels(Path(self.spec.labels_file), self.spec.label_key or self.spec.key, _OWN)
        elif isinstance(self.tree, Folder) and (self.tree.path / "participants.tsv").is_file():
            self._labels = load_labels(self.tree.path / "participants.tsv", self.spec.label_key or "participant_id", _OWN)

    @property
    def name(self) -> str:
        return self.tree.name

    def columns(self) -> list[str]:
        return [*_OWN, *(self._labels.columns if self._labels else [])]

    def chunks(self, names: Sequence[str], size: int = CHUNK) -> Iterator[pl.DataFrame]:
        known(names, self.columns(), self.name)
        self.tally = Tally()
        most = max(1, min(size, CHUNK_BYTES // (4 * math.prod(self.spec.size))))
        rows: list[dict[str, Any]] = []
        for file in self.tree.files():
            if not file.lower().endswith((".nii", ".nii.gz")):
                self._count(Unusable("a file of another kind", left_out=True))
                continue
            try:
                rows.append(self._row(file))
            except Unusable as why:
                self._count(why)
                continue
            self.tally.read += 1
            self.tally.used += 1
            if len(rows) == most:
                yield self._frame(rows, names)
                rows = []
        if rows or not self.tally.used:
            yield self._frame(rows, names)

    def _count(self, why: Unusable) -> None:
        self.tally.read += 1
        counter: Counter[str] = self.tally.left_out if why.left_out else self.tally.refused
        counter[why.reason] += 1

    def _row(self, file: str) -> dict[str, Any]:
        row: dict[str, Any] = {"file": file, **_entities(file), "label": None}
        if self.spec.suffix and row["suffix"] != self.spec.suffix:
            raise Unusable("with another suffix", left_out=True)
        if self._labels is not None:
            row["label"] = self._labels.row.get(_key(self.spec, row), self._labels.row.get(str(row["patient"]).removeprefix("sub-")))
            if row["label"] is None:
                raise Unusable("without a row in the table of labels", left_out=True)
        voxels, scale = read_volume(unpacked(contents(self.tree, file, MAX_FILE_BYTES), file), self.spec.volume)
        if not np.isfinite(voxels).all():
            self.tally.notes["volumes with voxels that are no number, read as 0"] += 1
            voxels = np.nan_to_num(voxels, nan=0.0, posinf=0.0, neginf=0.0)
        return {**row, "voxels": fitted(voxels, scale, self.spec)}

    def _frame(self, rows: list[dict[str, Any]], names: Sequence[str]) -> pl.DataFrame:
        columns = []
        for name in names:
            if name == "voxels":
                array = np.stack([r["voxels"] for r in rows]) if rows else np.empty((0, *self.spec.size), np.float32)
                columns.append(pl.Series(name, array, dtype=pl.Array(pl.Float32, self.spec.size)))
            elif name in _OWN:
                columns.append(pl.Series(name, [r[name] for r in rows], dtype=pl.String))
            elif self._labels is not None:
                columns.append(self._labels.frame[name].gather([r["label"] for r in rows]))
        return pl.DataFrame(columns)


def _key(spec: Spec, row: dict[str, Any]) -> str:
    return str(row["file"] if spec.key == "file" and spec.labels_file else row["patient"])


def _entities(file: str) -> dict[str, str | None]:
    """BIDS entities of a file's name: sub-01_ses-2_T1w.nii.gz is of patient sub-01, session 2, suffix T1w. Another name is the patient's whole."""
    stem = re.sub(r"\.nii(\.gz)?$", "", file.rpartition("/")[2], flags=re.IGNORECASE)
    parts = stem.split("_")
    found = dict(p.split("-", 1) for p in parts if "-" in p)
    if "sub" not in found:
        return {"patient": stem, "session": None, "suffix": None}
    return {"patient": f"sub-{found['sub']}", "session": found.get("ses"), "suffix": parts[-1] if "-" not in parts[-1] else None}


def unpacked(data: bytes, file: str) -> bytes:
    """The bytes, unpacked where the name says so; raises `Unusable` for a bomb or a broken stream."""
    if not file.lower().endswith(".gz"):
        return data
    limit = min(MAX_FILE_BYTES, max(1 << 20, len(data) * MAX_RATIO))
    engine = zlib.decompressobj(31)
    try:
        plain = engine.decompress(data, limit)
        while engine.eof and engine.unused_data[:2] == b"\x1f\x8b":  # further members of the file
            rest, engine = engine.unused_data, zlib.decompressobj(31)
            plain += engine.decompress(rest, max(1, limit - len(plain)))
    except (zlib.error, gzip.BadGzipFile):
        raise Unusable("it cannot be unpacked") from None
    if engine.unconsumed_tail or len(plain) > limit:
        raise Unusable(f"it unpacks to more than {MAX_RATIO} times its size, or {MAX_FILE_BYTES >> 20} MiB")
    if not engine.eof:
        raise Unusable("it is cut short")
    return plain


def read_volume(data: bytes, volume: int | None) -> tuple[images.Image, tuple[float, float, float]]:
    """Voxels in RAS+ order with the header's slope and intercept applied, and the mm between them. Raises `Unusable`."""
    import nibabel

    try:
        kind = nibabel.Nifti2Image if data[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c") else nibabel.Nifti1Image
        header = cast(Any, kind.header_class).from_fileobj(io.BytesIO(data))
        shape, stored = header.get_data_shape(), header.get_data_dtype()
        offset = int(header.get_data_offset())
    except Exception:  # nibabel raises whatever its parts raise
        raise Unusable("its header cannot be read") from None
    if stored.kind not in "biuf" or len(shape) < 3 or 0 in shape or any(n != 1 for n in shape[4:]):
        raise Unusable("it is no volume of numbers")
    if math.prod(shape[:3]) > MAX_VOXELS:
        raise Unusable(f"it declares more than {MAX_VOXELS:,} voxels")
    if offset < 0 or offset + math.prod(shape) * stored.itemsize > len(data):
        raise Unusable("it is cut short")
    series = shape[3] if len(shape) > 3 else 1
    if series > 1 and volume is None:
        raise Unusable("it holds several volumes; set volume under [source] to choose one")
    if (volume or 0) >= series:
        raise Unusable("it has no volume of that number")
    return _canonical(nibabel, kind, data, header, volume or 0)


def _canonical(nibabel: Any, kind: Any, data: bytes, header: Any, volume: int) -> tuple[images.Image, tuple[float, float, float]]:
    try:
        image = kind.from_bytes(data)
        index = (slice(None),) * 3 + (volume,) * (len(image.shape) > 3) + (0,) * (len(image.shape) - 4)
        voxels = np.asarray(image.dataobj[index], dtype=np.float32)
        turn = nibabel.io_orientation(image.affine)
        if not np.isfinite(turn).all() or not np.isfinite(image.affine).all():
            raise Unusable("its orientation is not given")
        factor = _MM[header.get_xyzt_units()[0]]
        zooms = np.asarray(header.get_zooms()[:3], dtype=float) * factor
        voxels = nibabel.apply_orientation(voxels, turn)
        scale = tuple(float(z) for z in zooms[np.argsort(turn[:, 0])])
    except Unusable:
        raise
    except Exception:  # nibabel raises whatever its parts raise
        raise Unusable("its voxels cannot be read") from None
    return voxels, (scale[0], scale[1], scale[2])


def fitted(voxels: images.Image, scale: Sequence[float], spec: Spec) -> images.Image:
    """The volume in the mapping's spacing, size and intensity."""
    if spec.spacing is None:
        return _intensity(images.resize(voxels, spec.size), spec.intensity)
    if not all(0.001 < s < 1000 for s in scale):
        raise Unusable("it does not say how many millimetres its voxels are apart")
    size = images.at_spacing(voxels.shape, scale, spec.spacing)
    if math.prod(size) > MAX_VOXELS:
        raise Unusable("it is too large at the spacing that the mapping asks for")
    return images.crop_pad(_intensity(images.resize(voxels, size), spec.intensity), spec.size)


def _intensity(voxels: images.Image, how: str) -> images.Image:
    inside = voxels[voxels != 0]
    if how == "none" or not len(inside):
        return voxels
    if how == "zscore":
        spread = float(inside.std(dtype=np.float64))
        return np.where(voxels != 0, (voxels - np.float32(inside.mean(dtype=np.float64))) / np.float32(spread or 1.0), 0).astype(np.float32)
    low, high = np.percentile(voxels, (1, 99))
    unit: images.Image = np.clip((voxels - low) / ((high - low) or 1.0), 0, 1).astype(np.float32)
    return unit
