"""Every data set of the registry against its published numbers: sizes, sites, outcomes, and what its contract has to catch."""

import os
from dataclasses import replace
from datetime import date

import numpy as np
import polars as pl
import pytest

from locum.data import registry
from locum.data.catalog.files import Paths
from locum.data.catalog.flusight import vintage, with_lags
from locum.data.catalog.mitbih import DS1, DS2
from locum.data.catalog.watch import windows
from locum.data.gates import check
from locum.errors import DataError, ManifestError
from locum.simulate import simulate
from locum.study import Study

DATA = os.environ.get("LOCUM_DATA_DIR")
needs_data = pytest.mark.skipif(not DATA, reason="LOCUM_DATA_DIR is not set, so the data sets that no package ships are not at hand")
pytestmark = needs_data


@pytest.fixture(scope="module")
def ist():
    """IST with its R data file read once."""
    pytest.importorskip("rdata", reason="rdata is not installed")
    dataset = registry.get("ist")
    table = dataset.read(Paths(dataset, None))
    return replace(dataset, read=lambda paths: table)


def pooled(sites, name):
    return np.concatenate([r.columns[name] for r in sites.values()])


def test_ist_hospitals_and_countries(ist):
    sites = registry.load(ist)
    sizes = [len(r) for r in sites.values()]
    assert (len(sites), sum(sizes), min(sizes), max(sizes)) == (466, 19435, 1, 524)
    assert sum(size <= 2 for size in sizes) == 29
    countries = registry.load(ist, by="country")
    assert len(countries) == 36
    assert {c: len(countries[c]) for c in ("uk", "ital", "swit")} == {"uk": 6257, "ital": 3437, "swit": 1631}
    assert all(check(ist.data, r).result != "REFUSE" for r in sites.values())
    assert pooled(sites, "ddead")[~np.isnan(pooled(sites, "ddead"))].sum() == 2034
    assert np.isnan(pooled(sites, "fdead")).sum() == 99 + 57  # blank, and unknown
    assert pooled(sites, "dead_14d").sum() == 1781


def test_the_trial_effect_as_a_federated_table_over_466_hospitals(ist):
    """Published: 62.2 against 63.5 % dead or dependent at six months, 9.0 against 9.4 % dead within 14 days (Lancet 349:1569, 1997)."""
    variables = {
        "rxasp": {"type": "category", "categories": ["0", "1"]},
        "dead_or_dependent": {"type": "boolean", "role": "outcome"},
        "dead_14d": {"type": "boolean", "role": "outcome"},
    }
    plan = [{"name": "effect", "task": "moments", "variables": ["dead_or_dependent", "dead_14d"], "by": "rxasp"}]
    study = Study.parse({"name": "ist-effect", "data": {"variables": variables}, "terms": {"privacy": "none", "min_cohort": 466}, "plan": plan})
    result = simulate(study, registry.load(ist, study.data))
    assert not result.declined
    effect = result.results["effect"]["variables"]
    percent = {name: {arm: round(100 * effect[name][code]["mean"], 2) for arm, code in (("aspirin", "1"), ("none", "0"))} for name in effect}
    assert percent == {"dead_or_dependent": {"aspirin": 62.25, "none": 63.5}, "dead_14d": {"aspirin": 8.97, "none": 9.36}}
    assert effect["dead_14d"]["1"]["n"] + effect["dead_14d"]["0"]["n"] == 19435


def test_heart_disease_counts_and_the_traps_are_caught():
    sites = registry.load("heart_disease")
    assert {s: len(r) for s, r in sites.items()} == {"cleveland": 303, "hungarian": 294, "switzerland": 123, "va": 200}
    spec = registry.get("heart_disease").data
    refused = {s: {f.variable for f in check(spec, r).of("REFUSE")} for s, r in sites.items()}
    assert refused == {"cleveland": set(), "hungarian": {"slope", "ca", "thal"}, "switzerland": {"chol", "fbs", "ca"}, "va": {"slope", "ca", "thal"}}
    missing = {s: round(float(np.isnan(r.columns["chol"]).mean()), 3) for s, r in sites.items()}
    assert missing["switzerland"] == 1.0
    assert 0.24 < missing["va"] < 0.30  # 24 % are 0, and some are blank
    without = spec.model_copy(update={"variables": {n: v for n, v in spec.variables.items() if n not in ("slope", "ca", "thal")}})
    refused = {s: {f.variable for f in check(without, r).of("REFUSE")} for s, r in registry.load("heart_disease", without).items()}
    assert refused == {"cleveland": set(), "hungarian": set(), "switzerland": {"chol", "fbs"}, "va": set()}
    kept = ["age", "sex", "cp", "trestbps", "fbs", "restecg", "thalach", "exang", "oldpeak"]
    complete = sites["hungarian"].take(~np.isnan(sites["hungarian"].matrix([*kept, "chol"])).any(axis=1))
    assert len(complete) == 261  # as FLamby keeps
    assert round(complete.columns["num"].mean(), 2) == 0.38


def test_cholesterol_in_the_wrong_unit_is_caught():
    """mmol/L where the contract says mg/dL: 38.665 times too small."""
    spec, va = registry.get("heart_disease").data, registry.load("heart_disease")["cleveland"]
    wrong = replace(va, columns={**va.columns, "chol": va.columns["chol"] / 38.665})
    assert {f.variable for f in check(spec, wrong).of("REFUSE")} == {"chol"}


def test_tcga_brca_regions_sources_and_flambys_own_split():
    sites = registry.load("tcga_brca")
    assert {s: (len(r), int(r.columns["event"].sum())) for s, r in sites.items()} == {
        "northeast": (311, 59),
        "south": (196, 39),
        "west": (206, 22),
        "midwest": (162, 19),
        "europe": (162, 9),
        "canada": (51, 3),
    }
    spec = registry.get("tcga_brca").data
    assert len(spec.variables) == 42  # 39 features, time, event, patient
    assert len(registry.load("tcga_brca", by="source")) == 37
    test = {"test": {"type": "boolean", "role": "split"}}
    split = type(spec).parse({**spec.model_dump(exclude_defaults=True), "variables": {**spec.model_dump(exclude_defaults=True)["variables"], **test}})
    parts = {s: (len(r.part("train", split.split)), len(r.part("test", split.split))) for s, r in registry.load("tcga_brca", split).items()}
    assert parts == {"northeast": (248, 63), "south": (156, 40), "west": (164, 42), "midwest": (129, 33), "europe": (129, 33), "canada": (40, 11)}


def test_flusight_by_state_in_the_order_of_weeks():
    sites = registry.load("flusight")
    assert len(sites) == 52
    assert "us" not in sites
    for rows in sites.values():
        assert len(rows) == 230
        assert (np.diff(rows.columns["date"]) == 7).all()
        assert len(set(rows.texts["location"])) == 1
    assert sites["ca"].columns["population"][0] == 39_431_263
    assert sites["ca"].columns["date"][-1] == (date(2026, 6, 27) - date(1970, 1, 1)).days
    spec = registry.get("flusight").data
    assert all(check(spec, r).result != "REFUSE" for r in sites.values())


def test_flusight_vintages_are_what_was_known_on_a_date():
    """Alabama's week to 2022-02-12 was revised from 10 to 9 on 2024-11-16, and a forecast of an earlier date may not see that."""
    changes = pl.read_parquet(Paths(registry.get("flusight"), None)["vintages_changes_only.parquet"])
    early, late = date(2024, 11, 9), date(2024, 11, 16)
    week = (pl.col("location") == "01") & (pl.col("date") == date(2022, 2, 12))
    assert [vintage(changes, d).filter(week)["value"].item() for d in (early, late)] == [10.0, 9.0]
    brute = {}
    for day, location, value, as_of in sorted(changes.select("date", "location", "value", "as_of").iter_rows(), key=lambda r: r[3]):
        if as_of.date() <= late:
            brute[location, day.date()] = value
    found = vintage(changes, late)
    assert {(loc, day): v for day, loc, v in found.iter_rows()} == brute
    assert found["date"].max() <= late
    latest = registry.load("flusight", as_of="2026-06-27")["tx"].columns
    np.testing.assert_array_equal(latest["value"], registry.load("flusight")["tx"].columns["value"])
    for wrong in ("2020-01-01", "2023-09-22"):
        with pytest.raises(DataError, match="is not recorded"):
            registry.load("flusight", as_of=wrong)
    with pytest.raises(ManifestError, match="as_of is not a date"):
        registry.load("flusight", as_of="last week")


def test_lags_are_by_the_calendar_and_never_cross_a_state():
    days = [date(2024, 1, 6), date(2024, 1, 13), date(2024, 1, 27)]
    table = pl.DataFrame({"location": ["01"] * 3 + ["02"], "date": [*days, days[1]], "value": [1.0, 2.0, 4.0, 9.0]})
    lagged = with_lags(table, [1, 2])
    assert lagged["value_lag1"].to_list() == [None, 1.0, None, None]  # there is no 20 January
    assert lagged["value_lag2"].to_list() == [None, None, 2.0, None]
    spec = registry.get("flusight").data
    variables = {**spec.model_dump(exclude_defaults=True)["variables"], "value_lag1": {}, "value_lag3": {}}
    rows = registry.load("flusight", type(spec).parse({"variables": variables}), lags="1 3")["ny"].columns
    np.testing.assert_array_equal(rows["value_lag3"][3:], rows["value"][:-3])
    assert np.isnan(rows["value_lag1"][0])
    for wrong in ("", "0", "1 1", "one", "9999"):
        with pytest.raises(ManifestError, match="lags are not numbers of weeks"):
            registry.load("flusight", lags=wrong)


def test_mitbih_beats_records_and_classes():
    sites = registry.load("mitbih")
    assert len(sites) == 48
    label = pooled(sites, "label").astype(int)
    assert np.bincount(label).tolist() == [90548, 2779, 7234, 802, 8035]
    waves = np.concatenate([r.arrays["wave"] for r in sites.values()])
    assert waves.shape == (109398, 72)
    assert waves.dtype == np.float32
    people = {r.patient[0] for r in sites.values()}
    assert all(r.patients == 1 for r in sites.values())
    assert len(people) == 47
    assert sites["record-201"].patient[0] == sites["record-202"].patient[0]
    spec = registry.get("mitbih").data
    assert all(check(spec, r).result != "REFUSE" for r in sites.values())


def test_the_split_of_de_chazal():
    sites = registry.load("mitbih_ds1_ds2")
    assert set(sites) == {f"record-{r}" for r in (*DS1, *DS2)}
    assert len(DS1) == len(DS2) == 22
    assert not {102, 104, 107, 217} & {*DS1, *DS2}
    split = registry.get("mitbih_ds1_ds2").data.split
    assert {s for s, r in sites.items() if len(r.part("test", split))} == {f"record-{r}" for r in DS2}
    assert all(len(r.part("train", split)) in (0, len(r)) for r in sites.values())


def test_watch_windows_by_subject():
    sites = registry.load("watch")
    assert list(sites) == [f"subject-{i:02d}" for i in range(1, 11)]
    for rows in sites.values():
        assert rows.patients == 1
        assert rows.arrays["motion"].shape == (len(rows), 6, 100)
        assert set(rows.columns["exercise"]) == set(range(7))
    raw = np.load(Paths(registry.get("watch"), None)["watch.npz"], allow_pickle=False)
    expected = sum((n - 100) // 50 + 1 for n in raw["length"])
    assert sum(map(len, sites.values())) == expected
    first = sites[f"subject-{raw['subject'][0]:02d}"]
    at = np.flatnonzero(first.columns["series"] == 0)
    np.testing.assert_array_equal(first.arrays["motion"][at[1]], raw["x"][50:150].T)
    assert windows(np.zeros((99, 6))).shape == (0, 6, 100)
    assert windows(np.zeros((150, 6))).shape == (2, 6, 100)
