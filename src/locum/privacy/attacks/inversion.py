"""One patient in the batch: the update of a linear layer holds the record itself.

Attack          for logits W x + b: dL/dW = e x', dL/db = e, so x = dL/dW[i] / dL/db[i] for any class i, exactly.
                Against noise the attacker combines the classes: x = sum_i db[i] dW[i] / sum_i db[i]^2 (least squares), and smooths the guess.
Unprotected     the picture, to machine precision.
Protected       clip 1 and noise of 0.6 clips a coordinate: noise; smoothed, no better than a plain grey of the image's mean brightness.
Source          Geiping, Bauermeister, Droege, Moeller 2020, proposition 3.1; Phong, Aono, Hayashi, Wang, Moriai 2018.
"""

from __future__ import annotations

import numpy as np

from locum.privacy.attacks.findings import Finding, at_most
from locum.privacy.attacks.images import Floats, pictures, psnr
from locum.privacy.attacks.subject import SITES, Rows, Subject

SIDE, CLASSES, NOISE = 32, 10, 0.6


def gradient(image: Floats, label: int, weights: Floats, bias: Floats) -> Floats:
    """(classes * (pixels + 1),): cross-entropy's gradient in W and b at one image (pixels,)."""
    logits = weights @ image + bias
    error = np.exp(logits - logits.max())
    error /= error.sum()
    error[label] -= 1
    return np.concatenate([np.outer(error, image).ravel(), error])


def invert(update: Floats, classes: int) -> Floats:
    """(pixels,): the least-squares guess at the image from an update."""
    dw, db = update[:-classes].reshape(classes, -1), update[-classes:]
    return np.asarray(db @ dw / (db @ db))


def check(subject: Subject, *, images: int = 8) -> list[Finding]:
    """The guess at each of `images` images: unprotected the worst, protected the best."""
    rng = np.random.default_rng(subject.seed)
    truth = pictures(images, SIDE, rng)
    weights, bias = rng.normal(scale=0.05, size=(CLASSES, SIDE * SIDE)), np.zeros(CLASSES)
    mechanism = subject.mechanism(NOISE, SITES, CLASSES * (SIDE * SIDE + 1))
    bare, safe, gain = [], [], []
    for i, image in enumerate(truth):
        update = gradient(image, i % CLASSES, weights, bias)
        sites = [Rows.one_each(update[None]), *(Rows.none(len(update)) for _ in range(SITES - 1))]
        guess = invert(subject.release(mechanism, sites, f"inversion {i}"), CLASSES)
        bare.append(_psnr(invert(update, CLASSES), image))
        safe.append(_psnr(guess, image))
        smooth = _smooth(_smooth(guess))
        gain.append(max(_psnr(smooth, image), safe[-1]) - _psnr(np.full(image.shape, image.mean()), image))
    return [
        at_most("inversion", f"PSNR of the stolen image in dB, {images} images", max(safe), 15, unprotected=min(bare), leaks=100),
        at_most("inversion", "dB above a plain grey of the same brightness, also smoothed", max(gain), 1),
    ]


def _psnr(guess: Floats, image: Floats) -> float:
    return float(psnr(guess[None], image[None])[0, 0])


def _smooth(image: Floats) -> Floats:
    side = int(np.sqrt(image.size))
    padded = np.pad(image.reshape(side, side), 1, mode="edge")
    return np.asarray(sum(padded[i : i + side, j : j + side] for i in range(3) for j in range(3)) / 9).ravel()
