"""UCI heart disease, four hospitals: the data set whose missing cholesterol is written as 0."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from locum.data.catalog.base import AGE, DataSet, File, mapping, spec, yes

_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease"
_COLUMNS = ["age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak", "slope", "ca", "thal", "num"]
_FILES = {
    "cleveland": ("a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8", 18461),
    "hungarian": ("d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796", 10263),
    "switzerland": ("834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314", 4109),
    "va": ("e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f", 6737),
}
_HALF: dict[str, Any] = {"max_missing": 0.5}
"""What more than half of a hospital's patients lack cannot be used there."""


def _read(paths: Mapping[str, Path]) -> pl.DataFrame:
    def one(hospital: str) -> pl.DataFrame:
        table = pl.read_csv(paths[f"processed.{hospital}.data"], has_header=False, new_columns=_COLUMNS, infer_schema=False)
        return table.with_columns(hospital=pl.lit(hospital))

    return pl.concat([one(h) for h in _FILES])


HEART_DISEASE = DataSet(
    name="heart_disease",
    title="UCI heart disease: 920 patients of 4 hospitals (FLamby's Fed-Heart-Disease)",
    licence="CC BY 4.0",
    citation="Janosi, Steinbrunn, Pfisterer, Detrano, UCI Machine Learning Repository, 1988; doi 10.24432/C52P4X",
    published="https://archive.ics.uci.edu/dataset/45",
    folder="heart_disease_uci4",
    files=tuple(File(f"processed.{h}.data", digest, size, url=f"{_UCI}/processed.{h}.data") for h, (digest, size) in _FILES.items()),
    read=_read,
    sites={"hospital": pl.col("hospital")},
    note="A cholesterol of 0 means missing: in all of Switzerland, which the contract therefore refuses, and in a quarter of VA; FLamby keeps it as a value. "
    "Outside Cleveland ca, thal and slope are mostly missing, and fbs in Switzerland: a study that takes all hospitals leaves them out of its contract.",
    data=spec(
        age=AGE,
        sex=yes("male sex"),
        cp={"type": "category", "categories": ["1", "2", "3", "4"], "label": "chest pain: typical angina, atypical angina, other, none"},
        trestbps={
            "unit": "mm[Hg]",
            "label": "resting systolic blood pressure",
            "minimum": 50,
            "maximum": 300,
            "plausible": [85, 220],
            "missing_codes": [0],
            "code": "http://loinc.org|8480-6",
        },
        chol={
            "unit": "mg/dL",
            "label": "serum cholesterol",
            "minimum": 50,
            "maximum": 1000,
            "plausible": [80, 600],
            "missing_codes": [0],
            "max_missing": 0.5,
            "molar_mass": 386.65,
            "code": "http://loinc.org|2093-3",
        },
        fbs=yes("fasting blood sugar above 120 mg/dL") | _HALF,
        restecg={"type": "category", "categories": ["0", "1", "2"], "label": "resting ECG: normal, ST-T abnormality, left ventricular hypertrophy"},
        thalach={"unit": "/min", "label": "maximum heart rate", "minimum": 30, "maximum": 250, "plausible": [60, 210]},
        exang=yes("angina on exercise"),
        oldpeak={"unit": "mm", "label": "ST depression on exercise", "minimum": -10, "maximum": 10, "plausible": [-3, 6.5]},
        slope={"type": "category", "categories": ["1", "2", "3"], "label": "slope of the ST segment: up, flat, down"} | _HALF,
        ca={"type": "integer", "label": "major vessels coloured by fluoroscopy", "minimum": 0, "maximum": 3} | _HALF,
        thal={"type": "category", "categories": ["3", "6", "7"], "label": "thallium scan: normal, fixed defect, reversible defect"} | _HALF,
        num=yes("heart disease: a vessel narrowed by half or more (num > 0)") | {"role": "outcome", "max_missing": 0},
    ),
    mapping=mapping(num={"column": "num", "values": {"0": 0, "1": 1, "2": 1, "3": 1, "4": 1}}),
)
