"""Two worlds with swapped inputs and equal sums: what the coordinator sees does not tell which it is in.

Everything is drawn from fixed seeds, so a statistic that passes today passes always. Thresholds are at 1 in 10,000.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from locum.secagg import masks, shamir, site
from locum.secagg.masks import Stream
from locum.secagg.messages import Unmask, decode
from locum.study.manifest import Masking

_spec = importlib.util.spec_from_file_location("secagg_play", Path(__file__).with_name("play.py"))
assert _spec
assert _spec.loader
play = sys.modules["secagg_play"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(play)

RARE = 1e-4
N, D, ROUNDS = 5, 64, 60
DROPPED = 4
ALIVE = range(4)
BITS = [8, 12, 16, 32]
Elements = dict[str, Any]


class View:
    """What the coordinator has of many rounds of the same inputs, in which one site drops out and arrives late.

    y: what came from each site; bare: the same without every mask that the coordinator can remove; wire: all other messages.
    """

    def __init__(self, inputs: Mapping[int, Elements], bits: int, seed: int, rounds: int = ROUNDS) -> None:
        f = play.Federation(N, Masking(dropout=0.2), quick=True, entropy=play.seeded(seed))
        f.agree(1000 * seed)
        self.e = play.encoding(D, N, bits)
        self.y: dict[int, list[Elements]] = {i: [] for i in range(N)}
        self.bare: dict[int, list[Elements]] = {i: [] for i in range(N)}
        self.sums: list[Elements] = []
        self.wire: list[bytes] = []
        for t in range(1000 * seed, 1000 * seed + rounds):
            p = play.Play(f, t)
            p.join()
            p.mask(inputs, self.e)
            came = dict(p.y)
            del p.y[DROPPED]
            p.confirm()
            p.unmask()
            self.sums.append(p.total(self.e))
            self.wire += [*p.joins.values(), *p.rosters.values(), *p.confirms.values(), *p.answers.values()]
            answers = {i: decode(raw, Unmask) for i, raw in p.answers.items()}
            k = shamir.combine({i: a.shares_k[DROPPED] for i, a in answers.items()}, 4)
            pairs = site.open_escrow(p.m, DROPPED, k, p.u1.joins[DROPPED])
            removable = {i: [Stream(answers[i].b, "self", -1), Stream(pairs[i], "pair", -1)] for i in ALIVE}
            removable[DROPPED] = [Stream(pairs[i], "pair", 1) for i in ALIVE]
            for i, y in came.items():
                self.y[i].append(y)
                self.bare[i].append({g: a.copy() for g, a in y.items()})
                masks.apply(self.bare[i][-1], self.e.rings, removable[i], p.u1.j)

    def bytes(self, which: str, i: int, group: str) -> NDArray[np.uint8]:
        """A site's elements as they are on the wire, round after round."""
        packed = [np.ascontiguousarray(self.e.rings[group].pack(a[group])) for a in getattr(self, which)[i]]
        return np.concatenate([a.view(np.uint8).reshape(-1) for a in packed])


def constant(e: Any, value: int) -> Elements:
    out: Elements = e.zeros()
    for a in out.values():
        a[...] = value
    return out


@lru_cache(maxsize=16)
def world(bits: int, swapped: bool, seed: int) -> View:
    """Site 0 holds ones where site 1 holds sevens, or the other way round: the sums are equal."""
    e = play.encoding(D, N, bits)
    values = {0: 7, 1: 1, 2: 2, 3: 3, 4: 4} if swapped else {0: 1, 1: 7, 2: 2, 3: 3, 4: 4}
    return View({i: constant(e, v) for i, v in values.items()}, bits, seed)


def uniform(sample: NDArray[np.uint8]) -> bool:
    """Pearson's chi-square of byte frequencies against the uniform distribution."""
    counts = np.bincount(sample, minlength=256)
    assert counts.sum() >= 256 * 5, "too small a sample"
    expected = counts.sum() / 256
    return float(((counts - expected) ** 2 / expected).sum()) < chi2.isf(RARE, 255)


def alike(one: NDArray[np.uint8], two: NDArray[np.uint8]) -> bool:
    """Pearson's chi-square of two samples of one size."""
    a, b = np.bincount(one, minlength=256), np.bincount(two, minlength=256)
    both = np.maximum(a + b, 1)
    return float(((a - b) ** 2 / both).sum()) < chi2.isf(RARE, 255)


def uncorrelated(one: NDArray[Any], two: NDArray[Any]) -> bool:
    """Pearson's correlation of two samples, at least one of which should be random."""
    a, b = one.astype(float) - one.mean(), two.astype(float) - two.mean()
    return float(abs(a @ b / np.sqrt((a @ a) * (b @ b))) * np.sqrt(len(a))) < norm.isf(RARE / 2)


# --- the statistics find what they look for ----------------------------------------------------------------------------


def test_the_statistics_see_a_bias_of_a_few_percent() -> None:
    rng = np.random.default_rng(1)
    fair = rng.integers(0, 256, 20_000, dtype=np.uint8)
    biased = np.where(rng.random(20_000) < 0.04, np.uint8(7), fair)
    assert uniform(fair)
    assert not uniform(biased)
    assert alike(fair, rng.integers(0, 256, 20_000, dtype=np.uint8))
    assert not alike(fair, biased)
    assert uncorrelated(fair[1:], fair[:-1])
    assert not uncorrelated(fair, fair // 2 + rng.integers(0, 128, 20_000, dtype=np.uint8))


# --- two worlds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", BITS)
def test_both_worlds_have_the_same_sums(bits: int) -> None:
    one, two = world(bits, False, 1), world(bits, True, 1)
    want = constant(one.e, 1 + 7 + 2 + 3)
    for got in (*one.sums, *two.sums):
        assert all(np.array_equal(got[g], want[g]) for g in want)


@pytest.mark.parametrize("bits", BITS)
def test_with_the_same_randomness_no_message_but_the_vector_depends_on_the_inputs(bits: int) -> None:
    one, two = world(bits, False, 1), world(bits, True, 1)
    assert len(one.wire) == ROUNDS * (5 + 5 + 4 + 4)
    assert one.wire == two.wire
    assert any((a["narrow"] != b["narrow"]).any() for a, b in zip(one.y[0], two.y[0], strict=True))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("which", ["y", "bare"])
def test_each_sites_vectors_are_uniform_and_alike_in_both_worlds(bits: int, which: str) -> None:
    """Also after every mask is gone that the coordinator can remove."""
    one, two = world(bits, False, 1), world(bits, True, 2)
    for i in range(N):
        for group in ("narrow", "wide"):
            a, b = one.bytes(which, i, group), two.bytes(which, i, group)
            assert uniform(a)
            assert uniform(b)
            assert alike(a, b)


def test_what_is_left_of_two_sites_is_uncorrelated() -> None:
    """Of all of them together the sum is known; of fewer, nothing."""
    one = world(32, False, 1)
    left = {i: one.bytes("bare", i, "narrow") for i in range(N)}
    for i, j in combinations(range(N), 2):
        assert uncorrelated(left[i], left[j])
    for three in combinations(ALIVE, 3):
        parts = [play.plain_sum(one.e, [one.bare[i][t] for i in three]) for t in range(ROUNDS)]
        for group in ("narrow", "wide"):
            assert uniform(np.concatenate([part[group].reshape(-1) for part in parts]).view(np.uint8))


def test_what_is_left_of_all_survivors_is_the_sum() -> None:
    one = world(32, False, 1)
    for t in range(ROUNDS):
        assert np.array_equal(play.plain_sum(one.e, [one.bare[i][t] for i in ALIVE])["narrow"], one.sums[t]["narrow"])


# --- one site's vector -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 16, 64])
def test_the_vector_of_a_constant_input_has_no_serial_correlation(lag: int) -> None:
    one = world(32, False, 1)
    for i in range(N):
        for group in ("narrow", "wide"):
            for which in ("y", "bare"):
                sample = one.bytes(which, i, group)
                assert uncorrelated(sample[lag:], sample[:-lag])


def test_the_vector_says_nothing_about_an_input_that_varies() -> None:
    e = play.encoding(D, N, 32)
    rng = np.random.default_rng(3)
    inputs = {i: {g: (rng.integers(0, 1 << 31, a.shape)).astype(a.dtype) for g, a in e.zeros().items()} for i in range(N)}
    view = View(inputs, 32, 3, 40)
    for i in range(N):
        x = np.tile(inputs[i]["narrow"], 40)
        for which in (view.y, view.bare):
            assert uncorrelated(np.concatenate([a["narrow"] for a in which[i]]), x)


def test_the_vector_of_zero_never_repeats() -> None:
    """No 16 bytes at the same or at any other place, in any round, at any site: two equal keystream blocks would show."""
    e = play.encoding(D, N, 32)
    view = View({i: e.zeros() for i in range(N)}, 32, 4, 40)
    blocks = []
    for i in range(N):
        for a in (*view.y[i], *view.bare[i]):
            for group in ("narrow", "wide"):
                raw = a[group].tobytes()
                blocks += [raw[at : at + 16] for at in range(0, len(raw), 16)]
    assert len(blocks) == 2 * N * 40 * (D // 4 + len(e.zeros()["wide"]))
    assert len(set(blocks)) == len(blocks)
