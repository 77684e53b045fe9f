"""De-identification, against the table of PS3.15 Annex E as an independent implementation has it (the package dicom-anonymizer)."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.data.deidentify import DERIVED, MAKERS, NUMBERS, PUBLIC, TERMS, TEXT, UIDS, deidentify, pseudonym

pydicom = pytest.importorskip("pydicom", reason="needs the extra imaging")
from pydicom.datadict import dictionary_VR  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402
from pydicom.tag import Tag  # noqa: E402

KEY = b"a site's secret"
CANARY = "CANARY7731"


def profile() -> set[tuple[int, int]]:
    """Every single tag that the basic profile removes or replaces (D, X, Z, U and their combinations)."""
    selector = pytest.importorskip("dicomanonymizer.dicomfields_selector", reason="dicom-anonymizer is not installed")
    table = selector.dicom_anonymization_database_selector("dicomfields_2026c")
    return {tuple(t) for t in table["ALL_TAGS"] if len(t) == 2}


def canary(vr: str) -> Any:
    """A value that would be known again."""
    if vr == "SQ":
        inner = Dataset()
        inner.PatientName = CANARY
        inner.add_new(0x00091010, "LO", CANARY)
        return Sequence([inner])
    known = {"DA": "19770731", "DT": "19770731101112", "TM": "101112", "UI": "1.2.7731.7731", "AS": "073Y", "IS": "7731", "DS": "7731.7731"}
    numbers = dict.fromkeys(("US", "SS", "UL", "SL", "FL", "FD"), 7731)
    return {**known, **numbers, **dict.fromkeys(("OB", "OW", "UN", "OF", "OD", "OL"), CANARY.encode())}.get(vr, CANARY)


def test_nothing_that_the_basic_profile_takes_out_survives() -> None:
    header = Dataset()
    for group, element in sorted(profile()):
        try:
            vr = dictionary_VR(Tag(group, element)).split()[0]
            header.add_new(Tag(group, element), vr, canary(vr))
        except (KeyError, ValueError, TypeError):
            continue
    header.add_new(0x00091002, "LO", CANARY)  # private
    header.add_new(0x60003000, "OW", CANARY.encode())  # overlay
    header.add_new(0x60004000, "LT", CANARY)
    header.add_new(0x50003000, "OW", CANARY.encode())  # curve
    assert len(header) > 500
    header.StudyDate, header.PatientSex = "19770731", "F"
    record = deidentify(header, KEY, date(1977, 7, 1))
    assert set(record) == set(PUBLIC)
    kept = {k: v for k, v in record.items() if v is not None and k not in UIDS}
    assert kept == {"age_years": 73.0, "sex": "F", "study_day": 30.0}  # the three options of the profile that are stated
    shown = repr(record)
    assert not any(mark in shown for mark in (CANARY, "7731", "1977"))


def test_only_stated_attributes_of_the_table_are_read_into_a_record() -> None:
    keywords = {n.keyword for n in NUMBERS.values()} | {k for k, _ in TERMS.values()} | set(DERIVED.values()) | set(UIDS.values())
    tags = {(Tag(k).group, Tag(k).elem): k for k in keywords}
    assert {tags[t] for t in set(tags) & profile()} == {"PatientAge", "PatientSex", "StudyDate", "StudyInstanceUID", "SeriesInstanceUID"}


def test_every_value_is_a_number_a_listed_term_or_a_pseudonym() -> None:
    """Names typed into the attributes that are kept: the allow-list is of values too."""
    header = Dataset()
    for keyword, _ in TERMS.values():
        setattr(header, keyword, "SMITH JANE")
    header.Manufacturer, header.BodyPartExamined = "Smith Jane", "SMITH"
    header.RepetitionTime, header.KVP = "9999999", "4482913"
    record = deidentify(header, KEY)
    assert {k: v for k, v in record.items() if v is not None} == {"manufacturer": "other"}


@given(st.dictionaries(st.sampled_from([*(n.keyword for n in NUMBERS.values()), *(k for k, _ in TERMS.values()), *DERIVED.values()]), st.text(max_size=20)))
def test_whatever_a_header_holds_a_record_holds_only_allowed_values(attributes: dict[str, str]) -> None:
    class Header(dict[str, str]):
        pass

    record = deidentify(Header(attributes), KEY, date(2000, 1, 1))
    for name, value in record.items():
        if name in TERMS:
            assert value is None or value in TERMS[name][1]
        elif name == "manufacturer":
            assert value in (None, "other", *MAKERS)
        elif name not in TEXT:
            assert value is None or isinstance(value, float)


@pytest.mark.parametrize(
    ("attributes", "age"),
    [
        ({"PatientAge": "045Y"}, 45), ({"PatientAge": "018M"}, 1), ({"PatientAge": "089Y"}, 89), ({"PatientAge": "090Y"}, 90), ({"PatientAge": "104Y"}, 90),
        ({"PatientAge": "010D"}, 0), ({"PatientAge": "old"}, None), ({}, None),
        ({"PatientBirthDate": "19500610", "StudyDate": "20200609"}, 69), ({"PatientBirthDate": "19500610", "StudyDate": "20200610"}, 70),
        ({"PatientBirthDate": "19100610", "StudyDate": "20200610"}, 90), ({"PatientBirthDate": "20210101", "StudyDate": "20200610"}, None),
    ],
)  # fmt: skip
def test_ages_over_89_are_one_group(attributes: dict[str, str], age: int | None) -> None:
    header = Dataset()
    for keyword, value in attributes.items():
        with pydicom.config.disable_value_validation():
            setattr(header, keyword, value)
    assert deidentify(header, KEY)["age_years"] == age


def test_a_broken_value_is_missing() -> None:
    header = Dataset()
    header.add(pydicom.dataelem.DataElement(0x00280010, "US", 64))
    header._dict[Tag("WindowCenter")] = pydicom.dataelem.RawDataElement(Tag("WindowCenter"), "DS", 4, b"4O.0", 0, False, True)
    header._dict[Tag("StudyDate")] = pydicom.dataelem.RawDataElement(Tag("StudyDate"), "DA", 8, b"20201332", 0, False, True)
    record = deidentify(header, KEY, date(2020, 1, 1))
    assert (record["rows"], record["window_centre"], record["study_day"]) == (64.0, None, None)


def test_pseudonyms_are_keyed_and_tell_kinds_apart() -> None:
    one = pseudonym("1.2.3", KEY, "study")
    assert one == pseudonym("1.2.3", KEY, "study")
    assert one is not None
    assert len(one) == 32
    assert len({one, pseudonym("1.2.3", b"another", "study"), pseudonym("1.2.3", KEY, "series"), pseudonym("1.2.4", KEY, "study")}) == 4
    assert pseudonym("", KEY, "study") is None
