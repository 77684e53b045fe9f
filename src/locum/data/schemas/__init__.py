"""JSON Schemas of the contract and the mapping, for editors and for other programs; made from the models that read these files.

    python -m locum.data.schemas --write     # after a change of a model
    python -m locum.data.schemas --check     # are they current?

A schema says which keys there are and of which type. What only the models can tell (that categories go with type "category", that a unit
is one of UCUM) is left to `locum data contract show` and `locum data check`.
"""

from __future__ import annotations

import importlib
import json
from importlib.resources import files
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NAMES = ("contract", "mapping")
_DATE = {"type": "string", "format": "date"}
_CELL = {"type": ["string", "number", "boolean"]}


def load(name: str) -> dict[str, Any]:
    """The published schema 'contract' or 'mapping'."""
    schema: dict[str, Any] = json.loads(files("locum.data.schemas").joinpath(f"{name}.schema.json").read_text(encoding="utf-8"))
    return schema


def generate() -> dict[str, str]:
    """Name -> the text of its schema, as the models say now."""
    return {name: json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for name, schema in (("contract", _contract()), ("mapping", _mapping()))}


def _contract() -> dict[str, Any]:
    from locum.study.contract import ContractFile

    schema = ContractFile.model_json_schema(by_alias=True)
    _dated(schema["$defs"])
    del schema["properties"]["origin"], schema["$defs"]["Origin"]  # a study has one, its contract's file has none
    for table in (schema["properties"]["variables"], schema["$defs"]["Cohort"]["properties"]["include"]):
        table["additionalProperties"] = False
    return _headed("contract", "A data contract: which variables a study needs of each site", schema)


def _mapping() -> dict[str, Any]:
    from locum.data.mapping import SiteMapping
    from locum.data.sources import base

    schema = SiteMapping.model_json_schema(by_alias=True)
    kinds: list[type[BaseModel]] = [importlib.import_module(module).Spec for module in dict.fromkeys(base.KINDS.values())]
    refs, shared = models_json_schema([(k, "validation") for k in kinds], by_alias=True)
    definitions = {**schema.get("$defs", {}), **shared["$defs"]}
    definitions.pop("SourceSpec", None)
    schema["properties"]["source"] = {"anyOf": [refs[k, "validation"] for k in kinds], "description": "what kind of source, and where it is"}
    column = definitions["Column"]["properties"]
    column["values"]["additionalProperties"] = _CELL
    column["missing"]["items"] = _CELL
    columns = schema["properties"]["columns"]
    columns["patternProperties"] = {pattern: _or_name(rule) for pattern, rule in columns["patternProperties"].items()}
    columns["additionalProperties"] = False
    return _headed("mapping", "A site's mapping: which column of its table is which variable", {**schema, "$defs": definitions})


def _or_name(rule: dict[str, Any]) -> dict[str, Any]:
    """A column's table, or in short its name."""
    return {"anyOf": [{"type": "string", "minLength": 1}, rule]}


def _dated(definitions: dict[str, Any]) -> None:
    """Limits may be written as dates."""
    for name, keys in (("Variable", ("minimum", "maximum")), ("Rule", ("at_least", "at_most"))):
        for key in keys:
            definitions[name]["properties"][key].setdefault("anyOf", []).append(_DATE)
    for option in definitions["Variable"]["properties"]["plausible"]["anyOf"]:
        if option.get("type") == "array":
            option["prefixItems"] = [{"anyOf": [rule, _DATE]} for rule in option["prefixItems"]]


def _headed(name: str, title: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"$schema": DIALECT, "$id": f"urn:locum:schema:{name}:1", **schema, "title": title}
