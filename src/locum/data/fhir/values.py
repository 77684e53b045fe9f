"""What compiled FHIRPath passes around, and how it steps through JSON.

A value is None (nothing), one item, or a list of items; so the common case, one item, costs no list. An item is text, a number, a boolean or a
dict. A JSON null within a list (a primitive that has only extensions) is no item.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from locum.errors import DataError

Fn = Callable[[Any], Any]
"""A compiled expression: the node it is evaluated at -> value."""


class EvaluationError(DataError):
    """A resource to which an expression cannot be applied. `what` holds nothing of the resource, so it may be counted and shown."""


def items(value: Any) -> Sequence[Any]:
    """All items of a value."""
    if value is None:
        return ()
    if type(value) is list:
        return value if None not in value else [x for x in value if x is not None]
    return (value,)


def single(value: Any) -> Any:
    """The one item of a value, or None; raises `EvaluationError` for more."""
    if type(value) is list:
        found = items(value)
        if len(found) > 1:
            raise EvaluationError("more than one value where one is needed")
        return found[0] if found else None
    return value


def truth(value: Any) -> bool | None:
    """A value as a condition: one item that is no boolean counts as true (singleton evaluation, FHIRPath 4.5)."""
    if value is None or value is True or value is False:
        return value
    value = single(value)
    return value if value is None or type(value) is bool else True


def spread(value: Any, key: str) -> Any:
    """The member `key` of each item of a list, in one flat list; None for an item without members."""
    if type(value) is not list:
        return value.get(key) if type(value) is dict else None
    out: list[Any] = []
    for item in value:
        if type(item) is dict:
            found = item.get(key)
            if type(found) is list:
                out += found
            elif found is not None:
                out.append(found)
    return out


def path(keys: Sequence[str]) -> Fn:
    """A chain of members from the node on, such as `name.family`, as one function: about as fast as the dict look-ups that it makes."""
    if len(keys) == 1:
        (a,) = keys

        def one(node: Any) -> Any:
            return node.get(a) if type(node) is dict else spread(node, a)

        return one
    if len(keys) == 2:
        a, b = keys

        def two(node: Any) -> Any:
            found = node.get(a) if type(node) is dict else spread(node, a)
            if type(found) is dict:
                return found.get(b)
            return None if found is None else spread(found, b)

        return two
    a, b, c = keys[:3]
    rest = tuple(keys[3:])

    def more(node: Any) -> Any:
        found = node.get(a) if type(node) is dict else spread(node, a)
        found = found.get(b) if type(found) is dict else spread(found, b)
        found = found.get(c) if type(found) is dict else spread(found, c)
        for key in rest:
            found = found.get(key) if type(found) is dict else spread(found, key)
        return found

    return more


def member(of: Fn, key: str) -> Fn:
    """The member `key` of what `of` gives."""

    def step(node: Any) -> Any:
        found = of(node)
        if type(found) is dict:
            return found.get(key)
        return None if found is None else spread(found, key)

    return step


def each(of: Fn | None, step: Fn) -> Fn:
    """`step` applied to every dict that `of` (None: the node itself) gives, flattened."""

    def over(node: Any) -> Any:
        found = node if of is None else of(node)
        if type(found) is dict:
            return step(found)
        if type(found) is not list:
            return None
        out: list[Any] = []
        for item in found:
            if type(item) is dict:
                out += items(step(item))
        return out

    return over
