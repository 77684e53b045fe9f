"""The in-process engine: the network's round, door and runner, with the sites called one after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from locum.data.rows import Rows
from locum.errors import ManifestError, RunFailed
from locum.federation.door import Door, ReleaseDeclined, SitePolicy
from locum.federation.envelope import Envelope
from locum.federation.round import Round
from locum.federation.runner import Cursor, Runner, drive
from locum.federation.state import encode_state
from locum.federation.summation import sum_vectors
from locum.federation.visit import visit
from locum.federation.wire import Assignment
from locum.study.canonical import sha256
from locum.study.manifest import NAME, Study
from locum.study.vector import Array, Layout, Total
from locum.tasks import Memory, State


@dataclass(frozen=True)
class RunResult:
    """What a run gives. model: the final state's safetensors bytes; model_sha256 names it, in every engine alike."""

    study: Study
    state: State
    results: dict[str, Any]
    rounds: int
    declined: dict[str, str]
    model: bytes = field(repr=False)

    @property
    def model_sha256(self) -> str:
        return sha256(self.model)


def simulate(
    study: Study, sites: Mapping[str, Rows], *, policy: SitePolicy | None = None, on_round: Callable[[Runner, Round], None] | None = None
) -> RunResult:
    """Run `study` over `sites` (name -> rows) in this process.

    The model is the same, bit for bit, as over the network. `on_round` is called after every round. Raises `RunFailed`,
    `TaskError` or `ManifestError`.
    """
    bad = [name for name in sites if not NAME.match(name)]
    if bad:
        raise ManifestError(f"'{bad[0]}' is not a site name.", fix="use lower-case letters, digits, '-', '_' and '.'")
    if len(sites) < study.terms.min_cohort:
        raise RunFailed(f"{len(sites)} sites were given; the study's minimum cohort is {study.terms.min_cohort}.", fix="add sites, or lower terms.min_cohort")
    port = _InProcess(study, sites, policy or SitePolicy(), on_round)
    runner = port.runner = Runner(study, run="simulation", cursor=Cursor())
    drive(runner, port)
    return RunResult(study, runner.state, runner.cursor.results, runner.cursor.seq, port.declined, encode_state(runner.state))


class _InProcess:
    """A port whose peers live here. No bytes are made: a site's vector is handed over as it left the door."""

    def __init__(self, study: Study, sites: Mapping[str, Rows], policy: SitePolicy, on_round: Callable[[Runner, Round], None] | None) -> None:
        self.study, self.sites, self.on_round = study, sites, on_round
        self.doors = {name: Door(name, policy) for name in sites}
        self.memory: dict[tuple[str, int], Memory] = {}
        self.declined: dict[str, str] = {}
        self.runner: Runner | None = None
        self._vectors: dict[str, dict[str, Array]] = {}

    def now(self) -> float:
        return 0.0

    def peers(self) -> list[str]:
        return sorted(self.sites)

    def send(self, assignment: Assignment, state: State, layout: Layout) -> Round:
        return Round(assignment, self.study.terms.needed)

    def receive(self, round_: Round) -> None:
        assert self.runner is not None  # noqa: S101 - set by simulate() before it drives
        task, state, a = self.runner.task, self.runner.state, round_.assignment
        self._vectors.clear()
        for site in a.roster:
            if round_.status != "open":
                break
            door, memory = self.doors[site], dict(self.memory.get((site, a.step), {}))
            kind, code = "release", ""
            try:
                contribution, layout = visit(task, state, self.sites[site], memory, a, door, self.study.terms)
                self._vectors[site] = door.protect(contribution, layout, a, self.study.terms)[1]
                self.memory[site, a.step] = memory
            except ReleaseDeclined as refusal:
                kind, code = "decline", refusal.decline
                self.declined[site] = code
            round_.feed(Envelope(kind=kind, study=a.study, run=a.run, seq=a.seq, phase=a.phase, sender=site, digest=""), code)  # type: ignore[arg-type]
        round_.tick(a.deadline)

    def total(self, round_: Round, layout: Layout) -> Total:
        return sum_vectors(layout, (self._vectors[site] for site in round_.contributors))

    def checkpoint(self, runner: Runner, round_: Round) -> None:
        if self.on_round:
            self.on_round(runner, round_)
