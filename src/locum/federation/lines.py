"""A line of models, version after version: what people sign about them, and what others read.

A decision names the version, its run, model and study, the verdict that was read, and the line's state: the SHA-256 over all decisions before. So
it can be neither invented, nor moved to another version, nor used a second time: after any decision the state is another one.

    state_0     = SHA-256("locum/line/1" 0 line)
    state_(n+1) = SHA-256(state_n's 64 digits, then the decision's text)
"""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec

from locum.errors import EnvelopeError, ManifestError
from locum.federation.envelope import Envelope, Kind
from locum.federation.identity import Identity, PublicKey
from locum.study.canonical import canonical, sha256

SCHEMA = "locum/decision/1"
MAX_DECISION_BYTES = 8192
MAX_AUDIT_BYTES = 1 << 18
Action = Literal["propose", "promote", "roll-back", "withdraw"]
Status = Literal["candidate", "current", "superseded", "withdrawn", "rolled-back"]
IN_USE = ("current", "superseded", "rolled-back")
"""A version that is or was current."""
KINDS: dict[Action, Kind] = {"propose": "proposal", "promote": "promotion", "roll-back": "rollback", "withdraw": "withdrawal"}


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """verdict: SHA-256 of the verdict that was read, for a promotion. audit: of the attack report that goes with a proposal, if one does."""

    schema: str = SCHEMA
    action: Action
    line: str
    version: int
    run: str
    model: str
    study: str
    state: str
    verdict: str = ""
    audit: str = ""
    reason: str = ""

    def seal(self, sender: str, identity: Identity) -> SignedDecision:
        body = canonical(msgspec.to_builtins(self)).decode()
        fields = {"study": self.study, "run": self.run, "seq": self.version, "phase": self.line, "context": self.state}
        return SignedDecision(body=body, envelope=Envelope(kind=KINDS[self.action], sender=sender, digest=sha256(body.encode()), **fields).seal(identity))  # type: ignore[arg-type]


class SignedDecision(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A decision's one text, and the envelope over it."""

    body: str
    envelope: str

    def open(self, sender: str, key: PublicKey) -> Decision:
        """Verify and decode. Raises `EnvelopeError`, or `ManifestError` for what is no decision."""
        raw = self.body.encode("utf-8", "replace")
        if len(raw) > MAX_DECISION_BYTES:
            raise ManifestError("The decision is longer than it may be.", fix="shorten the reason")
        try:
            found = msgspec.json.decode(raw, type=Decision)
        except msgspec.DecodeError:
            raise ManifestError("The decision is not what this version understands.", fix="update both sides to the same release") from None
        if found.schema != SCHEMA or canonical(msgspec.to_builtins(found)) != raw:
            raise ManifestError("The decision is not in its one form.", fix="update both sides to the same release")
        bound = {"study": found.study, "run": found.run, "seq": found.version, "phase": found.line, "context": found.state}
        Envelope.open(self.envelope, key, kind=KINDS[found.action], sender=sender, digest=sha256(raw), **bound)
        return found


class Proposal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A new version. audit: JSON text of 'locum privacy audit --json', where the study's gate asks for it."""

    decision: SignedDecision
    audit: str = ""


class VersionView(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One version. verdict: its JSON text, and audit: the attack report's, where a single version is asked for. verdict_digest: SHA-256 of the
    verdict. reasons: why it blocks. basis: the version whose study was approved. previous: the version that it took the place of. state: of the
    line, for the next signature.
    """

    line: str
    version: int
    status: Status
    run: str
    model: str
    study: str
    basis: int
    previous: int | None
    requester: str
    requested: float
    approver: str | None
    decided: float | None
    passes: bool
    reasons: tuple[str, ...]
    verdict_digest: str
    state: str
    verdict: str = ""
    audit: str = ""


class DecisionView(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A decision as it was signed. key: the signer's, as it was enrolled then."""

    by: str
    key: str
    at: float
    body: str
    envelope: str


class LineView(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: str
    owner: str
    state: str
    current: int | None
    versions: tuple[VersionView, ...]
    decisions: tuple[DecisionView, ...] = ()

    def check(self) -> list[Decision]:
        """The decisions, each verified against the key that is named with it, whose chain ends in `state`. Raises `EnvelopeError`.

        Whose key it is, the log says (PARTY_ENROLLED): compare fingerprints.
        """
        state, out = first_state(self.name), []
        for d in self.decisions:
            decision = SignedDecision(body=d.body, envelope=d.envelope).open(d.by, PublicKey.parse(d.key))
            if (decision.line, decision.state) != (self.name, state):
                raise EnvelopeError("The line's decisions do not follow from each other.", why="One is missing, or was put in.", fix="compare it with the log")
            state = next_state(state, d.body)
            out.append(decision)
        if state != self.state:
            raise EnvelopeError("The line's state is not that of its decisions.", fix="compare it with the log")
        return out


def report_of(audit: str) -> dict[str, Any] | None:
    """The attack report in a version's `audit`, None where there is none. Raises `ValueError` for what is no JSON object."""
    found = json.loads(audit, parse_constant=lambda _: None) if audit else None
    if found is not None and not isinstance(found, dict):
        raise ValueError
    return found


def first_state(line: str) -> str:
    return sha256(b"locum/line/1\0", line.encode())


def next_state(state: str, body: str) -> str:
    return sha256(state.encode(), body.encode())


def decision_of(view: VersionView, action: Action, **more: Any) -> Decision:
    """What is to be signed about a version."""
    return Decision(action=action, line=view.line, version=view.version, run=view.run, model=view.model, study=view.study, state=view.state, **more)
