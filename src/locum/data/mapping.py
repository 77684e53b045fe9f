"""The site's mapping: which column of its own table is which variable of a study, in which unit and coding.

    [source]
    path = "lung.csv"                # from this file's folder

    [columns]
    time = "survival_days"
    female = { column = "sex", values = { "1" = 0, "2" = 1 } }
    glucose = { column = "gluc", unit = "mmol/L", scale = 18.016 }

A variable that is not listed is the column of the same name, so one mapping serves many studies.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from locum.data.sources import SourceSpec
from locum.errors import DataError, ManifestError
from locum.study.document import Document, nearest, read_toml
from locum.study.manifest import DataSpec, Variable, VariableName


class Column(Document):
    """Where one variable comes from: value in the study's unit = cell * scale + offset.

    unit: the unit of the cells (UCUM). values: cell -> the study's number, boolean or category; every cell must then be
    listed, or be missing. missing: further cells of this column that mean "no value".
    """

    column: str = Field(min_length=1)
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
    def _invertible(self) -> Self:
        if self.scale == 0:
            raise ValueError("scale is a factor other than 0")
        return self

    def check(self, name: str, variable: Variable) -> None:
        """Raise `ManifestError` where unit or values contradict the study's variable `name`."""
        if self.unit and variable.unit and self.unit != variable.unit and self.scale is None and self.offset is None:
            raise ManifestError(
                f"'{name}' is in {self.unit} here, and the study needs {variable.unit}.",
                fix=f'give the factor from {self.unit} to {variable.unit} as scale = ..., or correct the unit of "{self.column}"',
            )
        for target in self.values.values():
            what = f"The values of '{name}' lead to '{target}'"
            if variable.type == "category" and target not in variable.categories:
                raise ManifestError(f"{what}, which is no category of the study.", fix=nearest(target, [*variable.categories]))
            if variable.type != "category" and not _is_number(target):
                raise ManifestError(f"{what}, and the study needs a number.", fix='write for example values = { "M" = 1, "F" = 0 }')


class SiteMapping(Document):
    """A site's mapping file. Without one, every variable is the column of the same name."""

    source: SourceSpec = SourceSpec()
    columns: dict[VariableName, Column] = Field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a mapping from a TOML file; its source path then starts at that file's folder. Raises `ManifestError`."""
        path = Path(path)
        mapping = cls.parse(read_toml(path), where=path.name)
        if mapping.source.path is None:
            return mapping
        source = mapping.source.model_copy(update={"path": str(path.parent / mapping.source.path)})
        return mapping.model_copy(update={"source": source})

    def resolve(self, data: DataSpec, have: Sequence[str], where: str = "the table") -> dict[str, Column]:
        """For every variable of the study the column that holds it; raises `DataError` or `ManifestError`."""
        found = {name: self.columns.get(name) or Column(column=name) for name in data.variables}
        for name, column in found.items():
            if column.column in have:
                column.check(name, data.variables[name])
            elif name in self.columns:
                raise DataError(f"'{name}' is mapped to the column '{column.column}', which {where} does not have.", fix=nearest(column.column, [*have]))
            else:
                raise DataError(
                    f"The study needs '{name}', which is neither mapped nor a column of {where}.",
                    fix=f'{nearest(name, [*self.columns, *have])} Map it under [columns]: {name} = "the column"',
                )
        return found

    def to_toml(self) -> str:
        """The mapping as the text of a mapping file."""
        source = [f"{k} = {_toml(v)}" for k, v in self.source.model_dump(exclude_defaults=True).items()]
        columns = [f"{name} = {_toml(c.model_dump(exclude_defaults=True))}" for name, c in self.columns.items()]
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


def _toml(value: Any) -> str:
    """A string, number, list or table as TOML; JSON's strings are TOML's basic strings."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return json.dumps(value, ensure_ascii=False)
