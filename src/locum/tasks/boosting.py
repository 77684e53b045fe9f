"""Gradient-boosted trees whose split histograms are sums over the sites.

Pseudocode     round 1:          sites count each feature in fine bins; the coordinator cuts bins of about equal count
               for each tree, for each level:
                 site:           g, h = derivatives of the loss at its own predictions; H[node, feature, bin] = sum of (g, h, patients)
                 coordinator:    splits each open node where score(left) + score(right) - score(node) is largest; see `tasks.tree`
               last round:       the loss of the whole model
Postcondition  the trees of the pooled rows with the same bins, bit by bit: sites add whole numbers (units of 2^-30), whose order means nothing
Source         Friedman (2001), Annals of Statistics 29:1189; Chen and Guestrin (2016), KDD, algorithms 1 and 3, sections 2.2 and 3.4

No leaf, and no bin of a number, holds fewer than `min_child_patients` patients of the cohort (never below 11): a patient with k rows counts 1/k
in each, so that the sum over a leaf is at most its number of patients. Sums in bins within a node may be small; who adds them up sees them.
A site keeps its predictions in its memory, and makes them afresh from the trees where it was away.
"""

from __future__ import annotations

from dataclasses import fields
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from locum.data.patients import is_test
from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.study.manifest import Split, Step, Study
from locum.study.vector import Array, Contribution, Layout, Total
from locum.study.vector import Field as Tensor
from locum.tasks.base import BaseTask, Memory, State, register
from locum.tasks.boosting_loss import Fit, Survival, baseline_of, loss_of
from locum.tasks.boosting_params import BoostedTreesParams
from locum.tasks.boosting_report import report
from locum.tasks.boosting_site import ONE, Ready, exact_sum, histogram, predictions, shares, units
from locum.tasks.design import Used, usable
from locum.tasks.models import sigmoid
from locum.tasks.tree import Bins, Rules, Trees
from locum.tasks.tree_bins import Feature

Floats = NDArray[np.float64]
MOST_NUMBERS = 1 << 22
"""Numbers in one message: 32 MiB, and masked twice that."""
HELD_OUT = 0.2


@register
class BoostedTrees(BaseTask[BoostedTreesParams]):
    """The exact form."""

    kind = "boosted_trees"
    Config = BoostedTreesParams
    times: ClassVar[None] = None
    """What an evaluation of survival asks of a model: it needs no distinct event times."""

    def __init__(self, step: Step, params: BoostedTreesParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.require(*params.features)
        self.loss = loss_of(self, params)
        twice = next((n for n in params.features if params.features.count(n) > 1), None)
        if twice or set(params.features) & set(self.loss.reads()):
            what = f"lists '{twice}' twice" if twice else "has its outcome among its features"
            raise ManifestError(f"Step '{step.name}' {what}.", fix="drop it from features")
        self.features = [Feature(name, study.data.variables[name], step.name) for name in params.features]
        self._categorical = np.asarray([f.categorical for f in self.features])
        self._digests: tuple[State, dict[int, bytes]] = ({}, {})
        self._check_size()

    def _check_size(self) -> None:
        p = self.params
        row = sum(f.most(p.bins) + 1 for f in self.features)
        size, counts = 3 * row * 2 ** (p.depth - 1), sum(f.cells + 1 for f in self.features)
        if max(size, counts) > MOST_NUMBERS:
            raise ManifestError(
                f"Step '{self.step.name}' would send up to {max(size, counts):,} numbers in a round; at most {MOST_NUMBERS:,}.",
                why=f"3 sums x {2 ** (p.depth - 1)} nodes of the deepest level x {row:,} bins of all features.",
                fix="lower depth (each level doubles it) or bins, or list fewer features",
            )
        needed = p.trees * p.depth + 4
        if self.step.rounds < needed:
            raise ManifestError(
                f"Step '{self.step.name}' has {self.step.rounds} rounds for {p.trees} trees of depth {p.depth}.",
                why="Each level of each tree is a round.",
                fix=f"set rounds = {needed}, or fewer trees",
            )

    @property
    def binary(self) -> bool:
        return self.loss.binary

    @property
    def needed(self) -> tuple[str, ...]:
        """The variables that must not be missing: features may be."""
        return self.loss.reads()

    @property
    def rules(self) -> Rules:
        p = self.params
        return Rules(p.depth, p.rate, p.l2, p.gamma, p.min_child_weight, p.min_child_patients - 1e-3, most=self.loss.most_step)

    def reads(self) -> tuple[str, ...]:
        p = self.params
        return (*p.features, *(n for n in (p.outcome, p.time, p.event) if n))

    def leaves(self) -> str:
        return self._leaves

    @cached_property
    def _leaves(self) -> str:
        row, fine = sum(f.most(self.params.bins) + 1 for f in self.features), sum(f.cells + 1 for f in self.features)
        return (
            f"First, how many patients are in each of {fine:,} fine bins of the {len(self.features)} features, and sums of the outcome; then each round, "
            f"for each open node of a tree (at most {2 ** (self.params.depth - 1)}) and each of {row:,} bins, sums of gradient and Hessian and how many "
            f"patients; and the loss."
        )

    def phase(self, state: State) -> Literal["bins", "baseline", "grow", "last", "done"]:
        """What the next round is for."""
        if self.key("sizes") not in state:
            return "bins"
        if self.loss.survival and not len(self.own(state, "fit.baseline")):
            return "baseline"
        if len(self.own(state, "open")):
            return "grow"
        return "done" if self.own(state, "finished") else "last"

    def layout(self, state: State) -> Layout:
        phase = self.phase(state)
        if phase == "bins":
            counts = (Tensor(f"count.{f.name}", (f.cells + 1,), "int64") for f in self.features)
            return Layout((*counts, *(Tensor(n, s) for n, s in {"rows": (), "patients": (), "left_out": (), **self.loss.sums()}.items())))
        shapes: dict[str, tuple[int, ...]] = {} if phase == "baseline" else dict.fromkeys(("loss", "rows", "held_loss", "held_rows"), ())
        if self.loss.survival:
            shapes |= {n: (len(self.own(state, "fit.edges")) + 1,) for n in ("exposure", "events")}
        if phase == "grow":
            shapes["histogram"] = (3, len(self.own(state, "open")), self._bins(state).total)
        return Layout(tuple(Tensor(n, s, "int64") for n, s in shapes.items()))

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        phase = self.phase(state)
        if phase == "bins":
            return self._count(rows)
        ready, fit, trees = self._ready(state, rows), self.fit(state), self.trees(state)
        finished = trees.first(len(trees) - (phase == "grow"))
        score = predictions(finished, fit.start, ready, self.params.depth, memory, self._digests_of(state))
        vector: dict[str, Array] = {}
        if isinstance(self.loss, Survival):
            spent, events = self.loss.baseline_sums(ready.target, score, fit)
            vector = {n: exact_sum(a[~ready.held]) for n, a in (("exposure", spent), ("events", events))}
        if phase != "baseline":
            loss, g, h = self.loss.derivatives(ready.target, score, fit)
            for name, mask in (("", ~ready.held), ("held_", ready.held)):
                vector |= {f"{name}loss": exact_sum(loss[mask]), f"{name}rows": np.asarray(mask.sum(), dtype=np.int64)}
        if phase == "grow":
            sums = (units(g), units(h), ready.share)
            vector["histogram"] = histogram(trees, self.own(state, "open"), int(self.own(state, "level")), ready, self._bins(state), sums)
        return Contribution(vector, ready.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        phase = self.phase(state)
        if phase == "bins":
            return self._cut(state, total)
        if phase == "baseline":
            return self.merge(state, **{"fit.baseline": baseline_of(total.vector)})
        trees, tree = self.trees(state), len(self.trees(state)) - (phase == "grow")
        if len(self.own(state, "loss")) == tree:  # the first that is heard of a model of so many trees
            state = self.merge(state, **{n: np.append(self.own(state, n), _mean(total, n)) for n in ("loss", "held_loss")})
        baseline: dict[str, Array] = {"fit.baseline": baseline_of(total.vector)} if self.loss.survival else {}
        best = self._best(state)
        if self.params.stop_after and not int(total["held_rows"]):
            raise TaskError(f"No patient is held out for step '{self.step.name}'.", fix="more patients, or leave out stop_after")
        if phase == "last":
            if best < tree:
                return self._store(state, trees.first(best))
            return self.merge(state, finished=1, held_rows=total["held_rows"], **baseline)
        if self.params.stop_after and tree - int(np.argmin(self.own(state, "held_loss"))) >= self.params.stop_after:
            return self._store(state, trees.first(best))
        level = int(self.own(state, "level"))
        grown, open_ = trees.grow(self.own(state, "open"), np.asarray(total["histogram"]) / ONE, self._bins(state), self._rules(state), level)
        if level == 0 and len(grown.child) == len(trees.child):
            return self._no_split(state, trees.first(tree))
        if len(open_):
            return self._store(state, grown, open_, level + 1)
        state = self.merge(state, **baseline)
        if len(grown) == self.params.trees:
            return self._store(state, grown)
        return self._store(state, grown.sprout(), np.asarray([len(grown.child)]))

    def done(self, state: State) -> bool:
        return self.phase(state) == "done"

    def result(self, state: State) -> dict[str, Any]:
        if self.phase(state) != "done":
            raise TaskError(f"Step '{self.step.name}' was not trained to its end.", fix=f"set rounds = {self.params.trees * self.params.depth + 4}")
        return report(self, state)

    def trees(self, state: State) -> Trees:
        """The trees so far; raises `TaskError` before the first."""
        if self.key("trees.roots") not in state:
            raise TaskError(f"Step '{self.step.name}' has not run, so there is no model to use.", fix="keep the plan's order")
        return Trees.of({f.name: self.own(state, f"trees.{f.name}") for f in fields(Trees)})

    def inner_edges(self, state: State) -> list[Floats]:
        """Of each feature the edges between its bins, without those at the ends."""
        sizes = self.own(state, "sizes").tolist()
        return [self.own(state, "edges")[a : a + k - 1] for a, k in zip(np.cumsum([0, *(s - 1 for s in sizes)])[:-1], sizes, strict=True)]

    def start(self, state: State) -> float:
        """The prediction before the first tree."""
        return self.fit(state).start

    def scores(self, state: State, rows: Rows) -> Floats:
        """The log odds of each row, its predicted number, or its log relative hazard, shape (n,)."""
        trees = self.trees(state)
        return trees.add(np.full(len(rows), self.start(state)), self._place(state, rows), self.params.depth)

    def survival(self, state: State, rows: Rows, time: float) -> Floats:
        """Of each row the probability of no event until `time`, at most the contract's longest follow-up, shape (n,)."""
        assert isinstance(self.loss, Survival)  # noqa: S101 - for survival only
        return self.loss.surviving(self.scores(state, rows), time, self.fit(state))

    def likelihood(self, y: Floats, eta: Floats) -> tuple[float, Floats, Floats]:
        """As for a logistic regression: log-likelihood, residual y - mu and weight at log odds eta; for a calibration line."""
        mu = sigmoid(eta)
        return float((y * eta - np.logaddexp(0.0, eta)).sum()), y - mu, mu * (1.0 - mu)

    def outcome_error(self, y: Floats) -> str:
        """What is wrong with the outcome, or ''."""
        return "has values other than 0 and 1" if self.binary and not np.isin(y, (0.0, 1.0)).all() else ""

    def _count(self, rows: Rows) -> Contribution:
        self._check_columns(rows)
        used = self._usable(rows)
        share, counted = shares(used.rows), self.layout({}).zeros()
        for f in self.features:
            where = f.place(used.rows.columns[f.name], f.inner)
            counted[f"count.{f.name}"] = np.bincount(where, weights=share, minlength=f.cells + 1).astype(np.int64)
        numbers = {"rows": len(share), "patients": used.rows.patients, "left_out": used.left_out, **self.loss.first(used.rows)}
        return Contribution(counted | {n: np.asarray(a, dtype=np.float64) for n, a in numbers.items()}, used.rows.patients, self.leaves())

    def _cut(self, state: State, total: Total) -> State:
        n = float(total["rows"])
        if not n:
            raise TaskError(f"No site has a usable row for step '{self.step.name}'.", fix="look for an outcome that is missing everywhere")
        p, counts = self.params, [np.asarray(total[f"count.{f.name}"]) / ONE for f in self.features]
        edges = [f.cut(c[:-1], p.bins, p.min_child_patients) for f, c in zip(self.features, counts, strict=True)]
        sizes = np.asarray([len(e) + 1 for e in edges], dtype=np.int64)
        present, most = (np.asarray([fold(c[:-1]) for c in counts]) for fold in (np.sum, np.max))
        facts = {"present": present, "crowded": np.asarray(most > 0.5 * present), "rows": total["rows"], "patients": total["patients"]}
        fit = self.loss.fit(total, n)
        state = self.merge(state, sizes=sizes, edges=np.concatenate(edges), left_out=total["left_out"], finished=0, loss=np.zeros(0), held_loss=np.zeros(0))
        state = self.merge(
            state, **{k: np.asarray(v, dtype=np.float64) for k, v in facts.items()}, **{f"fit.{f.name}": getattr(fit, f.name) for f in fields(Fit)}
        )
        return self._store(state, Trees.none().sprout(), np.asarray([0]))

    def _store(self, state: State, trees: Trees, open_: NDArray[np.int64] | None = None, level: int = 0) -> State:
        open_ = np.zeros(0, np.int64) if open_ is None else open_
        return self.merge(state, open=open_, level=level, **{f"trees.{n}": a for n, a in trees.arrays().items()})

    def _no_split(self, state: State, trees: Trees) -> State:
        if not len(trees):
            raise TaskError(
                f"No split of any feature of step '{self.step.name}' gains anything.",
                why=f"Each side needs {self.params.min_child_patients} patients and Hessians of {self.params.min_child_weight:g}; a constant cannot split.",
                fix="more patients, lower min_child_weight or gamma, or other features",
            )
        return self._store(state, trees)

    def _best(self, state: State) -> int:
        """Of how many trees the model to keep is."""
        losses = self.own(state, "held_loss")
        return max(1, int(np.argmin(losses))) if self.params.stop_after else len(losses) - 1

    def fit(self, state: State) -> Fit:
        values = {f.name: self.own(state, f"fit.{f.name}") for f in fields(Fit)}
        return Fit(float(values["start"]), float(values["unit"]), values["edges"], values["baseline"])

    def _rules(self, state: State) -> Rules:
        return Rules(**{**self.rules.__dict__, "unit": self.fit(state).unit})

    def _bins(self, state: State) -> Bins:
        return Bins(self.own(state, "sizes"), self._categorical)

    def _check_columns(self, rows: Rows) -> None:
        for name in self.params.features:
            if name not in rows.columns:
                raise TaskError(f"Step '{self.step.name}' reads '{name}', which this site's rows do not have.", fix="map that variable, or leave the study")

    def _usable(self, rows: Rows) -> Used:
        with_test = self.params.stop_after and self.params.stop_on == "test"
        return usable(self, rows, "all" if with_test else self.params.part, self.needed)

    def _place(self, state: State, rows: Rows) -> NDArray[np.uint8]:
        """The bin of each row in each feature, shape (n, features)."""
        self._check_columns(rows)
        made = [f.place(rows.columns[f.name], inner) for f, inner in zip(self.features, self.inner_edges(state), strict=True)]
        return np.column_stack(made).astype(np.uint8)

    def _ready(self, state: State, rows: Rows) -> Ready:
        """These rows, binned; kept as long as the rows are."""
        kept: dict[str, tuple[bytes, Ready]] = rows.__dict__.setdefault("_boosted", {})
        wanted, name = b"".join(self.own(state, n).tobytes() for n in ("edges", "sizes", "fit.edges", "fit.unit")), f"{self.study.digest}/{self.step.name}"
        if name not in kept or kept[name][0] != wanted:
            used = self._usable(rows).rows
            target = self.loss.target(used, self.fit(state))
            kept[name] = wanted, Ready.of(self._place(state, used), self._bins(state), target, used, self._held(used))
        return kept[name][1]

    def _held(self, rows: Rows) -> NDArray[np.bool_]:
        """Which rows are held out to choose the number of trees, shape (n,)."""
        if not self.params.stop_after:
            return np.zeros(len(rows), dtype=bool)
        split = self.study.data.split
        if self.params.stop_on == "validation":
            split = Split(test_share=HELD_OUT, salt=f"{split.salt}/{self.step.name}/validation")
        elif rows.test is not None:
            return rows.test
        return is_test(rows.distinct, split)[rows.codes]

    def _digests_of(self, state: State) -> dict[int, bytes]:
        """Digests of so many first trees of this very state."""
        if self._digests[0] is not state:
            self._digests = state, {}
        return self._digests[1]


def _mean(total: Total, name: str) -> float:
    rows = int(total["held_rows" if name == "held_loss" else "rows"])
    return float(total[name]) / ONE / max(1, rows)
