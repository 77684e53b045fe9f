"""The data contract: which variables a study needs, in which unit, coding and range, of whom, and how patients are split.

It is written in the study, or in a file of its own that several studies name by its hash:

    schema = "locum/contract/1"
    name = "heart"
    title = "Coronary angiography: risk factors and diagnosis"

    [variables.chol]
    unit = "mg/dL"
    molar_mass = 386.65
    plausible = [90, 420]
"""

from __future__ import annotations

import math
import re
from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from locum.errors import ManifestError
from locum.study.canonical import canonical, sha256
from locum.study.document import Document, expect, read_toml

CONTRACT_SCHEMA = "locum/contract/1"
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
NAME = re.compile(r"^[a-z0-9][a-z0-9_.-]{0,63}$")
EPOCH = date(1970, 1, 1)
MAX_DEPTH = 32
"""Tables within tables of a study."""
MOST = 1e100
"""No measurement is larger, and none is smaller than its inverse: sums of squares then neither overflow nor vanish."""
MAX_ARRAY = 1 << 26
"""Numbers of one row's array."""


def _days(value: Any) -> Any:
    """A date, as TOML or as ISO 8601 text, in days since 1970-01-01; everything else as it is."""
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value)
        except ValueError:
            raise ValueError("a limit is a number, or a date such as 2019-12-31") from None
    return float((value - EPOCH).days) if isinstance(value, date) and not isinstance(value, datetime) else value


def _one_line(value: str) -> str:
    if re.search("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", value):
        raise ValueError("it holds a line end or another control character")
    return value


Line = Annotated[str, AfterValidator(_one_line)]
"""Text that whoever reads it sees as it is: no line end, no escape sequence, nothing that turns the direction of writing."""
Limit = Annotated[float, BeforeValidator(_days), Field(ge=-MOST, le=MOST)]


class Variable(Document):
    """One column that the study reads, in its canonical unit and coding.

    unit: UCUM. minimum, maximum: nothing outside can be right. plausible: where nearly all values lie; many outside mean another unit.
    A date's limits are written as dates and kept as days since 1970-01-01. other: the category that unlisted codes become. code: what
    is measured, as 'system|code'. codes: category -> the codes that mean it. molar_mass: g/mol of the analyte, for conversion between
    mass and amount. missing_codes: numbers that stand for "no value". min_varying: the least share of values that differ from the
    most frequent one. shape: of one row's array.
    """

    type: Literal["number", "integer", "boolean", "category", "date", "text", "array"] = "number"
    role: Literal["feature", "outcome", "time", "event", "group", "patient", "split"] = "feature"
    label: Annotated[Line, Field(max_length=1000)] = ""
    unit: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    minimum: Limit | None = None
    maximum: Limit | None = None
    plausible: tuple[Limit, Limit] | None = None
    categories: Annotated[tuple[Line, ...], Field(max_length=10_000)] = ()
    other: str | None = None
    code: Annotated[str, Field(max_length=300)] | None = None
    codes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    molar_mass: Annotated[float, Field(gt=0, le=1e7)] | None = None
    missing_codes: Annotated[tuple[float, ...], Field(max_length=1000)] = ()
    max_missing: Annotated[float, Field(ge=0, le=1)] = 1.0
    min_varying: Annotated[float, Field(ge=0, le=1)] = 0.0
    shape: Annotated[tuple[Annotated[int, Field(ge=1, le=1 << 24)], ...], Field(max_length=4)] = ()

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (self.type == "category") != bool(self.categories):
            raise ValueError("categories are listed for type 'category', and only for it")
        if (self.type == "array") != bool(self.shape):
            raise ValueError("shape is given for type 'array', and only for it: for example shape = [12, 1000]")
        if self.minimum is not None and self.maximum is not None and self.minimum >= self.maximum:
            raise ValueError("minimum must lie below maximum")
        if self.plausible is not None and self.plausible[0] >= self.plausible[1]:
            raise ValueError("plausible is a range: the first number must lie below the second")
        for low, high in ((self.minimum, self.maximum), self.plausible or (None, None)):
            if low is not None and high is not None and high - low < max(1 / MOST, 1e-12 * max(abs(low), abs(high))):
                raise ValueError("the ends of a range are too close to each other to be told apart")
        if math.prod(self.shape) > MAX_ARRAY:
            raise ValueError(f"shape is that of more than {MAX_ARRAY:,} numbers a row")
        known = set(self.categories)
        if len(known) < len(self.categories):
            raise ValueError("a category is listed twice")
        strange = [c for c in ([self.other] if self.other is not None else []) + [*self.codes] if c not in known]
        if strange:
            raise ValueError(f"'{strange[0]}' is no category of the variable")
        if self.role == "split" and self.type != "boolean":
            raise ValueError("a variable of role 'split' is a boolean: 1 for the patients that are tested on")
        return self

    def written(self, limit: float) -> str:
        """A limit as people write it: a number, or of a date the day."""
        try:
            return (EPOCH + timedelta(days=limit)).isoformat() if self.type == "date" else f"{limit:.12g}"
        except OverflowError:  # beyond the year 9999
            return f"{limit:.12g}"


class Split(Document):
    """A fixed split of patients by hash, the same wherever it is computed; a patient is in one part only. A variable of role
    'split' in the contract takes its place where the split was decided before."""

    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    salt: str = "locum"


class Rule(Document):
    """What a row must fulfil in one variable to belong to the cohort. among: of its categories. present: that it has a value at all;
    every other rule asks for that too."""

    at_least: Limit | None = None
    at_most: Limit | None = None
    among: Annotated[tuple[str, ...], Field(max_length=10_000)] | None = None
    present: Literal[True] | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.at_least is None and self.at_most is None and self.among is None and not self.present:
            raise ValueError("a rule says at_least, at_most, among or present")
        return self


class Cohort(Document):
    """Which rows belong to the study, and how many patients and events a site needs of them."""

    include: dict[VariableName, Rule] = Field(default_factory=dict, max_length=100)
    min_patients: Annotated[int, Field(ge=1)] = 1
    min_events: Annotated[int, Field(ge=0)] = 0


class Origin(Document):
    """The contract file that a study's data specification was taken from, word for word; whoever reads the study can check that."""

    name: Name
    title: Annotated[Line, Field(max_length=1000)] = ""
    licence: Annotated[Line, Field(max_length=200)] = ""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class DataSpec(Document):
    """The data that the study needs from each site: its contract with them. origin: of a contract that has a file of its own."""

    variables: dict[VariableName, Variable] = Field(min_length=1, max_length=4096)
    split: Split = Split()
    cohort: Cohort = Cohort()
    origin: Origin | None = None

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        for role, why in (("patient", "one variable says whose row it is"), ("split", "one variable says which part a patient is in")):
            names = [n for n, v in self.variables.items() if v.role == role]
            if len(names) > 1:
                raise ValueError(f"'{names[0]}' and '{names[1]}' both have the role of {role}: {why}")
        for name, rule in self.cohort.include.items():
            _check_rule(name, rule, self.variables.get(name))
        if self.cohort.min_events and not any(v.role == "event" or (v.role == "outcome" and v.type == "boolean") for v in self.variables.values()):
            raise ValueError("cohort.min_events counts events: give a variable the role 'event', or a boolean one the role 'outcome'")
        if self.origin is not None and ContractFile.of(self).digest != self.origin.sha256:
            raise ValueError(f"origin: this is not the contract '{self.origin.name}' whose SHA-256 is {self.origin.sha256}")
        return self

    def of_role(self, role: str) -> str | None:
        """The first variable of a role."""
        return next((n for n, v in self.variables.items() if v.role == role), None)


def _check_rule(name: str, rule: Rule, variable: Variable | None) -> None:
    if variable is None:
        raise ValueError(f"cohort.include names '{name}', which is no variable of the contract")
    if variable.type in ("text", "array") or variable.role == "patient":
        raise ValueError(f"cohort.include: '{name}' can be neither compared nor listed; use a number, a date, a boolean or a category")
    if (rule.among is not None) and variable.type != "category":
        raise ValueError(f"cohort.include: among is for categories, and '{name}' is of type {variable.type}")
    if variable.type == "category" and (rule.at_least is not None or rule.at_most is not None):
        raise ValueError(f"cohort.include: '{name}' is a category: say which ones with among")
    known = set(variable.categories)
    strange = [c for c in rule.among or () if c not in known]
    if strange:
        raise ValueError(f"cohort.include: '{strange[0]}' is no category of '{name}'")


class ContractFile(DataSpec):
    """A contract in a file of its own: under a name, and with the digest that a study writes down."""

    schema_: Annotated[Literal["locum/contract/1"], Field(alias="schema")] = CONTRACT_SCHEMA  # type: ignore[assignment]
    name: Name
    title: Annotated[Line, Field(max_length=1000)] = ""
    licence: Annotated[Line, Field(max_length=200)] = ""

    @model_validator(mode="before")
    @classmethod
    def _one_order(cls, value: Any) -> Any:
        """Equal digests mean equal contracts, and the digest is of sorted JSON: so the order of keys must mean nothing."""
        return in_order(value)

    @model_validator(mode="after")
    def _original(self) -> Self:
        if self.origin is not None:
            raise ValueError("a contract file has no origin: it is one")
        return self

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a contract from a TOML file; raises `ManifestError`."""
        path = Path(path)
        return cls.parse({"schema": CONTRACT_SCHEMA, **expect("contract", read_toml(path), path)}, where=path.name)

    @classmethod
    def of(cls, data: DataSpec) -> ContractFile:
        """The file that `data` says it was taken from."""
        if data.origin is None:
            raise ManifestError("This contract does not come from a file of its own.")
        said = data.origin
        return cls(name=said.name, title=said.title, licence=said.licence, variables=data.variables, split=data.split, cohort=data.cohort)

    @property
    def data(self) -> DataSpec:
        """The contract as a study holds it, with its origin."""
        origin = Origin(name=self.name, title=self.title, licence=self.licence, sha256=self.digest)
        return DataSpec(variables=self.variables, split=self.split, cohort=self.cohort, origin=origin)

    @cached_property
    def canonical(self) -> bytes:
        """The bytes that are hashed: RFC 8785 JSON with every default written out."""
        return canonical(self.model_dump(mode="json", by_alias=True))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `canonical`, in hexadecimal."""
        return sha256(self.canonical)


def in_order(value: Any, place: tuple[str, ...] = ()) -> Any:
    """Plain data with the keys of every table sorted. Raises `ValueError` for what has no canonical JSON, and so no digest of its own: NaN and
    the infinities would all be null, and a peer may have sent anything."""
    if len(place) > MAX_DEPTH:
        raise ValueError(f"'{place[0]}' is more than {MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        return {in_order(key, place): in_order(value[key], (*place, str(key))) for key in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [in_order(item, (*place, str(i))) for i, item in enumerate(value)]
    if isinstance(value, str) and not value.isascii() and re.search("[\ud800-\udfff]", value):
        raise ValueError(f"'{'.'.join(place)}': the text is not Unicode")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"'{'.'.join(place)}': the number is not finite")
    if isinstance(value, int) and abs(value) >= 1 << 53:
        raise ValueError(f"'{'.'.join(place)}': beyond 2^53 not all readers agree on a whole number")
    return value
