"""The Data Use Ontology: which study fits which data set, a test for every rule. The table is that of `duo.py`'s docstring."""

import itertools
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.errors import LocumError, ManifestError
from locum.governance.policy.duo import ADMITS, MODIFIERS, USES, WITH_LIST, Permissions, mismatches
from locum.study.governance import Governance

TODAY = date(2026, 11, 24)
DISEASE, OTHER = "MONDO:0005098", "MONDO:0005148"
ARGUMENTS = {"GS": "GS:CH,DE", "TS": "TS:2027-06-30", "US": "US:ida,0123-4567-89ab-cdef", "PS": "PS:FDP-12,FDP-13"}


def unmet(permissions: dict[str, Any], requester: str = "ida", key: str = "ffff-0000-0000-0000", **governance: Any) -> list[str]:
    return [m.code for m in mismatches(Permissions.parse(permissions), Governance.parse(governance), requester, key, TODAY)]


def with_disease(code: str | None) -> dict[str, Any]:
    return {"use": code, **({"disease": DISEASE} if code == "DS" else {})}


ADMITTED = {
    "NRES": {None, "GRU", "HMB", "DS", "POA", "CC"},
    "GRU": {"GRU", "HMB", "DS", "POA"},
    "HMB": {"HMB", "DS"},
    "DS": {"DS"},
    "POA": {"POA"},
    "CC": {"CC"},
}


@pytest.mark.parametrize(("data", "asked"), list(itertools.product(ADMITTED, [None, "GRU", "HMB", "DS", "POA", "CC"])))
def test_permission_and_use(data: str, asked: str | None) -> None:
    permissions = {"use": data, **({"disease": [DISEASE]} if data == "DS" else {})}
    assert unmet(permissions, **with_disease(asked)) == ([] if asked in ADMITTED[data] else [data])
    assert unmet({}, **with_disease(asked)) == []  # nothing stated here: what then holds is for the rules to say


def test_a_disease_is_the_same_or_one_of_a_list() -> None:
    both = {"use": "DS", "disease": [DISEASE, OTHER]}
    assert unmet(both, use="DS", disease=OTHER) == []
    assert unmet({"use": "DS", "disease": [DISEASE]}, use="DS", disease=OTHER) == ["DS"]
    assert unmet({"use": "HMB"}, use="DS", disease=OTHER) == []


MET_AND_NOT: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("NMDS", {}, {"methods": True}),
    ("NPU", {"commercial": True}, {"profit": True}),
    ("NCU", {"profit": True}, {"commercial": True}),
    ("NPUNCU", {}, {"profit": True}),
    ("NPUNCU", {}, {"commercial": True}),
    ("IRB", {"ethics": "2026-017"}, {}),
    ("IRB", {"ethics": "2026-017"}, {"ethics": " "}),
    ("PUB", {}, {"publishes": False}),
    ("COL", {"collaborates": True}, {}),
    ("RTN", {"returns": True}, {}),
    ("NPOA", {"use": "HMB"}, {"use": "POA"}),
    ("GS", {"region": ["CH"]}, {"region": ["CH", "US"]}),
    ("GS", {"region": ["DE", "CH"]}, {}),
    ("TS", {"valid_until": date(2027, 6, 30)}, {"valid_until": date(2027, 7, 1)}),
    ("TS", {"valid_until": date(2027, 1, 1)}, {}),
    ("PS", {"permit": "FDP-13"}, {"permit": "FDP-14"}),
    ("PS", {"permit": "FDP-12"}, {}),
]


@pytest.mark.parametrize(("code", "met", "not_met"), MET_AND_NOT)
def test_modifier(code: str, met: dict[str, Any], not_met: dict[str, Any]) -> None:
    permissions = {"modifiers": [ARGUMENTS.get(code, code)]}
    assert unmet(permissions, **met) == []
    assert unmet(permissions, **not_met) == [code]


def test_us_names_a_requester_or_a_key() -> None:
    permissions = {"modifiers": [ARGUMENTS["US"]]}
    assert unmet(permissions, "ida") == []
    assert unmet(permissions, "eve", "0123-4567-89ab-cdef") == []
    assert unmet(permissions, "eve") == ["US"]


def test_ts_is_over() -> None:
    assert unmet({"modifiers": ["TS:2026-11-23"]}, valid_until=date(2026, 11, 23)) == ["TS"]
    assert unmet({"modifiers": ["TS:2026-11-24"]}, valid_until=date(2026, 11, 24)) == []


def test_cc_as_a_modifier_adds_clinical_care() -> None:
    assert unmet({"use": "HMB", "modifiers": ["CC"]}, use="CC") == []
    assert unmet({"use": "HMB", "modifiers": ["CC"]}, use="HMB") == []
    assert unmet({"use": "HMB"}, use="CC") == ["HMB"]


def test_every_modifier_has_a_test() -> None:
    assert {code for code, *_ in MET_AND_NOT} | {"US", "CC"} == set(MODIFIERS)


def test_every_term_that_is_not_met_is_named_with_its_identifier() -> None:
    permissions = Permissions.parse({"use": "HMB", "modifiers": ["IRB", "GS:CH"]})
    found = mismatches(permissions, Governance(), "ida", "", TODAY)
    assert [(m.code, m.identifier) for m in found] == [("HMB", "DUO:0000006"), ("IRB", "DUO:0000021"), ("GS", "DUO:0000022")]
    assert "states no use" in found[0].reason


def test_identifiers_in_place_of_codes() -> None:
    p = Permissions.parse({"use": "DUO:0000006", "modifiers": ["DUO:0000021", "DUO:0000022:CH, DE"]})
    assert (p.use, p.modifiers, p.codes) == ("HMB", ("IRB", "GS:CH,DE"), ("IRB", "GS"))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"use": "HMD"}, "did you mean 'HMB'"),
        ({"use": "DUO:9999999"}, "no data use permission"),
        ({"use": "HMB", "disease": [DISEASE]}, "only for it"),
        ({"use": "DS"}, "only for it"),
        ({"use": "DS", "disease": ["stroke"]}, "disease"),
        ({"modifiers": ["IRBB"]}, "did you mean 'IRB'"),
        ({"modifiers": ["DUO:0000099"]}, "no modifier"),
        ({"modifiers": ["GSO"]}, "nothing to compare it with"),
        ({"modifiers": ["DUO:0000024"]}, "'MOR'"),
        ({"modifiers": ["GS"]}, "needs countries"),
        ({"modifiers": ["GS:CH,"]}, "needs countries"),
        ({"modifiers": ["GS:Switzerland"]}, "ISO 3166"),
        ({"modifiers": ["TS:12"]}, "no day"),
        ({"modifiers": ["TS:2027-13-01"]}, "no day"),
        ({"modifiers": ["IRB:x"]}, "takes no list"),
        ({"modifiers": [""]}, "modifiers"),
        ({"modifier": ["IRB"]}, "did you mean 'modifiers'"),
        ({"modifiers": ["X" * 501]}, "modifiers"),
    ],
)
def test_permissions_that_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ManifestError, match=says):
        Permissions.parse(wrong)


@given(st.text(max_size=30))
def test_any_other_text_is_refused_in_words(text: str) -> None:
    for key, value in (("use", text), ("modifiers", [text])):
        try:
            p = Permissions.parse({key: value, **({"disease": [DISEASE]} if text in ("DS", USES["DS"]) else {})})
        except ManifestError:
            continue
        assert p.use in ("", *ADMITS, "NRES")
        assert set(p.codes) <= set(MODIFIERS)
        assert all(":" in m for m in p.modifiers if m[:2] in WITH_LIST)


@given(st.sampled_from([*ADMITS, "NRES", ""]), st.sets(st.sampled_from(sorted(MODIFIERS))), st.booleans(), st.booleans(), st.sampled_from(["HMB", "CC", None]))
def test_a_further_modifier_never_opens_more_but_for_cc(use: str, modifiers: set[str], profit: bool, methods: bool, asked: str | None) -> None:
    base = {"use": use, **({"disease": [DISEASE]} if use == "DS" else {})}
    terms = [ARGUMENTS.get(m, m) for m in sorted(modifiers - {"CC"})]
    before = unmet(base, use=asked, profit=profit, methods=methods)
    assert set(before) <= set(unmet({**base, "modifiers": terms}, use=asked, profit=profit, methods=methods))


def test_a_requester_named_like_a_fingerprint_is_not_that_key() -> None:
    g, today = Governance.parse({"use": "HMB"}), date(2026, 11, 24)
    print_ = "0123-4567-89ab-cdef"
    users = Permissions.parse({"use": "HMB", "modifiers": [f"US:{print_}"]})
    assert mismatches(users, g, print_, "ffff-ffff-ffff-ffff", today)
    assert not mismatches(users, g, "anybody", print_, today)
    assert not mismatches(Permissions.parse({"use": "HMB", "modifiers": ["US:ida"]}), g, "ida", print_, today)


@pytest.mark.parametrize("ethics", ["", " ", "\u200b", "-", "\u3164"])
def test_an_ethics_decision_that_cannot_be_read_is_none(ethics: str) -> None:
    wanted = Permissions.parse({"use": "HMB", "modifiers": ["IRB"]})
    try:
        g = Governance.parse({"use": "HMB", "ethics": ethics})
    except LocumError:
        return
    found = mismatches(wanted, g, "ida", "k", date(2026, 11, 24))
    assert found or ethics == "\u3164"  # a Hangul filler is a letter to Unicode
