"""Filters: costs add, limits keep the promise, and what a filter cannot price is refused with the remedy."""

from math import sqrt
from typing import Any

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.privacy import PrivacyError, accountant
from locum.privacy.accountant import Plan, Release, calibrate, epsilon, epsilon_rdp
from locum.privacy.filters import Filter
from locum.privacy.sampler import FixedOrder, FullBatch, Poisson, Request

GDP, ZCDP, RDP = Filter(), Filter("zcdp"), Filter("rdp")
ALL = [GDP, ZCDP, RDP, Filter("rdp", 8)]
SAMPLED = Release("train", Poisson(0.01), 1.0, 1000)
SKELLAM = Release("count", FullBatch(), 4.0, 3, "skellam")


def study(eps: float, delta: float = 1e-6) -> Plan:
    return calibrate([Request("train", FullBatch(), 10)], eps, delta)


def test_five_studies_of_epsilon_3_fit_in_a_budget_of_8_where_naive_sums_allow_two() -> None:
    cost, limit = GDP.total(study(3.0)), GDP.limit(8.0, 1e-6)
    assert 5 * cost <= limit < 6 * cost
    assert GDP.epsilon(5 * cost, 1e-6) == pytest.approx(7.49, abs=5e-3)
    assert 2 * 3.0 <= 8.0 < 3 * 3.0


@pytest.mark.parametrize("law", ALL, ids=str)
@pytest.mark.parametrize("eps", [6.0, 8.0, 20.0])
def test_the_limit_is_the_largest_cost_that_keeps_the_promise(law: Filter, eps: float) -> None:
    limit = law.limit(eps, 1e-6)
    assert law.epsilon(limit, 1e-6) <= eps * (1 + 1e-12)
    assert law.epsilon(limit * (1 + 1e-6), 1e-6) > eps
    assert law.epsilon(0.0, 1e-6) == 0


@pytest.mark.parametrize("law", ALL, ids=str)
def test_what_a_filter_admits_keeps_the_promise_by_the_accountant(law: Filter) -> None:
    """A plan that fills the filter to the brim: the exact accountant, which knows the plan in advance, never says more."""
    rounds = 40
    price = law.total(Plan((Release("t", FullBatch(), 1.0, rounds),)))
    plan = Plan((Release("t", FullBatch(), sqrt(price / law.limit(8.0, 1e-6)), rounds),))
    assert law.total(plan) == pytest.approx(law.limit(8.0, 1e-6))
    assert epsilon(plan, 1e-6) <= 8.0 * (1 + 1e-9)
    assert epsilon(plan, 1e-6) > 6.5 or law.kind == "rdp"


def test_a_renyi_filter_takes_sampled_plans_and_promises_no_less_than_the_accountant() -> None:
    plan = Plan((SAMPLED,))
    assert RDP.epsilon(RDP.total(plan), 1e-5) >= epsilon_rdp(plan, 1e-5) >= epsilon(plan, 1e-5)
    library = RdpAccountant([4], dp.NeighboringRelation.ADD_OR_REMOVE_ONE).compose(SAMPLED.sampler.event(1.0, 1000))
    assert RDP.total(plan) == pytest.approx(float(library.rdp[0]), rel=1e-9)
    assert RDP.epsilon(RDP.total(plan), 1e-5) == pytest.approx(library.get_epsilon(1e-5), rel=1e-9)


@pytest.mark.parametrize("law", ALL, ids=str)
@pytest.mark.parametrize("release", [Release("a", FullBatch(), 3.0, 12), Release("b", FixedOrder(5, 3), 3.0, 12), Release("c", Poisson(1.0), 3.0, 2)], ids=str)
def test_rounds_add_to_the_plan(law: Filter, release: Release) -> None:
    costs = [law.cost(release, i) for i in range(release.rounds)]
    assert sum(costs) == pytest.approx(law.total(Plan((release,))), rel=1e-9)
    assert law.costliest(release) == max(*costs, law.retry(release))
    two = Plan((release, Release("d", FullBatch(), 2.0, 1)))
    assert law.total(two) == pytest.approx(sum(costs) + law.cost(two.releases[1], 0))
    assert law.total(Plan()) == 0


def test_sampled_rounds_add_to_the_plan_too() -> None:
    assert SAMPLED.rounds * RDP.cost(SAMPLED, 17) == pytest.approx(RDP.total(Plan((SAMPLED,))), rel=1e-9)
    assert RDP.retry(SAMPLED) == RDP.cost(SAMPLED, 0) == RDP.costliest(SAMPLED)


def test_a_fixed_order_pays_an_epoch_at_its_first_round() -> None:
    release = Release("train", FixedOrder(4, 3), 2.0, 10)
    norm2 = 1 + 1 / 4 + 9 / 64
    assert [GDP.cost(release, i) for i in range(10)] == pytest.approx([norm2 / 4, 0, 0, 0, norm2 / 4, 0, 0, 0, norm2 / 4, 0])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 14), st.data())
def test_a_repeated_row_of_a_fixed_order_costs_at_most_its_retry(batches: int, band: int, rounds: int, data: st.DataObject) -> None:
    """The matrix with some row repeated, each copy with fresh noise: one patient's squared sensitivity against what was charged."""
    band = min(band, batches)
    sampler, row = FixedOrder(batches, band), data.draw(st.integers(0, rounds - 1))
    c = np.concatenate([[1.0], np.cumprod([(2 * j - 1) / (2 * j) for j in range(1, band)])])
    matrix = sum(x * np.eye(rounds, k=-j) for j, x in enumerate(c))
    repeated = np.vstack([matrix, matrix[row : row + 1]])
    worst = max(float((repeated[:, first::batches].sum(axis=1) ** 2).sum()) for first in range(min(batches, rounds)))
    release = Release("train", sampler, 1.0, rounds)
    assert worst <= GDP.total(Plan((release,))) + GDP.retry(release) + 1e-9


def test_zcdp_is_tighter_than_its_textbook_conversion_and_no_tighter_than_the_gaussian() -> None:
    """Bun & Steinke 2016, proposition 1.3: rho + 2 sqrt(rho log(1 / delta))."""
    for rho in (1e-4, 0.01, 0.2, 3.0):
        found = ZCDP.epsilon(rho, 1e-6)
        assert found <= rho + 2 * sqrt(rho * np.log(1e6))
        assert found >= accountant.epsilon_gaussian(sqrt(2 * rho), 1e-6)
        orders = 1 + np.geomspace(1e-3, 1e7, 200_001)
        brute = (orders * rho + np.log1p(-1 / orders) - (np.log(1e-6) + np.log(orders)) / (orders - 1)).min()
        assert found == pytest.approx(float(brute), rel=1e-6)


@pytest.mark.parametrize("law", [GDP, ZCDP], ids=str)
def test_a_sampled_release_needs_a_renyi_filter(law: Filter) -> None:
    for call in (lambda: law.total(Plan((SAMPLED,))), lambda: law.cost(SAMPLED, 0), lambda: law.retry(SAMPLED)):
        with pytest.raises(PrivacyError, match="train") as caught:
            call()
        assert "rdp" in caught.value.fix


def test_skellam_needs_another_filter_than_gdp() -> None:
    with pytest.raises(PrivacyError, match="Skellam") as caught:
        GDP.total(Plan((SKELLAM,)))
    assert "rdp" in caught.value.fix
    assert ZCDP.total(Plan((SKELLAM,))) == pytest.approx(3 / 32)
    assert RDP.total(Plan((SKELLAM,))) == pytest.approx(4 * 3 / 32)


def test_an_order_that_leaves_no_room_names_a_better_one() -> None:
    with pytest.raises(PrivacyError, match="order 4") as caught:
        RDP.limit(3.0, 1e-6)
    order = int(caught.value.fix.split()[-1])
    assert Filter("rdp", order).limit(3.0, 1e-6) > 0


@pytest.mark.parametrize(("kind", "order"), [("pld", None), ("gdp", 4), ("zcdp", 2), ("rdp", 1), ("rdp", 2.5), ("rdp", float("nan"))])
def test_a_filter_that_is_none_is_refused(kind: Any, order: Any) -> None:
    with pytest.raises(PrivacyError) as caught:
        Filter(kind, order)
    assert caught.value.why
    assert caught.value.fix


def test_equal_filters_are_equal_however_the_order_is_written() -> None:
    assert Filter("rdp") == Filter("rdp", 4) == Filter("rdp", 4.0)
    assert hash(Filter("rdp")) == hash(Filter("rdp", 4.0))


@pytest.mark.parametrize("law", ALL, ids=str)
@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf"), None])
def test_bad_limits_are_refused(law: Filter, bad: Any) -> None:
    with pytest.raises(PrivacyError, match="psilon"):
        law.limit(bad, 1e-6)
    with pytest.raises(PrivacyError, match="elta"):
        law.limit(8.0, bad)
    with pytest.raises(PrivacyError, match="elta"):
        law.epsilon(1.0, bad)


def test_a_study_calibrated_to_the_whole_budget_fits_with_its_spare_rounds() -> None:
    """Even where a ledger rounds each round's price up by 2^-40."""
    requests = [Request("train", FullBatch(), 5000), Request("fixed", FixedOrder(10, 4), 95)]
    plan = calibrate(requests, 8.0, 1e-6, spare=3)
    asked = GDP.total(plan) + 3 * max(GDP.costliest(r) for r in plan.releases) + (plan.rounds + 3) * 2.0**-40
    assert asked <= GDP.limit(8.0, 1e-6)
    assert asked >= GDP.limit(8.0, 1e-6) * (1 - 1e-5)
