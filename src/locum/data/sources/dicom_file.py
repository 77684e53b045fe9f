"""One DICOM file (PS3.10): its header, and its pixels as frames from 0 to 1. Only attributes that are named here are ever parsed."""

from __future__ import annotations

import io
import logging
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from locum.data import deidentify, images
from locum.data.sources.base import Unusable
from locum.data.sources.decode import Decoder, decode

MAX_FILE_BYTES = 1 << 30
MAX_SAMPLES = 1 << 28
"""Numbers in the pixels of one file: 1 GiB as float32."""
MAX_RATIO = 200

_IMPLICIT, _EXPLICIT, _BIG, _DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
_KEYWORDS = (
    "SpecificCharacterSet", "SOPClassUID", "ImageType", "ConversionType", "BurnedInAnnotation", "RecognizableVisualFeatures", "PatientID",
    "PatientBirthDate", "PatientAge", "StudyDate", "StudyInstanceUID", "SeriesInstanceUID", "InstanceNumber", "ImagePositionPatient",
    "ImageOrientationPatient", "SamplesPerPixel", "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "ModalityLUTSequence", "VOILUTSequence", "VOILUTFunction", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "Manufacturer",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
)  # fmt: skip
_PIXELS = 0x7FE00010
Window = tuple[float, float] | str


class Parsed(NamedTuple):
    """syntax: the transfer syntax. header: a pydicom Dataset of the attributes that are needed."""

    syntax: str
    header: Any


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing that pydicom says of a bad value is shown or logged: it quotes the value."""
    logger = logging.getLogger("pydicom")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def parse(stream: BinaryIO, *, pixels: bool) -> Parsed:
    """The attributes of a file, with or without its pixels. Raises `Unusable`, whatever is wrong with the file."""
    from pydicom.filereader import read_dataset
    from pydicom.tag import BaseTag, Tag

    words = {*_KEYWORDS, *(n.keyword for n in deidentify.NUMBERS.values()), *(k for k, _ in deidentify.TERMS.values())}
    wanted: list[BaseTag | int] = [*(Tag(w) for w in words), *([Tag(_PIXELS)] if pixels else [])]
    syntax, directory = _meta(stream)
    if directory:
        raise Unusable("an index of other files (DICOMDIR)", left_out=True)
    body = _inflated(stream) if syntax == _DEFLATED else stream
    last = _PIXELS if pixels else _PIXELS - 1
    try:
        header = read_dataset(body, syntax == _IMPLICIT, syntax != _BIG, stop_when=lambda tag, _vr, _length: tag > last, specific_tags=wanted)
    except Exception:  # pydicom raises whatever its parts raise: struct.error, RecursionError, KeyError, NotImplementedError, ...
        raise Unusable("its attributes cannot be parsed") from None
    return Parsed(syntax, header)


def _meta(stream: BinaryIO) -> tuple[str, bool]:
    """The transfer syntax, and whether this is a DICOMDIR; leaves the stream behind the file meta group (PS3.10 7.1)."""
    if stream.read(132)[128:] != b"DICM":
        raise Unusable("not a DICOM file")
    syntax, kind = "", ""
    while True:
        start, head = stream.tell(), stream.read(8)
        if len(head) < 8 or head[:2] != b"\x02\x00":
            stream.seek(start)
            break
        long = head[4:6] in (b"OB", b"UN", b"UT", b"OW", b"SQ", b"UC", b"UR")
        length = int.from_bytes(stream.read(4), "little") if long else int.from_bytes(head[6:8], "little")
        if length > 1 << 20:
            raise Unusable("its attributes cannot be parsed")
        value = stream.read(length)
        if head[2:4] == b"\x10\x00":
            syntax = value.decode("ascii", "replace").strip(" \0")
        if head[2:4] == b"\x02\x00":
            kind = value.decode("ascii", "replace").strip(" \0")
    if not syntax:
        raise Unusable("it does not say how it is encoded (no transfer syntax)")
    return syntax, kind == "1.2.840.10008.1.3.10"


def _inflated(stream: BinaryIO) -> BinaryIO:
    packed = stream.read(MAX_FILE_BYTES)
    limit = min(MAX_FILE_BYTES, max(1 << 20, len(packed) * MAX_RATIO))
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = engine.decompress(packed, limit)
    except zlib.error:
        raise Unusable("its deflated attributes cannot be unpacked") from None
    if engine.unconsumed_tail:
        raise Unusable(f"its deflated attributes grow more than {MAX_RATIO} times, or beyond {limit >> 20} MiB")
    return io.BytesIO(data)


def check_image(header: Any) -> None:
    """Raise `Unusable` unless the header describes pixels of a size and a kind that can be read."""
    rows, columns = (deidentify.number(header, k, 1, 65535) for k in ("Rows", "Columns"))
    if rows is None or columns is None:
        raise Unusable("it holds no image (a report, a plan, a waveform, ...)", left_out=True)
    frames = _count(header, "NumberOfFrames", 1)
    if rows * columns * frames * _count(header, "SamplesPerPixel", 1) > MAX_SAMPLES:
        raise Unusable(f"it declares more than {MAX_SAMPLES:,} pixels")


def _count(header: Any, keyword: str, default: int) -> int:
    found = deidentify.value(header, keyword)
    if found in (None, ""):
        return default
    number = deidentify.number(header, keyword, 0, 1 << 31)
    if number is None:
        raise Unusable("the description of its pixels is no number")
    return max(int(number), default)


def frames(parsed: Parsed, decoder: Decoder) -> NDArray[Any]:
    """The pixels as stored: (frames, rows, columns) or, of a colour image, (frames, rows, columns, 3). Raises `Unusable`."""
    syntax, header = parsed
    check_image(header)
    encoded = deidentify.value(header, "PixelData")
    if not isinstance(encoded, bytes) or not encoded:
        raise Unusable("it has no pixels, or pixels in floating point")
    options: dict[str, Any] = {
        "rows": _count(header, "Rows", 1),
        "columns": _count(header, "Columns", 1),
        "number_of_frames": _count(header, "NumberOfFrames", 1),
        "samples_per_pixel": _count(header, "SamplesPerPixel", 1),
        "bits_allocated": _count(header, "BitsAllocated", 1),
        "bits_stored": _count(header, "BitsStored", 1),
        "pixel_representation": _count(header, "PixelRepresentation", 0),
        "photometric_interpretation": deidentify.text(header, "PhotometricInterpretation"),
        "planar_configuration": _count(header, "PlanarConfiguration", 0),
    }
    native = syntax in (_IMPLICIT, _EXPLICIT, _BIG, _DEFLATED)
    if native:
        subsampled = options["photometric_interpretation"] == "YBR_FULL_422"
        samples = options["rows"] * options["columns"] * options["number_of_frames"] * (2 if subsampled else options["samples_per_pixel"])
        if len(encoded) < (samples * options["bits_allocated"] + 7) // 8:
            raise Unusable("its pixels are cut short")
    read: Callable[..., NDArray[Any]] = decode if native else decoder
    uid = _EXPLICIT if syntax == _DEFLATED else syntax
    stored = read(uid, options, encoded)
    if native:
        stored = _used_bits(stored, options, header)
    shape = (options["number_of_frames"], options["rows"], options["columns"], *((3,) if options["samples_per_pixel"] == 3 else ()))
    if stored.size != int(np.prod(shape)):
        raise Unusable("its pixels are not of the size that it declares")
    return stored.reshape(shape)


def _used_bits(stored: NDArray[Any], options: dict[str, Any], header: Any) -> NDArray[Any]:
    """The pixels without the bits that are not theirs: older files keep overlays there, with names written in them."""
    spare = options["bits_allocated"] - options["bits_stored"]
    if spare <= 0 or stored.dtype.kind not in "iu" or options["bits_allocated"] == 1:
        return stored
    if _count(header, "HighBit", options["bits_stored"] - 1) != options["bits_stored"] - 1:
        raise Unusable("its pixels do not use the lowest bits")
    kept: NDArray[Any] = (stored << spare) >> spare
    return kept


def to_unit(parsed: Parsed, stored: NDArray[Any], wanted: Window, *, colour: bool) -> images.Image:
    """The frames from 0 (black) to 1 (white): (frames, rows, columns), or (frames, 3, rows, columns) with `colour`. `shade` says how."""
    header = parsed.header
    if stored.ndim == 4 or _look(header) == "PALETTE COLOR":
        unit = _coloured(header, stored)
        grey: images.Image = unit @ np.asarray([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
        return np.moveaxis(unit, -1, 1) if colour else grey
    unit = shade(header, values(header, stored), wanted)
    return np.repeat(unit[:, None], 3, axis=1) if colour else unit


def _coloured(header: Any, stored: NDArray[Any]) -> images.Image:
    from pydicom.pixels.processing import apply_color_lut

    top = 2 ** _count(header, "BitsStored", 1) - 1
    if stored.ndim == 3:
        try:
            stored = apply_color_lut(stored, header)
        except Exception:  # pydicom raises whatever its parts raise
            raise Unusable("its palette cannot be applied") from None
        top = int(np.iinfo(stored.dtype).max)
    unit: images.Image = np.clip(stored.astype(np.float32) / np.float32(top), 0, 1)
    return unit


def values(header: Any, stored: NDArray[Any]) -> images.Image:
    """Stored pixels in the modality's units, such as Hounsfield (PS3.3 C.11.1); shape (frames, rows, columns)."""
    from pydicom.pixels.processing import apply_modality_lut

    if stored.ndim == 4 or _look(header) == "PALETTE COLOR":
        raise Unusable("a series of colour images")
    if deidentify.value(header, "ModalityLUTSequence"):
        try:
            return apply_modality_lut(stored, header).astype(np.float32)
        except Exception:  # pydicom raises whatever its parts raise
            raise Unusable("its modality lookup table cannot be applied") from None
    slopes = [(_of_frame(header, i, "RescaleSlope"), _of_frame(header, i, "RescaleIntercept")) for i in range(len(stored))]
    scale = np.asarray([[1.0 if s is None else s, 0.0 if b is None else b] for s, b in slopes], dtype=np.float32)
    return stored.astype(np.float32) * scale[:, :1, None] + scale[:, 1:, None]


def shade(header: Any, units: images.Image, wanted: Window) -> images.Image:
    """From the modality's units to 0 (black) to 1 (white), also where the file says that its least value is white (MONOCHROME1).

    wanted: (centre, width); "file", the first window of the file, else its VOI lookup table, else as "range"; "range", from the least to the
    greatest value of all frames.
    """
    unit = _windowed(header, units, wanted)
    return 1 - unit if _look(header) == "MONOCHROME1" else unit


def _windowed(header: Any, units: images.Image, wanted: Window) -> images.Image:
    from pydicom.pixels.processing import apply_voi

    if wanted == "range":
        return images.full_range(units)
    if not isinstance(wanted, str):
        return images.window(units, *wanted)
    centre, width = _of_frame(header, 0, "WindowCenter"), _of_frame(header, 0, "WindowWidth")
    if centre is not None and width is not None and width > 0:
        return images.window(units, centre, width, deidentify.text(header, "VOILUTFunction").upper() or "LINEAR")
    table = deidentify.value(header, "VOILUTSequence")
    if not table:
        return images.full_range(units)
    try:
        top = 2 ** int(table[0].LUTDescriptor[2]) - 1
        unit: images.Image = np.clip(apply_voi(units.astype(np.int64), header).astype(np.float32) / np.float32(top), 0, 1)
        return unit
    except Exception:  # pydicom raises whatever its parts raise
        raise Unusable("its VOI lookup table cannot be applied") from None


def _look(header: Any) -> str:
    return deidentify.text(header, "PhotometricInterpretation")


_GROUPS = {
    "RescaleSlope": ("PixelValueTransformationSequence", -1e9, 1e9),
    "RescaleIntercept": ("PixelValueTransformationSequence", -1e9, 1e9),
    "WindowCenter": ("FrameVOILUTSequence", -1e9, 1e9),
    "WindowWidth": ("FrameVOILUTSequence", 0, 1e9),
    "PixelSpacing": ("PixelMeasuresSequence", 1e-4, 100),
    "SpacingBetweenSlices": ("PixelMeasuresSequence", 1e-4, 1000),
    "SliceThickness": ("PixelMeasuresSequence", 1e-4, 1000),
}


def _of_frame(header: Any, frame: int, keyword: str, index: int = 0) -> float | None:
    """An attribute of the image or, in an enhanced multi-frame image, of one frame or of all (PS3.3 C.7.6.16)."""
    sequence, low, high = _GROUPS[keyword]
    places = [header]
    for groups, position in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        items = deidentify.value(header, groups)
        if items and len(items) > position:
            places += list(deidentify.value(items[position], sequence) or [])
    return next((n for p in places if (n := deidentify.number(p, keyword, low, high, index)) is not None), None)


def spacing(header: Any) -> tuple[float, float] | None:
    """Millimetres between rows and between columns, in the patient or else on the detector."""
    pair = (_of_frame(header, 0, "PixelSpacing"), _of_frame(header, 0, "PixelSpacing", 1))
    if pair[0] is None or pair[1] is None:
        pair = (deidentify.number(header, "ImagerPixelSpacing", 1e-4, 100), deidentify.number(header, "ImagerPixelSpacing", 1e-4, 100, 1))
    return (pair[0], pair[1]) if pair[0] is not None and pair[1] is not None else None


def slice_spacing(header: Any) -> float | None:
    """Millimetres between slices, as the header states it."""
    found = _of_frame(header, 0, "SpacingBetweenSlices")
    return _of_frame(header, 0, "SliceThickness") if found is None else found


def depth(header: Any) -> float | None:
    """Where a slice lies along the normal of its plane, in mm (PS3.3 C.7.6.2)."""
    try:
        position, orientation = (np.asarray([float(v) for v in header.get(k)]) for k in ("ImagePositionPatient", "ImageOrientationPatient"))
        return float(position @ np.cross(orientation[:3], orientation[3:6])) if np.isfinite(position).all() and np.isfinite(orientation).all() else None
    except Exception:  # pydicom raises whatever its parts raise, NotImplementedError for a damaged type among them
        return None
