"""EDF, EDF+ and BDF files (Kemp & Olivan 2003, edfplus.info; BioSemi's BDF), read from their bytes.

The tests compare this with pyedflib and edfio. The header's patient field is split here, so that a name goes nowhere else.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from locum.data.sources.base import Unusable
from locum.data.sources.windows import Signal

MAX_CHANNELS = 4096
MAX_ANNOTATIONS = 200_000
MAX_ANNOTATION_BYTES = 1 << 28
MAX_RECORDS = 10_000_000
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WIDTHS = {"label": 16, "transducer": 80, "unit": 8, "pmin": 8, "pmax": 8, "dmin": 8, "dmax": 8, "filter": 80, "samples": 8, "reserved": 32}
_ONSET = re.compile(rb"([+-]\d{1,9}(?:\.\d{0,9})?)(?:\x15(\d{1,9}(?:\.\d{0,9})?))?")
_VOLTS = {"v": 1e6, "mv": 1e3, "uv": 1.0, "µv": 1.0, "nv": 1e-3}


@dataclass(frozen=True)
class Channel:
    """One signal. at: its first byte within a data record; samples: in each data record."""

    label: str
    unit: str
    scale: float
    shift: float
    samples: int
    at: int

    def microvolts(self) -> float | None:
        """What one unit is in microvolts, None where it is no voltage."""
        return _VOLTS.get(self.unit.lower())


@dataclass(frozen=True)
class Annotation:
    """Seconds from the start, length in seconds (0: a moment), text."""

    onset: float
    duration: float
    text: str


@dataclass(frozen=True)
class Edf:
    """One file's header. wide: bytes of a sample. duration: seconds of a data record. annotated: the places of annotation channels."""

    path: Path
    wide: int
    patient: str | None
    sex: str | None
    age: int | None
    discontinuous: bool
    header_bytes: int
    records: int
    duration: float
    record_bytes: int
    channels: tuple[Channel, ...]
    annotated: tuple[Channel, ...]

    @classmethod
    def read(cls, path: Path) -> Edf:
        """Raises `Unusable` or OSError."""
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(256)
            if len(head) < 256 or (head[:8] != b"\xffBIOSEMI" and head[:8].strip() != b"0"):
                raise Unusable("a file that does not begin as EDF or BDF does")
            count = _integer(head[252:256])
            if not 1 <= count <= MAX_CHANNELS:
                raise Unusable("a header without channels")
            rest = file.read(256 * count)
        if len(rest) < 256 * count or _integer(head[184:192]) != 256 * (count + 1):
            raise Unusable("a header that is cut off")
        wide = 3 if head[0] == 0xFF else 2
        records, duration, reserved = _integer(head[236:244]), _number(head[244:252]), _text(head[192:236])
        channels, at = list[Channel](), 0
        for fields in _signals(rest, count):
            channels.append(_channel(fields, at))
            at += channels[-1].samples * wide
        if records < 0:
            raise Unusable("a recording that was not finished: the header does not say its length")
        if size != 256 * (count + 1) + records * at or not at:
            raise Unusable("a file whose size is not what its header says")
        notes = tuple(c for c in channels if c.label in ("EDF Annotations", "BDF Annotations"))
        signals = tuple(c for c in channels if c not in notes)
        if signals and duration <= 0:
            raise Unusable("a header without the duration of a data record")
        if records > MAX_RECORDS or sum(c.samples for c in notes) * wide * records > MAX_ANNOTATION_BYTES:
            raise Unusable("a recording that is too long")
        plus = reserved.startswith(("EDF+", "BDF+"))
        patient, sex, age = _person(_text(head[8:88]), _text(head[88:168]), plus)
        return cls(path, wide, patient, sex, age, reserved[4:5] == "D" and plus, 256 * (count + 1), records, duration, at, signals, notes)

    def rate(self, channel: Channel) -> float:
        """Sampling rate in Hz."""
        return channel.samples / self.duration

    def stretches(self, onsets: list[float]) -> list[tuple[int, int, float]]:
        """The runs of data records without a gap: first, one past the last, and the start in seconds."""
        if not self.discontinuous or not self.records:
            return [(0, self.records, 0.0)]
        cuts = [0, *(i for i in range(1, self.records) if abs(onsets[i] - onsets[i - 1] - self.duration) > 1e-3), self.records]
        return [(a, b, onsets[a]) for a, b in pairwise(cuts)]

    def signal(self, channel: Channel, first: int, last: int) -> Signal:
        """One channel of the data records first to last - 1 in its own unit, float32."""
        raw = self._raw(channel, first, last)
        if self.wide == 2:
            digital = raw.view("<i2").astype(np.int32)
        else:
            parts = raw.reshape(-1, 3).astype(np.int32)
            digital = ((parts[:, 0] | parts[:, 1] << 8 | parts[:, 2] << 16) << 8) >> 8
        return (digital * channel.scale + channel.shift).astype(np.float32)

    def annotations(self) -> tuple[list[float], list[Annotation]]:
        """The start of each data record in seconds (none where the file has no annotations), and all annotations; raises `Unusable`."""
        onsets, found = list[float](), list[Annotation]()
        for number, channel in enumerate(self.annotated):
            size = channel.samples * self.wide
            raw = self._raw(channel, 0, self.records).reshape(self.records, size)
            for row in raw:
                for place, (onset, duration, texts) in enumerate(_lists(row.tobytes())):
                    if number == 0 and place == 0:
                        onsets.append(onset)
                    found += [Annotation(onset, duration, t) for t in texts if t]
                if len(found) > MAX_ANNOTATIONS:
                    raise Unusable("more annotations than any recording has")
        if onsets and len(onsets) != self.records:
            raise Unusable("data records that do not say when they start")
        start = onsets[0] if onsets else 0.0
        return [o - start for o in onsets], [Annotation(a.onset - start, a.duration, a.text) for a in found]

    def _raw(self, channel: Channel, first: int, last: int) -> NDArray[np.uint8]:
        """The channel's bytes of some data records, contiguous; the file is mapped, not loaded."""
        if last <= first:
            return np.empty(0, np.uint8)
        mapped = np.memmap(self.path, np.uint8, "r", self.header_bytes, (self.records, self.record_bytes))
        return np.ascontiguousarray(mapped[first:last, channel.at : channel.at + channel.samples * self.wide]).reshape(-1)


def _lists(data: bytes) -> Iterator[tuple[float, float, list[str]]]:
    """The time-stamped annotation lists of one data record: onset, duration, texts."""
    for part in data.split(b"\x14\x00"):
        part = part.strip(b"\x00")
        if not part:
            continue
        stamp, *texts = part.split(b"\x14")
        match = _ONSET.fullmatch(stamp)
        if match is None:
            raise Unusable("an annotation without a time")
        yield float(match[1]), float(match[2] or 0), [t.decode("utf-8", "replace") for t in texts]


def _signals(data: bytes, count: int) -> Iterator[dict[str, bytes]]:
    """The header of each channel: the file stores field by field, all channels of a field together."""
    columns, at = dict[str, list[bytes]](), 0
    for name, wide in _WIDTHS.items():
        columns[name] = [data[at + i * wide : at + (i + 1) * wide] for i in range(count)]
        at += wide * count
    for i in range(count):
        yield {name: cells[i] for name, cells in columns.items()}


def _channel(fields: dict[str, bytes], at: int) -> Channel:
    low, high, dlow, dhigh = (_number(fields[k]) for k in ("pmin", "pmax", "dmin", "dmax"))
    samples, label = _integer(fields["samples"]), _text(fields["label"])
    if label in ("EDF Annotations", "BDF Annotations"):
        low, high, dlow, dhigh = 0.0, 1.0, 0.0, 1.0
    if dhigh == dlow or high == low or not 0 <= samples <= 1 << 24:
        raise Unusable("a channel without a range or a number of samples")
    scale = (high - low) / (dhigh - dlow)
    return Channel(label, _text(fields["unit"]), scale, low - dlow * scale, samples, at)


def _person(field: str, recording: str, plus: bool) -> tuple[str | None, str | None, int | None]:
    """Patient id, sex (M, F) and age in years at the recording. EDF+: the hospital's code of the patient; EDF: the whole field."""
    if not plus:
        return field or None, None, None
    parts = [*field.split(), "X", "X", "X"]
    code, sex, born = parts[0], parts[1].upper(), _date(parts[2])
    day = _date([*recording.split(), "", ""][1])
    age = day.year - born.year - ((day.month, day.day) < (born.month, born.day)) if born and day else None
    return None if code == "X" else code, sex if sex in ("M", "F") else None, age if age is not None and 0 <= age < 150 else None


def _date(text: str) -> datetime.date | None:
    """A date as EDF+ writes it, 02-MAY-1951."""
    match = re.fullmatch(r"(\d{1,2})-([A-Za-z]{3})-(\d{4})", text)
    if match is None or match[2].upper() not in _MONTHS:
        return None
    try:
        return datetime.date(int(match[3]), _MONTHS.index(match[2].upper()) + 1, int(match[1]))
    except ValueError:
        return None


def _text(field: bytes) -> str:
    return field.decode("latin-1").strip().strip("\0")


def _integer(field: bytes) -> int:
    text = _text(field)
    if not re.fullmatch(r"-?\d{1,8}", text, re.ASCII):
        raise Unusable("a header with a number that is none")
    return int(text)


def _number(field: bytes) -> float:
    text = _text(field)
    if not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,2})?", text, re.ASCII):
        raise Unusable("a header with a number that is none")
    return float(text)
