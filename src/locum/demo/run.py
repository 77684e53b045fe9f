"""The demonstration: 18 institutions as processes, one study, one answer, and a fault on request."""

from __future__ import annotations

import contextlib
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from locum.client import Client, Patience
from locum.data import Rows, registry
from locum.demo.oracle import Pooled, pooled
from locum.errors import RunFailed, Unavailable
from locum.federation.wire import RoundView, RunView
from locum.report import card_of, page
from locum.simulate import simulate
from locum.study import Study
from locum.testing.federation import LocalFederation, populate
from locum.testing.network import CuttingProxy

FAULTS = ("kill-coordinator", "kill-site", "cut-upload")
VICTIM = "inst-12"
STRIKE_AT = 5
"""The round in which the fault strikes: in the middle of the Cox fit."""

Say = Callable[[str], None]
Watch = Callable[[RunView], None]


def demo(folder: Path, study: Study, fault: str | None, say: Say, watch: Watch) -> dict[str, Any]:
    """Run the whole demonstration in `folder` (new) and return its summary; `say` and `watch` report progress."""
    began = time.monotonic()
    sites = registry.load("lung", study.data)
    files = registry.export("lung", folder / "data")
    with contextlib.ExitStack() as stack:
        federation = stack.enter_context(LocalFederation(folder))
        say("starting the coordinator")
        federation.init()
        federation.start_coordinator()
        proxy = stack.enter_context(CuttingProxy(federation.port)) if fault == "cut-upload" else None
        say(f"enrolling and starting {len(files)} sites, each a process with its own rows")
        mapping = folder / "data" / "mapping.toml"
        populate(federation, {name: (file, mapping) for name, file in files.items()}, via={VICTIM: proxy.port} if proxy else None)
        home = federation.enrol("investigator", role="investigator", folder=folder / "investigator")
        client = stack.enter_context(Client.open(home, patience=Patience(attempts=60, cap_s=2.0)))  # a killed coordinator is part of the show
        say("submitting the study; each site's data manager approves its digest")
        digest = client.submit(study).digest
        run = next(r.id for r in client.runs() if r.study == digest)
        _approve(federation, list(files), digest)
        strike = Strike(federation, proxy, fault)
        for view in client.watch(run):
            watch(view)
            strike.maybe(view)
        if view.status != "finished":
            raise RunFailed(f"The run {view.status}: {view.error}", fix=f"look into {folder / 'logs'}")
        rounds = client.rounds(view.id)
        model = folder / "model.safetensors"
        client.model_file(client.model(view.model or ""), model)
        strike.join()
    say("the same study in one process, and the pooled model: only a demonstration on public data can do that")
    in_process = simulate(study, sites).model_sha256
    features = list(study.plan[[s.name for s in study.plan].index("cox")].params["features"])
    summary = _summary(study, sites, view, rounds, pooled(sites, features, study.data.split))
    summary["same_model_in_process"] = in_process == view.model
    summary["fault"] = {"kind": fault, "what": strike.what} if fault else None
    summary["files"] = {
        "model": str(model),
        "report": str(folder / "report.html"),
        "privacy": str(folder / "privacy.json"),
        "log": str(federation.log("coordinator")),
        "release_log": f"locum site releases --folder {federation.site(VICTIM)}",
    }
    summary["seconds"]["total"] = time.monotonic() - began
    _write(folder, study, view, rounds, summary)
    return summary


def _approve(federation: LocalFederation, names: Sequence[str], digest: str) -> None:
    from locum.site.review import decide

    for name in names:
        decide(federation.site(name), digest, approve=True, exact=True)


class Strike:
    """The fault, injected once, when the run reaches round `STRIKE_AT`."""

    def __init__(self, federation: LocalFederation, proxy: CuttingProxy | None, fault: str | None) -> None:
        self.federation, self.proxy, self.fault = federation, proxy, fault
        self.what = "none was injected: the run ended first"
        self._thread: threading.Thread | None = None

    def maybe(self, view: RunView) -> None:
        if self.fault and self._thread is None and view.seq >= STRIKE_AT and view.status == "running":
            self._thread = threading.Thread(target=self._strike, args=(view.seq,), daemon=True)
            self._thread.start()

    def join(self) -> None:
        if self._thread:
            self._thread.join(30)

    def _strike(self, seq: int) -> None:
        if self.fault == "cut-upload" and self.proxy:
            self.proxy.cut_upload(20_000)
            end = time.monotonic() + 20
            while not self.proxy.cuts and time.monotonic() < end:
                time.sleep(0.01)
            self.what = f"the upload of {VICTIM} was cut after 20,000 bytes, {self.proxy.cuts} time(s), from round {seq} on; it was sent again"
            return
        victim = "coordinator" if self.fault == "kill-coordinator" else VICTIM
        self.federation.kill(victim)
        down = time.monotonic()
        time.sleep(1.0)
        self.federation.start(victim)
        if victim == "coordinator":
            with contextlib.suppress(Unavailable):
                self.federation.wait_ready()
        self.what = f"{victim} was killed with SIGKILL in round {seq} and started again after {time.monotonic() - down:.1f} s"


def _summary(study: Study, sites: Mapping[str, Rows], view: RunView, rounds: Sequence[RoundView], ideal: Pooled) -> dict[str, Any]:
    rows = [
        {**r, "pooled": ideal.coefficients[r["name"]], "difference": abs(r["coef"] - ideal.coefficients[r["name"]])}
        for r in view.results["cox"]["coefficients"]
    ]
    evaluation, alone = view.results["evaluation"], view.results["alone"]
    seconds = [(r.closed or r.opened) - r.opened for r in rounds]
    most = max(len(r) for r in sites.values())
    return {
        "sites": len(sites),
        "patients": sum(len(r) for r in sites.values()),
        "smallest_site": min(len(r) for r in sites.values()),
        "largest_site": most,
        "coefficients": rows,
        "max_abs_diff_vs_pooled": max(r["difference"] for r in rows),
        "concordance": _concordance(evaluation, alone, ideal),
        "rounds": len(rounds),
        "seconds_per_round": {"median": statistics.median(seconds), "max": max(seconds)},
        "bytes_sent_per_site": round(sum(r.bytes_in / max(1, r.answered) for r in rounds)),
        "bytes_per_number": sum(r.vector_bytes for r in rounds) / max(1, sum(r.scalars for r in rounds)),
        "bytes_received_per_site": round(sum(r.bytes_out / max(1, r.asked) for r in rounds)),
        "seconds": {"run": (view.ended or 0) - (view.started or 0), "total": 0.0},
        "aggregation": view.protection,
        "privacy": "none, as this study says: no noise was added, and the result itself may reveal a patient to someone who knows much of the other data",
        "model_sha256": view.model,
        "study_sha256": view.study,
        "run": view.id,
    }


def _concordance(evaluation: dict[str, Any], alone: dict[str, Any], ideal: Pooled) -> dict[str, Any]:
    everyone, within = evaluation["concordance"], evaluation["concordance_within_sites"]
    bound = everyone["error_bound"]
    rows = [
        {"name": "pooled rows", "within": f"{ideal.within:.3f}", "all": f"{ideal.all_pairs:.3f}", "note": "not possible outside a demonstration"},
        {"name": "federated", "within": f"{within['value']:.3f}", "all": f"{everyone['value']:.3f} ± {bound:.3f}", "note": "± from binned scores"},
        {
            "name": "each site alone",
            "within": f"{alone['local_concordance']:.3f}",
            "all": "-",
            "note": f"{alone['sites_fitted']} of {alone['sites']} sites could fit a model at all (ridge {alone['ridge']:g})",
        },
        {
            "name": "a coin",
            "within": "0.500",
            "all": "0.500",
            "note": f"{within['pairs']:.0f} pairs within sites, {everyone['pairs']:.0f} in all: few, so differences of 0.05 mean little",
        },
    ]
    return {
        "pooled": ideal.all_pairs,
        "federated": everyone["value"],
        "federated_error_bound": bound,
        "local": alone["local_concordance"],
        "within_sites": {"pooled": ideal.within, "federated": within["value"], "local": alone["local_concordance"]},
        "test_patients": evaluation["n"],
        "rows": rows,
    }


def _write(folder: Path, study: Study, view: RunView, rounds: Sequence[RoundView], summary: dict[str, Any]) -> None:
    plain = {"run": msgspec.to_builtins(view), "rounds": msgspec.to_builtins(rounds)}
    (folder / "report.json").write_text(json.dumps({"study": json.loads(study.canonical), **plain, "summary": summary}, indent=2) + "\n", encoding="utf-8")
    comparison = {"coefficients": summary["coefficients"], "concordance": summary["concordance"]["rows"]}
    card = card_of(study, view, rounds)
    (folder / "privacy.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    html = page(study=json.loads(study.canonical), run=plain["run"], rounds=plain["rounds"], comparison=comparison, card=card)
    (folder / "report.html").write_text(html, encoding="utf-8")


def new_folder(base: Path) -> Iterator[Path]:
    """Names for the demonstration's folder that do not exist yet: base, base-2, base-3, ..."""
    yield base
    n = 2
    while True:
        yield base.with_name(f"{base.name}-{n}")
        n += 1
