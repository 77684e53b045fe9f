"""Each file against the validator of its format: the standard's own where there is one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import mlcroissant
import pytest
import xmlschema
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from huggingface_hub import ModelCard
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from locum.governance.cards import Facts, cards, schema, schemas


@pytest.fixture(params=["exact", "bare"])
def files(request: pytest.FixtureRequest) -> dict[str, bytes]:
    facts: Facts = request.getfixturevalue(request.param)
    return cards(facts)


def test_the_chai_card_has_the_elements_of_version_0_2(files: dict[str, bytes]) -> None:
    xmlschema.XMLSchema(schemas.chai()).validate(files["model-card.chai.xml"].decode())


@pytest.mark.skipif("LOCUM_CHAI_XSD" not in os.environ, reason="LOCUM_CHAI_XSD names no copy of https://mc.chai.org/v0.2/schema.xsd")
def test_the_chai_card_is_valid_under_the_schema_of_its_authors(files: dict[str, bytes]) -> None:
    signature = b'<schema xmlns="http://www.w3.org/2001/XMLSchema" targetNamespace="http://www.w3.org/2000/09/xmldsig#"><element name="Signature"/></schema>'
    original = Path(os.environ["LOCUM_CHAI_XSD"]).read_text(encoding="utf-8")
    xmlschema.XMLSchema(original, locations={"http://www.w3.org/2000/09/xmldsig#": [signature.decode()]}, allow="local").validate(
        files["model-card.chai.xml"].decode()
    )


def test_the_elements_that_we_wrote_down_refuse_what_is_out_of_order(files: dict[str, bytes]) -> None:
    text = files["model-card.chai.xml"].decode()
    for bad in (text.replace("ClinicalRiskLevel", "RiskLevel"), text.replace("<ReleaseStage>not stated</ReleaseStage>", ""), text.replace("v0.2", "v0.3")):
        assert not xmlschema.XMLSchema(schemas.chai()).is_valid(bad)


def test_the_readme_has_metadata_that_model_hubs_read(files: dict[str, bytes]) -> None:
    card = ModelCard(files["README.md"].decode())
    data = card.data.to_dict()
    assert data["library_name"] == "locum"
    assert data["license"] == "unknown"
    assert card.text.strip().startswith("# ")


def test_the_models_figures_are_metadata(exact: Facts) -> None:
    found = ModelCard(cards(exact)["README.md"].decode()).data.eval_results
    auc = exact.run["results"]["judged"]["auc"]["value"]
    assert [r.metric_value for r in found if r.metric_type == "auc" and "judged" in r.metric_name] == [auc]
    assert not [r for r in found if "alone" in r.metric_name]


def test_the_provenance_is_a_statement_with_slsa_provenance(files: dict[str, bytes], request: pytest.FixtureRequest) -> None:
    lines = files["provenance.intoto.jsonl"].decode().splitlines()
    assert len(lines) == 1
    found = json_format.Parse(lines[0], statement_pb2.Statement())
    Statement.copy_from_pb(found).validate()
    value = json.loads(lines[0])
    assert value["predicateType"] == "https://slsa.dev/provenance/v1"
    predicate = json_format.ParseDict(value["predicate"], provenance_pb2.Provenance())
    assert [d.name for d in predicate.build_definition.resolved_dependencies][:3] == ["study", "data contract", "roster"]
    assert predicate.run_details.metadata.finished_on.seconds == 1_800_000_060


def test_the_provenance_names_the_model_the_study_and_the_code(exact: Facts) -> None:
    value = json.loads(cards(exact)["provenance.intoto.jsonl"])
    assert value["subject"] == [{"name": "model.safetensors", "digest": {"sha256": exact.model}}]
    named = {d["name"]: d["digest"]["sha256"] for d in value["predicate"]["buildDefinition"]["resolvedDependencies"]}
    assert named["study"] == exact.digest
    assert named["roster"] == "ab" * 32
    assert "cd" * 32 in named.values()


def test_the_bill_of_materials_is_strictly_cyclonedx_1_6(files: dict[str, bytes]) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(files["sbom.cdx.json"].decode()) is None
    value = json.loads(files["sbom.cdx.json"])
    assert value["metadata"]["component"]["type"] == "machine-learning-model"
    assert [c["purl"] for c in value["components"]] == ["pkg:pypi/locum@0.1.0", "pkg:pypi/numpy@2.4.6%2Blocal"]


def test_the_data_set_card_is_croissant_and_holds_the_contracts_variables(files: dict[str, bytes], tmp_path: Path, exact: Facts) -> None:
    file = tmp_path / "datasets.croissant.json"
    file.write_bytes(files["datasets.croissant.json"])
    metadata = mlcroissant.Dataset(jsonld=str(file)).metadata
    assert not metadata.issues.errors
    assert [f.id for f in metadata.record_sets[0].fields] == [f"rows/{name}" for name in exact.variables]
    assert "2019-01-01 to 2024-12-31" in metadata.record_sets[0].fields[2].description
    assert metadata.data_limitations
    assert "special category" in metadata.personal_sensitive_information[0]


@pytest.mark.parametrize("paper", ["dpia", "ropa", "pccp", "hti1"])
def test_the_papers_are_valid_under_their_schemas(files: dict[str, bytes], paper: schemas.Paper) -> None:
    checker = jsonschema.Draft202012Validator(schema(paper))
    jsonschema.Draft202012Validator.check_schema(schema(paper))
    value = json.loads(files[f"{paper}.json"])
    checker.validate(value)
    for bad in _without_one(value):
        assert not checker.is_valid(bad)
    assert not checker.is_valid({**value, "conclusion": "all is well"})


def _without_one(value: dict[str, object]) -> Iterator[dict[str, object]]:
    for key in value:
        yield {k: v for k, v in value.items() if k != key}


def test_all_31_attributes_in_the_rules_order(files: dict[str, bytes]) -> None:
    names = [a["attribute"] for a in json.loads(files["hti1.json"])["attributes"]]
    assert len(set(names)) == 31
    assert [sum(n.startswith(f"(b)(11)(iv)(B)({k})(") for n in names) for k in range(1, 10)] == [4, 4, 2, 4, 2, 4, 5, 4, 2]
