"""Many sites in one process: the default engine on one machine.

The package can be called: `locum.simulate(study, sites)` is `locum.simulate.simulate(study, sites)`.
"""

import sys
from types import ModuleType
from typing import Any

from locum.simulate.engine import RunResult, simulate

__all__ = ["RunResult", "simulate"]


class _Callable(ModuleType):
    """The function and the room share the name that people will type, and an import of the room must not hide the function."""

    def __call__(self, *args: Any, **options: Any) -> RunResult:
        return simulate(*args, **options)


sys.modules[__name__].__class__ = _Callable
