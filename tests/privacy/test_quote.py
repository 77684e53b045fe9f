"""The quote: the specification's sentence filled from the accountant, noise against signal, levers, and what is refused."""

import json
from dataclasses import replace
from math import sqrt
from typing import Any

import pytest

from locum.privacy import PrivacyError, accountant
from locum.privacy.accountant import Plan, Release, calibrate, epsilon, with_spare
from locum.privacy.quote import Quote, percent, quote, up
from locum.privacy.sampler import FixedOrder, FullBatch, Poisson, Request

EXACT = calibrate([Request("means", FullBatch(), 1, 0.2), Request("train", FixedOrder(10, 4), 100, 0.8)], 3.0, 1e-6, spare=2)
SAMPLED = calibrate([Request("means", FullBatch(), 1, 0.2), Request("train", Poisson(0.01), 1000, 0.8)], 3.0, 1e-6)
TERMS: dict[str, Any] = {"honest": 5, "cohort": 8, "patients": 20_000, "dimensions": {"means": 64, "train": 31}}


@pytest.fixture(scope="module", params=["exact", "sampled"])
def made(request: pytest.FixtureRequest) -> Quote:
    return quote(EXACT, 1e-6, spare=2, **TERMS) if request.param == "exact" else quote(SAMPLED, 1e-6, **TERMS)


def test_the_numbers_are_the_accountants(made: Quote) -> None:
    whole = with_spare(EXACT, 2) if made.mu is not None else SAMPLED
    assert made.epsilon == pytest.approx(epsilon(whole, 1e-6), rel=1e-3)
    assert made.epsilon <= 3.0
    assert made.mu == accountant.mu(whole)
    assert made.tpr == pytest.approx(accountant.tpr(whole), rel=1e-2)
    assert sum(row.share for row in made.rows) == pytest.approx(1)


def test_the_sentence_is_the_specifications() -> None:
    made = quote(EXACT, 1e-6, spare=2, **TERMS)
    assert made.sentence == (
        "For any one patient at this site, including all their records, someone who sees the coordinator's view and knows everyone else's data can "
        f"detect their participation at a 1 % false-positive rate at most {percent(made.tpr)} of the time. It assumes at least 5 honest sites; it does "
        "not hide facts about the population, that the site took part, or harm from a correct inference."
    )
    assert "sees the released model and" in quote(EXACT, 1e-6, view="the released model", **TERMS).sentence
    alone = quote(EXACT, 1e-6, **(TERMS | {"honest": 1})).sentence
    assert "at least 1 honest site;" in alone


def test_site_level_sentence_promises_for_a_site() -> None:
    plan = calibrate([Request("train", FullBatch(), 100)], 3.0, 1e-4)
    made = quote(plan, 1e-4, unit="site", honest=500, cohort=500, patients=10**6, dimensions={"train": 1})
    assert made.sentence.startswith("For any one site, including all its patients,")
    assert "that the site took part" not in made.sentence
    assert made.rows[0].signal == 500
    assert made.elsewhere is None
    with pytest.raises(PrivacyError, match="too large for 50 sites"):
        quote(plan, 1e-2, unit="site", honest=50, cohort=50, patients=10**6, dimensions={"train": 1})


def test_noise_and_signal_are_per_coordinate_of_a_rounds_sum(made: Quote) -> None:
    for row, rate, d in zip(made.rows, (1.0, 0.1 if made.mu is not None else 0.01), (64, 31), strict=True):
        assert row.noise == pytest.approx(row.multiplier * sqrt(8 / 5))
        assert row.signal == pytest.approx(20_000 * rate / sqrt(d))
        assert row.ratio == pytest.approx(row.noise / row.signal)


def test_the_best_lever_is_named(made: Quote) -> None:
    assert made.levers[0].name == "cohort doubled"
    assert made.best.startswith("What lowers the noise of 'train' most at this epsilon: cohort doubled, to 0.50 of the ratio.")
    expected = "rounds halved" if made.mu is not None else "sampling rate doubled"
    assert f"Without more patients: {expected}, to 0.7" in made.best
    assert made.best in made.text()
    assert quote(Plan(), 1e-6, **TERMS).best == ""


def test_the_lever_that_is_named_does_what_it_says() -> None:
    """Doubling the cohort, its honest part and its patients halves the ratio; nothing else of the quote moves."""
    made = quote(SAMPLED, 1e-6, **TERMS)
    twice = quote(SAMPLED, 1e-6, honest=10, cohort=16, patients=40_000, dimensions=TERMS["dimensions"])
    assert twice.rows[1].ratio == pytest.approx(made.rows[1].ratio / 2)
    assert twice.epsilon == made.epsilon


def test_a_patient_at_two_hospitals_is_told_both(made: Quote) -> None:
    if made.mu is None:
        assert made.elsewhere is None
        return
    assert made.elsewhere is not None
    assert made.elsewhere.shared == pytest.approx(accountant.epsilon_gaussian(2 * made.mu, 1e-6))
    assert made.elsewhere.independent == pytest.approx(accountant.epsilon_gaussian(sqrt(2) * made.mu, 1e-6))
    assert f"{up(made.elsewhere.shared)} if both add to one sum" in made.text()


def test_the_text_holds_the_sentence_and_each_step(made: Quote) -> None:
    text = made.text()
    assert made.sentence in text
    for row in made.rows:
        assert row.step in text
        assert row.sampler in text
        assert f"{row.multiplier:.4g}" in text
    assert f"epsilon {up(made.epsilon)}, delta 1e-06" in text


def test_json_is_the_same_quote(made: Quote) -> None:
    plain = json.loads(made.to_json())
    assert plain["epsilon"] == made.epsilon
    assert plain["sentence"] == made.sentence
    assert plain["mu"] == made.mu
    assert plain["fpr"] == 0.01
    assert [row["ratio"] for row in plain["rows"]] == [row.ratio for row in made.rows]
    assert [lever["name"] for lever in plain["levers"]] == [lever.name for lever in made.levers]


def test_words_that_promise_too_much_are_never_used(made: Quote) -> None:
    said = (made.text() + made.to_json()).lower()
    assert [word for word in ("anonym", "complian", "hipaa", "secure", "safe") if word in said] == []


def test_an_epsilon_without_end_is_no_json_number() -> None:
    made = replace(quote(EXACT, 1e-6, **TERMS), epsilon=float("inf"))
    assert json.loads(made.to_json())["epsilon"] is None
    assert "epsilon infinite" in made.text()


@pytest.mark.parametrize(("share", "text"), [(0.0421, "4.21 %"), (0.04211, "4.22 %"), (0.9999, "100.0 %"), (0.01, "1.00 %"), (0.25, "25.0 %")])
def test_a_promise_is_not_rounded_in_its_own_favour(share: float, text: str) -> None:
    assert percent(share) == text


def test_an_epsilon_is_rounded_up() -> None:
    assert up(2.9988) == "3.00"
    assert up(3.001) == "3.01"
    assert up(0.01231) == "0.0124"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"honest": 9}, "honest"),
        ({"honest": 0}, "honest"),
        ({"cohort": 0}, "honest"),
        ({"patients": 0}, "patients"),
        ({"patients": 200_000}, "too large"),
        ({"dimensions": {"means": 64}}, "train"),
        ({"dimensions": {"means": 64, "train": 0}}, "train"),
        ({"unit": "record"}, "unit"),
        ({"view": "everything"}, "view"),
        ({"spare": -1}, "spare"),
    ],
)
def test_bad_terms_are_refused(change: dict[str, Any], what: str) -> None:
    with pytest.raises(PrivacyError, match=what) as caught:
        quote(EXACT, 1e-6, **(TERMS | change))
    assert caught.value.why
    assert caught.value.fix


@pytest.mark.parametrize("bad", [None, 0.0, -1e-6, float("nan"), float("inf"), 1.0])
def test_a_bad_delta_is_refused(bad: Any) -> None:
    with pytest.raises(PrivacyError, match="elta"):
        quote(EXACT, bad, **TERMS)


def test_noise_that_protects_nobody_is_not_quoted_as_a_promise() -> None:
    made = quote(Plan((Release("train", FullBatch(), 1e-3, 1),)), 1e-6, **TERMS)
    assert made.tpr == 1.0
    assert "at most 100.0 % of the time" in made.sentence
