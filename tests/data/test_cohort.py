"""Rules of inclusion: what stays, and why the rest does not."""

import polars as pl
import pytest

from locum.data import FrameSource, to_rows
from locum.data.cohort import included
from locum.errors import DataError, ManifestError
from locum.study.manifest import DataSpec

VARIABLES = {"age": {}, "seen": {"type": "date"}, "stroke": {"type": "category", "categories": ["ischaemic", "bleed", "unknown"]}, "died": {"type": "boolean"}}
FRAME = pl.DataFrame(
    {
        "age": ["17", "18", "90", "", "50"],
        "seen": ["2020-01-01", "2020-06-30", "2019-12-31", "2020-02-02", "2020-02-02"],
        "stroke": ["ischaemic", "bleed", "ischaemic", "ischaemic", "unknown"],
        "died": ["0", "1", "0", "1", ""],
    }
)


def spec(**include):
    return DataSpec.parse({"variables": VARIABLES, "cohort": {"include": include}})


def ages(data):
    return to_rows(data, FrameSource(FRAME)).columns["age"].tolist()


def test_each_rule_keeps_what_fulfils_it():
    assert ages(spec(age={"at_least": 18, "at_most": 89})) == [18, 50]
    assert ages(spec(stroke={"among": ["bleed", "unknown"]})) == [18, 50]
    assert ages(spec(seen={"at_least": "2020-01-01"}, age={"present": True})) == [17, 18, 50]
    assert len(ages(spec(died={"at_most": 0}))) == 2


def test_every_row_that_is_left_out_is_counted_once_with_the_first_rule_that_it_fails():
    data = spec(age={"at_least": 18}, stroke={"among": ["ischaemic"]})
    columns = to_rows(spec(), FrameSource(FRAME)).columns
    keep, left_out = included(data, columns)
    assert keep.sum() == 1
    assert left_out == {"'age' is missing": 1, "'age' lies below 18": 1, "'stroke' is none of ischaemic": 2}
    assert keep.sum() + left_out.total() == len(FRAME)


def test_a_date_is_told_as_a_date():
    data = spec(seen={"at_least": "2020-01-01", "at_most": "2020-12-31"})
    _, left_out = included(data, to_rows(spec(), FrameSource(FRAME)).columns)
    assert left_out == {"'seen' lies outside 2020-01-01 to 2020-12-31": 1}


def test_a_table_without_anyone_of_the_cohort_says_which_rules_left_them_out():
    with pytest.raises(DataError, match=r"No row of the table belongs.*'age' lies below 200 \(4\)"):
        ages(spec(age={"at_least": 200}))


@pytest.mark.parametrize(
    ("include", "says"),
    [
        ({"agee": {"at_least": 1}}, "no variable of the contract"),
        ({"stroke": {"at_least": 1}}, "is a category"),
        ({"stroke": {"among": ["clot"]}}, "'clot' is no category"),
        ({"age": {"among": ["1"]}}, "among is for categories"),
        ({"age": {}}, "at_least, at_most, among or present"),
        ({"age": {"at_least": "next year"}}, "a date such as"),
    ],
)
def test_rules_that_mean_nothing(include, says):
    with pytest.raises(ManifestError, match=says):
        spec(**include)
