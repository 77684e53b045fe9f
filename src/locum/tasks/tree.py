"""Regression trees over binned features: split finding on summed histograms, routing, importance, partial dependence. Pure numpy.

A node with sums G of gradients and H of Hessians has the weight -G / (H + l2) and the score G^2 / (H + l2); a split gains
score(left) + score(right) - score(node), which must exceed gamma. A missing value goes where the gain is larger.
Categories are ordered by G / (H + 10) and split like numbers (Fisher, 1958: for a convex loss the best subset is among those).
Source: Chen and Guestrin (2016), KDD, sections 2.2 and 3.4; Ke et al. (2017), NeurIPS, algorithm 1 (histograms).

Every split is one word of 64 bits: bit k says whether bin k goes left. The last bin of a feature holds its missing values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from locum.study.vector import Array

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MOST_BINS = 63
"""Of one feature, besides that of the missing values."""
SMOOTH = 10.0
LEAST_GAIN = 1e-6
EVERYTHING = -1
"""All bits set: every bin goes left. A leaf is a node whose left child is itself, so that nobody leaves it."""
AT_A_TIME = 1 << 22
"""Rows times trees that are routed together."""


@dataclass(frozen=True)
class Bins:
    """How many bins each feature has, without that of the missing values (F,), and which features are categories (F,)."""

    sizes: Ints
    categorical: NDArray[np.bool_]

    @cached_property
    def starts(self) -> Ints:
        """Where each feature's bins begin in a histogram row (F,)."""
        return np.asarray(np.cumsum(self.sizes + 1) - self.sizes - 1, dtype=np.int64)

    @cached_property
    def total(self) -> int:
        """Length of a histogram row."""
        return int((self.sizes + 1).sum())


@dataclass(frozen=True)
class Rules:
    """What a split and a leaf must fulfil. unit: the outcome's unit, by which gradients were divided. most: of |G / (H + l2)|."""

    depth: int
    rate: float
    l2: float
    gamma: float
    min_cover: float
    min_patients: float
    unit: float = 1.0
    most: float = np.inf

    def score(self, g: Floats, h: Floats) -> Floats:
        return np.asarray(np.divide(g * g, h + self.l2, out=np.zeros_like(g), where=h + self.l2 > 0))

    def value(self, g: float, h: float) -> float:
        """What a leaf with these sums adds to the prediction."""
        weight = -g / (h + self.l2) if h + self.l2 > 0 else 0.0
        return self.rate * self.unit * min(max(weight, -self.most), self.most)

    def may_split(self, sums: Floats) -> bool:
        return bool(sums[1] >= 2 * self.min_cover and sums[2] >= 2 * self.min_patients)


@dataclass(frozen=True)
class Split:
    """left, right: sums of gradient, Hessian and patients."""

    feature: int
    goes_left: int
    gain: float
    left: Floats
    right: Floats


def best_splits(histogram: Floats, bins: Bins, rules: Rules) -> list[Split | None]:
    """The best split of each node, from sums of gradient, Hessian and patients, shape (3, nodes, bins.total). Ties: the first feature."""
    nodes = histogram.shape[1]
    whole = histogram[:, :, : bins.sizes[0] + 1].sum(axis=2)
    best: list[Split | None] = [None] * nodes
    for f, (start, size) in enumerate(zip(bins.starts.tolist(), bins.sizes.tolist(), strict=True)):
        cells, missing = histogram[:, :, start : start + size], histogram[:, :, start + size]
        order = np.tile(np.arange(size), (nodes, 1))
        if bins.categorical[f]:
            ratio = np.where(cells[2] > 0, cells[0] / (cells[1] + SMOOTH), np.inf)
            order = np.argsort(ratio, axis=1, kind="stable")
            cells = np.take_along_axis(cells, order[None], axis=2)
        without = np.cumsum(cells, axis=2)
        left = np.stack([without, without + missing[:, :, None]], axis=2).reshape(3, nodes, 2 * size)
        right = whole[:, :, None] - left
        gain = rules.score(left[0], left[1]) + rules.score(right[0], right[1]) - rules.score(whole[0], whole[1])[:, None]
        allowed = (np.minimum(left[1], right[1]) >= rules.min_cover) & (np.minimum(left[2], right[2]) >= rules.min_patients)
        gain = np.where(allowed, gain * rules.unit**2, -np.inf)
        for i, k in enumerate(np.argmax(gain, axis=1).tolist()):
            found, known = float(gain[i, k]), best[i]
            if found > max(rules.gamma, LEAST_GAIN, known.gain if known else 0.0):
                larger = bool(left[2, i, k] >= right[2, i, k])
                lefts = order[i, : k % size + 1].tolist()
                empty = [b for b, n in zip(order[i].tolist(), cells[2, i].tolist(), strict=True) if n <= 0] if bins.categorical[f] else []
                lefts = [b for b in lefts if b not in empty] + (empty if larger else [])
                if k >= size if missing[2, i] > 0 else larger:
                    lefts.append(size)
                best[i] = Split(f, _word(lefts), found, left[:, i, k], right[:, i, k])
    return best


def _word(lefts: list[int]) -> int:
    """The 64 bits as a signed number."""
    word = sum(1 << b for b in lefts)
    return word - (1 << 64) if word >= 1 << 63 else word


@dataclass(frozen=True)
class Trees:
    """All nodes of all trees one after another, parents before children; the right child stands behind the left one.

    feature, goes_left, child, value, gain, cover (sum of Hessians), patients: shape (nodes,). roots: the first node of each tree.
    """

    feature: Ints
    goes_left: Ints
    child: Ints
    value: Floats
    gain: Floats
    cover: Floats
    patients: Floats
    roots: Ints

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> Trees:
        return cls(**{f.name: arrays[f.name] for f in fields(cls)})

    @classmethod
    def none(cls) -> Trees:
        whole, real = np.zeros(0, np.int64), np.zeros(0)
        return cls(whole, whole, whole, real, real, real, real, whole)

    def arrays(self) -> dict[str, Array]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def __len__(self) -> int:
        """Number of trees."""
        return len(self.roots)

    @cached_property
    def leaf(self) -> NDArray[np.bool_]:
        return np.asarray(self.child == np.arange(len(self.child)))

    def first(self, count: int) -> Trees:
        """The first so many trees."""
        end = int(self.roots[count]) if count < len(self) else len(self.child)
        cut = {f.name: getattr(self, f.name)[:end] for f in fields(self) if f.name != "roots"}
        return Trees(**cut, roots=self.roots[:count])

    def after(self, count: int) -> Trees:
        """The trees after so many, for their predictions."""
        return replace(self, roots=self.roots[count:])

    def sprout(self) -> Trees:
        """One more tree, whose root is a leaf yet."""
        return replace(self._more([np.zeros(3)], [0.0]), roots=np.append(self.roots, len(self.child)))

    def grow(self, open_: Ints, histogram: Floats, bins: Bins, rules: Rules, level: int) -> tuple[Trees, Ints]:
        """The open nodes split, where that gains something, and the nodes that are open then. Shape of histogram: (3, open, bins.total)."""
        whole = histogram[:, :, : bins.sizes[0] + 1].sum(axis=2)
        trees = self._set(open_, cover=whole[1], patients=whole[2], value=np.asarray([rules.value(g, h) for g, h in whole[:2].T]))
        found = [(n, s) for n, s in zip(open_.tolist(), best_splits(histogram, bins, rules), strict=True) if s is not None]
        if not found:
            return trees, np.zeros(0, np.int64)
        nodes, splits = np.asarray([n for n, _ in found]), [s for _, s in found]
        first = len(self.child) + 2 * np.arange(len(found))
        new = {name: np.asarray([getattr(s, name) for s in splits]) for name in ("feature", "goes_left", "gain")}
        sides = [side for s in splits for side in (s.left, s.right)]
        trees = trees._set(nodes, child=first, **new)._more(sides, [rules.value(float(s[0]), float(s[1])) for s in sides])
        still = [first[0] + k for k, s in enumerate(sides) if level + 1 < rules.depth and rules.may_split(s)]
        return trees, np.asarray(still, dtype=np.int64)

    def _more(self, sums: list[Floats], values: list[float]) -> Trees:
        """More leaves, with sums of gradient, Hessian and patients."""
        n = len(sums)
        new = {
            "feature": np.zeros(n, np.int64),
            "goes_left": np.full(n, EVERYTHING, np.int64),
            "child": len(self.child) + np.arange(n),
            "value": np.asarray(values),
            "gain": np.zeros(n),
            "cover": np.asarray([s[1] for s in sums]),
            "patients": np.asarray([s[2] for s in sums]),
        }
        return replace(self, **{name: np.concatenate([getattr(self, name), a]) for name, a in new.items()})

    def _set(self, where: Ints, **values: Array) -> Trees:
        changed = {name: getattr(self, name).copy() for name in values}
        for name, value in values.items():
            changed[name][where] = value
        return replace(self, **changed)

    def route(self, binned: NDArray[np.uint8], nodes: Ints, steps: int) -> Ints:
        """Where rows with bins (n, F) are, `steps` levels below `nodes` (..., n)."""
        rows = np.arange(binned.shape[0])
        for _ in range(steps):
            bit = (self.goes_left[nodes] >> binned[rows, self.feature[nodes]]) & 1
            nodes = self.child[nodes] + 1 - bit
        return nodes

    def add(self, score: Floats, binned: NDArray[np.uint8], depth: int) -> Floats:
        """`score` (n,) with each tree's value added, one tree after the other: the same bits however the trees are dealt out."""
        out = score.copy()
        step = max(1, AT_A_TIME // max(1, len(self)))
        for a in range(0, len(out) if len(self) else 0, step):
            part = binned[a : a + step]
            for values in self.value[self.route(part, np.repeat(self.roots[:, None], len(part), axis=1), depth)]:
                out[a : a + step] += values
        return out

    def importance(self, features: int) -> dict[str, Floats]:
        """By feature: the gain and the cover of its splits in all, and how many there are. Shape (features,) each."""
        inner = ~self.leaf
        where = self.feature[inner]
        weights = {"gain": self.gain[inner], "cover": self.cover[inner], "splits": np.ones(int(inner.sum()))}
        return {name: np.asarray(np.bincount(where, weights=w, minlength=features), dtype=np.float64) for name, w in weights.items()}

    def partial_dependence(self, feature: int, size: int, depth: int) -> Floats:
        """The mean prediction in each bin of a feature, the missing one last, shape (size + 1,); rows spread over the other splits by cover.

        Source: Friedman (2001), Annals of Statistics 29:1189, section 8.2.
        """
        weight = np.zeros((len(self.child), size + 1))
        weight[self.roots], level = 1.0, self.roots
        for _ in range(depth):
            level = level[~self.leaf[level]]
            left, right = self.child[level], self.child[level] + 1
            share = np.repeat((self.cover[left] / np.maximum(self.cover[left] + self.cover[right], 1e-300))[:, None], size + 1, axis=1)
            own = self.feature[level] == feature
            share[own] = (self.goes_left[level][own, None] >> np.arange(size + 1)) & 1
            weight[left], weight[right] = weight[level] * share, weight[level] * (1.0 - share)
            level = np.concatenate([left, right])
        return np.asarray(self.value[self.leaf] @ weight[self.leaf])
