"""The plan loop dies at every boundary of its port, before and after each durable effect; the model does not change."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest

from locum import Rows, Study, simulate
from locum.federation.door import Door, SitePolicy
from locum.federation.envelope import Envelope
from locum.federation.round import Round
from locum.federation.runner import Cursor, Runner, drive
from locum.federation.state import decode_state, encode_state
from locum.federation.summation import sum_vectors
from locum.federation.visit import visit
from locum.study import Contribution, Layout
from locum.tasks import BaseTask, Params, build_plan, register
from locum.testing import Clock


@register
class Walk(BaseTask[Params]):
    """Adds x and noise to its state: any repeated, lost or reordered round would show in the last bit."""

    kind: ClassVar[str] = "test_walk"
    Config = Params

    def reads(self) -> tuple[str, ...]:
        return ("x",)

    def leaves(self) -> str:
        return "a sum"

    def layout(self, state: Any) -> Layout:
        return Layout.of(x=(3,))

    def visit(self, state: Any, rows: Rows, memory: Any, rng: np.random.Generator) -> Contribution:
        memory["sum"] = memory.get("sum", np.zeros(3)) + rows.columns["x"].sum() * rng.normal(size=3)
        return Contribution({"x": memory["sum"] * 0.1}, rows.patients, "walk")

    def combine(self, state: Any, total: Any) -> Any:
        return self.merge(state, x=state.get(self.key("x"), np.ones(3)) * 0.9 + total["x"] / 3)

    def done(self, state: Any) -> bool:
        return False

    def result(self, state: Any) -> dict[str, Any]:
        return {"x": self.own(state, "x").tolist()}


STUDY = Study.parse(
    {
        "schema": "locum/study/1",
        "name": "faults",
        "data": {"variables": {"x": {}}},
        "terms": {"aggregation": "clear", "privacy": "none", "min_cohort": 3, "deadline_s": 60},
        "plan": [{"name": "one", "task": "test_walk", "rounds": 2}, {"name": "two", "task": "test_walk", "rounds": 2}],
    }
)
SITES = {f"s{i}": Rows.of({"x": [0.1 * i, 0.7]}) for i in range(4)}


class Killed(BaseException):
    """SIGKILL: no `except Exception` may catch it."""


@dataclass
class Disk:
    """What survives: all that a coordinator and its sites ever keep."""

    cursor: bytes = b""
    state: bytes = encode_state({})
    rounds: dict[int, Any] = field(default_factory=dict)
    answers: dict[tuple[int, str], Any] = field(default_factory=dict)
    memory: dict[tuple[int, str], Any] = field(default_factory=dict)


class DyingPort:
    """A port over `Disk` that is killed at its `at`-th boundary."""

    def __init__(self, disk: Disk, at: int, clock: Clock, away: frozenset[str] = frozenset()) -> None:
        self.disk, self.at, self.clock, self.away = disk, at, clock, away
        self.passed = 0

    def boundary(self) -> None:
        if self.passed == self.at:
            raise Killed
        self.passed += 1

    def now(self) -> float:
        return self.clock()

    def peers(self) -> list[str]:
        return list(SITES)

    def send(self, assignment: Any, state: Any, layout: Layout) -> Round:
        self.boundary()
        kept = self.disk.rounds.setdefault(assignment.seq, (assignment, encode_state(state)))
        self.boundary()
        return Round(kept[0], STUDY.terms.needed)

    def receive(self, round_: Round) -> None:
        a = round_.assignment
        for site in a.roster:
            if site in self.away:
                continue
            if (a.seq, site) not in self.disk.answers:
                self.boundary()
                memory = dict(self.disk.memory.get((a.step, site), {}))
                task = build_plan(STUDY)[a.step]
                state = decode_state(self.disk.rounds[a.seq][1])
                door = Door(site, SitePolicy(min_cohort=3))
                contribution, layout = visit(task, state, SITES[site], memory, a, door, STUDY.terms)
                vector = door.protect(contribution, layout, a, STUDY.terms).vector
                self.boundary()
                self.disk.answers[a.seq, site], self.disk.memory[a.step, site] = vector, memory
                self.boundary()
            round_.feed(Envelope(kind="release", study=a.study, run=a.run, seq=a.seq, phase=a.phase, sender=site, digest="d"))
        if round_.status == "open":
            self.clock.advance(61)
            round_.tick(self.clock())

    def total(self, round_: Round, layout: Layout) -> Any:
        self.boundary()
        return sum_vectors(layout, (self.disk.answers[round_.assignment.seq, s] for s in round_.contributors))

    def checkpoint(self, runner: Runner, round_: Round) -> None:
        self.boundary()
        self.disk.cursor, self.disk.state = msgspec.json.encode(runner.cursor), encode_state(runner.state)
        self.boundary()


def run(disk: Disk, at: int, away: frozenset[str] = frozenset()) -> tuple[bytes, int]:
    """One life of the process; returns the model and how many boundaries it passed."""
    cursor = msgspec.json.decode(disk.cursor, type=Cursor) if disk.cursor else None
    runner = Runner(STUDY, "simulation", state=decode_state(disk.state), cursor=cursor)
    port = DyingPort(disk, at, Clock(), away)
    drive(runner, port)
    return encode_state(runner.state), port.passed


UNDISTURBED, BOUNDARIES = run(Disk(), at=-1)


def test_the_undisturbed_run_is_the_simulated_run() -> None:
    assert simulate(STUDY, SITES).model == UNDISTURBED
    assert 4 * (2 + 3 * len(SITES) + 1 + 2) == BOUNDARIES


@pytest.mark.parametrize("at", range(BOUNDARIES))
def test_killed_at_every_boundary(at: int) -> None:
    disk = Disk()
    with pytest.raises(Killed):
        run(disk, at)
    assert run(disk, at=-1)[0] == UNDISTURBED


def test_killed_again_and_again() -> None:
    disk, deaths = Disk(), 0
    for life in range(10_000):
        try:
            model, _ = run(disk, at=life % 5)
        except Killed:
            deaths += 1
            continue
        break
    assert model == UNDISTURBED
    assert deaths > 15


def test_a_site_that_is_away_costs_deadlines_and_nothing_else() -> None:
    model, _ = run(Disk(), at=-1, away=frozenset({"s3"}))
    assert model == simulate(STUDY, {n: r for n, r in SITES.items() if n != "s3"}).model
