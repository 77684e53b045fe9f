"""Made-up sites: the rows of one table spread over sites, unevenly in a declared way, to try out what unevenness does.

    parse("dirichlet:alpha=0.3,sites=20,label=malignant").assign(unit, values)

A unit is a patient: all of a patient's rows go to one site. Every draw is made of the uniform doubles of PCG64 (O'Neill, 2014) under
the partition's seed, by formulas of this file, so that any machine deals alike. Real sites differ in more than one way at once: say in a report that
the sites were made up.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from locum.errors import ManifestError, counted
from locum.study.document import Document, nearest
from locum.study.manifest import VariableName

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
MAX_LABELS = 100
_MISSING = np.finfo(np.float64).max
"""Stands for a missing label: those rows are a class of their own, so that no row is lost."""


class Partition(Document):
    """How rows become sites. min_rows: of every site. seed: another one deals anew."""

    kind: ClassVar[str] = ""
    sites: Annotated[int, Field(ge=1, le=100_000)] = 10
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    min_rows: Annotated[int, Field(ge=1)] = 1

    @property
    def reads(self) -> str | None:
        """The variable that the partition looks at."""
        return None

    def assign(self, unit: NDArray[Any], values: Floats | None = None) -> Ints:
        """The site of each row, from 0 to sites - 1, shape (n,).

        unit: whose row it is, shape (n,). values: of the variable that the partition reads, NaN where missing. The same rows in the
        same order are dealt alike, whatever the units are called. Raises `ManifestError` where there are too few units.
        """
        if self.reads is not None and values is None:
            raise ManifestError(f"The partition '{self.kind}' needs the values of '{self.reads}'.")
        code, n = _in_order(unit)
        if n < self.sites * self.min_rows:
            what = f"{counted(n, 'patient')} cannot be dealt to {counted(self.sites, 'site')} with at least {counted(self.min_rows, 'row')} each."
            raise ManifestError(what, fix="ask for fewer sites, or fewer rows")
        seen = np.full(len(code), np.nan) if values is None else np.asarray(values, dtype=np.float64)
        return self.deal(code, n, seen, np.random.Generator(np.random.PCG64(self.seed)))[code]

    @abstractmethod
    def deal(self, code: Ints, n: int, values: Floats, rng: np.random.Generator) -> Ints:
        """The site of each of the n units, shape (n,). code: the unit of each row, from 0 to n - 1. values: one per row."""

    def shifted(self, values: Floats, site: Ints) -> Floats:
        """The values as the sites measure them: the same ones, unless the partition says otherwise."""
        return values

    def names(self) -> list[str]:
        """site-01, site-02, ..."""
        return [f"site-{i + 1:0{max(2, len(str(self.sites)))}d}" for i in range(self.sites)]

    def to_text(self) -> str:
        """As `parse` reads it."""
        return f"{self.kind}:" + ",".join(f"{k}={v}" for k, v in self.model_dump().items())


class Iid(Partition):
    """Every site alike but for chance: units in a random order, in equal shares."""

    kind: ClassVar[str] = "iid"

    def deal(self, code: Ints, n: int, values: Floats, rng: np.random.Generator) -> Ints:
        return _cut(_shuffled(n, rng), _even(n, self.sites))


class Dirichlet(Partition):
    """Label skew of Hsu, Qi and Brown (2019, arXiv 1909.06335): a site's mixture of labels q is drawn from Dirichlet(alpha p), p being that
    of all; then each site in turn draws as many units as the others, without replacement. A unit of label c is drawn with weight
    q[c] / p[c], so that large alpha is iid to the last site, which gets what is left. Small alpha: nearly one label a site.
    """

    kind: ClassVar[str] = "dirichlet"
    label: VariableName
    alpha: Annotated[float, Field(gt=0, le=1e12)] = 0.5

    @property
    def reads(self) -> str | None:
        return self.label

    def deal(self, code: Ints, n: int, values: Floats, rng: np.random.Generator) -> Ints:
        label = self._labels(code, n, values)
        order = _shuffled(n, rng)
        stock = [order[label[order] == c] for c in range(int(label.max()) + 1)]
        left = np.array([len(s) for s in stock])
        site, share = np.empty(n, dtype=np.int64), left / n
        for k, size in enumerate(_even(n, self.sites)):
            tilt, need = _dirichlet(self.alpha * share, rng) / share, int(size)
            while need:
                weight = tilt * left
                weight = weight if weight.sum() > 0 else left.astype(np.float64)  # its labels have run out: it takes what there is
                edges = np.cumsum(weight / weight.sum())
                drawn = np.searchsorted(edges, rng.random(need) * edges[-1], side="right")
                taken = np.minimum(np.bincount(drawn, minlength=len(left)), left)
                for c in np.flatnonzero(taken):
                    site[stock[c][left[c] - taken[c] : left[c]]] = k
                left, need = left - taken, need - int(taken.sum())
        return site

    def _labels(self, code: Ints, n: int, values: Floats) -> Ints:
        """Each unit's most frequent label, the smallest among equals, as a number from 0."""
        found, label = np.unique(np.where(np.isnan(values), _MISSING, values), return_inverse=True)
        if len(found) > MAX_LABELS:
            what = f"'{self.label}' has {len(found)} different values, too many for labels."
            raise ManifestError(what, fix=f"name a boolean or a category, or use feature:variable={self.label}")
        label = label.reshape(-1).astype(np.int64)
        if n == len(code):
            return label
        count = np.zeros((n, len(found)), dtype=np.int64)
        np.add.at(count, (code, label), 1)
        return np.asarray(count.argmax(axis=1), dtype=np.int64)


class Quantity(Partition):
    """Sites of unequal size: shares fall as rank ** -exponent (law 'power'), or are log-normal with spread sigma (law 'lognormal')."""

    kind: ClassVar[str] = "quantity"
    law: Literal["power", "lognormal"] = "power"
    exponent: Annotated[float, Field(ge=0, le=20)] = 1.0
    sigma: Annotated[float, Field(ge=0, le=20)] = 1.0

    def deal(self, code: Ints, n: int, values: Floats, rng: np.random.Generator) -> Ints:
        order, rank = _shuffled(n, rng), np.arange(1, self.sites + 1, dtype=np.float64)
        log = -self.exponent * np.log(rank) if self.law == "power" else self.sigma * _normal(rng.random(self.sites))
        sizes = self.min_rows + _apportion(n - self.sites * self.min_rows, np.exp(log - log.max()))
        return _cut(order, sizes)


class Feature(Partition):
    """Feature shift by sorting: site 1 gets the lowest values of a variable, the last one the highest.

    overlap: from 0, no site shares its range with another, to 1, none differs. Units without a value are spread at random.
    """

    kind: ClassVar[str] = "feature"
    variable: VariableName
    overlap: Annotated[float, Field(ge=0, le=1)] = 0.2

    @property
    def reads(self) -> str | None:
        return self.variable

    def deal(self, code: Ints, n: int, values: Floats, rng: np.random.Generator) -> Ints:
        seen = ~np.isnan(values)
        count = np.bincount(code[seen], minlength=n)
        mean = np.bincount(code[seen], weights=values[seen], minlength=n) / np.maximum(count, 1)
        noise, tie = rng.random(n), rng.random(n)
        rank = np.empty(n)
        order = np.lexsort((tie, mean))
        order = order[count[order] > 0]
        rank[order] = (np.arange(len(order)) + 0.5) / max(1, len(order))
        rank[count == 0] = tie[count == 0]
        position = (1 - self.overlap) * rank + self.overlap * noise
        return _cut(np.argsort(position, kind="stable").astype(np.int64), _even(n, self.sites))


class Shift(Iid):
    """Feature shift by measuring: the sites are alike, but each measures a variable its own way, as value * scale ** z1 + offset * z2 with
    standard normal z1 and z2 of the site. That changes the data; it stands for devices and laboratories that disagree.
    """

    kind: ClassVar[str] = "shift"
    variable: VariableName
    offset: Annotated[float, Field(ge=0)] = 0.0
    scale: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _shifts(self) -> Self:
        if self.scale == 1 and self.offset == 0:
            raise ValueError("without scale or offset all sites measure alike: give for example scale=1.1, or offset=5")
        return self

    @property
    def changes(self) -> tuple[Floats, Floats]:
        """Factor and offset of each site, each of shape (sites,)."""
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=(1,))))
        z = _normal(rng.random((2, self.sites)))
        return self.scale ** z[0], self.offset * z[1]

    def shifted(self, values: Floats, site: Ints) -> Floats:
        factor, offset = self.changes
        return np.asarray(values * factor[site] + offset[site], dtype=np.float64)


KINDS: dict[str, type[Partition]] = {c.kind: c for c in (Iid, Dirichlet, Quantity, Feature, Shift)}


def parse(text: str | Partition) -> Partition:
    """A partition from text such as "dirichlet:alpha=0.3,sites=20,label=malignant"; raises `ManifestError`."""
    if isinstance(text, Partition):
        return text
    kind, _, rest = text.partition(":")
    if kind.strip() not in KINDS:
        raise ManifestError(f"There is no partition '{kind.strip()}'.", fix=nearest(kind.strip(), [*KINDS]))
    options: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not value or key in options:
            raise ManifestError(f"'{item}' is not one option of a partition.", fix="write for example dirichlet:alpha=0.3,sites=20,label=malignant")
        options[key] = value
    return KINDS[kind.strip()].parse(options, where=f"partition {kind.strip()}")


def _in_order(unit: NDArray[Any]) -> tuple[Ints, int]:
    """Units numbered in the order in which they first appear, and how many there are. Pseudonyms differ by key; the order does not."""
    _, first, code = np.unique(unit, return_index=True, return_inverse=True)
    number = np.empty(len(first), dtype=np.int64)
    number[np.argsort(first, kind="stable")] = np.arange(len(first))
    return np.asarray(number[code.reshape(-1)], dtype=np.int64), len(first)


def _shuffled(n: int, rng: np.random.Generator) -> Ints:
    return np.argsort(rng.random(n), kind="stable").astype(np.int64)


def _even(n: int, parts: int) -> Ints:
    return np.full(parts, n // parts, dtype=np.int64) + (np.arange(parts) < n % parts)


def _cut(order: Ints, sizes: Ints) -> Ints:
    """The units in `order`, cut into runs of these sizes, one a site."""
    site = np.empty(len(order), dtype=np.int64)
    site[order] = np.repeat(np.arange(len(sizes)), sizes)
    return site


def _apportion(n: int, weight: Floats) -> Ints:
    """n units by weight, by largest remainders; the earlier of equal ones first."""
    exact = n * weight / weight.sum()
    whole: Ints = np.floor(exact).astype(np.int64)
    rest = np.argsort(-(exact - whole), kind="stable")[: n - int(whole.sum())]
    whole[rest] += 1
    return whole


def _normal(uniform: Floats) -> Floats:
    from scipy.special import ndtri

    return np.asarray(ndtri(np.clip(uniform, 1e-300, 1 - 2**-53)), dtype=np.float64)


def _dirichlet(alpha: Floats, rng: np.random.Generator) -> Floats:
    """One draw, as gamma variates divided by their sum. In logarithms, G(a) = G(a + 1) U ** (1/a), so that none vanishes for small a."""
    from scipy.special import gammaincinv

    u, v = rng.random((2, len(alpha)))
    with np.errstate(divide="ignore"):
        log = np.log(gammaincinv(alpha + 1, u)) + np.log(v) / alpha
    log = np.where(np.isfinite(log), log, -1e308)
    weight = np.exp(log - log.max())
    return np.asarray(weight / weight.sum(), dtype=np.float64)
