"""The files of a WFDB record (PhysioNet; header(5), signal(5) and annot(5) of the WFDB Applications Guide).

The package wfdb is not used: it would bring an HTTP client and a sound library into a hospital for what these lines do. The tests compare
them with it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from locum.data.sources.base import Unusable
from locum.data.sources.windows import MAX_SAMPLES, Signal

MAX_HEADER_BYTES = 1 << 20
MAX_ANNOTATION_BYTES = 1 << 28
_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
_RECORD = re.compile(rf"^\S+\s+(\d{{1,4}})(?:\s+({_NUMBER})(?:/\S*)?)?(?:\s+(\d{{1,12}}))?(?:\s+\S+)*\s*$")
_SIGNAL = re.compile(
    rf"^(?P<file>[^\s/\\]+)\s+(?P<format>\d+)(?:x(?P<per_frame>\d+))?(?::(?P<skew>\d+))?(?:\+(?P<offset>\d{{1,12}}))?"
    rf"(?:\s+(?P<gain>{_NUMBER})(?:\((?P<baseline>[-+]?\d+)\))?(?:/(?P<unit>\S+))?(?:\s+(?P<bits>[-+]?\d+)(?:\s+(?P<zero>[-+]?\d+)"
    rf"(?:\s+(?P<first>[-+]?\d+)(?:\s+(?P<checksum>[-+]?\d+)(?:\s+(?P<block>[-+]?\d+)(?:\s+(?P<label>.*))?)?)?)?)?)?)?\s*$"
)
_AGE = re.compile(r"\bage\W{0,4}(\d{1,3})\b|^\s*(\d{1,3}) [MF]\b", re.I)
_SEX = re.compile(r"\b(?:sex|gender)\W{0,4}(m|f)(?:ale|emale)?\b|^\s*\d{1,3} ([MF])\b", re.I)
_UNITS = {"v": 1000.0, "mv": 1.0, "uv": 0.001, "µv": 0.001, "nv": 1e-6}
_MISSING = {"16": -(1 << 15), "24": -(1 << 23), "32": -(1 << 31), "61": -(1 << 15), "80": -128, "160": -(1 << 15), "212": -2048}
_BYTES = {"16": 2, "24": 3, "32": 4, "61": 2, "80": 1, "160": 2}

_CODES = 'NLRaVFJASEj/Q~|sT*D"=pB^t+u?![]en@xf()r'
SYMBOLS = dict(zip([*range(1, 15), 16, *range(18, 42)], _CODES, strict=True))
"""Annotation code -> symbol, as in wfdb's ecgcodes.h."""
AAMI = {**dict.fromkeys("NLRBejn", "N"), **dict.fromkeys("aAJS", "S"), **dict.fromkeys("VEr", "V"), "F": "F", **dict.fromkeys("/fQ?", "Q")}
"""Symbol of a beat -> its class of ANSI/AAMI EC57 as bxb(1) maps it; what is not here is no beat."""


@dataclass(frozen=True)
class Lead:
    """One signal of a record as its header describes it. gain: adu per unit. to_mv: mV per unit, None where it is no voltage."""

    file: str
    format: str
    offset: int
    gain: float
    baseline: int
    to_mv: float | None
    checksum: int | None
    label: str


@dataclass(frozen=True)
class Header:
    """fs in Hz, n: samples of each lead (None: not said). sex: "M" or "F"; age in years."""

    fs: float
    n: int | None
    leads: tuple[Lead, ...]
    age: float | None
    sex: str | None


def read_header(path: Path) -> Header:
    """A .hea file; raises `Unusable` or OSError."""
    with path.open("rb") as file:
        text = file.read(MAX_HEADER_BYTES + 1)
    if len(text) > MAX_HEADER_BYTES:
        raise Unusable("a header that is too long")
    lines = text.decode("utf-8", "replace").splitlines()
    comments = [line.lstrip()[1:] for line in lines if line.lstrip().startswith("#")]
    fields = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if fields and re.match(r"^\S+/\d", fields[0]):
        raise Unusable("a record of several segments")
    first = _RECORD.match(fields[0]) if fields else None
    if first is None or int(first[1]) != len(fields) - 1 or not fields[1:]:
        raise Unusable("a header that is not one of WFDB")
    fs = float(first[2] or 250)
    if not 0 < fs < 1e7:
        raise Unusable("a header without a sampling rate")
    age = next((m for c in comments if (m := _AGE.search(c))), None)
    sex = next((m for c in comments if (m := _SEX.search(c))), None)
    leads = tuple(_lead(line) for line in fields[1:])
    return Header(
        fs, int(first[3]) if first[3] and int(first[3]) else None, leads, float(age[1] or age[2]) if age else None, (sex[1] or sex[2]).upper() if sex else None
    )


def _lead(line: str) -> Lead:
    match = _SIGNAL.match(line)
    if match is None:
        raise Unusable("a header that is not one of WFDB")
    if match["format"] not in _MISSING:
        raise Unusable(f"a signal format that is not one of {', '.join(sorted(_MISSING))}")
    if int(match["per_frame"] or 1) != 1 or int(match["skew"] or 0):
        raise Unusable("leads at several rates, or skewed")
    gain = float(match["gain"] or 0) or 200.0
    baseline = int(match["baseline"] if match["baseline"] is not None else match["zero"] or 0)
    if not np.isfinite(gain) or abs(baseline) > 1 << 31:
        raise Unusable("a header that is not one of WFDB")
    to_mv = _UNITS.get((match["unit"] or "mV").lower())
    return Lead(
        match["file"],
        match["format"],
        int(match["offset"] or 0),
        gain,
        baseline,
        to_mv,
        int(match["checksum"]) if match["checksum"] else None,
        (match["label"] or "").strip(),
    )


def read_signals(header: Header, folder: Path, places: list[int]) -> Signal:
    """The chosen leads in mV, shape (leads, n), NaN where a sample is missing; raises `Unusable` or OSError."""
    if any(header.leads[p].to_mv is None for p in places):
        raise Unusable("a lead whose unit is no voltage")
    digital: dict[str, NDArray[np.int32]] = {}
    rows = []
    for place in places:
        lead = header.leads[place]
        together = [i for i, other in enumerate(header.leads) if other.file == lead.file]
        if lead.file not in digital:
            digital[lead.file] = _digital(header, folder, [header.leads[i] for i in together])
        values = digital[lead.file][:, together.index(place)]
        if lead.checksum is not None and header.n is not None and (int(values.sum(dtype=np.int64)) - lead.checksum) % (1 << 16):
            raise Unusable("a signal whose checksum is wrong")
        scaled = ((values - float(lead.baseline)) / lead.gain * (lead.to_mv or 1.0)).astype(np.float32)
        scaled[values == _MISSING[lead.format]] = np.nan
        rows.append(scaled)
    if len({len(r) for r in rows}) != 1:
        raise Unusable("leads of different lengths")
    return np.stack(rows)


def _digital(header: Header, folder: Path, leads: list[Lead]) -> NDArray[np.int32]:
    """The samples of one signal file, shape (n, leads of the file)."""
    kind, offset = leads[0].format, leads[0].offset
    if any(lead.format != kind or lead.offset != offset for lead in leads):
        raise Unusable("a signal file in several formats")
    path = folder / leads[0].file
    if not path.is_file():
        raise Unusable("a header whose signal file is absent")
    count = len(leads)
    available = (path.stat().st_size - offset) * 2 // 3 if kind == "212" else (path.stat().st_size - offset) // _BYTES[kind]
    total = header.n * count if header.n is not None else available // count * count
    if total > MAX_SAMPLES:
        raise Unusable("a recording that is too long")
    if total > available or total <= 0:
        raise Unusable("a signal file that is cut off")
    size = -(-total * 3 // 2) if kind == "212" else total * _BYTES[kind]
    with path.open("rb") as file:
        file.seek(offset)
        data = np.frombuffer(file.read(size), np.uint8)
    return _decode(data, kind, total).reshape(-1, count)


def _decode(data: NDArray[np.uint8], kind: str, total: int) -> NDArray[np.int32]:
    if kind == "212":  # two samples of twelve bits in three bytes; the middle one holds the high bits of both
        padded = np.zeros(-(-total // 2) * 3, np.int32)
        padded[: len(data)] = data
        low, middle, high = padded.reshape(-1, 3).T
        pairs = np.stack([low | (middle & 15) << 8, high | (middle >> 4) << 8], axis=1).reshape(-1)[:total]
        return np.where(pairs > 2047, pairs - 4096, pairs).astype(np.int32)
    if kind == "24":
        parts = data.reshape(-1, 3).astype(np.int32)
        return ((parts[:, 0] | parts[:, 1] << 8 | parts[:, 2] << 16) << 8) >> 8
    if kind in ("80", "160"):
        return data.view("u1" if kind == "80" else "<u2").astype(np.int32) - (128 if kind == "80" else 1 << 15)
    return data.view({"16": "<i2", "32": "<i4", "61": ">i2"}[kind]).astype(np.int32)


@dataclass(frozen=True)
class Annotations:
    """Sample numbers, symbols and auxiliary text of a record's annotations, in the order of time. fs: of the numbers, where the file says."""

    sample: list[int]
    symbol: list[str]
    text: list[str]
    fs: float | None

    @cached_property
    def _rhythms(self) -> tuple[list[int], list[str]]:
        found = [(at, t) for at, s, t in zip(self.sample, self.symbol, self.text, strict=True) if s == "+" and t.startswith("(")]
        return [at for at, _ in found], [t for _, t in found]

    def rhythm(self, at: float) -> str | None:
        """The last rhythm that was annotated at or before a sample."""
        samples, texts = self._rhythms
        place = bisect_right(samples, at)
        return texts[place - 1] if place else None


def read_annotations(path: Path) -> Annotations:
    """An annotation file of the MIT format; raises `Unusable` or OSError."""
    if path.stat().st_size > MAX_ANNOTATION_BYTES:
        raise Unusable("an annotation file that is too long")
    data = path.read_bytes()
    sample, symbol, text = list[int](), list[str](), list[str]()
    now = at = 0
    fs: float | None = None
    while True:
        if at + 2 > len(data):
            raise Unusable("an annotation file that is cut off")
        word = data[at] | data[at + 1] << 8
        code, interval, at = word >> 10, word & 1023, at + 2
        if word == 0:
            return Annotations(sample, symbol, text, fs)
        if code == 59:  # a long interval: two words, the high one first
            if at + 4 > len(data):
                raise Unusable("an annotation file that is cut off")
            long = (data[at] | data[at + 1] << 8) << 16 | data[at + 2] | data[at + 3] << 8
            now, at = now + (long - (1 << 32) if long >> 31 else long), at + 4
        elif code == 63:
            if at + interval > len(data):
                raise Unusable("an annotation file that is cut off")
            note = data[at : at + interval].rstrip(b"\0").decode("utf-8", "replace")
            at += interval + interval % 2
            if resolution := re.match(r"## time resolution: ([\d.]{1,12})$", note):
                fs = float(resolution[1]) if resolution[1].count(".") < 2 and float(resolution[1]) > 0 else None
            if text:
                text[-1] = note
        elif code not in (60, 61, 62):
            now += interval
            if now < (sample[-1] if sample else 0):
                raise Unusable("annotations that are not in the order of time")
            sample.append(now)
            symbol.append(SYMBOLS.get(code, ""))
            text.append("")
