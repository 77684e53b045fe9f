"""The published JSON Schemas: current, accept what the models accept, and refuse what is wrong in a way that a schema can tell."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from typing import Any

import jsonschema
import pytest

from locum.data import schemas
from locum.data.catalog import CATALOG
from locum.data.mapping import SiteMapping
from locum.errors import ManifestError
from locum.study.contract import ContractFile

CONTRACT = """
schema = "locum/contract/1"
name = "heart"
[variables.chol]
unit = "mg/dL"
molar_mass = 386.65
plausible = [90, 420]
missing_codes = [0]
[variables.seen]
type = "date"
minimum = "1990-01-01"
plausible = ["1995-01-01", "2030-01-01"]
[variables.sex]
type = "category"
categories = ["F", "M"]
[variables.died]
type = "boolean"
role = "event"
[cohort]
min_events = 5
include.seen = { at_least = "2000-01-01" }
[split]
test_share = 0.2
"""
MAPPING = """
[source]
path = "x.csv"
separator = ";"
decimal = ","
[columns]
chol = { column = "Cholesterin", unit = "mmol/L", missing = [0, "n.d."] }
sex = { column = "SEX", values = { 1 = "M", 2 = "F" } }
died = { column = "tot", values = { ja = 1, nein = false } }
age = "Alter"
"""


def bad(text: str, old: str, new: str) -> dict[str, Any]:
    assert old in text
    return tomllib.loads(text.replace(old, new, 1))


def test_the_schemas_are_current() -> None:
    done = subprocess.run([sys.executable, "-m", "locum.data.schemas", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {n: json.loads(t) for n, t in schemas.generate().items()} == {n: schemas.load(n) for n in schemas.NAMES}


def test_a_wrong_word_writes_nothing() -> None:
    done = subprocess.run([sys.executable, "-m", "locum.data.schemas", "--wrte"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage" in done.stderr


@pytest.mark.parametrize("name", schemas.NAMES)
def test_they_are_schemas(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schemas.load(name))


def test_the_examples_pass_schema_and_model() -> None:
    jsonschema.validate(tomllib.loads(CONTRACT), schemas.load("contract"))
    jsonschema.validate(tomllib.loads(MAPPING), schemas.load("mapping"))
    ContractFile.parse(tomllib.loads(CONTRACT))
    SiteMapping.parse(tomllib.loads(MAPPING))


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_every_contract_of_the_registry_passes(name: str) -> None:
    data = CATALOG[name].data
    found = ContractFile(name=name, variables=data.variables, split=data.split, cohort=data.cohort)
    jsonschema.validate(json.loads(found.canonical.replace(b',"origin":null', b"")), schemas.load("contract"))
    jsonschema.validate(tomllib.loads(CATALOG[name].mapping.to_toml()), schemas.load("mapping"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('name = "heart"', 'name = "Heart!"'),
        ('name = "heart"', 'name = "heart"\nnmae = 1'),
        ('schema = "locum/contract/1"', 'schema = "locum/contract/2"'),
        ("[variables.chol]", '[variables."chol mg"]'),
        ("molar_mass = 386.65", "molar_mass = -1"),
        ("molar_mass = 386.65", "mollar_mass = 386.65"),
        ("plausible = [90, 420]", "plausible = [90]"),
        ('plausible = ["1995-01-01", "2030-01-01"]', "plausible = [1, true]"),
        ('type = "boolean"', 'type = "bool"'),
        ('role = "event"', 'role = "events"'),
        ("min_events = 5", "min_events = -5"),
        ("test_share = 0.2", "test_share = 1.2"),
    ],
)
def test_a_bad_contract_fails_schema_and_model(old: str, new: str) -> None:
    wrong = bad(CONTRACT, old, new)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schemas.load("contract"))
    with pytest.raises(ManifestError):
        ContractFile.parse(wrong)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('separator = ";"', 'seperator = ";"'),
        ('decimal = ","', 'decimal = "x"'),
        ('age = "Alter"', "age = 3"),
        ('age = "Alter"', '"a ge" = "Alter"'),
        ('column = "SEX"', 'colum = "SEX"'),
        ('unit = "mmol/L"', "unit = 1"),
        ("[source]", '[sources]\ntype = "csv"\n[source]'),
    ],
)
def test_a_bad_mapping_fails_schema_and_model(old: str, new: str) -> None:
    wrong = bad(MAPPING, old, new)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schemas.load("mapping"))
    with pytest.raises(ManifestError):
        SiteMapping.parse(wrong)
