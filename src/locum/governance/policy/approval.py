"""What exactly a person at a site approved: the study, under which policy, by which program, and until when.

    {"code": hex, "data": name, "policy": hex, "schema": "locum/approval/1", "study": hex, "valid_until": "2027-12-31" or null}

One form, RFC 8785 JSON, so that it can be signed and compared as bytes. It holds no count and nothing else that was read from the data.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import date

from locum.governance.policy.source import PolicyError
from locum.study.canonical import DIGEST, canonical

SCHEMA = "locum/approval/1"
MAX_BYTES = 4096


@dataclass(frozen=True)
class Approval:
    """study, policy, code: digests. data: the data set's name at the site. valid_until: the last day on which it counts."""

    study: str
    policy: str
    code: str
    data: str
    valid_until: date | None = None

    def encode(self) -> str:
        """The one text."""
        until = self.valid_until.isoformat() if self.valid_until else None
        return canonical({**asdict(self), "valid_until": until, "schema": SCHEMA}).decode()

    @classmethod
    def decode(cls, text: str) -> Approval:
        """Raises `PolicyError` for anything but the one form."""
        try:
            if len(text) > MAX_BYTES:
                raise ValueError
            value = json.loads(text)
            until = value["valid_until"]
            found = cls(value["study"], value["policy"], value["code"], value["data"], None if until is None else date.fromisoformat(until))
            if not all(isinstance(d, str) and DIGEST.match(d) for d in (found.study, found.policy, found.code)) or found.encode() != text:
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise PolicyError("The approval on record is not in its one form.", why="It was edited, or kept by a later release.", fix="approve again") from None
        return found

    def expired(self, today: date) -> bool:
        return self.valid_until is not None and today > self.valid_until
