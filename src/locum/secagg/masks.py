"""The mask core: add or subtract keystreams, AES-256-CTR with zero IV, one key for each (seed, purpose, J, tensor group).

    key    = HKDF(seed, salt = J, "mask", purpose, group)            purpose: "self" or "pair"
    stream = AES-256-CTR(key) cut into little-endian ring elements
    y      = x + self stream + sum over neighbours of +- pair stream     (+ towards the higher number, - towards the lower)

Work goes chunk by chunk, all streams on one chunk before the next, so that a chunk stays in cache and the memory needed is
a chunk, whatever the number of streams. Two threads take two halves: counter mode can start anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from locum.secagg.kdf import hkdf
from locum.secagg.ring import Ints, Ring

CHUNK = 1 << 17
"""Bytes at a time: 128 KiB stays in the second-level cache beside the keystream, and two threads seldom meet."""
_ZEROS = bytes(CHUNK)
_BLOCK = 16
_SMALL = 1 << 20

Purpose = Literal["self", "pair"]


@dataclass(frozen=True)
class Stream:
    """One keystream to add (sign +1) or subtract (-1)."""

    seed: bytes = field(repr=False)
    purpose: Purpose
    sign: int


def keystream_key(seed: bytes, purpose: Purpose, transcript: bytes, group: str) -> bytes:
    """The AES-256 key of one stream. transcript: J, which binds the manifest and everybody who joined."""
    return hkdf(seed, transcript, "mask", purpose, group)


def apply(target: Mapping[str, Ints], rings: Mapping[str, Ring], streams: Sequence[Stream], transcript: bytes, *, threads: int = 1) -> None:
    """Add every stream to every tensor group, in place. target: C-contiguous arrays of their rings."""
    for name, array in target.items():
        keyed = [(keystream_key(s.seed, s.purpose, transcript, name), s.sign) for s in streams]
        add_keystreams(array, rings[name], keyed, threads=threads)


def add_keystreams(target: Ints, ring: Ring, keys: Sequence[tuple[bytes, int]], *, threads: int = 1) -> None:
    """target += sum of sign * stream, in place; keys: (AES-256 key, sign)."""
    size, step = len(target), CHUNK // ring.itemsize
    if threads > 1 and target.nbytes > _SMALL:
        share = -(-size // (threads * step)) * step
        parts = [(start, target[start : start + share]) for start in range(0, size, share)]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda part: _add(part[1], ring, keys, part[0] * ring.itemsize), parts))
    else:
        _add(target, ring, keys, 0)


def _add(target: Ints, ring: Ring, keys: Sequence[tuple[bytes, int]], offset: int) -> None:
    streams = [(_encryptor(key, offset), ring.add if sign > 0 else ring.subtract) for key, sign in keys]
    step = CHUNK // ring.itemsize
    buffer = bytearray(CHUNK + _BLOCK)
    mask = np.frombuffer(buffer, ring.dtype, CHUNK // ring.dtype.itemsize).reshape(ring.shape(step))
    for start in range(0, len(target), step):
        chunk = target[start : start + step]
        zeros = memoryview(_ZEROS)[: len(chunk) * ring.itemsize]
        for stream, change in streams:
            stream.update_into(zeros, buffer)
            change(chunk, mask[: len(chunk)])
        ring.reduce(chunk)


def _encryptor(key: bytes, offset: int) -> CipherContext:
    counter = (offset // _BLOCK).to_bytes(_BLOCK, "big")
    return Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()


def keystream(key: bytes, nbytes: int, offset: int = 0) -> bytes:
    """Bytes of AES-256-CTR with zero IV from `offset`, a multiple of 16."""
    return _encryptor(key, offset).update(bytes(nbytes))
