"""The roster: which sites there are, and their identity keys, signed by the consortium's key.

Whoever holds the consortium's key decides who belongs. It is not the coordinator's key, and is best kept elsewhere: a
coordinator that could sign a roster could fill a cohort with sites of its own and subtract them from the sum.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from locum.errors import EnvelopeError, ManifestError
from locum.federation.identity import Identity, PublicKey, b64, unb64
from locum.study.canonical import canonical
from locum.study.manifest import NAME

LABEL = b"locum/roster/1"
SCHEMA = "locum/roster/1"
MAX_ROSTER_BYTES = 1 << 20


class Roster(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """version grows with every signature; a site never goes back to an older one. sites: name -> public key (text)."""

    schema: str = SCHEMA
    federation: str
    version: int
    issued: float
    sites: dict[str, str]

    def encode(self) -> str:
        """The one text that is signed: RFC 8785 JSON."""
        return canonical(msgspec.to_builtins(self)).decode()

    @classmethod
    def decode(cls, text: str) -> Roster:
        """Raises `ManifestError`."""
        if len(text) > MAX_ROSTER_BYTES:
            raise ManifestError("The roster is longer than it may be.")
        try:
            roster = msgspec.json.decode(text, type=cls)
            keys = {name: PublicKey.parse(key) for name, key in roster.sites.items()}
        except msgspec.DecodeError:
            raise ManifestError("The roster is not what this version understands.", fix="update both sides to the same release") from None
        if roster.schema != SCHEMA or roster.encode() != text or not all(NAME.match(name) for name in keys):
            raise ManifestError("The roster is not in its one form.", fix="make it with 'locum roster draft'")
        if len({k.raw for k in keys.values()}) < len(keys):
            raise ManifestError("Two sites of the roster have the same key.", fix="each site needs a key of its own")
        return roster

    @property
    def keys(self) -> dict[str, PublicKey]:
        return {name: PublicKey.parse(key) for name, key in self.sites.items()}


class SignedRoster(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A roster's text and the consortium's signature over it."""

    body: str
    signature: str

    @classmethod
    def of(cls, roster: Roster, consortium: Identity) -> SignedRoster:
        body = roster.encode()
        return cls(body=body, signature=b64(consortium.sign(LABEL, body.encode())))

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.body.encode()).hexdigest()

    def open(self, consortium: PublicKey, federation: str) -> Roster:
        """Verify and decode. Raises `EnvelopeError` or `ManifestError`."""
        if not consortium.verify(LABEL, unb64(self.signature, limit=128), self.body.encode()):
            raise EnvelopeError(
                "The roster is not signed by the consortium.",
                why="It was altered, or made by somebody else.",
                fix="compare the consortium's key fingerprint with the one in your invitation",
            )
        roster = Roster.decode(self.body)
        if roster.federation != federation:
            raise EnvelopeError("The roster is another federation's.")
        return roster


def changes(old: Roster | None, new: dict[str, str]) -> dict[str, Any]:
    """What a person who signs should look at: who is new, who is gone, whose key is another one."""
    before = old.sites if old else {}
    return {
        "added": sorted(set(new) - set(before)),
        "removed": sorted(set(before) - set(new)),
        "changed": sorted(name for name in set(new) & set(before) if new[name] != before[name]),
    }
