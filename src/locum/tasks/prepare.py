"""The rows as a step of the plan sees them: a site's own rows, changed by every earlier transform in order.

A transform is a function of public state and the site's rows, so it is not done again while both stay the same: what it made is
kept with the rows it was made of, one result for each transform, and goes when they go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.errors import TaskError
from locum.tasks.base import State, Task, Transform


def prepared(task: Task, state: State, rows: Rows) -> Rows:
    """What `task` sees of `rows`: the same object again for equal state and the same rows. Raises `TaskError`."""
    transforms: tuple[Transform[Any], ...] = getattr(task, "transforms", ())
    for transform in transforms:
        rows = _applied(transform, state, rows)
    return rows


def with_columns(rows: Rows, changed: Mapping[str, NDArray[np.float64]]) -> Rows:
    """`rows` with some columns changed or added."""
    made = replace(rows, columns={**rows.columns, **changed})
    made.__dict__.update({k: rows.__dict__[k] for k in ("_distinct", "patients") if k in rows.__dict__})  # the patients are the same
    return made


def columns(transform: Transform[Any], rows: Rows) -> Mapping[str, NDArray[np.float64]]:
    """The columns of `rows`; raises `TaskError` where one is missing that the transform reads."""
    for name in transform.reads():
        if name not in rows.columns:
            raise TaskError(f"Step '{transform.step.name}' reads '{name}', which this site's rows do not have.", fix="map that variable, or leave the study")
    return rows.columns


def _applied(transform: Transform[Any], state: State, rows: Rows) -> Rows:
    kept: dict[str, tuple[bytes, Rows]] = rows.__dict__.setdefault("_prepared", {})
    fingerprint = _fingerprint(transform, state)
    name = transform.step.name
    if name not in kept or kept[name][0] != fingerprint:
        made = transform.apply(state, rows)
        if made.patient is not rows.patient:
            raise TaskError(f"Step '{name}' changed whose rows they are.", fix="this is a fault of the task; report it")
        kept[name] = fingerprint, made
    return kept[name][1]


def _fingerprint(transform: Transform[Any], state: State) -> bytes:
    """A digest of all that a transform may read: the study, the step, and the step's arrays in the state."""
    h = hashlib.sha256(f"{transform.study.digest}\0{transform.step.name}".encode())
    for name in sorted(n for n in state if n.startswith(f"{transform.step.name}.")):
        array = np.ascontiguousarray(state[name])
        h.update(f"\0{name}\0{array.dtype.str}{array.shape}\0".encode())
        h.update(array.tobytes())
    return h.digest()
