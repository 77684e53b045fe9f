"""TOML as text, with comments: values, keys and comments that any reader takes back as they were."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_BARE = re.compile(r"^[A-Za-z0-9_-]+$")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What no line may hold, or what a terminal or an editor would obey instead of showing it."""


def value(item: Any) -> str:
    """A string, number, truth value, list or table in one line."""
    if isinstance(item, Mapping):
        return "{ " + ", ".join(f"{key(str(k))} = {value(v)}" for k, v in item.items()) + " }"
    if isinstance(item, list | tuple):
        return "[" + ", ".join(value(v) for v in item) + "]"
    if isinstance(item, bool):
        return str(item).lower()
    if isinstance(item, float):
        return repr(int(item)) if item.is_integer() and abs(item) < 1e15 else repr(item)
    if isinstance(item, int):
        return repr(item)
    # JSON's strings are TOML's basic strings, but for DEL, and for surrogates, which no file can hold
    return _CONTROLS.sub(lambda c: f"\\u{ord(c[0]):04x}", json.dumps(str(item).encode("utf-8", "replace").decode(), ensure_ascii=False))


def key(name: str) -> str:
    return name if _BARE.match(name) else value(name)


def comment(text: str) -> str:
    """One line, without characters that a comment may not hold."""
    return "# " + plain(text)[:300]


def plain(text: str) -> str:
    """The same in one line that is shown as it is."""
    return _CONTROLS.sub(" ", text)
