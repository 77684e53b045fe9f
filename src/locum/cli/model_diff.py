"""What differs between two models: their studies, their figures, their coefficients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from locum.governance.update import changes
from locum.study.manifest import Study

_NAMES = ("name", "variable")


def difference(a: tuple[Study, Mapping[str, Any]], b: tuple[Study, Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """studies: every path that differs. coefficients, figures: every number of the results that differs, None where one has it not."""
    old, new = dict(_numbers((), a[1])), dict(_numbers((), b[1]))
    rows: dict[str, list[dict[str, Any]]] = {"studies": [vars(c) for c in changes(a[0], b[0])], "coefficients": [], "figures": []}
    for path in [*old, *(p for p in new if p not in old)]:
        x, y = old.get(path), new.get(path)
        if x != y:
            kind = "coefficients" if len(path) > 1 and path[1] == "coefficients" else "figures"
            shown = [p for p in path if p != "coefficients"] if kind == "coefficients" else list(path)
            rows[kind].append({"figure": " ".join(shown), "a": x, "b": y, "change": None if x is None or y is None else y - x})
    return rows


def _numbers(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], float]]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers((*path, str(key)), inner)
    elif isinstance(value, list):
        for k, inner in enumerate(value):
            name = next((str(inner[n]) for n in _NAMES if isinstance(inner, Mapping) and n in inner), str(k + 1))
            yield from _numbers((*path, name), inner)
