"""One round as a state machine without I/O. Its state is a function of the messages that were fed, in any order.

A clear round has one phase, `release`; a masked one has four (and two before them where a session is set up):

    [keys -> seals ->] join -> masked -> confirm -> unmask

open --(everyone asked has answered, enough of them well)--> between (or closed, after `release`)
open --(deadline, enough answered)-------------------------> between (or closed)
open --(deadline, or enough can no longer be reached)------> failed, and the runner tries again
between --(the next phase's messages are ready)------------> open again, with fewer asked; or closed
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal

from locum.errors import Conflict, EnvelopeError, Forbidden
from locum.federation.envelope import Envelope
from locum.federation.wire import Assignment

DECLINES = (
    "no_rows", "too_few_rows", "too_small_cohort", "data", "task", "policy", "budget", "not_approved", "storage", "internal",
    "roster", "session", "masking", "differencing", "log", "expired", "changed",
)  # fmt: skip
"""Why a site may decline. A code, never free text: nothing about a patient can leave in it."""

SETUP = ("keys", "seals")
MASKED = ("join", "masked", "confirm", "unmask")
VECTORS = ("release", "masked")
"""The phases in which a vector travels."""
EAGER = ("confirm", "unmask")
"""Phases that end as soon as enough have answered: nothing is gained by waiting for the rest. Later answers are still taken
until the next phase begins, for an answer may turn out to be corrupt.
"""
PHASES = ("release", *SETUP, *MASKED)
Status = Literal["open", "between", "closed", "failed"]


def phases(a: Assignment) -> tuple[str, ...]:
    """The phases of the round that `a` opens."""
    if a.session is None:
        return ("release",)
    return (*SETUP, *MASKED) if a.session.seq == a.seq else MASKED


@dataclass
class Round:
    """A cohort's round. needed: how many answers must be there before the present phase may end."""

    assignment: Assignment
    needed: int
    status: Status = "open"
    phase: str = ""
    asked: tuple[str, ...] = ()
    deadline: float = 0.0
    answers: dict[str, dict[str, str]] = field(default_factory=dict)
    declined: dict[str, str] = field(default_factory=dict)
    failure: str = ""

    def __post_init__(self) -> None:
        self.phase = self.phase or phases(self.assignment)[0]
        self.asked = self.asked or self.assignment.roster
        self.deadline = self.deadline or self.assignment.deadline

    def feed(self, envelope: Envelope, code: str = "") -> bool:
        """Take an answer (or a decline with its `code`); True if it is new, False if the very same came before.

        Raises `Forbidden` for a sender that was not asked, `EnvelopeError` for another round's message, `Conflict` for a
        second, different answer or one that comes after the phase's end. A message that raises changes nothing.
        """
        a, sender = self.assignment, envelope.sender
        if (envelope.study, envelope.run, envelope.seq) != (a.study, a.run, a.seq) or envelope.phase not in phases(a):
            raise EnvelopeError("The envelope was made for another round.", why="It is stale, or was replayed.")
        if sender not in a.roster:
            raise Forbidden(f"'{sender}' is not in the roster of this round.")
        given = self.answers.setdefault(envelope.phase, {})
        if envelope.kind == "release":
            kept, value = given.get(sender), envelope.digest
        elif envelope.kind == "decline" and code in DECLINES:
            kept, value = self.declined.get(sender), code
        else:
            raise EnvelopeError("This message is neither a release nor a decline with a known reason.")
        if sender in given or sender in self.declined:
            if kept == value:
                return False
            raise Conflict(f"'{sender}' has already given a different answer in this round.")
        spare = self.status == "between" and self.phase in EAGER  # more than enough, and perhaps needed after all
        if envelope.phase != self.phase or not (self.status == "open" or spare):
            raise Conflict("This round is over." if self.status in ("closed", "failed") else "This phase of the round is over.", fix=_NEXT)
        if sender not in self.asked:
            raise Forbidden(f"'{sender}' is not asked in this phase of the round.")
        if envelope.kind == "release":
            given[sender] = value
        else:
            self.declined[sender] = value
        if self.status == "open":
            self._settle(due=False)
        return True

    def tick(self, now: float) -> None:
        """Let time pass; `now` is Unix seconds."""
        if self.status == "open":
            self._settle(due=now >= self.deadline)

    def _settle(self, *, due: bool) -> None:
        answered = len(self.answers.get(self.phase, {}))
        waiting = len(self.asked) - answered - len(self.declined.keys() & set(self.asked))
        enough = answered >= self.needed
        if enough and (due or waiting == 0 or self.phase in EAGER):
            self.status = "between" if self.assignment.session else "closed"
        elif due or answered + waiting < self.needed:
            self.status = "failed"

    def enter(self, phase: str, asked: Collection[str], needed: int, deadline: float) -> None:
        """Go on to a phase (or back into the present one, to wait for more answers)."""
        self.phase, self.asked, self.needed, self.deadline, self.status = phase, tuple(sorted(asked)), needed, deadline, "open"
        self._settle(due=False)

    @property
    def answered(self) -> dict[str, str]:
        """The present phase's answers: sender -> digest."""
        return self.answers.get(self.phase, {})

    @property
    def released(self) -> dict[str, str]:
        """Whose vectors are here: sender -> digest."""
        return {sender: digest for phase in VECTORS for sender, digest in self.answers.get(phase, {}).items()}

    @property
    def contributors(self) -> list[str]:
        """The sites whose vectors are summed, in roster order: sorted by name."""
        return sorted(self.released)

    def reason(self) -> str:
        """Why the round failed, in words."""
        if self.failure:
            return self.failure.removesuffix(".")
        codes = sorted(set(self.declined.values()))
        said = f"; {len(self.declined)} declined ({', '.join(codes)})" if codes else ""
        did = "released" if self.phase in VECTORS else f"answered in the phase '{self.phase}'"
        return f"{len(self.answered)} of {len(self.asked)} sites {did}, {self.needed} are needed{said}"

    @classmethod
    def replay(cls, assignment: Assignment, needed: int, messages: Iterable[tuple[Envelope, str]]) -> Round:
        """The machine after durable messages of its first phase, whatever their order."""
        machine = cls(assignment, needed)
        for envelope, code in messages:
            machine.feed(envelope, code)
        return machine


_NEXT = "nothing to do: the site takes part again in the next round"
