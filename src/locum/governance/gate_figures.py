"""Figures of a step's result, with what is known of their precision, and the comparison of two of them.

A standard error is the result's own. Where it gives none, that of a share is sqrt(p (1 - p) / n), and that of a Brier score at most
sqrt(b (1 - b) / n), for the square of an error lies within 0 and 1 (Bhatia and Davis, 2000, American Mathematical Monthly 107:353). The noise of
differential privacy is added where the result states it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from locum.governance.gate_verdict import Check
from locum.study.governance import BETTER

Z95, Z90 = 1.959963984540054, 1.6448536269514722
"""The 97.5 % and 95 % points of the standard normal distribution."""
MOST = 1e150
_SHARES = ("accuracy", "sensitivity", "specificity", "macro_sensitivity")


@dataclass(frozen=True)
class Figure:
    """error: a bound on the error of binning."""

    value: float
    se: float | None = None
    low: float | None = None
    high: float | None = None
    error: float = 0.0


@dataclass(frozen=True)
class Worse:
    """By how much a new figure is worse than an old one (negative: better), and the one-sided 95 % bound on that."""

    value: float
    bound: float


def read(result: Mapping[str, Any], name: str) -> Figure | None:
    """The figure `name` of a step's result, or of a subgroup's row; None where it is absent, withheld or no finite number."""
    everybody = result.get("everybody")
    if isinstance(everybody, Mapping):
        result = everybody
    found, se = result.get(name), None
    calibration = result.get("calibration")
    if found is None and isinstance(calibration, Mapping):
        key = name.removeprefix("calibration_")
        found, se = calibration.get(key), number(calibration.get(f"{key}_se"))
    if isinstance(found, Mapping):
        value, se = number(found.get("value")), number(found.get("se"))
        low, high, error = (number(found.get(k)) for k in ("low", "high", "error_bound"))
    else:
        value, low, high, error = number(found), None, None, None
    if value is None:
        return None
    if (se is not None and se < 0) or (error is not None and error < 0):  # no precision at all
        return Figure(value)
    if se is None:
        se = _from_counts(name, value, number(result.get("n")))
    if se is not None and low is None and high is None:
        low, high = value - Z95 * se - (error or 0.0), value + Z95 * se + (error or 0.0)
    noise = result.get("noise_sd")
    if se is not None and isinstance(noise, Mapping) and name != "auc":  # the AUC's own standard error has it
        se = math.hypot(se, number(noise.get(name)) or 0.0)
        low, high = value - Z95 * se, value + Z95 * se
    return Figure(value, se, low, high, error or 0.0)


def worse(new: Figure, old: Figure, name: str) -> Worse | None:
    """None where a standard error is missing. The two are taken as independent: if they were found on the same patients they go together, and
    the bound is farther out than it need be."""
    if new.se is None or old.se is None:
        return None
    value = BETTER[name] * (old.value - new.value)
    return Worse(value, value + Z90 * math.hypot(new.se, old.se) + new.error + old.error)


def names(result: Mapping[str, Any]) -> list[str]:
    """Figures that the result has, for a message."""
    calibration = result.get("calibration")
    inner = [f"calibration_{k}" for k in ("slope", "intercept")] if isinstance(calibration, Mapping) else []
    return [*(k for k in result if read(result, k) is not None), *(k for k in inner if read(result, k) is not None)]


def _from_counts(name: str, value: float, n: float | None) -> float | None:
    known = n is not None and n > 0 and 0.0 <= value <= 1.0 and (name in _SHARES or name == "brier")
    return math.sqrt(value * (1 - value) / n) if known and n else None


def number(value: Any) -> float | None:
    """A number of a size that sums and squares of it can be computed; anything else is none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST else None


def not_worse(key: str, title: str, name: str, margin: float, result: Mapping[str, Any], before: Any, version: int) -> Check:
    """That a figure is worse than the current version's by less than `margin`. version: 0 where there is none."""
    title, asked = f"{title}, not worse than before", f"worse by less than {margin:g}"
    if not version:
        return Check(key, title, "PASS", "there is no current version to compare with", bound=asked)
    new, old = read(result, name), read(before, name) if isinstance(before, Mapping) else None
    if new is None or old is None:
        return Check(key, title, "BLOCK", f"{'the run' if new is None else f'version {version}'} gives no '{name}'", bound=asked)
    difference = worse(new, old, name)
    if difference is None:
        return Check(key, title, "BLOCK", f"the standard error of '{name}' is not known, so there is no bound", bound=asked)
    good = difference.bound < margin
    how = f"{new.value:.4g} after {old.value:.4g} of version {version}; with 95 % confidence worse by at most {difference.bound:.3g}, as on different patients"
    return Check(key, title, "PASS" if good else "BLOCK", how, difference.value, asked, high=difference.bound)


def words(name: str) -> str:
    """A figure's name for people."""
    text = name.replace("_", " ")
    return text.upper() if name == "auc" else text[0].upper() + text[1:]
