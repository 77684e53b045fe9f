"""`locum data check`, as a data manager would run it."""

import json
import os
import subprocess
import sys

import pytest

CONTRACT = """
schema = "locum/contract/1"
name = "lipids"
title = "Lipids"
[variables.pid]
role = "patient"
[variables.chol]
unit = "mg/dL"
minimum = 50
maximum = 700
molar_mass = 386.65
missing_codes = [0]
[variables.stage]
type = "category"
categories = ["early", "late"]
[variables.died]
type = "boolean"
role = "event"
"""
STUDY = """
name = "s"
[data.variables.pid]
role = "patient"
[data.variables.chol]
unit = "mg/dL"
[terms]
min_rows = 4
[[plan]]
name = "n"
task = "count"
"""
GOOD = "pid;chol;stage;died\n1;180,5;early;1\n2;240;late;0\n3;0;early;0\n"
BAD = "pid;chol;stage;died\n1;4,6;early;1\n2;5,1;hidden-code;0\n;6,2;late;0\n"


@pytest.fixture
def locum(tmp_path):
    (tmp_path / "contract.toml").write_text(CONTRACT)
    (tmp_path / "study.toml").write_text(STUDY)
    (tmp_path / "good.csv").write_text(GOOD)
    (tmp_path / "bad.csv").write_text(BAD)
    (tmp_path / "map.toml").write_text('[source]\ndecimal = ","\n')

    def run(*words):
        command = [sys.executable, "-m", "locum", "data", "check", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    return run


def test_a_good_table(locum):
    done = locum("--contract", "contract.toml", "--data", "good.csv", "--mapping", "map.toml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PASS good.csv: 3 rows, 3 patients")
    assert "Records: 3 read, 3 used" in done.stdout
    assert "Events: 1" in done.stdout


def test_a_bad_table_is_refused_with_counts_fixes_and_local_examples(locum, tmp_path):
    done = locum("--contract", "contract.toml", "--data", "bad.csv", "--mapping", "map.toml", "--page", "page.html")
    assert done.returncode == 2
    assert "REFUSE pid, conformance: 1 of 3 rows has no patient identifier" in done.stdout
    assert "REFUSE chol, plausibility: 3 values of 'chol' lie outside 50 to 700 mg/dL" in done.stdout
    assert "mmol/L" in done.stdout
    assert "record 2: 'hidden-code'" in done.stdout
    assert done.stderr == ""
    assert "hidden-code" in (tmp_path / "page.html").read_text()
    assert (tmp_path / "page.html").stat().st_mode & 0o777 == 0o600


def test_without_examples_no_cell_is_shown(locum, tmp_path):
    for extra in ([], ["--json"]):
        done = locum("--contract", "contract.toml", "--data", "bad.csv", "--mapping", "map.toml", "--no-examples", "--page", "page.html", *extra)
        assert done.returncode == 2
        assert "hidden-code" not in done.stdout + done.stderr + (tmp_path / "page.html").read_text()


def test_json(locum):
    done = locum("--contract", "contract.toml", "--data", "bad.csv", "--mapping", "map.toml", "--json")
    assert done.returncode == 2
    report = json.loads(done.stdout)
    assert (report["result"], report["rows"], report["patients"]) == ("REFUSE", 3, 3)
    assert report["source"]["read"] == 3
    stage = next(f for f in report["findings"] if (f["variable"], f["gate"]) == ("stage", "conformance"))
    assert stage["examples"] == [{"record": 2, "cell": "hidden-code"}]


def test_a_studys_terms_count(locum):
    done = locum("study.toml", "--data", "good.csv", "--mapping", "map.toml")
    assert done.returncode == 2
    assert "there are 3 patients, and 4 are needed" in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "Name a study file, or a contract"),
        (["study.toml", "--contract", "contract.toml"], "Name a study file, or a contract"),
        (["--contract", "contract.toml", "--data", "none.csv"], "There is no file"),
        (["--contract", "none.toml", "--data", "good.csv"], "There is no file"),
        (["--contract", "contract.toml", "--data", "good.csv", "--mapping", "map.toml", "--page", "no/page.html"], "cannot be written"),
    ],
)
def test_what_is_asked_wrongly_is_said_without_a_traceback(locum, words, says):
    done = locum(*words)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["pipe.toml", "/dev/zero", "loop.toml", "x" * 300, "folder"])
def test_what_is_no_file_is_told(locum, tmp_path, name):
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    (tmp_path / "folder").mkdir()
    for words in (("--contract", name, "--data", "good.csv"), ("--contract", "contract.toml", "--data", name), ("study.toml", "--mapping", name)):
        done = locum(*words)
        assert done.returncode == 1, done
        assert "Traceback" not in done.stderr
        assert "fault" not in done.stderr


def test_a_page_never_replaces_a_table(locum, tmp_path):
    words = ("--contract", "contract.toml", "--data", "good.csv", "--mapping", "map.toml", "--page")
    done = locum(*words, "good.csv")
    assert done.returncode == 1
    assert "is no page of this kind" in done.stderr
    assert (tmp_path / "good.csv").read_text() == GOOD
    assert [locum(*words, "page.html").returncode for _ in range(2)] == [0, 0]


def test_a_contract_in_place_of_a_study_and_the_reverse(locum):
    contract = locum("contract.toml", "--data", "good.csv").stderr
    assert "contract.toml is a data contract, not a study." in contract
    assert "--contract contract.toml" in contract
    study = locum("--contract", "study.toml", "--data", "good.csv").stderr
    assert "study.toml is a study, not a data contract." in study
    assert "locum data check study.toml" in study
    assert "--data TABLE" in locum("--contract", "contract.toml").stderr


def test_counts_agree_with_their_nouns(locum, tmp_path):
    (tmp_path / "one.csv").write_text("pid;chol;stage;died\n1;180.5;early;1\n2;240;late;0;0\n")
    told = locum("--contract", "contract.toml", "--data", "one.csv").stdout
    assert "one.csv: 1 row, 1 patient." in told
    assert "Records: 2 read, 1 used; 1 refused: it has more fields than the header (1)." in told
    assert "1 of 2 records cannot be used: it has more fields than the header (1)." in told
    (tmp_path / "two.csv").write_text("pid;chol;stage;died\n1;180.5;early;1\n1;180.5;early;1\n")
    assert "1 row equals another row of the same patient" in locum("--contract", "contract.toml", "--data", "two.csv").stdout


def test_what_to_do_fits_what_is_wrong(locum, tmp_path):
    """An expression is corrected where it is written, and codes have no decimal commas."""
    (tmp_path / "map.toml").write_text('[source]\ndecimal = ","\n[columns]\nchol = { expression = "chol * 1000" }\n')
    told = locum("--contract", "contract.toml", "--data", "good.csv", "--mapping", "map.toml").stdout
    assert "correct the expression of 'chol' in the mapping" in told
    assert 'unit = "' not in told
    (tmp_path / "codes.csv").write_text("pid;chol;stage;died\n1;180;early;ja\n2;240;spaet;nein\n")
    told = locum("--contract", "contract.toml", "--data", "codes.csv").stdout
    assert "values = { yes = 1, no = 0 }" in told
    assert "list the site's codes as values" in told
    assert "decimal" not in told
