"""Folders of FIT activity files (Garmin and others): a row for each session, or windows of what was recorded second by second."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self, get_args

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from locum.data.sources.base import CHUNK, Source, SourceSpec, Tally, Unusable, existing, known, need
from locum.data.sources.files import files, identity
from locum.data.sources.windows import SIGNAL, Frames, Signal, starts

MAX_FILE_BYTES = 1 << 26
MAX_SECONDS = 14 * 86400
Channel = Literal["heart_rate", "power", "cadence", "speed", "altitude", "distance", "temperature", "respiration_rate"]
_BETTER = {n: f"enhanced_{n}" for n in ("speed", "altitude", "respiration_rate", "avg_speed", "max_speed")}
"""Fields that newer devices write in place of the old ones."""
_SUMMARY = {
    "seconds": "total_timer_time",
    "elapsed_seconds": "total_elapsed_time",
    "distance": "total_distance",
    "calories": "total_calories",
    "ascent": "total_ascent",
    "heart_rate_mean": "avg_heart_rate",
    "heart_rate_max": "max_heart_rate",
    "power_mean": "avg_power",
    "power_max": "max_power",
    "cadence_mean": "avg_cadence",
    "speed_mean": "avg_speed",
    "speed_max": "max_speed",
}
"""Column of a session -> field of the FIT profile, in its unit: s, m, kcal, bpm, W, rpm, m/s."""


_PLAIN = {*get_args(Channel), *_SUMMARY.values(), "sport", "start_time", "timestamp"}
_FIELDS = _PLAIN | {_BETTER[n] for n in _PLAIN if n in _BETTER}
"""All that is kept of a message: never a place, a name or a device."""


class Spec(SourceSpec):
    """per: "session" gives a row for each session's summary; "record" gives windows of `seconds` at 1 Hz of `channels`. Places (latitude
    and longitude) are never read."""

    type: Literal["fit"] | None = None
    per: Literal["record", "session"] = "session"
    channels: tuple[Channel, ...] = ("heart_rate",)
    seconds: Annotated[int, Field(gt=0, le=86400)] | None = None
    step: Annotated[int, Field(gt=0, le=86400)] | None = None

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.per == "record" and (self.seconds is None or not self.channels):
            raise ValueError('per = "record" needs seconds, the length of a window, and channels')
        return self


def open_source(spec: Spec, path: Path | None) -> Source:
    return FitSource(existing(path, folder=True), spec)


_COMMON: dict[str, Any] = {"record": pl.String, "folder": pl.String, "sport": pl.String, "start_time": pl.Datetime("us")}


@dataclass
class FitSource:
    """Files below a folder, or one.

    Columns: record (the file's path below the folder), folder (the folder it is in, often the person's), sport, start_time (UTC), and the
    summary or `signal`, shape (channels, seconds), NaN for a second that was not recorded. The tally counts rows; a file that cannot be
    read, or whose checksum is wrong, counts as one.
    """

    path: Path
    spec: Spec
    tally: Tally = field(default_factory=Tally)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def schema(self) -> dict[str, Any]:
        return {**_COMMON, **(dict.fromkeys(_SUMMARY, pl.Float64) if self.spec.per == "session" else {"start": pl.Float64})}

    def columns(self) -> list[str]:
        return [*self.schema, *([SIGNAL] if self.spec.per == "record" else [])]

    def chunks(self, names: Sequence[str], size: int = CHUNK) -> Iterator[pl.DataFrame]:
        known(names, self.columns(), self.name)
        need("fitdecode", "wearables", "FIT")
        self.tally = Tally()
        frames = Frames(names, self.schema, size, self.tally)
        for file in files(self.path, (".fit",)):
            try:
                rows = list(self._rows(file))
            except Unusable as reason:
                self.tally.read += 1
                self.tally.refused[str(reason)] += 1
                continue
            for row, signal in rows:
                yield from frames.add(row, signal)
        yield from frames.rest()

    def _rows(self, file: Path) -> Iterator[tuple[dict[str, Any], Signal]]:
        sessions, records = _messages(file)
        record = identity(file, self.path)
        common = {"record": record, "folder": PurePosixPath(record).parent.as_posix(), "sport": None, "start_time": None}
        if self.spec.per == "session":
            if not sessions:
                raise Unusable("a file without a session")
            for session in sessions:
                summary = {column: _number(session, name) for column, name in _SUMMARY.items()}
                yield {**common, **_when(session), **summary}, np.empty((0, 0), np.float32)
            return
        signal, began = self._grid(records)
        length = self.spec.seconds or 1
        if signal.shape[1] < length:
            raise Unusable("an activity shorter than seconds")
        sport = _when(sessions[0])["sport"] if sessions else None
        for at in starts(signal.shape[1], length, self.spec.step or length):
            yield {**common, "sport": sport, "start_time": began, "start": float(at)}, signal[:, at : at + length]

    def _grid(self, records: list[dict[str, Any]]) -> tuple[Signal, datetime.datetime | None]:
        """The channels, second by second from the first record on, and when that was."""
        timed = [(t, r) for r in records if (t := _utc(r.get("timestamp"))) is not None]
        if not timed:
            raise Unusable("an activity without records")
        began = min(t for t, _ in timed)
        last = int((max(t for t, _ in timed) - began).total_seconds())
        if last >= MAX_SECONDS:
            raise Unusable("an activity that is too long")
        signal = np.full((len(self.spec.channels), last + 1), np.nan, np.float32)
        for moment, record in timed:
            for row, channel in enumerate(self.spec.channels):
                value = _number(record, channel)
                if value is not None:
                    signal[row, int((moment - began).total_seconds())] = value
        return signal, began


def _messages(file: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The session and the record messages of a file, field by field; raises `Unusable`."""
    import fitdecode

    found: dict[str, list[dict[str, Any]]] = {"session": [], "record": []}
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise Unusable("a file that is too long")
        with fitdecode.FitReader(file.read_bytes(), check_crc=fitdecode.CrcCheck.RAISE, error_handling=fitdecode.ErrorHandling.RAISE) as reader:
            for frame in reader:
                if frame.frame_type == fitdecode.FIT_FRAME_DATA and frame.name in found:
                    found[frame.name].append({f.name: f.value for f in frame.fields if f.name in _FIELDS})
                    if len(found[frame.name]) > MAX_SECONDS:
                        raise Unusable("an activity that is too long")
    except Unusable:
        raise
    except fitdecode.FitCRCError:
        raise Unusable("a file whose checksum is wrong") from None
    except Exception:  # fitdecode lets errors of any kind out where a file's definitions contradict each other
        raise Unusable("a file that is cut off or is no FIT file") from None
    return found["session"], found["record"]


def _number(message: dict[str, Any], name: str) -> float | None:
    for one in (_BETTER.get(name, name), name):
        value = message.get(one)
        if isinstance(value, (int, float)) and math.isfinite(value):
            return float(value)
    return None


def _when(session: dict[str, Any]) -> dict[str, Any]:
    sport = session.get("sport")
    return {"sport": str(sport) if sport is not None else None, "start_time": _utc(session.get("start_time"))}


def _utc(value: Any) -> datetime.datetime | None:
    if not isinstance(value, datetime.datetime):
        return None
    return value.astimezone(datetime.UTC).replace(tzinfo=None) if value.tzinfo else value
