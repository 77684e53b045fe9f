"""FHIRPath text to a tree: the subset that SQL on FHIR v2 views need, by a Pratt parser.

Grammar and precedence: FHIRPath 2.0 (HL7 normative), section 6 and appendix "Grammar". Length, nesting and number of steps are bounded,
so that no expression can exhaust the stack.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from locum.errors import ManifestError

MAX_LENGTH = 4096
MAX_NESTING = 40
MAX_STEPS = 300


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant; kind is its FHIRPath type in lower case, with date, dateTime and time kept as text. An absent value is `{}`."""

    value: Any
    kind: str


@dataclass(frozen=True, slots=True)
class Variable:
    """`$this`, `$index`, or a constant such as `%rowIndex`."""

    name: str


@dataclass(frozen=True, slots=True)
class Member:
    """`of.name`; at the head of a path `of` is `$this`."""

    of: Node
    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """`of.name(arguments)`."""

    of: Node
    name: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """`of[at]`."""

    of: Node
    at: Node


@dataclass(frozen=True, slots=True)
class Binary:
    """`left operator right`."""

    operator: str
    left: Node
    right: Node


Node = Literal | Variable | Member | Call | Index | Binary
THIS = Variable("$this")

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*.*?\*/)
    |(?P<time>@T\d\d(:\d\d(:\d\d(\.\d+)?)?)?)
    |(?P<date>@\d{4}(-\d\d(-\d\d)?)?(?P<clock>T(\d\d(:\d\d(:\d\d(\.\d+)?)?)?(Z|[+-]\d\d:\d\d)?)?)?)
    |(?P<number>\d+(\.\d+)?)
    |(?P<string>'(?:[^'\\]|\\.)*')
    |(?P<quoted>`(?:[^`\\]|\\.)*`)
    |(?P<constant>%(?:[A-Za-z_]\w*|'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`))
    |(?P<special>\$[a-z]+)
    |(?P<name>[A-Za-z_]\w*)
    |(?P<sign><=|>=|!=|\{\s*\}|[-+*/&|=<>()\[\].,])""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPES = {"r": "\r", "n": "\n", "t": "\t", "f": "\f"}
_POWER = {
    "or": 2,
    "xor": 2,
    "and": 3,
    "in": 4,
    "=": 5,
    "!=": 5,
    **dict.fromkeys(("<", ">", "<=", ">="), 6),
    "|": 7,
    "as": 8,
    **dict.fromkeys(("+", "-", "&"), 9),
    **dict.fromkeys(("*", "/", "div", "mod"), 10),
}
_SIGN_POWER = 11


def parse(text: str) -> Node:
    """The tree of one expression; raises `ManifestError` that quotes it."""
    if len(text) > MAX_LENGTH:
        raise ManifestError(f"A FHIRPath expression has {len(text):,} characters.", why=f"At most {MAX_LENGTH:,} are read.", fix="split the column")
    try:
        return _Parser(text).whole()
    except UnicodeDecodeError:
        raise problem(text, "escapes half of a character", "write the character itself") from None


def problem(text: str, what: str, fix: str = "") -> ManifestError:
    """An error about the expression `text` of a view."""
    shown = text if len(text) <= 200 else text[:200] + " ..."
    return ManifestError(f'The FHIRPath expression "{shown}" {what}.', fix=fix)


class _Parser:
    def __init__(self, text: str) -> None:
        self._text, self._nesting, self._steps = text, 0, 0
        self._tokens = list(self._lex())
        self._at = 0

    def _lex(self) -> Iterator[tuple[str, str]]:
        at = 0
        while at < len(self._text):
            found = _TOKEN.match(self._text, at)
            if found is None:
                raise problem(self._text, f"cannot be read at character {at + 1}")
            at = found.end()
            kind = next(k for k in ("space", "time", "date", "number", "string", "quoted", "constant", "special", "name", "sign") if found[k] is not None)
            if kind == "date" and found["clock"] is not None:
                kind = "dateTime"
            if kind != "space":
                yield kind, found[0]
        yield "end", ""

    def whole(self) -> Node:
        tree = self._expression(0)
        if self._tokens[self._at][0] != "end":
            raise problem(self._text, f"has an unexpected '{self._tokens[self._at][1]}'")
        return tree

    def _next(self) -> tuple[str, str]:
        token = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise problem(self._text, f"has more than {MAX_STEPS} parts", "split the column")
        return token

    def _take(self, sign: str) -> bool:
        if self._tokens[self._at] == ("sign", sign):
            self._next()
            return True
        return False

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise problem(self._text, f"lacks a '{sign}'")

    def _expression(self, power: int) -> Node:
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise problem(self._text, f"is nested more than {MAX_NESTING} deep")
        left = self._postfix(self._operand())
        while True:
            kind, operator = self._tokens[self._at]
            found = _POWER.get(operator, 0) if kind in ("sign", "name") else 0
            if found <= power:
                break
            self._next()
            left = Call(left, "ofType", (self._expression(found),)) if operator == "as" else Binary(operator, left, self._expression(found))
        self._nesting -= 1
        return left

    def _postfix(self, left: Node) -> Node:
        while True:
            if self._take("."):
                left = self._named(left)
            elif self._take("["):
                left = Index(left, self._expression(0))
                self._expect("]")
            else:
                return left

    def _named(self, of: Node) -> Node:
        """A member or a call, after a dot or at the head of a path."""
        kind, text = self._next()
        if kind not in ("name", "quoted"):
            raise problem(self._text, f"has '{text}' where a name is needed" if text else "ends too early")
        if kind == "quoted":
            return Member(of, _unescape(text))
        if not self._take("("):
            return Member(of, text)
        arguments: list[Node] = []
        if not self._take(")"):
            arguments.append(self._expression(0))
            while self._take(","):
                arguments.append(self._expression(0))
            self._expect(")")
        return Call(of, text, tuple(arguments))

    def _operand(self) -> Node:
        kind, text = self._tokens[self._at]
        if kind in ("name", "quoted") and text not in ("true", "false"):
            return self._named(THIS)
        self._next()
        match kind:
            case "name":
                return Literal(text == "true", "boolean")
            case "number":
                return Literal(float(text), "decimal") if "." in text else Literal(int(text), "integer")
            case "string":
                return Literal(_unescape(text), "string")
            case "date" | "dateTime" | "time":
                return Literal(text.lstrip("@T") if kind == "time" else text[1:].removesuffix("T"), kind)
            case "constant":
                return Variable("%" + (_unescape(text[1:]) if text[1] in "'`" else text[1:]))
            case "special" if text in ("$this", "$index"):
                return THIS if text == "$this" else Variable(text)
        if text == "(":
            inner = self._expression(0)
            self._expect(")")
            return inner
        if text in ("+", "-"):
            operand = self._expression(_SIGN_POWER)
            return operand if text == "+" else Binary("*", Literal(-1, "integer"), operand)
        if text.startswith("{"):
            return Literal(None, "empty")
        raise problem(self._text, f"has an unexpected '{text}'" if text else "ends too early")


def _unescape(quoted: str) -> str:
    text = _ESCAPE.sub(lambda m: chr(int(m[1][1:], 16)) if len(m[1]) == 5 else _ESCAPES.get(m[1], m[1]), quoted[1:-1])
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
