"""`locum data contract new|show|schema` and `locum data map`, from a table to a mapping that is checked."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from locum.cli.data_author import contract_app, map_
from locum.data import load_rows
from locum.errors import Conflict, DataError, LocumError, ManifestError
from locum.study import Study
from locum.study.contract import ContractFile

app = typer.Typer()
app.add_typer(contract_app, name="contract")
app.command("map")(map_)


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words])


def ok(*words: str | Path) -> str:
    done = run(*words)
    assert done.exit_code == 0, done.exception
    return done.stdout


def failure(*words: str | Path) -> LocumError:
    done = run(*words)
    assert isinstance(done.exception, LocumError)
    return done.exception


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "extract.csv"
    lines = ["Patient ID;Alter;Geschlecht;Cholesterin (mmol/l);verstorben"]
    for i in range(200):
        lines.append(f"P{i:03d};{rng.integers(30, 90)};{'mw'[i % 2]};{rng.normal(5.4, 0.8):.2f}".replace(".", ",") + f";{'ja' if i % 7 == 0 else 'nein'}")
    path.write_text("\n".join(lines) + "\n", encoding="latin-1")
    return path


@pytest.fixture
def source(tmp_path: Path, table: Path) -> Path:
    path = tmp_path / "source.toml"
    path.write_text(f'[source]\npath = "{table.name}"\nencoding = "latin-1"\ndecimal = ","\n')
    return path


CONTRACT = """schema = "locum/contract/1"
name = "heart"
title = "A [degF] contract"
[variables.age]
unit = "a"
plausible = [18, 100]
[variables.female]
type = "boolean"
label = "female sex"
[variables.chol]
unit = "mg/dL"
molar_mass = 386.65
plausible = [90, 420]
label = "cholesterol"
missing_codes = [0]
[variables.death]
type = "boolean"
role = "event"
[variables.pid]
type = "text"
role = "patient"
[variables.crp]
unit = "mg/l/24h"
[cohort]
include.age = { at_least = 18 }
"""


def test_from_a_table_to_a_contract(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "contract.toml"
    said = ok("contract", "new", "--mapping", source, "--out", out, "--title", "Fünf Spalten")
    assert "5 variables drafted from 200 rows" in said
    assert f"locum data contract show {out}" in said.replace("\n", "")
    found = ContractFile.load(out)
    assert found.title == "Fünf Spalten"
    assert found.variables["cholesterin"].unit == "mmol/l"
    shown = ok("contract", "show", out)
    assert found.digest in shown
    answer = json.loads(ok("contract", "show", out, "--json"))
    assert answer["digest"] == found.digest
    assert "exists already" in failure("contract", "new", "--mapping", source, "--out", out).what
    text = ok("contract", "new", "--mapping", source)
    assert ContractFile.parse(tomllib.loads(text)).variables == found.variables
    made = json.loads(ok("contract", "new", "--mapping", source, "--json"))
    assert made["rows"] == 200
    assert made["columns"]["cholesterin"] == "Cholesterin (mmol/l)"


def test_show_says_what_is_odd_and_how_to_name_it(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(CONTRACT)
    said = ok("contract", "show", path)
    assert "A [degF] contract" in said
    assert "'mg/l/24h' is no unit of UCUM" in said
    assert "0 mean no value" in said
    assert "Left out: rows in which 'age' lies below 18, or is missing." in said
    assert "Each site needs at least 1 patient." in said
    assert "For tests: 30% of the patients, drawn by a hash with the salt 'locum'." in said
    assert f'contract = {{ file = "c.toml", sha256 = "{ContractFile.load(path).digest}" }}' in said.replace("\n", "")


def test_from_a_contract_to_a_mapping_that_works(tmp_path: Path, source: Path) -> None:
    contract, folder = tmp_path / "c.toml", tmp_path / "mappings"
    contract.write_text(CONTRACT.replace('[variables.crp]\nunit = "mg/l/24h"\n', ""))
    folder.mkdir()
    out = folder / "mapping.toml"
    said = ok("map", contract, "--mapping", source, "--out", out)
    assert "5 of 5 variables mapped" in said
    assert f"locum data check --contract {contract} --mapping {out}" in said.replace("\n", "")
    assert out.stat().st_mode & 0o777 == 0o600
    written = tomllib.loads(out.read_text())
    assert written["source"] == {"path": "../extract.csv", "encoding": "latin-1", "decimal": ","}
    study = Study.parse({"name": "x", "data": ContractFile.load(contract).data.model_dump(), "plan": [{"name": "s", "task": "means"}]})
    rows = load_rows(study, out)
    assert len(rows) == 200
    assert rows.columns["female"].mean() == 0.5
    assert 150 < rows.columns["chol"].mean() < 250
    assert isinstance(failure("map", contract, "--mapping", source, "--out", out), Conflict)
    answer = json.loads(ok("map", contract, "--mapping", source, "--json"))
    assert {p["variable"]: p["column"] for p in answer["proposals"]}["chol"] == "Cholesterin (mmol/l)"


def test_what_is_not_sure_takes_no_effect(tmp_path: Path) -> None:
    table, contract = tmp_path / "t.csv", tmp_path / "c.toml"
    table.write_text("Geschl,Alter,Hypertonie\n" + "".join(f"{'mwu'[i % 3]},{20 + i % 60},{'ja' if i % 5 else 'nein'}\n" for i in range(90)))
    contract.write_text('name = "c"\nvariables = { female = { type = "boolean" }, age = { minimum = 0, maximum = 120 }, smoker = { type = "boolean" } }\n')
    out = tmp_path / "m.toml"
    said = ok("map", contract, "--data", table, "--out", out)
    assert "1 of 3 variables mapped, 1 more to uncomment where right" in said
    text = out.read_text()
    assert tomllib.loads(text)["columns"] == {"age": "Alter"}
    assert '\n# female = { column = "Geschl", values = { m = 0, w = 1 }, missing = ["u"] }\n' in text


def test_the_patient_is_never_missing_and_the_terms_are_told_in_words(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        'name = "c"\n[variables]\npid = { role = "patient" }\nseen = { type = "date" }\nx = { max_missing = 0.125 }\n'
        'died = { role = "event", type = "boolean" }\ntest = { role = "split", type = "boolean" }\n'
        '[cohort]\nmin_patients = 20\nmin_events = 1\ninclude.seen = { at_least = "2020-02-29" }\ninclude.x = { present = true }\n'
    )
    said = ok("contract", "show", path)
    assert re.search(r"^ pid +number \(patient\) +none", said, re.MULTILINE)
    assert "up to 12.5%" in said
    assert "Left out: rows in which 'seen' lies below 2020-02-29, or is missing.\nLeft out: rows in which 'x' is missing.\n" in said
    assert "Each site needs at least 20 patients and 1 event." in said
    assert "For tests: the patients for whom 'test' says so." in said


def test_one_file_in_place_of_another_is_called_by_its_name(tmp_path: Path) -> None:
    mapping, study = tmp_path / "m.toml", tmp_path / "s.toml"
    mapping.write_text('[columns]\nage = "Alter"\n')
    study.write_text('name = "s"\n[data.variables.age]\n[[plan]]\nname = "n"\ntask = "count"\n')
    assert failure("contract", "show", mapping).what == "m.toml is a site's mapping, not a data contract."
    assert failure("contract", "show", study).what == "s.toml is a study, not a data contract."
    assert failure("map", study, "--mapping", study).what == "s.toml is a study, not a site's mapping."


def test_the_schemas_are_printed() -> None:
    assert json.loads(ok("contract", "schema"))["$id"] == "urn:locum:schema:contract:1"
    assert json.loads(ok("contract", "schema", "mapping"))["title"].startswith("A site's mapping")
    assert "known here" in failure("contract", "schema", "xyz").fix


def test_bad_input_is_an_error_in_words(tmp_path: Path, table: Path) -> None:
    assert isinstance(failure("contract", "new", tmp_path / "none.csv"), DataError)
    assert isinstance(failure("contract", "new"), ManifestError)
    latin = tmp_path / "latin.csv"
    latin.write_bytes("Größe;Gewicht\n180;80\n".encode("latin-1") * 50)
    assert "encoding" in failure("contract", "new", latin).fix
    assert isinstance(failure("contract", "show", tmp_path / "none.toml"), ManifestError)
    (tmp_path / "x.toml").write_text("schema = 3")
    assert isinstance(failure("map", tmp_path / "x.toml", "--data", table), ManifestError)
    small = tmp_path / "small.csv"
    small.write_text("a,b\n1,2\n")
    assert "too few" in failure("contract", "new", small).what
    contract = tmp_path / "c.toml"
    contract.write_text(CONTRACT)
    assert "cannot be written" in failure("map", contract, "--data", small, "--out", tmp_path / "no" / "m.toml").what
