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
from locum.study.manifest import Cohort

DATA = os.environ.get("LOCUM_DATA_DIR")
needs_data = pytest.mark.skipif(not DATA, reason="LOCUM_DATA_DIR is not set, so the data sets that no package ships are not at hand")


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


@pytest.mark.parametrize(
    ("name", "how", "suffix"),
    [
        ("lung", {}, "csv"),
        ("lung", {"partition": "shift:variable=wt_loss,offset=3,sites=4"}, "csv"),
        ("breast_cancer", {"partition": "dirichlet:alpha=0.3,sites=20,label=malignant"}, "csv"),
        pytest.param("tcga_brca", {"by": "region"}, "csv", marks=needs_data),
        pytest.param("tcga_brca", {"partition": "feature:variable=age_at_index,sites=5"}, "csv", marks=needs_data),
        pytest.param("heart_disease", {"partition": "shift:variable=chol,offset=20,scale=1.1,sites=3"}, "csv", marks=needs_data),
        pytest.param("flusight", {"as_of": "2024-11-16"}, "csv", marks=needs_data),
        pytest.param("watch", {}, "parquet", marks=needs_data),
        pytest.param("watch", {"partition": "quantity:sites=4"}, "parquet", marks=needs_data),
    ],
)
def test_a_site_reads_from_its_export_exactly_what_load_gives(name, how, suffix, tmp_path):
    """So a simulation and real sites compute on the same rows, and split them alike."""
    loaded = registry.load(name, **how)
    files = registry.export(name, tmp_path, **how)
    assert sorted(files) == sorted(loaded)
    assert {s: len(r) for s, r in loaded.items()} == registry.sizes(name, **how)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["mapping.toml", *(f"{s}.{suffix}" for s in loaded)])
    for site, rows in loaded.items():
        again = load_rows(study(name), tmp_path / "mapping.toml", files[site])
        assert again.patient.tolist() == rows.patient.tolist()
        for kind in ("columns", "arrays", "texts"):
            assert getattr(again, kind).keys() == getattr(rows, kind).keys()
            for column, values in getattr(rows, kind).items():
                np.testing.assert_array_equal(getattr(again, kind)[column], values)


def test_the_mapping_says_that_sites_were_made_up(tmp_path):
    registry.export("breast_cancer", tmp_path, partition="iid:sites=2")
    assert "# Sites made up by iid:sites=2,seed=0,min_rows=1." in (tmp_path / "mapping.toml").read_text()


def test_rows_outside_the_cohort_are_left_out_at_their_own_site(bare):
    """The site of a row is carried beside it, so that leaving rows out shifts nobody to another hospital."""
    whole, spec = registry.load("lung"), study("lung").data
    young = spec.model_copy(update={"cohort": Cohort.parse({"include": {"age": {"at_most": 50}}})})
    part = registry.load("lung", young)
    expected = {s: r.columns["time"][r.columns["age"] <= 50].tolist() for s, r in whole.items()}
    assert {s: r.columns["time"].tolist() for s, r in part.items()} == {s: t for s, t in expected.items() if t}
    assert 0 < len(part) < len(whole)
    assert all(r.patient.tolist() == [str(i) for i in range(len(r))] for r in part.values())


def test_a_study_reads_its_own_variables(bare):
    spec = study("lung").data.model_copy(update={"variables": {k: v for k, v in registry.get("lung").data.variables.items() if k in ("age", "status")}})
    assert list(registry.load("lung", spec)["inst-01"].columns) == ["status", "age"]


def test_what_the_command_line_prints_is_plain_json(bare):
    plain = json.loads(json.dumps(registry.listing()))
    assert [d["name"] for d in plain] == registry.names()
    assert {d["name"] for d in plain if d["here"]} == {"lung", "breast_cancer", "digits"}
    assert {d["name"] for d in plain if d["kind"] == "fixture"} == {"eicu_demo_subset", "omop_synthea27nj", "sql_on_fhir_v2_tests"}
    assert all(d["sites"] for d in plain if d["kind"] == "sites")
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
    with pytest.raises(ManifestError, match="no option 'as_of'"):
        registry.load("lung", as_of="2024-01-01")
    with pytest.raises(NotFound, match="and no sites"):
        registry.load("omop_synthea27nj")
    with pytest.raises(ManifestError, match="not by both"):
        registry.load("lung", by="institution", partition="iid:sites=3")
    with pytest.raises(ManifestError, match="no variable 'ages'") as caught:
        registry.load("lung", partition="feature:variable=ages,sites=3")
    assert "'age'" in caught.value.fix
    for recoded in ("female", "ph_ecog", "nothing"):
        with pytest.raises(ManifestError, match="is no number that could be measured another way"):
            registry.load("lung", partition=f"shift:variable={recoded},offset=1,sites=3")


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
    with pytest.raises(Unavailable, match="not published in this form") as caught:
        registry.load("mitbih")
    assert "LOCUM_DATA_DIR to the folder in which mitbih_beats/mitbih_beats_120hz.npz lies" in caught.value.fix
    with pytest.raises(LocumError, match="pip install no_such_package"):
        registry.load(replace(registry.get("lung"), files=(replace(registry.get("lung").files[0], package="no_such_package"),)))


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


@needs_data
@pytest.mark.parametrize("name", registry.names())
def test_every_file_of_every_data_set_is_the_published_one(name):
    if not next(d["here"] for d in registry.listing() if d["name"] == name):
        pytest.skip(f"{name} is not on this machine")
    receipt = registry.verify(name)
    assert len(receipt["files"]) == len(registry.entry(name).files) > 0
    assert receipt == registry.fetch(name)
    assert receipt["licence"]
    assert receipt["citation"]


@needs_data
def test_only_the_files_that_a_table_needs_are_opened(monkeypatch, tmp_path):
    """The vintages are not published in this form; without them today's table can still be had."""
    folder = tmp_path / "flusight_us"
    folder.mkdir()
    for name in ("locations.csv", "target-hospital-admissions.csv"):
        shutil.copy(Path(DATA) / "flusight_us" / name, folder / name)
    monkeypatch.setenv("LOCUM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("LOCUM_CACHE", str(tmp_path / "cache"))
    assert len(registry.load("flusight")) == 52
    with pytest.raises(Unavailable, match=r"vintages_changes_only\.parquet"):
        registry.load("flusight", as_of="2024-11-16")
