"""FHIR dates, dateTimes and times: comparison at shared precision, and the boundaries of a value of less than full precision.

FHIRPath 2.0 sections 5.5.4 (boundaries) and 6.2 (comparison): two values that agree as far as the less precise one goes compare to nothing.
"""

from __future__ import annotations

import calendar
import re
from datetime import datetime, timedelta
from functools import lru_cache

_DATE = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(?:(\d\d)(?::(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?)?(Z|[+-]\d\d:\d\d)?)?)?)?", re.ASCII)
_TIME = re.compile(r"(\d\d)(?::(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?", re.ASCII)

Moment = tuple[tuple[int, ...], bool, bool]
"""Fields from the largest to the smallest given (seconds as nanoseconds), whether they are UTC, whether it is a time of day."""


@lru_cache(maxsize=8192)
def moment(text: str) -> Moment | None:
    """The fields of a FHIR date, dateTime, instant or time, in UTC where it names a zone; None for other text."""
    if found := _DATE.fullmatch(text):
        *parts, fraction, zone = found.groups()
        fields = [int(p) for p in parts if p is not None]
        if zone and len(fields) >= 5:
            try:
                shifted = datetime(*fields[:5]) - timedelta(minutes=_minutes(zone))  # type: ignore[arg-type]
            except (ValueError, OverflowError):
                return None
            fields[:5] = [shifted.year, shifted.month, shifted.day, shifted.hour, shifted.minute]
        return _fields(fields, 5, fraction), bool(zone), False
    if found := _TIME.fullmatch(text):
        *parts, fraction = found.groups()
        return _fields([int(p) for p in parts if p is not None], 2, fraction), False, True
    return None


def _fields(fields: list[int], seconds: int, fraction: str | None) -> tuple[int, ...]:
    if len(fields) > seconds:
        fields[seconds] = fields[seconds] * 10**9 + int((fraction or "0").ljust(9, "0"))
    return tuple(fields)


def _minutes(zone: str) -> int:
    return 0 if zone == "Z" else (1 if zone[0] == "+" else -1) * (int(zone[1:3]) * 60 + int(zone[4:6]))


def order(a: str, b: str) -> int | None:
    """-1, 0 or 1, or None where the two cannot be ordered: different precision, one with a zone and one without, or no dates."""
    x, y = moment(a), moment(b)
    if x is None or y is None or x[2] != y[2]:
        return None
    timed = not x[2] and len(x[0]) > 3 and len(y[0]) > 3
    if timed and x[1] != y[1]:
        return None
    shared = min(len(x[0]), len(y[0]))
    if x[0][:shared] != y[0][:shared]:
        return -1 if x[0][:shared] < y[0][:shared] else 1
    return 0 if len(x[0]) == len(y[0]) else None


def looks_temporal(text: str) -> bool:
    """Whether text that names no type is a date of at least month precision."""
    return len(text) >= 7 and text[:4].isdigit() and text[4] == "-" and moment(text) is not None


def boundary(text: str, kind: str, *, high: bool) -> str | None:
    """The first or last moment that a date, dateTime or time may stand for; None for text that is none of them.

    kind: its FHIR type where that is known. A dateTime without a zone gets the widest one: +14:00 for the first moment, -12:00 for the last.
    """
    if kind == "time" or (kind not in ("date", "dateTime", "instant") and _TIME.fullmatch(text) and ":" in text):
        found = _TIME.fullmatch(text)
        return _clock(found.groups(), high) if found else None
    found = _DATE.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    month = month or ("12" if high else "01")
    if not 1 <= int(month) <= 12 or int(year) < 1:
        return None
    day = day or (f"{calendar.monthrange(int(year), int(month))[1]}" if high else "01")
    if kind == "date" or (kind not in ("dateTime", "instant") and "T" not in text):
        return f"{year}-{month}-{day}"
    clock = _clock((hour, minute, second, fraction), high)
    return f"{year}-{month}-{day}T{clock}{zone or ('-12:00' if high else '+14:00')}"


def _clock(parts: tuple[str | None, ...], high: bool) -> str:
    hour, minute, second, fraction = parts
    fill = ("23", "59", "59") if high else ("00", "00", "00")
    return f"{hour or fill[0]}:{minute or fill[1]}:{second or fill[2]}.{(fraction or '').ljust(3, '9' if high else '0')}"
