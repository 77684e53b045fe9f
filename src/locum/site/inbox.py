"""What arrives from the coordinator, believed only as far as signatures and this site's own records go."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from locum.errors import EnvelopeError, LocumError, ManifestError
from locum.federation.door import ReleaseDeclined
from locum.federation.envelope import Envelope
from locum.federation.identity import PublicKey
from locum.federation.round import PHASES, phases
from locum.federation.wire import Assignment, Notice, SignedAssignment, StudyView
from locum.secagg.messages import MAX_BYTES
from locum.site.store import KnownStudy
from locum.study.canonical import DIGEST
from locum.study.manifest import Study
from locum.study.vector import MAX_VECTOR_BYTES
from locum.tasks import Task, build

RUN = re.compile(r"^[A-Za-z0-9_-]{1,128}$")


@dataclass(frozen=True)
class Request:
    """An assignment, or a notice in a later phase of its round, that the coordinator has signed. raw: the signed JSON."""

    assignment: Assignment
    raw: bytes
    notice: Notice | None = None

    @property
    def phase(self) -> str:
        return self.notice.phase if self.notice else self.assignment.phase

    @property
    def deadline(self) -> float:
        """Unix seconds."""
        return self.notice.deadline if self.notice else self.assignment.deadline

    @property
    def place(self) -> tuple[int, int]:
        """Where in its run: round and phase."""
        return self.assignment.seq, PHASES.index(self.phase)

    @property
    def id(self) -> str:
        """The name by which a poll says that this is known."""
        return f"{self.assignment.run}:{self.assignment.seq}" + (f":{self.phase}" if self.notice else "")

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.raw).hexdigest()


def open_assignment(signed: SignedAssignment, coordinator: PublicKey) -> Request:
    """Verify and decode. Raises `EnvelopeError` for what the pinned key has not signed, or signed for something else."""
    raw = signed.body.encode()
    envelope = Envelope.open(signed.envelope, coordinator, kind="assignment", digest=hashlib.sha256(raw).hexdigest())
    return _bound(decode_assignment(raw), raw, envelope)


def open_notice(signed: SignedAssignment, coordinator: PublicKey, assignment: Callable[[str, int], bytes | None]) -> Request:
    """Verify and decode a notice; `assignment` finds the JSON of the assignment that opened the round. Raises `EnvelopeError`."""
    raw = signed.body.encode()
    envelope = Envelope.open(signed.envelope, coordinator, kind="notice", digest=hashlib.sha256(raw).hexdigest())
    n = decode_notice(raw)
    if (envelope.study, envelope.run, envelope.seq, envelope.phase) != (n.study, n.run, n.seq, n.phase):
        raise EnvelopeError("The notice's envelope was made for another round.", why="It is stale, or was replayed.")
    return of_notice(n, raw, assignment)


def of_notice(n: Notice, raw: bytes, assignment: Callable[[str, int], bytes | None]) -> Request:
    """A verified notice with its round's assignment. Raises `EnvelopeError`."""
    opened = assignment(n.run, n.seq)
    if opened is None:
        raise EnvelopeError("The notice is for a round that this site did not enter.")
    a = decode_assignment(opened)
    if n.study != a.study or n.phase not in phases(a)[1:] or not 0 <= n.size <= MAX_BYTES:
        raise EnvelopeError("The notice asks for something that no round asks.", fix="update both sides to the same release")
    return Request(a, raw, n)


def decode_notice(raw: bytes) -> Notice:
    """Raises `EnvelopeError`."""
    try:
        return msgspec.json.decode(raw, type=Notice)
    except msgspec.DecodeError:
        raise EnvelopeError("The notice is not what this version understands.", fix="update both sides to the same release") from None


def decode_request(raw: bytes, assignment: Callable[[str, int], bytes | None]) -> Request:
    """What this site has kept of a request that it verified before. Raises `EnvelopeError`."""
    try:
        return Request(decode_assignment(raw), raw)
    except EnvelopeError:
        return of_notice(decode_notice(raw), raw, assignment)


def check_body(n: Notice, body: bytes) -> bytes:
    """The message that a notice announced. Raises `EnvelopeError` for any other."""
    if len(body) != n.size or hashlib.sha256(body).hexdigest() != n.digest:
        raise EnvelopeError("The message to answer is not the one that was announced.", why="It was altered on the way.")
    return body


def decode_assignment(raw: bytes) -> Assignment:
    """Raises `EnvelopeError`."""
    try:
        return msgspec.json.decode(raw, type=Assignment)
    except msgspec.DecodeError:
        raise EnvelopeError("The assignment is not what this version understands.", fix="update both sides to the same release") from None


def _bound(a: Assignment, raw: bytes, envelope: Envelope) -> Request:
    if (envelope.study, envelope.run, envelope.seq, envelope.phase) != (a.study, a.run, a.seq, a.phase):
        raise EnvelopeError("The assignment's envelope was made for another round.", why="It is stale, or was replayed.")
    well_formed = RUN.match(a.run) and DIGEST.match(a.study) and DIGEST.match(a.state) and DIGEST.match(a.layout)
    if not well_formed or a.seq < 0 or a.phase != phases(a)[0] or not 0 <= a.state_bytes <= MAX_VECTOR_BYTES:
        raise EnvelopeError("The assignment asks for something that no round asks.", fix="update both sides to the same release")
    return Request(a, raw)


@lru_cache(maxsize=32)
def open_study(view: StudyView, digest: str) -> Study:
    """The study that `digest` names, as its requester signed it. Raises `EnvelopeError` or `ManifestError`."""
    study = Study.from_json(view.manifest.encode())
    if study.digest != digest or view.digest != digest:
        raise EnvelopeError(
            "The study is not the one that its digest names.",
            why="It was altered on the way, or this release reads it differently.",
            fix="update both sides to the same release, then ask the requester",
        )
    Envelope.open(view.envelope, PublicKey.parse(view.requester_key), kind="study", study=digest, digest=digest, sender=view.requester)
    return study


def approved_task(request: Request, known: KnownStudy | None) -> tuple[Study, Task]:
    """The study and the task that this round runs, from the site's own copy of what it approved.

    Raises `ReleaseDeclined`: nothing runs without a decision that is on record here.
    """
    a = request.assignment
    if known is None or known.decision != "approved":
        raise ReleaseDeclined("not_approved", "This site has not approved the study.", fix="review it, then approve or deny it")
    try:
        study = open_study(known.view, a.study)
        if not 0 <= a.step < len(study.plan) or not 0 <= a.iteration < study.plan[a.step].rounds or a.seed != study.seed:
            raise ManifestError("The assignment lies outside the plan that this site approved.", fix="ask the coordinator's operator")
        if (study.terms.aggregation == "masked") != (a.session is not None):
            raise ManifestError("The round is not protected as this site approved it.", fix="ask the coordinator's operator")
        return study, build(study.plan[a.step], study)
    except LocumError as error:
        raise ReleaseDeclined("policy", error.what, why=error.why, fix=error.fix) from error
