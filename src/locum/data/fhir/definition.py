"""A ViewDefinition (SQL on FHIR v2) as a checked document: which resource, which rows, which columns.

https://build.fhir.org/ig/FHIR/sql-on-fhir-v2/StructureDefinition-ViewDefinition.html. Its descriptive fields (url, title, contact ...) are
allowed and not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import msgspec
from pydantic import Field, model_validator

from locum.errors import ManifestError
from locum.study.document import MAX_DOCUMENT_BYTES, Document

MAX_COLUMNS = 1000
MAX_NESTING = 16
_CONSTANT_TYPES = "base64Binary|boolean|canonical|code|date|dateTime|decimal|id|instant|integer|integer64|oid|string|positiveInt|time|unsignedInt|uri|url|uuid"
_VALUE_KEYS = {"value" + t[0].upper() + t[1:]: t for t in _CONSTANT_TYPES.split("|")}

Expression = Annotated[str, Field(min_length=1)]
SqlName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=255)]


class Element(Document):
    """What any FHIR element may carry besides."""

    id: Any = None
    extension: Any = None
    modifier_extension: Any = Field(None, alias="modifierExtension")


class Column(Element):
    """One column: its name, the expression of its cells, their FHIR type, and whether a cell may hold several values."""

    name: SqlName
    path: Expression
    type: str | None = None
    collection: bool = False
    description: Any = None
    tag: Any = None


class Constant(Element):
    """`%name` in expressions: one `value[x]`."""

    name: SqlName
    value: str | int | float | bool
    type: str

    @model_validator(mode="before")
    @classmethod
    def _one_value(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "type" in data:
            return data
        keys = [k for k in data if k in _VALUE_KEYS]
        if len(keys) != 1:
            raise ValueError(f"a constant has exactly one value, such as valueString, valueInteger or valueDate; this one has {len(keys)}")
        value = data[keys[0]]
        wanted = {"valueBoolean": bool, "valueDecimal": (int, float)}.get(keys[0], int if keys[0].endswith(("Int", "Integer", "Integer64")) else str)
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):  # type: ignore[arg-type]
            raise ValueError(f"{keys[0]} has a value of another type")
        return {**{k: v for k, v in data.items() if k != keys[0]}, "value": value, "type": _VALUE_KEYS[keys[0]]}


class Where(Element):
    """A condition that a resource must meet."""

    path: Expression
    description: Any = None


class Select(Element):
    """Columns, and the elements (if any) of which each makes a row of its own."""

    column: tuple[Column, ...] = ()
    select: tuple[Select, ...] = ()
    for_each: Expression | None = Field(None, alias="forEach")
    for_each_or_null: Expression | None = Field(None, alias="forEachOrNull")
    repeat: tuple[Expression, ...] = ()
    union_all: tuple[Select, ...] = Field((), alias="unionAll")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = [n for n, v in (("forEach", self.for_each), ("forEachOrNull", self.for_each_or_null), ("repeat", self.repeat)) if v]
        if len(ways) > 1:
            raise ValueError(f"a select has {' and '.join(ways)}, and may have one of them")
        if not (self.column or self.select or self.union_all):
            raise ValueError("a select needs column, select or unionAll")
        return self

    def columns(self, depth: int = 0) -> Iterator[Column]:
        """Its columns in their order; raises `ManifestError` for branches of unionAll that do not agree."""
        if depth > MAX_NESTING:
            raise ManifestError(f"The view nests its selects more than {MAX_NESTING} deep.", fix="flatten it")
        yield from self.column
        for inner in self.select:
            yield from inner.columns(depth + 1)
        if self.union_all:
            branches = [[*b.columns(depth + 1)] for b in self.union_all]
            names = [[c.name for c in b] for b in branches]
            for other in names[1:]:
                if other != names[0]:
                    raise ManifestError(
                        f"The branches of a unionAll have different columns: {', '.join(names[0])} and {', '.join(other)}.",
                        fix="give every branch the same columns in the same order",
                    )
            yield from branches[0]


class ViewDefinition(Element):
    """A table that is made of one type of resource."""

    resource: Annotated[str, Field(pattern=r"^[A-Z][A-Za-z]{1,63}$")]
    select: Annotated[tuple[Select, ...], Field(min_length=1)]
    where: tuple[Where, ...] = ()
    constant: tuple[Constant, ...] = ()
    resource_type: Literal["ViewDefinition", "https://sql-on-fhir.org/ig/StructureDefinition/ViewDefinition"] | None = Field(None, alias="resourceType")
    name: str | None = None
    status: Any = None
    url: Any = None
    identifier: Any = None
    version: Any = None
    version_algorithm: Any = Field(None, alias="versionAlgorithmString")
    title: Any = None
    meta: Any = None
    text: Any = None
    language: Any = None
    implicit_rules: Any = Field(None, alias="implicitRules")
    contained: Any = None
    experimental: Any = None
    date: Any = None
    publisher: Any = None
    contact: Any = None
    description: Any = None
    use_context: Any = Field(None, alias="useContext")
    jurisdiction: Any = None
    purpose: Any = None
    copyright: Any = None
    copyright_label: Any = Field(None, alias="copyrightLabel")
    fhir_version: Any = Field(None, alias="fhirVersion")
    profile: Any = None

    @classmethod
    def load(cls, value: Any, *, where: str = "The view") -> ViewDefinition:
        """The view that JSON data describes, its column names checked; raises `ManifestError`."""
        view = cls.parse(value, where=where)
        view.columns()
        return view

    @classmethod
    def read(cls, path: Path) -> ViewDefinition:
        """The view in a JSON file."""
        try:
            if path.stat().st_size > MAX_DOCUMENT_BYTES:
                raise ManifestError(f"{path.name} is larger than {MAX_DOCUMENT_BYTES >> 20} MiB.", fix="a ViewDefinition is a short text file")
            return cls.load(msgspec.json.decode(path.read_bytes()), where=path.name)
        except FileNotFoundError:
            raise ManifestError(f"There is no file {path}.", fix="check `view`; a relative path starts at the mapping file's folder") from None
        except OSError as error:
            raise ManifestError(f"{path.name} cannot be read: {error.strerror}.") from None
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise ManifestError(f"{path.name} is not valid JSON: {error}.", fix="correct it there") from None

    def columns(self) -> list[Column]:
        """All columns, in their order; raises `ManifestError` for a name that is used twice."""
        found = [c for s in self.select for c in s.columns()]
        names = [c.name for c in found]
        twice = sorted({n for n in names if names.count(n) > 1}) if len(names) <= MAX_COLUMNS else []
        if twice:
            raise ManifestError(f"The view has more than one column '{twice[0]}'.", fix="give every column its own name")
        if len(found) > MAX_COLUMNS:
            raise ManifestError(f"The view has {len(found):,} columns.", why=f"At most {MAX_COLUMNS:,} are read.", fix="keep those that the study needs")
        return found
