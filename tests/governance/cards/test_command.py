"""`locum run cards` with a real coordinator and three real sites."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from locum import Study
from locum.cli.cards import installed
from locum.client import Client
from locum.governance.code import code_digest
from locum.testing.federation import LocalFederation, populate

STUDY = {
    "name": "ages",
    "title": "How old are they?",
    "data": {"variables": {"age": {"unit": "a", "minimum": 0, "maximum": 120}}},
    "terms": {"min_cohort": 3, "privacy": "none"},
    "plan": [{"name": "age", "task": "moments", "variables": ["age"]}],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An investigator whose study has run."""
    from locum.site.review import decide

    folder = tmp_path_factory.mktemp("cards")
    with LocalFederation(folder) as federation:
        federation.init()
        federation.start_coordinator()
        files = {}
        for name, ages in {"a": range(40, 60), "b": range(45, 75), "c": range(50, 62)}.items():
            files[name] = folder / f"{name}.csv"
            files[name].write_text("age\n" + "\n".join(map(str, ages)) + "\n", encoding="utf-8")
        populate(federation, {name: (file, None) for name, file in files.items()}, config='[policy]\nmin_cohort = 3\nexact = "allow"\n')
        where = federation.enrol("investigator", role="investigator", folder=folder / "investigator")
        with Client.open(where) as client:
            digest = client.submit(Study.parse(STUDY)).digest
            for name in files:
                decide(federation.site(name), digest, approve=True, exact=True)
            (run,) = client.runs()
            *_, last = client.watch(run.id)
            assert last.status == "finished", last.error
            waiting = client.submit(Study.parse({**STUDY, "name": "waiting"})).digest
            assert waiting != digest
        yield where


def locum(home: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locum", "run", "cards", *map(str, words)]
    return subprocess.run(command, env={**os.environ, "LOCUM_HOME": str(home)}, capture_output=True, text=True, timeout=90)


def test_a_run_becomes_ten_files_and_a_list_of_what_nobody_stated(home: Path, tmp_path: Path) -> None:
    done = locum(home, "ages", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert sorted(said["files"]) == sorted(p.name for p in (tmp_path / "out").iterdir())
    assert {"file": "ropa.json", "field": "b_purposes.use", "key": "governance.use"} in said["not_stated"]
    sbom = json.loads((tmp_path / "out" / "sbom.cdx.json").read_text())
    assert {"locum", "numpy", "cryptography"} <= {c["name"] for c in sbom["components"]}
    made = json.loads((tmp_path / "out" / "provenance.intoto.jsonl").read_text())
    named = [(d["name"], d["digest"]["sha256"]) for d in made["predicate"]["buildDefinition"]["resolvedDependencies"]]
    assert named[-1][1] == code_digest()
    assert [name for name, _ in named] == ["study", "data contract", "roster", named[-1][0]]
    assert json.loads((tmp_path / "out" / "ropa.json").read_text())["a_parties"]["sites"] == ["a", "b", "c"]
    first = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}

    again = locum(home, "ages", tmp_path / "out")
    assert again.returncode == 1
    assert "--replace" in again.stderr
    replaced = locum(home, "ages", tmp_path / "out", "--replace")
    assert replaced.returncode == 0
    assert "governance.use" in replaced.stdout
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == first


def test_no_cards_of_a_run_without_a_model(home: Path, tmp_path: Path) -> None:
    done = locum(home, "waiting", tmp_path / "out")
    assert done.returncode == 1
    assert "it has no model" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_a_file_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    done = locum(home, "ages", tmp_path / "out")
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"


def test_packages_are_those_that_are_installed_without_the_tests() -> None:
    found = {p.name: p for p in installed()}
    assert found["locum"].needs
    assert "cryptography" in found
    assert "hypothesis" not in found
    assert all(name in found for p in found.values() for name in p.needs)
    assert installed("no-such-package") == []
