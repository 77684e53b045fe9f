"""The split keeps every patient in exactly one part, and is the same on any machine."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from locum.data import Rows
from locum.study import Split

IDS = st.lists(st.text(min_size=1, max_size=6).filter(lambda s: not s.endswith("\0")), min_size=1, max_size=60)
SPLITS = st.builds(Split, test_share=st.floats(0.05, 0.95), salt=st.text(max_size=8))


def numbered(patients):
    return Rows.of({"row": np.arange(len(patients))}, patients)


@given(IDS, SPLITS)
def test_every_row_is_in_exactly_one_part(patients, split):
    rows = numbered(patients)
    both = np.concatenate([rows.part("train", split).columns["row"], rows.part("test", split).columns["row"]])
    assert sorted(both) == list(range(len(patients)))
    assert len(rows.part("all", split)) == len(patients)


@given(IDS, SPLITS)
def test_a_patient_with_several_rows_stays_together(patients, split):
    rows = numbered(patients * 2)
    train, test = rows.part("train", split), rows.part("test", split)
    assert not set(train.patient) & set(test.patient)
    assert train.patients + test.patients == rows.patients


@given(st.data(), IDS, SPLITS)
def test_the_part_depends_on_nothing_but_the_patient(data, patients, split):
    """Neither on the order of the rows nor on who else is at the site."""
    test = set(numbered(patients).part("test", split).patient.tolist())
    some = data.draw(st.lists(st.sampled_from(patients), min_size=1))
    assert set(numbered(some).part("test", split).patient.tolist()) == test & set(some)


def test_the_hash_is_the_documented_one():
    """The first 14 hexadecimal digits of SHA-256, from `printf 'locum/split/1\\x00locum\\x00p1' | sha256sum` and so on, over 16^14."""
    digits = {"p1": "641521ddf935ff", "p2": "eaa2dc323c427e", "p3": "944cf01e3d1cb6", "0": "bc1446a3f1e9f7", "00": "a9c4b121933e2c", "Zoë": "5ce3a4d1f0764d"}
    share = np.array([int(d, 16) / 16**14 for d in digits.values()])
    for limit in (*share, 0.3, 0.5):
        part = numbered(list(digits)).part("test", Split(test_share=float(limit)))
        assert part.patient.tolist() == [p for p, s in zip(digits, share, strict=True) if s < limit]


def test_the_share_is_met():
    rows = numbered([str(i) for i in range(20_000)])
    assert abs(len(rows.part("test", Split(test_share=0.3))) / len(rows) - 0.3) < 4 * np.sqrt(0.3 * 0.7 / len(rows))


@given(st.data(), IDS)
def test_rows_that_were_taken_know_their_patients_as_if_read_anew(data, patients):
    rows = numbered(patients)
    assert rows.codes.max() + 1 == rows.patients
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))))
    index = data.draw(st.sampled_from([mask, np.flatnonzero(mask)[::-1]]))
    taken, anew = rows.take(index), numbered([patients[i] for i in np.arange(len(rows))[index]])
    assert taken.distinct.tolist() == anew.distinct.tolist()
    assert taken.codes.tolist() == anew.codes.tolist()
