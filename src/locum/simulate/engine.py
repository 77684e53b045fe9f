"""The in-process engine: the network's round, door and runner, with the sites called one after another."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from locum.data.rows import Rows
from locum.errors import ManifestError, RunFailed
from locum.federation.budget import budget_of
from locum.federation.door import Door, ReleaseDeclined, SitePolicy
from locum.federation.envelope import Envelope
from locum.federation.round import Round
from locum.federation.runner import Cursor, Runner, drive
from locum.federation.state import encode_state
from locum.federation.summation import encoding_of, sum_elements, sum_vectors, trimmed_mean
from locum.federation.visit import visit
from locum.federation.wire import Assignment
from locum.privacy.filters import Filter
from locum.privacy.ledger import Ledger
from locum.secagg.errors import MaskingRefused
from locum.secagg.kdf import digest
from locum.secagg.topology import draw_buckets
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
    study: Study,
    sites: Mapping[str, Rows],
    *,
    policy: SitePolicy | None = None,
    ledgers: Mapping[str, Ledger] | None = None,
    entropy: Callable[[int], bytes] = os.urandom,
    on_round: Callable[[Runner, Round], None] | None = None,
) -> RunResult:
    """Run `study` over `sites` (name -> rows) in this process.

    The model is the same, bit for bit, as over the network: where updates are masked there, the same integers are summed here,
    without the masks. (With buckets, or with noise, which are drawn at random, it is one of the models that the network may give.)
    policy: of every site; by default it asks no more than the study. ledgers: of the sites, for a private study; by default each site
    opens one in memory that has room for it. entropy: gives n random bytes for samples and noise; a seeded one makes a private run
    repeatable, and protects nobody. `on_round` is called after every round. Raises `RunFailed`,
    `TaskError` or `ManifestError`.
    """
    bad = [name for name in sites if not NAME.match(name)]
    if bad:
        raise ManifestError(f"'{bad[0]}' is not a site name.", fix="use lower-case letters, digits, '-', '_' and '.'")
    if len(sites) < study.terms.min_cohort:
        raise RunFailed(f"{len(sites)} sites were given; the study's minimum cohort is {study.terms.min_cohort}.", fix="add sites, or lower terms.min_cohort")
    for role in (n for n, v in study.data.variables.items() if v.role == "patient"):
        given = [name for name, rows in sites.items() if role in rows.columns]
        if given:
            raise ManifestError(
                f"The rows of '{given[0]}' have '{role}' as a column of numbers.",
                why="It says whose row each is; without that, a patient's records would count as so many patients.",
                fix="give it apart: Rows.of(columns, patient=[...])",
            )
    runner = Runner(study, run=f"simulation-{secrets.token_hex(8)}", cursor=Cursor())
    port = _InProcess(runner, sites, policy or SitePolicy(min_cohort=study.terms.min_cohort), ledgers, entropy, on_round)
    drive(runner, port)
    return RunResult(study, runner.state, runner.cursor.results, runner.cursor.seq, port.declined, encode_state(runner.state))


class _InProcess:
    """A port whose peers live here. No bytes are made: a site's vector is handed over as it left the door."""

    def __init__(
        self,
        runner: Runner,
        sites: Mapping[str, Rows],
        policy: SitePolicy,
        ledgers: Mapping[str, Ledger] | None,
        entropy: Callable[[int], bytes],
        on_round: Callable[[Runner, Round], None] | None,
    ) -> None:
        self.runner, self.study, self.sites, self.on_round = runner, runner.study, sites, on_round
        self.doors = {name: Door(name, policy, entropy=entropy) for name in sites}
        self.ledgers = (ledgers or {name: _ledger(name, runner.study) for name in sites}) if runner.budget else {}
        self.memory: dict[tuple[str, int], Memory] = {}
        self.declined: dict[str, str] = {}
        self._vectors: dict[str, dict[str, Array]] = {}

    def now(self) -> float:
        return 0.0

    def peers(self) -> list[str]:
        return sorted(self.sites)

    def send(self, assignment: Assignment, state: State, layout: Layout) -> Round:
        return Round(assignment, self.study.terms.needed)

    def receive(self, round_: Round) -> None:
        task, state, budget, a = self.runner.task, self.runner.state, self.runner.budget, round_.assignment
        self._vectors.clear()
        tried = False
        for site in a.roster:
            if round_.status != "open":
                break
            door, memory = self.doors[site], dict(self.memory.get((site, a.step), {}))
            kind, code = "release", ""
            try:
                charge = door.charge(self.study, budget, a, self.ledgers.get(site), requester=self.study.requester or self.study.name)
                contribution, layout = visit(task, state, self.sites[site], memory, a, door, self.study.terms, budget, tried=tried)
                tried = True  # one state for all
                self._vectors[site] = door.protect(contribution, layout, a, self.study.terms, budget=budget, charge=charge).vector
                self.memory[site, a.step] = memory
            except ReleaseDeclined as refusal:
                kind, code = "decline", refusal.decline
                self.declined[site] = code
            round_.feed(Envelope(kind=kind, study=a.study, run=a.run, seq=a.seq, phase=a.phase, sender=site, digest=""), code)  # type: ignore[arg-type]
        round_.tick(a.deadline)

    def total(self, round_: Round, layout: Layout) -> Total:
        sites, a, terms = round_.contributors, round_.assignment, self.study.terms
        encoding = encoding_of(layout, a, terms)
        if encoding is None:
            return sum_vectors(layout, (self._vectors[site] for site in sites))
        try:
            buckets = draw_buckets(len(sites), terms.min_cohort, terms.masking, digest("simulation", a.study, a.seq))
        except MaskingRefused as refusal:
            raise RunFailed(refusal.what, why=refusal.why, fix=refusal.fix) from None
        totals = [sum_elements(encoding, (self._vectors[sites[i]] for i in bucket)) for bucket in buckets]
        return trimmed_mean(totals, terms.masking.trim) if len(totals) > 1 else totals[0]

    def checkpoint(self, runner: Runner, round_: Round) -> None:
        if self.on_round:
            self.on_round(runner, round_)


def _ledger(site: str, study: Study) -> Ledger:
    """A ledger for a study alone, which lasts as long as the simulation."""
    privacy = study.terms.privacy
    budget = budget_of(study)
    sampled = budget is not None and (budget.plan.amplified or budget.plan.skellam)
    law = Filter("rdp", 4) if sampled else Filter("gdp")
    room = min(4 * privacy.eps + 8.0, 1000.0)  # a filter that is ready for anything counts more than the plan that is known in advance
    return Ledger.in_memory(site=site, dataset="simulation", data_sha256="0" * 64, unit=privacy.unit, eps=room, delta=privacy.delta, filter=law)  # type: ignore[arg-type]
