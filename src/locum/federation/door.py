"""The door: the only way out of a site. A security officer audits this file.

    policy -> encode -> sign -> log          (in force today)
              ^ budget, clip and noise come before encode, masks after it

Every task's answer, of every kind, passes `Door.release`; nothing else in Locum sends anything that was computed from
rows. A refusal raises `Refused` with a code from `DECLINES`, and only that code travels.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from locum.errors import Refused, TaskError
from locum.federation.envelope import Envelope
from locum.federation.identity import Identity
from locum.federation.summation import WEIGHT, wire_layout
from locum.federation.wire import Assignment
from locum.study.document import Document
from locum.study.manifest import Terms
from locum.study.vector import Array, Contribution, Layout


class SitePolicy(Document):
    """What a site asks for itself, whatever the study's terms say: the stricter of the two holds."""

    min_cohort: int = 3
    min_rows: int = 1
    allow_clear: bool = True


class ReleaseDeclined(Refused):
    """The door said no; `decline` is the code that the coordinator gets."""

    def __init__(self, decline: str, what: str, *, why: str = "", fix: str = "") -> None:
        super().__init__(what, why=why, fix=fix)
        self.decline = decline


@dataclass(frozen=True)
class LogEntry:
    """One line of the site's release log: what left, to whom, how much, and under which terms. Never data."""

    study: str
    run: str
    seq: int
    step: str
    recipient: str
    purpose: str
    scalars: int
    nbytes: int
    digest: str
    cohort: int
    protection: str


class ReleaseLog(Protocol):
    """Where the door writes, durably, before anything leaves."""

    def record(self, entry: LogEntry) -> None: ...


@dataclass(frozen=True)
class Release:
    """What may leave: the vector in its wire layout, the digest of its wire form, and the signed envelope."""

    layout: Layout
    vector: dict[str, Array]
    digest: str
    envelope: str


class Door:
    """One site's door."""

    def __init__(self, site: str, policy: SitePolicy) -> None:
        self.site, self.policy = site, policy

    def admit(self, assignment: Assignment, terms: Terms) -> None:
        """Before any row is read: may this round run here at all? Raises `ReleaseDeclined`."""
        if self.site not in assignment.roster:
            raise ReleaseDeclined("policy", "This site is not in the round's roster.")
        minimum = max(self.policy.min_cohort, terms.min_cohort)
        if len(set(assignment.roster)) < minimum:
            raise ReleaseDeclined(
                "too_small_cohort",
                f"The cohort has {len(set(assignment.roster))} sites; {minimum} are the minimum here.",
                why="The sum over a small cohort says too much about each member.",
                fix="wait for more sites to approve the study",
            )
        if terms.aggregation == "clear" and not self.policy.allow_clear:
            raise ReleaseDeclined("policy", "This site does not release updates in clear text.", fix="use a study with aggregation = 'masked'")

    def protect(self, contribution: Contribution, layout: Layout, assignment: Assignment, terms: Terms) -> tuple[Layout, dict[str, Array]]:
        """Check a contribution and turn it into the vector that is summed, in wire layout. Raises `ReleaseDeclined`."""
        self.admit(assignment, terms)
        minimum = max(self.policy.min_rows, terms.min_rows)
        if contribution.rows < minimum:
            code = "no_rows" if contribution.rows == 0 else "too_few_rows"
            raise ReleaseDeclined(code, f"Fewer than {minimum} patients stand behind this answer.", fix="nothing to do: the round goes on without this site")
        try:
            return _encode(contribution, layout, assignment)
        except TaskError as error:
            raise ReleaseDeclined("task", error.what, why=error.why, fix=error.fix) from error

    def release(
        self,
        contribution: Contribution,
        layout: Layout,
        assignment: Assignment,
        terms: Terms,
        *,
        step: str,
        recipient: str,
        identity: Identity,
        log: ReleaseLog,
    ) -> Release:
        """Protect, sign and log; the log entry is durable before this returns. Raises `ReleaseDeclined`."""
        wire, vector = self.protect(contribution, layout, assignment, terms)
        digest = digest_of(wire, vector)
        envelope = Envelope(
            kind="release", study=assignment.study, run=assignment.run, seq=assignment.seq, phase=assignment.phase, sender=self.site, digest=digest
        ).seal(identity)
        log.record(
            LogEntry(
                study=assignment.study,
                run=assignment.run,
                seq=assignment.seq,
                step=step,
                recipient=recipient,
                purpose=contribution.purpose,
                scalars=wire.size,
                nbytes=wire.file_bytes,
                digest=digest,
                cohort=len(assignment.roster),
                protection=terms.protection(),
            )
        )
        return Release(wire, vector, digest, envelope)

    def decline(self, code: str, assignment: Assignment, identity: Identity) -> tuple[bytes, str]:
        """A signed refusal: body (the code) and envelope."""
        body = code.encode()
        digest = hashlib.sha256(body).hexdigest()
        envelope = Envelope(
            kind="decline", study=assignment.study, run=assignment.run, seq=assignment.seq, phase=assignment.phase, sender=self.site, digest=digest
        )
        return body, envelope.seal(identity)


def digest_of(layout: Layout, vector: dict[str, Array]) -> str:
    """SHA-256 of the wire form, streamed: no copy of the vector is made."""
    h = hashlib.sha256()
    for piece in layout.buffers(vector):
        h.update(piece)
    return h.hexdigest()


def _encode(contribution: Contribution, layout: Layout, assignment: Assignment) -> tuple[Layout, dict[str, Array]]:
    wire = wire_layout(layout)
    if wire.digest != assignment.layout:
        raise TaskError(
            "This site's task and the coordinator's disagree on the shape of the answer.",
            why="Their versions or their plans differ.",
            fix="update both sides to the same release",
        )
    if not (np.isfinite(contribution.weight) and contribution.weight >= 0):
        raise TaskError("The task gave a weight that is negative or not finite.", fix="this is a fault of the task; report it")
    layout.check(contribution.vector)
    vector = {n: _weighted(a, contribution.weight) for n, a in contribution.vector.items()}
    vector[WEIGHT] = np.asarray(contribution.weight, dtype=np.float64)
    return wire, vector


def _weighted(array: Array, weight: float) -> Array:
    if weight == 1.0:
        return array
    if array.dtype.kind != "f":
        raise TaskError("An integer tensor cannot be weighted.", fix="this is a fault of the task; report it")
    return (array * weight).astype(array.dtype)
