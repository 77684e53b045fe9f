"""Drafts of contracts: valid, useful, and never holding what fewer than 11 patients share."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.data.draft import Draft, draft_contract, outward, parse
from locum.data.profile import LEAST, bounds, profile, sentinels
from locum.data.sources.base import FrameSource
from locum.data.sources.table import Spec
from locum.errors import DataError
from locum.study.contract import ContractFile
from tests.data import renamed


def draft(table: pl.DataFrame, **options: str) -> tuple[Draft, ContractFile]:
    made = draft_contract(FrameSource(table, name="table.csv"), **options)  # type: ignore[arg-type]
    return made, parse(made.text)


def ward(n: int = 400, seed: int = 1) -> pl.DataFrame:
    """A made-up ward: ids, a rare code, a date, text, sentinels."""
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "Patient ID": [f"P{i:05d}" for i in range(n)],
            "Geburtsdatum": ["1950-01-01"] * n,
            "weight (kg)": rng.normal(80, 12, n).round(1).astype(str),
            "chol_mmoll": rng.normal(5.2, 0.9, n).round(2).astype(str),
            "smoker": rng.choice(["yes", "no"], n),
            "ward": [["ICU", "surgery", "medicine"][i % 3] if i > 4 else "the mayor's room" for i in range(n)],
            "admitted": [f"{2015 + i % 5}-03-{1 + i % 28:02d}" for i in range(n)],
            "discharged": [f"{1 + i % 28:02d}.04.{2015 + i % 5}" for i in range(n)],
            "crp": np.where(np.arange(n) % 10 == 0, -9, rng.gamma(2, 20, n).round(1)).astype(str),
            "score": [str(i % 4 + 1) if i % 20 else "9" for i in range(n)],
            "notes": [f"seen by Dr {i}" for i in range(n)],
            "died": rng.choice(["0", "1"], n, p=[0.9, 0.1]),
            "days to last follow up": rng.integers(1, 2000, n).astype(str),
            "empty": [None] * n,
        },
        schema_overrides={"empty": pl.String},
    )


def test_a_draft_is_a_contract_with_types_units_and_roles() -> None:
    made, found = draft(ward(), title='A "ward"')
    v = found.variables
    assert found.title == 'A "ward"'
    assert found.name == "table"
    assert v["patient_id"].role == "patient"
    assert (v["weight"].unit, v["weight"].type) == ("kg", "number")
    assert v["chol"].unit == "mmol/L"
    assert v["chol"].molar_mass == pytest.approx(386.65)
    assert v["smoker"].type == "boolean"
    assert v["died"].role == "event"
    assert v["days_to_last_follow_up"].role == "time"
    assert v["ward"].categories == ("ICU", "medicine", "surgery")
    assert v["admitted"].type == v["discharged"].type == "date"
    assert "%d.%m.%Y" in made.text
    assert made.columns["weight"] == "weight (kg)"
    assert set(made.left_out) == {"Geburtsdatum", "notes", "empty"}
    assert "identifies people" in made.left_out["Geburtsdatum"]


def test_codes_that_may_mean_no_value_are_asked_and_not_decided() -> None:
    made, found = draft(ward())
    assert "missing_codes = [-9]" in made.text
    assert found.variables["crp"].missing_codes == ()
    assert found.variables["crp"].minimum == 0  # so that -9, unless decided, is refused
    low, high = found.variables["crp"].plausible or (0, 0)
    assert low >= 0
    assert 60 < high < 400


def test_what_few_patients_share_is_not_in_it() -> None:
    made, _ = draft(ward())
    assert "mayor" not in made.text
    assert "1 more, of fewer than 11 patients each" in made.text
    assert "Dr " not in made.text
    assert "P000" not in made.text


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), few=st.integers(1, LEAST - 1), far=st.floats(200, 1e6), low=st.booleans())
def test_the_values_of_ten_patients_at_the_edge_do_not_show(seed: int, few: int, far: float, low: bool) -> None:
    """Whatever the few most extreme patients' values are, as long as they are the most extreme, the draft is the same text."""
    table = ward(seed=seed)
    values = table["weight (kg)"].cast(pl.Float64).to_numpy().copy()
    order = np.argsort(values)
    edge = order[:few] if low else order[-few:]
    moved = values.copy()
    moved[edge] = values[edge] + (-far - np.arange(few) if low else far + np.arange(few)) + 0.1
    other = table.with_columns(pl.Series("weight (kg)", moved.round(1).astype(str)))
    assert draft(other)[0].text == draft(table)[0].text


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), few=st.integers(1, LEAST - 1))
def test_the_code_of_ten_patients_does_not_show(seed: int, few: int) -> None:
    table = ward(seed=seed)
    rng = np.random.default_rng(seed)
    codes = table["ward"].to_list()
    for i in rng.choice(len(codes), few, replace=False):
        codes[i] = "secret ward"
    assert "secret" not in draft(table.with_columns(pl.Series("ward", codes)))[0].text


def test_many_rows_of_one_patient_count_once() -> None:
    """A code, or an extreme, that one patient has a hundred times is still one patient's."""
    n = 600
    who = [f"P{i}" for i in range(500)] + ["P7"] * 100
    weight = [70 + i % 30 for i in range(500)] + [333] * 100
    table = pl.DataFrame({"patient_id": who, "weight_kg": weight, "drug": ["a", "b"] * 250 + ["orphan"] * 100})
    made, found = draft(table)
    assert "orphan" not in made.text
    assert (found.variables["weight"].plausible or (0, 0))[1] < 130
    unaware = profile(FrameSource(table))["weight_kg"]
    assert (bounds(unaware, 0.01) or (0, 0))[1] == 333  # which is why the patient matters
    assert len(table) == n


def test_a_table_of_few_patients_has_no_draft() -> None:
    with pytest.raises(DataError, match="too few"):
        draft(ward(40))
    with pytest.raises(DataError, match="no column 'x'"):
        draft(ward(), patient="x")


def test_dates_without_separators() -> None:
    table = pl.DataFrame({"admission_date": [f"2020{1 + i % 12:02d}{1 + i % 28:02d}" for i in range(200)]})
    made, found = draft(table)
    assert found.variables["admission_date"].type == "date"
    assert "%Y%m%d" in made.text


def test_decimal_commas_and_own_words_for_missing() -> None:
    table = pl.DataFrame({"crea": ["0,9", "1,1", "1,4", "n.d."] * 50})
    made = draft_contract(FrameSource(table, name="x.csv"), spec=Spec(decimal=",", missing=("n.d.",)))
    found = parse(made.text).variables["crea"]
    assert found.type == "number"
    assert found.unit == "mg/dL"
    assert found.max_missing == 0.25


def test_names_and_comments_cannot_break_the_file() -> None:
    names = ['a"] = 1\n[variables.evil]', "b # c", "ü\u2028x", "1st", "1st ", "\x7f\x00", "", "x" * 300, "[degF]"]
    table = pl.DataFrame({n: [str(i % 7) for i in range(100)] for n in names})
    made, found = draft(table)
    assert len(found.variables) == len(names)
    assert "evil" not in "".join(found.variables) or found.variables.keys() >= {"a_1_variables_evil"}
    assert len(set(made.columns.values())) == len(names)


@given(st.floats(-1e9, 1e9), st.floats(0, 1e9))
def test_rounding_outwards_holds_the_range(low: float, width: float) -> None:
    high = low + width
    bottom, top = outward(low, high)
    slack = 1e-9 * max(high - low, abs(low), abs(high), 1e-3)  # the step's own rounding
    assert bottom <= low + slack
    assert top >= high - slack
    assert bottom < top
    assert top - bottom <= 1.3 * max(high - low, 1e-8 * abs(low), 1e-8 * abs(high), 1e-11)


def test_a_sentinel_is_apart_from_the_other_values() -> None:
    def of(values: list[float]) -> set[float]:
        return {*sentinels(profile(FrameSource(pl.DataFrame({"x": values})))["x"])}

    rng = np.random.default_rng(0)
    chol = rng.normal(220, 40, 300).round().tolist()
    assert of([*chol, *[0.0] * 60]) == {0.0}
    assert of([*chol, *[0.0] * 10]) == set()  # fewer than 11
    assert of([*chol, *[-1.0] * 20, *[999.0] * 20]) == {-1.0, 999.0}
    assert of([1.0, 2, 3, 4] * 50 + [9.0] * 30) == {9.0}
    assert of([0.0, 1, 2, 3] * 50) == set()
    assert of(rng.gamma(1, 1, 300).round(1).tolist() + [0.0] * 30) == set()


def test_heart_disease_asks_about_a_cholesterol_of_0() -> None:
    made, found = draft(renamed.heart("va"))
    assert "missing_codes = [0]" in made.text
    assert found.variables["chol"].minimum == 20
    assert found.variables["trestbps"].unit == "mm[Hg]"
    assert found.variables["num"].role == "outcome"
    assert {"ca", "thal"} <= set(made.left_out)  # missing in nearly all of VA


@pytest.mark.parametrize("table", ["ist", "tcga", "eicu"])
def test_drafts_of_real_tables_hold_no_value_of_few(table: str) -> None:
    frame = {"ist": renamed.ist, "tcga": renamed.tcga, "eicu": renamed.eicu}[table]()
    made, found = draft(frame)
    assert len(found.variables) >= 9
    for name, variable in found.variables.items():
        for category in variable.categories:
            column = frame[made.columns[name]].cast(pl.String).str.strip_chars().str.replace(r"^(-?\d+)\.0+$", "$1")
            assert int((column == category).sum()) >= LEAST
    print(f"\n{table}: {len(found.variables)} variables drafted, {len(made.left_out)} columns left out, {len(re.findall('CHECK', made.text))} to decide")


def test_a_csv_file(tmp_path: Path) -> None:
    from locum.data.sources import open_source

    path = tmp_path / "Ward 7.csv"
    ward().write_csv(path, separator=";")
    made = draft_contract(open_source(Spec(), path))
    assert parse(made.text).name == "ward-7"


def test_rows_that_were_counted_for_patients_are_owned_up_to() -> None:
    """Thirty rows of one patient look like thirty patients where no column says whose they are."""
    long = pl.DataFrame({"key": [f"k{i // 30}" for i in range(3000)], "dx": ["the mayor's own" if i < 30 else "common" for i in range(3000)]})
    made, _ = draft(long)
    assert "so that it may be published" not in made.text
    assert "each row counts as a patient" in made.text
    assert "--patient" in made.text
    made, _ = draft(long, patient="key")
    assert "so that it may be published" in made.text
    assert "mayor" not in made.text
