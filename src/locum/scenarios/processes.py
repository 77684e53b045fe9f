"""One study over real processes on this machine: a coordinator and a process for each site, over HTTPS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from locum.client import Client
from locum.data import Rows
from locum.errors import RunFailed
from locum.federation.state import decode_state
from locum.study import Study
from locum.testing.federation import LocalFederation, populate

if TYPE_CHECKING:
    from locum.scenarios.lab import Ran


def over_processes(folder: Path, study: Study, data: Mapping[str, tuple[Path, Path | None]], sites: Mapping[str, Rows], say: Callable[[str], None]) -> Ran:
    """Enrol a site for each entry of `data` (name -> table and mapping), approve the study at each, and run it to its end. sites: the rows that
    those tables hold, for the answer. Raises `RunFailed`."""
    from locum.scenarios.lab import Ran
    from locum.site.review import decide

    folder.mkdir(parents=True)
    with LocalFederation(folder) as federation:
        say("starting the coordinator")
        federation.init()
        federation.start_coordinator()
        policy = f"[policy]\nmin_cohort = {min(5, study.terms.min_cohort)}\n"
        say(f"enrolling and starting {len(data)} sites, each a process with its own rows")
        populate(federation, data, config=policy)
        home = federation.enrol("investigator", role="investigator", folder=folder / "investigator")
        with Client.open(home) as client:
            digest = client.submit(study).digest
            for name in data:
                decide(federation.site(name), digest, approve=True, exact=not study.terms.privacy.on)
            run = next(r.id for r in client.runs() if r.study == digest)
            for view in client.watch(run):
                say(f"round {view.seq}: {view.answered} of {view.asked} sites answered")
            if view.status != "finished" or view.model is None:
                raise RunFailed(f"The run {view.status}: {view.error}")
            rounds = client.rounds(view.id)
            model = folder / "model.safetensors"
            client.model_file(client.model(view.model), model)
            state = dict(decode_state(model))
    return Ran(
        study=study,
        sites=sites,
        state=state,
        results=view.results,
        rounds=len(rounds),
        seconds=(view.ended or 0.0) - (view.started or 0.0),
        sent=sum(r.bytes_in / max(1, r.answered) for r in rounds),
        received=sum(r.bytes_out / max(1, r.asked) for r in rounds),
        model_sha256=view.model,
        processes=True,
    )
