"""The registry against the real files: counts as published, verification, and one file per site."""

import json
import os
import shutil
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from locum.data import check, load_rows, registry
from locum.errors import DataError, LocumError, ManifestError, NotFound, Unavailable
from locum.study import Study

DATA = os.environ.get("LOCUM_DATA_DIR")
needs_data = pytest.mark.skipif(not DATA, reason="LOCUM_DATA_DIR is not set, so ist, heart_disease and tcga_brca are not at hand")


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine with no data folder and an empty cache."""
    monkeypatch.delenv("LOCUM_DATA_DIR", raising=False)
    monkeypatch.setenv("LOCUM_CACHE", str(tmp_path / "cache"))
    return tmp_path


def study(name):
    return Study.parse({"name": "s", "data": registry.get(name).data.model_dump(), "plan": [{"name": "n", "task": "count"}]})


def test_lung_as_lifelines_ships_it(bare):
    sites = registry.load("lung")
    assert len(sites) == 18
    assert sum(map(len, sites.values())) == 227
    assert len(sites["inst-01"]) == 36
    rows = sites["inst-01"]
    assert set(np.unique(rows.columns["female"])) == {0, 1}
    everyone = np.concatenate([r.matrix(["status", "female", "time"]) for r in sites.values()])
    assert everyone[:, 0].sum() == 164  # of 165 deaths; the patient without an institution died
    assert everyone[:, 1].sum() == 90
    assert everyone[:, 2].max() == 1022
    assert all(check(registry.get("lung").data, r).result != "REFUSE" for r in sites.values())


def test_breast_cancer_agrees_with_scikit_learn(bare):
    from sklearn.datasets import load_breast_cancer

    truth = load_breast_cancer()
    dataset = registry.get("breast_cancer")
    features = [n for n, v in dataset.data.variables.items() if v.role == "feature"]
    rows = registry.load("breast_cancer")["wisconsin"]
    np.testing.assert_array_equal(rows.matrix(features), truth.data)
    np.testing.assert_array_equal(rows.columns["malignant"], truth.target == 0)
    words = [set(n.replace(" ", "_").split("_")) for n in truth.feature_names]
    assert words == [set(n.split("_")) for n in features]


@needs_data
def test_heart_disease_counts_and_the_trap_is_caught():
    sites = registry.load("heart_disease")
    assert {s: len(r) for s, r in sites.items()} == {"cleveland": 303, "hungarian": 294, "switzerland": 123, "va": 200}
    spec = registry.get("heart_disease").data
    refused = {s: [f.variable for f in check(spec, r).of("REFUSE")] for s, r in sites.items()}
    assert refused == {"cleveland": [], "hungarian": [], "switzerland": ["chol"], "va": []}
    assert 0.24 < np.isnan(sites["va"].columns["chol"]).mean() < 0.30
    kept = ["age", "sex", "cp", "trestbps", "fbs", "restecg", "thalach", "exang", "oldpeak"]
    complete = sites["hungarian"].take(~np.isnan(sites["hungarian"].matrix([*kept, "chol"])).any(axis=1))
    assert len(complete) == 261  # as FLamby keeps
    assert round(complete.columns["num"].mean(), 2) == 0.38


@needs_data
def test_ist_hospitals_countries_and_the_trial_effect():
    sites = registry.load("ist")
    assert len(sites) == 466
    sizes = [len(r) for r in sites.values()]
    assert (sum(sizes), min(sizes), max(sizes)) == (19435, 1, 524)
    assert sum(size <= 2 for size in sizes) == 29
    countries = registry.load("ist", by="country")
    assert len(countries) == 36
    assert len(countries["uk"]) == 6257
    y, aspirin = np.concatenate([r.matrix(["dead_or_dependent", "rxasp"]) for r in sites.values()]).T
    assert round(100 * np.nanmean(y[aspirin == 1]), 2) == 62.25
    assert round(100 * np.nanmean(y[aspirin == 0]), 2) == 63.50
    assert all(check(registry.get("ist").data, r).result != "REFUSE" for r in sites.values())


@needs_data
def test_tcga_brca_regions():
    sites = registry.load("tcga_brca")
    assert {s: (len(r), int(r.columns["event"].sum())) for s, r in sites.items()} == {
        "northeast": (311, 59),
        "south": (196, 39),
        "west": (206, 22),
        "midwest": (162, 19),
        "europe": (162, 9),
        "canada": (51, 3),
    }
    assert len(registry.get("tcga_brca").data.variables) == 42  # 39 features, time, event, patient
    assert len(registry.load("tcga_brca", by="source")) == 37


@pytest.mark.parametrize("name", ["lung", pytest.param("tcga_brca", marks=needs_data), pytest.param("heart_disease", marks=needs_data)])
def test_a_site_reads_from_its_export_exactly_what_load_gives(name, tmp_path):
    """So a simulation and real sites compute on the same rows, and split them alike."""
    loaded = registry.load(name)
    files = registry.export(name, tmp_path)
    assert sorted(files) == sorted(loaded)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["mapping.toml", *(f"{s}.csv" for s in loaded)])
    for site, rows in loaded.items():
        again = load_rows(study(name), tmp_path / "mapping.toml", files[site])
        assert again.patient.tolist() == rows.patient.tolist()
        for column, values in rows.columns.items():
            np.testing.assert_array_equal(again.columns[column], values)


def test_a_study_reads_its_own_variables(bare):
    spec = study("lung").data.model_copy(update={"variables": {k: v for k, v in registry.get("lung").data.variables.items() if k in ("age", "status")}})
    assert list(registry.load("lung", spec)["inst-01"].columns) == ["status", "age"]


def test_what_the_command_line_prints_is_plain_json(bare):
    plain = json.loads(json.dumps(registry.listing()))
    assert [d["name"] for d in plain] == registry.names()
    assert {d["name"]: d["here"] for d in plain} == {"lung": True, "breast_cancer": True, "ist": False, "heart_disease": False, "tcga_brca": False}
    assert all(d["licence"] and d["citation"] for d in plain)
    receipt = json.loads(json.dumps(registry.fetch("lung")))
    assert receipt == registry.verify("lung")
    assert Path(receipt["files"][0]["path"]).is_file()


def test_unknown_names(bare):
    with pytest.raises(NotFound) as caught:
        registry.get("lungs")
    assert "'lung'" in caught.value.fix
    with pytest.raises(ManifestError, match="no sites by 'city'"):
        registry.load("lung", by="city")


def test_the_data_folder_is_looked_in_first_and_verified(bare, monkeypatch):
    shipped = Path(registry.verify("lung")["files"][0]["path"])
    folder = bare / "data" / "lung"
    folder.mkdir(parents=True)
    shutil.copy(shipped, folder / "lung.csv")
    monkeypatch.setenv("LOCUM_DATA_DIR", str(bare / "data"))
    assert registry.verify("lung")["files"][0]["path"] == str(folder / "lung.csv")
    (folder / "lung.csv").write_bytes(shipped.read_bytes().replace(b"306", b"307", 1))
    for use in (registry.verify, registry.fetch, registry.load):
        with pytest.raises(DataError, match=r"is not the lung\.csv that the registry knows"):
            use("lung")


def test_what_is_not_on_this_machine(bare):
    with pytest.raises(NotFound, match="not on this machine"):
        registry.verify("heart_disease")
    with pytest.raises(Unavailable) as caught:
        registry.load("ist")
    assert "IST.rda" in caught.value.why
    assert "LOCUM_DATA_DIR" in caught.value.fix
    with pytest.raises(LocumError, match="pip install no_such_package"):
        registry.load(replace(registry.get("lung"), files=(replace(registry.get("lung").files[0], package="no_such_package", name="x.csv"),)))


def test_a_data_set_is_downloaded_once_into_the_cache(bare, monkeypatch):
    """Served by a real HTTP server on this machine, from the file that lifelines ships."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    shipped = Path(registry.verify("lung")["files"][0]["path"])
    handler = partial(SimpleHTTPRequestHandler, directory=str(shipped.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        lung = registry.get("lung")
        remote = replace(lung, files=(replace(lung.files[0], package=None, url=f"http://127.0.0.1:{httpd.server_port}/lung.csv"),))
        receipt = registry.fetch(remote)
        httpd.shutdown()
        thread.join()
    assert receipt["files"][0]["path"] == str(bare / "cache" / "lung" / "lung.csv")
    assert len(registry.load(remote)) == 18  # the server is gone
