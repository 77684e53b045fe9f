"""What a scenario works with: its study files, real rows by name, and an engine to run over them, as the mode says."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from locum.data import Rows, registry
from locum.scenarios import studies
from locum.scenarios.base import Mode
from locum.simulate import simulate
from locum.study import Study
from locum.tasks import State

Say = Callable[[str], None]
PROCESSES = 12
"""Sites that are started as processes of their own; the largest are taken where a data set has more."""


@dataclass(frozen=True)
class Ran:
    """A study that was run. sent, received: bytes of one site over the whole run, its envelopes not counted. processes: whether it ran over the network;
    same_model: whether one process then gave the same model, bit for bit (None where that was not tried)."""

    study: Study
    sites: Mapping[str, Rows]
    state: State = field(repr=False)
    results: dict[str, Any] = field(repr=False)
    rounds: int
    seconds: float
    sent: float
    received: float
    model_sha256: str
    processes: bool = False
    same_model: bool | None = None


class Lab:
    """mode: what protects the sums, and where the sites are. quick: smaller sizes, for tests; the same code.

    Everything that was run is kept in `ran`, for the report.
    """

    def __init__(self, mode: Mode = "masked", *, quick: bool = False, say: Say = lambda _: None) -> None:
        self.mode, self.quick, self._say = mode, quick, say
        self.ran: list[Ran] = []

    def say(self, text: str) -> None:
        """Progress, one short line."""
        self._say(text)

    def study(self, name: str) -> Study:
        """A study file with the mode's terms: its private form in mode 'private', clear text in mode 'clear'."""
        return studies.study(f"{name}-private" if self.mode == "private" else name, **({"aggregation": "clear"} if self.mode == "clear" else {}))

    def rows(self, study: Study, dataset: str, *, by: str | None = None, partition: str | None = None, **options: str) -> dict[str, Rows]:
        """The sites of a registered data set under the study's contract."""
        return registry.load(dataset, study.data, by=by, partition=partition, progress=None, **options)

    def run(self, study: Study, dataset: str, *, by: str | None = None, partition: str | None = None, of: Collection[str] | None = None, **options: str) -> Ran:
        """Run a study over a registered data set: in this process or, in mode 'network', over processes of their own. of: the sites that take part,
        where not all do."""
        sites = self.rows(study, dataset, by=by, partition=partition, **options)
        sites = sites if of is None else {name: rows for name, rows in sites.items() if name in of}
        if self.mode != "network":
            return self.simulate(study, sites)
        return self._network(study, sites, dataset, by, partition, options)

    def simulate(self, study: Study, sites: Mapping[str, Rows]) -> Ran:
        """Run a study over these rows in this process, in every mode."""
        self.say(f"{study.name}: {len(study.plan)} steps over {len(sites)} sites")
        began, traffic = time.monotonic(), [0, 0]

        def count(_: object, round_: Any) -> None:
            traffic[0] += round_.assignment.vector_bytes
            traffic[1] += round_.assignment.state_bytes

        got = simulate(study, sites, on_round=count)
        took = time.monotonic() - began
        return self._keep(Ran(study, sites, got.state, got.results, got.rounds, took, traffic[0], traffic[1], got.model_sha256))

    def _keep(self, ran: Ran) -> Ran:
        self.ran.append(ran)
        return ran

    def _network(self, study: Study, sites: Mapping[str, Rows], dataset: str, by: str | None, partition: str | None, options: dict[str, str]) -> Ran:
        from locum.scenarios.processes import over_processes

        chosen = sorted(sorted(sites, key=lambda name: -len(sites[name]))[:PROCESSES])
        sites = {name: sites[name] for name in chosen}
        # It starts when all have accepted: else the first rounds would be over those that did so first, and no model could be compared.
        terms = study.terms.model_dump() | {"min_cohort": min(study.terms.min_cohort, len(sites)), "start_when": len(sites), "quorum": None}
        study = Study.parse({**study.model_dump(by_alias=True), "terms": terms})
        with tempfile.TemporaryDirectory(prefix="locum-scenario-") as folder:
            files = registry.export(dataset, Path(folder) / "data", by=by, partition=partition, progress=None, **options)
            mapping = Path(folder) / "data" / "mapping.toml"
            ran = over_processes(Path(folder) / "run", study, {name: (files[name], mapping) for name in sites}, sites, self.say)
        self.say("the same study in one process, to compare the model")
        same = simulate(study, sites).model_sha256 == ran.model_sha256
        return self._keep(Ran(**{**vars(ran), "same_model": same}))
