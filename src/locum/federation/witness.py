"""The coordinator as a witness of the sites' privacy ledgers: it keeps the last line's number and hash that each site has signed.

A site whose folder was put back from an old copy, ledger and anchor together, finds that its own statement knows more than its
ledger does. The coordinator cannot invent such a statement; it can withhold one, which leaves the site where it was without it. It
learns what the site calls the data set and how many lines its ledger has, and nothing of what they say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from locum.errors import EnvelopeError
from locum.federation.envelope import Envelope
from locum.federation.identity import Identity, PublicKey
from locum.study.canonical import sha256

MOST = 1000
"""Ledgers of one site."""


class LedgerHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a site's ledger of one data set stands. n, hash: of its last line."""

    site: str
    data: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
    n: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    hash: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


class SignedHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON text of a `LedgerHead`, and the site's envelope over it."""

    body: str
    envelope: str

    @classmethod
    def seal(cls, head: LedgerHead, identity: Identity) -> SignedHead:
        body = msgspec.json.encode(head).decode()
        return cls(body, Envelope(kind="ledger", study="", sender=head.site, digest=sha256(body.encode())).seal(identity))

    def open(self, site: str, key: PublicKey) -> LedgerHead:
        """Raises `EnvelopeError` unless `site` has signed it."""
        Envelope.open(self.envelope, key, kind="ledger", sender=site, digest=sha256(self.body.encode()))
        try:
            head = msgspec.json.decode(self.body, type=LedgerHead)
        except (msgspec.DecodeError, UnicodeEncodeError):
            raise EnvelopeError("The statement is not one about a ledger.", fix="update both sides to the same release") from None
        if head.site != site:
            raise EnvelopeError("The statement is about another site's ledger.")
        return head


class SignedHeads(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a site has stated."""

    heads: Sequence[SignedHead]
