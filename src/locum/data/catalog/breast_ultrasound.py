"""Breast ultrasound images of MedMNIST v2: 780 images of 28 by 28 pixels, malignant or not, with the published split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from locum.data.catalog.base import DataSet, File, arrays, mapping, npz, spec
from locum.errors import DataError

PARTS = ("train", "val", "test")


def _read(paths: Mapping[str, Path]) -> pl.DataFrame:
    """One row an image: training, validation, then test images, each in the order of the file. In the file 0 is malignant."""
    found = npz(paths["breastmnist.npz"])
    wanted = [f"{part}_{what}" for part in PARTS for what in ("images", "labels")]
    if any(name not in found for name in wanted):
        raise DataError("breastmnist.npz lacks some of its arrays.", fix="bring the published file")
    label = np.concatenate([found[f"{part}_labels"].reshape(-1) for part in PARTS]).astype(np.int64)
    return pl.DataFrame(
        {
            "pixels": arrays("pixels", np.concatenate([found[f"{part}_images"] for part in PARTS]) / 255.0),
            "malignant": (label == 0).astype(np.int64),
            "test": np.repeat([0, 0, 1], [len(found[f"{part}_labels"]) for part in PARTS]),
        }
    )


BREAST_ULTRASOUND = DataSet(
    name="breast_ultrasound",
    title="BreastMNIST: 780 ultrasound images of the breast, 28 by 28 pixels",
    licence="CC BY 4.0",
    citation="Yang et al., Sci Data 10:41, 2023; Al-Dhabyani et al., Data in Brief 28:104863, 2020; doi 10.5281/zenodo.6496656",
    published="https://zenodo.org/record/6496656",
    folder="breast_ultrasound",
    files=(
        File(
            "breastmnist.npz",
            "3a22d2a4625e7dd8903f0f59030e81a3d0c222bece2e5e10927456cb50efdec1",
            559580,
            url="https://zenodo.org/record/6496656/files/breastmnist.npz?download=1",
        ),
    ),
    read=_read,
    sites={"hospital": pl.lit("one")},
    note="One hospital: make up sites with a partition, and say so where you report it. Training and validation images are to train on.",
    data=spec(
        pixels={"type": "array", "shape": [28, 28], "label": "brightness of each pixel, 0 to 1"},
        malignant={"type": "boolean", "role": "outcome", "label": "malignant tumour", "max_missing": 0},
        test={"type": "boolean", "role": "split", "label": "test image of the publication"},
    ),
    mapping=mapping(),
)
