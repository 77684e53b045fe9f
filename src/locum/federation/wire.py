"""The messages of the network, and their bounds. Bodies are JSON (msgspec, typed, unknown fields refused).

One round, seen from a site:

    GET  /v1/work?wait=25&known=...            long-poll -> Work(assignments=[signed], studies=[...])
    GET  /v1/runs/{run}/rounds/{seq}/state     safetensors, Range to resume, checked against the signed digest
    GET  /v1/roster                            the consortium's signed list of sites, for masked rounds
    GET  /v1/runs/{run}/rounds/{seq}/{phase}   a masked round's later phases: what this site is to answer, unless the notice held it
    PUT  /v1/runs/{run}/rounds/{seq}/{phase}   the release: header Locum-Envelope, body = vector up to INLINE_BYTES, else empty after
    PUT  /v1/runs/{run}/rounds/{seq}/upload/{sha256}   header Upload-Offset, body = the rest of the vector; HEAD asks how much has arrived
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any, Literal

import msgspec

from locum.errors import LocumError, NotEnrolled
from locum.federation.identity import PublicKey

INLINE_BYTES = 1 << 20
"""A vector up to this size travels inside its message; a larger one is uploaded first, resumably."""

NOTICE_BYTES = 16 << 10
"""What a site is to answer travels inside the notice up to this size; a larger one is fetched."""

MAX_JSON_BYTES = 1 << 20
LONG_POLL_S = 25.0
Role = Literal["site", "investigator", "approver"]


class Session(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Under which pairwise secrets a round is masked. roster: digest of the consortium's signed roster. seq: the round of this
    run that sets (or has set) the secrets up.
    """

    roster: str
    seq: int


class Assignment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a site is asked to do in one round. The coordinator signs it once, for all sites of the roster.

    step and iteration say where in the approved plan; the site runs the task of its own copy of the manifest. state and
    layout are SHA-256 digests; deadline is Unix seconds; seed feeds the task's random generator. phase: the round's first.
    session: only where updates are masked.
    """

    study: str
    run: str
    seq: int
    step: int
    iteration: int
    roster: tuple[str, ...]
    state: str
    state_bytes: int
    layout: str
    vector_bytes: int
    deadline: float
    seed: int
    phase: str = "release"
    session: Session | None = None

    def encode(self) -> bytes:
        return msgspec.json.encode(self)


class SignedAssignment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON text of an assignment, or of a notice, and the coordinator's envelope over it."""

    body: str
    envelope: str


class Notice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one site is asked in a later phase of a masked round. digest, size: of the message to answer; body: the message
    itself if it is small.
    """

    study: str
    run: str
    seq: int
    phase: str
    deadline: float
    digest: str
    size: int
    body: bytes = b""

    def encode(self) -> bytes:
        return msgspec.json.encode(self)


class Work(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The answer to a poll: what the site has not yet been given. studies: digests that await the site's decision."""

    assignments: tuple[SignedAssignment, ...] = ()
    notices: tuple[SignedAssignment, ...] = ()
    studies: tuple[str, ...] = ()


class StudyView(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A submitted study with its requester's signature over the digest."""

    digest: str
    manifest: str
    envelope: str
    requester: str
    requester_key: str
    submitted: float
    approvals: tuple[str, ...] = ()
    denials: tuple[str, ...] = ()


class RoundView(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One round as it went. bytes_in is what sites uploaded, bytes_out the state times the sites that were asked.

    vector_bytes, scalars: of one site's vector on the wire; their ratio is the bytes per parameter. summed: sites in the sum.
    """

    seq: int
    step: str
    iteration: int
    status: str
    opened: float
    closed: float | None
    asked: int
    answered: int
    declined: dict[str, str]
    bytes_in: int
    bytes_out: int
    phase: str = "release"
    vector_bytes: int = 0
    scalars: int = 0
    summed: int = 0


class RunView(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A run's progress and, when it has ended, its answer. version grows with every change, for long-polling.

    note: what somebody must do before it can go on.
    """

    id: str
    study: str
    name: str
    status: Literal["waiting", "running", "finished", "failed", "cancelled"]
    version: int
    step: int
    steps: tuple[str, ...]
    iteration: int
    seq: int
    asked: int
    answered: int
    approvals: int
    needed: int
    created: float
    started: float | None
    ended: float | None
    protection: str
    model: str | None
    error: str
    results: dict[str, Any]
    note: str = ""


class ModelView(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model: id is the SHA-256 of its safetensors file."""

    id: str
    run: str
    study: str
    name: str
    bytes: int
    created: float


class Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Hashes of a proof in the log, in hexadecimal, in the order of RFC 9162."""

    hashes: tuple[str, ...]


class LogEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of the log: its number, and the JSON text that is hashed."""

    n: int
    body: str


class LogEntries(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    entries: tuple[LogEntry, ...]


class Enrolment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A newcomer's request: the invitation's token, its public key, and a signature that proves it holds the private key."""

    token: str
    public_key: str
    proof: str


class Enrolled(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The coordinator's answer to a good invitation."""

    name: str
    role: Role
    federation: str


class Invitation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an operator hands to a hospital, out of band: where, whom to trust, and a token that works once.

    consortium_key: whose signature on the roster says which sites there are.
    """

    url: str
    name: str
    role: Role
    token: str
    coordinator_key: str
    expires: float
    ca: str = ""
    consortium_key: str = ""

    PREFIX = "locum1:"

    def text(self) -> str:
        return self.PREFIX + base64.urlsafe_b64encode(msgspec.json.encode(self)).decode()

    @classmethod
    def parse(cls, text: str) -> Invitation:
        """Raises `NotEnrolled`."""
        text = "".join(text.split())
        if not text.startswith(cls.PREFIX) or len(text) > 16384:
            raise NotEnrolled("That is not a Locum invitation.", fix=f"paste the whole text that starts with '{cls.PREFIX}'")
        try:
            return msgspec.json.decode(base64.urlsafe_b64decode(text.removeprefix(cls.PREFIX)), type=cls)
        except (ValueError, msgspec.DecodeError):
            raise NotEnrolled("The invitation is damaged or cut off.", fix="paste the whole text again") from None


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every error response: the LocumError's code and its three sentences."""

    error: str
    what: str
    why: str = ""
    fix: str = ""

    @classmethod
    def of(cls, error: LocumError) -> Problem:
        return cls(error=error.code, what=error.what, why=error.why, fix=error.fix)


STATUS: dict[str, int] = {
    "not_enrolled": 401,
    "clock": 401,
    "forbidden": 403,
    "refused": 403,
    "not_found": 404,
    "conflict": 409,
    "too_large": 413,
    "unavailable": 503,
}
"""HTTP status of an error's code; 400 for the rest."""


def federation_id(coordinator_key: PublicKey) -> str:
    """The name of a federation: a digest of its coordinator's public key."""
    return hashlib.sha256(b"locum/federation/1\0" + coordinator_key.raw).hexdigest()[:32]
