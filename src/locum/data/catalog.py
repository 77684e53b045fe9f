"""The public data sets with real sites that the registry knows: what each is, on what licence, and how to read it.

The files are not part of Locum. Each is named by its SHA-256, so that what a paper reports can be run again anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from locum.data.mapping import SiteMapping
from locum.study.manifest import DataSpec


@dataclass(frozen=True)
class File:
    """One file of a data set. `url` where exactly these bytes are published; `package` and `inside` where a package ships them."""

    name: str
    sha256: str
    size: int
    url: str | None = None
    package: str | None = None
    inside: str = ""


@dataclass(frozen=True)
class DataSet:
    """A public data set. `read` makes one raw table of its files; `sites` says how a row's site is named, the first by default."""

    name: str
    title: str
    licence: str
    citation: str
    published: str
    files: tuple[File, ...]
    data: DataSpec
    mapping: SiteMapping
    read: Callable[[Mapping[str, Path]], pl.DataFrame]
    sites: Mapping[str, pl.Expr]
    folder: str
    note: str = ""


def _spec(**variables: dict[str, Any]) -> DataSpec:
    return DataSpec.parse({"variables": variables})


def _mapping(**columns: Any) -> SiteMapping:
    return SiteMapping.parse({"columns": columns})


def _csv(name: str, **options: Any) -> Callable[[Mapping[str, Path]], pl.DataFrame]:
    return lambda paths: pl.read_csv(paths[name], infer_schema=False, **options)


def _number(column: str, width: int) -> pl.Expr:
    return pl.col(column).cast(pl.Float64).cast(pl.Int64).cast(pl.String).str.zfill(width)


_AGE = {"type": "number", "unit": "a", "label": "age", "minimum": 15, "maximum": 120}
_YES = {"type": "boolean"}
_EVENT = {"type": "boolean", "role": "event", "max_missing": 0}


# --- NCCTG lung cancer ------------------------------------------------------------------------------------------------
LUNG = DataSet(
    name="lung",
    title="NCCTG advanced lung cancer: survival of 228 patients of 18 institutions",
    licence="LGPL-2.0-or-later (R package survival); shipped by lifelines (MIT)",
    citation="Loprinzi et al., J Clin Oncol 12(3):601-607, 1994",
    published="https://github.com/CamDavidsonPilon/lifelines",
    folder="lung",
    files=(File("lung.csv", "16ebd02c38bbb5708186d600cff80ad84d0764974619436f83ba4a605e77eb44", 9041, package="lifelines", inside="datasets/lung.csv"),),
    read=_csv("lung.csv"),
    sites={"institution": pl.format("inst-{}", _number("inst", 2))},
    note="One patient has no institution and is left out. This copy codes status 0/1, where R codes it 1/2.",
    data=_spec(
        time={"role": "time", "unit": "d", "label": "survival time", "minimum": 0, "maximum": 1100, "max_missing": 0},
        status=_EVENT | {"label": "death"},
        age=_AGE,
        female=_YES | {"label": "female sex"},
        ph_ecog={"type": "integer", "label": "ECOG performance score, by the physician", "minimum": 0, "maximum": 5},
        ph_karno={"label": "Karnofsky score, by the physician", "minimum": 0, "maximum": 100},
        pat_karno={"label": "Karnofsky score, by the patient", "minimum": 0, "maximum": 100},
        meal_cal={"unit": "kcal", "label": "calories at meals", "minimum": 0, "maximum": 6000},
        wt_loss={"unit": "[lb_av]", "label": "weight loss in the last six months", "minimum": -100, "maximum": 200},
    ),
    mapping=_mapping(
        female={"column": "sex", "values": {"1": 0, "2": 1}},
        ph_ecog="ph.ecog",
        ph_karno="ph.karno",
        pat_karno="pat.karno",
        meal_cal="meal.cal",
        wt_loss="wt.loss",
    ),
)

# --- Wisconsin breast cancer ------------------------------------------------------------------------------------------
_CELL = ("radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave_points", "symmetry", "fractal_dimension")
_NUCLEI = [f"{statistic}_{measure}" for statistic in ("mean", "error", "worst") for measure in _CELL]

BREAST_CANCER = DataSet(
    name="breast_cancer",
    title="Wisconsin diagnostic breast cancer: 30 measures of cell nuclei, 569 tumours",
    licence="CC BY 4.0; shipped by scikit-learn (BSD-3-Clause)",
    citation="Street, Wolberg, Mangasarian, Proc SPIE 1905:861-870, 1993; doi 10.24432/C5DW2B",
    published="https://archive.ics.uci.edu/dataset/17",
    folder="breast_cancer",
    files=(
        File(
            "breast_cancer.csv",
            "fed3eb72d0575ef6192293f5093c6e801b1476b577d0386bf4455504522172ed",
            119913,
            package="sklearn",
            inside="datasets/data/breast_cancer.csv",
        ),
    ),
    read=_csv("breast_cancer.csv", has_header=False, skip_rows=1, new_columns=[*_NUCLEI, "target"]),
    sites={"hospital": pl.lit("wisconsin")},
    note="One hospital: spread its rows over made-up sites to try something out, and say so where you report it.",
    data=_spec(**{n: {"minimum": 0} for n in _NUCLEI}, malignant=_YES | {"role": "outcome", "max_missing": 0}),
    mapping=_mapping(malignant={"column": "target", "values": {"0": 1, "1": 0}}),
)

# --- International Stroke Trial ---------------------------------------------------------------------------------------
_DEFICITS = {
    1: "face", 2: "arm or hand", 3: "leg or foot", 4: "dysphasia", 5: "hemianopia", 6: "visuospatial disorder", 7: "brainstem or cerebellar signs", 8: "other",
}  # fmt: skip


def _yes(label: str) -> dict[str, Any]:
    return {"type": "boolean", "label": label}


IST = DataSet(
    name="ist",
    title="International Stroke Trial: 19,435 patients of 466 hospitals in 36 countries",
    licence="ODC-By 1.0",
    citation="Sandercock, Niewada, Czlonkowska, Trials 12:101, 2011; doi 10.1186/1745-6215-12-101, 10.7488/ds/104",
    published="https://github.com/hehta/RESIDE/blob/8e76733ecff3a89f44739a4fa21bf929ac802002/data/IST.rda",
    folder="ist",
    files=(File("ist.parquet", "3f4322d6d0ed53f98cc629b07971e58c1040038b863ddb7d7d1ade4ba5d85b19", 626137),),
    read=lambda paths: pl.read_parquet(paths["ist.parquet"]),
    sites={
        "hospital": pl.format("hospital-{}", _number("HOSPNUM", 3)),
        "country": pl.col("COUNTRY").str.to_lowercase(),
    },
    note="ist.parquet re-encodes IST.rda (SHA-256 e32ecb5aeedd18a41584e855e1d25fff358577880856ad9fd15048ef89978116), which is what is published. "
    "This version does not read R's files.",
    data=_spec(
        age=_AGE,
        female=_yes("female sex"),
        rdelay={"unit": "h", "label": "delay from stroke to randomisation", "minimum": 0, "maximum": 48},
        rconsc={"type": "category", "categories": ["F", "D", "U"], "label": "consciousness: fully alert, drowsy, unconscious"},
        rsleep=_yes("symptoms noted on waking"),
        ratrial=_yes("atrial fibrillation"),
        rct=_yes("CT before randomisation"),
        rvisinf=_yes("infarct visible on CT"),
        rhep24=_yes("heparin within 24 hours before randomisation"),
        rasp3=_yes("aspirin within 3 days before randomisation"),
        rsbp={"unit": "mm[Hg]", "label": "systolic blood pressure", "minimum": 50, "maximum": 300},
        **{f"rdef{i}": {"type": "category", "categories": ["N", "Y", "C"], "label": f"deficit: {d} (C: cannot assess)"} for i, d in _DEFICITS.items()},
        stype={"type": "category", "categories": ["TACS", "PACS", "LACS", "POCS", "OTH"], "label": "stroke syndrome"},
        rxasp=_yes("randomised to aspirin"),
        rxhep={"type": "category", "categories": ["N", "L", "M", "H"], "label": "randomised heparin: none, low, medium, high (pilot)"},
        dead_or_dependent=_yes("dead or dependent at 6 months") | {"role": "outcome"},
        dead_14d=_yes("dead within 14 days") | {"role": "outcome"},
    ),
    mapping=_mapping(
        age="AGE",
        female={"column": "SEX", "values": {"M": 0, "F": 1}},
        rdelay="RDELAY",
        rconsc="RCONSC",
        **{n.lower(): {"column": n, "values": {"Y": 1, "N": 0}} for n in ("RSLEEP", "RATRIAL", "RCT", "RVISINF", "RHEP24", "RASP3", "RXASP")},
        rsbp="RSBP",
        **{f"rdef{i}": f"RDEF{i}" for i in _DEFICITS},
        stype="STYPE",
        rxhep="RXHEP",
        dead_or_dependent={"column": "OCCODE", "values": {"1": 1, "2": 1, "3": 0, "4": 0}, "missing": [0, 9]},
        dead_14d="ID14",
    ),
)

# --- UCI heart disease ------------------------------------------------------------------------------------------------
_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease"
_HEART_COLUMNS = ["age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak", "slope", "ca", "thal", "num"]
_HEART = {
    "cleveland": ("a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8", 18461),
    "hungarian": ("d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796", 10263),
    "switzerland": ("834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314", 4109),
    "va": ("e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f", 6737),
}


def _heart(paths: Mapping[str, Path]) -> pl.DataFrame:
    def one(hospital: str) -> pl.DataFrame:
        table = pl.read_csv(paths[f"processed.{hospital}.data"], has_header=False, new_columns=_HEART_COLUMNS, infer_schema=False)
        return table.with_columns(hospital=pl.lit(hospital))

    return pl.concat([one(h) for h in _HEART])


HEART_DISEASE = DataSet(
    name="heart_disease",
    title="UCI heart disease: 920 patients of 4 hospitals (FLamby's Fed-Heart-Disease)",
    licence="CC BY 4.0",
    citation="Janosi, Steinbrunn, Pfisterer, Detrano, UCI Machine Learning Repository, 1988; doi 10.24432/C52P4X",
    published="https://archive.ics.uci.edu/dataset/45",
    folder="heart_disease_uci4",
    files=tuple(File(f"processed.{h}.data", digest, size, url=f"{_UCI}/processed.{h}.data") for h, (digest, size) in _HEART.items()),
    read=_heart,
    sites={"hospital": pl.col("hospital")},
    note="A cholesterol of 0 means missing: in all of Switzerland, which this contract therefore refuses, and in a quarter of VA. FLamby keeps it as a value.",
    data=_spec(
        age=_AGE,
        sex=_yes("male sex"),
        cp={"type": "category", "categories": ["1", "2", "3", "4"], "label": "chest pain: typical angina, atypical angina, other, none"},
        trestbps={"unit": "mm[Hg]", "label": "resting systolic blood pressure", "minimum": 50, "maximum": 300, "missing_codes": [0]},
        chol={"unit": "mg/dL", "label": "serum cholesterol", "minimum": 50, "maximum": 1000, "missing_codes": [0], "max_missing": 0.5},
        fbs=_yes("fasting blood sugar above 120 mg/dL"),
        restecg={"type": "category", "categories": ["0", "1", "2"], "label": "resting ECG: normal, ST-T abnormality, left ventricular hypertrophy"},
        thalach={"unit": "/min", "label": "maximum heart rate", "minimum": 30, "maximum": 250},
        exang=_yes("angina on exercise"),
        oldpeak={"unit": "mm", "label": "ST depression on exercise", "minimum": -10, "maximum": 10},
        slope={"type": "category", "categories": ["1", "2", "3"], "label": "slope of the ST segment: up, flat, down"},
        ca={"type": "integer", "label": "major vessels coloured by fluoroscopy", "minimum": 0, "maximum": 3},
        thal={"type": "category", "categories": ["3", "6", "7"], "label": "thallium scan: normal, fixed defect, reversible defect"},
        num=_yes("heart disease: a vessel narrowed by half or more (num > 0)") | {"role": "outcome", "max_missing": 0},
    ),
    mapping=_mapping(num={"column": "num", "values": {"0": 0, "1": 1, "2": 1, "3": 1, "4": 1}}),
)

# --- TCGA-BRCA --------------------------------------------------------------------------------------------------------
_FLAMBY = "https://raw.githubusercontent.com/owkin/FLamby/edacf54d5211520583b0133d55ac39b6fda8324b/flamby/datasets/fed_tcga_brca"
_REGIONS = {"0": "northeast", "1": "south", "2": "west", "3": "midwest", "4": "europe", "5": "canada"}
_BRCA_FLAGS = """ethnicity_not hispanic or latino|ethnicity_not reported|race_asian|race_black or african american|race_not reported|race_white
ajcc_pathologic_m_MX|ajcc_pathologic_n_N0 (i-)|ajcc_pathologic_n_N1|ajcc_pathologic_n_N1a|ajcc_pathologic_n_N2|ajcc_pathologic_n_N2a
ajcc_pathologic_stage_Stage IA|ajcc_pathologic_stage_Stage IIA|ajcc_pathologic_stage_Stage IIB|ajcc_pathologic_stage_Stage IIIA
ajcc_pathologic_stage_Stage IIIC|ajcc_pathologic_t_T1c|ajcc_pathologic_t_T2|ajcc_pathologic_t_T3|ajcc_staging_system_edition_5th
ajcc_staging_system_edition_6th|ajcc_staging_system_edition_7th|icd_10_code_C50.9|morphology_8500/3|morphology_8520/3
primary_diagnosis_Infiltrating duct carcinoma, NOS|primary_diagnosis_Lobular carcinoma, NOS|prior_malignancy_yes
synchronous_malignancy_Not Reported|treatment_or_therapy_not reported|treatment_or_therapy_yes|tumor_stage_stage i|tumor_stage_stage ia
tumor_stage_stage iia|tumor_stage_stage iib|tumor_stage_stage iiia|tumor_stage_stage iiic"""
_BRCA = {re.sub(r"\W+", "_", c).strip("_"): c for c in re.split(r"[|\n]", _BRCA_FLAGS)}


def _brca(paths: Mapping[str, Path]) -> pl.DataFrame:
    """FLamby's patients in FLamby's sites: `fold2` is train_k or test_k for the region k."""
    folds = pl.read_csv(paths["train_test_split.csv"], infer_schema=False)
    return _csv("brca.csv")(paths).join(folds, on="pid", how="inner", maintain_order="left")


TCGA_BRCA = DataSet(
    name="tcga_brca",
    title="TCGA breast cancer: survival of 1,088 patients in 6 regions (FLamby's Fed-TCGA-BRCA)",
    licence="NCI GDC open access (no re-identification); preparation MIT (FLamby)",
    citation="TCGA Network, Nature 490:61-70, 2012; Ogier du Terrail et al., FLamby, NeurIPS 2022",
    published="https://github.com/owkin/FLamby/tree/main/flamby/datasets/fed_tcga_brca",
    folder="tcga_brca_flamby",
    files=(
        File("brca.csv", "07cb53423f7d579d33cfdbf2cba57b2aee75318b85866c68ce39a75b1f1ba020", 113184, url=f"{_FLAMBY}/brca.csv"),
        File(
            "train_test_split.csv",
            "1249c6543a4060ff0fdaf8510fc37017755836db6c9fc5e6af96057c36510990",
            28946,
            url=f"{_FLAMBY}/dataset_creation_scripts/train_test_split.csv",
        ),
    ),
    read=_brca,
    sites={
        "region": pl.col("fold2").str.tail(1).replace_strict(_REGIONS),
        "source": pl.format("tss-{}", pl.col("pid").str.slice(5, 2).str.to_lowercase()),
    },
    data=_spec(
        pid={"role": "patient"},
        time={"role": "time", "unit": "d", "minimum": 0, "maximum": 10000, "max_missing": 0},
        event=_EVENT | {"label": "death"},
        age_at_index=_AGE,
        **{name: _yes(column) for name, column in _BRCA.items()},
    ),
    mapping=_mapping(time="T", event="E", **_BRCA),
)

CATALOG: dict[str, DataSet] = {d.name: d for d in (BREAST_CANCER, HEART_DISEASE, IST, LUNG, TCGA_BRCA)}
