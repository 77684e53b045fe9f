"""The networks that a study may name, each with options of its own. A study is data: nothing in it is ever run.

An engineer may register more in Python, on the coordinator and on every site alike: `register_network("mine", builder)`, and then
`network = { kind = "mine", width = 16 }`. A builder is called with what goes in, how many numbers come out, and the options; it gives any
`torch.nn.Module`, which is called with one tensor of arrays (n, *shape), one of features (n, p), or both in this order, and
returns (n, outputs). Parameters that do not require a gradient stay as they were built, and neither visit nor leave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import ConfigDict, Field, field_validator

from locum.errors import ManifestError
from locum.study.document import Document, nearest

if TYPE_CHECKING:
    from torch import nn

MOST_PARAMETERS = 50_000_000
Width = Annotated[int, Field(ge=1, le=4096)]
Activation = Literal["relu", "tanh", "gelu"]


@dataclass(frozen=True)
class Inputs:
    """What a network is given for each row: an array of `shape` (channels first; () without one) and `features` numbers."""

    shape: tuple[int, ...]
    features: int

    @property
    def flat(self) -> int:
        """Numbers of the array."""
        return math.prod(self.shape) if self.shape else 0


Builder = Callable[[Inputs, int, Mapping[str, Any]], "nn.Module"]


class NetworkOptions(Document):
    """Options of one kind of network. axes: how many axes its array has after the channel, None where any will do."""

    axes: ClassVar[int | None] = None
    kind: str

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        """The network, its weights not yet set. Needs torch."""
        raise NotImplementedError


class Logistic(NetworkOptions):
    """One linear layer: multinomial or binary logistic regression, or a linear one where the outcome is a number."""

    kind: Literal["logistic"] = "logistic"

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        from locum.tasks.networks import modules

        return modules.dense(inputs, (), outputs, "relu", 0.0)


class MLP(NetworkOptions):
    """hidden: the widths of its layers. dropout: the share of hidden units that a training step leaves out."""

    kind: Literal["mlp"] = "mlp"
    hidden: Annotated[tuple[Width, ...], Field(min_length=1, max_length=16)] = (64,)
    activation: Activation = "relu"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        from locum.tasks.networks import modules

        return modules.dense(inputs, self.hidden, outputs, self.activation, self.dropout)


class Convolutional(NetworkOptions):
    """channels: of each block (convolution, norm, activation, max-pool by `pool` where there is room). kernel: an odd width. hidden: dense layers
    before the output. norm: 'group' (Wu and He, 2018) or 'none'."""

    channels: Annotated[tuple[Width, ...], Field(min_length=1, max_length=16)] = (8, 16)
    kernel: Annotated[int, Field(ge=1, le=63)] = 3
    pool: Annotated[int, Field(ge=1, le=16)] = 2
    hidden: Annotated[tuple[Width, ...], Field(max_length=16)] = ()
    norm: Literal["group", "none"] = "group"
    activation: Activation = "relu"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @field_validator("kernel")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("the kernel's width is odd, so that it has a middle")
        return value

    @field_validator("norm", mode="before")
    @classmethod
    def _no_batch(cls, value: Any) -> Any:
        if value == "batch":
            raise ValueError("the running statistics of batch normalisation differ by site and do not average; take 'group', or 'none'")
        return value

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        from locum.tasks.networks import modules

        return modules.convolutional(inputs, self, outputs)


class CNN1d(Convolutional):
    """Over signals of shape (length,) or (channels, length)."""

    axes = 1
    kind: Literal["cnn1d"] = "cnn1d"
    kernel: Annotated[int, Field(ge=1, le=63)] = 5


class CNN2d(Convolutional):
    """Over images of shape (height, width) or (channels, height, width)."""

    axes = 2
    kind: Literal["cnn2d"] = "cnn2d"


class Registered(NetworkOptions):
    """A network that was registered in Python, with whatever options the study gives: numbers, texts, booleans and lists of them."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        return _REGISTERED[self.kind](inputs, outputs, dict(self.model_extra or {}))


NETWORKS: dict[str, type[NetworkOptions]] = {"logistic": Logistic, "mlp": MLP, "cnn1d": CNN1d, "cnn2d": CNN2d}
_REGISTERED: dict[str, Builder] = {}


def register_network(name: str, builder: Builder) -> None:
    """Make a network of one's own available as `kind = name`, in this process; raises `ManifestError` for the name of a built-in one."""
    if name in NETWORKS:
        raise ManifestError(f"'{name}' is the name of a built-in network.", fix="register yours under another name")
    _REGISTERED[name] = builder


def network_options(value: Any) -> NetworkOptions:
    """`"cnn2d"`, or a table with `kind` and options, as options; raises `ManifestError`."""
    if isinstance(value, dict) and value.get("kind") in _REGISTERED:
        return Registered.parse(value, where=f"network '{value['kind']}'")
    if isinstance(value, str) and value in _REGISTERED:
        return Registered(kind=value)
    return chosen(value, NETWORKS, "network", sorted([*NETWORKS, *_REGISTERED]))


D = TypeVar("D", bound=Document)


def chosen(value: Any, table: Mapping[str, type[D]], what: str, known: list[str] | None = None) -> D:
    """One of a table of documents by its kind, from a name or from a table with `kind`; raises `ManifestError` that names the nearest."""
    if isinstance(value, tuple(table.values())):
        return value  # type: ignore[return-value]
    given = {"kind": value} if isinstance(value, str) else value
    if not isinstance(given, dict) or not isinstance(given.get("kind"), str):
        raise ManifestError(f"A {what} is a name, or a table with 'kind' and its options.", fix=f"write for example {what} = '{next(iter(table))}'")
    if given["kind"] not in table:
        raise ManifestError(f"There is no {what} '{given['kind'][:80]}' here.", fix=nearest(given["kind"], known or sorted(table)))
    return table[given["kind"]].parse(given, where=f"{what} '{given['kind']}'")
