"""One streaming pass over a table: what each column holds, in bounded memory. For drafts and proposals, at the site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from locum.data.convert import as_text
from locum.data.sources.base import CHUNK, Source, SourceSpec

LEAST = 11
"""Patients that must share what is published of a column: a usual limit for small cells is fewer than 11."""
MAX_DISTINCT = 200
"""Values of a column that are counted one by one; with more it is no coded column."""
SAMPLE = 50_000
"""Numbers of a column that are kept for its quantiles, drawn at random where there are more."""
FORMATS = ("%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%Y%m%d", "%d-%m-%Y", "%d-%b-%Y", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S")


@dataclass
class Profile:
    """What one column holds.

    missing, numbers, whole: rows with no value, with a number, with a whole number. dates: rows that each format reads. counts: value
    -> rows, and patients: value -> patients (counted up to LEAST), or None where there are more than MAX_DISTINCT values. values,
    owners: shape (k,), numbers (dates in days since 1970-01-01) and the patients that they are of. unique: share of distinct values
    in the first chunk. longest: characters of a cell. shape: of an array.
    """

    name: str
    rows: int = 0
    missing: int = 0
    numbers: int = 0
    whole: int = 0
    dates: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] | None = field(default_factory=dict)
    patients: dict[str, set[int]] = field(default_factory=dict)
    values: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    owners: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    keys: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    unique: float = 0.0
    longest: int = 0
    shape: tuple[int, ...] | None = None

    @property
    def filled(self) -> int:
        return self.rows - self.missing

    @property
    def number_share(self) -> float:
        return self.numbers / self.filled if self.filled else 0.0

    @property
    def date_format(self) -> str | None:
        """The format that reads nearly all cells, the first where several do."""
        best = max(self.dates.values(), default=0)
        return next((f for f, n in self.dates.items() if n == best and n >= 0.95 * self.filled), None) if best else None

    def common(self) -> list[str]:
        """The values that at least LEAST patients share, most frequent first."""
        counts = self.counts or {}
        return [v for v in sorted(counts, key=lambda v: (-counts[v], v)) if len(self.patients.get(v, ())) >= LEAST]


def profile(source: Source, spec: SourceSpec | None = None, *, names: Sequence[str] | None = None, patient: str | None = None) -> dict[str, Profile]:
    """Every column of the source (or those named). patient: the column that says whose row it is; without it every row is a patient.

    Raises what the source raises.
    """
    spec = spec or SourceSpec()
    names = [*names] if names is not None else source.columns()
    wanted = names if patient is None or patient in names else [*names, patient]
    found = {n: Profile(n) for n in names}
    rng = np.random.default_rng(0)
    seen = 0
    for frame in source.chunks(wanted, CHUNK):
        owners = (as_text(frame[patient]).hash(seed=0) if patient is not None else pl.Series(np.arange(seen, seen + len(frame), dtype=np.uint64))).rename(
            "owner"
        )
        for name in names:
            _add(found[name], frame[name], owners, spec, rng, first=seen == 0)
        seen += len(frame)
    return found


def _add(p: Profile, cells: pl.Series, owners: pl.Series, spec: SourceSpec, rng: np.random.Generator, *, first: bool) -> None:
    p.rows += len(cells)
    if isinstance(cells.dtype, pl.Array):
        p.shape, p.counts = cells.dtype.shape, None
        return
    if cells.dtype.is_nested() or cells.dtype in (pl.Binary, pl.Object):
        p.counts = None
        return
    if p.counts is None and cells.dtype.is_numeric() and not any(w.lstrip("-").isdigit() for w in spec.missing):
        _plain(p, cells, owners, rng)
        return
    text = cells.cast(pl.String) if cells.dtype.is_temporal() else as_text(cells)
    absent = (text.is_null() | text.str.to_lowercase().is_in([w.lower() for w in spec.missing])).fill_null(True)
    p.missing += int(absent.sum())
    text = text.str.replace(r"^(-?\d+)\.0+$", "$1")  # 1.0 is the code 1
    number = cells.cast(pl.Float64) if cells.dtype.is_numeric() else _parsed(text, spec.decimal)
    number = number.zip_with(number.is_finite().fill_null(False), pl.Series([None], dtype=pl.Float64))
    frame = pl.DataFrame({"text": text, "owner": owners, "n": number}).filter(~absent)
    kinds = frame.group_by("text").agg(pl.len(), pl.col("n").first()).sort("text")
    if first and len(frame):
        p.unique = len(kinds) / len(frame)
    p.longest = max([p.longest, *kinds["text"].str.len_chars()])
    _count(p, frame, kinds)
    _numbers(p, frame, kinds, rng)


def _parsed(text: pl.Series, decimal: str) -> pl.Series:
    return (text.str.replace(",", ".", literal=True) if decimal == "," else text).cast(pl.Float64, strict=False)


def _plain(p: Profile, cells: pl.Series, owners: pl.Series, rng: np.random.Generator) -> None:
    """The quick way for numbers that are not counted one by one."""
    number = cells.cast(pl.Float64)
    number = number.zip_with(number.is_finite().fill_null(False), pl.Series([None], dtype=pl.Float64))
    frame = pl.DataFrame({"n": number, "owner": owners}).drop_nulls()
    p.missing += len(cells) - len(frame)
    p.numbers += len(frame)
    p.whole += int((frame["n"] == frame["n"].round()).sum())
    _keep(p, frame, rng)


def _count(p: Profile, frame: pl.DataFrame, kinds: pl.DataFrame) -> None:
    if p.counts is None:
        return
    if len(kinds) + len(p.counts) > 2 * MAX_DISTINCT or len({*p.counts, *kinds["text"].to_list()}) > MAX_DISTINCT:
        p.counts, p.patients = None, {}
        return
    for value, rows in zip(kinds["text"], kinds["len"], strict=True):
        p.counts[value] = p.counts.get(value, 0) + rows
    few = [v for v in kinds["text"] if len(p.patients.get(v, ())) < LEAST]
    if not few:
        return
    owned = frame.select("text", "owner").filter(pl.col("text").is_in(few)).unique().group_by("text").agg(pl.col("owner").head(2 * LEAST))
    for value, who in owned.iter_rows():
        known = p.patients.setdefault(value, set())
        known.update(who[: 2 * LEAST])


def _numbers(p: Profile, frame: pl.DataFrame, kinds: pl.DataFrame, rng: np.random.Generator) -> None:
    counted = kinds.select("n", "len").drop_nulls()
    p.numbers += int(counted["len"].sum())
    p.whole += int(counted.filter(pl.col("n") == pl.col("n").round())["len"].sum())
    if p.numbers < 0.5 * p.filled or p.whole == p.numbers:
        read = {f: kinds.select(_day(f).alias("day"), "len").drop_nulls() for f in FORMATS if _first_chance(p, f)}
        for f, days in read.items():
            p.dates[f] = p.dates.get(f, 0) + int(days["len"].sum())
    form = p.date_format if p.numbers < 0.5 * p.filled else None
    kept = frame.select("n", "owner") if form is None else frame.select(_day(form).alias("n"), "owner")
    _keep(p, kept.drop_nulls(), rng)


def _first_chance(p: Profile, form: str) -> bool:
    """Whether a format is still worth trying: it read something in the chunks before, or there were none."""
    return not p.dates or p.dates.get(form, 0) > 0


def _day(form: str) -> pl.Expr:
    """Text -> days since 1970-01-01, null where it is no date of this century or the last."""
    text = pl.col("text")
    if "H" in form:
        text = text.str.replace(r"[.,]\d+$", "").str.replace(r"(Z|[+-]\d\d:?\d\d)$", "")
        day = text.str.to_datetime(form, strict=False).dt.date()
    else:
        day = text.str.to_date(form, strict=False)
    return pl.when((day.dt.year() >= 1900) & (day.dt.year() <= 2100)).then(day.dt.epoch("d").cast(pl.Float64))


def _keep(p: Profile, numbers: pl.DataFrame, rng: np.random.Generator) -> None:
    """A uniform sample of all rows: those with the smallest random keys."""
    values = np.concatenate([p.values, numbers["n"].to_numpy()])
    owners = np.concatenate([p.owners, numbers["owner"].to_numpy()])
    keys = np.concatenate([p.keys, rng.random(len(numbers))])
    if len(keys) > SAMPLE:
        kept = np.argpartition(keys, SAMPLE)[:SAMPLE]
        values, owners, keys = values[kept], owners[kept], keys[kept]
    p.values, p.owners, p.keys = values, owners, keys


SENTINELS = (0.0, -1.0, -2.0, -3.0, -4.0, -7.0, -8.0, -9.0, -99.0, -999.0, -9999.0, 7.0, 8.0, 9.0, 77.0, 88.0, 98.0, 99.0, 777.0, 888.0, 998.0, 999.0,
             9999.0, 99999.0)  # fmt: skip


def sentinels(p: Profile, hard: tuple[float, float] | None = None) -> dict[float, float]:
    """Numbers that may stand for "no value" -> their share of the numbers: shared by LEAST patients or more, and apart from the rest.

    hard: the range outside of which nothing can be right, where it is known.
    """
    if len(p.values) < 5 * LEAST:
        return {}
    candidate = np.isin(p.values, SENTINELS)
    rest = p.values[~candidate]
    if len(rest) < LEAST:
        return _codes(p)
    low, high = np.quantile(rest, [0.01, 0.99])
    spread, kinds = max(high - low, 1e-9), np.unique(rest)
    step = 1.5 * float(np.diff(kinds).min()) if 1 < len(kinds) <= MAX_DISTINCT else 0.0  # 0 is no more apart from 1, 2, 3 than they are
    found = {}
    for value in np.unique(p.values[candidate]):
        at = p.values == value
        if len(np.unique(p.owners[at])) < LEAST:
            continue
        outside = hard is not None and not hard[0] <= value <= hard[1]
        odd = value < 0 <= rest.min() or value < low - max(0.2 * spread, step) or value > high + max(0.5 * spread, step)
        if outside or odd:
            found[float(value)] = float(at.mean())
    return found


def _codes(p: Profile) -> dict[float, float]:
    """Of a column of small codes: 9, 99 or a negative that is apart from the others."""
    kinds, counts = np.unique(p.values, return_counts=True)
    shared = {float(v): int(n) for v, n in zip(kinds, counts, strict=True)}
    normal = [v for v in shared if 0 <= v < 7]
    top = max(normal, default=0.0)
    return {
        v: n / len(p.values)
        for v, n in shared.items()
        if normal and len(normal) > 1 and (v < 0 or (v >= 9 and v > top + 2)) and len(np.unique(p.owners[p.values == v])) >= LEAST
    }


def bounds(p: Profile, share: float, without: Mapping[float, float] | None = None) -> tuple[float, float] | None:
    """The range that leaves out a share of the values at each end, and at least those of LEAST - 1 patients: None for too few values."""
    keep = ~np.isin(p.values, [*(without or {})])
    order = np.argsort(p.values[keep], kind="stable")
    values, owners = p.values[keep][order], p.owners[keep][order]
    if len(np.unique(owners)) < 5 * LEAST:
        return None
    low, high = values[_inside(owners, share)], values[::-1][_inside(owners[::-1], share)]
    return (float(low), float(high)) if low <= high else None


def _inside(owners: NDArray[np.uint64], share: float) -> int:
    """How far in a value must lie so that LEAST patients have one as far out or further."""
    _, first = np.unique(owners, return_index=True)
    return max(int(share * len(owners)), int(np.sort(first)[LEAST - 1]))
