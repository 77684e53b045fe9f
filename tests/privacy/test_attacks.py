"""The attacks work where nothing protects, fail on the real protection, and catch each broken copy of it."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from locum.privacy.attacks import AuditReport, imprint, inversion, noise_test, run
from locum.privacy.attacks.audit import CAVEAT, QUICK, tried
from locum.privacy.attacks.findings import Finding, at_most
from locum.privacy.attacks.images import pictures, psnr
from locum.privacy.attacks.mutants import MUTANTS, Caught
from locum.privacy.attacks.subject import Rows, Subject

FIRST_TO_SEE_IT = {
    "half the noise": {"canaries", "chi-square"},
    "no clip": {"canaries"},
    "clip each record instead of each patient": {"canaries"},
    "the same noise in every release": {"repetition"},
    "the same noise at every site": {"repetition", "chi-square"},
    "noise shared among all sites, not the honest ones": {"canaries", "chi-square"},
    "a Poisson sampler that always includes": {"canaries (sampled)", "sampling"},
    "a Poisson sampler that draws the same patients in every round": {"sampling"},
    "batches of a fixed size accounted as Poisson": {"sampling"},
}


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def report(told: list[str]) -> AuditReport:
    return run(False, told.append)


def test_the_protection_as_shipped_passes(report: AuditReport) -> None:
    assert report.passed, report.text()


def test_every_kind_of_attack_ran(report: AuditReport) -> None:
    assert {f.check for f in report.findings} == {
        "inversion",
        "imprint",
        "membership",
        "canaries",
        "canaries (skellam)",
        "canaries (sampled)",
        "canaries (correlated)",
        "chi-square",
        "repetition",
        "sampling",
    }


@pytest.mark.parametrize("name", FIRST_TO_SEE_IT)
def test_each_mutant_is_caught_by_the_checks_that_are_made_for_it(report: AuditReport, name: str) -> None:
    (caught,) = (m for m in report.mutants if m.mutant == name)
    assert set(caught.by) >= FIRST_TO_SEE_IT[name]


def test_no_mutant_is_forgotten(report: AuditReport) -> None:
    assert {m.name for m in MUTANTS} == {m.mutant for m in report.mutants} == set(FIRST_TO_SEE_IT)


def test_the_quick_checks_find_nothing_wrong_with_the_real_thing() -> None:
    assert tried(Subject(0)).failed == ()


def test_the_same_seed_gives_the_same_figures_and_another_seed_others() -> None:
    def figures(seed: int) -> list[float]:
        return [f.protected for check in QUICK for f in check(Subject(seed))]

    assert figures(0) == figures(0) != figures(1)


def test_the_report_says_what_it_does_not_show(report: AuditReport) -> None:
    assert "Passing never proves differential privacy; it shows that these attacks did not find a violation." in report.text()
    assert report.to_json()["caveat"] == CAVEAT
    assert not re.search("anonym|complian", report.text() + json.dumps(report.to_json()), re.IGNORECASE)


def test_the_report_is_json_without_infinities(report: AuditReport) -> None:
    plain = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert plain["passed"] is True
    assert len(plain["findings"]) == len(report.findings)
    assert all(m["caught"] and m["by"] and m["failed"] for m in plain["mutants"])


def test_the_text_has_a_line_for_each_figure_and_each_mutant(report: AuditReport) -> None:
    text = report.text()
    assert all(f.measure in text for f in report.findings)
    assert all(m.mutant in text for m in report.mutants)


def test_progress_is_told_before_each_part(report: AuditReport, told: list[str]) -> None:
    assert {"inversion", "imprint", "membership", "canaries"} <= set(told)
    assert [t for t in told if t.startswith("mutant: ")] == [f"mutant: {m.name}" for m in MUTANTS]


def test_one_figure_out_of_its_limit_or_one_mutant_not_caught_fails_the_audit(report: AuditReport) -> None:
    bad = replace(report.findings[0], passed=False)
    with_bad = replace(report, findings=(bad, *report.findings[1:]))
    with_free = replace(report, mutants=(*report.mutants, Caught("a new one", ())))
    assert not with_bad.passed
    assert "FAILED" in with_bad.text()
    assert not with_free.passed
    assert "NOTHING" in with_free.text()
    assert "1 of the lines above failed." in with_free.text()


def test_an_attack_that_does_not_work_unprotected_shows_nothing() -> None:
    assert at_most("a", "b", 1, 2, unprotected=5, leaks=5).passed
    assert not at_most("a", "b", 1, 2, unprotected=4, leaks=5).passed
    assert not at_most("a", "b", 1, 2, leaks=5).passed
    assert not at_most("a", "b", float("nan"), 2).passed


# --- the attacks alone ---


def test_inversion_is_exact_for_one_patient_and_not_for_two() -> None:
    rng = np.random.default_rng(0)
    images = pictures(2, 8, rng)
    weights, bias = rng.normal(size=(3, 64)), rng.normal(size=3)
    one, two = (inversion.gradient(image, i, weights, bias) for i, image in enumerate(images))
    np.testing.assert_allclose(inversion.invert(one, 3), images[0], atol=1e-12)
    assert np.abs(inversion.invert(one + two, 3) - images[0]).max() > 0.01


def test_the_gradient_of_the_linear_layer_is_the_derivative_of_its_loss() -> None:
    rng = np.random.default_rng(1)
    image, weights, bias = rng.random(5), rng.normal(size=(3, 5)), rng.normal(size=3)

    def loss(parameters: np.ndarray) -> float:
        logits = parameters[:15].reshape(3, 5) @ image + parameters[15:]
        return float(np.log(np.exp(logits).sum()) - logits[2])

    at = np.concatenate([weights.ravel(), bias])
    numeric = [(loss(at + e) - loss(at - e)) / 2e-6 for e in np.eye(18) * 1e-6]
    np.testing.assert_allclose(inversion.gradient(image, 2, weights, bias), numeric, atol=1e-7)


def test_an_imprint_returns_the_image_that_is_alone_in_its_bin() -> None:
    rng = np.random.default_rng(2)
    layer = imprint.Imprint.plant(pictures(500, 8, rng), 32, rng)
    images = pictures(3, 8, rng)
    update = layer.gradients(images, np.array([0.0, 1.0, 2.0])).sum(axis=0)
    bins = (images.mean(axis=1)[:, None] > layer.cuts).sum(axis=1)
    alone = sum(int(np.count_nonzero(bins == b) == 1) for b in bins)
    assert alone >= 2
    assert imprint.stolen(layer.steal(update), images) == alone


def test_psnr_of_the_image_itself_is_high_and_of_its_negative_low() -> None:
    image = pictures(1, 16, np.random.default_rng(3))
    assert psnr(image, image)[0, 0] == 400
    assert psnr(1 - image, image)[0, 0] < 15
    assert psnr(image + 0.1 * (image < 0.5), image)[0, 0] > 19


@pytest.mark.parametrize(("sigma", "seen"), [(1.0, False), (1.1, True), (0.9, True)])
def test_chi_square_sees_a_tenth_more_or_less_noise(sigma: float, seen: bool) -> None:
    x = np.rint(np.random.default_rng(4).normal(scale=1000 * sigma, size=50_000)).astype(np.int64)
    assert (noise_test.cells(x, 1000) < noise_test.SMALLEST_P) == seen


def test_chi_square_is_uniform_under_the_law_and_pools_rare_cells() -> None:
    rng = np.random.default_rng(5)
    law = np.array([0.5, 0.3, 0.1999, 0.0001])
    p = [noise_test.chi_square(rng.multinomial(1000, law).astype(float), law) for _ in range(2000)]
    assert abs(np.mean(p) - 0.5) < 0.05
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.08
    assert noise_test.chi_square(np.array([400.0, 400, 200, 0]), law) < 1e-6
    assert noise_test.chi_square(np.array([500.0, 300, 199, 0, 1]), np.append(law, 0)) == 0


def test_repetition_is_seen_at_any_shift() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=4096), rng.normal(size=4096)
    assert noise_test.highest(a, b) < noise_test.LARGEST_Z
    assert noise_test.highest(a, np.concatenate([b[:2048], a[:2048]])) > noise_test.LARGEST_Z
    assert noise_test.highest(np.tile(a[:1024], 4), np.tile(a[:1024], 4), own=True) > noise_test.LARGEST_Z
    assert noise_test.highest(a, -a) > noise_test.LARGEST_Z


def test_the_subject_is_the_real_thing() -> None:
    subject = Subject(0)
    mechanism = subject.mechanism(1e-3, 2, 4)
    rows = Rows(np.array([[3.0, 0, 0, 0], [0, 4.0, 0, 0], [0, 0, 0.5, 0]]), np.array([7, 7, 8]))
    released = subject.release(mechanism, [rows, Rows.none(4)], "a")
    np.testing.assert_allclose(released, [0.6, 0.8, 0.5, 0], atol=0.01)
    assert not np.array_equal(released, subject.release(mechanism, [rows, Rows.none(4)], "b"))


def test_a_finding_that_is_not_finite_becomes_null() -> None:
    assert Finding("a", "b", float("inf"), float("nan"), "", False).to_json() == {
        "check": "a",
        "measure": "b",
        "unprotected": None,
        "protected": None,
        "limit": "",
        "passed": False,
    }
