"""The network port: one thread per run, `federation.runner.drive`, and a lease that lets any replica go on."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import structlog

from locum.coordinator import runs
from locum.coordinator.blobs import BlobStore, model_key, release_key, round_prefix, state_key
from locum.coordinator.metrics import Metrics
from locum.coordinator.runs import Claim, LeaseLost, OpenRound
from locum.coordinator.store import Store
from locum.coordinator.studies import parse_study
from locum.coordinator.wakeups import RECHECK_S
from locum.errors import LocumError, RunFailed, Unavailable
from locum.federation.envelope import Envelope
from locum.federation.identity import Identity
from locum.federation.round import Round
from locum.federation.runner import Runner, drive
from locum.federation.state import decode_state, layout_of
from locum.federation.summation import sum_files, sum_vectors
from locum.federation.wire import Assignment, SignedAssignment
from locum.study.canonical import sha256
from locum.study.manifest import Study
from locum.study.vector import Layout, Total
from locum.tasks import State

SENDER = "coordinator"
ROW_BYTES = 64 << 10
"""A vector up to this size is kept in its message's row; a larger one is a blob."""
LOOK_S = 1.0
log = structlog.get_logger(__name__)


class Stopped(Exception):
    """This replica is shutting down."""


class NetworkPort:
    """`federation.runner.Port` over the database and the blob store; the sites come and fetch."""

    def __init__(self, drivers: Drivers, claim: Claim, study: Study) -> None:
        self.drivers, self.claim, self.study = drivers, claim, study
        self.store, self.blobs = drivers.store, drivers.blobs

    def now(self) -> float:
        return self.store.now()

    def peers(self) -> list[str]:
        return runs.cohort(self.store, self.study)

    def send(self, assignment: Assignment, state: State, layout: Layout) -> Round:
        found = runs.find_round(self.store, assignment.run, assignment.seq)
        if found is None:
            if layout.file_bytes > self.drivers.max_vector_bytes:
                raise RunFailed(
                    f"An update of this study has {layout.file_bytes} bytes; this coordinator takes {self.drivers.max_vector_bytes} at most.",
                    fix="make the model smaller, or raise max_vector_bytes in coordinator.toml",
                )
            self.blobs.put(state_key(assignment.run, assignment.state), layout_of(state).buffers(state))
            found = OpenRound(assignment, self._sign(assignment), layout.header, self.study.terms.needed, "open")
            runs.open_round(self.store, self.claim.fence, found)
            log.info("round.opened", run=assignment.run, seq=assignment.seq, asked=len(assignment.roster))
        return runs.replay(self.store, found)

    def _sign(self, a: Assignment) -> SignedAssignment:
        body = a.encode()
        envelope = Envelope(kind="assignment", study=a.study, run=a.run, seq=a.seq, phase=a.phase, sender=SENDER, digest=sha256(body))
        return SignedAssignment(body.decode(), envelope.seal(self.drivers.identity))

    def receive(self, round_: Round) -> None:
        a = round_.assignment
        with self.store.wakeups.thread(f"run:{a.run}") as heard:
            while round_.status == "open":
                heard.clear()
                self.drivers.check()
                released, declined = runs.progress(self.store, a.run, a.seq, self.claim.fence)
                waiting, left = len(a.roster) - released - declined, a.deadline - self.now()
                if waiting == 0 or released + waiting < round_.needed or left <= 0:
                    self._adopt(round_, runs.settle(self.store, self.claim.fence, round_))
                else:
                    heard.wait(min(left, RECHECK_S))
        self.drivers.metrics.rounds.labels(round_.status).inc()
        log.info("round.ended", run=a.run, seq=a.seq, status=round_.status, released=len(round_.released), declined=len(round_.declined))

    @staticmethod
    def _adopt(round_: Round, settled: Round) -> None:
        round_.status, round_.released, round_.declined = settled.status, settled.released, settled.declined

    def total(self, round_: Round, layout: Layout) -> Total:
        a, sites = round_.assignment, round_.contributors
        if layout.file_bytes <= ROW_BYTES:
            few = max(1, 4 * ROW_BYTES // layout.file_bytes)
            return sum_vectors(layout, (layout.unpack(body) for body in runs.bodies(self.store, a.run, a.seq, sites, at_a_time=few)))
        with ExitStack() as stack, _storage():
            files = [stack.enter_context(self.blobs.open(release_key(a.run, a.seq, site, round_.released[site]))) for site in sites]
            return sum_files(layout, files)

    def checkpoint(self, runner: Runner, round_: Round) -> None:
        a = round_.assignment
        layout, (digest, _) = layout_of(runner.state), runner.fingerprint
        key = model_key(digest) if runner.finished else state_key(a.run, digest)
        self.blobs.put(key, layout.buffers(runner.state))
        size = layout.file_bytes if runner.finished else None
        runs.checkpoint(self.store, self.claim.fence, a.run, a.seq, runner.cursor, digest, study=a.study, model_bytes=size)
        self.blobs.delete(round_prefix(a.run, a.seq))  # the sum is durable: nobody needs a single site's release any more
        if digest != a.state:
            self.blobs.delete(state_key(a.run, a.state))


class Drivers:
    """The runs that this replica drives: finds them, leases them, and starts a thread for each."""

    def __init__(self, store: Store, blobs: BlobStore, identity: Identity, metrics: Metrics, *, max_vector_bytes: int) -> None:
        self.store, self.blobs, self.identity, self.metrics, self.max_vector_bytes = store, blobs, identity, metrics, max_vector_bytes
        self.me = runs.owner(secrets.token_hex(4))
        self._active: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=t, name=f"locum-{t.__name__}", daemon=True) for t in (self.look, self.beat)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop between two durable steps, and give the leases back."""
        self._stop.set()
        with self._lock:
            mine = dict(self._active)
        self.store.wakeups.notify(["runs", *(f"run:{run}" for run in mine)])
        for thread in [*self._threads, *mine.values()]:
            thread.join(timeout=5)
        try:
            runs.release(self.store, self.me)
        except Unavailable:
            log.warning("lease.not_released")  # they run out by themselves

    def check(self) -> None:
        """Raises `Stopped` if this replica is shutting down."""
        if self._stop.is_set():
            raise Stopped

    def look(self) -> None:
        """Lease and start whatever may run: at start, when something changes, and every `LOOK_S`."""
        with self.store.wakeups.thread("runs") as heard:
            while not self._stop.is_set():
                heard.clear()
                with self._survive("look"):
                    for claim in runs.claim(self.store, self.me, self._mine()):
                        self._begin(claim)
                heard.wait(LOOK_S)

    def beat(self) -> None:
        """Renew the leases."""
        while not self._stop.wait(runs.LEASE_S / 5):
            with self._survive("beat"):
                runs.renew(self.store, self.me, self._mine())

    def _mine(self) -> list[str]:
        with self._lock:
            return list(self._active)

    def _begin(self, claim: Claim) -> None:
        if claim.taken_over:
            self.metrics.takeovers.inc()
        log.info("run.driving", run=claim.run, fence=claim.fence, taken_over=claim.taken_over)
        thread = threading.Thread(target=self._drive, args=(claim,), name=f"locum-run-{claim.run}", daemon=True)
        with self._lock:
            self._active[claim.run] = thread
            self.metrics.active.set(len(self._active))
        thread.start()

    def _drive(self, claim: Claim) -> None:
        delay = 0.1
        try:
            while not self._stop.is_set():
                try:
                    self._attempt(claim)
                    break
                except Unavailable as error:  # the database or the disk is away: nothing is lost, start again from what is durable
                    log.warning("run.waiting", run=claim.run, why=error.what, retry_s=delay, local=error.local)
                    self._stop.wait(delay)
                    delay = min(5.0, delay * 2)
            self._clean(claim.run)
        except LeaseLost:
            log.info("run.lease_lost", run=claim.run)
            self._clean(claim.run)
        except Stopped:
            pass
        except Exception:
            log.exception("run.driver_died", run=claim.run)
        finally:
            with self._lock:
                self._active.pop(claim.run, None)
                self.metrics.active.set(len(self._active))

    def _attempt(self, claim: Claim) -> None:
        try:
            at = runs.position(self.store, claim.run)
            study = parse_study(at.manifest)
            runner = Runner(study, claim.run, state=self._state(claim.run, at.state), cursor=at.cursor)
            drive(runner, NetworkPort(self, claim, study))
        except (LeaseLost, Stopped, Unavailable):
            raise
        except LocumError as error:
            log.warning("run.failed", run=claim.run, why=str(error), local=error.local)
            self._fail(claim, str(error))
        except Exception:
            log.exception("run.failed", run=claim.run)
            self._fail(claim, "The coordinator failed while it combined the answers. To fix it: the operator finds the reason in the coordinator's log.")
        else:
            self.metrics.runs.labels("finished").inc()
            log.info("run.finished", run=claim.run)

    def _fail(self, claim: Claim, error: str) -> None:
        runs.fail(self.store, claim.fence, claim.run, error)
        self.metrics.runs.labels("failed").inc()

    def _state(self, run: str, digest: str | None) -> State:
        if digest is None:
            return {}
        with self.blobs.local(state_key(run, digest)) as path, _storage():
            return decode_state(path)

    def _clean(self, run: str) -> None:
        """Delete what a run that has ended left behind."""
        with self._survive("clean"):
            if runs.has_ended(self.store, run):
                self.blobs.delete(f"runs/{run}/")

    @contextmanager
    def _survive(self, what: str) -> Iterator[None]:
        try:
            yield
        except Unavailable as error:
            log.warning("driver.waiting", what=what, why=error.what, local=error.local)
        except Exception:
            log.exception("driver.error", what=what)


@contextmanager
def _storage() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"The coordinator's storage failed: {error.strerror}.") from None
