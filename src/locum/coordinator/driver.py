"""The network port: one thread per run, `federation.runner.drive`, and a lease that lets any replica go on."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

import msgspec
import structlog

from locum.coordinator import phases, rosters, runs
from locum.coordinator.blobs import BlobStore, model_key, release_key, round_prefix, state_key
from locum.coordinator.metrics import Metrics
from locum.coordinator.runs import Claim, LeaseLost, OpenRound
from locum.coordinator.store import Store
from locum.coordinator.studies import parse_study
from locum.coordinator.wakeups import RECHECK_S
from locum.errors import LocumError, RunFailed, Unavailable
from locum.federation.envelope import Envelope
from locum.federation.identity import Identity
from locum.federation.masking import Conductor, Turn
from locum.federation.round import EAGER, MASKED, SETUP, Round
from locum.federation.runner import Runner, drive
from locum.federation.state import decode_state, layout_of
from locum.federation.summation import encoding_of, sum_elements, sum_files, sum_masked_files, sum_vectors, trimmed_mean
from locum.federation.wire import NOTICE_BYTES, Assignment, Notice, SignedAssignment
from locum.secagg.cohort import Part
from locum.secagg.encoding import Encoding
from locum.secagg.errors import MaskingRefused, Unrecoverable
from locum.study.canonical import sha256
from locum.study.manifest import Study
from locum.study.vector import Layout, Total
from locum.tasks import State

SENDER = "coordinator"
ROW_BYTES = 64 << 10
"""A vector up to this size is kept in its message's row; a larger one is a blob."""
LOOK_S = 1.0
THREADS = min(4, os.cpu_count() or 1)
"""For removing masks: AES releases the interpreter's lock."""
log = structlog.get_logger(__name__)


class Stopped(Exception):
    """This replica is shutting down."""


class NetworkPort:
    """`federation.runner.Port` over the database and the blob store; the sites come and fetch."""

    def __init__(self, drivers: Drivers, claim: Claim, study: Study) -> None:
        self.drivers, self.claim, self.study = drivers, claim, study
        self.store, self.blobs = drivers.store, drivers.blobs
        self._raw = b""
        self._parts: list[Part] | None = None

    def now(self) -> float:
        return self.store.now()

    def peers(self) -> list[str]:
        return runs.cohort(self.store, self.study)

    def send(self, assignment: Assignment, state: State, layout: Layout) -> Round:
        found = runs.find_round(self.store, assignment.run, assignment.seq)
        if found is None:
            if assignment.vector_bytes > self.drivers.max_vector_bytes:
                raise RunFailed(
                    f"An update of this study has {assignment.vector_bytes} bytes; this coordinator takes {self.drivers.max_vector_bytes} at most.",
                    fix="make the model smaller, or raise max_vector_bytes in coordinator.toml",
                )
            self.blobs.put(state_key(assignment.run, assignment.state), layout_of(state).buffers(state))
            encoding = encoding_of(layout, assignment, self.study.terms)
            if encoding:
                session = phases.choose_session(self.store, assignment, self.study.terms.masking.buckets)
                first = SETUP[0] if session.seq == assignment.seq else MASKED[0]
                assignment = msgspec.structs.replace(assignment, session=session, phase=first)
            header = encoding.wire.header if encoding else layout.header
            signed = self._sign("assignment", assignment, assignment.encode())
            found = OpenRound(assignment, signed, header, self.study.terms.needed, "open", scalars=layout.size)
            runs.open_round(self.store, self.claim.fence, found)
            log.info("round.opened", run=assignment.run, seq=assignment.seq, asked=len(assignment.roster))
        self._raw = found.signed.body.encode()
        return runs.replay(self.store, found)

    def _sign(self, kind: Literal["assignment", "notice"], a: Assignment | Notice, body: bytes) -> SignedAssignment:
        envelope = Envelope(kind=kind, study=a.study, run=a.run, seq=a.seq, phase=a.phase, sender=SENDER, digest=sha256(body))
        return SignedAssignment(body.decode(), envelope.seal(self.drivers.identity))

    def receive(self, round_: Round) -> None:
        a = round_.assignment
        while round_.status in ("open", "between"):
            self._wait(round_)
            if round_.status == "between":
                self._turn(round_)
        self.drivers.metrics.rounds.labels(round_.status).inc()
        log.info("round.ended", run=a.run, seq=a.seq, status=round_.status, released=len(round_.released), declined=len(round_.declined))

    def _wait(self, round_: Round) -> None:
        """Until the present phase is over."""
        a = round_.assignment
        with self.store.wakeups.thread(f"run:{a.run}") as heard:
            while round_.status == "open":
                heard.clear()
                self.drivers.check()
                released, declined = runs.progress(self.store, a.run, a.seq, self.claim.fence)
                waiting, left = len(round_.asked) - released - declined, round_.deadline - self.now()
                enough = released >= round_.needed and round_.phase in EAGER
                if waiting <= 0 or released + waiting < round_.needed or left <= 0 or enough:
                    _adopt(round_, runs.settle(self.store, self.claim.fence, round_))
                else:
                    heard.wait(min(left, RECHECK_S))

    # --- masked rounds ------------------------------------------------------------------------------------------------

    def _conductor(self, a: Assignment) -> Conductor:
        roster = self.store.read(lambda tx: rosters.by_digest(tx, a.session.roster if a.session else ""))
        known = phases.session_of(self.store, a)
        return Conductor(a, self._raw, roster.keys, self.study.terms, known, lambda phase: phases.contents(self.store, a, phase))

    def _turn(self, round_: Round) -> None:
        """From one phase to the next; the round's machine is then open again, closed, or failed."""
        a = round_.assignment
        try:
            turn = self._conductor(a).turn(round_)
        except (MaskingRefused, Unrecoverable) as error:
            round_.status, round_.failure = "failed", error.what
            log.warning("round.failed", run=a.run, seq=a.seq, phase=round_.phase, why=str(error))
            phases.end_round(self.store, self.claim.fence, a, "failed")
            return
        if not isinstance(turn, Turn):
            self._parts = turn
            round_.status = "closed"
            phases.end_round(self.store, self.claim.fence, a, "closed")
            return
        deadline = self.now() + self.study.terms.deadline_s
        notices = {site: self._notice(a, turn.phase, body, deadline) for site, body in turn.notices.items()}
        phases.go_on(self.store, self.claim.fence, round_, turn, notices, deadline)
        round_.enter(turn.phase, turn.notices.keys() or round_.asked, turn.needed, deadline)
        log.info("round.phase", run=a.run, seq=a.seq, phase=turn.phase, asked=len(round_.asked), needed=turn.needed)

    def _notice(self, a: Assignment, phase: str, body: bytes, deadline: float) -> SignedAssignment:
        small = body if len(body) <= NOTICE_BYTES else b""
        notice = Notice(study=a.study, run=a.run, seq=a.seq, phase=phase, deadline=deadline, digest=sha256(body), size=len(body), body=small)
        return self._sign("notice", notice, notice.encode())

    def _masked_total(self, round_: Round, encoding: Encoding) -> Total:
        """The masks come off the sum, never off a single vector."""
        a, conductor = round_.assignment, self._conductor(round_.assignment)
        parts = self._parts if self._parts is not None else conductor.parts()
        self._parts = None
        j = conductor.joined.j
        totals = [self._sum(a, round_, encoding, conductor.names(part.survivors), part, j) for part in parts]
        return trimmed_mean(totals, self.study.terms.masking.trim) if len(totals) > 1 else totals[0]

    def _sum(self, a: Assignment, round_: Round, encoding: Encoding, sites: list[str], part: Part, j: bytes) -> Total:
        wire = encoding.wire
        if wire.file_bytes <= ROW_BYTES:
            few = max(1, 4 * ROW_BYTES // wire.file_bytes)
            vectors = runs.bodies(self.store, a.run, a.seq, sites, phase="masked", at_a_time=few)
            elements = (encoding.unpack(wire.unpack(body)) for body in vectors)
            return sum_elements(encoding, elements, streams=part.streams, transcript=j, threads=THREADS)
        with ExitStack() as stack, _storage():
            files = [stack.enter_context(self.blobs.open(release_key(a.run, a.seq, site, round_.released[site]))) for site in sites]
            return sum_masked_files(encoding, files, streams=part.streams, transcript=j, threads=THREADS)

    def total(self, round_: Round, layout: Layout) -> Total:
        a, sites = round_.assignment, round_.contributors
        encoding = encoding_of(layout, a, self.study.terms)
        if encoding:
            return self._masked_total(round_, encoding)
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


def _adopt(round_: Round, settled: Round) -> None:
    round_.status, round_.answers, round_.declined = settled.status, settled.answers, settled.declined


@contextmanager
def _storage() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"The coordinator's storage failed: {error.strerror}.") from None
