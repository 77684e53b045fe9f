"""One round as a state machine without I/O. Its state is a function of the messages that were fed, in any order.

open --(everyone answered, enough released)--> closed
open --(deadline, enough released)-----------> closed
open --(deadline, or enough can no longer be reached)--> failed, and the runner tries again
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from locum.errors import Conflict, EnvelopeError, Forbidden
from locum.federation.envelope import Envelope
from locum.federation.wire import Assignment

DECLINES = ("no_rows", "too_few_rows", "too_small_cohort", "data", "task", "policy", "not_approved", "storage", "internal")
"""Why a site may decline. A code, never free text: nothing about a patient can leave in it."""

Status = Literal["open", "closed", "failed"]


@dataclass
class Round:
    """A cohort's round. needed: how many releases must be there before it may close."""

    assignment: Assignment
    needed: int
    status: Status = "open"
    released: dict[str, str] = field(default_factory=dict)
    declined: dict[str, str] = field(default_factory=dict)

    def feed(self, envelope: Envelope, code: str = "") -> bool:
        """Take a release (or a decline with its `code`); True if it is new, False if the very same came before.

        Raises `Forbidden` for a sender outside the roster, `EnvelopeError` for another round's message, `Conflict` for a
        second, different answer or one that comes after the end. A message that raises changes nothing.
        """
        a = self.assignment
        if (envelope.study, envelope.run, envelope.seq, envelope.phase) != (a.study, a.run, a.seq, a.phase):
            raise EnvelopeError("The envelope was made for another round.", why="It is stale, or was replayed.")
        if envelope.sender not in a.roster:
            raise Forbidden(f"'{envelope.sender}' is not in the roster of this round.")
        if envelope.kind == "release":
            answers, value = self.released, envelope.digest
        elif envelope.kind == "decline" and code in DECLINES:
            answers, value = self.declined, code
        else:
            raise EnvelopeError("This message is neither a release nor a decline with a known reason.")
        if envelope.sender in self.released or envelope.sender in self.declined:
            if answers.get(envelope.sender) == value:
                return False
            raise Conflict(f"'{envelope.sender}' has already given a different answer in this round.")
        if self.status != "open":
            raise Conflict("This round is over.", fix="nothing to do: the site takes part again in the next round")
        answers[envelope.sender] = value
        self._settle(due=False)
        return True

    def tick(self, now: float) -> None:
        """Let time pass; `now` is Unix seconds."""
        if self.status == "open":
            self._settle(due=now >= self.assignment.deadline)

    def _settle(self, *, due: bool) -> None:
        waiting = len(self.assignment.roster) - len(self.released) - len(self.declined)
        enough = len(self.released) >= self.needed
        if enough and (due or waiting == 0):
            self.status = "closed"
        elif due or len(self.released) + waiting < self.needed:
            self.status = "failed"

    @property
    def contributors(self) -> list[str]:
        """The sites whose vectors are summed, in roster order: sorted by name."""
        return sorted(self.released)

    def reason(self) -> str:
        """Why the round failed, in words."""
        codes = sorted(set(self.declined.values()))
        said = f"; {len(self.declined)} declined ({', '.join(codes)})" if codes else ""
        return f"{len(self.released)} of {len(self.assignment.roster)} sites released, {self.needed} are needed{said}"

    @classmethod
    def replay(cls, assignment: Assignment, needed: int, messages: Iterable[tuple[Envelope, str]]) -> Round:
        """The machine after durable messages, whatever their order."""
        machine = cls(assignment, needed)
        for envelope, code in messages:
            machine.feed(envelope, code)
        return machine
