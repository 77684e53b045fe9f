"""An OMOP CDM 5.4: a folder or zip file of CSV or Parquet tables, or a database. Either SQL, or one variable a line:

    [source]
    type = "omop"
    path = "cdm.zip"

    [source.variables]
    sbp = { table = "measurement", concept = 3004249, value = "value_as_number", pick = "last" }
    asthma = { table = "condition_occurrence", concept = 317009, descendants = true, pick = "any" }

The latter gives one row for each person of `person`: person_id, year_of_birth, gender_concept_id and the variables.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from locum.data.sources.base import Source, existing
from locum.data.sources.omop_cdm import EVENTS, TABLES
from locum.data.sources.sql import Database, is_duckdb, is_sqlite, open_database, query_of, quoted
from locum.errors import ManifestError
from locum.study.document import Document, nearest

PERSON = ("person_id", "year_of_birth", "gender_concept_id")


class Variable(Document):
    """What is known of each person from the records of `table` that have one of the concepts.

    value: the column to take, for pick "last", "first" (by date, then by the table's key; records without the value are passed over), "mean",
    "min" or "max". pick "any" is 1 or 0, and "count" the number of records; without records they are 0, all others missing.
    unit: only records in one of these unit concepts. descendants: also concepts below those named, by concept_ancestor.
    """

    table: str
    concept: Annotated[tuple[int, ...], Field(max_length=10_000)] = ()
    value: str | None = None
    pick: Literal["last", "first", "mean", "min", "max", "any", "count"] = "last"
    unit: tuple[int, ...] = ()
    descendants: bool = False

    @field_validator("concept", "unit", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _in_the_model(self) -> Self:
        if self.table not in EVENTS:
            raise ValueError(f"there is no table of events '{self.table}'; {nearest(self.table, [*EVENTS])}")
        if (self.value is None) != (self.pick in ("any", "count")):
            raise ValueError(f'pick = "{self.pick}" takes {"no value" if self.value else "a value: the column to take"}')
        if self.value is not None and self.value not in TABLES[self.table]:
            raise ValueError(f"{self.table} has no column '{self.value}'; {nearest(self.value, [*TABLES[self.table]])}")
        if self.unit and "unit_concept_id" not in TABLES[self.table]:
            raise ValueError(f"{self.table} has no units")
        if self.descendants and not self.concept:
            raise ValueError("descendants needs a concept")
        return self


class Spec(Database):
    """query, query_file: one SELECT on the CDM's tables. variables: the same without SQL. schema: the one that holds the tables.
    encoding: of CSV tables."""

    type: Literal["omop"] | None = None
    query: str | None = None
    query_file: str | None = None
    variables: dict[str, Variable] = Field(default_factory=dict)
    cdm_schema: Annotated[str | None, Field(alias="schema")] = None
    encoding: str = "utf-8"

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if sum(bool(x) for x in (self.query, self.query_file, self.variables)) != 1:
            raise ValueError("give one of query, query_file and variables")
        taken = [n for n in self.variables if n.lower() in PERSON]
        if taken:
            raise ValueError(f"'{taken[0]}' is there without being asked for; choose another name for the variable")
        return self


def open_source(spec: Spec, path: Path | None) -> Source:
    query = one_row_per_person(spec.variables, spec.cdm_schema) if spec.variables else query_of(spec.query, spec.query_file)
    if spec.url_env or spec.url_file:
        return open_database(spec, None, query=query)
    where = existing(path, folder=True)
    if where.is_file() and (is_sqlite(where) or is_duckdb(where)):
        return open_database(spec, where, query=query)
    if where.is_file() and where.suffix.lower() != ".zip":
        raise ManifestError(f"{where.name} is neither a folder, a zip file nor a database.", fix="name the folder or the zip file with the CDM's tables")
    from locum.data.sources.omop_files import OmopFiles

    return OmopFiles(where, query, spec)


def one_row_per_person(variables: dict[str, Variable], schema: str | None = None) -> str:
    """SQL that DuckDB, PostgreSQL and SQLite read alike."""
    prefix = f"{quoted(schema)}." if schema else ""
    columns = [f"p.{c}" for c in PERSON]
    joins = []
    for k, (name, variable) in enumerate(variables.items()):
        cell = f"v{k}.value"
        columns.append(f"{f'COALESCE({cell}, 0)' if variable.pick in ('any', 'count') else cell} AS {quoted(name)}")
        joins.append(f"LEFT JOIN (\n{_per_person(variable, prefix)}\n) v{k} ON v{k}.person_id = p.person_id")
    return "\n".join([f"SELECT {', '.join(columns)}", f"FROM {prefix}person p", *joins, "ORDER BY p.person_id"])


def _per_person(variable: Variable, prefix: str) -> str:
    """SQL for (person_id, value), at most one row a person; every name in it is one of the CDM's."""
    event, value = EVENTS[variable.table], variable.value
    source = f"FROM {prefix}{variable.table}{_where(variable, prefix)}"
    if variable.pick in ("any", "count", "mean", "min", "max"):
        what = {"any": "1", "count": "count(*)", "mean": f"avg({value})", "min": f"min({value})", "max": f"max({value})"}[variable.pick]
        return f"SELECT person_id, {what} AS value {source} GROUP BY person_id"
    when = f"COALESCE({event.datetime}, {event.date})" if event.datetime else event.date
    down = " DESC" if variable.pick == "last" else ""
    ranked = f"SELECT person_id, {value} AS value, row_number() OVER (PARTITION BY person_id ORDER BY {when}{down}, {event.key}{down}) AS place {source}"
    return f"SELECT person_id, value FROM ({ranked}) ranked WHERE place = 1"  # noqa: S608 (names of the CDM and integers)


def _where(variable: Variable, prefix: str) -> str:
    event, ids = EVENTS[variable.table], ", ".join(map(str, variable.concept))
    conditions = []
    if variable.concept:
        below = f"SELECT descendant_concept_id FROM {prefix}concept_ancestor WHERE ancestor_concept_id IN ({ids})"  # noqa: S608 (integers)
        also = f" OR {event.concept} IN ({below})" if variable.descendants else ""
        conditions.append(f"({event.concept} IN ({ids}){also})")
    if variable.unit:
        conditions.append(f"unit_concept_id IN ({', '.join(map(str, variable.unit))})")
    if variable.value:
        conditions.append(f"{variable.value} IS NOT NULL")
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""
