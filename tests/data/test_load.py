"""From a file to rows, and the gates."""

import json

import numpy as np
import polars as pl
import pytest

from locum.data import FrameSource, Rows, check, load_rows, to_rows
from locum.errors import DataError, ManifestError
from locum.study import DataSpec, Study

VARIABLES = {
    "pid": {"role": "patient"},
    "age": {"unit": "a", "minimum": 18, "maximum": 110},
    "chol": {"unit": "mg/dL", "minimum": 50, "maximum": 700, "missing_codes": [0], "max_missing": 0.5},
    "female": {"type": "boolean"},
    "ecog": {"type": "integer"},
    "stage": {"type": "category", "categories": ["early", "late"]},
}
SPEC = DataSpec.parse({"variables": VARIABLES})
STUDY = Study.parse({"name": "s", "data": {"variables": VARIABLES}, "plan": [{"name": "n", "task": "count"}]})
GOOD = "pid,age,chol,female,ecog,stage\n01,50,200,1,0,early\n01,51,210,1,1,late\n02,60,0,0,2,\n"
MAPPING = """
[source]
path = "t.csv"
decimal = ","
[columns]
pid = "Patient"
chol = { column = "Chol", unit = "mmol/L", scale = 38.67 }
female = { column = "Sex", values = { "m" = 0, "w" = 1 } }
"""


def rows_of(**columns):
    return to_rows(
        SPEC,
        FrameSource(
            pl.DataFrame({"pid": ["a", "b"], "age": [50, 60], "chol": [200, 210], "female": [0, 1], "ecog": [0, 1], "stage": ["early", "late"]} | columns)
        ),
    )


def findings(report, result):
    return [(f.variable, f.gate, f.count) for f in report.of(result)]


def test_rows_from_a_file_without_a_mapping(tmp_path):
    (tmp_path / "t.csv").write_text(GOOD)
    rows = load_rows(STUDY, None, tmp_path / "t.csv")
    assert rows.patient.tolist() == ["01", "01", "02"]
    assert rows.patients == 2
    assert set(rows.columns) == {"age", "chol", "female", "ecog", "stage"}
    np.testing.assert_array_equal(rows.matrix(["age", "chol", "female", "ecog", "stage"]), [[50, 200, 1, 0, 0], [51, 210, 1, 1, 1], [60, np.nan, 0, 2, np.nan]])


def test_rows_through_a_mapping(tmp_path):
    (tmp_path / "t.csv").write_text("Patient;age;Chol;Sex;ecog;stage\n7;50,5;5,0;w;1;late\n8;61;0;m;0;early\n", encoding="utf-8-sig")
    (tmp_path / "m.toml").write_text(MAPPING)
    rows = load_rows(STUDY, tmp_path / "m.toml")
    np.testing.assert_allclose(rows.columns["chol"], [5 * 38.67, np.nan])
    np.testing.assert_allclose(rows.columns["age"], [50.5, 61])
    np.testing.assert_array_equal(rows.columns["female"], [1, 0])
    (tmp_path / "other.csv").write_text("Patient;age;Chol;Sex;ecog;stage\n9;40;4,1;m;1;late\n")
    assert load_rows(STUDY, tmp_path / "m.toml", tmp_path / "other.csv").patient.tolist() == ["9"]


def test_without_a_patient_variable_every_row_is_a_patient():
    rows = to_rows(DataSpec.parse({"variables": {"x": {}}}), FrameSource(pl.DataFrame({"x": [1.0, 2.0]})))
    assert rows.patients == 2


def test_a_file_and_parquet_give_the_same_patients(tmp_path):
    (tmp_path / "t.csv").write_text("pid,x\n17,1\n3,2\n")
    pl.DataFrame({"pid": [17.0, 3.0], "x": [1, 2]}).write_parquet(tmp_path / "t.parquet")
    study = STUDY.model_copy(update={"data": DataSpec.parse({"variables": {"pid": {"role": "patient"}, "x": {}}})})
    assert load_rows(study, None, tmp_path / "t.csv").patient.tolist() == load_rows(study, None, tmp_path / "t.parquet").patient.tolist()


def test_text_in_a_number_names_column_and_count_but_no_value(tmp_path):
    (tmp_path / "t.csv").write_text("pid,age,chol,female,ecog,stage\n1,secret,200,1,0,early\n2,50,hidden,1,0,final\n")
    with pytest.raises(DataError) as caught:
        load_rows(STUDY, None, tmp_path / "t.csv")
    message = str(caught.value)
    assert "1 of 2 cells in the column 'age' (age) is not a number" in message
    assert "'chol'" in message
    assert "'stage'" in message
    assert "values = { ... }" in caught.value.fix
    assert not any(cell in message for cell in ("secret", "hidden", "final"))


@pytest.mark.parametrize("table", ["pid,age,chol,female,ecog,stage\n", "pid,age,chol,female,ecog,stage\n\n\n"])
def test_no_rows(tmp_path, table):
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(DataError, match="has no rows"):
        load_rows(STUDY, None, tmp_path / "t.csv")


def test_a_row_without_a_patient(tmp_path):
    (tmp_path / "t.csv").write_text(GOOD + ",70,200,1,0,late\nNA,70,200,1,0,late\n")
    with pytest.raises(DataError, match="2 of 5 rows have no patient identifier"):
        load_rows(STUDY, None, tmp_path / "t.csv")


def test_two_patient_variables():
    with pytest.raises(ManifestError, match="both have the role of patient"):
        DataSpec.parse({"variables": {"a": {"role": "patient"}, "b": {"role": "patient"}}})


def test_dates_are_not_guessed():
    with pytest.raises(DataError, match="holds dates, and 'age' is a number"):
        rows_of(age=pl.Series(["2020-01-01", "2020-01-02"]).str.to_date())


def test_good_rows_pass():
    report = check(SPEC, rows_of())
    assert report.result == "PASS"
    assert (report.rows, report.patients) == (2, 2)
    report.raise_if_refused()


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"age": [50, 500]}, ("age", "plausibility", 1)),
        ({"age": [-9, 999]}, ("age", "plausibility", 2)),
        ({"age": ["inf", "60"]}, ("age", "conformance", 1)),
        ({"female": [0.5, 1]}, ("female", "conformance", 1)),
        ({"female": [2, 1]}, ("female", "conformance", 1)),
        ({"ecog": [0.5, 1]}, ("ecog", "conformance", 1)),
        ({"chol": [0, 0]}, ("chol", "completeness", 2)),
        ({"chol": ["", "NA"]}, ("chol", "completeness", 2)),
    ],
)
def test_what_is_refused(columns, expected):
    report = check(SPEC, rows_of(**columns))
    assert expected in findings(report, "REFUSE")
    assert report.result == "REFUSE"
    with pytest.raises(DataError) as caught:
        report.raise_if_refused()
    assert expected[0] in caught.value.what
    assert caught.value.fix
    assert "999" not in str(caught.value)


def test_the_limits_themselves_are_inside():
    assert check(SPEC, rows_of(age=[18, 110], chol=[50, 700])).result == "PASS"


def test_constant_and_empty_columns_warn():
    report = check(SPEC, rows_of(ecog=[1, 1], stage=["", ""]))
    assert findings(report, "WARN") == [("stage", "completeness", 2), ("ecog", "variation", 2)]
    assert report.result == "WARN"
    report.raise_if_refused()


def test_patients_count_not_rows():
    rows = rows_of(pid=["a", "a"])
    assert check(SPEC, rows, min_patients=1).result == "PASS"
    assert findings(check(SPEC, rows, min_patients=2), "REFUSE") == [("", "rows", 2)]


def test_rows_that_were_made_elsewhere_are_judged_too():
    report = check(SPEC, Rows.of({"age": [20.0], "stage": [7.0]}))
    assert {f.variable for f in report.of("REFUSE")} == {"chol", "female", "ecog", "stage"}


def test_the_report_is_plain_json_with_every_variable():
    report = check(SPEC, rows_of(age=[1, 50]))
    plain = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert plain["result"] == "REFUSE"
    assert {f["variable"] for f in plain["findings"]} == {"", "age", "chol", "female", "ecog", "stage"}
    assert {f["gate"] for f in plain["findings"]} == {"rows", "conformance", "completeness", "plausibility", "variation"}
