"""Commands that need no federation, run as a person would: as processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def locum(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "locum", *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_help_names_every_group_and_loads_nothing_heavy(tmp_path: Path) -> None:
    done = locum("--help", cwd=tmp_path)
    assert done.returncode == 0
    for word in ("study", "run", "model", "data", "site", "demo", "serve", "invite"):
        assert word in done.stdout
    probe = "import sys; sys.argv = ['locum', '--help']\nfrom locum.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    probe += "print([m for m in ('numpy', 'polars', 'sqlalchemy', 'httpx', 'pydantic') if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    assert loaded == "[]"


@pytest.mark.parametrize("source", ["blank", "lung"])
def test_a_new_study_is_a_valid_study(tmp_path: Path, source: str) -> None:
    assert locum("study", "new", "my study.toml", "--from", source, cwd=tmp_path).returncode == 0
    done = locum("study", "check", "my study.toml", "--json", cwd=tmp_path)
    answer = json.loads(done.stdout)
    assert len(answer["digest"]) == 64
    assert answer["protection"].startswith("updates: masked; the coordinator sees only their sum over at least ")
    assert all(step["leaves"] for step in answer["steps"])
    assert "valid study" in locum("study", "check", "my study.toml", cwd=tmp_path).stdout
    again = locum("study", "new", "my study.toml", cwd=tmp_path)
    assert again.returncode == 1
    assert "exists already" in again.stderr


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('features = ["age"', 'features = ["agee"', "did you mean 'age'?"),
        ("min_cohort", "min_cohorts", "did you mean 'min_cohort'?"),
        ('task = "cox"', 'task = "coxx"', "did you mean 'cox'?"),
        ('ties = "efron"', 'tiess = "efron"', "did you mean 'ties'?"),
        ('times = "times"', 'times = "tims"', "did you mean 'times'?"),
        ("seed = 2026", "seed = -2026", "seed"),
        ("[terms]", "[terms", "not valid TOML"),
    ],
)
def test_a_wrong_word_is_named_with_the_right_one(tmp_path: Path, old: str, new: str, says: str) -> None:
    locum("study", "new", "s.toml", "--from", "lung", cwd=tmp_path)
    path = tmp_path / "s.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    done = locum("study", "check", "s.toml", cwd=tmp_path)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    as_json = json.loads(locum("study", "check", "s.toml", "--json", cwd=tmp_path).stderr)
    assert as_json["error"] == "manifest"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["study", "check", "absent.toml"], "no file"),
        (["study", "new", "x.toml", "--from", "lungs"], "did you mean 'lung'?"),
        (["demo", "--fault", "kill-sites"], "did you mean 'kill-site'?"),
        (["run", "list", "--home", "nowhere"], "not enrolled"),
        (["connect", "locum1:garbage", "--home", "h"], "damaged or cut off"),
        (["site", "enroll", "hello", "--folder", "f"], "not a Locum invitation"),
        (["serve", "nowhere"], "coordinator.toml"),
        (["data", "get", "lungs"], "did you mean 'lung'?"),
        (["invite", "c", "x", "--role", "king"], "no role"),
    ],
)
def test_mistakes_get_an_answer_and_no_traceback(tmp_path: Path, words: list[str], says: str) -> None:
    done = locum(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_data_list_get_and_check(tmp_path: Path) -> None:
    listed = json.loads(locum("data", "list", "--json", cwd=tmp_path).stdout)
    assert {"lung", "ist", "heart_disease"} <= {d["name"] for d in listed}
    got = json.loads(locum("data", "get", "lung", "--to", "lung", "--json", cwd=tmp_path).stdout)
    assert len(got["exported"]) == 18
    locum("study", "new", "s.toml", "--from", "lung", cwd=tmp_path)
    words = ["data", "check", "s.toml", "--data", "lung/inst-01.csv", "--mapping", "lung/mapping.toml"]
    assert json.loads(locum(*words, "--json", cwd=tmp_path).stdout)["result"] in ("PASS", "WARN")
    path = tmp_path / "lung" / "inst-01.csv"
    path.write_text(path.read_text().replace(",74,", ",740,"))
    refused = locum(*words, cwd=tmp_path)
    assert refused.returncode == 2
    assert "REFUSE" in refused.stdout
