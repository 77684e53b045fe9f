"""Every gate: what it lets pass, warns of, and refuses."""

import datetime
import json

import numpy as np
import polars as pl
import pytest

from locum.data import FrameSource, SiteMapping
from locum.data.gates import GATES, check_source
from locum.data.sources.base import Tally
from locum.errors import DataError, ManifestError
from locum.study import DataSpec


def test_a_good_table_passes_every_gate_in_order(g):
    report = g.report(g.frame(30))
    assert report.result == "PASS"
    assert (report.rows, report.patients, report.events, report.repeated) == (30, 30, 10, 0)
    assert report.source["read"] == report.source["used"] == 30
    order = [GATES.index(f.gate) for f in report.findings]
    assert order == sorted(order)
    assert {f.variable for f in report.findings if f.gate == "completeness"} == set(g.VARIABLES) - {"pid"}
    json.dumps(report.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"age": ["50", "x", "60", "y", "55", "58"]}, ("age", "conformance", 2)),
        ({"age": [50.0, np.inf, 60, 55, 58, 59]}, ("age", "conformance", 1)),
        ({"ecog": [0.5, 1, 2, 3, 4, 0]}, ("ecog", "conformance", 1)),
        ({"female": ["0", "1", "2", "yes", "no", "maybe"]}, ("female", "conformance", 2)),
        ({"stage": ["early", "late", "X", "X", "Y", ""]}, ("stage", "conformance", 3)),
        ({"seen": ["2010-02-30", "01.02.2010", "2010-01-01", "2010-01-01T10:00", None, "2011-01-01"]}, ("seen", "conformance", 2)),
        ({"chol": [0, 0, 0, 0, None, 200]}, ("chol", "completeness", 5)),
        ({"age": [17, 40, 50, 111, 50, 55]}, ("age", "plausibility", 2)),
        ({"seen": ["1999-12-31", "2000-01-01", "2029-12-31", "2030-01-01", None, "2011-01-01"]}, ("seen", "plausibility", 2)),
    ],
)
def test_what_is_refused(g, columns, expected):
    report = g.report(g.frame(6, **columns))
    assert expected in g.found(report)
    finding = g.of(report, *expected[:2])
    assert finding.fix
    with pytest.raises(DataError) as caught:
        report.raise_if_refused()
    assert expected[0] in caught.value.what


def test_cells_that_are_no_value_are_shown_here_and_nowhere_else(g):
    table = g.frame(6, stage=["early", "secret", "late", "secret", "hidden", None])
    report = g.report(table)
    finding = g.of(report, "stage", "conformance")
    assert [(e.record, e.cell) for e in finding.examples] == [(2, "secret"), (4, "secret"), (5, "hidden")]
    assert report.variables["stage"].unknown == {"secret": 2, "hidden": 1}
    with pytest.raises(DataError) as caught:
        report.raise_if_refused()
    outside = [str(caught.value), json.dumps(report.to_json()), repr(report), finding.what + finding.fix]
    assert not any(cell in text for text in outside for cell in ("secret", "hidden"))
    assert "secret" in caught.value.local
    silent = g.report(table, examples=False)
    assert not any(f.examples for f in silent.findings)
    assert not silent.variables["stage"].unknown
    assert g.found(silent) == g.found(report)


def test_codes_for_missing_are_counted(g):
    report = g.report(
        g.frame(6, chol=[0, 0, 210, None, 200, 190], ecog=["9", "", "NA", "1", "2", "9"]), mapping={"columns": {"ecog": {"column": "ecog", "missing": [9]}}}
    )
    assert (report.variables["chol"].missing, report.variables["chol"].recoded) == (3, 2)
    assert (report.variables["ecog"].missing, report.variables["ecog"].recoded) == (4, 2)


def test_cholesterol_in_another_unit_is_caught_and_the_unit_is_named(g):
    rng = np.random.default_rng(0)
    mmol = rng.normal(5.2, 0.8, 200).round(2)
    report = g.report(g.frame(200, chol=mmol))
    finding = g.of(report, "chol", "plausibility")
    assert finding.result == "REFUSE"
    assert finding.count == 200
    assert 'unit = "mmol/L"' in finding.fix
    mapped = g.report(g.frame(200, chol=mmol), mapping={"columns": {"chol": {"column": "chol", "unit": "mmol/L"}}})
    assert g.of(mapped, "chol", "plausibility").result == "PASS"
    plausible_only = DataSpec.parse({"variables": {"chol": {"unit": "mg/dL", "plausible": [90, 420], "molar_mass": 386.65}}})
    finding = g.of(g.report(pl.DataFrame({"chol": mmol}), plausible_only), "chol", "plausibility")
    assert (finding.result, finding.count) == ("REFUSE", 200)
    assert "mmol/L" in finding.fix


@pytest.mark.parametrize(("strange", "result"), [(5, "PASS"), (6, "WARN"), (50, "WARN"), (51, "REFUSE")])
def test_the_share_outside_the_plausible_range(g, strange, result):
    report = g.report(g.frame(100, age=([100.0] * strange + [50.0, 60.0] * 50)[:100]))
    finding = g.of(report, "age", "plausibility")
    assert (finding.result, finding.count) == (result, strange)


def test_one_value_far_outside_is_taken_for_a_code(g):
    report = g.report(g.frame(40, age=[999.0] * 3 + [50.0, 60.0] * 18 + [150.0]))
    fix = g.of(report, "age", "plausibility").fix
    assert "3 of them are one and the same value" in fix
    assert "999" not in fix


def test_variation():
    spec = DataSpec.parse({"variables": {n: {"min_varying": 0.1, **v} for n, v in {"x": {}, "b": {"type": "boolean"}, "d": {"min_varying": 0}}.items()}})
    table = pl.DataFrame({"x": [1.5] * 95 + [2.0] * 5, "b": [True] * 90 + [False] * 10, "d": [3] * 100})
    report = check_source(spec, FrameSource(table))
    assert [(f.variable, f.gate) for f in report.of("REFUSE")] == [("x", "variation")]
    assert [(f.variable, f.gate) for f in report.of("WARN")] == [("d", "variation")]


def test_the_cohort_its_patients_and_its_events(g):
    data = {"variables": g.VARIABLES, "cohort": {"include": {"age": {"at_least": 50}, "stage": {"among": ["late"]}}, "min_patients": 3, "min_events": 2}}
    table = g.frame(6, age=[40.0, 50, 60, 70, None, 90], stage=["late", "late", "early", "late", "late", "late"], died=[1, 1, 1, 1, 1, 0])
    report = g.report(table, DataSpec.parse(data))
    assert (report.rows, report.patients, report.events) == (3, 3, 2)
    assert sum(report.cohort.values()) == 3
    assert report.cohort["'age' is missing"] == 1
    assert [f.result for f in report.findings if f.gate == "rows"] == ["PASS"]
    short = {**data, "cohort": {**data["cohort"], "min_patients": 4, "min_events": 3}}
    refused = [f for f in g.report(table, DataSpec.parse(short)).of("REFUSE") if f.gate == "rows"]
    assert [("patients" in f.what, "events" in f.what) for f in refused] == [(True, False), (False, True)]
    assert g.found(g.report(table, min_patients=7)) == [("", "rows", 6)]


def test_values_outside_the_cohort_are_not_judged_but_what_is_no_value_is(g):
    data = DataSpec.parse({"variables": g.VARIABLES, "cohort": {"include": {"stage": {"among": ["late"]}}}})
    outside = g.report(g.frame(4, stage=["early", "late", "late", "late"], age=[500.0, 50, 60, 70]), data)
    assert not outside.of("REFUSE")
    text = g.report(g.frame(4, stage=["early", "late", "late", "late"], age=["?!", "50", "60", "70"]), data)
    assert g.found(text) == [("age", "conformance", 1)]


def test_a_patient_in_both_parts_is_refused(g):
    spec = DataSpec.parse({"variables": {"pid": {"role": "patient"}, "x": {}, "test": {"type": "boolean", "role": "split"}}})
    good = pl.DataFrame({"pid": ["a", "a", "b", "c"], "x": [1.0, 2, 3, 4], "test": [1, 1, 0, 0]})
    assert g.of(g.report(good, spec), "", "split").result == "PASS"
    leak = good.with_columns(test=pl.Series([1, 0, 0, 1]))
    assert ("", "split", 1) in g.found(g.report(leak, spec))
    assert ("", "split", 1) in g.found(g.report(good.with_columns(test=pl.Series([1, 1, 0, None])), spec))


def test_rows_of_one_patient_and_copies(g):
    report = g.report(pl.concat([g.frame(5), g.frame(2)]))
    assert (report.rows, report.patients, report.repeated, report.most_rows) == (7, 5, 2, 2)
    assert [(f.result, f.count) for f in report.findings if f.gate == "rows"] == [("PASS", 7), ("WARN", 2)]


def test_columns_that_are_not_there_or_hold_something_else(g):
    table = g.frame(3).drop("stage").with_columns(ecog=pl.Series([[1], [2], [3]]), age=pl.Series([datetime.date(2020, 1, i + 1) for i in range(3)]))
    report = g.report(table)
    assert {(f.variable, f.gate) for f in report.of("REFUSE")} == {("stage", "conformance"), ("ecog", "conformance"), ("age", "conformance")}
    assert "expression" in g.of(report, "age", "conformance").fix
    with pytest.raises(ManifestError):
        g.report(g.frame(3), mapping={"columns": {"age": {"column": "age", "unit": "kg"}}})


def test_an_expression_that_cannot_be_computed_is_a_finding(g):
    report = g.report(g.frame(3), mapping={"columns": {"age": {"expression": "age + stage", "text": ["stage"]}}})
    assert g.of(report, "age", "conformance").result == "REFUSE"


@pytest.mark.parametrize(("accept", "result"), [(0.0, "REFUSE"), (0.2, "REFUSE"), (0.25, "WARN")])
def test_records_that_the_source_refused(g, accept, result):
    class Torn(FrameSource):
        def chunks(self, names, size=10):
            yield from super().chunks(names, size)
            self.tally = Tally(read=8, used=6, refused=type(self.tally.refused)({"records are cut off": 2}))

    report = check_source(g.SPEC, Torn(g.frame(6)), SiteMapping.parse({"source": {"accept_refused": accept}}))
    finding = g.of(report, "", "source")
    assert (finding.result, finding.count) == (result, 2)
    assert "2 of 8 records cannot be used: records are cut off (2)" in finding.what


def test_a_source_that_loses_records_is_refused(g):
    class Leaky(FrameSource):
        def chunks(self, names, size=10):
            yield from super().chunks(names, size)
            self.tally = Tally(read=8, used=6)

    assert g.of(check_source(g.SPEC, Leaky(g.frame(6))), "", "source").result == "REFUSE"


def test_an_empty_table(g):
    report = g.report(g.frame(0, **{n: pl.Series([], dtype=pl.String) for n in g.VARIABLES}))
    assert ("", "rows", 0) in g.found(report)
    assert report.to_json()["rows"] == 0


def test_heart_disease_says_what_each_hospital_lacks(g, tmp_path):
    data, mapping, files = g.heart(tmp_path)
    from locum.data import open_source

    reports = {site: check_source(data, open_source(mapping.source, path), mapping) for site, path in files.items()}
    assert reports["cleveland"].result == "PASS"
    swiss = reports["switzerland"]
    assert (swiss.variables["chol"].missing, swiss.variables["chol"].recoded, swiss.rows) == (123, 123, 123)
    assert {"chol", "fbs", "ca"} <= {f.variable for f in swiss.of("REFUSE") if f.gate == "completeness"}
    assert "123 of them held a code" in g.of(swiss, "chol", "completeness").what
    va = reports["va"]
    assert va.variables["chol"].recoded == 49
    assert {"ca", "thal"} <= {f.variable for f in va.of("REFUSE")}
    assert {"ca", "thal"} <= {f.variable for f in reports["hungarian"].of("REFUSE")}
    undeclared = data.model_copy(update={"variables": {**data.variables, "chol": data.variables["chol"].model_copy(update={"missing_codes": ()})}})
    zero = check_source(undeclared, open_source(mapping.source, files["va"]), mapping)
    finding = g.of(zero, "chol", "plausibility")
    assert (finding.result, finding.count) == ("REFUSE", 49)
    assert "one and the same value" in finding.fix


def test_two_variables_from_one_column_are_doubted():
    data = DataSpec.parse({"variables": {"a": {}, "b": {}, "c": {}}})
    mapping = SiteMapping.parse({"columns": {"a": "x", "b": "x", "c": {"column": "x", "scale": 2.0}}})
    report = check_source(data, FrameSource(pl.DataFrame({"x": [1.0, 2.0]})), mapping)
    assert [(f.variable, f.gate, f.what) for f in report.of("WARN")] == [("b", "conformance", "'b' and 'a' are mapped to the same column in the same way")]
