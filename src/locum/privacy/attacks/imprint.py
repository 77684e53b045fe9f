"""A malicious model whose first layer sorts the batch into bins, so that the update holds many images at once.

Attack          every row of the layer measures the mean brightness, with a bias at the next quantile of it; all later weights are equal.
                A row's gradient then sums the images that are brighter than its quantile; two neighbouring rows' difference is the image that
                lies between, times its scalar; divided by the difference of the bias gradients it is the image, if it was alone.
Unprotected     most of a batch of 64. Clipping alone changes nothing: it scales each image, and the division undoes it.
Secure sum      the sum over 8 sites is one batch of 512 in the same bins: fewer are alone, but many still are. So masks need noise.
Protected       clip 1 and noise of 0.6: none.
Source          Fowl, Geiping, Czaja, Goldblum, Goldstein 2022, "Robbing the Fed", section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from locum.privacy.attacks.findings import Finding, at_most, leaks
from locum.privacy.attacks.images import Floats, pictures, psnr
from locum.privacy.attacks.subject import SITES, Rows, Subject

SIDE, BINS, BATCH, NOISE, CLASSES = 16, 256, 64, 0.6, 10
SEEN = 30.0
"""An image counts as stolen at this PSNR, in dB."""


@dataclass(frozen=True)
class Imprint:
    """The planted layer: biases (bins,) at the quantiles of brightness, and the last layer's one column (classes,)."""

    cuts: Floats
    column: Floats

    @classmethod
    def plant(cls, public: Floats, bins: int, rng: np.random.Generator) -> Imprint:
        """From images like the victims'."""
        brightness = public.mean(axis=1)
        levels = brightness.mean() + brightness.std() * ndtri(np.arange(bins) / bins)
        return cls(np.maximum(levels, -1.0), rng.normal(size=CLASSES))

    def gradients(self, images: Floats, labels: Floats) -> Floats:
        """(n, bins * (pixels + 1)): each image's gradient in the layer's weights and biases, by back-propagation."""
        open_ = images.mean(axis=1)[:, None] > self.cuts
        hidden = np.maximum(images.mean(axis=1)[:, None] - self.cuts, 0).sum(axis=1)
        logits = hidden[:, None] / len(self.cuts) * self.column
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(len(images)), labels.astype(int)] -= 1
        upstream = (p @ self.column)[:, None] * open_
        return np.concatenate([(upstream[:, :, None] * images[:, None, :]).reshape(len(images), -1), upstream], axis=1)

    def steal(self, update: Floats) -> Floats:
        """(bins, pixels): a guess for each bin."""
        bins = len(self.cuts)
        dw, db = update[:-bins].reshape(bins, -1), update[-bins:]
        above_w, above_b = np.vstack([dw[1:], np.zeros(dw.shape[1])]), np.append(db[1:], 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((dw - above_w) / (db - above_b)[:, None])


def stolen(guesses: Floats, truth: Floats) -> int:
    """How many of the images a guess shows."""
    return int(np.count_nonzero(psnr(guesses, truth).max(axis=0) >= SEEN))


def check(subject: Subject) -> list[Finding]:
    """One site's batch and the sum over all sites, with and without protection."""
    rng = np.random.default_rng(subject.seed + 1)
    layer = Imprint.plant(pictures(2000, SIDE, rng), BINS, rng)
    images = pictures(SITES * BATCH, SIDE, rng)
    labels = rng.integers(0, CLASSES, len(images)).astype(np.float64)
    mechanism = subject.mechanism(NOISE, SITES, BINS * (SIDE * SIDE + 1))
    batches = [slice(i * BATCH, (i + 1) * BATCH) for i in range(SITES)]
    plain, clipped, noisy = [], [], []
    for i, batch in enumerate(batches):
        rows = Rows.one_each(layer.gradients(images[batch], labels[batch]))
        plain.append(rows.vectors.sum(axis=0))
        clipped.append(subject.clip(rows))
        noisy.append(subject.protect(mechanism, clipped[-1], subject.key("imprint", i)))
    everyone = mechanism.reveal(np.asarray(sum(noisy), dtype=np.int64))
    others = [subject.protect(mechanism, np.zeros(mechanism.dimension), subject.key("imprint alone", i)) for i in range(1, SITES)]
    alone = mechanism.reveal(np.asarray(noisy[0] + sum(others), dtype=np.int64))
    mine = images[batches[0]]
    bare, summed = stolen(layer.steal(plain[0]), mine), stolen(layer.steal(np.sum(plain, axis=0)), images)
    one, many = f"of one batch of {BATCH}", f"of the sum over {SITES} sites ({len(images)})"
    return [
        at_most("imprint", f"images stolen {one}", stolen(layer.steal(alone), mine), 0, unprotected=bare, leaks=BATCH / 2),
        at_most("imprint", f"images stolen {many}", stolen(layer.steal(everyone), images), 0, unprotected=summed, leaks=32),
        leaks("imprint", f"images stolen {one}, clipped without noise", stolen(layer.steal(clipped[0]), mine), BATCH / 2),
        leaks("imprint", f"images stolen {many}, masked without noise", summed, 32),
    ]
