"""Who masks with whom: the complete graph, or a Harary graph over a random order of the sites.

Harary, "The maximum connectivity of a graph", PNAS 1962: n nodes on a ring, each joined to the k/2 next on either side; it
is k-connected with the fewest edges. The order is drawn from the session's seed, to which every member contributed by
commit and reveal. (t separates draws from one seed; a session draws once, with t = 0.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from locum.secagg.kdf import join, label
from locum.secagg.parameters import Parameters


def neighbours(p: Parameters, seed: bytes, t: int) -> list[tuple[int, ...]]:
    """For each of the n sites its neighbours' numbers, ascending. The relation is symmetric."""
    near = draw(p, seed, t)
    return [near(i) for i in range(p.n)]


def draw(p: Parameters, seed: bytes, t: int) -> Callable[[int], tuple[int, ...]]:
    """The function from a site to its neighbours: a site asks for its own only."""
    if p.complete:
        return lambda i: tuple(j for j in range(p.n) if j != i)
    order = permutation(p.n, seed, t)
    places = {site: place for place, site in enumerate(order)}
    steps = [step for d in range(1, p.k // 2 + 1) for step in (d, -d)]
    return lambda i: tuple(sorted(order[(places[i] + step) % p.n] for step in steps))


def permutation(n: int, seed: bytes, t: int, purpose: str = "graph") -> list[int]:
    """A uniform order of 0..n-1 by Fisher and Yates; its randomness is SHAKE-256 of (purpose, seed, t)."""
    stream = hashlib.shake_256(label(purpose) + b"\0" + join(seed, t)).digest(16 * n)
    order = list(range(n))
    for i in range(n - 1, 0, -1):
        j = int.from_bytes(stream[16 * i : 16 * i + 16], "little") % (i + 1)  # bias below 2^-117
        order[i], order[j] = order[j], order[i]
    return order
