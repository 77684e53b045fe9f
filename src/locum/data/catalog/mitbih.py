"""Heart beats of the MIT-BIH Arrhythmia Database: 48 records, each a device that somebody wears."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from locum.data.catalog.base import DataSet, File, arrays, mapping, npz, number, spec
from locum.study.manifest import DataSpec

CLASSES = ("N", "S", "V", "F", "Q")
"""AAMI EC57: normal, supraventricular ectopic, ventricular ectopic, fusion, unknown or paced."""
RR = ("rr_pre", "rr_post", "rr_pre_local", "rr_post_local", "rr_pre_median")
DS1 = (101, 106, 108, 109, 112, 114, 115, 116, 118, 119, 122, 124, 201, 203, 205, 207, 208, 209, 215, 220, 223, 230)
DS2 = (100, 103, 105, 111, 113, 117, 121, 123, 200, 202, 210, 212, 213, 214, 219, 221, 222, 228, 231, 232, 233, 234)
"""Records to train and to test on (de Chazal, O'Dwyer and Reilly, 2004, IEEE Trans Biomed Eng 51:1196, doi 10.1109/TBME.2004.827359)."""


def _read(paths: Mapping[str, Path]) -> pl.DataFrame:
    """One row a beat, in the order of the records."""
    found = npz(paths["mitbih_beats_120hz.npz"])
    record = found["record"].astype(np.int64)
    return pl.DataFrame(
        {
            "record": record,
            "person": np.where(record == 202, 201, record),
            "label": np.asarray(CLASSES)[found["label"]],
            "test": pl.Series(record).replace_strict(dict.fromkeys(DS1, 0) | dict.fromkeys(DS2, 1), default=None, return_dtype=pl.Int64),
            **{name: found["rr"][:, i].astype(np.float64) for i, name in enumerate(RR)},
            "wave": arrays("wave", found["wave"]),
        }
    )


def _contract(**first: dict[str, object]) -> DataSpec:
    interval = {"unit": "s", "minimum": 0, "maximum": 100, "plausible": [0.2, 3]}  # a flutter in record 207 has no beats for so long
    ratio = {"unit": "1", "minimum": 0, "maximum": 200, "plausible": [0.2, 4]}
    return spec(
        **first,
        label={"type": "category", "role": "outcome", "categories": [*CLASSES], "label": "class of the beat (AAMI EC57)", "max_missing": 0},
        wave={"type": "array", "shape": [72], "label": "0.25 s before to 0.35 s after the R peak at 120 Hz, median 0, in steps of 4 ADC units"},
        rr_pre=interval | {"label": "time since the beat before"},
        rr_post=interval | {"label": "time to the next beat"},
        rr_pre_local=ratio | {"label": "time since the beat before, over the mean of ten beats"},
        rr_post_local=ratio | {"label": "time to the next beat, over the mean of ten beats"},
        rr_pre_median=ratio | {"label": "time since the beat before, over the record's median"},
    )


MITBIH = DataSet(
    name="mitbih",
    title="MIT-BIH arrhythmia: 109,398 heart beats of 48 records, each a device",
    licence="ODC-By 1.0 (PhysioNet)",
    citation="Moody, Mark, IEEE Eng Med Biol 20(3):45-50, 2001; Goldberger et al., Circulation 101(23):e215, 2000; doi 10.13026/C2F305",
    published="https://physionet.org/content/mitdb/1.0.0/",
    folder="mitbih_beats",
    files=(File("mitbih_beats_120hz.npz", "54d07a2da92a43c2b8969f3464c3618b5ffc470f0952a2b663a842189a80b232", 4812146),),
    read=_read,
    sites={"record": pl.format("record-{}", number("record", 3))},
    note="Beats cut from the published signals, not published in this form. Records 201 and 202 are of one person, who is one patient here.",
    data=_contract(person={"role": "patient"}),
    mapping=mapping(),
)

MITBIH_DS1_DS2 = replace(
    MITBIH,
    name="mitbih_ds1_ds2",
    title="MIT-BIH arrhythmia, in the split of de Chazal: 22 records to train on and 22 to test on",
    sites={"record": pl.when(pl.col("test").is_not_null()).then(pl.format("record-{}", number("record", 3)))},
    note="The four paced records are left out. A patient is a record here: the published split puts the one person of 201 and 202 in both parts.",
    data=_contract(record={"role": "patient"}, test={"type": "boolean", "role": "split", "label": "record of DS2"}),
)
