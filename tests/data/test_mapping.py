"""Mapping files: what they say, and what is said of a wrong one."""

import pytest

from locum.data import Column, SiteMapping
from locum.errors import DataError, ManifestError
from locum.study import DataSpec

SPEC = DataSpec.parse(
    {
        "variables": {
            "glucose": {"unit": "mg/dL"},
            "female": {"type": "boolean"},
            "stage": {"type": "category", "categories": ["early", "late"]},
        }
    }
)
HAVE = ["gluc", "sex", "stage", "age"]


def load(tmp_path, text):
    (tmp_path / "mapping.toml").write_text(text, encoding="utf-8")
    return SiteMapping.load(tmp_path / "mapping.toml")


def test_a_mapping_file(tmp_path):
    mapping = load(
        tmp_path,
        """
        [source]
        type = "csv"
        path = "export/patients.csv"
        separator = ";"
        decimal = ","
        [columns]
        glucose = { column = "gluc", unit = "mmol/L", scale = 18.016 }
        female = { column = "sex", values = { "M" = 0, "F" = true }, missing = [9, 9.5, "x"] }
        """,
    )
    assert mapping.source.path == str(tmp_path / "export/patients.csv")
    assert mapping.columns["female"].values == {"M": "0", "F": "1"}
    assert mapping.columns["female"].missing == ("9", "9.5", "x")
    found = mapping.resolve(SPEC, HAVE)
    assert {n: c.column for n, c in found.items()} == {"glucose": "gluc", "female": "sex", "stage": "stage"}


def test_an_absolute_path_stays(tmp_path):
    assert load(tmp_path, f'[source]\npath = "{tmp_path / "a.csv"}"').source.path == str(tmp_path / "a.csv")


def test_a_string_is_a_column():
    assert SiteMapping.parse({"columns": {"age": "AGE"}}) == SiteMapping.parse({"columns": {"age": {"column": "AGE"}}})


def test_what_is_written_reads_back(tmp_path):
    mapping = SiteMapping.parse(
        {
            "source": {"type": "csv", "missing": ["", "-"]},
            "columns": {"a": 'a "b", c.d\\', "b": {"column": "ß", "values": {"1 x": 0, "ü": "y"}, "scale": 0.5, "offset": -1.0, "missing": ["9"]}},
        }
    )
    assert load(tmp_path, mapping.to_toml()) == mapping


@pytest.mark.parametrize(
    ("text", "says", "fix"),
    [
        ("[sorce]\n", "unknown key 'sorce'", "'source'"),
        ("[source]\nseperator = ';'", "[source]: unknown key 'seperator'", "'separator'"),
        ("[columns]\nage = { colum = 'AGE' }", "unknown key 'columns.age.colum'", "'column'"),
        ("[columns]\nage = { unit = 'a' }", "'columns.age': give a column or an expression", ""),
        ("[columns]\nage = 3", "columns.age", ""),
        ("[columns]\nage = { column = 'AGE', scale = 0 }", "scale is a factor other than 0", ""),
        ("[columns]\n'not a name' = 'AGE'", "not a name", ""),
        ("[source]\nseparator = ';;'", "separator", ""),
        ("[source]\ndecimal = ';'", "decimal", ""),
        ("[columns\n", "not valid TOML", ""),
    ],
)
def test_bad_mapping_files(tmp_path, text, says, fix):
    with pytest.raises(ManifestError) as caught:
        load(tmp_path, text)
    assert says in caught.value.what
    assert fix in caught.value.fix


def test_a_missing_mapping_file(tmp_path):
    with pytest.raises(ManifestError, match="There is no file"):
        SiteMapping.load(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("columns", "error", "says", "fix"),
    [
        ({"glucose": "glc"}, DataError, "the column 'glc'", "'gluc'"),
        ({"glucos": "gluc"}, DataError, "needs 'glucose'", "'glucos'"),
        ({"glucose": {"column": "gluc", "unit": "mmol/L"}}, ManifestError, "in mmol/L here, and the study needs mg/dL", "molar_mass"),
        ({"glucose": "gluc", "female": {"column": "sex", "values": {"F": "yes"}}}, ManifestError, "lead to 'yes'", "values ="),
        (
            {"glucose": "gluc", "female": "sex", "stage": {"column": "stage", "values": {"1": "erly"}}},
            ManifestError,
            "no category of the study",
            "'early'",
        ),
    ],
)
def test_a_mapping_that_does_not_fit(columns, error, says, fix):
    with pytest.raises(error) as caught:
        SiteMapping.parse({"columns": columns}).resolve(SPEC, HAVE)
    assert says in caught.value.what
    assert fix in caught.value.fix


@pytest.mark.parametrize("column", [{"unit": "mg/dL"}, {"unit": "mmol/L", "scale": 18.016}, {}])
def test_units_that_agree_or_are_converted(column):
    Column.parse({"column": "gluc", **column}).check("glucose", SPEC.variables["glucose"])


@pytest.mark.parametrize("kind", [[], {}, 1, True, ["csv"]])
def test_a_kind_of_source_that_is_no_text(kind):
    with pytest.raises(ManifestError, match="no kind of source"):
        SiteMapping.parse({"source": {"type": kind}})


def test_a_mapping_file_comes_back_from_its_text(tmp_path):
    mapping = SiteMapping.parse({"columns": {"x": {"column": 'a\x7f\x1b\u202e"b', "values": {"\x9b": 1}, "scale": 2.0}}})
    text = mapping.to_toml()
    assert text.replace("\n", "").isprintable()
    assert load(tmp_path, text).columns == mapping.columns
