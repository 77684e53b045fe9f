"""Tables of public data sets as four hospitals might export them: other names, languages, units and codes; and which column is which.

The names were written down before the proposals were looked at.
"""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest

HEART = ["age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak", "slope", "ca", "thal", "num"]
HEART_NAMES = {
    "en": dict(zip(HEART, ["age_years", "gender", "chest_pain_type", "resting_bp", "total_cholesterol", "fasting_glucose_high", "rest_ecg", "max_hr",
                           "exercise_angina", "st_depression_mm", "st_slope", "n_major_vessels", "thallium_scan", "disease"], strict=True)),
    "de": dict(zip(HEART, ["Alter", "Geschlecht", "Brustschmerztyp", "RR systolisch (mmHg)", "Cholesterin (mmol/l)", "Nüchternblutzucker", "Ruhe-EKG",
                           "HFmax", "Belastungsangina", "ST-Senkung", "ST-Steigung", "Anzahl Gefäße", "Thallium", "Diagnose KHK"], strict=True)),
    "fr": dict(zip(HEART, ["age_ans", "sexe", "douleur thoracique", "PAS", "cholestérol_mmol_l", "glycémie à jeun", "ECG repos", "FC max", "angine d'effort",
                           "sous-décalage ST", "pente ST", "vaisseaux", "thallium", "maladie"], strict=True)),
    "es": dict(zip(HEART, ["edad", "sexo", "dolor torácico", "TAS", "colesterol total", "glucemia en ayunas", "ECG basal", "FC máx", "angina inducida",
                           "depresión ST", "pendiente ST", "vasos", "talio", "enfermedad"], strict=True)),
    "lims": dict(zip(HEART, ["AGE", "SEX_CD", "CP_TYP", "SYSBP", "CHOL_2093-3", "FBS", "RESTECG", "MAXHR", "EXANG", "STDEP", "SLOPE", "VESSELS", "THAL",
                             "OUTCOME"], strict=True)),
}  # fmt: skip
IST = {
    "age": "Age at randomisation", "female": "Gender", "rdelay": "Delay (h)", "rconsc": "Conscious level", "rsleep": "symptoms_on_waking", "ratrial": "AF",
    "rct": "CT_before_randomisation", "rvisinf": "infarct_visible_on_CT", "rhep24": "heparin_24h_before", "rasp3": "aspirin_3days_before",
    "rsbp": "systolic_bp_mmhg", "rdef1": "deficit_face", "rdef2": "deficit_arm_hand", "rdef3": "deficit_leg_foot", "rdef4": "dysphasia",
    "rdef5": "hemianopia", "rdef6": "visuospatial", "rdef7": "brainstem_cerebellar", "rdef8": "other_deficit", "stype": "stroke_syndrome",
    "rxasp": "aspirin_allocated", "rxhep": "heparin_allocated", "dead_14d": "died_within_14_days", "recurrent_ischaemic_14d": "recurrent_ischaemic_stroke",
}  # fmt: skip
IST_COLUMNS = {"age": "AGE", "female": "SEX", "dead_14d": "ID14", "recurrent_ischaemic_14d": "ISC14"}
EICU = {  # a contract's variable -> the column of eICU's patient table, under eICU's own names
    "patient": "uniquepid", "female": "gender", "age": "age", "height": "admissionheight", "weight": "admissionweight", "ethnicity": "ethnicity",
    "hospital": "hospitalid", "death": "hospitaldischargestatus", "ward": "unittype",
}  # fmt: skip
EICU_CONTRACT = {
    "patient": {"type": "text", "role": "patient"},
    "female": {"type": "boolean", "label": "female sex"},
    "age": {"unit": "a", "minimum": 0, "maximum": 120, "plausible": [18, 95]},
    "height": {"unit": "cm", "minimum": 50, "maximum": 250},
    "weight": {"unit": "kg", "minimum": 20, "maximum": 400},
    "ethnicity": {"type": "category", "categories": ["Caucasian", "African American", "other"], "other": "other"},
    "hospital": {"type": "text", "role": "group"},
    "death": {"type": "boolean", "role": "event", "label": "death in hospital"},
    "ward": {"type": "text", "label": "type of the intensive care unit"},
}
TCGA = {"pid": "patient_barcode", "time": "OS_days", "event": "vital_status", "age_at_index": "age_at_diagnosis"}


def folder(name: str) -> Path:
    """The folder of a data set, or the test is skipped."""
    root = os.environ.get("LOCUM_DATA_DIR")
    if not root or not (Path(root) / name).is_dir():
        pytest.skip(f"LOCUM_DATA_DIR does not hold {name}")
    return Path(root) / name


def heart(hospital: str = "cleveland", language: str | None = None) -> pl.DataFrame:
    path = folder("heart_disease_uci4") / f"processed.{hospital}.data"
    table = pl.read_csv(path, has_header=False, new_columns=HEART, infer_schema=False)
    if language is None:
        return table
    if language in ("de", "fr"):
        mmol = pl.col("chol").cast(pl.Float64) / 38.665
        table = table.with_columns(mmol.round(2).cast(pl.String).alias("chol"))
    if language == "de":
        words = {"1": "m", "0": "w"}
        table = table.with_columns(pl.col("sex").str.replace(r"\.0$", "").replace(words))
        table = table.with_columns(pl.col("exang").str.replace(r"\.0$", "").replace({"1": "ja", "0": "nein"}))
    return table.rename(HEART_NAMES[language]).select(sorted(HEART_NAMES[language].values()))


def ist() -> pl.DataFrame:
    table = pl.read_parquet(folder("ist") / "ist.parquet")
    return table.rename({IST_COLUMNS.get(v, v.upper()): c for v, c in IST.items()})


def tcga() -> pl.DataFrame:
    table = pl.read_csv(folder("tcga_brca_flamby") / "brca.csv", infer_schema=False)
    return table.rename({"pid": "patient_barcode", "T": "OS_days", "E": "vital_status", "age_at_index": "age_at_diagnosis"})


def eicu() -> pl.DataFrame:
    return pl.read_csv(folder("eicu_demo_subset") / "patient.csv.gz", infer_schema=False)
