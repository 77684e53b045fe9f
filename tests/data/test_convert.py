"""Cells of every kind to float64."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.data import Column, SourceSpec
from locum.data.convert import as_text, convert
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
