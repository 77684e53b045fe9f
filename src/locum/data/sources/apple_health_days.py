"""Sums of a person's days from the records of an Apple Health export.

Sampled quantities (heart rate) give mean, minimum and maximum over all sources. Cumulative ones (steps) are counted by phone and watch at
once: a record is spread evenly over the five-minute slots that it touches, and in each slot only the most trusted source that recorded
anything counts. Sleep is the union of the intervals of all sources, from noon to noon, under the date of the morning.
"""

from __future__ import annotations

import datetime
import math
import re
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from locum.data.sources.base import Unusable

MAX_DAYS = 50_000
MAX_SOURCES = 256
MAX_NAPS = 5000
"""Sleep intervals of one night."""
SLOT = 300
SLOTS = 86400 // SLOT
SLEEP = "HKCategoryTypeIdentifierSleepAnalysis"
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)", re.ASCII)


@dataclass(frozen=True)
class Quantity:
    """A kind of record. column: its name in a row, in the first unit of `units` (unit as exported -> factor). spread: also minimum and maximum."""

    column: str
    units: Mapping[str, float]
    cumulative: bool = False
    spread: bool = False

    @property
    def columns(self) -> list[str]:
        return [f"{self.column}_{s}" for s in ("mean", "min", "max")] if self.spread else [self.column]


_RATE = {"count/min": 1.0, "count/s": 60.0}
_ENERGY = {"kcal": 1.0, "Cal": 1.0, "cal": 0.001, "kJ": 1 / 4.184, "J": 1 / 4184}
_LENGTH = {"km": 1.0, "m": 0.001, "mi": 1.609344, "ft": 0.0003048, "yd": 0.0009144}
_TIME = {"min": 1.0, "s": 1 / 60, "hr": 60.0}
_PRESSURE = {"mmHg": 1.0, "kPa": 7.50061682704, "cmAq": 0.735559}
QUANTITIES = {
    f"HKQuantityTypeIdentifier{name}": quantity
    for name, quantity in {
        "HeartRate": Quantity("heart_rate", _RATE, spread=True),
        "RestingHeartRate": Quantity("resting_heart_rate", _RATE),
        "WalkingHeartRateAverage": Quantity("walking_heart_rate", _RATE),
        "HeartRateVariabilitySDNN": Quantity("hrv_sdnn", {"ms": 1.0, "s": 1000.0}),
        "OxygenSaturation": Quantity("oxygen_saturation", {"%": 100.0}, spread=True),  # 100 % is exported as 1
        "RespiratoryRate": Quantity("respiratory_rate", _RATE, spread=True),
        "VO2Max": Quantity("vo2_max", {"mL/min·kg": 1.0, "mL/(kg*min)": 1.0, "mL/kg*min": 1.0}),
        "BodyMass": Quantity("body_mass", {"kg": 1.0, "g": 0.001, "lb": 0.45359237, "st": 6.35029318}),
        "BloodGlucose": Quantity("blood_glucose", {"mg/dL": 1.0, "mmol<180.1558800000541>/L": 18.01558800000541}),
        "BloodPressureSystolic": Quantity("systolic", _PRESSURE),
        "BloodPressureDiastolic": Quantity("diastolic", _PRESSURE),
        "StepCount": Quantity("steps", {"count": 1.0}, cumulative=True),
        "FlightsClimbed": Quantity("flights_climbed", {"count": 1.0}, cumulative=True),
        "DistanceWalkingRunning": Quantity("distance_walking_running", _LENGTH, cumulative=True),
        "DistanceCycling": Quantity("distance_cycling", _LENGTH, cumulative=True),
        "ActiveEnergyBurned": Quantity("active_energy", _ENERGY, cumulative=True),
        "BasalEnergyBurned": Quantity("basal_energy", _ENERGY, cumulative=True),
        "AppleExerciseTime": Quantity("exercise_minutes", _TIME, cumulative=True),
        "AppleStandTime": Quantity("stand_minutes", _TIME, cumulative=True),
    }.items()
}
"""Rates are per minute, hrv_sdnn ms, oxygen_saturation %, vo2_max mL/kg/min, body_mass kg, blood_glucose mg/dL, pressures mmHg,
distances km, energies kcal."""
_STAGES = {"AsleepDeep": "sleep_deep_hours", "AsleepREM": "sleep_rem_hours"}


class Days:
    """Adds records up by day. priority: words in a source's name or device, the most trusted first."""

    def __init__(self, priority: Sequence[str]) -> None:
        self.priority = [p.lower() for p in priority]
        self.seen: set[int] = set()
        self.sources: dict[str, tuple[int, int]] = {}
        self.sampled: dict[tuple[int, str], list[float]] = {}
        self.counted: dict[tuple[int, str], dict[tuple[int, int], array[float]]] = defaultdict(dict)
        self.asleep: dict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)

    @staticmethod
    def columns() -> list[str]:
        """The columns of a day, in a fixed order."""
        return [c for q in QUANTITIES.values() for c in q.columns] + ["sleep_hours", "in_bed_hours", *_STAGES.values()]

    def add(self, kind: str, record: Mapping[str, str]) -> None:
        """One record by its attributes; raises `Unusable`, and then nothing was added."""
        start, end = _interval(record.get("startDate", ""), record.get("endDate", ""))
        if kind == SLEEP:
            self._sleep(start, end, record.get("value", ""))
            return
        quantity = QUANTITIES[kind]
        factor = quantity.units.get(record.get("unit", ""))
        if factor is None:
            raise Unusable("a record in a unit that its kind has not")
        try:
            value = float(record.get("value", "")) * factor
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or (quantity.cumulative and value < 0):
            raise Unusable("a record whose value is no number")
        if quantity.cumulative:
            self._count(quantity.column, start, end, value, self._source(record))
            return
        stats = self.sampled.setdefault((self._day(start), quantity.column), [0.0, 0.0, math.inf, -math.inf])
        stats[0] += 1
        stats[1] += value
        stats[2] = min(stats[2], value)
        stats[3] = max(stats[3], value)

    def rows(self) -> Iterator[tuple[datetime.date, dict[str, float]]]:
        """Each day that has anything, in order."""
        for day in sorted(self.seen):
            values: dict[str, float] = {}
            for quantity in QUANTITIES.values():
                key = day, quantity.column
                if key in self.counted:
                    values[quantity.column] = _trusted(self.counted[key])
                elif key in self.sampled:
                    n, total, low, high = self.sampled[key]
                    values.update(zip(quantity.columns, (total / n, low, high), strict=False))
            for column in ("sleep_hours", "in_bed_hours", *_STAGES.values()):
                if (day, column) in self.asleep:
                    values[column] = _union(self.asleep[day, column]) / 3600
            yield datetime.date.fromordinal(day), values

    def _day(self, seconds: float) -> int:
        day = int(seconds // 86400)
        if day not in self.seen:
            if len(self.seen) >= MAX_DAYS or not 1 <= day <= datetime.date.max.toordinal():
                raise Unusable("a record of more days than a life has")
            self.seen.add(day)
        return day

    def _source(self, record: Mapping[str, str]) -> tuple[int, int]:
        """The rank of a record's source: first by priority, then by appearance."""
        name, device = record.get("sourceName", ""), record.get("device", "")
        if name not in self.sources:
            if len(self.sources) >= MAX_SOURCES:
                raise Unusable("a record of one source too many")
            text = f"{name} {device}".lower()
            rank = next((i for i, word in enumerate(self.priority) if word in text), len(self.priority))
            self.sources[name] = rank, len(self.sources)
        return self.sources[name]

    def _count(self, column: str, start: float, end: float, value: float, source: tuple[int, int]) -> None:
        if end - start > 86400:
            raise Unusable("a record of a sum over more than a day")
        first, last = int(start // SLOT), max(int(start // SLOT), math.ceil(end / SLOT) - 1)
        for slot in (first, last):
            self._day(slot * SLOT)  # may refuse, before anything is added
        for slot in range(first, last + 1):
            share = (min(end, (slot + 1) * SLOT) - max(start, slot * SLOT)) / (end - start) if end > start else 1.0
            by_source = self.counted[slot // SLOTS, column]
            if source not in by_source:
                by_source[source] = array("d", [math.nan]) * SLOTS  # its scalars are five times as fast as numpy's
            slots = by_source[source]
            before = slots[slot % SLOTS]
            slots[slot % SLOTS] = value * share + (0.0 if math.isnan(before) else before)

    def _sleep(self, start: float, end: float, value: str) -> None:
        stage = value.removeprefix("HKCategoryValueSleepAnalysis")
        if stage == value or end - start > 2 * 86400:
            raise Unusable("a record of sleep that says no stage or is too long")
        if stage == "Awake":
            return
        columns = ["in_bed_hours"] if stage == "InBed" else ["sleep_hours", *([_STAGES[stage]] if stage in _STAGES else [])]
        night = self._day(start + 43200)
        if len(self.asleep[night, columns[0]]) >= MAX_NAPS:
            raise Unusable("a record of one sleep too many")
        for column in columns:
            self.asleep[night, column].append((start, end))


def _trusted(by_source: Mapping[tuple[int, int], array[float]]) -> float:
    """The sum over the slots of what the first source that recorded anything in it counted."""
    total = np.full(SLOTS, np.nan)
    for source in sorted(by_source):
        total = np.where(np.isnan(total), np.frombuffer(by_source[source]), total)
    return float(np.nansum(total))


def _union(intervals: list[tuple[float, float]]) -> float:
    """Seconds that are in any of the intervals."""
    total, until = 0.0, -math.inf
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def _interval(start: str, end: str) -> tuple[float, float]:
    """Seconds since day 0 by the clock of the place where the interval began; raises `Unusable`."""
    begin = _moment(start)
    stop = begin if end in (start, "") else _moment(end)
    if begin is None or stop is None:
        raise Unusable("a record without a time")
    last = stop[0] - stop[1] + begin[1]  # by the first clock, should the second be of another zone
    if last < begin[0]:
        raise Unusable("a record that ends before it starts")
    return begin[0], last


def _moment(text: str) -> tuple[float, float] | None:
    """(seconds by the local clock, the clock's offset from UTC in seconds) of "2024-03-01 08:00:00 +0100"."""
    match = _MOMENT.fullmatch(text)
    day = _ordinal(match[1]) if match else 0
    if match is None or not day:
        return None
    offset = (int(match[6]) * 60 + int(match[7])) * 60
    return day * 86400.0 + int(match[2]) * 3600 + int(match[3]) * 60 + int(match[4]), float(-offset if match[5] == "-" else offset)


@lru_cache(maxsize=65536)
def _ordinal(date: str) -> int:
    """The day's number, 0 where there is no such day."""
    try:
        return datetime.date.fromisoformat(date).toordinal()
    except ValueError:
        return 0
