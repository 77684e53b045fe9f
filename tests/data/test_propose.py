"""Proposed mappings: the share that is right on renamed tables of public data sets, and that nothing is guessed which must be asked."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import numpy as np
import polars as pl
import pytest

from locum.data import codings
from locum.data.catalog import CATALOG
from locum.data.load import to_rows
from locum.data.mapping import SiteMapping
from locum.data.names import meant, split_unit, words
from locum.data.propose import Proposal, Proposed, propose_mapping
from locum.data.sources.base import FrameSource
from locum.data.sources.table import Spec
from locum.study.contract import DataSpec
from tests.data import renamed

HEART = CATALOG["heart_disease"].data


def propose(data: DataSpec, table: pl.DataFrame) -> Proposed:
    return propose_mapping(data, FrameSource(table, name="table.csv"), Spec())


def one(variable: dict[str, Any], column: str, cells: list[Any], name: str = "x") -> Proposal:
    data = DataSpec.parse({"variables": {name: variable}})
    found = propose(data, pl.DataFrame({column: cells, "unrelated": ["a"] * len(cells)}, strict=False))
    tomllib.loads(found.to_toml())
    return found.proposals[0]


def right(found: Proposed, truth: dict[str, str], what: str) -> float:
    hits = [p.variable for p in found.proposals if truth.get(p.variable) == p.column]
    wrong = [f"{p.variable} <- {p.column}" for p in found.proposals if p.variable in truth and p.column not in (None, truth[p.variable])]
    print(f"\n{what}: {len(hits)} of {len(truth)} right, {len(wrong)} wrong {wrong}, {len(truth) - len(hits) - len(wrong)} left to fill in")
    sure = [p for p in found.proposals if p.sure == "sure" and p.variable in truth]
    assert all(p.column == truth[p.variable] for p in sure)  # whoever only looks at the doubtful ones is not led astray
    return len(hits) / len(truth)


@pytest.mark.parametrize("language", renamed.HEART_NAMES)
def test_heart_disease_under_other_names(language: str) -> None:
    found = propose(HEART, renamed.heart("cleveland", language))
    assert right(found, renamed.HEART_NAMES[language], f"heart disease, {language}") >= 0.85
    assert tomllib.loads(found.to_toml())["columns"].keys() == {p.variable for p in found.proposals if p.sure == "sure"}
    uncommented = re.sub(r"^# (\w+ = )(?!.*\.\.\.)", r"\1", found.to_toml(), flags=re.MULTILINE)
    assert tomllib.loads(uncommented)["columns"].keys() == found.mapping.columns.keys()


def test_a_german_table_in_mmol_gives_the_same_numbers_as_the_original() -> None:
    original, table = renamed.heart("cleveland"), renamed.heart("cleveland", "de")
    data = HEART.model_copy(update={"variables": {n: v for n, v in HEART.variables.items() if n != "num"}})
    found = propose(data, table)
    assert found.mapping.columns["chol"].unit in ("mmol/L", "mmol/l")
    mine, theirs = to_rows(data, FrameSource(table), found.mapping), to_rows(data, FrameSource(original))
    np.testing.assert_allclose(mine.columns["chol"], theirs.columns["chol"], atol=0.2)
    for name in ("age", "sex", "exang", "cp", "trestbps", "oldpeak"):
        np.testing.assert_array_equal(mine.columns[name], theirs.columns[name])


def test_ist_under_other_names() -> None:
    """Its outcomes keep the trial's own terse names (DRSISC, OCCODE); several are found nowhere but in its code book."""
    data, mapping = CATALOG["ist"].data, CATALOG["ist"].mapping
    truth = {v: renamed.IST.get(v) or (mapping.columns[v].column if v in mapping.columns else v) or "" for v in data.variables}
    found = propose(data, renamed.ist())
    assert right(found, truth, "IST") >= 0.75
    assert right(found, renamed.IST, "IST, the renamed columns") >= 0.9


def test_tcga_under_other_names() -> None:
    data, mapping = CATALOG["tcga_brca"].data, CATALOG["tcga_brca"].mapping
    truth = {v: renamed.TCGA.get(v) or (mapping.columns[v].column if v in mapping.columns else v) or "" for v in data.variables}
    truth = {v: c for v, c in truth.items() if v != "test"}  # its split is in another file
    assert right(propose(data, renamed.tcga()), truth, "TCGA-BRCA") >= 0.95


def test_eicu_under_its_own_names() -> None:
    found = propose(DataSpec.parse({"variables": renamed.EICU_CONTRACT}), renamed.eicu())
    assert right(found, renamed.EICU, "eICU") >= 0.85
    assert found.mapping.columns["female"].values == {"Female": "1", "Male": "0"}
    assert found.mapping.columns["death"].values == {"Alive": "0", "Expired": "1"}


NUMBER = {"unit": "mg/dL", "molar_mass": 386.65, "plausible": [80, 500], "minimum": 30, "maximum": 1500, "label": "total cholesterol"}


def test_the_unit_is_the_name_s_or_the_one_that_fits_the_values() -> None:
    mmol = [4.2, 5.1, 6.0, 5.5] * 20
    assert (one(NUMBER, "chol_mmol_l", mmol).entry or {})["unit"] == "mmol/L"
    guessed = one(NUMBER, "chol", mmol)
    assert (guessed.entry or {})["unit"] == "mmol/L"
    assert guessed.sure != "sure"
    assert "mmol/L" in guessed.ask[0]
    assert one(NUMBER, "chol", [180.0, 220, 250] * 20).entry == {"column": "chol"}
    wrong = one(NUMBER, "chol_mg_dl", mmol)
    assert "implausible" in " ".join(wrong.ask)


def test_the_pressure_is_not_taken_for_the_height() -> None:
    pressure = {"unit": "mm[Hg]", "minimum": 40, "maximum": 300, "label": "systolic blood pressure"}
    table = {"Größe": [170.0, 181, 165] * 30, "RR_syst": [120.0, 135, 150] * 30}
    found = propose(DataSpec.parse({"variables": {"sbp": pressure}}), pl.DataFrame(table))
    assert found.proposals[0].column == "RR_syst"
    alone = propose(DataSpec.parse({"variables": {"sbp": pressure}}), pl.DataFrame(table).drop("RR_syst"))
    assert alone.proposals[0].column is None


def test_all_means_all_and_nearly_all_is_not_all() -> None:
    age = {"unit": "a", "minimum": 0, "maximum": 120}
    assert "all of its values" in one(age, "age", [5.0, *[50.0] * 299], "age").reasons[1]  # a child is unusual, and allowed
    assert "99.67 % of its values" in one(age, "age", [150.0, *[50.0] * 299], "age").reasons[1]


def test_codes_1_and_2_are_asked_and_not_guessed() -> None:
    found = one({"type": "boolean", "label": "female sex"}, "sex", ["1", "2"] * 40, "female")
    assert found.column == "sex"
    assert found.entry is None
    assert '"1", "2"' in found.ask[0]
    zero = one({"type": "boolean", "label": "female sex"}, "sex", ["0", "1"] * 40, "female")
    assert zero.entry is None  # which sex is 1?
    assert one({"type": "boolean", "label": "female sex"}, "female", ["0", "1"] * 40, "female").entry == {"column": "female"}
    opposite = one({"type": "boolean", "label": "female sex"}, "male", ["0", "1"] * 40, "female")
    assert (opposite.entry or {})["values"] == {"0": 1, "1": 0}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["J", "N"], {"J": 1, "N": 0}), (["ja", "nein"], {"ja": 1, "nein": 0}), (["oui", "non"], {"oui": 1, "non": 0}), (["Sí", "No"], {"Sí": 1, "No": 0}),
        (["yes", "no"], {}), (["0", "1"], {}), (["True", "False"], {}), (["1", "2"], None), (["A", "B"], None), (["M", "F"], None),
        (["pos", "neg"], {"pos": 1, "neg": 0}),
    ],
)  # fmt: skip
def test_yes_and_no_in_four_languages(values: list[str], expected: dict[str, int] | None) -> None:
    assert codings.booleans(values, {}) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["M", "F"], {"M": 0, "F": 1}), (["m", "w"], {"m": 0, "w": 1}), (["H", "M"], {"H": 0, "M": 1}), (["H", "F"], {"H": 0, "F": 1}),
        (["männlich", "weiblich"], {"männlich": 0, "weiblich": 1}), (["hombre", "mujer"], {"hombre": 0, "mujer": 1}), (["1", "2"], None),
    ],
)  # fmt: skip
def test_the_sexes_in_four_languages(values: list[str], expected: dict[str, int] | None) -> None:
    assert codings.booleans(values, {"female": 1.0}) == expected


def test_categories_are_matched_by_spelling_meaning_and_code() -> None:
    assert codings.categories(["f", "m"], ["female", "male"], {}) == ({"f": "female", "m": "male"}, [])
    assert codings.categories(["A", "b", "c"], ["a", "B"], {}) == ({"A": "a", "b": "B"}, ["c"])
    assert codings.categories(["J", "N", "K"], ["Y", "N", "C"], {}) == ({"J": "Y", "N": "N"}, ["K"])
    assert codings.categories(["I21", "x|I22"], ["mi", "re"], {"mi": ("icd|I21",), "re": ("x|I22",)}) == ({}, [])
    assert codings.categories(["1", "2"], ["male", "female"], {}) == ({}, ["1", "2"])


def test_a_code_outside_of_the_possible_range_is_missing_and_one_inside_is_asked() -> None:
    rng = np.random.default_rng(0)
    cells = [*rng.normal(220, 30, 200).round().tolist(), *[-9.0] * 20]
    outside = one(NUMBER, "chol", cells)
    assert (outside.entry or {})["missing"] == [-9]
    inside = one({**NUMBER, "minimum": 0}, "chol", [*rng.normal(220, 30, 200).round().tolist(), *[0.0] * 20])
    assert "missing" not in (inside.entry or {})
    assert "missing = [0]" in inside.ask[0]


def test_dates_say_how_they_are_written() -> None:
    day = {"type": "date", "label": "admission date"}
    assert one(day, "admission_date", ["2020-01-31"] * 30).entry == {"column": "admission_date"}
    assert one(day, "admission_date", ["31.01.2020"] * 30).entry == {"column": "admission_date", "format": "%d.%m.%Y"}
    either = one(day, "admission_date", ["03/04/2020"] * 30)
    assert "which is the day" in either.ask[0]
    assert one(day, "admission_date", ["hello"] * 30).entry is None


def test_a_loinc_code_in_the_name_is_enough() -> None:
    found = one({**NUMBER, "code": "http://loinc.org|2093-3"}, "LAB_2093-3_VAL", [180.0, 220.0] * 30)
    assert found.column == "LAB_2093-3_VAL"
    assert found.sure == "sure"


def test_nothing_is_proposed_where_nothing_fits() -> None:
    table = pl.DataFrame({"zzz": ["a", "b"] * 30, "qqq": [1.5, 2.5] * 30})
    found = propose(HEART, table)
    assert all(p.column is None and p.sure == "none" for p in found.proposals)
    assert found.mapping.columns == {}
    assert "# chol = " in found.to_toml()
    assert "not needed: zzz, qqq" in found.to_toml()


def test_an_empty_table_and_hostile_names_are_no_error() -> None:
    assert propose(HEART, pl.DataFrame({"age": []}, schema={"age": pl.String})).rows == 0
    assert propose(HEART, pl.DataFrame()).mapping.columns == {}
    hostile = pl.DataFrame({'age"]\n[x]': ["50", "60"] * 20, "\x00chol\u2028": ["220", "200"] * 20, "trestbps\x7f": ["120"] * 40, "x" * 5000: ["1"] * 40})
    read_back = SiteMapping.parse(tomllib.loads(propose(HEART, hostile).to_toml()))
    assert read_back.columns["chol"].column == "\x00chol\u2028"
    assert read_back.columns["trestbps"].column == "trestbps\x7f"


@pytest.mark.parametrize(
    ("name", "plain", "unit"),
    [
        ("chol_mgdl", ("chol",), "mg/dL"), ("weight (kg)", ("weight",), "kg"), ("Größe [cm]", ("groesse",), "cm"), ("SBP (mmHg)", ("sbp",), "mm[Hg]"),
        ("glucose_mmol_l", ("glucose",), "mmol/L"), ("survival_days", ("survival",), "d"), ("heartRate", ("heart", "rate"), None), ("", (), None),
        ("temp (°C)", ("temp",), "Cel"), ("wbc_10e9_l", ("wbc",), "10*9/L"), ("kg", ("kg",), None), ("minimum", ("minimum",), None),
    ],
)  # fmt: skip
def test_what_a_name_says(name: str, plain: tuple[str, ...], unit: str | None) -> None:
    assert split_unit(name) == (plain, unit)
    assert words(name)[: len(plain)] == plain


def test_names_of_clinical_laboratories() -> None:
    """eICU's own names of its laboratory results, whose meaning was written down by hand."""
    table = pl.read_csv(renamed.folder("eicu_demo_subset") / "lab.csv.gz", infer_schema=False)
    known = {
        "BUN": "bun", "Hgb": "haemoglobin", "WBC x 1000": "wbc", "platelets x 1000": "platelets", "ALT (SGPT)": "alt", "AST (SGOT)": "ast", "PT - INR": "inr",
        "alkaline phos.": "alp", "total bilirubin": "bilirubin", "bedside glucose": "glucose", "troponin - I": "troponin_i", "-lymphs": "lymphocytes",
        "creatinine": "creatinine", "sodium": "sodium", "Hct": "haematocrit", "HCO3": "bicarbonate", "PTT": "aptt", "O2 Sat (%)": "spo2", "paO2": "pao2",
    }  # fmt: skip
    assert set(known) <= set(table["labname"])
    assert {n: max(meant(n), key=meant(n).__getitem__, default=None) for n in known} == known


def test_units_of_clinical_laboratories() -> None:
    """eICU's own spellings: those that are understood cover nearly all results, and are units of UCUM."""
    from locum.data.spellings import spelled
    from locum.data.units import valid

    table = pl.read_csv(renamed.folder("eicu_demo_subset") / "lab.csv.gz", infer_schema=False)
    named = table.select(pl.coalesce("labmeasurenameinterface", "labmeasurenamesystem").alias("unit")).drop_nulls()["unit"]
    read = {u: spelled(u, valid) for u in named.unique()}
    share = sum(bool(read[u]) for u in named) / len(named)
    print(f"\neICU: {sum(map(bool, read.values()))} of {len(read)} spellings of units, {share:.1%} of {len(named):,} results")
    assert share > 0.97
    assert all(valid(u) for u in read.values() if u)
    assert read["K/uL"] == read["K/mcL"] == read["th/uL"] == "10*3/uL"
