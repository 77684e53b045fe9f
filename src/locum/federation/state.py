"""The global state on the wire and on disk: safetensors, keys sorted, so that equal states are equal bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, load_file

from locum.errors import EnvelopeError
from locum.study.vector import Layout
from locum.tasks.base import State


def layout_of(state: State) -> Layout:
    """The layout of a state, its keys in sorted order."""
    return Layout.like({name: np.asarray(state[name]) for name in sorted(state)})


def state_digest(state: State) -> tuple[str, int]:
    """SHA-256 and length of the state's safetensors file, without making it: no copy of the model."""
    layout, h = layout_of(state), hashlib.sha256()
    for piece in layout.buffers(state):
        h.update(piece)
    return h.hexdigest(), layout.file_bytes


def encode_state(state: State) -> bytes:
    """The state as one safetensors file."""
    return layout_of(state).pack(state)


def decode_state(source: bytes | Path) -> State:
    """The state from bytes or a file whose digest was already checked; raises `EnvelopeError`."""
    try:
        return load_file(source) if isinstance(source, Path) else load(source)
    except (SafetensorError, ValueError, KeyError):
        raise EnvelopeError("The model's bytes are not a safetensors file.", fix="update both sides to the same release") from None
