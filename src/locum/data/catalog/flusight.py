"""Weekly influenza admissions of the United States by state, as they were known on any date (the vintages of the FluSight hub)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path

import polars as pl

from locum.data.catalog.base import DataSet, File, mapping, spec
from locum.errors import DataError, ManifestError

_HUB = "https://raw.githubusercontent.com/cdcepi/FluSight-forecast-hub/92469693f9114523f877d69edd5b9d084e7218ad"
FIRST = date(2023, 9, 23)
"""The first date of which it is known what was known."""
MAX_LAG = 520


def _read(paths: Mapping[str, Path], as_of: str | None = None, lags: str | None = None, delays: str | None = None) -> pl.DataFrame:
    """One row a location and week, in that order."""
    if as_of is None and delays is not None:
        raise ManifestError("delays need as_of.", why="They are of what had been published by a date.", fix="write for example as_of=2024-11-16")
    if as_of is None:
        table = pl.read_csv(paths["target-hospital-admissions.csv"], schema_overrides={"location": pl.String}, null_values="NA")
        table = table.select(pl.col("date").cast(pl.String).str.to_date(), "location", pl.col("value").cast(pl.Float64))
    else:
        changes = pl.read_parquet(paths["vintages_changes_only.parquet"])
        table = vintage(changes, _date(as_of))
        if delays is not None:
            table = with_delays(table, changes, _date(as_of), _weeks(delays, "delays", 0))
    places = pl.read_csv(paths["locations.csv"], schema_overrides={"location": pl.String})
    places = places.select("location", "abbreviation", "location_name", pl.col("population").cast(pl.Float64))
    table = table.join(places, on="location", how="left").sort("location", "date")
    return table if lags is None else with_lags(table, _weeks(lags, "lags", 1))


def vintage(changes: pl.DataFrame, as_of: date) -> pl.DataFrame:
    """What was known on a date: of each location and week the last value that had been published by then.

    changes: columns date, location, value and as_of, a row wherever a snapshot brought a new or another value.
    """
    if as_of < FIRST:
        raise DataError(f"What was known on {as_of} is not recorded.", fix=f"name a date from {FIRST} on, or leave as_of out")
    known = changes.with_columns(pl.col("date", "as_of").cast(pl.Date)).filter(pl.col("as_of") <= as_of)
    latest = known.sort("as_of").group_by("location", "date", maintain_order=True).last()
    return latest.select("date", "location", "value").sort("location", "date")


def with_lags(table: pl.DataFrame, weeks: Sequence[int]) -> pl.DataFrame:
    """The table with `value_lag1`, `value_lag2`, ...: each location's value so many weeks earlier, null where that week is absent."""
    for week in weeks:
        earlier = table.select("location", pl.col("date") + timedelta(weeks=week), pl.col("value").alias(f"value_lag{week}"))
        table = table.join(earlier, on=["location", "date"], how="left", maintain_order="left")
    return table


def with_delays(table: pl.DataFrame, changes: pl.DataFrame, as_of: date, weeks: Sequence[int]) -> pl.DataFrame:
    """The table with `value_delay0`, `value_delay1`, ...: the value as it was published so many weeks after the week's end, null where no snapshot of that
    date is recorded or it is later than as_of."""
    published = changes.with_columns(pl.col("date", "as_of").cast(pl.Date)).sort("as_of")
    snapshots = published.select("as_of").unique().filter(pl.col("as_of") <= as_of)
    for week in weeks:
        then = table.select("location", "date", (pl.col("date") + timedelta(weeks=week)).alias("as_of")).join(snapshots, on="as_of", how="semi").sort("as_of")
        found = then.join_asof(published, on="as_of", by=["location", "date"], check_sortedness=False)
        table = table.join(
            found.select("location", "date", pl.col("value").alias(f"value_delay{week}")), on=["location", "date"], how="left", maintain_order="left"
        )
    return table


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ManifestError("as_of is not a date.", fix="write for example as_of=2024-11-16") from None


def _weeks(text: str, option: str, least: int) -> list[int]:
    parts = [p.strip() for p in text.split(" ") if p.strip()]
    if not parts or not all(p.isdecimal() and least <= int(p) <= MAX_LAG for p in parts) or len(set(parts)) < len(parts):
        raise ManifestError(f"{option} are not numbers of weeks.", fix=f'write for example {option}="{least} {least + 1} {least + 2}"')
    return [int(p) for p in parts]


FLUSIGHT = DataSet(
    name="flusight",
    title="Weekly influenza admissions of 50 US states, Washington D.C. and Puerto Rico since 2022, with every vintage",
    licence="MIT (hub); the counts are US Government data",
    citation="CDC National Healthcare Safety Network; CDC FluSight forecast hub, github.com/cdcepi/FluSight-forecast-hub",
    published="https://github.com/cdcepi/FluSight-forecast-hub",
    folder="flusight_us",
    files=(
        File("LICENSE", "3001f9164af0738c1e991135e94c813c38b8e509b55326eba35b70ed9b79617c", 1103, url=f"{_HUB}/LICENSE"),
        File("locations.csv", "80aaa24750044a837e063812a1d0a22339c8b3a92513f71a23dac613eaaa29e0", 3197, url=f"{_HUB}/auxiliary-data/locations.csv"),
        File(
            "target-hospital-admissions.csv",
            "35d93cdb12dbb7a091d576e0d5b8b239138aebf1f686268a9f0200d73c90509c",
            571217,
            url=f"{_HUB}/target-data/target-hospital-admissions.csv",
        ),
        File(
            "target-ed-visits-prop.csv",
            "e0f44bbb829b759926623638023f0f14c48ad0a39bffc311a17445be1aa76f0a",
            350498,
            url=f"{_HUB}/target-data/target-ed-visits-prop.csv",
        ),
        File("vintages_changes_only.parquet", "25ac71e5e24a3ec528b0f4c327c1684c7ecc520f93572acf12cd374c529b9a66", 71039),
        File("reference_forecasts.parquet", "b1690e1c2f8effe744a23e532e85410c3ea15ccc13525b11b88b746965479462", 1568886),
    ),
    read=_read,
    sites={"state": pl.when(pl.col("abbreviation") != "US").then(pl.col("abbreviation").str.to_lowercase())},
    options={
        "as_of": f"a date from {FIRST} on: the table as it was known then, without later revisions",
        "delays": 'numbers of weeks, such as "0 1": further columns value_delay0, value_delay1, the value as published so long after the week (with as_of)',
        "lags": 'numbers of weeks, such as "1 2 3": further columns value_lag1, value_lag2, ...',
    },
    note="The national sum belongs to no site. The vintages and the hub's forecasts are extracts of its history, not published in this form.",
    data=spec(
        date={"type": "date", "role": "time", "label": "end of the week", "minimum": "2022-01-01", "max_missing": 0},
        location={"type": "text", "role": "group", "label": "FIPS code of the state"},
        value={"role": "outcome", "unit": "1", "label": "admissions with influenza in the week", "minimum": 0, "maximum": 100_000},
        population={"unit": "1", "label": "population", "minimum": 100_000, "maximum": 1e9, "max_missing": 0},
    ),
    mapping=mapping(),
)
