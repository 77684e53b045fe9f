"""The door: the only way out of a site. A security officer audits this file.

    policy -> budget -> (rows are read, sampled, clipped) -> noise -> encode -> mask -> policy again -> sign -> log

Budget and noise are in force unless the study says that its sums are exact, which this site then has accepted as such. Every task's
answer, of every kind, passes `Door.release`; the messages of the masking protocol, which hold no number that
was computed from rows, pass `Door.message`. What else a site sends (decisions, heads of its ledgers and of the log that it cosigns) is
made of no row. A refusal raises `ReleaseDeclined` with a code from `DECLINES`, and only that code travels. Of these codes, `policy`, `expired`
(the approval or the study is over) and `changed` (the program is another than the one approved, and the site's rules ask for a new approval)
come from the site's own rules.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from locum.data.rows import Rows
from locum.errors import LocumError, Refused, TaskError
from locum.federation.budget import Budget
from locum.federation.envelope import Envelope
from locum.federation.identity import Identity
from locum.federation.summation import WEIGHT, encoding_of, rounding_key, wire_layout
from locum.federation.wire import Assignment
from locum.privacy.errors import PrivacyError
from locum.privacy.ledger import Charge, Ledger
from locum.secagg import masks
from locum.secagg.encoding import Encoding
from locum.secagg.errors import EncodingError
from locum.secagg.kdf import digest as hashed
from locum.secagg.masks import Stream
from locum.study.document import Document
from locum.study.manifest import Study, Terms
from locum.study.vector import Array, Contribution, Layout

if TYPE_CHECKING:
    from locum.governance.policy import Action, Ruling

MOST_COHORTS = 2
"""Different cohorts over which the same numbers may be summed: of two sums the difference is one over at least the minimum;
with more, combinations could single a site out."""


Rules = Callable[["Action", str], "Ruling"]
"""A site's own rules: what they say now of an action and a study's digest. Raises `LocumError` where they cannot be relied on."""


class SitePolicy(Document):
    """What a site asks for itself, whatever the study's terms say: the stricter of the two holds.

    min_cohort below 5 is a decision: of three sites, two that compare notes know the third. retired: key agreements that
    this site takes part in no more. exact: whether sums may leave without noise: 'ask' wants it said with each approval.
    """

    min_cohort: int = 5
    min_rows: int = 1
    allow_clear: bool = True
    exact: Literal["ask", "allow", "never"] = "ask"
    retired: tuple[str, ...] = ()


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
class Protected:
    """A contribution on this side of the door: checked, weighted, and encoded where it will be masked. It has not left.

    layout: what it will have on the wire. encoding: None where it will leave in clear text.
    """

    layout: Layout
    vector: dict[str, Array]
    scalars: int
    purpose: str
    encoding: Encoding | None = None


@dataclass(frozen=True)
class Masks:
    """What covers one vector: keystreams, and the transcript J of everybody who joined. cohort: how many joined."""

    streams: Sequence[Stream]
    transcript: bytes
    cohort: int


@dataclass(frozen=True)
class Release:
    """What may leave: the vector in its wire layout, the digest of its wire form, and the signed envelope."""

    layout: Layout
    vector: dict[str, Array]
    digest: str
    envelope: str


class Door:
    """One site's door. entropy: of samples and noise; it is the system's unless a simulation wants to be repeatable. rules: beside `policy`;
    a simulation has none.
    """

    def __init__(self, site: str, policy: SitePolicy, *, entropy: Callable[[int], bytes] = os.urandom, rules: Rules | None = None) -> None:
        self.site, self.policy, self._entropy, self._rules = site, policy, entropy, rules

    def minimum(self, terms: Terms) -> int:
        """The smallest cohort that one sum may be over here."""
        return max(self.policy.min_cohort, terms.min_cohort)

    def permit(self, action: Action, study: str) -> None:
        """What the site's own rules say now: 'round' before rows are read, 'release' before anything leaves. Raises `ReleaseDeclined`."""
        if self._rules is None:
            return
        try:
            ruling = self._rules(action, study)
        except LocumError as error:
            raise ReleaseDeclined("policy", error.what, why=error.why, fix=error.fix) from error
        if not ruling.allowed:
            raise ReleaseDeclined(ruling.code, " ".join(ruling.refusals), fix=f"see locum site policy test {study[:12]}, or approve the study again")

    def admit(self, assignment: Assignment, terms: Terms) -> None:
        """Before any row is read: may this round run here at all? Raises `ReleaseDeclined`."""
        if self.site not in assignment.roster:
            raise ReleaseDeclined("policy", "This site is not in the round's roster.")
        minimum = self.minimum(terms)
        if len(set(assignment.roster)) < minimum:
            raise ReleaseDeclined(
                "too_small_cohort",
                f"The cohort has {len(set(assignment.roster))} sites; {minimum} are the minimum here.",
                why="The sum over a small cohort says too much about each member.",
                fix="wait for more sites to approve the study",
            )
        if terms.aggregation == "clear" and not self.policy.allow_clear:
            raise ReleaseDeclined("policy", "This site does not release updates in clear text.", fix="use a study with aggregation = 'masked'")
        if terms.aggregation == "masked" and terms.masking.suite in self.policy.retired:
            raise ReleaseDeclined("policy", f"The key agreement '{terms.masking.suite}' is retired here.", fix="use a study that names another suite")
        if not terms.privacy.on and self.policy.exact == "never":
            raise ReleaseDeclined("policy", "This site releases no sums without noise.", fix="use a study with eps and delta under terms.privacy")

    def charge(self, study: Study, budget: Budget | None, assignment: Assignment, ledger: Ledger | None, *, requester: str) -> Charge | None:
        """Pay for a round, durably, before any row is read; the whole study is reserved with its first. None where sums are exact.

        The same round is paid for once, however often it is taken up. requester: who has signed the study. Raises `ReleaseDeclined`.
        """
        if not study.terms.privacy.on:
            return None
        if budget is None or ledger is None:
            raise ReleaseDeclined("budget", "There is no ledger to charge.", fix="approve the study again: that opens one")
        a = assignment
        try:
            ledger.reserve(a.study, budget.priced, study.terms.privacy.spare, requester=requester)
            return ledger.charge(a.study, a.run, a.seq, study.plan[a.step].name, a.iteration)
        except LocumError as error:
            raise ReleaseDeclined("budget", error.what, why=error.why, fix=error.fix) from error

    def sample(self, rows: Rows, budget: Budget, assignment: Assignment) -> Rows:
        """The rows of the patients who take part in this round, drawn by the sampler that is accounted for."""
        a, sampler = assignment, budget.release(assignment.step).sampler
        if sampler.rate == 1.0:
            return rows
        key = self._entropy(32) if sampler.amplified else hashed("order", a.study, self.site)  # a fixed order is the same in every round, and no secret
        return rows.take(sampler.draw(rows.distinct, a.iteration, key)[rows.codes])

    def protect(
        self, contribution: Contribution, layout: Layout, assignment: Assignment, terms: Terms, *, budget: Budget | None = None, charge: Charge | None = None
    ) -> Protected:
        """Check a contribution, add this site's share of the noise, and turn it into what is summed. Raises `ReleaseDeclined`."""
        self.admit(assignment, terms)
        try:
            if terms.privacy.on:
                return self._with_noise(contribution, layout, assignment, terms, budget, charge)
            minimum = max(self.policy.min_rows, terms.min_rows)  # not under noise: that a site declined would tell of a patient
            if contribution.rows < minimum:
                code = "no_rows" if contribution.rows == 0 else "too_few_rows"
                raise ReleaseDeclined(
                    code, f"Fewer than {minimum} patients stand behind this answer.", fix="nothing to do: the round goes on without this site"
                )
            return self._encode(contribution, layout, assignment, terms)
        except (TaskError, EncodingError, PrivacyError) as error:
            raise ReleaseDeclined("task", error.what, why=error.why, fix=error.fix) from error

    def release(
        self,
        protected: Protected,
        assignment: Assignment,
        terms: Terms,
        *,
        step: str,
        recipient: str,
        identity: Identity,
        log: ReleaseLog,
        covered: Masks | None = None,
    ) -> Release:
        """Mask, sign and log; the log entry is durable before this returns. `protected` is used up: it is masked in place.

        Raises `ReleaseDeclined`; a vector of a masked study does not leave without masks.
        """
        self.permit("release", assignment.study)
        if (protected.encoding is None) != (covered is None) or (terms.aggregation == "masked") != (covered is not None):
            raise ReleaseDeclined("internal", "The vector and its protection do not belong together.")
        vector, phase = protected.vector, "release"
        if protected.encoding and covered:
            masks.apply(vector, protected.encoding.rings, covered.streams, covered.transcript)
            vector, phase = protected.encoding.pack(vector), "masked"
        digest = digest_of(protected.layout, vector)
        envelope = self._sign(phase, digest, assignment, identity, context=covered.transcript.hex() if covered else "")
        nbytes, cohort = protected.layout.file_bytes, covered.cohort if covered else len(assignment.roster)
        self._log(assignment, terms, log, step, recipient, purpose=protected.purpose, scalars=protected.scalars, nbytes=nbytes, digest=digest, cohort=cohort)
        return Release(protected.layout, vector, digest, envelope)

    def message(self, phase: str, body: bytes, assignment: Assignment, identity: Identity, *, context: bytes = b"") -> str:
        """Sign a message of the masking protocol; returns the envelope."""
        return self._sign(phase, hashlib.sha256(body).hexdigest(), assignment, identity, context=context.hex())

    def unmask(
        self, body: bytes, assignment: Assignment, terms: Terms, cohort: int, *, step: str, recipient: str, identity: Identity, log: ReleaseLog, context: bytes
    ) -> str:
        """Sign and log the shares by which the sum over `cohort` sites can be read; returns the envelope. Raises `ReleaseDeclined`."""
        self.permit("release", assignment.study)
        digest = hashlib.sha256(body).hexdigest()
        envelope = self._sign("unmask", digest, assignment, identity, context=context.hex())
        purpose = "shares by which the sum can be read"
        self._log(assignment, terms, log, step, recipient, purpose=purpose, scalars=0, nbytes=len(body), digest=digest, cohort=cohort)
        return envelope

    def check_differences(self, survivors: Collection[str], before: Sequence[Collection[str]], terms: Terms) -> None:
        """The same numbers may be summed again over the very same sites, or over a cohort that differs by at least the minimum.

        before: the cohorts over which these numbers were summed already, in this run or another. Raises `ReleaseDeclined`:
        the difference of two sums is a sum over the sites in which the cohorts differ.
        """
        now, known = frozenset(survivors), {frozenset(c) for c in before}
        if now in known or not known:
            return
        least = min(len(now ^ c) for c in known)
        if least < self.minimum(terms) or len(known) >= MOST_COHORTS:
            raise ReleaseDeclined(
                "differencing",
                f"The same numbers were summed before, over a cohort that differs by {least} sites.",
                why="Whoever subtracts the two sums learns the sum over those few.",
                fix="ask for a new study, and say in it why the same question is asked again",
            )

    def decline(self, code: str, assignment: Assignment, identity: Identity, *, phase: str = "") -> tuple[bytes, str]:
        """A signed refusal: body (the code) and envelope."""
        body = code.encode()
        return body, self._sign(phase or assignment.phase, hashlib.sha256(body).hexdigest(), assignment, identity, kind="decline")

    def _sign(self, phase: str, digest: str, a: Assignment, identity: Identity, *, context: str = "", kind: str = "release") -> str:
        fields = {"study": a.study, "run": a.run, "seq": a.seq, "phase": phase, "sender": self.site, "digest": digest, "context": context}
        return Envelope(kind=kind, **fields).seal(identity)  # type: ignore[arg-type]

    def _log(self, a: Assignment, terms: Terms, log: ReleaseLog, step: str, recipient: str, **what: object) -> None:
        log.record(LogEntry(study=a.study, run=a.run, seq=a.seq, step=step, recipient=recipient, protection=terms.protection(), **what))  # type: ignore[arg-type]

    def _with_noise(self, contribution: Contribution, layout: Layout, a: Assignment, terms: Terms, budget: Budget | None, charge: Charge | None) -> Protected:
        if budget is None or charge is None or (charge.study, charge.run, charge.seq) != (a.study, a.run, a.seq):
            raise ReleaseDeclined("budget", "The round was not paid for.", fix="this is a fault of the program; report it")
        bound = contribution.bound
        if bound is None or (bound.norm, bound.limit, bound.unit) != ("l2", 1.0, terms.privacy.unit) or contribution.weight != 1.0:
            raise TaskError("The task gave no sum over clipped units of weight 1.", fix="this is a fault of the task; report it")
        layout.check(contribution.vector)
        vector = budget.add_noise(a.step, layout, contribution.vector, self._entropy(32))
        return self._encode(replace(contribution, vector=vector), budget.layout(a.step, layout), a, terms)

    def _encode(self, contribution: Contribution, layout: Layout, assignment: Assignment, terms: Terms) -> Protected:
        wire = wire_layout(layout)
        if wire.digest != assignment.layout:
            raise TaskError(
                "This site's task and the coordinator's disagree on the shape of the answer.",
                why="Their versions or their plans differ.",
                fix="update both sides to the same release",
            )
        weight = contribution.weight
        if not (np.isfinite(weight) and weight >= 0):
            raise TaskError("The task gave a weight that is negative or not finite.", fix="this is a fault of the task; report it")
        layout.check(contribution.vector)
        encoding = encoding_of(wire, assignment, terms)
        narrow = {f.name for f in wire.fields if encoding and encoding.group(f) == "narrow"}  # weighted when they are encoded, after clipping
        vector = {n: a if n in narrow else _weighted(a, weight) for n, a in contribution.vector.items()}
        vector[WEIGHT] = np.asarray(weight, dtype=np.float64)
        if encoding is None:
            return Protected(wire, vector, wire.size, contribution.purpose)
        elements = encoding.encode(vector, weight, rounding_key(assignment, self.site))
        return Protected(encoding.wire, elements, wire.size, contribution.purpose, encoding)


def digest_of(layout: Layout, vector: dict[str, Array]) -> str:
    """SHA-256 of the wire form, streamed: no copy of the vector is made."""
    h = hashlib.sha256()
    for piece in layout.buffers(vector):
        h.update(piece)
    return h.hexdigest()


def _weighted(array: Array, weight: float) -> Array:
    if weight == 1.0:
        return array
    if array.dtype.kind != "f":
        raise TaskError("An integer tensor cannot be weighted.", fix="this is a fault of the task; report it")
    return np.asarray(array * weight, dtype=array.dtype)
