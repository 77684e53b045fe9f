"""The site's mapping: which column of its own table is which variable of a study, in which unit and coding.

    [source]
    path = "lung.csv"                # from this file's folder

    [columns]
    time = "survival_days"
    female = { column = "sex", values = { "1" = 0, "2" = 1 } }
    glucose = { column = "gluc", unit = "mmol/L" }
    bmi = { expression = "weight / power(height / 100, 2)" }
    stay = { expression = "discharged - admitted", dates = ["admitted", "discharged"] }

A variable that is not listed is the column of the same name, so one mapping serves many studies.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import polars as pl
from pydantic import Field, field_validator, model_validator

from locum.data import toml_text as toml
from locum.data.sources.base import AnySpec
from locum.data.sources.table import Spec as TableSpec
from locum.errors import DataError, ManifestError
from locum.study.document import Document, expect, nearest, read_toml
from locum.study.manifest import DataSpec, Variable, VariableName


class Column(Document):
    """Where one variable comes from: a column, or an expression over columns.

    unit: the unit of the cells (UCUM), from which they are converted. scale, offset: value in the study's unit = cell * scale +
    offset, in place of that conversion. values: cell -> the study's number, boolean or category; every cell must then be listed, or be
    missing. missing: further cells of this column that mean "no value". format: how a date is written, as for strptime. expression:
    SQL over columns of numbers, of which some are declared to be text or dates; the difference of two dates is in days.
    """

    column: str | None = Field(default=None, min_length=1)
    expression: str | None = Field(default=None, min_length=1, max_length=4000)
    text: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()
    format: str | None = None
    unit: str | None = None
    values: dict[str, str] = Field(default_factory=dict)
    missing: tuple[str, ...] = ()
    scale: float | None = None
    offset: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"column": value} if isinstance(value, str) else value

    @field_validator("values", "missing", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        """TOML numbers and booleans as text: `{ "M" = 1, "F" = 0 }`, `missing = [9]`."""
        if isinstance(value, dict):
            return {k: _plain(v) for k, v in value.items()}
        return [_plain(v) for v in value] if isinstance(value, list) else value

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.scale == 0:
            raise ValueError("scale is a factor other than 0")
        if (self.column is None) == (self.expression is None):
            raise ValueError("give a column or an expression")
        if self.expression is not None:
            reads = self.reads
            strange = [c for c in (*self.text, *self.dates) if c not in reads]
            if strange:
                raise ValueError(f"the expression does not name '{strange[0]}'")
        return self

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """The columns of the table that it needs."""
        return (self.column,) if self.column is not None else tuple(dict.fromkeys(self.sql.meta.root_names()))

    @cached_property
    def sql(self) -> pl.Expr:
        """The expression, parsed. It is written by the site itself, and can name columns only."""
        try:
            return pl.sql_expr(self.expression or "")
        except pl.exceptions.PolarsError as error:
            raise ValueError(f"the expression is no SQL over columns: {str(error).splitlines()[0][:200]}") from None

    def affine(self, variable: Variable) -> tuple[float, float]:
        """scale and offset from the cells' unit to the study's. Raises `ManifestError` where one cannot become the other."""
        if self.scale is not None or self.offset is not None:
            return 1.0 if self.scale is None else self.scale, self.offset or 0.0
        if not self.unit or not variable.unit or self.unit == variable.unit:
            return 1.0, 0.0
        from locum.data import units  # it reads its tables of units when it is imported

        factor = units.convert_factor(self.unit, variable.unit, variable.molar_mass)
        return factor.scale, factor.offset

    def check(self, name: str, variable: Variable) -> None:
        """Raise `ManifestError` where unit or values contradict the study's variable `name`."""
        try:
            self.affine(variable)
        except ManifestError as error:
            raise ManifestError(
                f"'{name}' is in {self.unit} here, and the study needs {variable.unit}. {error.what}",
                why=error.why,
                fix=error.fix or f'give the factor from {self.unit} to {variable.unit} as scale = ..., or correct the unit of "{self.column}"',
            ) from None
        for target in self.values.values():
            what = f"The values of '{name}' lead to '{target}'"
            if variable.type == "category" and target not in variable.categories:
                raise ManifestError(f"{what}, which is no category of the study.", fix=nearest(target, [*variable.categories]))
            if variable.type not in ("category", "text") and not _is_number(target):
                raise ManifestError(f"{what}, and the study needs a number.", fix='write for example values = { "M" = 1, "F" = 0 }')


class SiteMapping(Document):
    """A site's mapping file. Without one, every variable is the column of the same name."""

    source: AnySpec = TableSpec()
    columns: dict[VariableName, Column] = Field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a mapping from a TOML file; its source path then starts at that file's folder. Raises `ManifestError`."""
        path = Path(path)
        mapping = cls.parse(expect("mapping", read_toml(path), path), where=path.name)
        return mapping.model_copy(update={"source": mapping.source.found_from(path.parent)})

    def resolve(self, data: DataSpec, have: Sequence[str], where: str = "the table") -> dict[str, Column]:
        """For every variable of the study the column that holds it; raises `DataError` or `ManifestError`."""
        found = {name: self.columns.get(name) or Column(column=name) for name in data.variables}
        there = set(have)
        for name, column in found.items():
            absent = next((c for c in column.reads if c not in there), None)
            if absent is None:
                column.check(name, data.variables[name])
            elif name in self.columns:
                raise DataError(f"'{name}' is mapped to the column '{absent}', which {where} does not have.", fix=nearest(absent, [*have]))
            else:
                raise DataError(
                    f"The study needs '{name}', which is neither mapped nor a column of {where}.",
                    fix=f'map it under [columns]: {name} = "the column"; {nearest(name, [*self.columns, *have])}',
                )
        return found

    def to_toml(self) -> str:
        """The mapping as the text of a mapping file."""
        source = [f"{k} = {toml.value(v)}" for k, v in self.source.model_dump(exclude_defaults=True).items()]
        columns = [f"{name} = {toml.value(c.model_dump(exclude_defaults=True))}" for name, c in self.columns.items()]
        return "\n".join(["[source]", *source, "", "[columns]", *columns, ""])


def _plain(value: Any) -> Any:
    """A TOML value as the text of a cell: true is 1, and 9.0 is 9."""
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    return str(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
