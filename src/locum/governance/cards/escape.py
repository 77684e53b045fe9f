"""Text that somebody else wrote, put into XML, Markdown, YAML and URLs as text and as nothing else: a study's title may hold anything."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

_SPACE = re.compile(r"[\t\n\v\f\r \x1c-\x1f\x85\u2028\u2029]+")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufeff\ufffe\uffff]")
"""What XML 1.0 (section 2.2) or YAML 1.2 (section 5.1) has no place for, and marks that turn the direction of writing."""
_MARKS = re.compile(r"([\\`*_{}\[\]<>#|~&$@^]|:(?=//)|(?<=\bmailto):|(?<=\bxmpp):)", re.IGNORECASE)
_START = re.compile(r"^(\d{1,9}(?=[.)](?:\s|$))|(?=[-+=]))")
"""Where a list, or a rule of hyphens, would begin."""


def line(text: object) -> str:
    """One line of printable text: line ends become spaces, and what cannot be shown becomes U+FFFD."""
    return _CONTROL.sub("\ufffd", _SPACE.sub(" ", str(text))).strip()


def markdown(text: object) -> str:
    """`text` for a paragraph, list item, heading or table cell: CommonMark (section 2.4) and GitHub's additions show it as it is."""
    out = _START.sub(r"\1\\", _MARKS.sub(r"\\\1", line(text)))
    return re.sub(r"(?i)\bwww\.", lambda m: m[0][:-1] + "\\.", out)  # GitHub makes links of bare addresses


def code(text: str) -> str:
    """A digest or another word of ours as a code span."""
    return f"`{re.sub('[^ -_a-~]', '?', text)}`"


def yaml(value: object) -> str:
    """A scalar or a flow collection: JSON without escapes for non-ASCII is YAML, and every string is quoted."""
    return json.dumps(_lines(value), ensure_ascii=False)


def _lines(value: object) -> object:
    if isinstance(value, str):
        return line(value)
    if isinstance(value, dict):
        return {line(k): _lines(v) for k, v in value.items()}
    return [_lines(v) for v in value] if isinstance(value, list | tuple) else value


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of GitHub Flavored Markdown; every cell is escaped."""
    lines = ["| " + " | ".join(markdown(h) for h in heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(markdown(c) for c in row) + " |" for row in rows)])


def pretty(value: object) -> bytes:
    """JSON for people and programs: two spaces, keys in our order, UTF-8."""
    return (json.dumps(_lines(value), ensure_ascii=False, indent=2, allow_nan=False) + "\n").encode()
