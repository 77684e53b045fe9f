"""The consortium's list of sites: only its key makes one, and nothing but its one form is read."""

import json

import msgspec
import pytest

from locum.errors import EnvelopeError, LocumError, ManifestError
from locum.federation.identity import Identity
from locum.federation.roster import Roster, SignedRoster, changes

OFFICE = Identity.generate()
KEYS = {name: str(Identity.generate().public) for name in ("a", "b", "c")}


def roster(**change: object) -> Roster:
    return Roster(**{"federation": "f", "version": 1, "issued": 5.0, "sites": KEYS, **change})  # type: ignore[arg-type]


def test_a_signed_roster_opens_to_the_sites_keys() -> None:
    signed = SignedRoster.of(roster(), OFFICE)
    assert {name: str(key) for name, key in signed.open(OFFICE.public, "f").keys.items()} == KEYS


def test_another_key_another_federation_and_an_altered_text_are_refused() -> None:
    signed = SignedRoster.of(roster(), OFFICE)
    with pytest.raises(EnvelopeError, match="not signed by the consortium"):
        signed.open(Identity.generate().public, "f")
    with pytest.raises(EnvelopeError, match="another federation"):
        signed.open(OFFICE.public, "g")
    altered = msgspec.structs.replace(signed, body=signed.body.replace('"version":1', '"version":2'))
    with pytest.raises(EnvelopeError):
        altered.open(OFFICE.public, "f")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        json.dumps(json.loads(roster().encode()), indent=1),
        roster(schema="locum/roster/9").encode(),
        roster(sites={"../etc": KEYS["a"]}).encode(),
        roster(sites={"a": "short"}).encode(),
        roster(sites={"a": KEYS["a"], "b": KEYS["a"]}).encode(),
        roster().encode().replace('"version":1', '"version":1,"more":1'),
        "x" * (2 << 20),
    ],
    ids=["empty", "list", "nothing in it", "another form", "schema", "name", "key", "one key twice", "unknown field", "too long"],
)
def test_what_is_no_roster_is_not_read_even_if_it_is_signed(text: str) -> None:
    with pytest.raises(LocumError):
        Roster.decode(text)
    forged = SignedRoster(body=text, signature=SignedRoster.of(roster(), OFFICE).signature)
    with pytest.raises((EnvelopeError, ManifestError)):
        forged.open(OFFICE.public, "f")


def test_who_signs_is_shown_what_changes() -> None:
    new = {"a": KEYS["a"], "b": KEYS["c"], "d": KEYS["b"]}
    assert changes(roster(), new) == {"added": ["d"], "removed": ["c"], "changed": ["b"]}
    assert changes(None, KEYS) == {"added": ["a", "b", "c"], "removed": [], "changed": []}
