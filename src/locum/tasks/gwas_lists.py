"""Whether all sites count the same alleles of the same variants, in the same order: told from sums alone.

A site whose file named them adds the numbers h of a hash over its list, and h^2. By Cauchy and Schwarz n (sum of h^2) = (sum of h)^2 over n sites
if and only if all h are equal. Two sites that count the other allele of one variant would else add up what does not belong together, and no
error, only a weaker test, would tell.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.data.genotypes import Genotypes
from locum.errors import TaskError
from locum.study.vector import Array, Total

FIELDS: dict[str, tuple[int, ...]] = {"lists": (), "lists_unknown": (), "list_hash": (8,), "list_squares": (8,)}
_CLOSE = 1e-9


def facts(genotypes: NDArray[np.float32] | Genotypes) -> dict[str, Array]:
    """What a site adds of `FIELDS`. Arrays whose variants nobody has named say nothing."""
    if not isinstance(genotypes, Genotypes) or not genotypes.named:
        return {"lists_unknown": np.asarray(1.0)}
    h = np.frombuffer(genotypes.named, "<u2").astype(np.float64)
    return {"lists": np.asarray(1.0), "list_hash": h, "list_squares": h**2}


def check(total: Total, step: str) -> None:
    """Raise `TaskError` where two sites of the sum have different lists."""
    n, h, squares = float(total["lists"]), np.asarray(total["list_hash"], float), np.asarray(total["list_squares"], float)
    if (n * squares - h**2 > _CLOSE * np.maximum(1.0, n * squares)).any():
        raise TaskError(
            f"Step '{step}': the sites' genotypes are not of the same variants, in the same order, with the same allele counted.",
            why="A .bim lists the rarer allele first, which may be another one at another site; a file may lack a variant or be sorted otherwise.",
            fix="give every site the same variants_file under [source]: one line a variant, its name and the allele to count; each file is turned to it",
        )


def warning(state: Any) -> list[str]:
    """For a step's result, where some sites said nothing. state: the two counts."""
    known, unknown = float(state["lists"]), float(state["lists_unknown"])
    if not known or not unknown:
        return []
    return [f"{unknown:.0f} of {known + unknown:.0f} sites did not say which variants and alleles their arrays hold: that these agree was not checked."]
