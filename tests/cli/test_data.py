"""`locum data` list, get, verify and show, as a person would run them: without a data folder, on what packages ship."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def locum(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "LOCUM_DATA_DIR"} | {"LOCUM_CACHE": str(tmp_path / "cache"), "COLUMNS": "160"}

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "locum", "data", *map(str, words)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, env=environment)

    return run


def test_list_names_licence_citation_and_what_is_here(locum):
    out = locum("list").stdout
    assert out.index("Data sets with sites") < out.index("lung") < out.index("Files to try a source on") < out.index("omop_synthea27nj")
    assert "ODC-By 1.0" in out
    assert "10.24432/C52P4X" in out
    listed = {d["name"]: d for d in json.loads(locum("list", "--json").stdout)}
    assert listed["lung"]["here"] is True
    assert listed["ist"]["here"] is False
    assert listed["ist"]["sites"] == ["hospital", "country"]


def test_list_says_that_files_to_try_have_no_sites(locum):
    fixtures = locum("list").stdout.partition("Files to try a source on: they have no sites")[2]
    assert "omop_synthea27nj" in fixtures
    assert "sites by" not in fixtures


def test_a_data_set_that_cannot_be_had_names_the_folder_above_it(locum):
    done = locum("get", "mitbih")
    assert done.returncode == 1
    assert "set LOCUM_DATA_DIR to the folder in which mitbih_beats" in " ".join(done.stderr.split())


def test_get_and_verify_print_the_licence_and_how_to_cite(locum, tmp_path):
    for command in ("get", "verify"):
        out = locum(command, "lung").stdout
        assert "Licence: LGPL" in out
        assert "Loprinzi" in out
        assert "lung.csv" in out
    got = json.loads(locum("get", "breast_cancer", "--to", "sites", "--partition", "quantity:sites=3", "--json").stdout)
    assert sorted(got["exported"]) == ["site-01", "site-02", "site-03"]
    assert (tmp_path / "sites" / "mapping.toml").is_file()


def test_show_prints_the_contract_and_a_bar_a_site(locum):
    out = locum("show", "lung").stdout
    assert "18 sites, 227 rows: 2 to 36 a site" in out
    line = next(line for line in out.splitlines() if line.strip().startswith("inst-01"))
    assert line.count("█") == 40
    assert "[lb_av]" in out
    many = locum("show", "breast_cancer", "--partition", "quantity:sites=100").stdout
    assert "100 sites, 569 rows" in many
    assert "4 to 7" in many
    shown = json.loads(locum("show", "breast_cancer", "--partition", "iid:sites=2", "--json").stdout)
    assert shown["rows"] == {"site-01": 285, "site-02": 284}
    assert shown["variables"]["malignant"]["role"] == "outcome"
    fixture = locum("show", "eicu_demo_subset").stdout
    assert "ODbL" in fixture
    assert "ef60b1fef5e715292bde2c11cb213a263b65200d05b538cb49de062e3aa7b93e" in fixture


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["show", "lungs"], "did you mean 'lung'?"),
        (["show", "lung", "--by", "city"], "no sites by 'city'"),
        (["show", "lung", "--partition", "idd:sites=3"], "did you mean 'iid'?"),
        (["show", "lung", "--set", "as_of"], "name=value"),
        (["show", "lung", "--set", "as_of=2024-01-01"], "no option 'as_of'"),
        (["show", "lung", "--set", "by=x"], "name=value"),
        (["get", "lung", "--by", "institution"], "--to"),
        (["verify", "heart_disease"], "not on this machine"),
        (["get", "lung", "--to", "/dev/null/sites"], "cannot be written"),
    ],
)
def test_errors_are_words(locum, words, says):
    done = locum(*words)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
