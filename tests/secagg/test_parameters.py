"""k and tau: the specification's table, and the three bounds recomputed with scipy and with exact integers."""

from fractions import Fraction
from math import ceil, comb, floor

import networkx as nx
import pytest
from scipy.stats import hypergeom

from locum.secagg.errors import MaskingRefused
from locum.secagg.messages import MAX_SITES
from locum.secagg.parameters import COMPLETE_UP_TO, Parameters, find, most_dropped, quorum, search

TABLE = {  # (corrupt and dropped share, n): (k, tau), from the specification
    (0.05, 100): (16, 11),
    (0.05, 500): (44, 31),
    (0.05, 1000): (52, 37),
    (0.05, 10_000): (62, 44),
    (0.1, 100): (32, 22),
    (0.1, 500): (82, 57),
    (0.1, 1000): (96, 67),
    (0.1, 10_000): (122, 85),
    (0.2, 100): (62, 42),
    (0.2, 500): (220, 150),
    (0.2, 1000): (302, 206),
    (0.2, 10_000): (482, 328),
}


@pytest.mark.parametrize(("share", "n"), TABLE)
def test_the_specifications_table(share: float, n: int) -> None:
    """Where sites drop out at random, as in Bell et al. Who chooses the dropouts is held off by a few more neighbours."""
    k, tau = TABLE[share, n]
    made = search(n, share, share, chosen=False)
    assert made == Parameters(n, k, tau)
    assert not made.complete
    stricter = search(n, share, share)
    assert stricter.k >= k
    assert stricter.k <= 1.25 * k
    if COMPLETE_UP_TO < n <= MAX_SITES:
        assert find(n, share, share) == stricter


def privacy(n: int, c: int, k: int, tau: int) -> float:
    """Union bound on some site having so many corrupt neighbours that two views give both of its secrets."""
    return n * float(hypergeom(n - 1, c, k).sf(2 * tau - k - 1))


def failure(n: int, d: int, k: int, tau: int) -> float:
    """Union bound on some site keeping fewer than tau of its neighbours."""
    return n * float(hypergeom(n - 1, d, k).sf(k - tau))


def apart(n: int, bad: int, k: int) -> Fraction:
    """Union bound over where two runs of k/2 bad sites may start."""
    return Fraction(n * n * comb(n - k, bad - k), comb(n, bad)) if bad >= k else Fraction(0)


@pytest.mark.parametrize(("corrupt", "dropout", "n"), [*((s, s, n) for s, n in TABLE), (0.3, 0.05, 300), (0.05, 0.3, 300), (0.0, 0.1, 200), (0.1, 0.0, 200)])
def test_the_three_bounds_hold_when_recomputed(corrupt: float, dropout: float, n: int) -> None:
    p = Parameters(n, *TABLE[corrupt, n]) if (corrupt, n) in TABLE and corrupt == dropout else search(n, corrupt, dropout)
    c, d = floor(corrupt * n), floor(dropout * n)
    assert privacy(n, c, p.k, p.tau) <= 2.0**-41
    assert apart(n, c + d, p.k) <= Fraction(1, 2**41)
    assert privacy(n, c, p.k, p.tau) + apart(n, c + d, p.k) <= Fraction(1, 2**40)
    assert failure(n, d, p.k, p.tau) <= 2.0**-20
    assert p.k / 2 < p.tau <= p.k


@pytest.mark.parametrize(("share", "n"), [(0.05, 100), (0.1, 100), (0.2, 100), (0.05, 500), (0.1, 500)])
def test_no_smaller_k_and_no_smaller_tau_would_do(share: float, n: int) -> None:
    k, tau = TABLE[share, n]
    c = floor(share * n)

    def holds(neighbours: int, threshold: int) -> bool:
        safe = privacy(n, c, neighbours, threshold) <= 2.0**-41 and apart(n, 2 * c, neighbours) <= Fraction(1, 2**41)
        return safe and failure(n, c, neighbours, threshold) <= 2.0**-20

    assert holds(k, tau)
    assert not holds(k, tau - 1)
    assert not any(holds(smaller, threshold) for smaller in range(4, k, 2) for threshold in range(smaller // 2 + 1, smaller + 1))


def test_2_log_n_neighbours_are_not_enough() -> None:
    """k = 2 log2(1000) = 20, with the fewest shares that keep it private: a site loses too many of them far too often."""
    tau = next(t for t in range(11, 21) if privacy(1000, 50, 20, t) <= 2.0**-41)
    assert failure(1000, 50, 20, tau) > 1000 * 2.0**-20


def test_a_harary_graph_falls_apart_only_by_two_runs_of_half_k() -> None:
    """The premise of the bound on connectivity, over every set of bad sites of a small graph."""
    n, k = 11, 4
    ring = nx.circulant_graph(n, range(1, k // 2 + 1))
    for chosen in range(2**n):
        bad = [i for i in range(n) if chosen >> i & 1]
        left = ring.subgraph(set(ring) - set(bad))
        if len(left) > 1 and not nx.is_connected(left):
            runs = [i for i in range(n) if i not in bad and all((i + 1 + j) % n in bad for j in range(k // 2))]  # followed by half k bad ones
            assert len(runs) >= 2


@pytest.mark.parametrize("n", range(3, COMPLETE_UP_TO + 1))
def test_small_cohorts_are_complete_with_more_than_two_thirds(n: int) -> None:
    p = find(n, 0.1, 0.1)
    assert p == Parameters(n, n - 1, floor(Fraction(2 * n, 3)) + 1)
    assert p.complete
    most_corrupt = ceil(Fraction(n, 3)) - 1
    # Each honest site gives one share of one of the two secrets, each corrupt one both: together they are too few for both.
    assert n + most_corrupt < 2 * p.tau


def test_three_sites_tolerate_no_dropout_and_four_tolerate_one() -> None:
    assert find(3, 0.1, 0.1).tau > find(3, 0.1, 0.1).k
    assert find(4, 0.1, 0.1).tau == find(4, 0.1, 0.1).k == 3


def test_above_the_complete_graphs_neighbours_are_even_and_fewer() -> None:
    for n in (129, 130, 200, 999, MAX_SITES):
        p = find(n, 0.1, 0.1)
        assert p.k % 2 == 0
        assert 4 <= p.k < n - 1


def test_more_corrupt_or_more_dropped_sites_need_no_fewer_neighbours() -> None:
    ks = [find(300, s, 0.1).k for s in (0.0, 0.05, 0.1, 0.15, 0.2)]
    assert ks == sorted(ks)
    ks = [find(300, 0.1, s).k for s in (0.0, 0.05, 0.1, 0.15, 0.2)]
    assert ks == sorted(ks)


@pytest.mark.parametrize(("share", "n", "whole"), [(0.29, 200, 58), (0.07, 300, 21), (0.28, 225, 63), (0.1, 130, 13)])
def test_a_share_that_is_a_whole_number_of_sites_counts_them_all(share: float, n: int, whole: int) -> None:
    """0.29 * 200 is 57.99999999999999 in floating point: the 58th site may be corrupt nevertheless."""
    p = find(n, share, 0.05)
    assert privacy(n, whole, p.k, p.tau) <= 2.0**-41
    assert most_dropped(n, share) == whole


def test_where_no_graph_exists_it_is_refused_with_what_to_do() -> None:
    with pytest.raises(MaskingRefused, match="No graph of 129 sites") as caught:
        find(129, 0.33, 0.33)
    assert "corrupt" in str(caught.value)


def test_a_cohort_above_the_most_is_refused() -> None:
    with pytest.raises(MaskingRefused, match="helper topology"):
        find(MAX_SITES + 1, 0.0, 0.0)


@pytest.mark.parametrize("joined", range(1, 200))
def test_two_quorums_share_an_honest_site(joined: int) -> None:
    corrupt = ceil(Fraction(joined, 3)) - 1
    assert 2 * quorum(joined) - joined > corrupt
    assert quorum(joined) <= joined
    assert 3 * (quorum(joined) - 1) <= 2 * joined


@pytest.mark.parametrize(("joined", "share", "most"), [(5, 0.1, 1), (10, 0.1, 1), (11, 0.1, 2), (100, 0.07, 7), (100, 0.29, 29), (30, 0.0, 0), (3, 0.3, 1)])
def test_the_most_that_may_drop_out_is_the_share_rounded_up(joined: int, share: float, most: int) -> None:
    assert most_dropped(joined, share) == most
