"""The accountant: the specification's reference figures, the traps, and bounds recomputed by other means."""

import subprocess
import sys
from dataclasses import replace
from math import exp, inf, nan, sqrt
from typing import Any

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from scipy.stats import binom, norm

from locum.privacy import PrivacyError, accountant
from locum.privacy.accountant import (
    Plan,
    Release,
    at_hospitals,
    calibrate,
    check_delta,
    check_epsilon,
    delta,
    delta_gaussian,
    epsilon,
    epsilon_gaussian,
    epsilon_rdp,
    hospitals,
    levers,
    mu,
    mu_gaussian,
    rdp,
    records,
    shares,
    tpr,
    with_spare,
)
from locum.privacy.sampler import FixedOrder, FullBatch, Poisson, Request, Sampler

REFERENCE = Plan((Release("train", Poisson(0.01), 1.0, 1000),))
ROOT = Plan((Release("train", FullBatch(), sqrt(1000), 1000),))
MIXED = Plan((Release("means", FullBatch(), 8.0, 1), Release("train", Poisson(0.02), 1.2, 200), Release("fixed", FixedOrder(10, 4), 20.0, 30)))


def one(sampler: Sampler, multiplier: float, rounds: int, noise: Any = "gaussian") -> Plan:
    return Plan((Release("train", sampler, multiplier, rounds, noise),))


# --- the specification's figures ---


def test_poisson_by_loss_distributions() -> None:
    assert epsilon(REFERENCE, 1e-5) == pytest.approx(1.8282, abs=5e-5)
    assert epsilon(REFERENCE, 1e-5, grid=1e-3) == pytest.approx(1.8289, abs=5e-5)


def test_poisson_by_renyi_divergences() -> None:
    assert epsilon_rdp(REFERENCE, 1e-5) == pytest.approx(2.1014, abs=5e-5)


def test_poisson_lies_in_an_independent_accountants_bracket() -> None:
    """PRV accountant (Gopi, Lee & Wutschitz 2021)."""
    assert 1.8182 <= epsilon(REFERENCE, 1e-5) <= 1.8383


def test_the_central_limit_approximation_is_never_reported() -> None:
    """It claims less than the truth: Dong, Roth & Su 2022, corollary 5.4, taken for finite T."""
    claimed = epsilon_gaussian(0.01 * sqrt(1000 * (exp(1.0) - 1)), 1e-5)
    assert claimed == pytest.approx(1.618, abs=5e-4)
    assert epsilon(REFERENCE, 1e-5) > 1.8182 > claimed
    assert mu(REFERENCE) is None


def test_nothing_sampled_is_one_gaussian() -> None:
    assert mu(ROOT) == pytest.approx(1.0)
    assert epsilon(ROOT, 1e-5) == pytest.approx(4.377, abs=5e-4)
    assert dp.get_epsilon_gaussian(1.0, 1e-5) == pytest.approx(epsilon(ROOT, 1e-5), rel=1e-9)
    composed = PLDAccountant().compose(FullBatch().event(sqrt(1000), 1000))
    assert composed.get_epsilon(1e-5) == pytest.approx(4.377, abs=5e-4)
    assert epsilon_rdp(ROOT, 1e-5) == pytest.approx(4.729, abs=5e-4)


def test_shuffled_batches_are_not_accounted_as_poisson() -> None:
    """T = 1000 batches of one epoch: Poisson at rate 1/1000 says 4.24, a shuffle costs at least 11.0."""
    poisson, fixed = epsilon(one(Poisson(0.001), 0.5, 1000), 1e-6), epsilon(one(FixedOrder(1000), 0.5, 1000), 1e-6)
    assert poisson == pytest.approx(4.24, abs=5e-3)
    assert fixed == pytest.approx(11.0, abs=5e-3)  # 10.997: what a known order costs


@pytest.mark.parametrize(("cap", "reference"), [(1200, 1.828), (1100, 3.20)])
def test_a_cap_on_a_poisson_batch_must_be_far_above_its_mean(cap: int, reference: float) -> None:
    """100 000 patients at rate 0.01. Six standard deviations above the mean are 1189. Our sampler has no cap."""
    event = dp.SelfComposedDpEvent(dp.TruncatedSubsampledGaussianDpEvent(100_000, 0.01, cap, 1.0), 1000)
    assert PLDAccountant(value_discretization_interval=1e-3).compose(event).get_epsilon(1e-5) == pytest.approx(reference, abs=2e-3)


@pytest.mark.parametrize(("count", "reference"), [(1, 2.25), (2, 4.89), (5, 14.5), (10, 35.6)])
def test_a_patient_whose_records_are_clipped_one_by_one(count: int, reference: float) -> None:
    assert epsilon_gaussian(records(0.5, count), 1e-6) == pytest.approx(reference, abs=0.05 if reference > 10 else 0.005)


def test_a_patient_at_many_hospitals() -> None:
    for m in (1, 2, 5):
        assert hospitals(0.5, m, shared=False) == pytest.approx(0.5 * sqrt(m))
        assert hospitals(0.5, m, shared=True) == pytest.approx(0.5 * m)
    plan = one(FullBatch(), 4.0, 4)  # mu = 0.5
    assert at_hospitals(plan, 1e-6, 4, shared=False) == pytest.approx(epsilon_gaussian(1.0, 1e-6))
    assert at_hospitals(plan, 1e-6, 4, shared=True) == pytest.approx(epsilon_gaussian(2.0, 1e-6))


@pytest.mark.parametrize(("sites", "reference"), [(10, 0.60), (50, 0.16), (500, 0.021)])
def test_noise_of_a_mean_over_sites(sites: int, reference: float) -> None:
    """T = 100, eps 3, at delta = K^-1.1, the convention of DP-FedAvg: the one at which all three figures come out."""
    plan = calibrate([Request("train", FullBatch(), 100)], 3.0, sites**-1.1)
    assert plan.releases[0].multiplier / sites == pytest.approx(reference, abs=5e-3 if reference > 0.1 else 5e-4)
    with pytest.raises(PrivacyError, match="too large"):
        check_delta(sites**-1.1, sites)


def test_a_plan_is_for_one_adjacency_alone() -> None:
    assert epsilon(one(FullBatch(), 1.0, 1), 1e-5) == pytest.approx(dp.get_epsilon_gaussian(1.0, 1e-5))  # one clip, not two


# --- one Gaussian ---


@pytest.mark.parametrize("d", [1e-12, 1e-6, 1e-3, 0.1])
@pytest.mark.parametrize("m", [1e-3, 0.05, 0.5, 1.0, 3.0, 12.0, 60.0])
def test_the_closed_form_is_the_librarys(m: float, d: float) -> None:
    eps = epsilon_gaussian(m, d)
    assert eps == pytest.approx(dp.get_epsilon_gaussian(1 / m, d), rel=1e-9, abs=1e-9)
    if eps > 0:
        assert delta_gaussian(m, eps) <= d * (1 + 1e-9)
        assert mu_gaussian(eps, d) == pytest.approx(m, rel=1e-9)
        assert epsilon_gaussian(mu_gaussian(eps, d), d) <= eps * (1 + 1e-12)


def test_the_profile_is_the_integral_of_the_hockey_stick() -> None:
    m, eps = 0.8, 1.3
    x, step = np.linspace(-12, 14, 2_000_001, retstep=True)
    excess = np.maximum(norm.pdf(x, m) - exp(eps) * norm.pdf(x), 0).sum() * step
    assert delta_gaussian(m, eps) == pytest.approx(excess, rel=1e-6)


def test_no_noise_at_all_and_no_release_at_all() -> None:
    assert epsilon_gaussian(0.0, 1e-6) == 0
    assert delta_gaussian(0.0, 1.0) == 0
    assert epsilon(Plan(), 1e-6) == 0
    assert tpr(Plan()) == pytest.approx(0.01)
    assert calibrate([], 1.0, 1e-6) == Plan()


# --- plans ---


def test_samplings_rate_one_is_no_sampling() -> None:
    assert epsilon(one(Poisson(1.0), 5.0, 7), 1e-6) == epsilon(one(FullBatch(), 5.0, 7), 1e-6)
    assert mu(one(Poisson(1.0), 5.0, 7)) is not None


def test_order_does_not_matter_and_more_costs_more() -> None:
    base = epsilon(MIXED, 1e-6, grid=1e-3)
    assert epsilon(Plan(MIXED.releases[::-1]), 1e-6, grid=1e-3) == pytest.approx(base, rel=1e-6)
    for i, release in enumerate(MIXED.releases):
        for more in (replace(release, rounds=2 * release.rounds), replace(release, multiplier=release.multiplier / 2)):
            grown = Plan((*MIXED.releases[:i], more, *MIXED.releases[i + 1 :]))
            assert epsilon(grown, 1e-6, grid=1e-3) > base
            assert epsilon_rdp(grown, 1e-6) > epsilon_rdp(MIXED, 1e-6)
        fewer = Plan((*MIXED.releases[:i], *MIXED.releases[i + 1 :]))
        assert epsilon(fewer, 1e-6, grid=1e-3) < base


def test_a_mixed_plan_is_what_the_library_composes() -> None:
    events = [r.sampler.event(r.multiplier, r.rounds) for r in MIXED.releases]
    whole = PLDAccountant(value_discretization_interval=1e-3).compose(dp.ComposedDpEvent(events))
    assert epsilon(MIXED, 1e-6, grid=1e-3) == pytest.approx(whole.get_epsilon(1e-6), rel=1e-4)
    orders = (2, 4, 8, 32)
    for order, value in zip(orders, RdpAccountant(list(orders)).compose(dp.ComposedDpEvent(events)).rdp, strict=True):
        assert rdp(MIXED, order) == pytest.approx(float(value), rel=1e-9)


@pytest.mark.parametrize("plan", [ROOT, REFERENCE, MIXED, one(Poisson(0.2), 4.0, 50, "skellam")])
def test_delta_is_the_inverse_of_epsilon(plan: Plan) -> None:
    eps = epsilon(plan, 1e-5)
    assert delta(plan, eps) == pytest.approx(1e-5, rel=1e-3)
    assert delta(plan, eps / 2) > 1e-5 > delta(plan, eps * 1.2)


def test_skellam_is_accounted_by_its_divergences_alone() -> None:
    gaussian, skellam = one(FullBatch(), 4.0, 10), one(FullBatch(), 4.0, 10, "skellam")
    assert mu(skellam) is None
    assert epsilon(skellam, 1e-6) == epsilon_rdp(skellam, 1e-6) > epsilon(gaussian, 1e-6)
    assert tpr(skellam) > tpr(gaussian)
    with pytest.raises(PrivacyError, match="order"):
        rdp(one(Poisson(0.1), 4.0, 10, "skellam"), 2.5)
    with pytest.raises(PrivacyError, match="Skellam"):
        at_hospitals(one(Poisson(0.1), 4.0, 10, "skellam"), 1e-6, 2, shared=True)


def test_sampled_skellam_is_bounded_numerically() -> None:
    """One coordinate, one clip of 20 steps: the divergences of the two mixtures, summed directly, both ways, stay under the claim."""
    share, shift, rate, order = 3000.0, 20, 0.1, 4
    multiplier = 1 / sqrt(shift**2 / share + (shift**2 + 3 * shift) / share**2)
    x = np.arange(-1500, 1501)
    sigma = sqrt(share)
    # Skellam of variance `share` by the convolution of two Poissons, through its characteristic function exp(-share (1 - cos t))
    t = 2 * np.pi * np.arange(4096) / 4096
    law = np.real(np.fft.ifft(np.exp(-share * (1 - np.cos(t)))))
    p = np.maximum(law[x % 4096], 1e-300)
    q = (1 - rate) * p + rate * np.maximum(law[(x - shift) % 4096], 1e-300)
    inside = np.abs(x) < 6 * sigma
    for a, b in ((p, q), (q, p)):
        divergence = np.log((a[inside] ** order * b[inside] ** (1.0 - order)).sum()) / (order - 1)
        assert 0 < divergence <= rdp(one(Poisson(rate), multiplier, 1, "skellam"), order)


def test_a_divergence_that_rounding_spoils_is_not_taken_for_epsilon_zero() -> None:
    """dp-accounting 0.6 gives negative divergences here, and takes a negative one for epsilon 0."""
    plan = one(Poisson(1e-7), 1e4, 1)
    library = RdpAccountant(list(accountant._INTEGERS)).compose(Poisson(1e-7).event(1e4, 1)).rdp
    assert (np.asarray(library) < 0).any()
    assert (accountant._rdp(plan, accountant._INTEGERS) > 0).all()


def test_a_plan_beyond_all_promises_is_priced_without_its_loss_distribution() -> None:
    assert epsilon(one(Poisson(0.5), 0.02, 10), 1e-6) > 1000


def test_below_the_smallest_delta_epsilon_is_by_renyi() -> None:
    plan = one(Poisson(0.01), 1.0, 100)
    assert epsilon(plan, 1e-14) == epsilon_rdp(plan, 1e-14) > epsilon(plan, 1e-6)


def test_detection_is_bounded_as_a_gaussian_test_attains() -> None:
    assert tpr(ROOT) == pytest.approx(float(norm.sf(norm.isf(0.01) - 1.0)))
    assert 0.01 < tpr(REFERENCE) < tpr(one(Poisson(0.01), 0.8, 1000)) < tpr(one(Poisson(0.01), 0.8, 1000), 0.05) < 1


def test_detection_from_a_profile_is_at_least_what_a_test_attains() -> None:
    """The bound from (epsilon, delta) pairs is never under the likelihood-ratio test of one sampled release, computed directly."""
    rate, z = 0.3, 0.7
    cut = norm.isf(0.01) * z
    attained = (1 - rate) * 0.01 + rate * float(norm.sf((cut - 1) / z))
    bound = tpr(one(Poisson(rate), z, 1))
    assert attained <= bound < 1.35 * attained


def test_shares_add_to_one_and_follow_the_cost() -> None:
    exact = Plan((Release("a", FullBatch(), 2.0, 1), Release("b", FullBatch(), 2.0, 3)))
    assert shares(exact, 1e-6) == pytest.approx((0.25, 0.75))
    assert sum(shares(MIXED, 1e-6)) == pytest.approx(1)
    assert min(shares(MIXED, 1e-6)) > 0


def test_a_patient_at_two_hospitals_of_a_sampled_plan() -> None:
    plan = one(Poisson(0.3), 8.0, 20)
    alone, apart, together = epsilon(plan, 1e-5), at_hospitals(plan, 1e-5, 2, shared=False), at_hospitals(plan, 1e-5, 2, shared=True)
    assert at_hospitals(plan, 1e-5, 1, shared=True) == pytest.approx(alone, rel=5e-3)
    assert alone < apart < together
    assert together < epsilon(one(Poisson(1 - 0.7**2), 4.0, 20), 1e-5) * 1.001  # as if both were always drawn together
    full = Plan((Release("means", FullBatch(), 1.0, 1), Release("train", Poisson(0.001), 50.0, 1)))  # nearly all is the means'
    assert at_hospitals(full, 1e-5, 3, shared=True) == pytest.approx(epsilon_gaussian(3.0, 1e-5), rel=1e-2)
    with pytest.raises(PrivacyError, match="hospitals"):
        at_hospitals(plan, 1e-5, 0, shared=True)


# --- calibration ---

STEPS = [Request("means", FullBatch(), 1, 0.1), Request("train", Poisson(0.01), 1000, 0.8), Request("evaluate", FullBatch(), 1, 0.1)]
EXACT = [Request("means", FullBatch(), 1, 0.2), Request("train", FixedOrder(10, 4), 95, 0.8)]


@pytest.mark.parametrize("eps", [0.1, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("spare", [0, 3])
@pytest.mark.parametrize("requests", [STEPS, EXACT, [Request("t", Poisson(0.2), 100, noise="skellam")]], ids=["sampled", "exact", "skellam"])
def test_the_promise_is_kept_and_tight(requests: list[Request], spare: int, eps: float) -> None:
    plan = calibrate(requests, eps, 1e-6, spare=spare)
    assert [(r.step, r.sampler, r.rounds, r.noise) for r in plan.releases] == [(r.step, r.sampler, r.rounds, r.noise) for r in requests]
    reached = epsilon(with_spare(plan, spare), 1e-6)
    assert 0.999 * eps <= reached <= eps


def test_weights_divide_the_budget() -> None:
    plan = calibrate([Request("a", FullBatch(), 1, 1.0), Request("b", FullBatch(), 4, 3.0)], 2.0, 1e-6)
    assert shares(plan, 1e-6) == pytest.approx((0.25, 0.75))
    assert shares(calibrate(STEPS, 3.0, 1e-6), 1e-6) == pytest.approx((0.1, 0.8, 0.1), abs=0.05)
    assert shares(calibrate(STEPS, 0.5, 1e-6), 1e-6) == pytest.approx((0.1, 0.8, 0.1), abs=0.05)


def test_for_much_noise_the_multiplier_goes_as_the_rate_and_the_root_of_rounds_over_weight() -> None:
    plan = calibrate([Request("a", Poisson(0.01), 100, 1.0), Request("b", Poisson(0.02), 400, 0.25)], 0.01, 1e-6)
    a, b = (r.multiplier for r in plan.releases)
    assert b / a == pytest.approx((0.02 * sqrt(400 / 0.25)) / (0.01 * sqrt(100)), rel=0.05)


def test_spare_rounds_cover_whatever_is_repeated() -> None:
    plan = calibrate(STEPS, 3.0, 1e-6, spare=2)
    for i, j in ((0, 0), (0, 1), (1, 1)):
        grown = list(plan.releases)
        for k in (i, j):
            grown[k] = replace(grown[k], rounds=grown[k].rounds + 1)
        assert epsilon(Plan(tuple(grown)), 1e-6, grid=5e-4) <= 3.0
    exact = calibrate(EXACT, 3.0, 1e-6, spare=2)
    dearest = max(r.sampler.square(1) / r.multiplier**2 for r in exact.releases)
    assert sum(r.mu2 for r in exact.releases) + 2 * dearest == pytest.approx(mu_gaussian(3.0, 1e-6) ** 2, rel=1e-5)
    with pytest.raises(PrivacyError, match="spare"):
        with_spare(exact, -1)


def test_what_spare_rounds_add() -> None:
    """Sampled steps grow; the others share one Gaussian slot a repetition, as dear as the dearest round (an epoch's, in a fixed order)."""
    grown = with_spare(MIXED, 3).releases
    assert grown[:3] == (MIXED.releases[0], replace(MIXED.releases[1], rounds=203), MIXED.releases[2])
    assert grown[3] == Release("spare", FullBatch(), 8.0, 3)  # 1 / 8^2 is more than 1.47 / 20^2
    assert with_spare(REFERENCE, 3) == one(Poisson(0.01), 1.0, 1003)
    assert with_spare(MIXED, 0) is MIXED
    assert with_spare(one(FullBatch(), 2.0, 1, "skellam"), 1).releases[1].noise == "skellam"


def test_calibration_in_the_specifications_setting_finds_its_noise() -> None:
    plan = calibrate([Request("train", Poisson(0.01), 1000)], 1.8282, 1e-5)
    assert plan.releases[0].multiplier == pytest.approx(1.0, rel=1e-3)


# --- levers ---


@pytest.mark.parametrize("plan", [REFERENCE, MIXED, ROOT, one(FixedOrder(10, 4), 20.0, 30), one(Poisson(0.9), 9.0, 1)])
def test_each_lever_keeps_todays_epsilon(plan: Plan) -> None:
    found = levers(plan, 1e-6)
    assert [x.ratio for x in found] == sorted(x.ratio for x in found)
    assert found[0].name == "cohort doubled"
    assert {x.name for x in found} >= {"cohort doubled", "clip halved"}
    main = plan.releases[int(np.argmax(shares(plan, 1e-6)))]
    for x in found:
        assert x.step == main.step
        if x.name == "rounds halved":
            halved = [replace(main, rounds=-(-main.rounds // 2), multiplier=x.multiplier * off) for off in (0.95, 1.05)]
            less, more = (epsilon(Plan(tuple(h if r is main else r for r in plan.releases)), 1e-6, grid=1e-3) for h in halved)
            assert more < epsilon(plan, 1e-6, grid=1e-3) < less  # so the multiplier of today's epsilon is within 5 %
            assert x.multiplier < main.multiplier
            assert x.epsilon < 1
        if x.name == "sampling rate halved":
            assert x.epsilon < 1 < x.ratio + 1e-3  # less is paid, but fewer vectors are added
        if x.name == "sampling rate doubled":
            assert x.epsilon > 1 > x.ratio - 0.05


def test_halving_the_rounds_of_one_gaussian_saves_the_root_of_two() -> None:
    rounds = next(x for x in levers(ROOT, 1e-6) if x.name == "rounds halved")
    assert rounds.ratio == pytest.approx(sqrt(0.5), rel=1e-3)
    assert rounds.epsilon == pytest.approx(epsilon_gaussian(sqrt(0.5), 1e-6) / epsilon_gaussian(1.0, 1e-6))
    assert levers(Plan(), 1e-6) == ()


# --- files ---


@pytest.mark.parametrize("plan", [Plan(), REFERENCE, MIXED, one(FullBatch(), 2.0, 1, "skellam")])
def test_a_plan_is_read_back(plan: Plan) -> None:
    assert Plan.read(plan.plain()) == plan


def test_a_file_that_is_no_plan_is_refused() -> None:
    with pytest.raises(PrivacyError, match="release"):
        Plan.read([{"step": "train"}])


def test_nothing_heavy_is_imported_for_a_plan_without_sampling() -> None:
    code = (
        "import sys; from locum.privacy import accountant as a, quote, sampler as s; from locum.privacy.filters import Filter;"
        "p = a.calibrate([s.Request('t', s.FullBatch(), 9)], 3.0, 1e-6); a.tpr(p); Filter('rdp').total(p); Filter().limit(3, 1e-6);"
        "print([m for m in ('dp_accounting', 'scipy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "[]"


# --- bad input ---


@pytest.mark.parametrize("bad", [None, 0, 0.0, -1.0, nan, inf, -inf, "3", True])
def test_an_epsilon_that_is_none_is_refused(bad: Any) -> None:
    with pytest.raises(PrivacyError, match="psilon") as caught:
        check_epsilon(bad)
    assert caught.value.why
    assert caught.value.fix
    with pytest.raises(PrivacyError, match="psilon"):
        calibrate(EXACT, bad, 1e-6)


@pytest.mark.parametrize("bad", [None, 0, 0.0, -1e-6, nan, inf, 1.0, 1, 2.0, "1e-6", True])
def test_a_delta_that_is_none_is_refused(bad: Any) -> None:
    for call in (lambda: check_delta(bad), lambda: epsilon(ROOT, bad), lambda: calibrate(EXACT, 1.0, bad), lambda: epsilon_rdp(ROOT, bad)):
        with pytest.raises(PrivacyError, match="elta") as caught:
            call()
        assert caught.value.why
        assert caught.value.fix


def test_a_delta_above_a_tenth_of_one_over_the_patients_is_refused() -> None:
    assert check_delta(1e-5, 10_000) == 1e-5
    assert check_delta(0.1 / 7, 7) == 0.1 / 7
    with pytest.raises(PrivacyError, match="too large for 10001 patients") as caught:
        check_delta(1e-5, 10_001)
    assert "9.999e-06" in caught.value.fix
    with pytest.raises(PrivacyError, match="patients"):
        check_delta(1e-5, 0)
    assert accountant.default_delta(1000) == 1e-6
    assert accountant.default_delta(10**6) == pytest.approx(1e-7)


@pytest.mark.parametrize("multiplier", [0.0, -1.0, nan, inf])
def test_a_multiplier_that_is_none_is_refused(multiplier: float) -> None:
    with pytest.raises(PrivacyError, match="multiplier"):
        Release("train", FullBatch(), multiplier, 1)


@pytest.mark.parametrize("rounds", [0, -3, 2.5])
def test_rounds_that_are_none_are_refused(rounds: Any) -> None:
    with pytest.raises(PrivacyError, match="rounds"):
        Release("train", FullBatch(), 1.0, rounds)


def test_unknown_noise_and_bad_false_positive_rates_are_refused() -> None:
    with pytest.raises(PrivacyError, match="laplace"):
        one(FullBatch(), 1.0, 1, "laplace")
    for fpr in (0.0, 1.0, nan):
        with pytest.raises(PrivacyError, match="false-positive"):
            tpr(ROOT, fpr)
    with pytest.raises(PrivacyError, match="order"):
        rdp(ROOT, 1.0)


def test_the_mixture_of_drawn_copies_is_binomial() -> None:
    """What `at_hospitals` composes, against scipy."""
    assert [accountant.drawn(3, 0.2, k) for k in range(4)] == pytest.approx(binom.pmf(range(4), 3, 0.2).tolist())
