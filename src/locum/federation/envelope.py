"""Signed envelopes and signed requests.

An envelope binds a body's SHA-256 to (kind, study, run, seq, phase, sender), so neither a proxy that intercepts TLS nor
the coordinator can alter it or replay it into another round. A request's signature binds method, target, time and the
federation, so that a stolen connection is worth nothing.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from locum.errors import ClockError, EnvelopeError, NotEnrolled
from locum.federation.identity import Identity, PublicKey, b64, unb64

ENVELOPE = b"locum/envelope/1"
REQUEST = b"locum/request/1"
MAX_ENVELOPE_CHARS = 8192
CLOCK_TOLERANCE_S = 300.0
EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

Kind = Literal[
    "study", "approval", "denial", "assignment", "notice", "release", "decline", "ledger", "proposal", "promotion", "rollback", "withdrawal"
]  # fmt: skip


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a signature covers. digest: SHA-256 of the body. seq is -1 and run is empty where they do not apply.

    context: what the body answers beyond that; for a masked vector J, the transcript of everybody who joined.
    """

    kind: Kind
    study: str
    sender: str
    digest: str
    run: str = ""
    seq: int = -1
    phase: str = ""
    context: str = ""

    def seal(self, identity: Identity) -> str:
        """Header-safe text: base64(signature || JSON)."""
        payload = msgspec.json.encode(self)
        return b64(identity.sign(ENVELOPE, payload) + payload)

    @classmethod
    def peek(cls, text: str) -> Envelope:
        """Decode what was verified before."""
        return msgspec.json.decode(unb64(text, limit=MAX_ENVELOPE_CHARS)[64:], type=cls)

    @classmethod
    def open(cls, text: str, key: PublicKey, **expected: object) -> Envelope:
        """Verify and decode; every keyword names a field and the value it must have. Raises `EnvelopeError`."""
        if len(text) > MAX_ENVELOPE_CHARS:
            raise EnvelopeError("The envelope is longer than it may be.")
        try:
            raw = unb64(text, limit=MAX_ENVELOPE_CHARS)
        except NotEnrolled:
            raise EnvelopeError("The envelope is not valid base64.") from None
        signature, payload = raw[:64], raw[64:]
        if len(signature) != 64 or not key.verify(ENVELOPE, signature, payload):
            raise EnvelopeError(
                "The envelope's signature is not the sender's.",
                why="It was forged, or altered on the way.",
                fix="if this repeats, ask the other side to compare key fingerprints",
            )
        try:
            envelope = msgspec.json.decode(payload, type=cls)
        except msgspec.DecodeError:
            raise EnvelopeError("The envelope's content is not what this version understands.", fix="update both sides to the same release") from None
        for name, value in expected.items():
            if getattr(envelope, name) != value:
                raise EnvelopeError(f"The envelope was made for another {name}.", why="It is stale, or was replayed.")
        return envelope


def sign_request(identity: Identity, *, federation: str, sender: str, method: str, target: str, digest: str, now: float) -> str:
    """The Authorization header of one request. target: path and query. digest: SHA-256 of the body, or of the whole blob that the body is part of."""
    time = f"{now:.3f}"
    signature = identity.sign(REQUEST, _request(federation, sender, method, target, time, digest))
    return f"Locum sender={sender},time={time},digest={digest},signature={b64(signature)}"


class Caller(msgspec.Struct, frozen=True):
    """The unverified claims of an Authorization header."""

    sender: str
    time: str
    digest: str
    signature: str

    @classmethod
    def parse(cls, header: str | None) -> Caller:
        """Raises `NotEnrolled`."""
        scheme, _, rest = (header or "").partition(" ")
        parts = dict(p.partition("=")[::2] for p in rest.split(",")) if len(rest) < 1024 else {}
        if scheme != "Locum" or set(parts) != {"sender", "time", "digest", "signature"}:
            raise NotEnrolled("This request is not signed by an enrolled party.", fix="enrol with an invitation from the coordinator's operator")
        return cls(**parts)

    def verify(self, key: PublicKey, *, federation: str, method: str, target: str, now: float) -> None:
        """Raises `NotEnrolled` for a bad signature, `ClockError` for a time too far from `now` (Unix seconds)."""
        message = _request(federation, self.sender, method, target, self.time, self.digest)
        if not key.verify(REQUEST, unb64(self.signature, limit=128), message):
            raise NotEnrolled("The request's signature is not the sender's.", fix="if this repeats, compare key fingerprints with the coordinator's operator")
        try:
            skew = float(self.time) - now
        except ValueError:
            raise NotEnrolled("The request's time is not a number.") from None
        if not abs(skew) <= CLOCK_TOLERANCE_S:
            raise ClockError(
                f"The sender's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the coordinator's.",
                fix="set the clock (NTP) on the machine that is wrong",
            )


def _request(federation: str, sender: str, method: str, target: str, time: str, digest: str) -> bytes:
    return "\n".join((federation, sender, method, target, time, digest)).encode()
