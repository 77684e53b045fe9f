"""The functions of FHIRPath that SQL on FHIR v2 views may call, over compiled operands.

SQL on FHIR v2, "Required FHIRPath functions"; `getReferenceKey` and `getResourceKey` are its own, and a key is the resource's id.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from locum.data.fhir import temporal
from locum.data.fhir.operators import exact
from locum.data.fhir.values import EvaluationError, Fn, items, single, truth

_REFERENCE = re.compile(r"(?:.*/)?([A-Z][A-Za-z]*)/([A-Za-z0-9.\-]{1,64})(?:/_history/[^/]*)?", re.DOTALL)


class Frame:
    """Where the evaluation stands: the resource, `%rowIndex` and `$index`. One per compiled view, so a view serves one thread at a time."""

    __slots__ = ("index", "resource", "row")

    def __init__(self) -> None:
        self.row = 0
        self.index: int | None = None
        self.resource: Any = None


def first(of: Fn) -> Fn:
    def head(node: Any) -> Any:
        found = of(node)
        if type(found) is list:
            kept = items(found)
            return kept[0] if kept else None
        return found

    return head


def last(of: Fn) -> Fn:
    def tail(node: Any) -> Any:
        kept = items(of(node))
        return kept[-1] if kept else None

    return tail


def count(of: Fn) -> Fn:
    return lambda node: len(items(of(node)))


def index(of: Fn, at: Fn) -> Fn:
    """`of[at]`, counted from 0; nothing outside."""

    def pick(node: Any) -> Any:
        place = single(at(node))
        if type(place) is not int:
            raise EvaluationError("an index that is no integer")
        kept = items(of(node))
        return kept[place] if 0 <= place < len(kept) else None

    return pick


def where(of: Fn, criterion: Fn, frame: Frame | None) -> Fn:
    """The items of `of` for which `criterion` is true. frame: where `$index` is kept, if the criterion reads it."""
    if frame is None:

        def keep(node: Any) -> Any:
            found = of(node)
            if type(found) is list:
                return [x for x in items(found) if truth(criterion(x)) is True]
            return found if found is not None and truth(criterion(found)) is True else None

        return keep
    return lambda node: [x for x, held in zip(items(of(node)), _held(items(of(node)), criterion, frame), strict=True) if held is True]


def where_member_is(of: Fn, key: str, text: str) -> Fn:
    """`where(key = 'text')`, the commonest filter, without a call for each item."""

    def keep(node: Any) -> Any:
        found = of(node)
        if type(found) is list:
            return [x for x in found if type(x) is dict and x.get(key) == text]
        return found if type(found) is dict and found.get(key) == text else None

    return keep


def _held(found: Any, criterion: Fn, frame: Frame | None) -> list[bool | None]:
    if frame is None:
        return [truth(criterion(x)) for x in found]
    before, out = frame.index, []
    for frame.index, x in enumerate(found):
        out.append(truth(criterion(x)))
    frame.index = before
    return out


def every(of: Fn, criterion: Fn, frame: Frame | None) -> Fn:
    """`all(criterion)`; true of nothing."""
    return lambda node: all(held is True for held in _held(items(of(node)), criterion, frame))


def exists(of: Fn) -> Fn:
    def any_item(node: Any) -> Any:
        found = of(node)
        return bool(items(found)) if type(found) is list else found is not None

    return any_item


def empty(of: Fn) -> Fn:
    def no_item(node: Any) -> Any:
        found = of(node)
        return not items(found) if type(found) is list else found is None

    return no_item


def negation(of: Fn) -> Fn:
    def inverse(node: Any) -> Any:
        found = truth(of(node))
        return None if found is None else not found

    return inverse


def join(of: Fn, separator: Fn) -> Fn:
    """All text of `of` in one text; empty text for nothing."""

    def glue(node: Any) -> Any:
        between, found = single(separator(node)), items(of(node))
        if not (between is None or type(between) is str) or any(type(x) is not str for x in found):
            raise EvaluationError("a value that is no text, for join()")
        return (between or "").join(found)

    return glue


def extension(of: Fn, url: str) -> Fn:
    """The extensions of each item whose url is `url`."""

    def find(node: Any) -> Any:
        found = of(node)
        if type(found) is dict:
            return [e for e in items(found.get("extension")) if type(e) is dict and e.get("url") == url]
        return [e for x in items(found) if type(x) is dict for e in items(x.get("extension")) if type(e) is dict and e.get("url") == url]

    return find


def either(of: Fn, other: Fn) -> Fn:
    """What `of` gives, or what `other` gives where that is nothing."""

    def pick(node: Any) -> Any:
        found = of(node)
        return found if items(found) else other(node)

    return pick


def resource_key(of: Fn) -> Fn:
    def key(node: Any) -> Any:
        found = of(node)
        return found.get("id") if type(found) is dict else None

    return key


def reference_key(of: Fn, kind: str | None) -> Fn:
    """The id of the resource that a Reference names, if it is of type `kind`; nothing for a contained resource or a mere identifier.

    A `urn:uuid:` reference names no type; it is kept unless `Reference.type` names another one.
    """

    def key(reference: Any) -> str | None:
        text = reference.get("reference") if type(reference) is dict else None
        if type(text) is not str:
            return None
        if text.startswith("urn:uuid:"):
            return text[9:] if kind is None or reference.get("type", kind) == kind else None
        found = _REFERENCE.fullmatch(text)
        return found[2] if found and kind in (None, found[1]) else None

    def keys(node: Any) -> Any:
        found = of(node)
        if type(found) is dict:
            return key(found)
        return None if found is None else [k for x in items(found) if (k := key(x)) is not None]

    return keys


def boundary(of: Fn, kind: str, *, high: bool) -> Fn:
    """The least or greatest value that a number or date of less than full precision may stand for."""

    def edge(node: Any) -> Any:
        found = single(of(node))
        if type(found) is str:
            text = temporal.boundary(found, kind, high=high)
            if text is None:
                raise EvaluationError("a value that is no date, for a boundary")
            return text
        if found is None or type(found) in (bool, dict, list):
            return None
        number = exact(found)
        exponent = number.as_tuple().exponent
        if not isinstance(exponent, int) or abs(exponent) > 28 or abs(number.adjusted()) > 28:
            raise EvaluationError("a number too large, for a boundary")
        half = Decimal(5).scaleb(exponent - 1)
        return float(number + half if high else number - half)

    return edge
