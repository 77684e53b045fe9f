"""Pseudonyms: stable at a site, different everywhere else, and the split does not hang on them."""

import stat

import numpy as np
import pytest

from locum.data import FrameSource, to_rows
from locum.data.patients import load_key, pseudonyms
from locum.errors import DataError
from locum.study.manifest import DataSpec

KEY, OTHER = b"k" * 32, b"o" * 32
SPEC = DataSpec.parse({"variables": {"pid": {"role": "patient"}, "x": {}}})


def table(pids, x=None):
    import polars as pl

    return FrameSource(pl.DataFrame({"pid": pids, "x": x or list(range(len(pids)))}))


def test_a_pseudonym_is_stable_at_a_site_and_tells_nothing_elsewhere():
    ids = ["MRN-1", "MRN-2", "MRN-1"]
    mine = pseudonyms(ids, KEY)
    assert mine[0] == mine[2] != mine[1]
    assert (mine == pseudonyms(ids, KEY)).all()
    assert not set(mine) & set(pseudonyms(ids, OTHER))
    assert not any("MRN" in p for p in mine)
    assert all(len(p) == 32 for p in mine)


def test_blake2_as_rfc_7693_has_it():
    import hashlib

    assert pseudonyms(["a"], KEY)[0] == hashlib.blake2b(b"a", key=KEY, digest_size=16, person=b"locum/patient/1").hexdigest()


def test_rows_hold_pseudonyms_and_are_split_as_without_them():
    ids = [f"MRN-{i // 2}" for i in range(400)]
    plain, hidden = to_rows(SPEC, table(ids)), to_rows(SPEC, table(ids), key=KEY)
    assert hidden.patients == plain.patients == 200
    assert not set(hidden.patient) & set(ids)
    for part in ("train", "test"):
        assert (hidden.part(part, SPEC.split).columns["x"] == plain.part(part, SPEC.split).columns["x"]).all()
    again = to_rows(SPEC, table(ids[:10]), key=KEY)
    assert (again.patient == hidden.patient[:10]).all(), "another extract knows the same patient"


def test_the_key_is_made_once_and_is_for_its_owner_only(tmp_path):
    key = load_key(tmp_path)
    assert len(key) == 32
    assert load_key(tmp_path) == key
    assert stat.S_IMODE((tmp_path / "patients.key").stat().st_mode) == 0o600
    (tmp_path / "patients.key").write_bytes(b"short")
    with pytest.raises(DataError, match="not a key"):
        load_key(tmp_path)


def test_a_split_that_was_decided_before_is_kept_and_a_patient_in_both_parts_refused():
    import polars as pl

    spec = DataSpec.parse({"variables": {"pid": {"role": "patient"}, "x": {}, "held_out": {"type": "boolean", "role": "split"}}})
    rows = to_rows(spec, FrameSource(pl.DataFrame({"pid": ["a", "a", "b"], "x": [1, 2, 3], "held_out": ["yes", "yes", "no"]})), key=KEY)
    assert rows.part("test", spec.split).columns["x"].tolist() == [1, 2]
    assert rows.take(np.array([2, 0])).part("train", spec.split).columns["x"].tolist() == [3]
    with pytest.raises(DataError, match="1 patient is in the training part and in the test part"):
        to_rows(spec, FrameSource(pl.DataFrame({"pid": ["a", "a", "b"], "x": [1, 2, 3], "held_out": ["yes", "no", "no"]})))
    with pytest.raises(DataError, match="does not say in 'held_out'"):
        to_rows(spec, FrameSource(pl.DataFrame({"pid": ["a", "b"], "x": [1, 2], "held_out": ["yes", ""]})))
