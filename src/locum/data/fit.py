"""Whether a column's values are what a variable of the contract needs, and what its line in the mapping must then say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.data import codings, units
from locum.data import toml_text as toml
from locum.data.gates.words import share
from locum.data.names import Concept, concepts, meant, split_unit
from locum.data.profile import Profile, sentinels
from locum.errors import ManifestError, counted
from locum.study.contract import Variable


@dataclass
class Fit:
    """How well one column's values are what a variable needs, from 0 to 1, and what follows for the mapping."""

    score: float
    entry: dict[str, Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    ask: list[str] = field(default_factory=list)
    usable: bool = True


def fit(name: str, variable: Variable, p: Profile) -> Fit:
    """How well the column described by `p` serves the variable `name`."""
    if not p.filled and p.shape is None:
        return Fit(0.1, reasons=["the column is empty"])
    if variable.type == "array":
        return Fit(float(p.shape == variable.shape), usable=p.shape is not None)
    if p.shape is not None:
        return Fit(0.0, usable=False)
    if variable.role == "patient" or variable.type == "text":
        return Fit(0.9 if variable.role != "patient" or p.unique > 0.02 or p.rows < 100 else 0.2)
    if variable.type == "date":
        return _date(p)
    if variable.type == "boolean":
        return _boolean(name, variable, p)
    if variable.type == "category":
        return _category(variable, p)
    return _number(name, variable, p)


def _date(p: Profile) -> Fit:
    form = p.date_format
    if form is None:
        return Fit(0.0, ask=["how are its dates written? format = ..."], usable=False)
    others = [f for f, n in p.dates.items() if n == p.dates[form] and f != form]
    ask = [f"which is the day and which the month? {form} and {others[0]} both read all of it"] if {form, *others} >= {"%d/%m/%Y", "%m/%d/%Y"} else []
    iso = form.startswith("%Y-%m-%d") or form == "%Y%m%d"
    return Fit(1.0, {} if iso else {"format": form}, [f"dates written {form}"], ask)


def _boolean(name: str, variable: Variable, p: Profile) -> Fit:
    if p.counts is None or len(p.counts) > 12:
        return Fit(0.0, usable=False, ask=["it has too many values for yes and no: which of them mean yes? values = { ... = 1, ... = 0 }"])
    about, column = meant(name, variable.code, variable.label), meant(p.name)
    odd = _odd_codes([*p.counts])
    values = [v for v in p.counts if v not in odd]
    coded = codings.booleans(values, about)
    opposite = ("female" in about and "male" in column) or ("male" in about and "female" in column)
    if coded is None or (coded == {} and "sex" in column and not {"female", "male"} & {*column}):
        question = f"its values are {_quoted(values)}: which mean yes (1), which no (0)?"
        return Fit(0.6 if len(values) <= 3 else 0.35, ask=[question], usable=False)
    if opposite and coded in ({}, {"0": 0, "1": 1}) and {*values} <= {"0", "1"}:
        coded = {"0": 1, "1": 0}
    entry: dict[str, Any] = {"values": coded} if coded else {}
    if odd:
        entry["missing"] = odd
    return Fit(1.0, entry, [f"{counted(len(values), 'value')} of yes and no"], [f"does {', '.join(odd)} mean no value?"] if odd else [])


def _odd_codes(values: list[str]) -> list[str]:
    """9, 99, -1 and the like beside two or more other values: hardly yes or no."""
    odd = [v for v in values if v in ("9", "99", "-1", "-9", "-99", "8", "88", "999", "u", "U", "unknown", "Unknown", "unk")]
    return odd if len(values) - len(odd) >= 1 else []


def _category(variable: Variable, p: Profile) -> Fit:
    if p.counts is None:
        return Fit(0.0, usable=False, ask=["it has more than 200 values: which is which category? values = { ... }"])
    mapped, unknown = codings.categories([*p.counts], variable.categories, variable.codes)
    rows = sum(p.counts.values())
    strange = sum(p.counts[v] for v in unknown) / max(rows, 1)
    if strange > 0.5:
        return Fit(0.3 if len(p.counts) <= 2 * len(variable.categories) else 0.1, usable=False, ask=[_which(unknown, variable)])
    entry: dict[str, Any] = {"values": mapped} if mapped else {}
    ask = [_which(unknown, variable)] if unknown and variable.other is None else []
    return Fit(1 - strange, entry, [f"{len(p.counts) - len(unknown)} of its {len(p.counts)} values are categories of the study"], ask)


def _which(unknown: list[str], variable: Variable) -> str:
    return f"which of {_quoted(variable.categories)} are {_quoted(unknown)}?"


def _quoted(values: Sequence[str]) -> str:
    listed = [toml.value(v[:40]) for v in values]
    return ", ".join(listed[:12]) + (f" and {len(listed) - 12} more" if len(listed) > 12 else "")


def _number(name: str, variable: Variable, p: Profile) -> Fit:
    if p.number_share < 0.5:
        return Fit(0.0, usable=False, ask=["it holds text; which column holds the numbers?"])
    found = Fit(p.number_share)
    if p.numbers < p.filled:
        found.ask.append(f"{counted(p.filled - p.numbers, 'cell is no number', 'cells are no numbers')}: list those that mean no value as missing = [...]")
    hard = (variable.minimum if variable.minimum is not None else -np.inf, variable.maximum if variable.maximum is not None else np.inf)
    unit = split_unit(p.name)[1]
    factor = _factor(unit, variable)
    spikes = sentinels(p) if factor is not None and factor != units.Affine() else sentinels(p, hard)
    spikes = {v: s for v, s in spikes.items() if v not in variable.missing_codes}
    values = p.values[~np.isin(p.values, [*spikes, *variable.missing_codes])]
    if not len(values):
        return Fit(0.3, reasons=["no value but codes for missing ones"])
    _unit(found, name, variable, values, unit, factor)
    factor = _factor(found.entry.get("unit"), variable) or units.Affine()
    converted = values * factor.scale + factor.offset
    plausible = _plausible(name, variable)
    low, high = plausible or hard
    inside = float(((converted >= low) & (converted <= high)).mean())
    known = plausible is not None or np.isfinite(hard).any()
    found.score *= (0.1 + 0.9 * inside) if known else 0.6
    if known:
        asked = variable.plausible or (hard if np.isfinite(hard).any() else (low, high))  # what the contract says, before what is usual
        right = int(((converted >= asked[0]) & (converted <= asked[1])).sum())
        where = f", read in {found.entry['unit']}" if "unit" in found.entry else ""
        found.reasons.append(f"{'all' if right == len(values) else share(right, len(values))} of its values lie where they should{where}")
    if variable.type == "integer" and found.entry.get("unit") is None and (np.round(values) != values).mean() > 0.01:
        found.score *= 0.5
    for value, part in spikes.items():
        outside = not hard[0] <= value * factor.scale + factor.offset <= hard[1]
        found.ask.append(f"does {value:g} mean no value? {part:.1%} of the values" + ("" if outside else f"; if so, missing = [{value:g}]"))
        if outside:
            found.entry.setdefault("missing", []).append(value)
    return found


def _factor(unit: str | None, variable: Variable) -> units.Affine | None:
    if unit is None or variable.unit is None:
        return None
    try:
        return units.convert_factor(unit, variable.unit, variable.molar_mass)
    except ManifestError:
        return None


def _unit(found: Fit, name: str, variable: Variable, values: NDArray[np.float64], unit: str | None, factor: units.Affine | None) -> None:
    """The cells' unit: from the column's name, or the one in which the values are plausible."""
    if variable.unit is None:
        return
    if unit is not None and factor is None:
        found.score *= 0.3
        found.ask.append(f"the column's name says {unit}, which cannot become {variable.unit}; is it another quantity?")
        return
    plausible = _plausible(name, variable)
    middle = [float(q) for q in np.quantile(values, [0.05, 0.5, 0.95])]
    if unit is not None and factor is not None:
        if unit != variable.unit:
            found.entry["unit"] = unit
            found.reasons.append(f"in {unit} by its name")
        if plausible is not None and not plausible[0] <= factor(middle[1]) <= plausible[1]:
            found.ask.append(f"is it really in {unit}? Its values would be implausible")
        return
    others = units.suggest(middle, variable.unit, plausible, variable.molar_mass) if plausible is not None else ()
    if others:
        found.entry["unit"] = others[0]
        found.ask.append(f"are its cells in {' or '.join(others)}? In {variable.unit}, as the study needs them, they would not be plausible")


def _concept(name: str, variable: Variable) -> Concept | None:
    sure = meant(name, variable.code, variable.label)
    best = max((k for k in sure if concepts()[k].kind == "quantity"), key=sure.__getitem__, default=None)
    return concepts()[best] if best is not None and sure[best] >= 0.7 else None


def _plausible(name: str, variable: Variable) -> tuple[float, float] | None:
    """The contract's plausible range, or that of the clinical concept in the contract's unit."""
    if variable.plausible is not None:
        return variable.plausible
    concept = _concept(name, variable)
    if concept is None or concept.plausible is None or concept.unit is None or variable.unit is None:
        return None
    try:
        factor = units.convert_factor(concept.unit, variable.unit, concept.molar)
    except ManifestError:
        return None
    return factor(concept.plausible[0]), factor(concept.plausible[1])
