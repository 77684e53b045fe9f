"""How many neighbours and how many shares: k and tau for a cohort of n, with corrupt and dropped sites.

Up to 128 sites everyone is everyone's neighbour and tau = floor(2n/3) + 1: with fewer than n/3 corrupt sites the honest
ones, each answering once, can never give tau shares of both of a site's secrets (n + c < 2 tau).

Above, each site has k neighbours in a random k-regular graph (Bell et al., CCS 2020), and the smallest k is sought for which

    privacy   P[some site has 2 tau - k or more corrupt neighbours]      <= 2^-41   (two views could then take both secrets)
              P[the graph of honest survivors falls apart]               <= 2^-41   (a part's sum could then be taken alone),
              whether sites drop out at random or the coordinator, who knows the graph, chooses which
    failure   P[some site has fewer than tau surviving neighbours]       <= 2^-20   (its secret could then not be had)

by the union bound over hypergeometric tails. "k = 2 log n" is not enough; and where who drops out is chosen, k must be a little
larger than for the random dropouts of the paper (at 10 % each and n = 500: 88, not 82).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, exp, floor, inf, lgamma, log, log1p

from locum.secagg.errors import MaskingRefused
from locum.secagg.messages import MAX_SITES

COMPLETE_UP_TO = 128
PRIVACY_BITS, FAILURE_BITS = 40, 20


@dataclass(frozen=True)
class Parameters:
    """n sites, each with k neighbours; tau shares give a secret."""

    n: int
    k: int
    tau: int

    @property
    def complete(self) -> bool:
        return self.k == self.n - 1


def quorum(n: int) -> int:
    """How many of a cohort of n must have signed one and the same U2 before anybody unmasks: more than two thirds.

    Of the cohort, not of U1: who joined is the coordinator's word, and with two lists of who joined, each with a quorum of
    its own, it could have a site's b in one and its K in the other. Honest sites sign once, so two lists need n + c > 4n/3.
    """
    return 2 * n // 3 + 1


def most_dropped(joined: int, share: float) -> int:
    """The most sites of so many that may drop out."""
    return ceil(share * joined - 1e-9)


def lot(n: int, buckets: int) -> bool:
    """Whether a cohort's topology is drawn by lot, so that whoever could choose among draws would choose the topology."""
    return n > COMPLETE_UP_TO or buckets > 1


@lru_cache(maxsize=256)
def find(n: int, corrupt: float, dropout: float) -> Parameters:
    """The parameters for n sites. corrupt, dropout: shares of the cohort. Raises `MaskingRefused` where none exist."""
    if n > MAX_SITES:
        raise MaskingRefused(f"A cohort of {n} sites is above the {MAX_SITES} that the peer topology takes.", fix="use the helper topology")
    if n <= COMPLETE_UP_TO:
        return Parameters(n, n - 1, 2 * n // 3 + 1)
    return search(n, corrupt, dropout)


def search(n: int, corrupt: float, dropout: float, *, chosen: bool = True) -> Parameters:
    """The smallest k, and for it the smallest tau, that meet the bounds. Raises `MaskingRefused`.

    chosen: whether the coordinator chooses who drops out. Without it these are the parameters of Bell et al.
    """
    c, d = floor(corrupt * n + 1e-9), most_dropped(n, dropout)
    privacy, failure = -(PRIVACY_BITS + 1) * log(2), -FAILURE_BITS * log(2)
    for k in range(4, n - 1, 2):
        if _falls_apart(n, c + d, k) > privacy:
            continue
        corrupted, lost, half = _tails(n - 1, c, k), _tails(n - 1, d, k), _tails(n, c, k // 2)
        for tau in range(k // 2 + 1, k + 1):
            cut = _cut(half, n, d, k, tau) if chosen else -inf
            if max(corrupted[2 * tau - k] + log(n), cut) <= privacy:  # more shares needed: safer, but sooner out of reach
                if lost[k - tau + 1] + log(n) <= failure:
                    return Parameters(n, k, tau)
                break
    raise MaskingRefused(
        f"No graph of {n} sites withstands {corrupt:.0%} corrupt and {dropout:.0%} dropped sites.", fix="lower terms.masking.corrupt or terms.masking.dropout"
    )


def _falls_apart(n: int, bad: int, k: int) -> float:
    """Log of a bound on P[disconnected]: two runs of k/2 consecutive bad nodes must cut the ring of a Harary graph."""
    runs = 2 * (k // 2)
    if bad < runs:
        return -inf
    return 2 * log(n) + _choose(n - runs, bad - runs) - _choose(n, bad)


def _cut(half: list[float], n: int, missing: int, k: int, tau: int) -> float:
    """Log of a bound on P[the ring can be cut by choosing who is missing]: k/2 consecutive sites at two places, at most
    `missing` honest ones in all, and tau - k/2 - 1 corrupt ones at each: with the k/2 + 1 neighbours outside they give a K.
    """
    least, total = max(0, tau - k // 2 - 1), -inf
    for first in range(least, k // 2 + 1):
        second = max(least, k - missing - first)
        if second <= k // 2:
            total = _logaddexp(total, half[first] + half[second])
    return 2 * log(n) - log(2) + total


def _tails(population: int, marked: int, drawn: int) -> list[float]:
    """For each `least` from 0 to `drawn`: log of P[at least `least` of `drawn` are marked], hypergeometric."""
    out, total = [-inf] * (drawn + 1), -inf
    whole = _choose(population, drawn)
    for x in range(drawn, -1, -1):
        if x <= marked and drawn - x <= population - marked:
            total = _logaddexp(total, _choose(marked, x) + _choose(population - marked, drawn - x) - whole)
        out[x] = total
    out[0] = 0.0
    return out


def _choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def _logaddexp(a: float, b: float) -> float:
    low, high = min(a, b), max(a, b)
    return high if low == -inf else high + log1p(exp(low - high))
