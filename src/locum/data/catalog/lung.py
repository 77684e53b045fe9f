"""The NCCTG lung cancer trial, as the package lifelines ships it: what a machine without a network can run."""

from __future__ import annotations

import polars as pl

from locum.data.catalog.base import AGE, EVENT, DataSet, File, csv, mapping, number, spec, yes

LUNG = DataSet(
    name="lung",
    title="NCCTG advanced lung cancer: survival of 228 patients of 18 institutions",
    licence="LGPL-2.0-or-later (R package survival); shipped by lifelines (MIT)",
    citation="Loprinzi et al., J Clin Oncol 12(3):601-607, 1994",
    published="https://github.com/CamDavidsonPilon/lifelines",
    folder="lung",
    files=(File("lung.csv", "16ebd02c38bbb5708186d600cff80ad84d0764974619436f83ba4a605e77eb44", 9041, package="lifelines", inside="datasets/lung.csv"),),
    read=csv("lung.csv"),
    sites={"institution": pl.format("inst-{}", number("inst", 2))},
    note="One patient has no institution and is left out. This copy codes status 0/1, where R codes it 1/2.",
    data=spec(
        time={"role": "time", "unit": "d", "label": "survival time", "minimum": 0, "maximum": 1100, "max_missing": 0},
        status=EVENT | {"label": "death"},
        age=AGE,
        female=yes("female sex"),
        ph_ecog={"type": "integer", "label": "ECOG performance score, by the physician", "minimum": 0, "maximum": 5, "code": "http://loinc.org|89247-1"},
        ph_karno={"label": "Karnofsky score, by the physician", "minimum": 0, "maximum": 100, "plausible": [30, 100]},
        pat_karno={"label": "Karnofsky score, by the patient", "minimum": 0, "maximum": 100, "plausible": [20, 100]},
        meal_cal={"unit": "kcal", "label": "calories at meals", "minimum": 0, "maximum": 6000, "plausible": [50, 3000]},
        wt_loss={"unit": "[lb_av]", "label": "weight loss in the last six months", "minimum": -100, "maximum": 200, "plausible": [-30, 80]},
    ),
    mapping=mapping(
        female={"column": "sex", "values": {"1": 0, "2": 1}},
        ph_ecog="ph.ecog",
        ph_karno="ph.karno",
        pat_karno="pat.karno",
        meal_cal="meal.cal",
        wt_loss="wt.loss",
    ),
)
