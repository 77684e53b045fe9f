"""The International Stroke Trial, from the R data file in which it is published: hundreds of hospitals, for real."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from locum.data.catalog.base import AGE, DataSet, File, mapping, number, spec, yes

_COMMIT = "8e76733ecff3a89f44739a4fa21bf929ac802002"
_DEFICITS = {
    1: "face", 2: "arm or hand", 3: "leg or foot", 4: "dysphasia", 5: "hemianopia", 6: "visuospatial disorder", 7: "brainstem or cerebellar signs", 8: "other",
}  # fmt: skip
_MONTHS = {m: i for i, m in enumerate(("sty", "lut", "mar", "kwi", "maj", "cze", "lip", "sie", "wrz", "pa", "lis", "gru"), start=1)}
"""The published file has the months in Polish, and the last letter of October lost."""
_COUNTRIES = (
    "ARGE", "AUSL", "AUST", "BELG", "BRAS", "CANA", "CHIL", "CZEC", "DENM", "EIRE", "FINL", "FRAN", "GREE", "HONG", "HUNG", "INDI", "ISRA", "ITAL",
    "JAPA", "NETH", "NEW", "NORW", "POLA", "PORT", "ROMA", "SING", "SLOK", "SLOV", "SOUT", "SPAI", "SRI", "SWED", "SWIT", "TURK", "UK", "USA",
)  # fmt: skip
"""The trial's own abbreviations: AUSL is Australia, AUST Austria, NEW New Zealand, SLOK Slovakia, SLOV Slovenia, SOUT South Africa."""
_YES_NO = ("RSLEEP", "RATRIAL", "RCT", "RVISINF", "RHEP24", "RASP3", "RXASP")
_FORMS = {"ddead": "DDEAD", "fdead": "FDEAD", "recurrent_ischaemic_14d": "DRSISC", "haemorrhagic_14d": "DRSH", "embolism_14d": "DPE", "not_stroke": "DNOSTRK"}


def _read(paths: Mapping[str, Path]) -> pl.DataFrame:
    from locum.data.r_data import read_r

    return read_r(paths["IST.rda"], "IST").with_columns(_month(pl.col("RDATE")).alias("RMONTH"))


def _month(text: pl.Expr) -> pl.Expr:
    """The first day of the month of randomisation, such as '1991-01-01' of 'sty-91'."""
    month = text.str.head(3).str.replace("[^a-z]$", "").replace_strict(_MONTHS, default=None, return_dtype=pl.Int64)
    return pl.format("19{}-{}-01", text.str.tail(2), month.cast(pl.String).str.zfill(2))


def _form(column: str) -> dict[str, Any]:
    """A yes or no of the trial's forms, where U means unknown."""
    return {"column": column, "values": {"Y": 1, "N": 0}, "missing": ["U"]}


IST = DataSet(
    name="ist",
    title="International Stroke Trial: 19,435 patients of 466 hospitals in 36 countries",
    licence="ODC-By 1.0",
    citation="Sandercock, Niewada, Czlonkowska, Trials 12:101, 2011; doi 10.1186/1745-6215-12-101, 10.7488/ds/104",
    published=f"https://github.com/hehta/RESIDE/blob/{_COMMIT}/data/IST.rda",
    folder="ist",
    files=(
        File(
            "IST.rda",
            "e32ecb5aeedd18a41584e855e1d25fff358577880856ad9fd15048ef89978116",
            514878,
            url=f"https://raw.githubusercontent.com/hehta/RESIDE/{_COMMIT}/data/IST.rda",
        ),
    ),
    read=_read,
    sites={"hospital": pl.format("hospital-{}", number("HOSPNUM", 3)), "country": pl.col("COUNTRY").str.to_lowercase()},
    note="Countries are the trial's own abbreviations. The pilot phase (984 patients) did not ask for atrial fibrillation or earlier aspirin.",
    data=spec(
        age=AGE,
        female=yes("female sex"),
        rdelay={"unit": "h", "label": "delay from stroke to randomisation", "minimum": 0, "maximum": 48, "plausible": [1, 48]},
        rconsc={"type": "category", "categories": ["F", "D", "U"], "label": "consciousness: fully alert, drowsy, unconscious"},
        rsleep=yes("symptoms noted on waking"),
        ratrial=yes("atrial fibrillation"),
        rct=yes("CT before randomisation"),
        rvisinf=yes("infarct visible on CT"),
        rhep24=yes("heparin within 24 hours before randomisation"),
        rasp3=yes("aspirin within 3 days before randomisation"),
        rsbp={
            "unit": "mm[Hg]",
            "label": "systolic blood pressure",
            "minimum": 50,
            "maximum": 300,
            "plausible": [80, 260],
            "code": "http://loinc.org|8480-6",
        },
        **{f"rdef{i}": {"type": "category", "categories": ["N", "Y", "C"], "label": f"deficit: {d} (C: cannot assess)"} for i, d in _DEFICITS.items()},
        stype={"type": "category", "categories": ["TACS", "PACS", "LACS", "POCS", "OTH"], "label": "stroke syndrome"},
        country={"type": "category", "categories": list(_COUNTRIES), "label": "country of the hospital, the trial's abbreviation", "role": "group"},
        rdate={"type": "date", "label": "month of randomisation, its first day", "minimum": "1991-01-01", "maximum": "1996-12-31", "role": "group"},
        rxasp=yes("randomised to aspirin"),
        rxhep={"type": "category", "categories": ["N", "L", "M", "H"], "label": "randomised heparin: none, low, medium, high (pilot)"},
        time={"role": "time", "unit": "d", "label": "time from randomisation to death or last contact", "minimum": 0, "maximum": 1500},
        died={"type": "boolean", "role": "event", "label": "death within that time"},
        dead_or_dependent=yes("dead or dependent at 6 months") | {"role": "outcome"},
        dead_14d=yes("dead within 14 days") | {"role": "outcome"},
        dead_6m=yes("dead at 6 months") | {"role": "outcome"},
        ddead=yes("dead on the form at discharge or 14 days") | {"role": "outcome"},
        fdead=yes("dead on the form at 6 months") | {"role": "outcome"},
        recurrent_ischaemic_14d=yes("recurrent ischaemic stroke within 14 days") | {"role": "outcome"},
        haemorrhagic_14d=yes("haemorrhagic stroke within 14 days") | {"role": "outcome"},
        embolism_14d=yes("pulmonary embolism within 14 days") | {"role": "outcome"},
        not_stroke=yes("first event was no stroke") | {"role": "outcome"},
    ),
    mapping=mapping(
        age="AGE",
        female={"column": "SEX", "values": {"M": 0, "F": 1}},
        rdelay="RDELAY",
        rconsc="RCONSC",
        **{n.lower(): {"column": n, "values": {"Y": 1, "N": 0}} for n in _YES_NO},
        rsbp="RSBP",
        **{f"rdef{i}": f"RDEF{i}" for i in _DEFICITS},
        stype="STYPE",
        rxhep="RXHEP",
        country="COUNTRY",
        rdate="RMONTH",
        time="TD",
        died="DIED",
        dead_or_dependent={"column": "OCCODE", "values": {"1": 1, "2": 1, "3": 0, "4": 0}, "missing": [0, 9]},
        dead_6m={"column": "OCCODE", "values": {"1": 1, "2": 0, "3": 0, "4": 0}, "missing": [0, 9]},
        dead_14d="ID14",
        **{name: _form(column) for name, column in _FORMS.items()},
    ),
)
