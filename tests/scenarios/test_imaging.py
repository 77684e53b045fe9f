"""The imaging scenario on real scans, its DICOM files and its maps; and the ultrasound set's format, on made-up images."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from locum.data import registry
from locum.data.catalog.breast_ultrasound import BREAST_ULTRASOUND
from locum.errors import DataError, LocumError, ManifestError
from locum.scenarios import studies
from locum.tasks import build_plan

torch = pytest.importorskip("torch", reason="needs the extra torch")
pytest.importorskip("pydicom", reason="needs the extra imaging")
from locum.scenarios import imaging  # noqa: E402
from locum.scenarios.imaging_dicom import read_dicom, write_dicom  # noqa: E402
from locum.scenarios.imaging_saliency import keep_maps  # noqa: E402
from locum.scenarios.lab import Lab  # noqa: E402


@pytest.fixture(scope="module")
def sites():
    try:
        return registry.load("digits", partition=imaging.PARTITION)
    except LocumError as error:
        pytest.skip(f"digits: {error.what}")


def test_the_scenario_prints_every_comparison(sites, monkeypatch):
    monkeypatch.setattr(imaging, "QUICK", 2)  # rounds
    out = imaging.SCENARIO.answer(Lab("clear", quick=True))
    who = [line.who for line in out.lines]
    assert who[:2] == ["pooled", "federated"]
    assert {"federated, FedAvg", "federated, FedProx", "each site alone", "majority class"} <= set(who)
    assert all(line.value is not None and line.ci95 is not None and line.ci95[0] <= line.value <= line.ci95[1] for line in out.lines)
    by = {line.who: line for line in out.lines}
    assert by["pooled"].value > 0.9
    assert by["federated, images read from DICOM"].value == by["federated"].value
    assert "bit for bit" in by["federated, images read from DICOM"].note
    assert all(text.startswith("<svg") for text in out.figures.values())
    assert not any("saliency" in name for name in out.figures)


def test_settings_are_chosen_on_training_images_alone(sites):
    from locum.scenarios.imaging_choice import SETTINGS, tried, validation

    study = studies.study("imaging", aggregation="clear")
    inner, kept = validation(study, sites)
    for name, rows in sites.items():
        test = rows.part("test", study.data.split).patient
        for part in ("train", "test"):
            assert not np.isin(kept[name].part(part, inner.data.split).patient, test).any()
    assert sum(len(r.part("test", inner.data.split)) for r in kept.values()) > 300
    assert study.plan[0].params["strategy"] in [s for of in SETTINGS.values() for s in of]
    assert imaging.STRATEGIES["FedProx"] in SETTINGS["fedprox"]
    short = imaging.changed(study, rounds=1)
    ((setting, accuracy, n),) = tried(short, sites, {"fedadam": SETTINGS["fedadam"][2:3]})
    assert setting["server_rate"] == 0.02
    assert 0 <= accuracy <= 1
    assert n == sum(len(r.part("test", inner.data.split)) for r in kept.values())


def test_images_come_back_from_dicom_as_they_were(sites, tmp_path):
    study, rows = studies.study("imaging"), sites["site-02"].take(np.arange(40))
    back = read_dicom(study, write_dicom(tmp_path / "site", rows))
    np.testing.assert_array_equal(back.arrays["pixels"], rows.arrays["pixels"])
    np.testing.assert_array_equal(back.columns["digit"], rows.columns["digit"])


def test_maps_stay_in_the_sites_folder_and_are_its_own(sites, tmp_path):
    lab = Lab("clear")
    study = imaging.changed(studies.study("imaging", aggregation="clear"), rounds=1)
    ran = lab.simulate(study, sites)
    files = keep_maps(study, "cnn", ran.state, sites["site-01"], tmp_path / "maps", count=3)
    assert [f.name for f in files] == ["map-01.svg", "map-02.svg", "map-03.svg"]
    assert all(f.stat().st_mode & 0o077 == 0 and f.read_text().startswith("<svg") for f in files)
    assert not any("saliency" in name or "map" in name for name in ran.state)
    with pytest.raises(ManifestError, match="no step of the study that trains a network"):
        keep_maps(study, "evaluation", ran.state, sites["site-01"], tmp_path)


@pytest.mark.parametrize("name", ["imaging", "imaging-ultrasound"])
def test_the_studies_are_ready_to_sign(name):
    assert len(build_plan(studies.study(name))) == 2


def test_the_ultrasound_set_is_read_as_published(tmp_path: Path, monkeypatch):
    rng, parts = np.random.default_rng(0), {"train": 6, "val": 2, "test": 3}
    arrays = {f"{p}_images": rng.integers(0, 256, (n, 28, 28), dtype=np.uint8) for p, n in parts.items()}
    arrays |= {f"{p}_labels": rng.integers(0, 2, (n, 1), dtype=np.uint8) for p, n in parts.items()}
    path = tmp_path / "breast_ultrasound" / "breastmnist.npz"
    path.parent.mkdir()
    np.savez(path, **arrays)
    monkeypatch.setenv("LOCUM_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match="that the registry knows"):
        registry.load("breast_ultrasound")
    raw = path.read_bytes()
    file = replace(BREAST_ULTRASOUND.files[0], sha256=hashlib.sha256(raw).hexdigest(), size=len(raw))
    rows = registry.load(replace(BREAST_ULTRASOUND, files=(file,)))["one"]
    assert rows.test is not None
    assert rows.test.tolist() == [False] * 8 + [True] * 3
    label = np.concatenate([arrays[f"{p}_labels"].reshape(-1) for p in parts])
    np.testing.assert_array_equal(rows.columns["malignant"], (label == 0).astype(float))
    np.testing.assert_allclose(rows.arrays["pixels"][8] * 255, arrays["test_images"][0], atol=1e-4)
