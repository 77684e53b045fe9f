"""Samplers: what is drawn has the law that is accounted, and depends on the key and the patient alone."""

from hashlib import blake2b
from itertools import pairwise
from typing import Any

import dp_accounting as dp
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare

from locum.privacy import PrivacyError, sampler
from locum.privacy.sampler import FixedOrder, FullBatch, Patients, Poisson, Request, Sampler, read

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
ALL: list[Sampler] = [FullBatch(), Poisson(0.3), FixedOrder(4, 2)]
VECTOR_POISSON = [8, 10, 12]
VECTOR_FIXED = [2, 4, 2, 1, 2, 2, 4, 3]
UNLIKELY = 1e-6  # keys are fixed, so a test that passes goes on passing


def named(n: int, prefix: str = "p") -> Patients:
    return np.array([f"{prefix}{i}" for i in range(n)], dtype=np.str_)


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.3, 0.9])
def test_poisson_meets_its_rate_over_patients_and_over_rounds(rate: float) -> None:
    across = Poisson(rate).draw(named(20_000), 7, KEY)
    assert binomtest(int(across.sum()), len(across), rate).pvalue > UNLIKELY
    one = named(1)
    over = [bool(Poisson(rate).draw(one, i, KEY)[0]) for i in range(5000)]
    assert binomtest(sum(over), len(over), rate).pvalue > UNLIKELY


def test_rounds_and_patients_are_drawn_independently() -> None:
    patients, rate = named(5000), 0.4
    drawn = np.array([Poisson(rate).draw(patients, i, KEY) for i in range(8)])
    for a, b in pairwise(drawn):
        assert binomtest(int((a & b).sum()), len(patients), rate**2).pvalue > UNLIKELY
    neighbours = int((drawn[:, 0::2] & drawn[:, 1::2]).sum())
    assert binomtest(neighbours, drawn.size // 2, rate**2).pvalue > UNLIKELY


def test_batch_sizes_vary_as_a_binomial_does() -> None:
    """A sampler that kept the batch's size fixed would pass for its rate, and not be Poisson."""
    patients, rate = named(400), 0.25
    sizes = np.array([int(Poisson(rate).draw(patients, i, KEY).sum()) for i in range(1000)])
    expected = len(patients) * rate * (1 - rate)
    assert sizes.var() == pytest.approx(expected, rel=0.25)  # its standard error is 4.5 %


def test_another_key_or_another_round_draws_others() -> None:
    patients, rate = named(10_000), 0.5
    first = Poisson(rate).draw(patients, 0, KEY)
    for other in (Poisson(rate).draw(patients, 0, OTHER), Poisson(rate).draw(patients, 1, KEY)):
        assert binomtest(int((first == other).sum()), len(first), 0.5).pvalue > UNLIKELY
    batches = FixedOrder(2)
    same = int((batches.batch(patients, KEY) == batches.batch(patients, OTHER)).sum())
    assert binomtest(same, len(patients), 0.5).pvalue > UNLIKELY


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=12), unique=True, max_size=12), st.randoms(), st.integers(0, 50))
def test_a_patients_draw_depends_on_nobody_else(names: list[str], random: Any, iteration: int) -> None:
    patients = np.array(names, dtype=np.str_)
    order = list(range(len(names)))
    random.shuffle(order)
    some = order[: len(order) // 2]
    for each in ALL:
        drawn = each.draw(patients, iteration, KEY)
        assert np.array_equal(each.draw(patients[order], iteration, KEY), drawn[order])
        assert np.array_equal(each.draw(patients[some], iteration, KEY), drawn[some])
        wide = np.concatenate([patients, np.array(["somebody with a much longer identifier"])])
        assert np.array_equal(each.draw(wide, iteration, KEY)[:-1], drawn)


def test_drawing_again_gives_the_same_patients() -> None:
    patients = named(1000)
    for each in ALL:
        assert np.array_equal(each.draw(patients, 3, KEY), each.draw(patients.copy(), 3, KEY))


def number(name: str, purpose: bytes, iteration: int) -> int:
    """A patient's number as the module's docstring defines it, one at a time: one block of AES, by CBC with a zero IV."""
    key = blake2b(iteration.to_bytes(8, "little"), key=KEY, digest_size=32, person=purpose).digest()
    tag = blake2b(name.encode(), digest_size=16, person=b"locum patient").digest()
    return int.from_bytes(Cipher(algorithms.AES(key), modes.CBC(bytes(16))).encryptor().update(tag)[:8], "little")


def test_the_draw_is_what_the_docstring_says_and_what_it_was() -> None:
    """A change of the vectors would make a resumed study draw its patients differently."""
    patients = named(30)
    drawn = Poisson(0.2).draw(patients, 5, KEY)
    assert drawn.tolist() == [number(p, b"poisson", 5) < int(0.2 * 2**64) for p in patients.tolist()]
    assert np.flatnonzero(drawn).tolist() == VECTOR_POISSON
    batch = FixedOrder(5).batch(patients[:8], KEY)
    assert batch.tolist() == [number(p, b"fixed order", 0) % 5 for p in patients[:8].tolist()]
    assert batch.tolist() == VECTOR_FIXED


@pytest.mark.parametrize("batches", [1, 3, 10])
def test_in_a_fixed_order_each_patient_comes_once_an_epoch_a_whole_epoch_apart(batches: int) -> None:
    patients, each = named(3000), FixedOrder(batches)
    drawn = np.array([each.draw(patients, i, KEY) for i in range(3 * batches)])
    assert (drawn.reshape(3, batches, -1).sum(axis=1) == 1).all()
    assert np.array_equal(drawn[:batches], drawn[batches : 2 * batches])
    if batches > 1:
        assert chisquare(drawn[:batches].sum(axis=1)).pvalue > UNLIKELY


def test_every_patient_of_a_full_batch() -> None:
    assert FullBatch().draw(named(50), 9, KEY).all()
    assert Poisson(1.0).draw(named(50), 9, KEY).all()
    assert FullBatch().draw(named(0), 9, KEY).shape == (0,)
    assert Poisson(0.5).draw(named(0), 9, KEY).shape == (0,)


def test_what_is_accounted_is_what_is_drawn() -> None:
    assert FullBatch().event(2.0, 4) == dp.GaussianDpEvent(1.0)
    assert Poisson(0.1).event(2.0, 4) == dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(0.1, dp.GaussianDpEvent(2.0)), 4)
    assert Poisson(1.0).event(2.0, 4) == dp.GaussianDpEvent(1.0)
    assert FixedOrder(10).event(2.0, 40) == dp.GaussianDpEvent(1.0)
    assert FixedOrder(10).event(2.0, 31) == dp.GaussianDpEvent(1.0)  # a started epoch counts
    assert FixedOrder(10).event(2.0, 30) == dp.GaussianDpEvent(2 / 3**0.5)


def test_nothing_is_accounted_as_sampling_without_replacement_or_with_a_cap() -> None:
    for each in ALL:
        text = repr(each.event(1.0, 3))
        assert "WithoutReplacement" not in text
        assert "Truncated" not in text
        assert ("Poisson" in text) == each.amplified == isinstance(each, Poisson)


def test_the_sensitivity_of_a_band_is_that_of_the_matrix() -> None:
    """Against the matrix itself: the columns of C of every batch that holds one patient, added."""
    batches, band, rounds = 6, 4, 27
    coefficients = np.concatenate([[1.0], np.cumprod([(2 * j - 1) / (2 * j) for j in range(1, band)])])
    matrix = sum(c * np.eye(rounds, k=-j) for j, c in enumerate(coefficients))
    worst = max(float((matrix[:, first::batches].sum(axis=1) ** 2).sum()) for first in range(batches))
    made = FixedOrder(batches, band)
    assert worst <= made.square(rounds) * (1 + 1e-12)
    assert made.square(rounds) == pytest.approx(made.epochs(rounds) * (coefficients**2).sum())
    assert worst == pytest.approx(made.square(rounds), rel=0.1)  # only the last window is cut short


@pytest.mark.parametrize("each", [*ALL, Poisson(1.0), FixedOrder(1)])
def test_a_sampler_is_read_back(each: Sampler) -> None:
    assert read(each.plain()) == each


BAD_PLAIN: list[dict[str, Any]] = [{}, {"kind": "shuffle"}, {"kind": "full", "rate": 0.1}, {"kind": "poisson"}, {"kind": "fixed", "batches": 3}]


@pytest.mark.parametrize("plain", BAD_PLAIN)
def test_what_has_no_accountant_is_not_read(plain: dict[str, Any]) -> None:
    with pytest.raises(PrivacyError):
        read(plain)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.0000001, float("nan"), float("inf"), "0.1", None])
def test_a_rate_that_is_none_is_refused(rate: Any) -> None:
    with pytest.raises(PrivacyError, match="rate") as caught:
        Poisson(rate)
    assert caught.value.why
    assert caught.value.fix


@pytest.mark.parametrize(("batches", "band"), [(0, 1), (3, 0), (3, 4), (-1, -1)])
def test_a_band_wider_than_an_epoch_is_refused(batches: int, band: int) -> None:
    with pytest.raises(PrivacyError, match="band") as caught:
        FixedOrder(batches, band)
    assert caught.value.fix


@pytest.mark.parametrize("rounds", [0, -1, 1.5])
def test_no_rounds_are_refused(rounds: Any) -> None:
    for each in ALL:
        with pytest.raises(PrivacyError, match="rounds"):
            each.square(rounds)
        with pytest.raises(PrivacyError, match="rounds"):
            each.event(1.0, rounds)
    with pytest.raises(PrivacyError, match="rounds"):
        Request("train", FullBatch(), rounds)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_step_without_weight_is_refused(weight: float) -> None:
    with pytest.raises(PrivacyError, match="train"):
        Request("train", FullBatch(), 1, weight)


def test_bad_draws_are_refused() -> None:
    twice = np.array(["a", "b", "a"])
    for each in ALL:
        with pytest.raises(PrivacyError, match="same identifier"):
            each.draw(twice, 0, KEY)
        with pytest.raises(PrivacyError, match="key"):
            each.draw(named(3), 0, KEY[:16])
        with pytest.raises(PrivacyError, match="Iteration"):
            each.draw(named(3), -1, KEY)
        with pytest.raises(PrivacyError, match="identifier"):
            each.draw(np.arange(3), 0, KEY)  # type: ignore[arg-type]


def test_a_refusal_names_no_patient() -> None:
    with pytest.raises(PrivacyError) as caught:
        sampler.tags(np.array(["Ada Lovelace", "Ada Lovelace"]))
    assert "Ada" not in str(caught.value)
