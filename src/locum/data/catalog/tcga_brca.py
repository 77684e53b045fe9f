"""TCGA breast cancer as FLamby prepared it: survival in six regions, or in 37 tissue source sites."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from locum.data.catalog.base import AGE, EVENT, DataSet, File, csv, mapping, spec, yes

_FLAMBY = "https://raw.githubusercontent.com/owkin/FLamby/edacf54d5211520583b0133d55ac39b6fda8324b/flamby/datasets/fed_tcga_brca"
_REGIONS = {"0": "northeast", "1": "south", "2": "west", "3": "midwest", "4": "europe", "5": "canada"}
_FLAG_COLUMNS = """ethnicity_not hispanic or latino|ethnicity_not reported|race_asian|race_black or african american|race_not reported|race_white
ajcc_pathologic_m_MX|ajcc_pathologic_n_N0 (i-)|ajcc_pathologic_n_N1|ajcc_pathologic_n_N1a|ajcc_pathologic_n_N2|ajcc_pathologic_n_N2a
ajcc_pathologic_stage_Stage IA|ajcc_pathologic_stage_Stage IIA|ajcc_pathologic_stage_Stage IIB|ajcc_pathologic_stage_Stage IIIA
ajcc_pathologic_stage_Stage IIIC|ajcc_pathologic_t_T1c|ajcc_pathologic_t_T2|ajcc_pathologic_t_T3|ajcc_staging_system_edition_5th
ajcc_staging_system_edition_6th|ajcc_staging_system_edition_7th|icd_10_code_C50.9|morphology_8500/3|morphology_8520/3
primary_diagnosis_Infiltrating duct carcinoma, NOS|primary_diagnosis_Lobular carcinoma, NOS|prior_malignancy_yes
synchronous_malignancy_Not Reported|treatment_or_therapy_not reported|treatment_or_therapy_yes|tumor_stage_stage i|tumor_stage_stage ia
tumor_stage_stage iia|tumor_stage_stage iib|tumor_stage_stage iiia|tumor_stage_stage iiic"""
_FLAGS = {re.sub(r"\W+", "_", c).strip("_"): c for c in re.split(r"[|\n]", _FLAG_COLUMNS)}


def _read(paths: Mapping[str, Path]) -> pl.DataFrame:
    """FLamby's patients in FLamby's sites: `fold2` is train_k or test_k for the region k."""
    folds = pl.read_csv(paths["train_test_split.csv"], infer_schema=False)
    return csv("brca.csv")(paths).join(folds, on="pid", how="inner", maintain_order="left")


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
    read=_read,
    sites={
        "region": pl.col("fold2").str.tail(1).replace_strict(_REGIONS),
        "source": pl.format("tss-{}", pl.col("pid").str.slice(5, 2).str.to_lowercase()),
    },
    data=spec(
        pid={"role": "patient"},
        time={"role": "time", "unit": "d", "minimum": 0, "maximum": 10000, "max_missing": 0},
        event=EVENT | {"label": "death"},
        age_at_index=AGE,
        **{name: yes(column) for name, column in _FLAGS.items()},
    ),
    mapping=mapping(time="T", event="E", test={"column": "fold", "values": {"train": 0, "test": 1}}, **_FLAGS),
)
