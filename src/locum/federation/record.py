"""What the coordinator serves of a finished run to the investigator who asked for it: all that an audit bundle is made of."""

from __future__ import annotations

import msgspec

from locum.federation.roster import SignedRoster
from locum.study.canonical import canonical

ENTRIES = b"locum/log-entries/1"
"""The label under which the coordinator signs which entries of its log are about some subjects: an inclusion proof shows that an entry is there,
and this that none was left out; a coordinator that leaves one out has signed a lie."""


class ProvedEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of the log, and the hashes (hexadecimal) that lead from it to the checkpoint's root."""

    n: int
    body: str
    proof: tuple[str, ...]


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """RFC 8785 text, and the coordinator's signature over it."""

    body: str
    signature: str


class RunRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A finished run. results: RFC 8785 text. checkpoint: a signed note that covers every entry. rounds: how many `RoundRecord`s there are."""

    study: str
    run: str
    model: str
    model_bytes: int
    requester: str
    manifest: str
    envelope: str
    results: str
    rosters: tuple[SignedRoster, ...]
    checkpoint: str
    entries: tuple[ProvedEntry, ...]
    complete: Statement
    rounds: int


class RoundRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One round: its assignment and the coordinator's envelope over it; answers: site -> the envelope over the vector that it released."""

    seq: int
    body: str
    envelope: str
    answers: dict[str, str]


def listing(origin: str, size: int, root: bytes, subjects: list[str], entries: list[int]) -> bytes:
    """The text of `RunRecord.complete`."""
    return canonical({"entries": entries, "origin": origin, "root": root.hex(), "size": size, "subjects": sorted(subjects)})
