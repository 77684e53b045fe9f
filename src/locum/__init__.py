"""Locum: federated learning and statistics for medicine. The model travels; the patients' data stays.

The public surface is small, and imported when first used: `Study`, `Rows`, `simulate`, `LocumError`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from locum.data import Rows
    from locum.errors import LocumError
    from locum.simulate import RunResult, simulate
    from locum.study import Study

__version__ = "0.1.0"
__all__ = ["LocumError", "Rows", "RunResult", "Study", "__version__", "simulate"]

_HOME = {"LocumError": "locum.errors", "Rows": "locum.data", "RunResult": "locum.simulate", "Study": "locum.study", "simulate": "locum.simulate"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'locum' has no attribute {name!r}")
