"""Secure aggregation: what masks cost a site and the coordinator, beside a plain float32 sum and raw AES in the same run.

The sites' pairwise roots are made up here instead of agreed on (except for `setup`): every other step is the protocol's own.
"""

import os
import resource
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from bench.report import Report
from locum.federation.identity import Identity
from locum.secagg import cohort, masks, rotation, session, site
from locum.secagg.cohort import Joined
from locum.secagg.encoding import Encoding
from locum.secagg.kdf import digest
from locum.secagg.messages import Seal, Unmask, decode, encode
from locum.secagg.ring import Ring
from locum.secagg.session import Session, Setup
from locum.secagg.site import Secrets
from locum.secagg.suites import DEFAULT, SUITES
from locum.secagg.topology import Manifest
from locum.study.manifest import Masking
from locum.study.vector import Field, Layout

D = 1 << 20
RUNS = 7
BOTH = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def cores(n: int) -> Iterator[None]:
    """Run on the first n cores only."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:n])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def timed(*works: Callable[[], object], runs: int = RUNS) -> list[list[float]]:
    """Seconds of each work, interleaved: a machine that slows down slows all of them."""
    for work in works:
        work()
    out: list[list[float]] = [[] for _ in works]
    for _ in range(runs):
        for work, seconds in zip(works, out, strict=True):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
    return out


def spread(values: list[float], scale: float = 1.0) -> str:
    return f"{min(values) * scale:.3g} to {max(values) * scale:.3g} in {len(values)} runs"


@dataclass
class Cohort:
    """n sites that have joined one round, and what the coordinator has of it."""

    n: int
    d: int
    bits: int = 32

    def __post_init__(self) -> None:
        self.names = [f"site-{i:04d}" for i in range(self.n)]
        self.identities = {name: Identity.generate() for name in self.names}
        keys = {name: identity.public for name, identity in self.identities.items()}
        terms = Masking(clip=1.0, bits=self.bits)  # type: ignore[arg-type]
        self.manifest = Manifest(digest("manifest", "bench"), 1, tuple(self.names), keys, 5, terms)
        self.seed, self.id = digest("seed", "bench"), digest("session", "bench")
        self.encoding = Encoding(Layout((Field("update", (self.d,), "float32"), Field("weight", ()))), self.n, terms)
        self.secrets: dict[int, Secrets] = {}
        self.joins: dict[int, bytes] = {}
        for i in range(self.n):
            self.secrets[i], self.joins[i] = self.join(i)
        self.u1: Joined = cohort.joined(self.manifest, self.id, self.names, self.seed, self.joins)
        self.rosters = cohort.rosters(self.u1)

    def session(self, i: int) -> Session:
        others = (j for j in range(self.n) if j != i)
        return Session(self.id, tuple(self.names), self.seed, 0, {self.names[j]: digest("root", min(i, j), max(i, j)) for j in others})

    def join(self, i: int, made: Session | None = None) -> tuple[Secrets, bytes]:
        return site.join(self.manifest, made or self.session(i), self.names[i], self.identities[self.names[i]].sign, os.urandom)

    def client(self, i: int, update: np.ndarray, made: Session) -> float:
        """Seconds of JOIN and MASKED at site i: shares, signatures, checks, clipping, encoding, masks."""
        start = time.perf_counter()
        mine, _ = self.join(i, made)
        busy = time.perf_counter() - start
        mine = self.secrets[i]  # the one whose JOIN is in the roster
        mine.phase = "joined"
        start = time.perf_counter()
        streams = site.mask(self.manifest, mine, self.names[i], self.rosters[i])
        elements = self.encoding.encode({"update": update, "weight": np.asarray(1.0)}, 1.0, bytes(32))
        masks.apply(elements, self.encoding.rings, streams, mine.j)
        return busy + time.perf_counter() - start

    def answers(self, alive: list[int]) -> dict[int, bytes]:
        """UNMASK of every survivor."""
        out, living = {}, set(alive)
        for i in alive:
            s = self.secrets[i]
            if not s.shares:
                s.phase = "joined"
                site.mask(self.manifest, s, self.names[i], self.rosters[i])
            near = self.u1.topology.neighbours[i]
            out[i] = encode(Unmask(s.b, {j: s.shares[j][0] for j in near if j in living}, {j: s.shares[j][1] for j in near if j not in living}))
        return out


def run(report: Report, *, quick: bool, only: str | None) -> None:
    d = D >> 4 if quick else D
    parts: dict[str, Callable[[], None]] = {
        "masks": lambda: _masks(report, d),
        "n100": lambda: _cohort(report, 20 if quick else 100, d, "n100", dropped=1 if quick else 5),
        "n500": lambda: _cohort(report, 140 if quick else 500, d, "n500", dropped=0),
        "memory": lambda: _memory(report, 1_000_000 if quick else 100_000_000),
        "setup": lambda: _setup(report, 50 if quick else 500),
        "wire": lambda: _wire(report, d),
    }
    for name, part in parts.items():
        if only in (None, name):
            print(f"... {name}", file=sys.stderr)
            part()


def _masks(report: Report, d: int) -> None:
    """Mask and add, against AES-256-CTR alone over the same bytes."""
    ring, count = Ring(32), 16
    target, keys = ring.zeros(d), [(os.urandom(32), 1) for _ in range(count)]
    zeros, out = bytes(masks.CHUNK), bytearray(masks.CHUNK + 16)

    def raw() -> None:
        for key, _ in keys:
            stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
            for _ in range(0, target.nbytes, masks.CHUNK):
                stream.update_into(zeros, out)

    with cores(1):
        aes, ours = timed(raw, lambda: masks.add_keystreams(target, ring, keys))
    nbytes = target.nbytes * count
    ratio = statistics.median(a / o for a, o in zip(aes, ours, strict=True))
    report.add("mask_over_keystream", ratio, "of AES", reference=0.6, note="one core, u32; aim at least 0.6; run by run")
    report.add("keystream_gb_s", nbytes / statistics.median(aes) / 1e9, "GB/s", note="AES-256-CTR, same chunks, " + spread(aes, 1e3) + " ms")
    report.add("mask_and_add_gb_s", nbytes / statistics.median(ours) / 1e9, "GB/s", note=spread(ours, 1e3) + " ms")


def _cohort(report: Report, n: int, d: int, label: str, *, dropped: int) -> None:
    made = Cohort(n, d)
    rng = np.random.default_rng(0)
    update = rng.normal(size=d).astype(np.float32) / np.float32(d**0.5)
    k = len(made.u1.topology.neighbours[0])
    with cores(1):
        seconds = [made.client(i, update, made.session(i)) for i in range(RUNS + 1)][1:]
    report.add(f"client_ms_{label}", statistics.median(seconds) * 1e3, "ms", reference=120, note=f"{k} neighbours, one core, {spread(seconds, 1e3)}")

    x = rng.normal(size=(n, d)).astype(np.float32)
    y = [{"narrow": row.view(np.uint32), "wide": rng.integers(0, 2**63, (1, 2)).astype(np.uint64)} for row in x]  # the same bytes, as ring elements

    def plain() -> None:
        acc = np.zeros(d, np.float32)
        for row in x:
            np.add(acc, row, out=acc)

    def masked(alive: list[int], answers: dict[int, bytes], threads: int) -> None:
        (part,) = cohort.recover(made.manifest, made.u1, alive, answers)
        acc = made.encoding.zeros()
        for i in part.survivors:
            made.encoding.add(acc, y[i])
        masks.apply(acc, made.encoding.rings, part.streams, made.u1.j, threads=threads)
        made.encoding.decode(acc)

    everyone = list(range(n))
    answers = made.answers(everyone)
    for count in dict.fromkeys((1, BOTH)):
        with cores(count):
            base, ours = timed(plain, lambda count=count: masked(everyone, answers, count), runs=5)  # type: ignore[misc]
        ratio = statistics.median(o / b for o, b in zip(ours, base, strict=True))
        name = f"coordinator_over_plain_{label}" + ("" if count == 1 else f"_{count}cores")
        note = f"{count} core(s), no dropout; {statistics.median(ours):.3f} s against {statistics.median(base):.3f} s plain; {spread(ours)} s"
        report.add(name, ratio, "x plain", reference=4, note=note)
    tracemalloc.start()
    masked(everyone, answers, 1)
    report.add(f"coordinator_extra_mb_{label}", tracemalloc.get_traced_memory()[1] / 1e6, "MB", reference=16, note="beside the inputs; sum and result included")
    tracemalloc.stop()
    if dropped:
        alive = everyone[dropped:]
        with_drops = made.answers(alive)
        with cores(1):
            (late,) = timed(lambda: masked(alive, with_drops, 1), runs=5)
        report.add(f"coordinator_s_{label}_drop5", statistics.median(late), "s", reference=1, note=f"{dropped} of {n} dropped out, one core, {spread(late)} s")


_CHILD = """
import resource, sys, time
import numpy as np
limit, d = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
from locum.secagg import masks
from locum.secagg.encoding import Encoding
from locum.study.manifest import Masking
from locum.study.vector import Field, Layout
e = Encoding(Layout((Field("update", (d,), "float32"), Field("weight", ()))), 100, Masking(clip=1.0))
update = np.full(d, 1e-5, np.float32)
start = time.perf_counter()
y = e.encode({"update": update, "weight": np.asarray(1.0)}, 1.0, bytes(32))
masks.apply(y, e.rings, [masks.Stream(bytes([i]) * 32, "pair", 1) for i in range(100)], bytes(32))
for piece in e.wire.buffers(e.pack(y)):
    len(piece)
status = open("/proc/self/status").read()  # ru_maxrss would tell of the parent, before exec
print(1024 * int(status.split("VmHWM:")[1].split()[0]), time.perf_counter() - start)
"""


def _memory(report: Report, d: int) -> None:
    limit = 2_000_000_000
    done = subprocess.run([sys.executable, "-c", _CHILD, str(limit), str(d)], capture_output=True, text=True, check=True)
    peak, seconds = (float(x) for x in done.stdout.split())
    note = f"d = {d:,}, n = 100, process with its {d * 4 / 1e9:g} GB vector, under a limit of 2 GB; {seconds:.1f} s"
    report.add("client_peak_gb_d100m", peak / 1e9, "GB", reference=2, note=note)


def _setup(report: Report, n: int) -> None:
    """One site's processor time in a set-up with n - 1 others: keys, seals to all, seals of all."""
    names = [f"site-{i:04d}" for i in range(n)]
    identities = {name: Identity.generate() for name in names}
    suite = SUITES[DEFAULT]
    setup = Setup.of(study="s", run="r", t=0, roster="x", suite=suite, keys={m: i.public for m, i in identities.items()}, n_min=5)
    told = {name: session.announce(setup, name, identities[name].sign, os.urandom) for name in names}
    listed = session.key_list(setup, {name: body for name, (_, body) in told.items()})[names[0]]
    me, sent = names[0], {}
    pending = told[me][0]
    for name in names[1:]:  # what the others seal for this site
        sealed = suite.seal(suite.public(pending.private), os.urandom(32), session.join(setup.id, name, me))
        sent[name] = Seal(sealed, identities[name].sign(session.label("sealed"), session.join(setup.id, name, me, sealed)))
    column = encode(session.Column({name: told[name][0].nonce for name in names}, sent))
    spent = []
    for _ in range(5):
        mine = session.Pending(pending.private, pending.nonce)
        start = time.process_time()
        session.announce(setup, me, identities[me].sign, os.urandom)
        seals = session.seal(setup, me, mine, listed, identities[me].sign, os.urandom)
        session.open_column(setup, me, mine, column, 0)
        spent.append(time.process_time() - start)
    size = len(seals) + len(column) + len(listed)
    decode(seals, session.Seals)
    report.add(f"setup_s_per_site_n{n}", statistics.median(spent), "s CPU", reference=1, note=f"{suite.name}, {size / 1e6:.2f} MB each site, {spread(spent)} s")


def _wire(report: Report, d: int) -> None:
    """Bytes a parameter and the cost of encoding, by width."""
    rng = np.random.default_rng(0)
    update = rng.normal(size=d).astype(np.float32) / np.float32(d**0.5)
    vector = {"update": update, "weight": np.asarray(1.0)}
    layout = Layout((Field("update", (d,), "float32"), Field("weight", ())))
    for bits in (32, 24, 20, 16, 12):
        n = 100 if bits > 12 else 10
        e = Encoding(layout, n, Masking(clip=1.0, bits=bits))  # type: ignore[arg-type]
        with cores(1):
            (seconds,) = timed(lambda e=e: e.pack(e.encode(vector, 1.0, bytes(32))), runs=5)  # type: ignore[misc]
        got = e.decode(e.encode(vector, 1.0, bytes(32)))["update"]
        error = float(np.linalg.norm(got - update) / np.linalg.norm(update))
        note = f"n = {n}; encoding {statistics.median(seconds) * 1e3:.1f} ms; relative error of one vector {error:.1g}"
        report.add(f"bytes_per_parameter_u{bits}", e.bytes_per_parameter, "B", note=note)
    with cores(1):
        (seconds,) = timed(lambda: rotation.rotate(update, bytes(32)))
    report.add("rotation_ms", statistics.median(seconds) * 1e3, "ms", note=f"signs and Hadamard transform of {d:,} numbers, one core; {spread(seconds, 1e3)}")
    report.add("peak_rss_gb", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, "GB", note="this benchmark's own process")
