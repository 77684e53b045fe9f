"""Choice elements (`value[x]`) and types, which JSON spells in the member's name: `value.ofType(Quantity)` is the member `valueQuantity`.

Names from FHIR R4 (4.0.1), "Open Type Element" and the resources' definitions.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from locum.data.fhir.values import Fn, items

TEMPORAL = frozenset(("date", "dateTime", "instant", "time"))
_TEXT = TEMPORAL | frozenset(("string", "code", "id", "uri", "url", "canonical", "oid", "uuid", "markdown", "base64Binary", "xhtml"))
PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "boolean": (bool,),
    **dict.fromkeys(("integer", "positiveInt", "unsignedInt", "integer64"), (int,)),
    "decimal": (int, float, Decimal),
    **dict.fromkeys(_TEXT, (str,)),
}
"""FHIR primitive -> how JSON holds it."""

_COMPLEX = (
    "Address|Age|Annotation|Attachment|CodeableConcept|CodeableReference|Coding|ContactDetail|ContactPoint|Contributor|Count|DataRequirement|"
    "Distance|Dosage|Duration|Expression|HumanName|Identifier|Meta|Money|ParameterDefinition|Period|Quantity|Range|Ratio|RatioRange|Reference|"
    "RelatedArtifact|SampledData|Signature|Timing|TriggerDefinition|UsageContext"
)
_CHOICES = (
    "abatement|age|allowed|asNeeded|born|bounds|chargeItem|collected|deceased|defaultValue|dose|doseNumber|effective|fastingStatus|identified|"
    "instantiates|legallyBinding|medication|multipleBirth|occurred|occurrence|onset|participantEffective|performed|rate|reported|scheduled|"
    "seriesDoses|serviced|timing|value"
)
CHOICES = frozenset(_CHOICES.split("|"))
"""Those that are found without `ofType` too. Names that are plain elements elsewhere (`item`, `reason`, `subject`) need it."""
_VARIANTS = frozenset(t[0].upper() + t[1:] for t in (*PYTHON_TYPES, *_COMPLEX.split("|")))


def variants(name: str) -> frozenset[str]:
    """The members that may hold the choice element `name`: value -> valueQuantity, valueString and so on; none if it is no choice element."""
    return frozenset(name + kind for kind in _VARIANTS) if name in CHOICES else frozenset()


def typed_name(name: str, kind: str) -> str:
    """The member that holds `name` when its type is `kind`."""
    return name + kind[:1].upper() + kind[1:]


def any_of(name: str) -> Fn:
    """A step to a choice element of whichever type."""
    known = variants(name)

    def step(node: Any) -> Any:
        found = node.get(name)
        if found is None:
            for key in node:
                if key in known:
                    return node[key]
        return found

    return step


def of_type(name: str, kind: str) -> Fn:
    """A step to the element `name` where its type is `kind`: a choice element, or one whose items tell their type themselves."""
    key, keep = typed_name(name, kind), is_type(kind)

    def step(node: Any) -> Any:
        found = node.get(key)
        if found is None and (found := node.get(name)) is not None:
            return [item for item in items(found) if keep(item)]
        return found

    return step


def is_type(kind: str) -> Fn:
    """Whether an item that stands in no choice element is of type `kind`: a resource says so, a primitive shows it."""
    types = PYTHON_TYPES.get(kind)
    if types is not None:
        return lambda item: type(item) in types
    return lambda item: type(item) is dict and item.get("resourceType", kind) == kind
