"""The log, its proofs and the bundle's verifier: how fast they are, against the aims of docs/governance.

log_append_per_s   entries hashed and put into tiles, and a root over them at the end, in one process
inclusion_ms       a proof made and verified in the log of a million entries; cold: nothing is cached, warm: the tiles' hashes are
consistency_ms     likewise, from a random earlier size
audit_verify_s     a bundle of 500 sites and 50 masked rounds, real keys and signatures, without the model file
"""

from __future__ import annotations

import importlib.util
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.report import Report
from locum.coordinator.journal import BATCH, Journal, record
from locum.coordinator.store import Store
from locum.coordinator.wakeups import Wakeups
from locum.federation.identity import Identity
from locum.governance import verify as verifier
from locum.governance.events import Entry, Event
from locum.governance.log import Tree, leaf_hash, verify_consistency, verify_inclusion
from locum.governance.log.tree import MemoryTiles
from locum.testing.record import World

REPEATS = 5
PROOFS = 200


def _spread(values: list[float], unit: str = "") -> str:
    return f"median of {len(values)}, {min(values):.3g} to {max(values):.3g}{unit}"


def log(report: Report, quick: bool) -> None:
    """The tree in memory."""
    n = 20_000 if quick else 1_000_000
    bodies = [Entry(1.79e9 + i, Event.ROUND_COMBINED, "coordinator", f"run{i % 997}", {"seq": i}).encode() for i in range(min(n, 100_000))]
    rates, tree = [], Tree(MemoryTiles())
    while tree.size < n:
        start = time.process_time()
        for at in range(0, len(bodies), BATCH):
            tree.extend([leaf_hash(body) for body in bodies[at : at + BATCH]])
            tree.root()
        rates.append(len(bodies) / (time.process_time() - start))
    report.add("log_append_per_s", statistics.median(rates), "1/s", reference=5000, note=f"{tree.size} entries, one core; {_spread(rates)}")
    draw, size, root = random.Random(7), tree.size, tree.root()

    def inclusion(fresh: Tree) -> None:
        i = draw.randrange(size)
        verify_inclusion(i, size, leaf_hash(bodies[i % len(bodies)]), fresh.inclusion(i, size), root)

    def consistency(fresh: Tree) -> None:
        old = draw.randrange(1, size)
        verify_consistency(old, size, fresh.root(old), root, fresh.consistency(old, size))

    aims: tuple[tuple[str, Callable[[Tree], None], float], ...] = (("inclusion_ms", inclusion, 5), ("consistency_ms", consistency, 10))
    for name, work, aim in aims:
        for kind in ("cold", "warm"):
            times = []
            for _ in range(20 if quick else PROOFS):
                fresh = Tree(tree.tiles, size) if kind == "cold" else tree
                start = time.perf_counter()
                work(fresh)
                times.append(1000 * (time.perf_counter() - start))
            label = name if kind == "cold" else f"{name}_warm"
            report.add(label, statistics.median(times), "ms", reference=aim, note=f"{kind}, {size} entries; {_spread(times, ' ms')}")


def journal(report: Report, quick: bool) -> None:
    """The coordinator's log in SQLite: entries in transactions of 100, then the head over all of them."""
    n, at_once = (2000, 100) if quick else (100_000, 100)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/log.db", Wakeups(), time.time)
        store.migrate()
        rates, per_core = [], []
        for _ in range(REPEATS):
            start, began = time.perf_counter(), time.process_time()
            for i in range(0, n // REPEATS, at_once):
                store.write(lambda tx, i=i: [record(tx, Event.ROUND_COMBINED, f"run{i}", by="coordinator", seq=j) for j in range(at_once)])  # type: ignore[misc]
            rates.append(n / REPEATS / (time.perf_counter() - start))
            per_core.append(n / REPEATS / (time.process_time() - began))
        report.add("journal_append_per_s", statistics.median(rates), "1/s", note=f"SQLite, {at_once} entries a transaction, durable; {_spread(rates)}")
        report.add("journal_append_per_core_s", statistics.median(per_core), "1/s", reference=5000, note=f"by processor time; {_spread(per_core)}")
        log = Journal(store, Identity.generate(), "bench")
        start = time.perf_counter()
        size = log.checkpoint().checkpoint.size
        report.add("journal_build_per_s", size / (time.perf_counter() - start), "1/s", reference=5000, note=f"{size} entries into tiles, and a signed head")
        for name, work in (
            ("journal_inclusion_ms", lambda: log.inclusion(size // 3, size)),
            ("journal_consistency_ms", lambda: log.consistency(size // 3, size)),
        ):
            times = []
            for _ in range(20):
                start = time.perf_counter()
                work()
                times.append(1000 * (time.perf_counter() - start))
            report.add(
                name, statistics.median(times), "ms", reference=5 if "inclusion" in name else 10, note=f"each from the database; {_spread(times, ' ms')}"
            )
        store.close()


def verify(report: Report, quick: bool) -> None:
    sites, rounds = (20, 3) if quick else (500, 50)
    with tempfile.TemporaryDirectory() as folder:
        world = World(sites, rounds)
        path = world.bundle(Path(folder) / "bundle.zip", model=None)
        wall, cpu = [], []
        for _ in range(2 if quick else REPEATS):
            start, began = time.perf_counter(), time.process_time()
            checked = verifier.verify(path, coordinator=str(world.coordinator.public), consortium=str(world.consortium.public), witnesses=3)
            wall.append(time.perf_counter() - start)
            cpu.append(time.process_time() - began)
            assert checked.ok, checked.text()
        about = f"{sites} sites, {rounds} rounds, {sites * (rounds + 1)} signatures of sites, {path.stat().st_size / 1e6:.1f} MB"
        report.add("audit_verify_s", statistics.median(wall), "s", reference=5, note=f"{about}; {_spread(wall, ' s')}")
        report.add("audit_verify_cpu_s", statistics.median(cpu), "s", reference=5, note=f"processor time of the same; {_spread(cpu, ' s')}")


def policy(report: Report, quick: bool) -> None:
    """A decision of the site's policy, where that part is installed."""
    if importlib.util.find_spec("bench.governance_policy") is None:
        return
    from bench import governance_policy

    governance_policy.measure(report, quick=quick)


PARTS = {"log": log, "journal": journal, "verify": verify, "policy": policy}


def run(report: Report, *, quick: bool, only: str | None) -> None:
    for name, part in PARTS.items():
        if only in (None, name):
            part(report, quick)
