"""The text of a policy as statements with their lines: Cedar's parser says what is wrong, and this says where.

A statement of Cedar ends with ';' outside of strings and comments, and nothing else does (Cedar grammar, docs.cedarpolicy.com/policies/syntax-grammar.html).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from locum.errors import LocumError

MAX_BYTES = 256 << 10
MAX_DEPTH = 25
MAX_OPERATORS = 200
"""In one rule. Cedar's parser calls itself for each bracket and operator, and some thousands of them would end the process."""
_TOKEN = re.compile(r'//[^\n]*|"(?:[^"\\\n]|\\.)*"|[();\[\]{}]|"|[-+*<>=!&|.]+|\b(?:if|in|has|like|is)\b')
_HIDDEN = re.compile("\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]")
"""Cedar ends a comment at a carriage return too, and the rest turn the direction of writing or have no width (Boucher and Anderson, 2021, Trojan Source)."""
_BRACKETS = {**dict.fromkeys("([{", 1), **dict.fromkeys(")]}", -1)}


class PolicyError(LocumError):
    """A policy that cannot be relied on. While it is in force nothing runs here."""

    code = "policy"


@dataclass(frozen=True)
class Rule:
    """One rule. effect: 'permit' or 'forbid'. line: where it begins. reason: the sentence that a refusal gives."""

    id: str
    effect: str
    reason: str
    line: int


@dataclass(frozen=True)
class Statement:
    text: str
    line: int


def statements(text: str, where: str) -> list[Statement]:
    """The statements in order. Raises `PolicyError` for what has no end."""
    if len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        raise PolicyError(f"{where} is larger than {MAX_BYTES >> 10} KiB.", fix="it should be a short list of rules")
    if found := _HIDDEN.search(text):
        what = f"{where}, line {_line(text, found.start())}: U+{ord(found.group()[0]):04X}, a character that is not seen."
        raise PolicyError(what, why="A rule could hide behind it from whoever reads the text.", fix="delete it")
    return list(_split(text, where))


def _split(text: str, where: str) -> Iterator[Statement]:
    start, depth, operators = 0, 0, 0
    for token in _TOKEN.finditer(text):
        kind = token.group()
        if kind == '"':
            raise PolicyError(f"{where}, line {_line(text, token.start())}: a string has no end.", fix='close it with " on the same line')
        depth += _BRACKETS.get(kind, 0)
        operators += kind not in _BRACKETS and kind[0] not in '/";'
        if depth > MAX_DEPTH or operators > MAX_OPERATORS:
            what = f"more than {MAX_DEPTH} brackets within brackets" if depth > MAX_DEPTH else f"a rule with more than {MAX_OPERATORS} operators"
            raise PolicyError(f"{where}, line {_line(text, token.start())}: {what}.", fix="write it as several rules, or with [...].contains(...)")
        if kind == ";":
            begin = _first(text, start, token.end())
            yield Statement(text[begin : token.end()], _line(text, begin))
            start, depth, operators = token.end(), 0, 0
    begin = _first(text, start, len(text))
    if begin < len(text):
        raise PolicyError(f"{where}, line {_line(text, begin)}: this rule has no end.", fix="a rule ends with ';'")


def _first(text: str, start: int, end: int) -> int:
    """Where the first word is, after blanks and comments."""
    blank = re.compile(r"(\s|//[^\n]*(\n|$))*").match(text, start, end)
    return blank.end() if blank else start


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
