"""The built-in networks as torch modules."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from locum.tasks.networks.options import Convolutional, Inputs

GROUPS = 4
"""Groups of channels that are normalised together, at most."""
_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


class Net(nn.Module):
    """The array through `body`, its flat result beside the features, and both through `head`."""

    def __init__(self, body: nn.Module | None, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, *inputs: Tensor) -> Tensor:
        parts = list(inputs)
        if self.body is not None:
            parts[0] = self.body(parts[0])
        out: Tensor = self.head(parts[0] if len(parts) == 1 else torch.cat(parts, 1))
        return out


def dense(inputs: Inputs, hidden: tuple[int, ...], outputs: int, activation: str, dropout: float) -> nn.Module:
    """Dense layers over the flat array and the features."""
    return Net(nn.Flatten() if inputs.shape else None, _head(inputs.flat + inputs.features, hidden, outputs, activation, dropout))


def convolutional(inputs: Inputs, options: Convolutional, outputs: int) -> nn.Module:
    """Blocks of convolution, norm, activation and pooling; then dense layers."""
    one = options.axes == 1
    layers: list[nn.Module] = []
    channels, sides = inputs.shape[0], list(inputs.shape[1:])
    for width in options.channels:
        layers.append((nn.Conv1d if one else nn.Conv2d)(channels, width, options.kernel, padding=options.kernel // 2))
        if options.norm == "group":
            layers.append(nn.GroupNorm(math.gcd(GROUPS, width), width))
        layers.append(_ACTIVATIONS[options.activation]())
        if options.pool > 1 and min(sides) >= options.pool:
            layers.append((nn.MaxPool1d if one else nn.MaxPool2d)(options.pool))
            sides = [s // options.pool for s in sides]
        channels = width
    flat = channels * math.prod(sides)
    head = _head(flat + inputs.features, options.hidden, outputs, options.activation, options.dropout)
    return Net(nn.Sequential(*layers, nn.Flatten()), head)


def _head(width: int, hidden: tuple[int, ...], outputs: int, activation: str, dropout: float) -> nn.Module:
    layers: list[nn.Module] = []
    for h in hidden:
        layers += [nn.Linear(width, h), _ACTIVATIONS[activation]()]
        layers += [nn.Dropout(dropout)] if dropout else []
        width = h
    return nn.Sequential(*layers, nn.Linear(width, outputs))
