"""The operators of FHIRPath over compiled operands: equality, order, arithmetic, and logic with three values.

FHIRPath 2.0 section 6. Nothing on either side gives nothing, except in logic and `&`. Decimals are added and multiplied exactly, by their decimal digits.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from decimal import Decimal, DecimalException, localcontext
from math import isfinite
from typing import Any

from locum.data.fhir import temporal
from locum.data.fhir.choices import TEMPORAL
from locum.data.fhir.values import EvaluationError, Fn, items, single, truth

_NUMBERS = (int, float, Decimal)
ARITHMETIC = frozenset(("+", "-", "*", "/", "div", "mod"))
_ORDER: dict[str, Callable[[Any, Any], bool]] = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_EXACT: dict[str, Callable[[Decimal, Decimal], Decimal]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "div": operator.floordiv,  # of a Decimal: truncated towards zero, as FHIRPath wants
    "mod": operator.mod,
}


def same(x: Any, y: Any, *, dated: bool) -> bool | None:
    """Whether two items are equal; None for dates that cannot be told apart. dated: one of the two is known to be a date."""
    if type(x) is str and type(y) is str:
        if x == y or not dated or temporal.moment(x) is None or temporal.moment(y) is None:
            return x == y
        found = temporal.order(x, y)
        return None if found is None else found == 0
    if type(x) in _NUMBERS and type(y) in _NUMBERS:
        return x == y if type(x) is type(y) or int in (type(x), type(y)) else exact(x) == exact(y)
    return type(x) is type(y) and x == y


def equal_values(a: Any, b: Any, *, dated: bool = False) -> bool | None:
    """`a = b` for whole values: item by item, in order."""
    left, right = items(a), items(b)
    if not left or not right:
        return None
    if len(left) != len(right):
        return False
    found = [same(x, y, dated=dated) for x, y in zip(left, right, strict=True)]
    return False if False in found else None if None in found else True


def equality(left: Fn, right: Fn, kinds: tuple[str, str], literal: Any, *, negate: bool) -> Fn:
    """`=` and `!=`. kinds: types of the sides where known. literal: the right side where it is constant text, else None."""
    dated = bool(TEMPORAL & {*kinds})

    def general(node: Any) -> Any:
        found = equal_values(left(node), right(node), dated=dated)
        return found if found is None or not negate else not found

    if type(literal) is not str or dated:
        return general

    def to_text(node: Any) -> Any:
        found = left(node)
        if type(found) is str:
            return (found == literal) is not negate
        return None if found is None else general(node)

    return to_text


def comparison(sign: str, left: Fn, right: Fn, kinds: tuple[str, str]) -> Fn:
    """`<`, `<=`, `>` and `>=` of numbers, dates or text."""
    holds, dated = _ORDER[sign], bool(TEMPORAL & {*kinds})

    def compare(node: Any) -> Any:
        a, b = left(node), right(node)
        if type(a) is list or type(b) is list:
            a, b = single(a), single(b)
        if a is None or b is None:
            return None
        if type(a) in _NUMBERS and type(b) in _NUMBERS:
            return holds(a, b) if type(a) is type(b) or int in (type(a), type(b)) else holds(exact(a), exact(b))
        if type(a) is str and type(b) is str:
            if dated or (temporal.looks_temporal(a) and temporal.looks_temporal(b)):
                found = temporal.order(a, b)
                return None if found is None else holds(found, 0)
            return holds(a, b)
        raise EvaluationError(f"values that '{sign}' cannot compare")

    return compare


def exact(number: Any) -> Decimal:
    """A number by the decimal digits that it was written with."""
    return number if type(number) is Decimal else Decimal(repr(number))


def arithmetic(sign: str, left: Fn, right: Fn) -> Fn:
    """`+ - * / div mod` of numbers, and `+` of text. Division by zero gives nothing."""
    apply = _EXACT[sign]

    def compute(node: Any) -> Any:
        a, b = single(left(node)), single(right(node))
        if a is None or b is None:
            return None
        if type(a) in _NUMBERS and type(b) in _NUMBERS:
            return _number(apply, a, b, whole=sign in ("div",) or (sign != "/" and type(a) is int and type(b) is int))
        if sign == "+" and type(a) is str and type(b) is str:
            return a + b
        raise EvaluationError(f"values that '{sign}' cannot take")

    return compute


def _number(apply: Callable[[Decimal, Decimal], Decimal], a: Any, b: Any, *, whole: bool) -> float | int | None:
    if b == 0 and apply in (operator.truediv, operator.floordiv, operator.mod):
        return None
    try:
        with localcontext(prec=40):
            found = apply(exact(a), exact(b))
        if found.adjusted() > 300 and found:
            raise EvaluationError("a number too large")
        return int(found) if whole else float(found) if isfinite(found) else None
    except DecimalException:
        raise EvaluationError("a number too large") from None


def concatenation(left: Fn, right: Fn) -> Fn:
    """`&`: text joined, nothing being empty text."""

    def join(node: Any) -> Any:
        a, b = single(left(node)), single(right(node))
        if not (a is None or type(a) is str) or not (b is None or type(b) is str):
            raise EvaluationError("a value that is no text, for '&'")
        return (a or "") + (b or "")

    return join


def conjunction(left: Fn, right: Fn) -> Fn:
    """`and` with three values: false beats nothing."""

    def both(node: Any) -> Any:
        a = truth(left(node))
        if a is False:
            return False
        b = truth(right(node))
        return False if b is False else None if a is None or b is None else True

    return both


def disjunction(left: Fn, right: Fn) -> Fn:
    """`or` with three values: true beats nothing."""

    def either(node: Any) -> Any:
        a = truth(left(node))
        if a is True:
            return True
        b = truth(right(node))
        return True if b is True else None if a is None or b is None else False

    return either


def exclusive(left: Fn, right: Fn) -> Fn:
    """`xor`."""

    def differ(node: Any) -> Any:
        a, b = truth(left(node)), truth(right(node))
        return None if a is None or b is None else a is not b

    return differ


def union(left: Fn, right: Fn) -> Fn:
    """`|`: all items of both, each once."""

    def merge(node: Any) -> Any:
        out: list[Any] = []
        for item in (*items(left(node)), *items(right(node))):
            if not any(same(item, kept, dated=False) for kept in out):
                out.append(item)
        return out

    return merge


def membership(left: Fn, right: Fn) -> Fn:
    """`in`: whether the one item on the left is among those on the right."""

    def among(node: Any) -> Any:
        item = single(left(node))
        return None if item is None else any(same(item, other, dated=False) for other in items(right(node)))

    return among
