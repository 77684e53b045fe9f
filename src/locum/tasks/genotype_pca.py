"""Principal components of genotypes over the cohort, as variables that later steps read: axes of ancestry.

Round 1 sums alleles; variant j with frequency f is scaled to z = (g - 2f) / sqrt(2f(1-f)), a genotype not called to 0. Then each round sends
out a block of directions W (variants x block) and sums the sites' Z'(ZW); no patient's score leaves. The coordinator maximises the
Rayleigh quotient over the span of the present vectors X, their residuals W and the last step P, which needs the products with Z'Z of
these alone: subspace iteration, sped up as conjugate gradients are. A round costs each site two passes over its genotypes.

Each later step sees pc1, pc2, ...: a patient's own scaled genotypes times the public loadings, with variance 1 in the cohort.

Sources: Patterson, Price and Reich (2006), PLoS Genetics 2:e190 (scaling, equations 1-3); Price et al. (2006), Nature Genetics 38:904; Knyazev
(2001), SIAM J. Sci. Comput. 23:517 (LOBPCG).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.rows import Part, Rows
from locum.errors import ManifestError, TaskError
from locum.study.manifest import Step, Study, Variable, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks import gwas_lists
from locum.tasks.base import Memory, Params, State, Transform, register
from locum.tasks.gwas import array_of, size_of
from locum.tasks.gwas_sums import block_size
from locum.tasks.prepare import with_columns

Floats = NDArray[np.float64]
SPARE = 6
"""Directions beyond those asked for, which speed up the last of them."""
DEPENDENT = 1e-12
"""A direction whose squared length outside the others, relative to its own, is below this is left out."""
RANK = 1e-10
"""An eigenvalue below this share of the first is zero."""


class GenotypePCAParams(Params):
    """components: how many, called <prefix>1, <prefix>2, ... every: use each so-manieth variant, so that close ones, which say the same, do
    not make an axis of their own. min_frequency: of the rarer allele. tolerance: the length of a component's residual relative to its
    eigenvalue. part: of which patients the axes are learned; all get scores."""

    genotypes: VariableName = "genotypes"
    components: Annotated[int, Field(ge=1, le=40)] = 4
    prefix: VariableName = "pc"
    every: Annotated[int, Field(ge=1)] = 1
    min_frequency: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    tolerance: Annotated[float, Field(gt=0, le=0.1)] = 1e-6
    part: Part = "all"


@register
class GenotypePCA(Transform[GenotypePCAParams]):
    kind = "genotype_pca"
    Config = GenotypePCAParams
    takes = ("array",)
    row_wise = True

    def __init__(self, step: Step, params: GenotypePCAParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.require(*self.reads())
        self.places = np.arange(0, size_of(self, params.genotypes), params.every)
        self.size, self.block = len(self.places), params.components + SPARE
        if self.size < self.block:
            raise ManifestError(
                f"Step '{step.name}': {self.size} variants are too few for {params.components} components.", fix=f"use at least {self.block} variants"
            )
        self.names = [f"{params.prefix}{k + 1}" for k in range(params.components)]
        taken = [n for n in self.names if n in study.data.variables]
        if taken:
            raise ManifestError(f"Step '{step.name}': '{taken[0]}' is a variable already.", fix="choose another prefix")

    def reads(self) -> tuple[str, ...]:
        return (self.params.genotypes,)

    def derived(self) -> dict[str, Variable]:
        return {name: Variable(label=f"principal component {k + 1} of the genotypes") for k, name in enumerate(self.names)}

    def leaves(self) -> str:
        return (
            f"First, for each of {self.size:,} variants, how many patients were called and their alleles, and a hash of the list; then in each round "
            f"the sum over patients of their scores times their genotypes: {self.size:,} x {self.block} numbers."
        )

    def layout(self, state: State) -> Layout:
        if self.key("mean") not in state:
            return Layout.of(rows=(), **gwas_lists.FIELDS, called=(self.size,), alleles=(self.size,))
        return Layout.of(rows=(), squares=(), product=(self.size, self.block))

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        genotypes = array_of(self, rows, self.params.genotypes)
        rows = rows.part(self.params.part, self.study.data.split)
        vector = self.layout(state).zeros()
        vector["rows"] = np.asarray(float(len(rows)))
        if "called" in vector:
            for at, g in self._raw(rows):
                vector["called"][at], vector["alleles"][at] = (~np.isnan(g)).sum(axis=0), np.nansum(g, axis=0)
            return Contribution(vector | gwas_lists.facts(genotypes), rows.patients, self.leaves())
        w = np.asarray(self.own(state, "w"), float)
        scores, squares = np.zeros((len(rows), self.block)), 0.0
        for at, z in self._scaled(state, rows):
            scores += z @ w[at]
            squares += float((z**2).sum())
        for at, z in self._scaled(state, rows):
            vector["product"][at] = z.T @ scores
        return Contribution({**vector, "squares": np.asarray(squares)}, rows.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        if not float(total["rows"]):
            raise TaskError(f"No site has a row for step '{self.step.name}'.", fix="choose another part")
        return self._start(state, total) if "called" in total.vector else self._iterate(state, total)

    def _start(self, state: State, total: Total) -> State:
        gwas_lists.check(total, self.step.name)
        f = np.asarray(total["alleles"], float) / np.maximum(2.0 * np.asarray(total["called"], float), 1.0)
        used = np.minimum(f, 1.0 - f) >= self.params.min_frequency
        if used.sum() < self.block:
            raise TaskError(
                f"Only {int(used.sum())} of {self.size} variants vary enough for principal components; {self.block} are needed.",
                fix="lower min_frequency or every, or choose other variants",
            )
        inverse = np.where(used, 1.0 / np.sqrt(np.where(used, 2.0 * f * (1.0 - f), 1.0)), 0.0)
        w = np.random.default_rng(self.study.seed).standard_normal((self.size, self.block)) * used[:, None]
        empty = np.zeros_like(w)
        arrays = {"x": empty, "ax": empty, "p": empty, "ap": empty, "w": np.linalg.qr(w)[0]}
        return self.merge(state, mean=2.0 * f, inverse=inverse, used=float(used.sum()), rounds=0, residual=np.ones(self.block), **arrays)

    def _iterate(self, state: State, total: Total) -> State:
        """Rayleigh-Ritz over X, W and P; then the residuals of the best are the next W."""
        x, ax, p, ap, w = (np.asarray(self.own(state, k), float) for k in ("x", "ax", "p", "ap", "w"))
        s, a = np.hstack([x, w, p]), np.hstack([ax, np.asarray(total["product"], float), ap])
        length = np.linalg.norm(s, axis=0)
        scale = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0)
        s, a = s * scale, a * scale
        gram, turn = np.linalg.eigh(s.T @ s)
        white = turn[:, gram > DEPENDENT * gram[-1]] / np.sqrt(gram[gram > DEPENDENT * gram[-1]])
        inner = white.T @ (s.T @ a) @ white
        values, vectors = np.linalg.eigh((inner + inner.T) / 2.0)
        c = white @ vectors[:, ::-1][:, : self.block]
        values = values[::-1][: self.block]
        k = self.params.components
        if len(values) < self.block or values[k - 1] <= RANK * values[0]:
            raise TaskError(f"The cohort's genotypes have fewer than {k} principal components.", fix="ask for fewer; there are at most as many as patients")
        x, ax = s @ c, a @ c
        c[: self.block] = 0.0
        w = ax - x * values
        residual = np.linalg.norm(w, axis=0) / np.maximum(values, np.finfo(float).tiny)
        arrays = {"x": x, "ax": ax, "p": s @ c, "ap": a @ c, "w": w - x @ (x.T @ w), "values": values, "residual": residual}
        finished = int((residual[:k] <= self.params.tolerance).all())
        sign = np.sign(x[np.abs(x).argmax(axis=0), np.arange(x.shape[1])])[:k]
        rows = float(total["rows"])
        loadings = x[:, :k] * sign * np.sqrt(rows / np.maximum(values[:k], np.finfo(float).tiny))
        facts = {"rows": rows, "squares": total["squares"], "rounds": int(self.own(state, "rounds")) + 1, "finished": finished}
        return self.merge(state, loadings=loadings, **facts, **arrays)

    def done(self, state: State) -> bool:
        return bool(state.get(self.key("finished"), np.asarray(0)))

    def apply(self, state: State, rows: Rows) -> Rows:
        if self.key("loadings") not in state:
            raise TaskError(f"Step '{self.step.name}' has found no component yet.", fix="keep the plan's order, and give the step more rounds")
        array_of(self, rows, self.params.genotypes)
        loadings, scores = np.asarray(self.own(state, "loadings"), float), np.zeros((len(rows), len(self.names)))
        for at, z in self._scaled(state, rows):
            scores += z @ loadings[at]
        return with_columns(rows, {name: scores[:, k].copy() for k, name in enumerate(self.names)})

    def result(self, state: State) -> dict[str, Any]:
        if self.key("loadings") not in state:
            raise TaskError(f"Step '{self.step.name}' has found no component yet.", fix="give the step more rounds")
        k, values = self.params.components, self.own(state, "values")
        residual = self.own(state, "residual")[:k]
        slow = [name for name, r in zip(self.names, residual, strict=True) if r > self.params.tolerance]
        rows = float(self.own(state, "rows"))
        return {
            "n": int(rows),
            "variants": int(self.own(state, "used")),
            "components": [
                {"name": name, "eigenvalue": float(v / rows), "share": float(v / self.own(state, "squares")), "residual": float(r)}
                for name, v, r in zip(self.names, values[:k], residual, strict=True)
            ],
            "iterations": int(self.own(state, "rounds")),
            "converged": not slow,
            "warnings": [f"{', '.join(slow)} had not converged: give the step more rounds, or ask for fewer components."] if slow else [],
        }

    def _raw(self, rows: Rows) -> Iterator[tuple[slice, Floats]]:
        """The chosen variants of a site, some at a time, and their place among those chosen."""
        genotypes, size = rows.arrays[self.params.genotypes], block_size(len(rows))
        for first in range(0, self.size, size):
            places = self.places[first : first + size]
            g = genotypes[:, places[0] : places[-1] + 1 : self.params.every].astype(np.float64)
            if g.size and (np.nanmin(g, initial=0.0) < 0.0 or np.nanmax(g, initial=0.0) > 2.0):
                raise TaskError("A genotype is no dosage between 0 and 2.", fix="count copies of one allele, and write NaN where a genotype is missing")
            yield slice(first, first + len(places)), g

    def _scaled(self, state: State, rows: Rows) -> Iterator[tuple[slice, Floats]]:
        mean, inverse = np.asarray(self.own(state, "mean"), float), np.asarray(self.own(state, "inverse"), float)
        for at, g in self._raw(rows):
            z = (g - mean[at]) * inverse[at]
            z[np.isnan(z)] = 0.0
            yield at, z
