"""A neural network trained by federated averaging over mini-batches: each site trains the global network for a while on its own rows.

Pseudocode     site:         (w_k, its loss) <- descent from theta over its mini-batches, with the strategy's correction;   update = w_k - theta
               coordinator:  theta <- strategy.follow(theta, sum_k n_k update_k / sum_k n_k)
Postcondition  with one local step over whole batches it is gradient descent on the mean loss of the pooled rows
Source         McMahan, Moore, Ramage, Hampson and Aguera y Arcas (2017), AISTATS, algorithm 1; each file of `networks.strategies` names its own

Outcomes: a category (cross-entropy), a boolean or two categories (logistic loss), a number (half the squared error, on the scale of its declared
range). Weights are float32 and named as in torch. The first ones are a public function of the study's seed. Needs the extra 'torch'.
"""

from __future__ import annotations

import hashlib
import importlib
import math
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from locum.data.rows import Part, Rows
from locum.errors import ManifestError, TaskError
from locum.study.manifest import Name, Step, Study, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.study.vector import Field as VectorField
from locum.tasks.base import BaseTask, Memory, Params, State, register
from locum.tasks.glm import expit
from locum.tasks.networks.options import MOST_PARAMETERS, NetworkOptions, Registered, network_options
from locum.tasks.networks.reader import Reader
from locum.tasks.networks.strategies import Strategy, strategy_options

if TYPE_CHECKING:
    from locum.tasks.networks.engine import Engine

Floats = NDArray[np.float64]
SCALARS = ("share", "patients", "rows", "left_out", "loss", "seen")


class NetworkParams(Params):
    """network: a name, or a table with `kind` and options (`networks.options`). arrays: variables of type array, each a channel of its own
    or, with three axes, several; (x - centre) / scale goes in. features: numbers and categories beside them, scaled as in `tasks.sgd`.

    local_epochs: passes over a site's rows in a round; or local_steps: mini-batches. batch, rate, momentum, l2: of the descent at a
    site (l2 shrinks weights, not biases). strategy: a name, or a table with `kind` and parameters (`networks.strategies`). by: whether the mean
    is over patients, rows or sites.
    """

    network: Annotated[SerializeAsAny[NetworkOptions], BeforeValidator(network_options)]
    arrays: Annotated[tuple[VariableName, ...], Field(max_length=64)] = ()
    features: Annotated[tuple[VariableName, ...], Field(max_length=512)] = ()
    outcome: VariableName
    standardise: Name | None = None
    centre: float = 0.0
    scale: Annotated[float, Field(gt=0)] = 1.0
    part: Part = "all"
    local_epochs: Annotated[int, Field(ge=1, le=1000)] = 1
    local_steps: Annotated[int, Field(ge=1, le=100_000)] | None = None
    batch: Annotated[int, Field(ge=1, le=1_000_000)] = 32
    rate: Annotated[float, Field(gt=0, le=1e3)] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    l2: Annotated[float, Field(ge=0, le=1e3)] = 0.0
    strategy: Annotated[SerializeAsAny[Strategy], BeforeValidator(strategy_options)] = Field(default_factory=lambda: strategy_options("fedavg"))
    by: Literal["patients", "rows", "sites"] = "patients"
    site_intercepts: ClassVar[bool] = False
    """What an evaluation asks of a model: there is one network for all."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if not self.arrays and not self.features:
            raise ValueError("name arrays, features, or both: a network needs something to look at")
        if self.local_steps is not None and "local_epochs" in self.model_fields_set:
            raise ValueError("give local_epochs or local_steps, not both")
        if self.standardise and not self.features:
            raise ValueError("standardise scales features, and none is named")
        return self


@register
class Network(BaseTask[NetworkParams]):
    """Rounds of local training. `binary`, `categories`, `scores` and `probabilities` are what evaluations ask of a model."""

    kind = "network"
    Config = NetworkParams
    takes = (*BaseTask.takes, "array")

    def __init__(self, step: Step, params: NetworkParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.torch = _torch(step.name)
        self.reader = Reader(self, params)
        self.outcome = self.reader.outcome
        _ = self.engine  # what cannot be built is refused before work starts

    @cached_property
    def engine(self) -> Engine:
        options, seed = self.params.network, int.from_bytes(self._seed()[:4], "big") >> 1
        most = None if isinstance(options, Registered) else MOST_PARAMETERS
        built: Engine = self.torch.build(lambda: options.build(self.reader.inputs, self.outputs), self.outcome, seed, options.kind, most)
        return built

    # --- what evaluations ask ---
    @property
    def size(self) -> int:
        """Number of weights."""
        return self.engine.size

    @property
    def outputs(self) -> int:
        return len(self.study.data.variables[self.params.outcome].categories) if self.outcome == "category" else 1

    @property
    def binary(self) -> bool:
        return self.outcome == "binary"

    @property
    def categories(self) -> tuple[str, ...]:
        """What is predicted, in the order of `probabilities`; a boolean's are 'no' and 'yes'."""
        return self.study.data.variables[self.params.outcome].categories or (("no", "yes") if self.binary else ())

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns of which a row may lack none."""
        return (*self.params.features, self.params.outcome)

    def reads(self) -> tuple[str, ...]:
        return (*self.params.arrays, *self.params.features, self.params.outcome)

    def scores(self, state: State, rows: Rows) -> Floats:
        """The log odds of each row, or its predicted outcome where that is a number, shape (n,)."""
        if self.outcome == "category":
            raise TaskError(f"Step '{self.step.name}' predicts one of {self.outputs} categories, not a single score.", fix="evaluate its probabilities")
        centre, scale = self.reader.outcome_location(state)
        return centre + scale * self._said(state, rows)[:, 0]

    def probabilities(self, state: State, rows: Rows) -> Floats:
        """P(category k | row), shape (n, categories); raises `TaskError` where the outcome is a number."""
        if self.outcome == "number":
            raise TaskError(f"Step '{self.step.name}' predicts a number, which has no probabilities.", fix="use its scores")
        said = self._said(state, rows)
        if self.binary:
            p = expit(said[:, 0])
            return np.column_stack([1.0 - p, p])
        said = np.exp(said - said.max(axis=1, keepdims=True)) if len(said) else np.empty((0, self.outputs))
        return np.asarray(said / said.sum(axis=1, keepdims=True))

    def saliency(self, state: State, rows: Rows, target: NDArray[np.int64] | None = None, steps: int = 32) -> Floats:
        """How much each number of the arrays speaks for `target` (default: for what is predicted), shape (n, *arrays). It is of single rows: it stays."""
        if not self.params.arrays:
            raise TaskError(f"Step '{self.step.name}' looks at no array.", fix="a saliency map needs an image or a signal")
        if target is None:
            target = np.zeros(len(rows), dtype=np.int64) if self.outputs == 1 else self._said(state, rows).argmax(axis=1)
        return self.engine.attribution(self.theta(state), self.reader.tensors(state, rows), np.asarray(target, dtype=np.int64), steps)

    def likelihood(self, y: Floats, eta: Floats) -> tuple[float, Floats, Floats]:
        """As for a logistic regression: log-likelihood, residual and weight at log odds eta; for a calibration line."""
        mu = expit(eta)
        return float((y * eta - np.logaddexp(0.0, eta)).sum()), y - mu, mu * (1.0 - mu)

    def outcome_error(self, y: Floats) -> str:
        """What is wrong with the outcome, or ''."""
        return self.reader.outcome_error(y)

    # --- the round ---
    def leaves(self) -> str:
        return f"Each round: how the site's own training would move the network ({self.engine.size:,} numbers), times its share, its loss, and counts."

    def layout(self, state: State) -> Layout:
        weights = (VectorField(f"update.{name}", shape, "float32") for name, shape in self.engine.shapes.items())
        return Layout((*weights, *(VectorField(name, ()) for name in SCALARS)))

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        here, p = self.reader.ready(state, rows), self.params
        numbers = {"patients": here.patients, "rows": len(here.y), "left_out": here.left_out, "loss": 0.0, "seen": 0.0}
        numbers["share"] = {"patients": here.patients, "rows": len(here.y), "sites": int(here.patients > 0)}[p.by]
        update = np.zeros(self.engine.size, dtype=np.float32)
        if here.patients:
            how = self.torch.Descent(p.local_epochs, p.local_steps, p.batch, p.rate, p.momentum, p.l2)
            got = self.engine.train(self.theta(state), here.x, here.y, how, rng, p.strategy.correct())
            update = got.update * np.float32(numbers["share"])
            if not (math.isfinite(got.loss) and np.isfinite(update).all()):
                raise TaskError(
                    f"Step '{self.step.name}' diverged here.", why=f"The rate {p.rate:g} is too large.", fix="lower rate, or take fewer local steps"
                )
            numbers |= {"loss": got.loss, "seen": got.seen}
        tensors = {f"update.{n}": a for n, a in self.engine.split(update).items()}
        scalars = {n: np.asarray(float(numbers[n])) for n in SCALARS}
        return Contribution({**tensors, **scalars}, here.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        if not float(total["share"]) > 0:
            raise TaskError(f"No site has a usable row for step '{self.step.name}'.", fix="look for a variable that is missing everywhere")
        mean = np.concatenate([np.asarray(total[f"update.{n}"], dtype=np.float64).reshape(-1) for n in self.engine.shapes]) / float(total["share"])
        before = {n: np.asarray(state.get(self.key(f"server.{n}"), np.zeros(len(mean))), dtype=np.float64) for n in self.params.strategy.memory}
        with np.errstate(over="ignore", invalid="ignore"):
            theta, kept = self.params.strategy.follow(self.theta(state).astype(np.float64), mean, before)
            weights = theta.astype(np.float32)
        if not np.isfinite(weights).all():
            raise TaskError(
                f"Step '{self.step.name}' diverged.", why="The global network left the finite numbers.", fix="lower rate or the strategy's server_rate"
            )
        curve = np.append(state.get(self.key("curve"), np.zeros(0)), float(total["loss"]) / max(1.0, float(total["seen"])))
        arrays = {f"net.{n}": a for n, a in self.engine.split(weights).items()} | {f"server.{n}": a for n, a in kept.items()}
        counts = {n: np.asarray(float(total[n])) for n in ("patients", "rows", "left_out")}
        return self.merge(state, curve=curve, round=np.asarray(self.round(state) + 1), **counts, **arrays)

    def round(self, state: State) -> int:
        """How many rounds were run."""
        return int(state.get(self.key("round"), np.asarray(0)))

    def done(self, state: State) -> bool:
        return self.round(state) >= self.step.rounds

    def theta(self, state: State) -> NDArray[np.float32]:
        """The global weights, flat, shape (size,)."""
        names = [self.key(f"net.{n}") for n in self.engine.shapes]
        if names[0] in state:
            return np.concatenate([np.asarray(state[n], dtype=np.float32).reshape(-1) for n in names])
        return self.engine.built if isinstance(self.params.network, Registered) else self.engine.initial(self._seed())

    def result(self, state: State) -> dict[str, Any]:
        p, curve = self.params, np.asarray(self.own(state, "curve"))
        warnings = ["The loss of the last round is above that of the first: lower the rate."] if len(curve) > 1 and curve[-1] > curve[0] else []
        return {
            "network": p.network.model_dump(mode="json"),
            "weights": self.engine.size,
            "strategy": p.strategy.model_dump(mode="json"),
            "rounds": self.round(state),
            "loss": [float(v) for v in curve],  # of the mini-batches, each at the weights that it met
            "n": int(self.own(state, "patients")),
            "rows": int(self.own(state, "rows")),
            "left_out": int(self.own(state, "left_out")),
            "warnings": warnings,
        }

    def _said(self, state: State, rows: Rows) -> Floats:
        if not self.round(state):
            raise TaskError(f"Step '{self.step.name}' has not run, so there is no network to use.", fix="keep the plan's order")
        return self.engine.outputs(self.theta(state), self.reader.tensors(state, rows)) if len(rows) else np.empty((0, self.outputs))

    def _seed(self) -> bytes:
        return hashlib.sha256(f"locum/network/1\0{self.study.seed}\0{self.step.name}".encode()).digest()


def _torch(step: str) -> ModuleType:
    try:
        return importlib.import_module("locum.tasks.networks.engine")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        raise ManifestError(f"Step '{step}' trains a network with PyTorch, which is not installed.", fix="run: pip install 'locum[torch]'") from None
