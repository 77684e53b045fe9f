"""The lower bounds on eps: published values, what they give for a correct and for a broken mechanism, and how often they are wrong."""

from __future__ import annotations

import numpy as np
import pytest

from locum.privacy import accountant
from locum.privacy.attacks import bounds, canaries, mutants
from locum.privacy.attacks.subject import Subject
from locum.privacy.sampler import FullBatch

DELTA = 1e-5
MU = 1 / canaries.MULTIPLIER


def scores(mu: float, rng: np.random.Generator, m: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    member = rng.random(m) < 0.5
    return mu * member + rng.normal(size=m), member


def one_run(mu: float, seed: int) -> tuple[float, float, float]:
    s, member = scores(mu, np.random.default_rng(seed))
    right = bounds.guess(s, member, 500)
    return bounds.gaussian_fit(s, member, DELTA), bounds.f_dp(2000, 500, right, DELTA), bounds.pure(2000, 500, right, DELTA)


def test_the_one_run_bound_gives_the_value_printed_in_its_paper() -> None:
    # Steinke, Nasr, Jagielski 2023, appendix D: m = 1000, 100 guesses, 75 right, delta 1e-4, 95 %
    assert bounds.pure(1000, 100, 75, 1e-4) == pytest.approx(0.673, abs=1e-3)


@pytest.mark.parametrize("mu", [0.1, 0.5, 1.0, 3.0, 8.0])
def test_the_eps_of_a_gaussian_is_the_accountants(mu: float) -> None:
    assert bounds.gaussian_epsilon(mu, DELTA) == pytest.approx(accountant.epsilon_gaussian(mu, DELTA), rel=1e-4)


def test_no_privacy_loss_means_no_bound() -> None:
    assert bounds.gaussian_epsilon(0, DELTA) == bounds.gaussian_epsilon(-1, DELTA) == bounds.gaussian_epsilon(1e-7, DELTA) == 0
    assert bounds.f_dp(2000, 500, 250, DELTA) == bounds.pure(2000, 500, 250, DELTA) == bounds.f_dp(2000, 500, 0, DELTA) == 0


# reference: (Gaussian fit, one run), one run of an experiment of the same size. A correct eps = 4, noise halved, clipping off by 3.
@pytest.mark.parametrize(("factor", "fit", "one"), [(1, 3.58, 1.98), (2, 8.61, 4.01), (3, 14.5, 6.29)])
def test_the_reference_figures(factor: int, fit: float, one: float) -> None:
    runs = np.array([one_run(factor * MU, seed) for seed in range(8)])
    assert runs[:, 0].mean() == pytest.approx(fit, rel=0.06)
    assert one * 0.95 < runs[:, 1].mean() < runs[:, 0].mean()
    assert (runs[:, 2] < runs[:, 1]).all()
    assert ((runs[:, :2] > 4).all()) == (factor > 1)


def test_no_bound_is_above_the_truth_too_often() -> None:
    rng = np.random.default_rng(0)
    needed = next(c for c in range(250, 501) if bounds.f_dp(2000, 500, c, DELTA) > 4)
    wrong = np.zeros(2)
    for _ in range(1000):
        s, member = scores(MU, rng)
        wrong += bounds.gaussian_fit(s, member, DELTA) > 4, bounds.guess(s, member, 500) >= needed
    assert wrong[0] / 1000 < 0.075  # 5 % plus three standard errors and a little
    assert wrong[1] / 1000 < 0.05


def test_abstaining_does_not_make_the_f_dp_bound_wrong() -> None:
    # few guesses, the surest ones: a bound that forgets those not guessed is above the truth half of the time here
    rng = np.random.default_rng(1)
    needed = next(c for c in range(50, 102) if c == 101 or bounds.f_dp(2000, 100, c, DELTA) > 4)
    wrong = 0
    for _ in range(1000):
        s, member = scores(MU, rng)
        wrong += bounds.guess(s, member, 100) >= needed
    assert wrong <= 50


def test_more_right_guesses_prove_more() -> None:
    values = [bounds.f_dp(2000, 500, c, DELTA) for c in range(250, 501, 25)]
    assert values == sorted(values)
    assert values[-1] > values[0]


def test_scores_that_tell_everything_prove_any_eps() -> None:
    member = np.random.default_rng(2).random(2000) < 0.5
    assert bounds.gaussian_fit(member.astype(float), member, DELTA) == float("inf")


def test_the_guesses_are_the_highest_and_the_lowest() -> None:
    s = np.arange(10.0)
    assert bounds.guess(s, s >= 5, 4) == 4
    assert bounds.guess(s, s < 5, 4) == 0
    assert bounds.guess(s, np.isin(s, [9, 8, 0]), 4) == 3


def test_the_claim_is_the_accountants() -> None:
    assert canaries.claim(Subject(0), canaries.MULTIPLIER, FullBatch(), 1) == pytest.approx(4, abs=1e-3)


def test_broken_noise_and_clipping_prove_what_the_reference_says() -> None:
    half = [f.protected for f in canaries.check(mutants.HalfTheNoise(0))]
    off = [f.protected for f in canaries.check(mutants.NoClip(0))]
    assert half[0] == pytest.approx(8.61, rel=0.1)
    assert off[0] == pytest.approx(14.5, rel=0.1)
    assert min(half[1], off[1]) > 4


def test_clipping_a_record_instead_of_a_patient_is_seen_because_canaries_have_several() -> None:
    assert [f.protected for f in canaries.check(mutants.ClipEachRecord(0))] == pytest.approx([f.protected for f in canaries.check(mutants.NoClip(0))])
