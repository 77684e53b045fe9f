"""Partitions: nobody is lost or split, everybody is dealt alike on any machine, and the unevenness is the one that was asked for."""

import hashlib
from contextlib import suppress
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, kstest

from locum.data.partition import KINDS, Dirichlet, Feature, Iid, Partition, Quantity, Shift, _dirichlet, parse
from locum.errors import LocumError, ManifestError

TEXTS = [
    "iid:sites={k}",
    "dirichlet:sites={k},label=y,alpha=0.1",
    "dirichlet:sites={k},label=y,alpha=50",
    "quantity:sites={k},exponent=2",
    "quantity:sites={k},law=lognormal,sigma=3",
    "feature:sites={k},variable=x,overlap=0",
    "feature:sites={k},variable=x,overlap=0.5",
    "shift:sites={k},variable=x,offset=2",
]


def binary(n: int, share: float = 0.3) -> np.ndarray:
    return (np.random.default_rng(5).random(n) < share).astype(float)


@settings(max_examples=120, deadline=None)
@given(st.data(), st.sampled_from(TEXTS), st.integers(1, 12), st.integers(1, 4), st.integers(0, 2**32))
def test_every_row_is_in_one_site_patients_stay_whole_and_no_site_is_too_small(data, text, sites, least, seed):
    patients = data.draw(st.integers(sites * least, 80))
    extra = data.draw(st.lists(st.integers(0, patients - 1), max_size=60))
    unit = np.random.default_rng(seed).permutation([*range(patients), *extra])
    values = np.array(data.draw(st.lists(st.sampled_from([0.0, 1.0, 2.0, np.nan]), min_size=len(unit), max_size=len(unit))))
    partition = parse(text.format(k=sites) + f",seed={seed},min_rows={least}")
    site = partition.assign(unit, values)
    assert site.shape == unit.shape
    assert set(site.tolist()) == set(range(sites))
    assert len({(u, s) for u, s in zip(unit.tolist(), site.tolist(), strict=True)}) == patients
    assert np.bincount(site).min() >= least
    np.testing.assert_array_equal(partition.assign(unit, values), site)
    np.testing.assert_array_equal(partition.assign(np.array([f"p{u * 7919 % 1009}" for u in unit]), values), site)  # names mean nothing


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        ("iid:sites=7,seed=1", "3f53b2f2"),
        ("dirichlet:sites=7,label=y,alpha=0.3,seed=1", "4e97f48b"),
        ("quantity:sites=7,law=lognormal,seed=1", "400e0ef8"),
        ("feature:sites=7,variable=x,overlap=0.4,seed=1", "ae044360"),
    ],
)
def test_any_machine_deals_alike(text, digest):
    """Pinned: another numpy or another processor must not change who is where."""
    site = parse(text).assign(np.arange(1000), np.arange(1000) % 3 * 1.0)
    assert hashlib.sha256(site.astype("<i8").tobytes()).hexdigest()[:8] == digest


def test_another_seed_deals_anew():
    one, two = (parse(f"iid:sites=5,seed={s}").assign(np.arange(500)) for s in (1, 2))
    assert (one != two).mean() > 0.5


@pytest.mark.parametrize("seed", range(20))
def test_a_large_alpha_is_iid_and_a_small_one_is_one_label_a_site(seed):
    y, k = binary(4000), 20
    table = np.zeros((k, 2))
    np.add.at(table, (Dirichlet(label="y", sites=k, alpha=1e12, seed=seed).assign(np.arange(4000), y), y.astype(int)), 1)
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    statistic = ((table - expected) ** 2 / expected).sum()
    assert statistic < chi2.ppf(1 - 1e-6, k - 1)
    share = _shares(Dirichlet(label="y", sites=k, alpha=0.01, seed=seed), y)
    assert ((share < 0.02) | (share > 0.98)).sum() >= k - 2  # but for the sites that got what was left


def _shares(partition: Partition, y: np.ndarray) -> np.ndarray:
    site = partition.assign(np.arange(len(y)), y)
    return np.bincount(site, weights=y) / np.bincount(site)


def test_skew_grows_as_alpha_falls_and_sizes_are_equal():
    y = binary(6000)
    spread = [np.mean([_shares(Dirichlet(label="y", sites=20, alpha=a, seed=s), y).std() for s in range(5)]) for a in (0.1, 1.0, 10.0, 1000.0)]
    assert spread == sorted(spread, reverse=True)
    assert np.bincount(Dirichlet(label="y", sites=7, alpha=0.1).assign(np.arange(6000), y)).tolist() == [858, 857, 857, 857, 857, 857, 857]


@pytest.mark.parametrize("alpha", [0.05, 0.7, 5.0])
def test_a_draw_is_of_the_dirichlet_law(alpha):
    """Its first share is Beta(a1, a2 + a3): Kolmogorov and Smirnov on 2000 draws."""
    rng, a = np.random.Generator(np.random.PCG64(11)), alpha * np.array([0.2, 0.3, 0.5]) * 3
    draws = np.array([_dirichlet(a, rng) for _ in range(2000)])
    assert np.allclose(draws.sum(axis=1), 1)
    assert kstest(draws[:, 0], "beta", args=(a[0], a[1] + a[2])).pvalue > 1e-4


def test_a_missing_label_is_a_class_of_its_own():
    y = np.where(np.arange(900) % 3 == 0, np.nan, np.arange(900) % 3)
    site = Dirichlet(label="y", sites=6, alpha=0.05).assign(np.arange(900), y)
    assert np.bincount(site).tolist() == [150] * 6
    share = np.bincount(site, weights=np.isnan(y)) / 150
    assert share.max() > 0.9


def test_sizes_fall_as_the_law_says():
    sizes = np.bincount(Quantity(sites=10, exponent=1).assign(np.arange(29290)))
    np.testing.assert_allclose(sizes, 10000 / np.arange(1, 11), rtol=0.001)
    assert np.bincount(Quantity(sites=10, exponent=0).assign(np.arange(1000))).tolist() == [100] * 10
    log = np.log(np.bincount(Quantity(sites=2000, law="lognormal", sigma=0.5, seed=4).assign(np.arange(2_000_000))))
    assert abs(log.std() - 0.5) < 0.03


def test_sorting_by_a_variable_separates_its_ranges_as_far_as_asked():
    x = np.random.default_rng(2).normal(size=1000)
    site = Feature(variable="x", sites=5, overlap=0).assign(np.arange(1000), x)
    ranges = [(x[site == k].min(), x[site == k].max()) for k in range(5)]
    assert all(a[1] < b[0] for a, b in pairwise(ranges))
    means = {o: np.array([x[Feature(variable="x", sites=5, overlap=o).assign(np.arange(1000), x) == k].mean() for k in range(5)]).std() for o in (0, 0.5, 1)}
    assert means[0] > means[0.5] > 2 * means[1]
    x[::4] = np.nan
    site = Feature(variable="x", sites=5, overlap=0).assign(np.arange(1000), x)
    assert np.bincount(site[::4]).min() > 30  # those without a value are everywhere


def test_a_shift_that_shifts_nothing_is_refused():
    with pytest.raises(ManifestError, match="without scale or offset"):
        parse("shift:sites=3,variable=x")


def test_a_measured_shift_is_the_declared_one():
    shift = Shift(variable="x", sites=400, offset=2.0, scale=1.5, seed=3)
    factor, offset = shift.changes
    assert abs(offset.std() - 2.0) < 0.3
    assert abs(np.log(factor).std() - np.log(1.5)) < 0.06
    x, site = np.array([1.0, np.nan, 3.0]), np.array([0, 0, 399])
    np.testing.assert_array_equal(shift.shifted(x, site), [factor[0] + offset[0], np.nan, 3 * factor[399] + offset[399]])
    np.testing.assert_array_equal(Iid(sites=3).shifted(x, np.array([0, 1, 2])), x)


def test_text_and_back():
    for text in TEXTS:
        partition = parse(text.format(k=9))
        assert parse(partition.to_text()) == partition
    assert parse("dirichlet:alpha=0.3,sites=20,label=malignant") == Dirichlet(alpha=0.3, sites=20, label="malignant")
    assert parse("iid").names()[:2] == ["site-01", "site-02"]
    assert parse("iid:sites=1000").names()[0] == "site-0001"
    assert set(KINDS) == {"iid", "dirichlet", "quantity", "feature", "shift"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dirichelt:alpha=1", "did you mean 'dirichlet'?"),
        ("", "known here"),
        ("dirichlet:alpha=0.3", "'label' is missing"),
        ("dirichlet:alpha=0,label=y", "alpha"),
        ("dirichlet:alpha=nan,label=y", "alpha"),
        ("dirichlet:alfa=1,label=y", "did you mean 'alpha'?"),
        ("iid:sites=0", "sites"),
        ("iid:sites=three", "sites"),
        ("iid:sites", "not one option"),
        ("iid:sites=3,sites=4", "not one option"),
        ("quantity:law=zipf", "law"),
        ("feature:variable=x,overlap=2", "overlap"),
    ],
)
def test_wrong_text_is_named_with_the_right_one(text, says):
    with pytest.raises(ManifestError) as caught:
        parse(text)
    assert says in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_a_partition_or_an_error_in_words(text):
    with suppress(LocumError):
        assert isinstance(parse(text), Partition)


def test_what_cannot_be_dealt_is_refused():
    with pytest.raises(ManifestError, match="9 patients cannot be dealt to 10 sites"):
        Iid(sites=10).assign(np.arange(9))
    with pytest.raises(ManifestError, match="at least 4 rows"):
        Iid(sites=3, min_rows=4).assign(np.arange(11))
    with pytest.raises(ManifestError, match="too many for labels"):
        Dirichlet(label="age", sites=3).assign(np.arange(500), np.arange(500.0))
    with pytest.raises(ManifestError, match="needs the values of 'y'"):
        Dirichlet(label="y", sites=3).assign(np.arange(500))
