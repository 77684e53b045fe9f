"""Models that are trained by gradients: linear, logistic, and a multilayer perceptron, in numpy, with one flat parameter vector.

One class holds them all: a linear or logistic model is a network without hidden layers. Layer l maps its input a (n, i) to a W, with
W (i, o); the columns of the first input are those of the step's design, its intercept included, and every later
input ends in a column of ones, so that the last row of its W is the bias.

The gradient of one row's loss by W is the outer product of its input a and its error signal d (dloss / d aW), so a `Trace`,
which holds a and d of every layer, gives the weighted sum of all rows' gradients as one matrix product a layer, and the norm
of each row's gradient without making it (Goodfellow, 2015, Efficient per-example gradient computations).

Source: Rumelhart, Hinton and Williams (1986), Nature 323:533; first weights: Glorot and Bengio (2010), He et al. (2015).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Activation = Literal["tanh", "relu"]
Loss = Literal["logistic", "squared"]
CURVATURE: dict[Loss, float] = {"logistic": 0.25, "squared": 1.0}
"""The largest second derivative of the loss by the score: at most."""


@dataclass(frozen=True)
class Trace:
    """What a backward pass leaves: of each layer the input a (n, i) and the error signal d (n, o)."""

    layers: tuple[tuple[Floats, Floats], ...]

    def gradient(self, weights: Floats | None = None) -> Floats:
        """The sum of the rows' gradients, each times its weight (n,), flat, shape (size,)."""
        return np.concatenate([(a.T @ (d if weights is None else d * weights[:, None])).reshape(-1) for a, d in self.layers])

    def squares(self, first: Floats | None = None) -> Floats:
        """The squared norm of each row's gradient, shape (n,). first: the squared norms of the rows of the first input, if they are known."""
        total = np.zeros(len(self.layers[0][0]))
        for layer, (a, d) in enumerate(self.layers):
            total += (first if layer == 0 and first is not None else row_squares(a)) * row_squares(d)
        return total

    def take(self, index: NDArray[np.generic]) -> Trace:
        """The trace of the rows that `index` (a mask or positions) selects."""
        return Trace(tuple((a[index], d[index]) for a, d in self.layers))


@dataclass(frozen=True)
class Network:
    """inputs: columns of the design. hidden: widths of the hidden layers, none for a linear model. Parameters: float64, shape (size,)."""

    inputs: int
    hidden: tuple[int, ...] = ()
    activation: Activation = "tanh"
    loss: Loss = "logistic"

    @cached_property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        widths = (self.inputs, *(h + 1 for h in self.hidden))
        return tuple(zip(widths, (*self.hidden, 1), strict=True))

    @cached_property
    def size(self) -> int:
        """Number of parameters."""
        return sum(i * o for i, o in self.shapes)

    def views(self, theta: Floats) -> dict[str, Floats]:
        """The layers' weights 'layer0', 'layer1', ... as views into `theta`: writing to one writes to theta."""
        bounds = np.cumsum([0, *(i * o for i, o in self.shapes)]).tolist()
        return {f"layer{k}": theta[a:b].reshape(self.shapes[k]) for k, (a, b) in enumerate(pairwise(bounds))}

    @cached_property
    def penalised(self) -> Floats:
        """1 for every weight and 0 for every bias, flat: what an l2 penalty applies to. The first column of the design is its intercept."""
        mask = np.ones(self.size)
        for k, layer in enumerate(self.views(mask).values()):
            layer[0 if k == 0 else -1] = 0.0
        return mask

    def initial(self, seed: str) -> Floats:
        """The first parameters: zero without hidden layers; else normal with variance 1/fan_in (tanh) or 2/fan_in (relu), biases zero.

        They are a function of `seed` and the shapes alone, so that they are public.
        """
        theta = np.zeros(self.size)
        if self.hidden:
            rng = np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(f"locum/initial/1\0{seed}".encode()).digest(), "big")))
            gain = 2.0 if self.activation == "relu" else 1.0
            for k, layer in enumerate(self.views(theta).values()):
                last = k == len(self.hidden)
                layer[:] = rng.standard_normal(layer.shape) * np.sqrt((1.0 if last else gain) / layer.shape[0])
            theta *= self.penalised
        return theta

    def scores(self, theta: Floats, x: Floats) -> Floats:
        """The linear predictor of each row of x (n, inputs): the log odds, or the mean. Shape (n,). Overflow gives no warning."""
        return self._forward(theta, x)[1]

    def trace(self, theta: Floats, x: Floats, y: Floats) -> Trace:
        """The backward pass of each row's loss at outcomes y (n,)."""
        with np.errstate(over="ignore", invalid="ignore"):
            inputs, eta = self._forward(theta, x)
            weights = list(self.views(theta).values())
            d = self.residual(eta, y)[:, None]
            layers = [(inputs[-1], d)]
            for k in range(len(self.hidden), 0, -1):
                d = d @ weights[k][:-1].T
                d *= self._slope(inputs[k][:, :-1])
                layers.append((inputs[k - 1], d))
        return Trace(tuple(reversed(layers)))

    def residual(self, eta: Floats, y: Floats) -> Floats:
        """dloss / deta of each row, shape (n,)."""
        return (sigmoid(eta) if self.loss == "logistic" else eta) - y

    def losses(self, theta: Floats, x: Floats, y: Floats) -> Floats:
        """The loss of each row: minus the log-likelihood of a 0/1 outcome, or half the squared error."""
        eta = self.scores(theta, x)
        return np.asarray(np.logaddexp(0.0, eta) - y * eta if self.loss == "logistic" else (eta - y) ** 2 / 2.0)

    def _forward(self, theta: Floats, x: Floats) -> tuple[list[Floats], Floats]:
        """The input of each layer, and the output of the last."""
        inputs, weights = [x], list(self.views(theta).values())
        with np.errstate(over="ignore", invalid="ignore"):
            for w in weights[:-1]:
                a = np.ones((len(x), w.shape[1] + 1))
                self._activate(inputs[-1] @ w, a[:, :-1])
                inputs.append(a)
            return inputs, (inputs[-1] @ weights[-1])[:, 0]

    def _activate(self, z: Floats, out: Floats) -> None:
        if self.activation == "tanh":
            np.tanh(z, out=out)
        else:
            np.maximum(z, 0.0, out=out)

    def _slope(self, a: Floats) -> Floats:
        """The activation's derivative, from its value."""
        return np.asarray(1.0 - a * a if self.activation == "tanh" else a > 0.0, dtype=np.float64)


def sigmoid(eta: Floats) -> Floats:
    """1 / (1 + e^-eta), without overflow: half of 1 + tanh(eta / 2)."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * eta))


def row_squares(a: Floats) -> Floats:
    """The squared norm of each row, shape (n,)."""
    return np.asarray(np.einsum("ij,ij->i", a, a))
