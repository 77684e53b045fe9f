"""A contract in a file of its own, named by its hash."""

import json

import pytest

from locum.errors import ManifestError
from locum.study import Study
from locum.study.contract import ContractFile, DataSpec

CONTRACT = """
name = "heart"
title = "Risk factors"

[variables.chol]
unit = "mg/dL"
plausible = [90, 420]

[variables.seen]
type = "date"
minimum = 2010-01-01

[cohort.include]
chol = { at_least = 10 }
"""
STUDY = """
schema = "locum/study/1"
name = "means"

[data]
contract = {{ file = "heart.toml", sha256 = "{sha256}" }}

[terms]
privacy = "none"

[[plan]]
name = "means"
task = "moments"
variables = ["chol"]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "heart.toml").write_text(CONTRACT)
    digest = ContractFile.load(tmp_path / "heart.toml").digest
    (tmp_path / "study.toml").write_text(STUDY.format(sha256=digest))
    return tmp_path


def test_the_study_holds_the_contract_and_says_where_it_is_from(folder):
    study, contract = Study.load(folder / "study.toml"), ContractFile.load(folder / "heart.toml")
    assert study.data.variables == contract.variables
    assert study.data.variables["seen"].minimum == 14610
    assert study.data.cohort.include["chol"].at_least == 10
    assert study.data.origin is not None
    assert (study.data.origin.name, study.data.origin.sha256) == ("heart", contract.digest)
    assert Study.from_json(study.canonical).digest == study.digest


def test_a_changed_contract_is_not_the_one_that_the_study_names(folder):
    (folder / "heart.toml").write_text(CONTRACT.replace("420", "421"))
    with pytest.raises(ManifestError, match="is not the contract that the study names"):
        Study.load(folder / "study.toml")


def test_order_and_comments_change_no_digest(folder):
    before = ContractFile.load(folder / "heart.toml").digest
    (folder / "heart.toml").write_text('# a comment\ntitle = "Risk factors"\nname = "heart"\n' + CONTRACT.split("\n", 3)[3])
    assert ContractFile.load(folder / "heart.toml").digest == before


def test_without_a_hash_the_study_is_told_which(folder):
    (folder / "study.toml").write_text(STUDY.replace(', sha256 = "{sha256}"', "").replace("{{", "{").replace("}}", "}"))
    with pytest.raises(ManifestError, match=r'write sha256 = "[0-9a-f]{64}"'):
        Study.load(folder / "study.toml")


def test_nobody_can_claim_a_contract_that_it_is_not(folder):
    said = json.loads(Study.load(folder / "study.toml").canonical)
    said["data"]["variables"]["chol"]["plausible"] = [1, 9999]
    with pytest.raises(ManifestError, match="this is not the contract 'heart'"):
        Study.from_json(json.dumps(said).encode())


def test_a_contract_file_beside_more_data(folder):
    text = (folder / "study.toml").read_text().replace("[terms]", "[data.split]\ntest_share = 0.2\n[terms]")
    (folder / "study.toml").write_text(text)
    with pytest.raises(ManifestError, match="says more beside it"):
        Study.load(folder / "study.toml")


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        ({"variables": {"x": {"type": "array"}}}, "shape is given"),
        ({"variables": {"x": {"shape": [2]}}}, "shape is given"),
        ({"variables": {"x": {"plausible": [5, 1]}}}, "plausible is a range"),
        ({"variables": {"x": {"type": "category", "categories": ["a"], "other": "b"}}}, "'b' is no category"),
        ({"variables": {"x": {"role": "split"}}}, "is a boolean"),
        ({"variables": {"x": {}}, "cohort": {"min_events": 3}}, "counts events"),
        ({"variables": {"x": {"minimum": "soon"}}}, "a date such as"),
        ({"variables": {"x": {"molar_mas": 3}}}, "unknown key"),
    ],
)
def test_contracts_that_mean_nothing(edit, says):
    with pytest.raises(ManifestError, match=says):
        DataSpec.parse(edit)
