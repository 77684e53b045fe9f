"""The plan as a state machine, and the loop that drives it over any port.

`Runner` knows which task comes next and what its state is; a `Port` knows how to reach the sites. In process, over the
network, or through somebody else's relay, the loop is the same.
"""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

import msgspec
import numpy as np

from locum.errors import RunFailed, TaskError
from locum.federation.budget import budget_of
from locum.federation.round import Round
from locum.federation.state import state_digest
from locum.federation.summation import encoding_of, wire_layout
from locum.federation.wire import Assignment
from locum.study.manifest import Study
from locum.study.vector import Layout, Total
from locum.tasks import State, Task, build_plan


class Cursor(msgspec.Struct, forbid_unknown_fields=True):
    """Where a run is: small, and stored after every round. results holds the answers of the steps that are done."""

    step: int = 0
    iteration: int = 0
    attempt: int = 0
    seq: int = 0
    results: dict[str, Any] = {}


class Runner:
    """A study's plan, its position and its state. Pure: no clock, no I/O."""

    def __init__(self, study: Study, run: str, *, state: State | None = None, cursor: Cursor | None = None) -> None:
        self.study, self.run = study, run
        self.tasks: list[Task] = build_plan(study)
        self.budget = budget_of(study, self.tasks)
        self.cursor = cursor or Cursor()
        self._set(dict(state or {}))

    def _set(self, state: State) -> None:
        self.state: State = state
        self._fingerprint: tuple[str, int] | None = None

    @property
    def fingerprint(self) -> tuple[str, int]:
        """Digest and length of the state's file; computed once for each state."""
        if self._fingerprint is None:
            self._fingerprint = state_digest(self.state)
        return self._fingerprint

    @property
    def finished(self) -> bool:
        return self.cursor.step >= len(self.tasks)

    @property
    def task(self) -> Task:
        return self.tasks[self.cursor.step]

    @property
    def layout(self) -> Layout:
        """The wire layout of the round that is due."""
        layout = self.task.layout(self.state)
        return wire_layout(self.budget.layout(self.cursor.step, layout) if self.budget else layout)

    def assignment(self, roster: list[str], now: float, layout: Layout) -> Assignment:
        """The round that is due; layout: its wire layout."""
        c, (digest, size) = self.cursor, self.fingerprint
        a = Assignment(
            study=self.study.digest,
            run=self.run,
            seq=c.seq,
            step=c.step,
            iteration=c.iteration,
            roster=tuple(sorted(roster)),
            state=digest,
            state_bytes=size,
            layout=layout.digest,
            vector_bytes=layout.file_bytes,
            deadline=now + self.study.terms.deadline_s,
            seed=self.study.seed,
        )
        encoding = encoding_of(layout, a, self.study.terms)
        return msgspec.structs.replace(a, vector_bytes=encoding.wire.file_bytes) if encoding else a

    def advance(self, total: Total) -> None:
        """Combine a round's sum and move on. Raises `TaskError` where there is no answer."""
        task, c = self.task, self.cursor
        total = self.budget.reveal(c.step, task.layout(self.state), total) if self.budget else total
        state = task.combine(self.state, total)
        for name, array in state.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise TaskError(
                    f"Step '{self.study.plan[c.step].name}' diverged: '{name}' is not finite after round {c.iteration + 1}.",
                    fix="add ridge, lower the step size, or check the ranges in the data contract",
                )
        self._set(state)
        c.seq, c.iteration, c.attempt = c.seq + 1, c.iteration + 1, 0
        if task.done(state) or c.iteration >= self.study.plan[c.step].rounds:
            c.results = {**c.results, self.study.plan[c.step].name: task.result(state)}
            c.step, c.iteration = c.step + 1, 0

    def retry(self, reason: str) -> None:
        """A round failed: the next one asks the same again. Raises `RunFailed` when the study's attempts are used up."""
        c = self.cursor
        c.seq, c.attempt = c.seq + 1, c.attempt + 1
        if c.attempt >= self.study.terms.attempts:
            raise RunFailed(
                f"Step '{self.study.plan[c.step].name}' failed {c.attempt} times: {reason}.",
                fix="ask the sites that are missing or declined (their own logs say why), then start the run again",
            )


def site_rng(assignment: Assignment, site: str) -> np.random.Generator:
    """The generator of one visit: the same for this study, round and site in every engine."""
    label = f"locum/rng/1\0{assignment.study}\0{assignment.seed}\0{assignment.seq}\0{site}"
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(label.encode()).digest(), "big")))


class Port(Protocol):
    """How the runner reaches the sites. A relay that implements it is never trusted: envelopes are signed end to end."""

    def now(self) -> float:
        """Unix seconds."""

    def peers(self) -> list[str]:
        """The sites that approved the study and may be asked."""

    def send(self, assignment: Assignment, state: State, layout: Layout) -> Round:
        """Publish a round and the state that goes with it, durably; if this seq was published before, the round as it was then."""

    def receive(self, round_: Round) -> None:
        """Feed the round until it is closed or failed."""

    def total(self, round_: Round, layout: Layout) -> Total:
        """The sum over the round's contributors, in roster order."""

    def checkpoint(self, runner: Runner, round_: Round) -> None:
        """Make the runner's position and state durable, and the round's end with it."""


def drive(runner: Runner, port: Port) -> None:
    """Run the plan to its end over `port`. Raises `RunFailed` or `TaskError`; may be called again after a crash."""
    while not runner.finished:
        layout = runner.layout
        round_ = port.send(runner.assignment(port.peers(), port.now(), layout), runner.state, layout)
        port.receive(round_)
        if round_.status == "closed":
            runner.advance(port.total(round_, layout))
        else:
            runner.retry(round_.reason())
        port.checkpoint(runner, round_)
