"""k-means clusters by Lloyd's algorithm on sums, from several starts and for several numbers of clusters side by side.

    visit     each row z goes to its nearest centre c; per centre: n, sum (z - c), sum (z - c)^2, and sum of silhouettes
    combine   c <- c + sum (z - c) / n, until no centre moves by more than `tolerance`
Source: Lloyd (1982), IEEE Transactions on Information Theory 28:129. From the same first centres it is k-means of the pooled rows.

First centres come from sums too, never from a row (`kmeans_parts`). 'cohort': one round of means and products gives an ellipsoid, over which
public points are spread; a second one counts and averages the rows nearest to each point, and k-means++ draws among the averages of at least
`threshold` patients, by their counts (Arthur and Vassilvitskii, 2007; as k-means|| reclusters, Bahmani et al., 2012, but without sampled rows).
'ranges' spreads the points over the contract's ranges instead. `centres` gives first centres in the manifest.

No centre is a patient's row: a centre that is shown, or sent to the sites in a later round, is the mean of at least `threshold` patients (at
least 5), or a public or averaged point. Where a cluster has fewer, nothing of that round is kept, for the others' means would give it away: instead the
widest cluster is split along its widest feature (ISODATA: Ball and Hall, 1965). A start to which that happens `MOST_SPLITS` times is dropped.
Two rounds' centres differ by the rows that changed cluster, and where that is one row they tell it. `least_moved` prevents that: a start ends, with the
centres that it has, as soon as fewer patients, but some, would enter or leave a cluster. The answer then falls short of the pooled one: W of
normal rows without clusters, k = 5, rose by 4 to 11 % with 500 patients and by less than 1 % with 5,000.

Choice of k, both from sums: Calinski and Harabasz (1974), (B / (k - 1)) / (W / (n - k)); and the simplified silhouette, the mean of (b - a) /
max(a, b), where a and b are a row's distances to its own and to the nearest other centre (Vendramin et al., 2010, Stat. Anal. Data Mining 3:209).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from locum.data.rows import Part, Rows
from locum.errors import TaskError
from locum.privacy.disclosure import HIDDEN, THRESHOLD
from locum.study.manifest import Name, Step, Study, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks import newton
from locum.tasks.base import BaseTask, Memory, Params, State, register
from locum.tasks.design import Design, Features, usable
from locum.tasks.histogram import contract_range
from locum.tasks.kmeans_parts import distances_to, ellipsoid, movers, plus_plus, silhouettes, split, spread, sums_by

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MOST_SPLITS = 10
RUNNING, SETTLED, DROPPED, HELD = 0, 1, 2, 3
SAME = 1e-6
"""Starts whose within-cluster sums differ by less, relatively, have found the same clusters."""


class KMeansParams(Params):
    """features: numbers and booleans. clusters: one k or several to compare. starts: per k. standardise: as for regressions. start, centres:
    where the first centres come from; centres are on the original scale. threshold: how many patients a cluster needs. least_moved: how
    many must change a cluster for a round to count; 0 goes on until none does, as on pooled rows. tolerance: of a centre's movement,
    on the fitted scale."""

    features: Annotated[tuple[VariableName, ...], Field(min_length=1, max_length=256)]
    clusters: Annotated[tuple[Annotated[int, Field(ge=2, le=50)], ...], Field(max_length=20)] = ()
    starts: Annotated[int, Field(ge=1, le=50)] = 8
    standardise: Name | None = None
    start: Literal["cohort", "ranges"] = "cohort"
    centres: Annotated[tuple[tuple[float, ...], ...], Field(max_length=50)] = ()
    threshold: Annotated[int, Field(ge=5, le=1_000_000)] = THRESHOLD
    least_moved: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    tolerance: Annotated[float, Field(ge=0, le=1e-2)] = 1e-9
    part: Part = "all"

    @model_validator(mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        """`clusters = 3` is short for `clusters = [3]`."""
        short = isinstance(value, dict) and isinstance(value.get("clusters"), int)
        return {**value, "clusters": (value["clusters"],)} if short else value

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if bool(self.clusters) == bool(self.centres):
            raise ValueError("give either clusters, one number or several, or the first centres")
        if len(set(self.clusters)) < len(self.clusters):
            raise ValueError("clusters lists a number twice")
        if self.centres and (len(self.centres) < 2 or any(len(c) != len(self.features) for c in self.centres)):
            raise ValueError("centres are two or more, each with one number per feature")
        return self


@register
class KMeans(BaseTask[KMeansParams]):
    """Two rounds for the first centres, then Lloyd's. A run is one start for one k; its clusters are a slice of all."""

    kind = "kmeans"
    Config = KMeansParams
    takes = ("number", "integer", "boolean", "date")

    def __init__(self, step: Step, params: KMeansParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.design = Design(self, Features(features=params.features, standardise=params.standardise, part=params.part), intercept=False, centred=True)
        self.p = self.design.size
        self.runs = [(len(params.centres), 0)] if params.centres else list(product(sorted(params.clusters), range(params.starts)))
        self.size = sum(k for k, _ in self.runs)
        self.points = int(np.clip(8 * max(k for k, _ in self.runs), 64, 400))
        self.ranges = np.array([self._range(name) for name in params.features]) if params.start == "ranges" and not params.centres else None

    def _range(self, name: str) -> tuple[float, float]:
        boolean = self.study.data.variables[name].type == "boolean"
        return (0.0, 1.0) if boolean else contract_range(self, name, "start = 'cohort'")

    def reads(self) -> tuple[str, ...]:
        return self.params.features

    def leaves(self) -> str:
        what = f"a count, {self.p} sums and {self.p} sums of squares, and a sum of silhouettes"
        first = "" if self.params.centres else f"First the sums and products of {self.p} features and the averages near {self.points} public points. Then, "
        last = "" if self.params.least_moved else " Two rounds differ by the rows that change cluster."
        return f"{first}{'each' if first else 'Each'} round, for each of {self.size} clusters ({len(self.runs)} runs side by side): {what}.{last}"

    def layout(self, state: State) -> Layout:
        facts: dict[str, tuple[int, ...]] = {"rows": (), "people": (), "left_out": ()}
        phase, p = self._phase(state), self.p
        if phase == "moments":
            return Layout.of(**facts, total=(p,), products=(p * (p + 1) // 2,))
        if phase == "points":
            return Layout.of(**facts, count=(self.points,), patients=(self.points,), total=(self.points, p))
        each, by_feature = (self.size,), (self.size, p)
        return Layout.of(**facts, count=each, patients=each, total=by_feature, squares=by_feature, silhouette=each, moved=each)

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        used = usable(self, rows, self.params.part)
        rows, vector, phase = used.rows, self.layout(state).zeros(), self._phase(state)
        z = self.design.matrix(state, rows)
        vector["rows"], vector["people"], vector["left_out"] = (np.asarray(float(v)) for v in (len(rows), rows.patients, used.left_out))
        if phase == "moments":
            vector["total"], vector["products"] = z.sum(axis=0), newton.pack(z.T @ z)
        elif phase == "points":
            points = self._points(state)
            self._sums(vector, slice(0, self.points), z, points, distances_to(z, points).argmin(axis=1), rows.codes)
        else:
            centres, settled, published = self._centres(state), self._settled(state), self._or(state, "published", (len(self.runs),))
            for run, at in self._slices():
                if settled[run] != RUNNING or not len(rows):
                    continue
                distances = distances_to(z, centres[at])
                label = distances.argmin(axis=1)
                deviation = self._sums(vector, at, z, centres[at], label, rows.codes)
                vector["squares"][at] = sums_by(label, deviation**2, len(distances[0]))
                vector["silhouette"][at] = np.bincount(label, silhouettes(distances), minlength=len(distances[0]))
                if self.params.least_moved and published[run]:
                    before = distances_to(z, np.asarray(self.own(state, "before"), float)[at]).argmin(axis=1)
                    vector["moved"][at] = movers(rows.codes, before, label, len(distances[0]))
        return Contribution(vector, rows.patients, self.leaves())

    def _sums(self, vector: dict[str, Any], at: slice, z: Floats, centres: Floats, label: Ints, codes: Ints) -> Floats:
        """Counts and sums of deviations by label into `vector`; the deviations."""
        deviation, k = z - centres[label], len(centres)
        people = np.unique(np.column_stack([codes, label]), axis=0)[:, 1]
        vector["count"][at], vector["patients"][at] = np.bincount(label, minlength=k), np.bincount(people, minlength=k)
        vector["total"][at] = sums_by(label, deviation, k)
        return deviation

    def combine(self, state: State, total: Total) -> State:
        n, people, most = float(total["rows"]), float(total["people"]), max(k for k, _ in self.runs)
        if people < most * self.params.threshold:
            raise TaskError(
                f"The cohort has too few complete rows for {most} clusters in step '{self.step.name}'.",
                why=f"A cluster is shown only with {self.params.threshold} patients or more, so that its centre is nobody's row.",
                fix="ask for fewer clusters, or look for a feature that is missing nearly everywhere",
            )
        state = self.merge(state, rows=n, people=people, left_out=total["left_out"], sites=total.sites)
        phase = self._phase(state)
        if phase == "moments":
            return self.merge(state, points=ellipsoid(spread(self.points, self.p, self.study.seed), n, *self._moments(total)))
        if phase == "points":
            return self.merge(state, centres=self._draw(self._points(state), total))
        return self._lloyd(state, total)

    def _lloyd(self, state: State, total: Total) -> State:
        count, patients, away, squares, silhouette, moved = (np.asarray(total[f.name], float) for f in self.layout(state).fields[3:])
        kept = {name: self._or(state, name, shape) for name, shape in self._kept.items()}
        kept["centres"] = self._centres(state).copy()
        for run, at in self._slices():
            if kept["settled"][run] != RUNNING:
                continue
            kept["iterations"][run] += 1
            few = patients[at] < self.params.threshold
            step = away[at] / np.maximum(count[at], 1.0)[:, None]
            within = np.maximum(squares[at] - away[at] * step, 0.0)
            if ((moved[at] > 0) & (moved[at] < self.params.least_moved)).any():
                kept["settled"][run] = HELD
            elif few.any():
                kept["splits"][run] += 1
                kept["settled"][run] = DROPPED if kept["splits"][run] > MOST_SPLITS else RUNNING
                kept["centres"][at] = split(kept["centres"][at], within, count[at], few)
                kept["count"][at] = kept["patients"][at] = HIDDEN
            else:
                kept["before"][at], kept["published"][run] = kept["centres"][at], 1
                kept["centres"][at] += step
                kept["count"][at], kept["patients"][at], kept["within"][at], kept["silhouette"][at] = count[at], patients[at], within, silhouette[at]
                kept["settled"][run] = SETTLED if np.abs(step).max() <= self.params.tolerance else RUNNING
        return self.merge(state, **kept)

    def done(self, state: State) -> bool:
        return self.key("settled") in state and bool((self._settled(state) != RUNNING).all())

    def result(self, state: State) -> dict[str, Any]:
        if self.key("settled") not in state:
            raise TaskError(f"Step '{self.step.name}' had no round left for its clusters.", fix="set rounds to 50 or more")
        answers = [self._answer(state, k) for k in sorted({k for k, _ in self.runs})]
        found = [a for a in answers if a["clusters"]]
        if not found:
            raise TaskError(
                f"No start of step '{self.step.name}' gave clusters of at least {self.params.threshold} patients each.",
                fix="ask for fewer clusters or more starts; standardise features whose extremes make a cluster of their own",
            )
        return {
            "n": int(self.own(state, "rows")),
            "patients": int(self.own(state, "people")),
            "left_out": int(self.own(state, "left_out")),
            "sites": int(self.own(state, "sites")),
            "by_k": answers,
            "best_by_silhouette": max(found, key=lambda a: float(a["silhouette"]))["k"],
            "best_by_calinski_harabasz": max(found, key=lambda a: a["calinski_harabasz"] or np.inf)["k"],
            "threshold": self.params.threshold,
            "warnings": self._warnings(answers),
        }

    def _answer(self, state: State, k: int) -> dict[str, Any]:
        """The best run for one k."""
        within, count, settled = (np.asarray(self.own(state, name), float) for name in ("within", "count", "settled"))
        inertia = {r: float(within[at].sum()) for r, at in self._slices() if self.runs[r][0] == k and count[at].min() > 0 and settled[r] != DROPPED}
        if not inertia:
            return {"k": k, "clusters": None, "starts": sum(k == other for other, _ in self.runs), "starts_kept": 0}
        best = min(inertia, key=lambda r: inertia[r])
        at, n, w = dict(self._slices())[best], float(self.own(state, "rows")), inertia[best]
        centres, size = self._centres(state)[at], count[at]
        between = float(size @ ((centres - size @ centres / n) ** 2).sum(axis=1))
        order = np.lexsort((*centres.T[::-1], -size))
        return {
            "k": k,
            "inertia": w,
            "between": between,
            "calinski_harabasz": between / (k - 1.0) / (w / (n - k)) if w > 0.0 else None,
            "silhouette": float(np.asarray(self.own(state, "silhouette"), float)[at].sum() / n),
            "starts": sum(k == other for other, _ in self.runs),
            "starts_kept": len(inertia),
            "starts_with_this_answer": sum(v <= w * (1.0 + SAME) for v in inertia.values()),
            "iterations": int(np.asarray(self.own(state, "iterations"))[best]),
            "converged": bool(settled[best] == SETTLED),
            "held": bool(settled[best] == HELD),
            "clusters": [self._cluster(state, at.start + int(i), n) for i in order],
        }

    def _cluster(self, state: State, i: int, n: float) -> dict[str, Any]:
        place, scale = self.design.location(state)
        count = float(self.own(state, "count")[i])
        centre, sd = place + scale * self._centres(state)[i], scale * np.sqrt(self.own(state, "within")[i] / (count - 1.0))
        return {
            "n": int(count),
            "patients": int(self.own(state, "patients")[i]),
            "share": count / n,
            "centre": dict(zip(self.design.names, centre.tolist(), strict=True)),
            "sd": dict(zip(self.design.names, sd.tolist(), strict=True)),
            "silhouette": float(self.own(state, "silhouette")[i]) / count,
        }

    def _warnings(self, answers: list[dict[str, Any]]) -> list[str]:
        out = ["k-means finds k groups in any data, also where there are none; the spread within each is given beside its centre."]
        if self.params.standardise is None and self.p > 1:
            out.append("The features were not standardised: those with the largest numbers decide what is near.")
        for a in answers:
            if not a["clusters"]:
                out.append(f"k = {a['k']}: every start left a cluster of fewer than {self.params.threshold} patients; none is shown.")
            elif a["held"]:
                out.append(f"k = {a['k']}: ended where fewer than {self.params.least_moved} patients would have changed a cluster.")
            elif not a["converged"]:
                out.append(f"k = {a['k']}: the centres were still moving when the rounds ended; set rounds higher.")
            elif a["starts"] > 1 and a["starts_with_this_answer"] == 1:
                out.append(f"k = {a['k']}: only one start found this answer; more starts may find a better one.")
        return out

    def _moments(self, total: Total) -> tuple[Floats, Floats]:
        return np.asarray(total["total"], float), newton.unpack(np.asarray(total["products"], float), self.p)

    def _draw(self, points: Floats, total: Total) -> Floats:
        """First centres of all runs, (size, p), among averages of enough patients; public points where there are too few of these."""
        count, away = np.asarray(total["count"], float), np.asarray(total["total"], float)
        enough = np.asarray(total["patients"]) >= self.params.threshold
        averages, weights = points[enough] + away[enough] / count[enough, None], count[enough]
        return np.vstack([plus_plus(averages, weights, points[~enough], k, [self.study.seed, k, s]) for k, s in self.runs])

    def _points(self, state: State) -> Floats:
        if self.ranges is None:
            return np.asarray(self.own(state, "points"), float)
        place, scale = self.design.location(state)
        low, high = (self.ranges.T - place) / scale
        return np.asarray(low + (high - low) * spread(self.points, self.p, self.study.seed))

    def _phase(self, state: State) -> Literal["moments", "points", "lloyd"]:
        if self.params.centres or self.key("centres") in state:
            return "lloyd"
        return "points" if self.ranges is not None or self.key("points") in state else "moments"

    def _centres(self, state: State) -> Floats:
        if self.key("centres") in state:
            return np.asarray(self.own(state, "centres"), float)
        place, scale = self.design.location(state)
        return (np.asarray(self.params.centres) - place) / scale

    @property
    def _kept(self) -> dict[str, tuple[int, ...]]:
        """What the state holds beside the centres, of each run or cluster. before: the centres by which the rows of the present means were assigned."""
        runs, clusters, by_feature = (len(self.runs),), (self.size,), (self.size, self.p)
        of_runs = dict.fromkeys(("settled", "splits", "iterations", "published"), runs)
        return of_runs | {"count": clusters, "patients": clusters, "silhouette": clusters, "within": by_feature, "before": by_feature}

    def _or(self, state: State, name: str, shape: tuple[int, ...]) -> Floats:
        return np.array(self.own(state, name), float) if self.key(name) in state else np.zeros(shape)

    def _settled(self, state: State) -> Floats:
        return self._or(state, "settled", (len(self.runs),))

    def _slices(self) -> Iterator[tuple[int, slice]]:
        first = 0
        for run, (k, _) in enumerate(self.runs):
            yield run, slice(first, first + k)
            first += k
