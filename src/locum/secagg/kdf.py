"""Every key, signature input and commitment starts with a label of its own, so that none can stand for another."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

LABEL = b"locum/fsa-1/"
KEY_BYTES = 32


def label(name: str) -> bytes:
    """The domain label of one purpose."""
    return LABEL + name.encode("ascii")


def join(*parts: bytes | str | int) -> bytes:
    """An injective encoding of a list: each part after its length (8 bytes, little-endian). Integers are 8 bytes."""
    out = bytearray()
    for part in parts:
        raw = part if isinstance(part, bytes) else part.encode() if isinstance(part, str) else part.to_bytes(8, "little")
        out += len(raw).to_bytes(8, "little") + raw
    return bytes(out)


def digest(name: str, *parts: bytes | str | int) -> bytes:
    """SHA-256 over the label and the parts; 32 bytes."""
    return hashlib.sha256(label(name) + b"\0" + join(*parts)).digest()


def hkdf(secret: bytes, salt: bytes, name: str, *info: bytes | str | int) -> bytes:
    """HKDF-SHA256 (RFC 5869); 32 bytes."""
    return HKDF(SHA256(), KEY_BYTES, salt, label(name) + b"\0" + join(*info)).derive(secret)
