"""Training by gradient descent: in each round the sites' gradients of the loss are summed, and the coordinator takes one step.

Pseudocode     site:         g = sum over its patients (of this round's sample) of the gradient of their loss at theta
               coordinator:  v <- momentum v + sum of g / (sampled share * patients) + l2 w;   theta <- theta - rate v
Postcondition  without sampling it is gradient descent with momentum on the mean loss of the pooled rows, bit by bit the same but for the order
               of the sum; with averaging the model is the mean of the last half of the iterates
Source         Robbins and Monro (1951); Polyak (1964), momentum; Shamir and Zhang (2013), ICML, suffix averaging

The rows are scaled as in `Scaled`. The default rate is 1/L for the smoothness L of the mean loss at rows of squared norm p, the
number of columns, which a scaled row has at most about: 4/p for log odds, 1/p for a mean. With momentum 0.9 descent stays stable up to
3.8/L. This is the form whose sums are exact; `tasks.private.sgd` is the one with differential privacy, and does the same but for clip and noise.
"""

from __future__ import annotations

import hashlib
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from locum.data.rows import Part, Rows
from locum.errors import ManifestError, TaskError
from locum.privacy.matrix import best_band
from locum.privacy.sampler import FixedOrder, FullBatch, Poisson, Sampler
from locum.study.manifest import Name, Step, Study, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import BaseTask, Memory, Params, State, register
from locum.tasks.design import Design, Features, linear_predictor, midpoint, usable
from locum.tasks.models import CURVATURE, Activation, Network

Floats = NDArray[np.float64]
SPREAD = 3.0
"""Half a declared range in standard deviations, as a guess: ranges are declared for what is plausible, and seldom filled."""


class TrainingParams(Params):
    """What every task that trains by gradients takes.

    features, outcome, standardise, part: as for a regression. model: 'logistic' and 'mlp' explain a 0/1 outcome, 'linear' a number.
    hidden, activation: of an mlp. average: whether the model is the mean of the last half of the iterates, not the last one (default: only
    with differential privacy, where it averages noise away at no price).
    """

    features: Annotated[tuple[VariableName, ...], Field(min_length=1, max_length=512)]
    outcome: VariableName
    standardise: Name | None = None
    part: Part = "all"
    model: Literal["logistic", "linear", "mlp"] = "logistic"
    hidden: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(max_length=8)] = ()
    activation: Activation = "tanh"
    average: bool | None = None
    site_intercepts: ClassVar[bool] = False
    """What an evaluation asks of a model: there is one intercept for all."""

    @model_validator(mode="before")
    @classmethod
    def _mlp_has_a_hidden_layer(cls, value: Any) -> Any:
        return {"hidden": (32,), **value} if isinstance(value, dict) and value.get("model") == "mlp" else value

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (self.model == "mlp") != bool(self.hidden):
            raise ValueError("hidden layers are listed for model 'mlp', and only for it")
        return self


class SGDParams(TrainingParams):
    """rate: of learning, momentum (by default 0.9 where sums are exact): the form's module says how they are chosen if they are not given.
    l2: the mean loss gains l2/2 times the sum of squared weights, on the scale that is fitted, without the intercept and biases. The
    rounds are the step's.

    order: 'poisson' draws each patient with probability `sample` in each round; 'fixed' deals the patients into `batches` that come in
    turn, and `band` (default: the best) is over how many rounds the noise is correlated. clip: the norm of a patient's
    gradient that counts as one, in roots of the number of columns; where sums are exact nothing is clipped.
    """

    rate: Annotated[float, Field(gt=0)] | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    l2: Annotated[float, Field(ge=0)] = 0.0
    order: Literal["poisson", "fixed"] = "poisson"
    sample: Annotated[float, Field(ge=1e-6, le=1)] = 1.0
    batches: Annotated[int, Field(ge=2, le=100_000)] | None = None
    band: Annotated[int, Field(ge=1)] | None = None
    clip: Annotated[float, Field(ge=1e-9, le=1e9)] | None = None

    @model_validator(mode="after")
    def _one_order(self) -> Self:
        if self.order == "fixed" and (self.batches is None or self.sample != 1.0):
            raise ValueError("order = 'fixed' takes batches, and no sample")
        if self.order == "poisson" and (self.batches or self.band):
            raise ValueError("batches and band belong to order = 'fixed'")
        if self.batches and self.band and self.band > self.batches:
            raise ValueError(f"band ({self.band}) is above batches ({self.batches}): a patient would take part twice within it")
        return self

    def sampler(self, rounds: int) -> Sampler:
        """Who takes part in each of so many rounds."""
        if self.batches:
            return FixedOrder(self.batches, self.band or best_band(rounds, self.batches))
        return Poisson(self.sample) if self.sample < 1.0 else FullBatch()


P = TypeVar("P", bound=TrainingParams)
MOMENTUM = 0.9


@dataclass(frozen=True)
class Pace:
    """How fast descent goes."""

    rate: float
    momentum: float


class Scaled(Design):
    """A design whose columns have a standard deviation of about 1 and a mean of about 0, so that a row's squared norm is about its length.

    A number is scaled by the `standardise` step; else by its declared range, which becomes -3 to 3, as if it were six standard deviations
    wide. Indicators stay 0 and 1. The first column is the intercept.
    """

    def __init__(self, task: BaseTask[Any], params: TrainingParams) -> None:
        wanted = Features(features=params.features, standardise=params.standardise, part=params.part)
        super().__init__(task, wanted, intercept=True, centred=True)

    def location(self, state: State) -> tuple[Floats, Floats]:
        pairs = [(0.0, 1.0) if c.category is not None else self.location_of(state, c.variable) for c in self.columns]
        centre, scale = np.asarray(pairs, dtype=np.float64).T
        return centre, scale

    def location_of(self, state: State, name: str) -> tuple[float, float]:
        """Centre and scale of one variable of the contract."""
        if self._scaler is not None and name in self._scaler.variables:
            centre, scale = self._scaler.moments_of(state, name)
            return float(centre), float(scale) if scale > 0 else 1.0
        variable = self._contract[name]
        if variable.minimum is None or variable.maximum is None:
            return 0.0, 1.0
        return midpoint(variable), (variable.maximum / 2.0 - variable.minimum / 2.0) / SPREAD

    def scaled(self, name: str) -> bool:
        """Whether the size of a variable is known before any row is read."""
        variable = self._contract[name]
        standardised = self._scaler is not None and name in self._scaler.variables
        return variable.type in ("category", "boolean") or standardised or None not in (variable.minimum, variable.maximum)


@dataclass(frozen=True)
class Batch:
    """Rows ready to train on: x (n, columns), y (n,), and which patient each row is of, from 0. left_out: rows that could not be used."""

    x: Floats
    y: Floats
    codes: NDArray[np.int64]
    names: NDArray[np.str_]
    left_out: int = 0

    @property
    def patients(self) -> int:
        return len(self.names)


class Prepared:
    """The batches of rows that are still alive, so that a round does not scale again what the round before did."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[weakref.ref[Rows], bytes, Batch]] = {}

    def get(self, rows: Rows, scale: bytes, make: Callable[[], Batch]) -> Batch:
        """The batch of these very rows at this scale; made if it is not known."""
        key, found = id(rows), self._kept.get(id(rows))
        if found is not None and found[0]() is rows and found[1] == scale:
            return found[2]
        batch, kept = make(), self._kept
        kept[key] = weakref.ref(rows, lambda _: kept.pop(key, None)), scale, batch
        return batch


class Training(BaseTask[P]):
    """What every task that trains by gradients shares: design, network, outcome, iterates, and the answer."""

    averages: ClassVar[bool] = False
    """Whether the iterates are averaged unless the study says otherwise."""

    def __init__(self, step: Step, params: P, study: Study) -> None:
        super().__init__(step, params, study)
        self.design = Scaled(self, params)
        self.require(params.outcome)
        if params.outcome in params.features:
            raise ManifestError(f"Step '{step.name}': '{params.outcome}' is both a feature and the outcome.", fix="drop it from features")
        outcome = study.data.variables[params.outcome]
        if outcome.type == "category" and (params.model == "linear" or len(outcome.categories) != 2):
            raise ManifestError(f"Step '{step.name}': the outcome '{params.outcome}' is a category, not a number.", fix="name a numeric or boolean outcome")
        self.network = Network(self.design.size, params.hidden, params.activation, "squared" if params.model == "linear" else "logistic")
        self._prepared = Prepared()

    @property
    def binary(self) -> bool:
        return self.network.loss == "logistic"

    @property
    def averaged(self) -> bool:
        return self.averages if self.params.average is None else self.params.average

    def reads(self) -> tuple[str, ...]:
        return (*self.params.features, self.params.outcome)

    def steepest(self) -> float:
        """1/L: see the module."""
        return 1.0 / (CURVATURE[self.network.loss] * self.design.size)

    def theta(self, state: State) -> Floats:
        """The parameters at which this round's gradient is taken, shape (size,)."""
        if self.key("theta") in state:
            return np.asarray(self.own(state, "theta"), dtype=np.float64)
        return self.network.initial(f"{self.study.seed}\0{self.step.name}")

    def round(self, state: State) -> int:
        """How many steps were taken."""
        return int(state.get(self.key("round"), np.asarray(0)))

    def done(self, state: State) -> bool:
        return self.round(state) >= self.step.rounds

    def coefficients(self, state: State) -> Floats:
        """The trained parameters, on the scale that was fitted, shape (size,); raises `TaskError` before the first step."""
        if not self.round(state):
            raise TaskError(f"Step '{self.step.name}' has not run, so there is no model to use.", fix="keep the plan's order")
        return np.asarray(self.own(state, "average" if self.key("average") in state else "theta"), dtype=np.float64)

    def scores(self, state: State, rows: Rows) -> Floats:
        """The log odds of each row, or its predicted outcome where that is a number, shape (n,)."""
        x, theta = self.design.matrix(state, rows), self.coefficients(state)
        eta = self.network.scores(theta, x) if self.params.hidden else linear_predictor(x, theta)
        centre, scale = self._outcome_location(state)
        return centre + scale * eta

    def likelihood(self, y: Floats, eta: Floats) -> tuple[float, Floats, Floats]:
        """As for a logistic regression: log-likelihood, residual y - mu and weight at log odds eta; for a calibration line."""
        residual = -self.network.residual(eta, y)
        mu = y - residual
        return float((y * eta - np.logaddexp(0.0, eta)).sum()), residual, mu * (1.0 - mu)

    def outcome_error(self, y: Floats) -> str:
        """What is wrong with the outcome, or ''."""
        return "has values other than 0 and 1" if self.binary and not np.isin(y, (0.0, 1.0)).all() else ""

    def result(self, state: State) -> dict[str, Any]:
        theta = self.coefficients(state)
        answer: dict[str, Any] = {"model": self.params.model, "rounds": self.round(state), "averaged": self.key("average") in state}
        if self.params.hidden:
            return {**answer, "hidden": list(self.params.hidden), "parameters": self.network.size}
        centre, scale = self._outcome_location(state)
        original = scale * (self.design.original(state) @ theta)
        original[0] += centre
        return {"coefficients": [self._row(n, float(b)) for n, b in zip(self.design.names, original, strict=True)], **answer}

    def prepare(self, state: State, rows: Rows) -> Batch:
        """These rows, scaled; kept as long as the rows are."""
        location = (*self.design.location(state), *self._outcome_location(state))
        return self._prepared.get(rows, b"".join(np.asarray(a).tobytes() for a in location), lambda: self._batch(state, rows))

    def _batch(self, state: State, rows: Rows) -> Batch:
        used = usable(self, rows, self.params.part)
        problem = self.outcome_error(used.rows.columns[self.params.outcome])
        if problem:
            raise TaskError(f"The outcome '{self.params.outcome}' {problem}.", fix="correct the mapping, or choose another model for this outcome")
        return self._scaled(state, used.rows, used.left_out)

    def _scaled(self, state: State, rows: Rows, left_out: int = 0) -> Batch:
        centre, scale = self._outcome_location(state)
        y = (rows.columns[self.params.outcome] - centre) / scale
        return Batch(self.design.matrix(state, rows), y, rows.codes, rows.distinct, left_out)

    def _outcome_location(self, state: State) -> tuple[float, float]:
        return (0.0, 1.0) if self.binary else self.design.location_of(state, self.params.outcome)

    def follow(self, state: State, theta: Floats, **arrays: Any) -> State:
        """The state after one more step, which led to `theta`; the iterates of the last half of the rounds are averaged."""
        now = self.round(state) + 1
        late = now - self.step.rounds // 2
        if self.averaged and late > 0:
            before = np.asarray(self.own(state, "average"), dtype=np.float64) if late > 1 else np.zeros_like(theta)
            arrays["average"] = before + (theta - before) / late
        return self.merge(state, theta=theta, round=now, **arrays)

    def _row(self, name: str, b: float) -> dict[str, Any]:
        return {"name": name, "coef": b, "odds_ratio": math.exp(b) if b < 700.0 else None} if self.binary else {"name": name, "coef": b}


class Descent(Training[SGDParams]):
    """What the exact and the private form of gradient descent share: the coordinator's step."""

    Config = SGDParams

    def __init__(self, step: Step, params: SGDParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.sampler = params.sampler(step.rounds)

    @cached_property
    def pace(self) -> Pace:
        """The learning rate and momentum: what the study says, else by public figures."""
        return Pace(self.params.rate or self.steepest(), MOMENTUM if self.params.momentum is None else self.params.momentum)

    def descend(self, state: State, gradient: Floats, **arrays: Any) -> State:
        """The state after one step along the mean gradient (size,) of the loss."""
        theta = self.theta(state)
        velocity = np.asarray(state.get(self.key("velocity"), np.zeros_like(theta)), dtype=np.float64)
        velocity = self.pace.momentum * velocity + gradient + self.params.l2 * self.network.penalised * theta
        return self.follow(state, theta - self.pace.rate * velocity, velocity=velocity, **arrays)


@register
class SGD(Descent):
    """The exact form. It samples for itself: without differential privacy nobody accounts for it."""

    kind = "sgd"

    def leaves(self) -> str:
        return f"Each round: the sum of the loss's gradient over the site's patients ({self.network.size} numbers), and counts of patients and rows."

    def layout(self, state: State) -> Layout:
        return Layout.of(gradient=(self.network.size,), patients=(), left_out=())

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        batch = self.prepare(state, rows)
        x, y = batch.x, batch.y
        if self.sampler.rate < 1.0:
            key = hashlib.sha256(f"{self.study.digest}\0{self.step.name}".encode()).digest() if self.params.batches else rng.bytes(32)
            drawn = self.sampler.draw(batch.names, self.round(state), key)[batch.codes]
            x, y = x[drawn], y[drawn]
        gradient = self.network.trace(self.theta(state), x, y).gradient()
        counts = {"patients": np.asarray(float(batch.patients)), "left_out": np.asarray(float(batch.left_out))}
        return Contribution({"gradient": gradient, **counts}, batch.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        patients = float(total["patients"])
        if not patients:
            raise TaskError(f"No site has a usable row for step '{self.step.name}'.", fix="look for a variable that is missing everywhere")
        mean = np.asarray(total["gradient"], dtype=np.float64) / (self.sampler.rate * patients)
        with np.errstate(over="ignore", invalid="ignore"):
            new = self.descend(state, mean, patients=patients, left_out=total["left_out"])
        if not np.isfinite(self.own(new, "theta")).all():
            raise TaskError(f"Step '{self.step.name}' diverged.", why=f"The learning rate {self.pace.rate:g} is too large for these rows.", fix="lower rate")
        return new

    def result(self, state: State) -> dict[str, Any]:
        answer = super().result(state)
        return {**answer, "n": int(self.own(state, "patients")), "left_out": int(self.own(state, "left_out"))}
