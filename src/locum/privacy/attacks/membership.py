"""Was this patient in the training data? Mislabelled canaries show it best: a model says the wrong label of one only if it learned it by heart.

Experiment      a logistic model with nearly as many weights as patients; canaries with the wrong label, each in with probability 1/2;
                the score of a canary is the trained model's margin for its wrong label; AUC of the score over many runs.
Unprotected     gradient descent until the canaries are learned.
Protected       DP-SGD with what the door uses: Poisson sampling, one clip for a patient, integer noise, a plan calibrated by the accountant.
                The private model is also tested on new patients, so that it does not win by learning nothing.
Source          Shokri et al. 2017 (membership); Steinke, Nasr, Jagielski 2023, section 6 (mislabelled canaries).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from locum.privacy import accountant
from locum.privacy.attacks.findings import Finding, at_least, at_most
from locum.privacy.attacks.subject import SITES, Floats, Rows, Subject
from locum.privacy.sampler import Poisson

Indices = NDArray[np.intp]

PATIENTS, CANARIES, FEATURES, NEW = 400, 100, 300, 500
RATE, ROUNDS, STEP, DELTA = 0.5, 40, 1.0, 1e-5
BATCH = RATE * (PATIENTS + CANARIES / 2)
"""What a round's sum is divided by: public, whoever is in."""


@dataclass(frozen=True)
class World:
    """Features (n, d) of unit norm and labels (n,) of +-1: patients, then canaries with the wrong label, then new patients."""

    x: Floats
    y: Floats

    @classmethod
    def draw(cls, rng: np.random.Generator) -> World:
        n = PATIENTS + CANARIES + NEW
        y = rng.choice([-1.0, 1.0], n)
        direction = rng.normal(size=FEATURES)
        x = rng.normal(size=(n, FEATURES)) + 2.5 * np.outer(y, direction / np.linalg.norm(direction))
        y[PATIENTS : PATIENTS + CANARIES] *= -1
        return cls(x / np.linalg.norm(x, axis=1, keepdims=True), y)

    def margins(self, w: Floats) -> Floats:
        """(n,): how sure the model w (d,) is of each label; negative if it says the other one."""
        return np.asarray(self.y * (self.x @ w))


def gradients(w: Floats, x: Floats, y: Floats) -> Floats:
    """(n, d): the logistic loss's gradient of each row."""
    return np.asarray(-(y / (1 + np.exp(y * (x @ w))))[:, None] * x)


def plain(world: World, inside: Indices, run: int) -> Floats:
    """(d,): a model trained on rows `inside` without protection."""
    w, x, y = np.zeros(FEATURES), world.x[inside], world.y[inside]
    for _ in range(200):
        w -= 10 * gradients(w, x, y).sum(axis=0) / BATCH
    return w


def private(subject: Subject, multiplier: float, world: World, inside: Indices, run: int) -> Floats:
    """(d,): a model trained on rows `inside`, each a patient of one of the sites, with noise of `multiplier` clips a round."""
    mechanism = subject.mechanism(multiplier, SITES, FEATURES)
    sampler, key = Poisson(RATE), subject.draw_key(f"membership {run}")
    names = inside.astype(str)
    w = np.zeros(FEATURES)
    for t in range(ROUNDS):
        drawn = inside[subject.draw(sampler, names, t, key)]
        rows = gradients(w, world.x[drawn], world.y[drawn])
        sites = [Rows.one_each(rows[i::SITES]) for i in range(SITES)]
        w -= STEP * subject.release(mechanism, sites, f"membership {multiplier} {run} {t}") / BATCH
    return w


def auc(inside: Floats, outside: Floats) -> float:
    """The probability that a score from inside is above one from outside."""
    ranks = rankdata(np.concatenate([inside, outside]))[: len(inside)]
    return float((ranks.sum() - len(inside) * (len(inside) + 1) / 2) / (len(inside) * len(outside)))


def check(subject: Subject, *, runs: int = 4, limits: Sequence[tuple[float, float]] = ((8, 0.72), (3, 0.65))) -> list[Finding]:
    """AUC over `runs` runs of 100 canaries; limits: (eps, highest AUC)."""
    bare, _ = _scores(subject, runs, plain)
    findings = []
    for eps, limit in limits:
        plan = accountant.calibrate([accountant.Request("train", Poisson(RATE), ROUNDS, 1.0)], eps, DELTA)
        safe, accuracy = _scores(subject, runs, partial(private, subject, plan.releases[0].multiplier))
        findings.append(at_most("membership", f"AUC of mislabelled canaries at eps {eps:g}", safe, limit, unprotected=bare, leaks=0.85))
        findings.append(at_least("membership", f"accuracy on new patients at eps {eps:g}", accuracy, 0.8))
    return findings


def _scores(subject: Subject, runs: int, train: Callable[[World, Indices, int], Floats]) -> tuple[float, float]:
    """(AUC, accuracy on new patients) over all runs; the same worlds for every way to train."""
    rng = np.random.default_rng(subject.seed + 2)
    canaries = slice(PATIENTS, PATIENTS + CANARIES)
    inside, outside, right = [], [], []
    for run in range(runs):
        world, member = World.draw(rng), rng.random(CANARIES) < 0.5
        rows = np.concatenate([np.arange(PATIENTS), PATIENTS + np.flatnonzero(member)])
        margins = world.margins(train(world, rows, run))
        inside.append(margins[canaries][member])
        outside.append(margins[canaries][~member])
        right.append(np.mean(margins[PATIENTS + CANARIES :] > 0))
    return auc(np.concatenate(inside), np.concatenate(outside)), float(np.mean(right))
