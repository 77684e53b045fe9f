"""Purposes: does what a study is for fit what a data set's consent allows? The GA4GH Data Use Ontology (DUO), and which of its terms meet.

A data set has one data use permission and any number of modifiers; a study states its use (`study.governance`). Everything must fit.

    data set   admits a study's use of
    NRES       any, and none stated
    GRU        GRU, HMB, DS, POA
    HMB        HMB, DS
    DS         DS, if its disease is one of those listed here
    POA        POA
    CC         CC; as a modifier it adds CC to what the permission admits

Sources: DUO (http://purl.obolibrary.org/obo/duo.owl, release of 2021-02-23); Lawson et al. 2021, Cell Genomics 1:100028; Dyke et al. 2016, PLoS
Genetics 12:e1005772 (the codes). Diseases are compared as MONDO identifiers and by equality: a site that means a disease's kinds as well lists
them. TS is a number of months in Dyke et al.; here it is the last day, because months need a beginning that no consent states.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from locum.study.document import Document, nearest
from locum.study.governance import Governance

USES = {"NRES": "DUO:0000004", "GRU": "DUO:0000042", "HMB": "DUO:0000006", "DS": "DUO:0000007", "POA": "DUO:0000011", "CC": "DUO:0000043"}
MODIFIERS = {
    "CC": "DUO:0000043", "NMDS": "DUO:0000015", "NPUNCU": "DUO:0000018", "PUB": "DUO:0000019", "COL": "DUO:0000020", "IRB": "DUO:0000021",
    "GS": "DUO:0000022", "TS": "DUO:0000025", "US": "DUO:0000026", "PS": "DUO:0000027", "RTN": "DUO:0000029", "NPOA": "DUO:0000044", "NPU": "DUO:0000045",
    "NCU": "DUO:0000046",
}  # fmt: skip
UNCHECKED = {"RS": "DUO:0000012", "GSO": "DUO:0000016", "MOR": "DUO:0000024", "IS": "DUO:0000028"}
"""In the ontology, but a study has nothing to compare them with."""
WITH_LIST = {
    "GS": "countries, as GS:CH,DE",
    "TS": "the last day, as TS:2027-12-31",
    "US": "requesters or fingerprints, as US:ida",
    "PS": "permits, as PS:FDP-12",
}
ADMITS = {"GRU": ("GRU", "HMB", "DS", "POA"), "HMB": ("HMB", "DS"), "DS": ("DS",), "POA": ("POA",), "CC": ("CC",)}
_CODES = {identifier: code for table in (UNCHECKED, MODIFIERS, USES) for code, identifier in table.items()}
Term = Annotated[str, Field(min_length=1, max_length=500)]


class Permissions(Document):
    """What a data set's consent and contracts allow: `[data.NAME]` in site.toml. use: '' where nothing is stated.

    disease: MONDO identifiers, for DS. modifiers: codes, some with a list, such as 'IRB' or 'GS:CH,DE'. tags: the site's own words, for its rules.
    """

    use: str = ""
    disease: tuple[Annotated[str, Field(pattern=r"^MONDO:\d{7}$")], ...] = ()
    modifiers: Annotated[tuple[Term, ...], Field(max_length=100)] = ()
    tags: Annotated[tuple[Term, ...], Field(max_length=100)] = ()

    @field_validator("use")
    @classmethod
    def _known_use(cls, value: str) -> str:
        code = _CODES.get(value, value)
        if code and code not in USES:
            raise ValueError(f"'{value}' is no data use permission of DUO; {nearest(value, list(USES))}")
        return code

    @field_validator("modifiers")
    @classmethod
    def _known_modifiers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_modifier(term) for term in value)

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (self.use == "DS") != bool(self.disease):
            raise ValueError("disease is given for use = 'DS', and only for it: for example disease = ['MONDO:0005098']")
        return self

    @property
    def codes(self) -> tuple[str, ...]:
        """The modifiers without their lists."""
        return tuple(m.partition(":")[0] for m in self.modifiers)


@dataclass(frozen=True)
class Mismatch:
    """A term of the data set that the study does not meet. code: of DUO. reason: what is missing, in a sentence."""

    code: str
    identifier: str
    reason: str


def mismatches(p: Permissions, g: Governance, requester: str, key: str, today: date) -> tuple[Mismatch, ...]:
    """Every term that is not met, the permission first; empty where all are. requester, key: who signed the study, and the key's fingerprint."""
    found = [Mismatch(p.use, USES[p.use], reason)] if (reason := _use(p, g)) else []
    for term in p.modifiers:
        code, _, rest = term.partition(":")
        wanted = tuple(w.strip() for w in rest.split(",")) if rest else ()
        if reason := _RULES[code](g, wanted, (requester, key), today):
            found.append(Mismatch(code, MODIFIERS[code], reason))
    return tuple(found)


def _use(p: Permissions, g: Governance) -> str:
    if p.use in ("", "NRES"):
        return ""
    if g.use is None:
        return f"The study states no use; this data set is for {p.use}."
    if g.use not in (*ADMITS[p.use], *(("CC",) if "CC" in p.codes else ())):
        return f"The study's use is {g.use}; this data set is for {p.use}."
    if p.use == "DS" and g.use == "DS" and g.disease not in p.disease:
        return f"The study is on {g.disease}; this data set is for {', '.join(p.disease)}."
    return ""


def _last_day(g: Governance, wanted: tuple[str, ...], today: date) -> str:
    last = date.fromisoformat(wanted[0])
    if today > last:
        return f"The data set could be used until {last}."
    if g.valid_until is None or g.valid_until > last:
        return f"The data set may be used until {last}; the study must end by then: valid_until."
    return ""


def _is_user(wanted: tuple[str, ...], requester: str, key: str) -> bool:
    """A fingerprint means a key: the coordinator gives names, and could give one that reads like another's fingerprint."""
    return any(w == (key if _FINGERPRINT.match(w) else requester) for w in wanted)


_FINGERPRINT = re.compile(r"[0-9a-f]{4}(?:-[0-9a-f]{4}){3}\Z")
_Rule = Callable[[Governance, tuple[str, ...], tuple[str, str], date], str]
_RULES: dict[str, _Rule] = {
    "CC": lambda g, w, who, today: "",
    "NMDS": lambda g, w, who, today: "The study develops methods, which this data set is not for." if g.methods else "",
    "NPU": lambda g, w, who, today: "The requester is a company; this data set is for organisations that are not for profit." if g.profit else "",
    "NCU": lambda g, w, who, today: "The study's result is sold; this data set is for non-commercial use." if g.commercial else "",
    "NPUNCU": lambda g, w, who, today: "This data set is for use that is neither commercial nor for profit." if g.profit or g.commercial else "",
    "IRB": lambda g, w, who, today: "" if any(c.isalnum() for c in g.ethics) else "An ethics committee's decision is required: ethics.",
    "PUB": lambda g, w, who, today: "" if g.publishes else "The result must be published: publishes.",
    "COL": lambda g, w, who, today: "" if g.collaborates else "The requester must agree to collaborate with the people behind this data set: collaborates.",
    "RTN": lambda g, w, who, today: "" if g.returns else "Derived data must be returned to this resource: returns.",
    "NPOA": lambda g, w, who, today: "Research on population origins or ancestry is prohibited." if g.use == "POA" else "",
    "GS": lambda g, w, who, today: "" if g.region and set(g.region) <= set(w) else f"The result may go only to {', '.join(w)}: region.",
    "TS": lambda g, w, who, today: _last_day(g, w, today),
    "US": lambda g, w, who, today: "" if _is_user(w, *who) else "The requester is not one of the approved users.",
    "PS": lambda g, w, who, today: "" if g.permit and g.permit in w else "The study names none of the approved projects' permits: permit.",
}


def _modifier(term: str) -> str:
    """In its one form; raises ValueError."""
    head, _, rest = term.partition(":")
    if head == "DUO":  # by its identifier, perhaps with a list behind it
        number, _, rest = rest.partition(":")
        head = _CODES.get(f"DUO:{number}", f"DUO:{number}")
    if head in UNCHECKED:
        raise ValueError(
            f"'{head}' ({UNCHECKED[head]}) is in DUO, but a study has nothing to compare it with; keep it out, and decide it by hand in the review"
        )
    if head not in MODIFIERS:
        raise ValueError(f"'{head}' is no modifier of DUO; {nearest(head, list(MODIFIERS))}")
    words = [w.strip() for w in rest.split(",")]
    if (head in WITH_LIST) != all(words):
        raise ValueError(f"'{head}' needs {WITH_LIST[head]}" if head in WITH_LIST else f"'{head}' takes no list")
    if head == "TS":
        try:
            date.fromisoformat(rest.strip())
        except ValueError:
            raise ValueError(f"'{rest}' is no day; TS needs {WITH_LIST['TS']}") from None
    if head == "GS" and not all(len(w) == 2 and w.isascii() and w.isalpha() and w.isupper() for w in words):
        raise ValueError("GS needs ISO 3166 codes of countries, as GS:CH,DE")
    return f"{head}:{','.join(words)}" if rest else head
