"""The site's own log: one JSON object per line. Reasons, names and sizes; never a value from a patient's row."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any, TextIO

import structlog

from locum.errors import LocumError


def open_log(file: TextIO, **bound: Any) -> structlog.typing.FilteringBoundLogger:
    """A logger that writes to `file`; `bound` is on every line."""
    logger = structlog.wrap_logger(
        structlog.WriteLogger(file),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.EventRenamer("event"),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
    )
    return logger.bind(**bound)  # type: ignore[no-any-return]


def reason(error: BaseException) -> dict[str, str]:
    """An error for the log. A stranger's text may quote a cell, so of an error that is not ours only kind and place are kept."""
    if isinstance(error, LocumError):
        told = {"what": error.what, "why": error.why, "fix": error.fix}
        cause = reason(error.__cause__) if error.__cause__ and not isinstance(error.__cause__, LocumError) else {}
        return {**{k: v for k, v in told.items() if v}, **{k: v for k, v in cause.items() if k in ("error", "at")}}
    frames = traceback.extract_tb(error.__traceback__)
    at = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return {"error": type(error).__name__, "at": at}
