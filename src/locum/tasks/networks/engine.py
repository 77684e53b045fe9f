"""A network on one machine: its weights as one flat vector, descent over mini-batches, predictions and their gradients.

Every parameter of the module is a view into one vector w, and its gradient a view into another, g. So a step of descent is a few operations
on whole vectors, whatever the number of layers, and a strategy sees w and g alone.

Bit for bit: one thread, deterministic kernels, and randomness only from the generator that is handed in. Initial weights are numpy's, from a seed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _NormBase

from locum.errors import ManifestError

Flat = NDArray[np.float32]
CHUNK = 2048
"""Rows that are predicted at a time."""

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "category": functional.cross_entropy,
    "binary": lambda out, y: functional.binary_cross_entropy_with_logits(out[:, 0], y),
    "number": lambda out, y: functional.mse_loss(out[:, 0], y) / 2.0,
}


@dataclass(frozen=True)
class Descent:
    """How a site descends. steps: mini-batches, or None for `epochs` passes over its rows."""

    epochs: int
    steps: int | None
    batch: int
    rate: float
    momentum: float
    l2: float


@dataclass(frozen=True)
class Descended:
    """Where descent led. update: w - start, flat. loss: summed over the rows that were seen, each at the weights that it met."""

    update: Flat
    loss: float
    seen: int


@contextmanager
def exactly(seed: int = 0) -> Iterator[None]:
    """One thread, deterministic kernels and torch's own generator from `seed`; all as before afterwards."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if threads != 1:
            torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(strict)
            if threads != 1:
                torch.set_num_threads(threads)


class Engine:
    """A module whose trainable parameters lie in one vector. outcome: 'category', 'binary' or 'number'."""

    def __init__(self, module: nn.Module, outcome: str) -> None:
        self.module, self.loss = module.float(), LOSSES[outcome]
        unfit = next((type(m).__name__ for m in module.modules() if isinstance(m, _NormBase) and m.track_running_stats), None)
        if unfit:
            raise ManifestError(
                f"The network holds {unfit}, whose running statistics differ by site and do not average.",
                fix="use torch.nn.GroupNorm in its place, or keep no running statistics",
            )
        kept = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        self.shapes = {n: tuple(p.shape) for n, p in kept}
        self.size = sum(p.numel() for _, p in kept)
        self._w, self._g, self._decay = torch.zeros(self.size), torch.zeros(self.size), torch.zeros(self.size)
        at = 0
        with torch.no_grad():
            for _, p in kept:
                part = slice(at, at := at + p.numel())
                self._w[part] = p.reshape(-1)
                self._decay[part] = float(p.ndim > 1)  # biases and norms are not shrunk
                p.data, p.grad = self._w[part].view(p.shape), self._g[part].view(p.shape)
        self.built: Flat = self._w.numpy().copy()

    def initial(self, seed: bytes) -> Flat:
        """Public weights (size,): each of a layer with n inputs uniform on +-1/sqrt(n), biases zero, norms one (LeCun et al., 1998, section 4.6)."""
        rng, parts = np.random.default_rng(int.from_bytes(seed, "big")), []
        for name, shape in self.shapes.items():
            if len(shape) > 1:
                reach = 1.0 / math.sqrt(math.prod(shape[1:]))
                parts.append(rng.uniform(-reach, reach, math.prod(shape)))
            else:
                parts.append(np.full(math.prod(shape), float(name.endswith("weight"))))
        return np.concatenate(parts).astype(np.float32)

    def split(self, flat: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The flat vector as tensors by name."""
        ends = np.cumsum([math.prod(s) for s in self.shapes.values()])
        return {n: part.reshape(shape) for (n, shape), part in zip(self.shapes.items(), np.split(flat, ends[:-1]), strict=True)}

    def train(
        self,
        start: Flat,
        x: Sequence[Tensor],
        y: Tensor,
        how: Descent,
        rng: np.random.Generator,
        correct: Callable[[Tensor, Tensor, Tensor], None] | None = None,
    ) -> Descended:
        """Descend from `start` over rows x, y in mini-batches of a new random order each epoch. correct(g, w, start) may change g in place."""
        w, g, total, seen = self._w, self._g, torch.zeros(()), 0
        origin, velocity = torch.from_numpy(start.copy()), torch.zeros(self.size) if how.momentum else None
        w.copy_(origin)
        self.module.train()
        with exactly(int(rng.integers(2**31))):
            for bx, by in _batches(x, y, how, rng):
                g.zero_()
                loss = self.loss(self.module(*bx), by)
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.detach() * len(by)
                seen += len(by)
                if correct is not None:
                    correct(g, w, origin)
                if how.l2:
                    g.addcmul_(self._decay, w, value=how.l2)
                w.add_(g if velocity is None else velocity.mul_(how.momentum).add_(g), alpha=-how.rate)
        return Descended((w - origin).numpy(), float(total), seen)

    def outputs(self, at: Flat, x: Sequence[Tensor]) -> NDArray[np.float64]:
        """What the network says of each row, shape (n, outputs)."""
        self._w.copy_(torch.from_numpy(at))
        self.module.eval()
        with exactly(), torch.no_grad():
            parts = [self.module(*(t[i : i + CHUNK] for t in x)).numpy() for i in range(0, len(x[0]), CHUNK)]
        return np.concatenate(parts).astype(np.float64) if parts else np.empty((0, 0))

    def attribution(self, at: Flat, x: Sequence[Tensor], target: NDArray[np.int64], steps: int) -> NDArray[np.float64]:
        """How much each number of the first input adds to the output `target`, its shape: integrated gradients from zero (Sundararajan,
        Taly and Yan, 2017, ICML, equation 1, by the midpoint rule); with one step, half-way gradient times input."""
        self._w.copy_(torch.from_numpy(at))
        self.module.eval()
        gradient = torch.zeros_like(x[0])
        with exactly():
            for k in range(steps):
                here = (x[0] * ((k + 0.5) / steps)).requires_grad_(True)
                out = self.module(here, *x[1:])
                said = out[torch.arange(len(out)), torch.from_numpy(target)].sum()
                gradient += torch.autograd.grad(said, here)[0] / steps
        return np.asarray((gradient * x[0]).numpy(), dtype=np.float64)


def build(make: Callable[[], nn.Module], outcome: str, seed: int, what: str, most: int | None) -> Engine:
    """The engine of a module, which is built with torch's generator at `seed`. most: weights that it may have, which are counted before there is
    memory for them (None: not before). Raises `ManifestError` where it cannot be built."""
    try:
        with exactly(seed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if most is not None:
                with torch.device("meta"):
                    weights = sum(p.numel() for p in make().parameters())
                if weights > most:
                    raise ManifestError(f"The network '{what}' has {weights:,} weights; at most {most:,}.", fix="make it narrower, or less deep")
            return Engine(make(), outcome)
    except (RuntimeError, ValueError, TypeError, MemoryError) as error:
        raise ManifestError(f"The network '{what}' cannot be built: {error}.", fix="look at its options and at the shapes of its inputs") from None


def tensor(values: NDArray[Any], dtype: Any = np.float32) -> Tensor:
    """A copy of an array as a tensor."""
    return torch.from_numpy(np.array(values, dtype=dtype))


def _batches(x: Sequence[Tensor], y: Tensor, how: Descent, rng: np.random.Generator) -> Iterator[tuple[list[Tensor], Tensor]]:
    left = how.steps if how.steps is not None else how.epochs * math.ceil(len(y) / how.batch)
    while left > 0 and len(y):
        order = torch.from_numpy(rng.permutation(len(y)))
        xs, ys = [t[order] for t in x], y[order]
        for i in range(0, min(len(y), left * how.batch), how.batch):
            yield [t[i : i + how.batch] for t in xs], ys[i : i + how.batch]
            left -= 1
