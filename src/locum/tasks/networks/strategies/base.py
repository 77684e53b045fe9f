"""What every strategy says: what it adds to a local gradient, and how the coordinator follows the mean update."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.study.document import Document

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
Correct = Callable[["Tensor", "Tensor", "Tensor"], None]


class Strategy(Document):
    """server_rate: how far the global model follows the mean update, or its moments. memory: the vectors, each of the model's size, that the
    coordinator keeps between rounds; they begin at zero and are public, like the model."""

    memory: ClassVar[tuple[str, ...]] = ()
    kind: str
    server_rate: Annotated[float, Field(gt=0, le=1e3)] = 1.0

    def correct(self) -> Correct | None:
        """What a site does to the gradient g of a mini-batch, in place, given its weights w and the global ones: f(g, w, start)."""
        return None

    def follow(self, theta: Floats, mean: Floats, memory: Mapping[str, Floats]) -> tuple[Floats, dict[str, Floats]]:
        """The new global weights (size,) from the mean update (size,), and the coordinator's vectors after it."""
        raise NotImplementedError
