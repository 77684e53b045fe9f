"""Cells of every kind to float64."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.data import Column, SourceSpec
from locum.data.convert import arrays_of, as_text, cells_of, convert, identifiers, texts_of
from locum.errors import DataError, ManifestError
from locum.study import Variable

NAN = float("nan")


def run(cells, variable=None, column=None, source=None):
    series = cells if isinstance(cells, pl.Series) else pl.Series(cells)
    return convert(series, Variable.parse(variable or {}), Column.parse({"column": "x", **(column or {})}), SourceSpec.parse(source or {}))


@pytest.mark.parametrize(
    ("cells", "variable", "column", "source", "expected"),
    [
        (["1", " 2.5 ", "-3e2"], {}, {}, {}, [1, 2.5, -300]),
        (["1", "", None, "NA", "?", "n/a", "NaN", "."], {}, {}, {}, [1] + [NAN] * 7),
        (["1,5", "2", "-0,25"], {}, {}, {"decimal": ","}, [1.5, 2, -0.25]),
        (["1", "-", "?"], {}, {"missing": ["?"]}, {"missing": ["-"]}, [1, NAN, NAN]),
        (["5", "9", "9.0", "99"], {"missing_codes": [9, 99]}, {}, {}, [5, NAN, NAN, NAN]),
        ([5.0, 9.0, NAN, None], {"missing_codes": [9]}, {}, {}, [5, NAN, NAN, NAN]),
        (["0", "5"], {"missing_codes": [0]}, {"unit": "mmol/L", "scale": 18.0, "offset": 1.0}, {}, [NAN, 91]),
        ([98.6], {"unit": "Cel"}, {"unit": "[degF]", "scale": 5 / 9, "offset": -160 / 9}, {}, [37]),
        (pl.Series([1, 2, None], dtype=pl.UInt8), {"type": "integer"}, {}, {}, [1, 2, NAN]),
        (["1", "0", "TRUE", "no", ""], {"type": "boolean"}, {}, {}, [1, 0, 1, 0, NAN]),
        (pl.Series([True, False, None]), {"type": "boolean"}, {}, {}, [1, 0, NAN]),
        (["M", "F", "?"], {"type": "boolean"}, {"values": {"M": 0, "F": 1}}, {}, [0, 1, NAN]),
        ([1.0, 2.0, None], {"type": "boolean"}, {"values": {"1": 0, "2": 1}}, {}, [0, 1, NAN]),
        (["1.0", "2", "0", "9"], {"type": "boolean"}, {"values": {"1": 1, "2": 0}, "missing": [0, 9]}, {}, [1, 0, NAN, NAN]),
        (["0", "1", "9"], {"missing_codes": [0, 9]}, {"values": {"0": 1, "1": 0}}, {}, [1, NAN, NAN]),
        (["NA", "EU", ""], {"type": "category", "categories": ["eu", "am"]}, {"values": {"NA": "am", "EU": "eu"}}, {}, [1, 0, NAN]),
        (["b", "a", None], {"type": "category", "categories": ["a", "b"]}, {}, {}, [1, 0, NAN]),
        ([3.0, 7.0], {"type": "category", "categories": ["3", "6", "7"]}, {}, {}, [0, 2]),
        (["3.0", "7"], {"type": "category", "categories": ["3", "6", "7"]}, {}, {}, [0, 2]),
        (pl.Series(["b"], dtype=pl.Categorical), {"type": "category", "categories": ["a", "b"]}, {}, {}, [1]),
    ],
)
def test_values(cells, variable, column, source, expected):
    values, bad = run(cells, variable, column, source)
    assert bad == 0
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, expected)


@pytest.mark.parametrize(
    ("cells", "variable", "column", "source", "bad"),
    [
        (["1", "abc", "<5", "1,5", ""], {}, {}, {}, 3),
        (["1.234", "1.234,5", "7"], {}, {}, {"decimal": ","}, 2),
        (["1_000", "0x10", "12-1"], {}, {}, {}, 3),
        (["M", "F", "X", ""], {"type": "boolean"}, {"values": {"M": 0, "F": 1}}, {}, 1),
        (["maybe"], {"type": "boolean"}, {}, {}, 1),
        (["a", "A", "z"], {"type": "category", "categories": ["a", "b"]}, {}, {}, 2),
        (["?"], {}, {}, {"missing": [""]}, 1),
    ],
)
def test_cells_that_are_no_value_are_counted(cells, variable, column, source, bad):
    assert run(cells, variable, column, source)[1] == bad


@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)), min_size=1))
def test_numbers_survive_text_exactly(numbers):
    text = pl.Series([None if n is None else repr(n) for n in numbers], dtype=pl.String)
    values, bad = run(text)
    assert bad == 0
    np.testing.assert_array_equal(values, [NAN if n is None else n for n in numbers])
    np.testing.assert_array_equal(values, run(pl.Series(numbers, dtype=pl.Float64))[0])


def test_an_identifier_reads_alike_from_any_type():
    assert as_text(pl.Series([17.0, 2.5, NAN])).to_list() == as_text(pl.Series(["17", "2.5", None])).to_list()
    assert as_text(pl.Series([17])).to_list() == ["17"]


DATE = {"type": "date"}


@pytest.mark.parametrize(
    ("cells", "column", "expected", "bad"),
    [
        (["1970-01-02", "19700103", "1969-12-31", "", None], {}, [1, 2, -1, NAN, NAN], 0),
        (["1970-01-01T12:00:00", "1970-01-02 06:00:00.5", "1970-01-01T23:00:00-02:00", "1970-01-02T00:00:00Z"], {}, [0.5, 1.25 + 0.5 / 86400, 25 / 24, 1], 0),
        (
            ["1970-01-01T12:00Z", "1970-01-02 02:00:00+02", "1970-01-02 02:00:00.5-01:30"],
            {},
            [0.5, 1, 1 + 3.5 / 24 + 0.5 / 86400],
            0,
        ),
        (["31.01.1970", "1970-01-31"], {"format": "%d.%m.%Y"}, [30, NAN], 1),
        (["01/02/70 06:00"], {"format": "%d/%m/%y %H:%M"}, [31.25], 0),
        (["30 Feb 1970", "2", "1970-02-30", "?"], {}, [NAN] * 4, 3),
        ([1, 2], {}, [NAN, NAN], 2),
        (pl.Series(["1970-01-02"]).str.to_date(), {}, [1], 0),
        (pl.Series(["1970-01-02T01:00"]).str.to_datetime().dt.replace_time_zone("Europe/Berlin"), {}, [1], 0),
    ],
)
def test_dates_are_days_since_1970(cells, column, expected, bad):
    values, wrong = run(cells, DATE, column)
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    assert wrong == bad


@pytest.mark.parametrize(
    ("column", "expected", "bad"),
    [
        ({"expression": "weight / power(height / 100, 2)"}, [70 / 1.75**2, NAN, NAN], 1),
        ({"expression": "discharged - admitted", "dates": ["admitted", "discharged"]}, [2, 31, NAN], 0),
        ({"expression": "case when sex = 'M' then 1 else 0 end", "text": ["sex"]}, [1, 0, 0], 0),
        ({"expression": "weight / (height - height)"}, [NAN, NAN, NAN], 2),
        ({"expression": "height", "missing": [180]}, [175, NAN, 160], 0),
    ],
)
def test_expressions_over_columns(column, expected, bad):
    frame = pl.DataFrame(
        {
            "weight": ["70", "", "heavy"],
            "height": ["175", "180", "160"],
            "sex": ["M", "F", ""],
            "admitted": ["2020-01-01", "2020-01-01", "2020-01-01"],
            "discharged": ["2020-01-03", "2020-02-01", ""],
        }
    )
    made = Column.parse(column)
    cells, wrong = cells_of(frame, made, SourceSpec())
    values, more = convert(cells, Variable(), made, SourceSpec())
    np.testing.assert_allclose(values, expected)
    assert wrong + more == bad


def test_expressions_that_have_no_answer():
    with pytest.raises(ManifestError, match="no SQL"):
        Column.parse({"expression": "weight +"})
    with pytest.raises(DataError, match="one value a row"):
        cells_of(pl.DataFrame({"weight": [1.0, 2.0]}), Column.parse({"expression": "sum(weight)"}), SourceSpec())


def test_codes_mean_their_category_and_other_takes_the_rest():
    codes = {"ischaemic": ["http://snomed.info/sct|422504002", "icd10|I63"], "bleed": ["icd10|I61"]}
    variable = {"type": "category", "categories": ["ischaemic", "bleed", "else"], "codes": codes}
    cells = ["422504002", "icd10|I61", "I63", "ischaemic", "", "I10"]
    values, bad = run(cells, variable)
    np.testing.assert_array_equal(values, [0, 1, 0, 0, NAN, NAN])
    assert bad == 1
    values, bad = run(cells, variable | {"other": "else"})
    np.testing.assert_array_equal(values, [0, 1, 0, 0, NAN, 2])
    assert bad == 0


def test_a_code_that_two_categories_share_is_neither():
    variable = {"type": "category", "categories": ["a", "b"], "codes": {"a": ["x|1"], "b": ["y|1"]}}
    values, bad = run(["1", "x|1", "y|1"], variable)
    np.testing.assert_array_equal(values, [NAN, 0, 1])
    assert bad == 1


def test_text_and_arrays():
    column = Column(column="x")
    assert texts_of(pl.Series([" a ", None, "NA", "b"]), column, SourceSpec()).tolist() == ["a", "", "", "b"]
    pixels = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    cells = pl.Series("x", pixels, dtype=pl.Array(pl.Float32, (2, 2)))
    variable = Variable.parse({"type": "array", "shape": [2, 2]})
    np.testing.assert_array_equal(arrays_of(cells, variable, "x"), pixels)
    with pytest.raises(DataError, match=r"shape \[2, 3\], and its column holds arrays of shape \[2, 2\]"):
        arrays_of(cells, Variable.parse({"type": "array", "shape": [2, 3]}), "x")


def test_units_are_converted_with_the_molar_mass():
    values, _ = run([5.0], {"unit": "mg/dL", "molar_mass": 386.65}, {"unit": "mmol/L"})
    np.testing.assert_allclose(values, [5 * 38.665], rtol=1e-9)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["e\u0301", "\u00e9"], ["\u00e9", "\u00e9"]),
        (["7.0", "7", "007", " 7 ", "7.5", "x.0"], ["7", "7", "007", "7", "7.5", "x.0"]),
        (["", " ", "NA", None, "\u00a0"], [None] * 5),
        ([7.0, NAN, 2.0**53, float("inf")], ["7", None, None, None]),
        (pl.Series([16_777_215.0, 16_777_217.0], dtype=pl.Float32), ["16777215", None]),
        ([2**53 + 1], ["9007199254740993"]),
        (pl.Series([2**63 + 1], dtype=pl.UInt64), ["9223372036854775809"]),
    ],
)
def test_an_identifier_has_one_spelling_or_names_nobody(cells, expected):
    series = cells if isinstance(cells, pl.Series) else pl.Series(cells)
    assert identifiers(series, Column.parse("pid"), SourceSpec()).to_list() == expected


@pytest.mark.parametrize(("cell", "form"), [("01.02.20", "%d.%m.%Y"), ("0020-02-01", None), ("-0001-01-01", None), ("12:00", "%H:%M")])
def test_a_year_of_two_digits_is_not_taken_for_antiquity(cell, form):
    values, wrong = run([cell, "2020-02-01" if form is None else ""], {"type": "date"}, {"format": form} if form else {})
    assert np.isnan(values[0])
    assert wrong == 1
