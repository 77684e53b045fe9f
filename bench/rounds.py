"""What a round costs: five sites on loopback against a plain copy of the bytes, memory with 20 sites, and 500 sites.

These measure the transport, so updates travel in clear text; `masked` measures what masking adds, against clear rounds in the same run.
Seconds of a round are from its opening to the opening of the next one: publish, visit, release, combine, redistribute.
"""

import itertools
import re
import ssl
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.plain_http import copy_seconds
from bench.report import Report
from locum.client import Client
from locum.site.folder import add_data
from locum.site.review import decide
from locum.study import Study
from locum.testing.federation import LocalFederation, populate

MB = 1_000_000
_names = itertools.count()


def run(report: Report, *, quick: bool, only: str | None) -> None:
    parts = {"rounds": rounds, "memory": memory, "sites500": sites500, "masked": masked}
    for name, part in parts.items():
        if only in (None, name):
            part(report, quick=quick)


def rounds(report: Report, *, quick: bool) -> None:
    """Five site processes: 1 MB and 50 MB each way, without and with TLS, between two measurements of the plain copy."""
    big = 10 * MB if quick else 50 * MB
    copies = copy_seconds(5, big, 4)[1:]
    small, large, peak = _rounds(quick, big, tls=False)
    small_tls, large_tls, _ = _rounds(quick, big, tls=True)
    copies += copy_seconds(5, big, 4)[1:]
    copy = statistics.median(copies)
    size = f"{big // MB} MB each way"
    report.add(
        "round_1mb_s", statistics.median(small), "s", reference=0.1, note=f"5 sites, plain HTTP, median of {len(small)}, {spread(small)}; reference: the aim"
    )
    report.add("round_1mb_tls_s", statistics.median(small_tls), "s", note=f"5 sites, TLS 1.3, median of {len(small_tls)}, {spread(small_tls)}")
    report.add("plain_copy_s", copy, "s", note=f"5 sites, {size}, plain HTTP, file to file, no hash, no fsync, {spread(copies)}")
    report.add("round_50mb_s", statistics.median(large), "s", note=f"5 sites, {size}, plain HTTP, median of {len(large)}, {spread(large)}")
    report.add("round_50mb_over_copy", statistics.median(large) / copy, "ratio", reference=3.0, note="plain HTTP on both sides; reference: the aim")
    report.add("round_50mb_tls_over_copy", statistics.median(large_tls) / copy, "ratio", note=f"TLS 1.3 against the plain copy, median of {len(large_tls)}")
    report.add("site_peak_models", peak, "models", reference=3.0, note="peak above the process's size before, the worst of 5 sites; reference: the aim")


def _rounds(quick: bool, big: int, *, tls: bool) -> tuple[list[float], list[float], float]:
    """Seconds of 1 MB rounds and of large rounds, and the sites' peak memory in models."""
    with tempfile.TemporaryDirectory() as folder, LocalFederation(Path(folder), tls=tls) as federation:
        start(federation, 5)
        small = probe(federation, 1 * MB, 5 if quick else 22)
        base = {name: rss(federation, name) for name in federation.processes}
        reset_peaks(federation)
        large = probe(federation, big, 4 if quick else 9)
        peak = max((peak_rss(federation, n) - base[n]) / big for n in federation.processes if n != "coordinator")
    return small, large, peak


def memory(report: Report, *, quick: bool) -> None:
    """20 site processes with 50 MB updates: the coordinator's peak above its size before."""
    sites, big = (8, 10 * MB) if quick else (20, 50 * MB)
    with tempfile.TemporaryDirectory() as folder, LocalFederation(Path(folder)) as federation:
        start(federation, sites)
        probe(federation, 100_000, 3)
        base = rss(federation, "coordinator")
        reset_peaks(federation)
        seconds = probe(federation, big, 4)
        peak = (peak_rss(federation, "coordinator") - base) / big
    report.add(
        "coordinator_peak_models", peak, "models", reference=4.0, note=f"{sites} sites x {big // MB} MB over TLS, base {base / MB:.0f} MB; reference: the aim"
    )
    report.add("round_20_sites_s", statistics.median(seconds), "s", note=f"{sites} sites x {big // MB} MB each way")


def sites500(report: Report, *, quick: bool) -> None:
    """Simulated network clients, many in a process, over real HTTPS: a logistic study of ten rounds."""
    seconds: dict[int, float] = {}
    for count in (50, 100) if quick else (50, 500):
        with swarm(count) as federation:
            seconds[count], note = crowd(federation, logistic(count))
        report.add(f"sites{count}_s", seconds[count], "s", note=note)
    few, many = sorted(seconds)
    report.add(f"sites{many}_over_sites{few}", seconds[many] / seconds[few], "ratio", reference=many / few, note="reference: linear growth")


def masked(report: Report, *, quick: bool) -> None:
    """Masked against clear rounds: five site processes at 1 MB and 50 MB, and a crowd above 128, which masks in a k-regular graph."""
    big, crowd_size = (10 * MB if quick else 50 * MB), 20 if quick else 140
    with tempfile.TemporaryDirectory() as folder, LocalFederation(Path(folder), tls=False) as federation:
        start(federation, 5)
        for nbytes, count, label in ((1 * MB, 6 if quick else 12, "1mb"), (big, 4 if quick else 6, "50mb")):
            took: dict[str, list[float]] = {"clear": [], "masked": []}
            for _ in range(2):
                for aggregation, seconds in took.items():
                    seconds += probe(federation, nbytes, count, aggregation=aggregation)
            clear, ours = statistics.median(took["clear"]), statistics.median(took["masked"])
            note = f"5 sites, {nbytes // MB} MB each way, 4 bytes a number both; clear {clear:.3f} s ({spread(took['clear'])}), masked {spread(took['masked'])}"
            report.add(f"round_{label}_masked_s", ours, "s", note=note)
            report.add(f"round_{label}_masked_over_clear", ours / clear, "ratio", note="four exchanges instead of one, on two cores that six processes share")
    with swarm(crowd_size) as federation:
        for aggregation in ("clear", "masked"):
            took_s, note = crowd(federation, logistic(crowd_size, aggregation=aggregation))
            report.add(f"sites{crowd_size}_{aggregation}_s", took_s, "s", note=note)


@contextmanager
def swarm(count: int) -> Iterator[LocalFederation]:
    """A coordinator, and so many network clients in two processes."""
    with tempfile.TemporaryDirectory() as folder, LocalFederation(Path(folder)) as federation:
        federation.init()
        federation.start_coordinator()
        names = [f"site-{i:03d}" for i in range(count)]
        rng = np.random.default_rng(1)
        for name in names:
            table(federation.folder / f"{name}.csv", rng)
            add_data(federation.enrol(name), "default", federation.folder / f"{name}.csv", None)
        federation.sign_roster()
        clients = [
            subprocess.Popen(
                [sys.executable, "-m", "bench.swarm", *(str(federation.site(n)) for n in names[part::2])],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for part in range(2)
        ]
        try:
            yield federation
        finally:
            for process in clients:
                process.kill()
                process.wait()


def crowd(federation: LocalFederation, question: Study) -> tuple[float, str]:
    """Seconds of a study, and what it took."""
    before, base = requests(federation), rss(federation, "coordinator")
    reset_peaks(federation)
    view, took = submit(federation, question)
    handled, peak = requests(federation) - before, peak_rss(federation, "coordinator")
    return took, f"{view['seq']} rounds, {handled:.0f} requests, {handled / took:.0f}/s, coordinator {base / MB:.0f} MB, peak {peak / MB:.0f} MB"


# --- the federation -------------------------------------------------------------------------------------------------


def start(federation: LocalFederation, sites: int) -> None:
    federation.init()
    federation.start_coordinator()
    rng = np.random.default_rng(0)
    data: dict[str, tuple[Path, Path | None]] = {}
    for i in range(sites):
        path = federation.folder / f"{i}.csv"
        table(path, rng)
        data[f"site-{i:02d}"] = (path, None)
    populate(federation, data)


def table(path: Path, rng: np.random.Generator) -> None:
    x = rng.normal(size=(30, 5))
    y = rng.random(30) < 1 / (1 + np.exp(-x[:, 0] + x[:, 1]))
    lines = ["y,a,b,c,d,e"] + [f"{int(v)}," + ",".join(f"{value:.4f}" for value in row) for v, row in zip(y, x, strict=True)]
    path.write_text("\n".join(lines) + "\n")


VARIABLES: dict[str, Any] = {"y": {"type": "boolean", "role": "outcome"}, **{name: {} for name in "abcde"}}


def study(name: str, sites: int, plan: list[dict[str, Any]], *, aggregation: str = "clear") -> Study:
    terms = {"aggregation": aggregation, "privacy": "none", "masking": {"clip": 1.0}, "min_cohort": sites, "deadline_s": 600}
    return Study.parse({"schema": "locum/study/1", "name": name, "data": {"variables": VARIABLES}, "terms": terms, "plan": plan})


def logistic(sites: int, *, aggregation: str = "clear") -> Study:
    """Ten rounds: a connection check of as many rounds as the regression leaves over."""
    plan = [
        {"name": "scale", "task": "standardise", "variables": list("abcde")},
        {"name": "model", "task": "logistic", "features": list("abcde"), "outcome": "y", "standardise": "scale", "rounds": 9},
        {"name": "rest", "task": "probe", "size": 21, "rounds": 3},
    ]
    return study(f"logistic-{sites}-{aggregation}", sites, plan, aggregation=aggregation)


def probe(federation: LocalFederation, nbytes: int, count: int, *, aggregation: str = "clear") -> list[float]:
    """Seconds of each round of a probe of `nbytes` each way, the first two left out: they carry no state yet."""
    sites = len(federation.processes) - 1
    plan = [{"name": "probe", "task": "probe", "size": nbytes // 4, "rounds": count}]
    view, _ = submit(federation, study(f"probe-{nbytes}-{next(_names)}", sites, plan, aggregation=aggregation))
    opened = [r["opened"] for r in view["rounds"]]
    return [b - a for a, b in itertools.pairwise(opened)][1:]


def submit(federation: LocalFederation, question: Study) -> tuple[dict[str, Any], float]:
    """Submit, approve everywhere, wait; the run's view with its rounds, and seconds from the first round to the end."""
    home = federation.folder / "investigator"
    if not home.exists():
        federation.enrol("investigator", role="investigator", folder=home)
    with Client.open(home) as client:
        digest = client.submit(question).digest
        run = next(r.id for r in client.runs() if r.study == digest)
        for folder in sorted((federation.folder / "sites").iterdir()):
            decide(folder, digest, approve=True)
        *_, view = client.watch(run)
        if view.status != "finished":
            raise SystemExit(f"the run {view.status}: {view.error}")
        return {**msgspec.to_builtins(view), "rounds": msgspec.to_builtins(client.rounds(run))}, (view.ended or 0) - (view.started or 0)


def rss(federation: LocalFederation, name: str) -> int:
    return _status(federation, name, "VmRSS")


def peak_rss(federation: LocalFederation, name: str) -> int:
    return _status(federation, name, "VmHWM")


def _status(federation: LocalFederation, name: str, key: str) -> int:
    text = Path(f"/proc/{federation.processes[name].pid}/status").read_text()
    return 1024 * int(re.search(rf"{key}:\s+(\d+) kB", text)[1])  # type: ignore[index]


def reset_peaks(federation: LocalFederation) -> None:
    """Linux: writing 5 to clear_refs sets the peak (VmHWM) back to the present size."""
    for process in federation.processes.values():
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")


def requests(federation: LocalFederation) -> float:
    """Requests that the coordinator has answered, from its own metrics."""
    token = (federation.coordinator / "metrics.token").read_text().strip()
    context = ssl.create_default_context(cafile=str(federation.coordinator / "ca.crt"))
    request = urllib.request.Request(f"{federation.url}/metrics", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, context=context) as response:
        text = response.read().decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("locum_requests_total"))


def spread(seconds: list[float]) -> str:
    return f"{min(seconds):.3f} to {max(seconds):.3f} s"
