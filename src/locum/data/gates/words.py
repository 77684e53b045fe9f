"""What findings say: types and numbers in words, and what a data manager can do about a column."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta

from locum.data.mapping import Column
from locum.study.manifest import EPOCH, Variable

TYPES = {
    "number": "a number",
    "integer": "a whole number",
    "boolean": "0 or 1 (or true, false, yes, no)",
    "category": "one of the study's categories",
    "date": "a date",
    "text": "text",
    "array": "an array of the contract's shape",
}


def advice(variable: Variable, column: Column | None = None) -> str:
    """What to do about cells that are no value. column: where they come from."""
    if variable.role == "patient":
        return "complete the identifiers, or leave those rows out of the export; long numbers are exported as text"
    if column is not None and column.expression is not None:
        return 'correct the expression in the mapping, or say for it which cells mean "no value": missing = [...], and which columns are text or dates'
    if variable.type == "category":
        return 'list the site\'s codes as values = { ... } in the mapping, and those that mean "no value" as missing = [...]'
    if variable.type == "boolean":
        return 'in the mapping, say which codes mean 1 and which 0, for example values = { yes = 1, no = 0 }, and which mean "no value": missing = [...]'
    if variable.type == "date":
        return 'say in the mapping how dates are written: { column = "...", format = "%d.%m.%Y" }'
    return 'in the mapping, list cells that mean "no value" as missing = [...] and text codes as values = { ... }; for 1,5 set decimal = "," under [source]'


def reasons(counts: Counter[str], most: int | None = 5) -> str:
    """The commonest reasons with their counts: "no cell has a value (3), it holds a NUL byte (1)"."""
    return ", ".join(f"{reason} ({n:,})" for reason, n in counts.most_common(most))


def place(column: Column | None, name: str) -> str:
    """Where a variable's cells are."""
    if column is None:
        return f"of '{name}'"
    return f"in the column '{column.column}' ({name})" if column.column is not None else f"that '{name}' is computed from"


def number(x: float, variable: Variable | None = None) -> str:
    """A value as people write it; that of a date as a date."""
    if variable is not None and variable.type == "date" and abs(x) < 10_000_000:
        try:
            day: date = EPOCH + timedelta(days=int(x // 1))
            return day.isoformat()
        except OverflowError:
            pass
    return f"{x:,.0f}" if float(x).is_integer() and abs(x) < 1e15 else f"{x:.4g}"


def extent(low: float | None, high: float | None, variable: Variable) -> str:
    """'outside 50 to 700 mg/dL', 'below 0', 'above 120 a'."""
    unit = f" {variable.unit}" if variable.unit else ""
    if low is None:
        return f"above {number(high or 0.0, variable)}{unit}"
    if high is None:
        return f"below {number(low, variable)}{unit}"
    return f"outside {number(low, variable)} to {number(high, variable)}{unit}"


def share(part: int, whole: int) -> str:
    """A percentage that is not 0 % nor 100 % unless it is nothing or all."""
    percent = 100 * part / whole if whole else 0.0
    if 0 < percent < 1 or 99 < percent < 100:
        return f"{percent:.2g} %" if percent < 1 else f"{min(percent, 99.99):.2f} %"
    return f"{percent:.0f} %"
