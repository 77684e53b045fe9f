"""Which rows belong to the study: its rules of inclusion, one after the other, with how many rows each of them leaves out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from locum.study.manifest import DataSpec, Rule, Variable


def included(data: DataSpec, columns: Mapping[str, NDArray[np.float64]]) -> tuple[NDArray[np.bool_], Counter[str]]:
    """Which rows fulfil every rule, shape (n,), and by which rule the others were left out: the first that they fail."""
    n = len(next(iter(columns.values()))) if columns else 0
    keep, left_out = np.ones(n, dtype=bool), Counter[str]()
    for name, rule in sorted(data.cohort.include.items()):
        x, variable = columns[name], data.variables[name]
        present = ~np.isnan(x)
        left_out[f"'{name}' is missing"] += int((keep & ~present).sum())
        keep &= present
        if rule.among is None and rule.at_least is None and rule.at_most is None:
            continue
        meets = _meets(x, rule, variable)
        left_out[says(name, rule, variable)] += int((keep & ~meets).sum())
        keep &= meets
    return keep, +left_out


def says(name: str, rule: Rule, variable: Variable) -> str:
    """Whom a rule leaves out, in words; besides, every rule leaves out those without a value."""
    low, high = (None if x is None else variable.written(x) for x in (rule.at_least, rule.at_most))
    if rule.among is not None:
        return f"'{name}' is none of {', '.join(rule.among)}"
    if low and high:
        return f"'{name}' lies outside {low} to {high}"
    return f"'{name}' lies below {low}" if low else f"'{name}' lies above {high}" if high else f"'{name}' is missing"


def _meets(x: NDArray[np.float64], rule: Rule, variable: Variable) -> NDArray[np.bool_]:
    low = -np.inf if rule.at_least is None else rule.at_least
    high = np.inf if rule.at_most is None else rule.at_most
    meets: NDArray[np.bool_] = (x >= low) & (x <= high)
    if rule.among is not None:
        meets &= np.isin(x, [variable.categories.index(c) for c in rule.among])
    return meets
