"""A FHIRPath tree to one Python closure: names, types and constants are resolved here, once, so that evaluation only looks things up.

Evaluation takes the node and gives a value (see `values`). What an expression needs of its surroundings, such as `%rowIndex`, it finds in the frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from locum.data.fhir import functions, operators, values
from locum.data.fhir.choices import CHOICES, PYTHON_TYPES, TEMPORAL, any_of, is_type, of_type, typed_name, variants
from locum.data.fhir.functions import Frame
from locum.data.fhir.syntax import THIS, Binary, Call, Index, Literal, Member, Node, Variable, parse, problem
from locum.data.fhir.values import Fn
from locum.study.document import nearest

SYSTEMS = {"%sct": "http://snomed.info/sct", "%loinc": "http://loinc.org", "%ucum": "http://unitsofmeasure.org"}
_PLAIN: dict[str, Callable[[Fn], Fn]] = {
    "first": functions.first,
    "last": functions.last,
    "count": functions.count,
    "not": functions.negation,
    "getResourceKey": functions.resource_key,
}
_KINDS = {**dict.fromkeys(("exists", "empty", "not", "all"), "boolean"), "join": "string", "count": "integer"}
_SAME_KIND = ("first", "last", "where", "lowBoundary", "highBoundary")
_ARGUMENTS = {
    **dict.fromkeys(("first", "last", "count", "not", "empty", "getResourceKey", "lowBoundary", "highBoundary"), (0, 0)),
    **dict.fromkeys(("exists", "join", "getReferenceKey"), (0, 1)),
    **dict.fromkeys(("where", "all", "ofType", "as", "extension"), (1, 1)),
}


@dataclass(frozen=True, slots=True)
class Compiled:
    """A closure and, where it is known, the FHIR type of what it gives ("" if not)."""

    evaluate: Fn
    kind: str = ""


@dataclass
class Compiler:
    """Compiles the expressions of one view. constants: `%name` -> (value, type).

    members: every member name that any expression reads, so that a reader may skip the others. precise: whether numbers must keep the digits
    that they were written with (for boundaries). reads_row: whether `%rowIndex` is used.
    """

    constants: Mapping[str, tuple[Any, str]]
    frame: Frame = field(default_factory=Frame)
    members: set[str] = field(default_factory=lambda: {"resourceType", "id"})
    precise: bool = False
    reads_row: bool = False
    reads_resource: bool = False
    reads_index: bool = False
    _text: str = ""

    def compile(self, text: str) -> Compiled:
        """The closure of one expression; raises `ManifestError`."""
        self._text = text
        return self._node(parse(text))

    def _node(self, node: Node) -> Compiled:
        match node:
            case Literal(value, kind):
                return Compiled(lambda _: value, kind)
            case Variable(name):
                return self._variable(name)
            case Member():
                return self._member(node)
            case Index(of, at):
                inner = self._node(of)
                return Compiled(functions.index(inner.evaluate, self._node(at).evaluate), inner.kind)
            case Call():
                return self._call(node)
            case Binary():
                return self._binary(node)

    def _variable(self, name: str) -> Compiled:
        frame = self.frame
        if name == "$this":
            return Compiled(lambda node: node)
        if name == "$index":
            self.reads_index = True
            return Compiled(lambda _: frame.index, "integer")
        if name == "%rowIndex":
            self.reads_row = True
            return Compiled(lambda _: frame.row, "integer")
        if name in ("%resource", "%rootResource", "%context"):
            self.reads_resource = True
            return Compiled(lambda _: frame.resource)
        if name in SYSTEMS:
            system = SYSTEMS[name]
            return Compiled(lambda _: system, "string")
        if name[1:] not in self.constants:
            raise problem(self._text, f"uses the constant {name}, which the view does not define", nearest(name[1:], [*self.constants, "rowIndex"]))
        value, kind = self.constants[name[1:]]
        return Compiled(lambda _: value, kind)

    def _member(self, node: Member) -> Compiled:
        keys: list[str] = []
        of: Node = node
        while isinstance(of, Member) and of.name not in CHOICES and not self._is_type_name(of):
            keys.append(of.name)
            of = of.of
        keys.reverse()
        if self._at_node(of):
            self._reads(*keys[:1])
        if isinstance(of, Member):
            inner = self._resource_filter(of) if self._is_type_name(of) else self._choice(of)
        elif of is THIS:
            return Compiled(values.path(keys))
        else:
            inner = self._node(of).evaluate
        for key in keys:
            inner = values.member(inner, key)
        return Compiled(inner)

    @staticmethod
    def _is_type_name(node: Member) -> bool:
        """`Patient` at the head of a path: FHIR's elements begin with a small letter, its types with a capital."""
        return node.of is THIS and node.name[:1].isupper()

    def _reads(self, *names: str) -> None:
        self.members.update(names)

    def _at_node(self, node: Node) -> bool:
        """Whether what `node` gives may be the resource itself, so that a member of it must be decoded. True where in doubt."""
        while isinstance(node, Index) or (isinstance(node, Call) and node.name != "extension"):
            node = node.of
        return not isinstance(node, Call | Literal) and (not isinstance(node, Member) or self._is_type_name(node))

    def _resource_filter(self, node: Member) -> Fn:
        keep = is_type(node.name)
        return lambda item: item if keep(item) else None

    def _choice(self, node: Member) -> Fn:
        if self._at_node(node.of):
            self._reads(node.name, *variants(node.name))
        return values.each(self._input(node.of), any_of(node.name))

    def _input(self, of: Node) -> Fn | None:
        return None if of is THIS else self._node(of).evaluate

    def _call(self, node: Call) -> Compiled:
        name, arguments = node.name, node.arguments
        if name not in _ARGUMENTS:
            raise problem(self._text, f"calls {name}(), which is not a function of SQL on FHIR", nearest(name, [*_ARGUMENTS]))
        least, most = _ARGUMENTS[name]
        if not least <= len(arguments) <= most:
            raise problem(self._text, f"calls {name}() with {len(arguments)} arguments", f"give it {least}" + (f" to {most}" if most > least else ""))
        if name in ("ofType", "as"):
            return self._of_type(node.of, self._type(arguments[0]))
        if name == "extension":
            return Compiled(self._extension(node.of, arguments[0]))
        inner = self._node(node.of)
        of = inner.evaluate
        if name == "where" or (name == "exists" and arguments):
            of = self._where(of, arguments[0])
        kind = _KINDS.get(name) or (inner.kind if name in _SAME_KIND else "")
        match name:
            case "where":
                return Compiled(of, kind)
            case "exists":
                return Compiled(functions.exists(of), kind)
            case "empty":
                return Compiled(functions.empty(of), kind)
            case "all":
                criterion, frame = self._criterion(arguments[0])
                return Compiled(functions.every(of, criterion, frame), kind)
            case "join":
                return Compiled(functions.join(of, self._node(arguments[0]).evaluate if arguments else lambda _: ""), kind)
            case "getReferenceKey":
                self._reads("reference", "type")
                return Compiled(functions.reference_key(of, self._type(arguments[0]) if arguments else None))
            case "lowBoundary" | "highBoundary":
                self.precise = True
                return Compiled(functions.boundary(of, kind, high=name == "highBoundary"), kind)
        return Compiled(_PLAIN[name](of), kind)

    def _criterion(self, node: Node) -> tuple[Fn, Frame | None]:
        """A criterion that is evaluated at each item, and the frame if it reads `$index`."""
        before, self.reads_index = self.reads_index, False
        criterion = self._node(node).evaluate
        frame = self.frame if self.reads_index else None
        self.reads_index = before
        return criterion, frame

    def _where(self, of: Fn, node: Node) -> Fn:
        match node:
            case Binary("=", Member(left, key), Literal(str(text), "string")) if left is THIS and key not in CHOICES and not key[:1].isupper():
                self._reads(key)
                return functions.where_member_is(of, key, text)
            case Binary("=", Member(left, key), Variable(name)) if left is THIS and key not in CHOICES and not key[:1].isupper():
                value, kind = self.constants.get(name[1:], (SYSTEMS.get(name), ""))
                if type(value) is str and kind not in TEMPORAL:
                    self._reads(key)
                    return functions.where_member_is(of, key, value)
        return functions.where(of, *self._criterion(node))

    def _of_type(self, of: Node, kind: str) -> Compiled:
        known = kind if kind in PYTHON_TYPES else ""
        if isinstance(of, Member) and not self._is_type_name(of):
            if self._at_node(of.of):
                self._reads(of.name, typed_name(of.name, kind))
            return Compiled(values.each(self._input(of.of), of_type(of.name, kind)), known)
        inner, keep = self._node(of).evaluate, is_type(kind)
        if not known and not isinstance(of, Variable) and self._reads_choice(of):
            raise problem(self._text, f"asks for ofType({kind}) too late", f"write it directly behind the element, as in value.ofType({kind})")
        return Compiled(lambda node: [item for item in values.items(inner(node)) if keep(item)], known)

    @staticmethod
    def _reads_choice(node: Node) -> bool:
        """Whether items come from a choice element, through `where`, `first` or an index, so that only JSON's member name told their type."""
        while isinstance(node, Call | Index):
            node = node.of
        return isinstance(node, Member) and node.name in CHOICES

    def _extension(self, of: Node, url: Node) -> Fn:
        text = self._node(url).evaluate({}) if isinstance(url, Literal | Variable) else None
        if type(text) is not str:
            raise problem(self._text, "calls extension() with something other than a url", "write the url in quotes, or name a constant")
        self._reads("extension")
        found = functions.extension(self._node(of).evaluate, text)
        if isinstance(of, Member) and not self._is_type_name(of):  # the extensions of a primitive stand in a member of their own
            beside = Member(of.of, "_" + of.name)
            return functions.either(found, functions.extension(self._node(beside).evaluate, text))
        return found

    def _type(self, node: Node) -> str:
        """The type that an argument names: `Quantity`, or `FHIR.Quantity` and `System.String` in full."""
        if isinstance(node, Member) and node.of is THIS:
            return node.name
        if isinstance(node, Member) and isinstance(node.of, Member) and node.of.name in ("FHIR", "System"):
            return node.name[:1].lower() + node.name[1:] if node.of.name == "System" and node.name != "Quantity" else node.name
        raise problem(self._text, "lacks the name of a type", "write it without quotes, as in value.ofType(Quantity)")

    def _binary(self, node: Binary) -> Compiled:
        sign = node.operator
        a, b = self._node(node.left), self._node(node.right)
        left, right, kinds = a.evaluate, b.evaluate, (a.kind, b.kind)
        match sign:
            case "=" | "!=":
                literal = right({}) if isinstance(node.right, Literal | Variable) and b.kind else None
                return Compiled(operators.equality(left, right, kinds, literal, negate=sign == "!="), "boolean")
            case "<" | "<=" | ">" | ">=":
                return Compiled(operators.comparison(sign, left, right, kinds), "boolean")
            case "and":
                return Compiled(operators.conjunction(left, right), "boolean")
            case "or":
                return Compiled(operators.disjunction(left, right), "boolean")
            case "xor":
                return Compiled(operators.exclusive(left, right), "boolean")
            case "in":
                return Compiled(operators.membership(left, right), "boolean")
            case "|":
                return Compiled(operators.union(left, right))
            case "&":
                return Compiled(operators.concatenation(left, right), "string")
        if TEMPORAL & {*kinds}:
            raise problem(self._text, f"calculates with dates ('{sign}')", "take the dates as columns, and subtract them in the mapping")
        return Compiled(operators.arithmetic(sign, left, right))
