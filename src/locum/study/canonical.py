"""Canonical JSON (RFC 8785) and SHA-256 digests: what people sign is bytes, not a rendering of them."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import rfc8785

DIGEST = re.compile(r"^[0-9a-f]{64}$")


def canonical(value: Any) -> bytes:
    """`value` (plain JSON data) as RFC 8785 bytes."""
    return rfc8785.dumps(value)


def sha256(*parts: bytes | memoryview) -> str:
    """The lower-case hexadecimal SHA-256 of the concatenated parts."""
    h = hashlib.sha256()
    for part in parts:
        h.update(part)
    return h.hexdigest()
