"""What happens in a federation, as entries of its log: who did what to which study, run, round or model, by digest.

An entry is RFC 8785 JSON: {"at", "by", "details", "event", "subject"}. It names parties, as they are enrolled, and digests; never a patient, never
what a task computed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from locum.governance.log.merkle import LogError
from locum.study.canonical import canonical

MAX_ENTRY_BYTES = (1 << 16) - 1
"""A bundle of entries gives each its length in two bytes."""


def log_origin(federation: str) -> str:
    """The name of a federation's log: it is in every checkpoint."""
    return f"locum.log/{federation}"


class Event(StrEnum):
    """source:subject:action."""

    LOG_OPENED = "coordinator:log:opened"
    PARTY_INVITED = "operator:party:invited"
    PARTY_ENROLLED = "party:party:enrolled"
    PARTY_REVOKED = "operator:party:revoked"
    ROSTER_INSTALLED = "consortium:roster:installed"
    STUDY_SUBMITTED = "investigator:study:submitted"
    STUDY_APPROVED = "site:study:approved"
    STUDY_DENIED = "site:study:denied"
    RUN_CREATED = "investigator:run:created"
    RUN_STARTED = "coordinator:run:started"
    RUN_CANCELLED = "investigator:run:cancelled"
    RUN_FAILED = "coordinator:run:failed"
    ROUND_COMBINED = "coordinator:round:combined"
    ROUND_FAILED = "coordinator:round:failed"
    MODEL_MADE = "coordinator:model:made"
    MODEL_PROPOSED = "investigator:model:proposed"
    MODEL_WITHDRAWN = "party:model:withdrawn"
    MODEL_PROMOTED = "approver:model:promoted"
    MODEL_BLOCKED = "coordinator:model:blocked"
    MODEL_ROLLED_BACK = "approver:model:rolled-back"
    ACCESS_DENIED = "coordinator:access:denied"


@dataclass(frozen=True)
class Entry:
    """One line of the log. at: Unix seconds. by: the party that did it. subject: a digest, a run's id or a party's name."""

    at: float
    event: Event
    by: str
    subject: str
    details: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The bytes that are hashed. Raises `LogError` for more than an entry may have."""
        body = canonical({"at": self.at, "by": self.by, "details": self.details, "event": str(self.event), "subject": self.subject})
        if len(body) > MAX_ENTRY_BYTES:
            raise LogError("An entry of the log would be larger than 64 KiB.")
        return body

    @classmethod
    def decode(cls, body: bytes) -> Entry:
        """Raises `LogError`."""
        try:
            value = json.loads(body)
            entry = cls(value["at"], Event(value["event"]), value["by"], value["subject"], value["details"])
            if set(value) != {"at", "by", "details", "event", "subject"} or entry.encode() != body:
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise LogError("An entry of the log is not in its one form.", fix="update to the release that the coordinator runs") from None
        return entry
