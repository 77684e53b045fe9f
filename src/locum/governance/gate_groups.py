"""What the gate asks of subgroups and of single sites, from the result of a `subgroups` step.

Levels whose own figures are withheld are judged as the joint group that the step shows. Where a variable shows no group at all, nothing is known
of its subgroups, and that blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from locum.governance.gate_figures import Figure, not_worse, number, read, words
from locum.governance.gate_verdict import Check
from locum.study.governance import BETTER
from locum.study.manifest import Gate

Row = Mapping[str, Any]


def of_groups(gate: Gate, results: Mapping[str, Any], before: Mapping[str, Any] | None, version: int) -> Iterator[Check]:
    """version: the current one's number, 0 where there is none; before: its results."""
    if gate.subgroups is None:
        return
    result = results.get(gate.subgroups)
    rows = result.get("subgroups") if isinstance(result, Mapping) else None
    variables = result.get("gaps") if isinstance(result, Mapping) else None
    if not isinstance(result, Mapping) or not isinstance(rows, list) or not isinstance(variables, Mapping) or not variables:
        yield Check(f"subgroups.{gate.subgroups}", f"Step '{gate.subgroups}'", "BLOCK", "the run has no figures by subgroup")
        return
    rows = [r for r in rows if isinstance(r, Mapping)]
    for variable in variables:
        yield from _variable(gate, variable, [r for r in rows if r.get("variable") == variable], _rows_of(before, gate.subgroups), version)
    sites = result.get("sites")
    yield from _sites(gate, sites if isinstance(sites, Mapping) else {})


def _rows_of(results: Mapping[str, Any] | None, step: str) -> dict[str, Row]:
    result = (results or {}).get(step)
    rows = result.get("subgroups") if isinstance(result, Mapping) else None
    return {str(r.get("name")): r for r in rows or () if isinstance(r, Mapping)}


def _variable(gate: Gate, variable: str, rows: Sequence[Row], before: Mapping[str, Row], version: int) -> Iterator[Check]:
    judged = [r for r in rows if isinstance(r.get("n"), int) and r["n"] >= gate.least]
    title = f"Subgroups by {variable}"
    if not judged:
        why = "all are withheld, for they are too small" if not rows else f"none has the {gate.least} patients from which on it is judged"
        yield Check(f"subgroups.{variable}", title, "BLOCK", f"{why}; join bands or categories, or test on more patients")
        return
    small = [str(r["name"]) for r in rows if r not in judged]
    note = f"; not judged, for fewer than {gate.least} patients: {', '.join(small)}" if small else ""
    yield Check(f"subgroups.{variable}", title, "PASS", f"{len(judged)} are judged{note}", bound=f"at least {gate.least} patients each")
    for name, most in gate.gap.items():
        yield _gap(variable, name, most, judged)
    for row in judged:
        label = str(row["name"])
        for name, bound in gate.subgroup_at_least.items():
            found = read(row, name)
            key, heading, asked = f"subgroup_at_least.{name}.{label}", f"{words(name)}, {label}", f"at least {bound:g}"
            if found is None:
                yield Check(key, heading, "BLOCK", f"there is no '{name}' of these patients", bound=asked)
            else:
                good = found.value >= bound
                yield Check(key, heading, "PASS" if good else "BLOCK", "it is" if good else "it is not", found.value, asked, found.low, found.high)
        for name, margin in gate.subgroup_margin.items():
            yield not_worse(f"subgroup_margin.{name}.{label}", f"{words(name)}, {label}", name, margin, row, before.get(label), version)


def _gap(variable: str, name: str, most: float, rows: Sequence[Row]) -> Check:
    key, title, asked = f"gap.{name}.{variable}", f"{words(name)}, gap by {variable}", f"at most {most:g}"
    found = {str(r["name"]): read(r, name) for r in rows}
    unknown = [label for label, figure in found.items() if figure is None]
    known = {label: figure for label, figure in found.items() if figure is not None}
    if unknown:
        return Check(key, title, "BLOCK", f"there is no '{name}' of {', '.join(unknown)}", bound=asked)
    if len(known) < 2:
        return Check(key, title, "BLOCK", "there is one subgroup only, so nothing to compare it with", bound=asked)
    a, b = max(combinations(known, 2), key=lambda pair: abs(known[pair[0]].value - known[pair[1]].value))
    gap, low, high = _difference(known[a], known[b])
    return Check(key, title, "PASS" if gap <= most else "BLOCK", f"between {a} and {b}, the two of {len(known)} that differ most", gap, asked, low, high)


def _difference(a: Figure, b: Figure) -> tuple[float, float | None, float | None]:
    """The larger less the smaller, with its interval from theirs (MOVER; Zou and Donner, 2008)."""
    big, small = (a, b) if a.value >= b.value else (b, a)
    gap = big.value - small.value
    if big.low is None or big.high is None or small.low is None or small.high is None:
        return gap, None, None
    return gap, gap - math.hypot(big.value - big.low, small.high - small.value), gap + math.hypot(big.high - big.value, small.value - small.low)


def _sites(gate: Gate, sites: Mapping[str, Any]) -> Iterator[Check]:
    for name, bound in gate.worst_site.items():
        better = BETTER[name] > 0
        key, title, asked = f"worst_site.{name}", f"{words(name)}, worst site", f"{'at least' if better else 'at most'} {bound:g}"
        found = sites.get(name)
        ends = found.get("worst_between") if isinstance(found, Mapping) else None
        low, high = (number(e) for e in ends) if isinstance(ends, list) and len(ends) == 2 else (None, None)
        if not isinstance(found, Mapping) or low is None or high is None:
            yield Check(key, title, "BLOCK", "too few sites have enough patients for it to be said without naming one", bound=asked)
            continue
        certain, best = (low, high) if better else (high, low)
        good = certain >= bound if better else certain <= bound
        how = f"for certain it is no worse than {certain:.4g} and no better than {best:.4g}: from mean and standard deviation of {found.get('sites')} sites"
        yield Check(key, title, "PASS" if good else "BLOCK", how, certain, asked)
    if gate.sites_missing is None:
        return
    floors = {name: s for name, s in sites.items() if isinstance(s, Mapping) and s.get("sites_missing_it") is not None}
    asked = f"at most {gate.sites_missing:.3g} of the sites"
    if not floors:
        yield Check("sites_missing", "Sites below the floor", "BLOCK", "the step states no floor, or too few sites have enough patients", bound=asked)
    for name, s in floors.items():
        asks = s["sites_missing_it"]
        low, high, n, floor = (number(v) for v in (*asks, s.get("sites"), s.get("floor"))) if isinstance(asks, list) and len(asks) == 2 else (None,) * 4
        if low is None or high is None or floor is None or not n or n < 0 or not 0 <= low <= high <= n:
            yield Check(f"sites_missing.{name}", f"{words(name)}, sites below the floor", "BLOCK", "the step does not say how many they are", bound=asked)
            continue
        share, many = high / n, f"{low:g}" if low == high else f"{low:g} to {high:g}"
        good = share <= gate.sites_missing
        how = f"{many} of {n:g} sites do not reach {floor:g}"
        yield Check(f"sites_missing.{name}", f"{words(name)}, sites below the floor", "PASS" if good else "BLOCK", how, share, asked)
