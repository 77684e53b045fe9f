"""Patients made to be found: how much of the claimed eps an attack on the released sum can prove.

Experiment      m canaries, each a patient with three records of norm 1 along an axis of their own, so that clipping must act on the patient
                (the sum has norm 3) and nothing hides in the crowd; each is in with probability 1/2. The score of a canary is its
                coordinate of what the coordinator reads. The claim is the accountant's, for the multiplier that was asked for.
Gate            three 95 % lower bounds on eps at delta = 1e-5 (see `bounds`) are at most the claim. A tight mechanism reaches about 90 % of it
                by the Gaussian fit, so an error of a fifth in the noise shows.
                The seed is fixed, so a correct mechanism does not fail now and then; another seed fails this gate once in twenty.
Runs            once, with every patient; over several Poisson-sampled rounds, where the claim counts on the sampling; and over three epochs in
                a fixed order with correlated noise, where the attacker knows the order and weighs each round as it speaks of a canary.
Source          Nasr et al. 2023 (Dirac canaries); Steinke, Nasr, Jagielski 2023; Mahloujifar, Melis, Chaudhuri 2024.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from locum.privacy import accountant, matrix
from locum.privacy.attacks import bounds
from locum.privacy.attacks.findings import Finding, at_most
from locum.privacy.attacks.subject import SITES, Floats, Rows, Subject
from locum.privacy.sampler import FixedOrder, FullBatch, Poisson, Sampler

DELTA = 1e-5
RECORDS = 3
MULTIPLIER = 1.0812
"""eps 4 at delta 1e-5 for one release."""
RATE, ROUNDS, SAMPLED_MULTIPLIER = 0.2, 16, 1.3
ORDER, ORDER_ROUNDS, ORDER_MULTIPLIER = FixedOrder(batches=4, band=3), 12, 2.208


def check(subject: Subject, *, m: int = 2000) -> list[Finding]:
    """One release with every patient."""
    member = _coin(subject, m)
    scores = released(subject, member, MULTIPLIER, FullBatch(), 1)
    name = "canaries" if subject.kind == "gaussian" else f"canaries ({subject.kind})"
    return _judge(name, scores, member, claim(subject, MULTIPLIER, FullBatch(), 1))


def check_sampled(subject: Subject, *, m: int = 2000) -> list[Finding]:
    """Several Poisson-sampled rounds, added up."""
    member = _coin(subject, m)
    scores = released(subject, member, SAMPLED_MULTIPLIER, Poisson(RATE), ROUNDS)
    return _judge("canaries (sampled)", scores, member, claim(subject, SAMPLED_MULTIPLIER, Poisson(RATE), ROUNDS))


def check_correlated(subject: Subject, *, m: int = 2000) -> list[Finding]:
    """Rounds in a fixed order with banded matrix noise; the score is the matched filter on what the coordinator reads."""
    member = _coin(subject, m)
    mechanism = subject.mechanism(ORDER_MULTIPLIER, SITES, m, spread=matrix.spread(ORDER.band))
    names, key = np.arange(m).astype(str), subject.draw_key("canaries, fixed order")
    drawn = np.stack([subject.draw(ORDER, names, t, key) for t in range(ORDER_ROUNDS)])
    history: list[list[Floats]] = [[] for _ in range(SITES)]
    signals: list[Floats] = []
    scores = np.zeros(m)
    for t in range(ORDER_ROUNDS):
        total = np.zeros(m, np.int64)
        for i, past in enumerate(history):
            now = subject.clip(_rows(np.flatnonzero(drawn[t] & member)[i::SITES], m))
            total += subject.protect(mechanism, matrix.correlate(past, now, ORDER.band), subject.key(f"canaries order {t}", i))
            past.append(now)
        signal = matrix.correlate(signals, drawn[t].astype(np.float64), ORDER.band)
        signals.append(drawn[t].astype(np.float64))
        scores += signal * mechanism.reveal(total)
    power = sum(matrix.correlate(signals[:t], signals[t], ORDER.band) ** 2 for t in range(ORDER_ROUNDS))
    return _judge("canaries (correlated)", scores / np.sqrt(np.maximum(power, 1e-9)), member, claim(subject, ORDER_MULTIPLIER, ORDER, ORDER_ROUNDS))


def claim(subject: Subject, multiplier: float, sampler: Sampler, rounds: int) -> float:
    """The eps that the accountant states."""
    return accountant.epsilon(accountant.Plan((accountant.Release("audit", sampler, multiplier, rounds, subject.kind),)), DELTA)


def released(subject: Subject, member: NDArray[np.bool_], multiplier: float, sampler: Sampler, rounds: int) -> Floats:
    """(m,): the sum over rounds of what the coordinator reads, where the canaries of `member`, (m,), are patients."""
    mechanism = subject.mechanism(multiplier, SITES, len(member))
    inside = np.flatnonzero(member)
    names, key = inside.astype(str), subject.draw_key("canaries")
    scores = np.zeros(len(member))
    for t in range(rounds):
        drawn = inside[subject.draw(sampler, names, t, key)]
        sites = [_rows(drawn[i::SITES], len(member)) for i in range(SITES)]
        scores += subject.release(mechanism, sites, f"canaries {sampler} {t}")
    return scores


def _rows(canaries: NDArray[np.intp], dimension: int) -> Rows:
    owner = np.repeat(canaries, RECORDS)
    vectors = np.zeros((len(owner), dimension))
    vectors[np.arange(len(owner)), owner] = 1
    return Rows(vectors, owner.astype(np.int64))


def _coin(subject: Subject, m: int) -> NDArray[np.bool_]:
    return np.asarray(np.random.default_rng(subject.seed + 3).random(m) < 0.5)


def _judge(check: str, scores: Floats, member: NDArray[np.bool_], claimed: float) -> list[Finding]:
    m = len(scores)
    guesses = m // 4
    right = bounds.guess(scores, member, guesses)
    all_right = bounds.f_dp(m, guesses, guesses, DELTA), bounds.pure(m, guesses, guesses, DELTA)
    words = f"95 % lower bound on eps, claimed {claimed:.2f}"
    return [
        at_most(check, f"{words}: Gaussian fit", bounds.gaussian_fit(scores, member, DELTA), claimed, unprotected=float("inf")),
        at_most(check, f"{words}: one run, f-DP", bounds.f_dp(m, guesses, right, DELTA), claimed, unprotected=all_right[0]),
        at_most(check, f"{words}: one run, (eps, delta)", bounds.pure(m, guesses, right, DELTA), claimed, unprotected=all_right[1]),
    ]
