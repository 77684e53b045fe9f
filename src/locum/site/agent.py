"""The site's process: it asks for work, decides whether the work may run here, and lets out what the door lets out.

poll -> is it signed by the pinned key? -> was this round answered already? then the same bytes again
     -> is the study approved here, by digest? -> do the door and the site's own rules admit the round? -> only now are rows read
     -> visit -> door -> durable answer -> send -> acknowledged

A masked round asks several times (phases); each is answered in the same way, and the vector itself only in one of them.
After a crash at any arrow the site goes on from what is durable: it sends the same bytes, or computes them again to the
same bits. Whatever goes wrong with a round becomes a signed code; the reason stays in this site's log.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from structlog.typing import FilteringBoundLogger

from locum.client import Api
from locum.client.connection import CHUNK
from locum.errors import Conflict, EnvelopeError, LocumError, TaskError, Unavailable
from locum.federation.budget import budget_of
from locum.federation.door import Door, Protected, Release, ReleaseDeclined, Rules, SitePolicy
from locum.federation.identity import PublicKey
from locum.federation.round import VECTORS
from locum.federation.state import decode_state, encode_state
from locum.federation.visit import visit
from locum.federation.wire import LONG_POLL_S, Assignment, SignedAssignment
from locum.federation.witness import LedgerHead
from locum.site.inbox import Request, approved_task, check_body, decode_request, open_assignment, open_notice, open_study
from locum.site.ledgers import LedgerSource, no_ledgers
from locum.site.logs import reason
from locum.site.masking import MaskedRound, check_roster
from locum.site.rows import RowSource
from locum.site.store import Answer, Decision, Masking, Store
from locum.site.witness import Witness
from locum.study.manifest import Study
from locum.tasks import Task

T = TypeVar("T")
SMALL = 1 << 20
"""A global state up to this size stays in memory; a larger one goes through a file, and resumes after a crash."""
VISITS = 2
"""Visits at a time: each may need a few models' worth of memory."""
MAX_REFUSED = 1000
PRUNE_S = 86400.0
SOON_S, SELDOM_S = 5.0, 900.0
"""How long after something happened here the log is looked at, and how long at the latest."""
GRACE_S = 3600.0
"""How long after its deadline a round is still tried, where the way to the coordinator is broken."""


class _Held(NamedTuple):
    """A vector between JOIN and MASKED. If it is dropped at `until`, or lost in a crash, it is computed again to the same bits."""

    seq: int
    protected: Protected
    memory: bytes | None
    until: float


class Agent:
    """One site. Many may live in one process: an agent holds a store, a connection, and little else."""

    def __init__(
        self,
        store: Store,
        api: Api,
        coordinator: PublicKey,
        rows: RowSource,
        log: FilteringBoundLogger,
        *,
        policy: SitePolicy | None = None,
        rules: Rules | None = None,
        ledgers: LedgerSource | None = None,
        consortium: PublicKey | None = None,
        witness: Witness | None = None,
        poll_s: float = LONG_POLL_S,
    ) -> None:
        """coordinator: the key pinned at enrolment. rows: where a study's rows come from, commonly `SiteRows(store, key)`.

        rules: the site's own beside `policy`, commonly `SiteRules(store, name)`.
        ledgers: by which private studies are paid for, commonly `SiteLedgers(store, name)`.
        consortium: the key that signs the roster; without it this site takes part in no masked round. witness: what cosigns the log.
        """
        self.store, self.api, self.coordinator, self.rows, self.log, self.poll_s = store, api, coordinator, rows, log, poll_s
        self.identity = api.connection.identity
        self.ledgers = ledgers or no_ledgers
        self.door = Door(api.connection.name, policy or SitePolicy(), rules=rules)
        self.consortium, self.witness = consortium, witness
        self._news = asyncio.Event()
        self._keys: tuple[str, dict[str, PublicKey]] = ("", {})
        self.computing = 0
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._refused: dict[str, None] = {}
        self._stated: dict[str, LedgerHead] | None = None
        self._newest: dict[str, tuple[int, int]] = {}
        self._held: dict[str, _Held] = {}  # by run: what was computed at JOIN, until it leaves masked
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._visits = asyncio.Semaphore(VISITS)

    async def run(self, stop: asyncio.Event | None = None) -> None:
        """Serve until `stop` is set. What is under way then is given up; the next life takes it up again."""
        self.store.prune()
        for run, seq, raw in self.store.unsent():
            try:
                self._start(decode_request(raw, self.store.assignment))
            except LocumError as error:  # kept by another release
                self.log.warning("answer not sent again", run=run, seq=seq, **reason(error))
        poll = asyncio.create_task(self._poll())
        log = asyncio.create_task(self._watch_log())
        halt = asyncio.create_task((stop or asyncio.Event()).wait())
        try:
            await asyncio.wait({poll, halt}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tasks = {poll, halt, log, *self._jobs.values()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # --- asking for work ------------------------------------------------------------------------------------------

    async def _poll(self) -> None:
        failures, pruned = 0, time.monotonic()
        while True:
            try:
                self._held = {run: held for run, held in self._held.items() if self.api.connection.now() < held.until}
                if time.monotonic() - pruned > PRUNE_S:
                    pruned = time.monotonic()
                    await asyncio.to_thread(self.store.prune)
                for digest, decision in self.store.untold():
                    await self._tell(digest, decision)
                asked = time.monotonic()
                work = await self.api.work(self._known(), wait=self.poll_s)
                news = [self._take(signed) for signed in work.assignments] + [self._take(signed, notice=True) for signed in work.notices]
                news += [await self._meet(digest) for digest in work.studies]
                hasty = not news and time.monotonic() - asked < self.poll_s / 2  # a coordinator that is stopping answers at once
                failures = failures + 1 if hasty or (news and not any(news)) else 0
            except Exception as error:
                failures += 1
                self.log.warning("poll failed", **reason(error))
            if failures:
                await self._back_off(failures)

    async def _watch_log(self) -> None:
        """Cosign the log: at the start, some seconds after something happened here, and now and then."""
        while self.witness:
            self._news.clear()
            try:
                if await self.witness.look() is None:
                    self.log.error("the coordinator's log does not continue what this site has seen: it answers nothing any more")
            except Exception as error:
                self.log.warning("log not witnessed", **reason(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), SELDOM_S)
            await asyncio.sleep(SOON_S)  # rounds come in bursts

    async def _back_off(self, failures: int) -> None:
        """After what the connection does not retry: a refusal, a forgery, a full disk, or an answer that brings nothing new."""
        await asyncio.sleep(min(self.api.connection.patience.cap_s, 0.25 * 2.0 ** min(failures, 10)))

    def _known(self) -> Iterable[str]:
        return [*self._jobs, *list(self._refused)[-30:], *self.store.undecided()[-30:]]

    def _take(self, signed: SignedAssignment, *, notice: bool = False) -> bool:
        """Start what is asked unless it is under way; whether it is new. A forgery does not count as known, lest it block the true one."""
        try:
            request = open_notice(signed, self.coordinator, self.store.assignment) if notice else open_assignment(signed, self.coordinator)
        except LocumError as error:
            self.log.warning("assignment refused", **reason(error))
            return False
        if request.id in self._jobs or request.id in self._refused:
            return False
        self._start(request)
        return True

    async def _meet(self, digest: str) -> bool:
        """A study that the coordinator awaits a decision on; whether it is new."""
        known = self.store.study(digest)
        if known and known.decision:  # it has lost ours
            return await self._tell(digest, known.decision)
        if known or digest in self._refused:
            return False
        try:
            view = await self.api.study(digest)
            open_study(view, digest)
        except Unavailable:
            raise
        except LocumError as error:
            self._refuse(digest, "study refused", error, study=digest)
            return False
        self.store.put_study(view)
        self.log.info("study awaits a decision", study=digest, requester=view.requester)
        return True

    async def _tell(self, digest: str, decision: Decision) -> bool:
        """Send this site's decision; whether the coordinator took it."""
        if digest in self._refused:
            return False
        try:
            await self.api.decide(digest, approve=decision == "approved")
        except Unavailable:
            raise
        except LocumError as error:
            self._refuse(digest, "decision not taken", error, study=digest)
            return False
        self.store.told(digest, decision)
        return True

    # --- one round ------------------------------------------------------------------------------------------------

    def _start(self, request: Request) -> None:
        a = request.assignment
        self._newest[a.run] = max(request.place, self._newest.get(a.run, (-1, -1)))
        job = self._jobs[request.id] = asyncio.create_task(self._job(request))
        job.add_done_callback(lambda _: self._jobs.pop(request.id, None))

    async def _job(self, request: Request) -> None:
        """One round, whatever happens in it; other rounds and runs go on."""
        a, failures = request.assignment, 0
        log = self.log.bind(run=a.run, seq=a.seq, **({"phase": request.phase} if a.session else {}))
        lock = self._locks.setdefault(a.run, asyncio.Lock())
        while True:
            try:
                async with lock:
                    return await self._round(request, log)
            except (Unavailable, sqlite3.OperationalError) as error:
                failures += 1
                log.warning("round interrupted", **reason(error))
                if self.api.connection.now() > request.deadline + GRACE_S:
                    return self._refuse(request.id, "round given up", error, run=a.run, seq=a.seq)
                await self._back_off(failures)
            except Exception as error:
                return self._refuse(request.id, "round refused", error, run=a.run, seq=a.seq)

    def _refuse(self, name: str, event: str, error: Exception, **bound: Any) -> None:
        """Log it, and do not take it up again in this life."""
        self.log.warning(event, **bound, **reason(error))
        self._refused[name] = None
        while len(self._refused) > MAX_REFUSED:
            self._refused.pop(next(iter(self._refused)))

    async def _round(self, request: Request, log: FilteringBoundLogger) -> None:
        started = time.monotonic()
        answer = self._answered(request)
        if answer:
            await self._wanted(answer, self._upload_kept(request, answer))
        else:
            log.info("round begins", study=request.assignment.study, step=request.assignment.step)
            answer = await self._answer(request, log)
        await self._wanted(answer, self.api.answer(request.assignment, answer.envelope, answer.body or b"", phase=request.phase))
        await asyncio.to_thread(self.store.mark, answer, "sent")
        await self._state_ledger(request, log)
        self._news.set()
        log.info("round answered", step=request.assignment.step, kind=answer.kind, bytes=answer.nbytes, seconds=round(time.monotonic() - started, 3))

    async def _state_ledger(self, request: Request, log: FilteringBoundLogger) -> None:
        """Have the coordinator witness how far the ledger has got. Not worth a failure: the next round says it again."""
        known = self.store.study(request.assignment.study)
        if request.phase not in VECTORS or known is None or not open_study(known.view, known.view.digest).terms.privacy.on:
            return
        try:
            ledger = await asyncio.to_thread(self.ledgers, known, {})
            await self.api.witness(known.data, *await asyncio.to_thread(ledger.head))
        except LocumError as error:
            log.warning("ledger not witnessed", **reason(error))

    async def _wanted(self, answer: Answer, sending: Any) -> None:
        """Await `sending`; if the coordinator does not want the answer (any more), note that and raise its reason."""
        try:
            await sending
        except Unavailable:
            raise
        except LocumError:
            await asyncio.to_thread(self.store.mark, answer, "over")
            raise

    def _answered(self, request: Request) -> Answer | None:
        """What was answered to this very request before. Raises `Conflict` where the request contradicts the record."""
        a, (seq, turn) = request.assignment, request.place
        *last, study = self.store.last(a.run) or (-1, -1, a.study)
        answer = self.store.answer(a.run, seq, turn) if (seq, turn) <= tuple(last) else None
        if study != a.study:
            raise Conflict("The run belongs to another study.", why="The coordinator's signed messages contradict each other.")
        if answer and answer.assignment != request.digest:
            raise Conflict("Another request for this round was answered already.", why="A second answer would say more than one sum over the cohort may.")
        if answer and (answer.kind, answer.body, answer.status) == ("release", None, "over"):
            raise Conflict("This round is over, and its bytes are gone.")
        if not answer and max(self._newest[a.run], tuple(last)) > (seq, turn):
            raise Conflict("The run has gone beyond this round.", why="It is late, stale, or was replayed.")
        return answer

    async def _answer(self, request: Request, log: FilteringBoundLogger) -> Answer:
        """Compute the answer and make it durable; a vector that travels ahead of its message is uploaded meanwhile."""
        a = request.assignment
        try:
            if self.witness and self.witness.forked:
                raise ReleaseDeclined("log", "The coordinator's log has shown two histories.", fix="locum site log: compare both with other sites")
            study, task = approved_task(request, self.store.study(a.study))
            self.door.admit(a, study.terms)
            self.door.permit("round", a.study)
            if a.session:
                return await self._masked(request, study, task, log)
            async with self._visits:
                protected, memory = await self._visit(a, study, task)
                release = await self._thread(lambda: self.door.release(protected, a, study.terms, identity=self.identity, **self._entry(study, a)))
                return await self._keep(request, release, memory, private=study.terms.privacy.on)
        except ReleaseDeclined as refusal:
            return await self._decline(request, refusal.decline, refusal, log)
        except (OSError, sqlite3.Error) as error:
            return await self._decline(request, "storage", error, log)
        except LocumError:  # the coordinator's no, or none at all: nothing to decline
            raise
        except Exception as error:
            return await self._decline(request, "internal", error, log)

    async def _masked(self, request: Request, study: Study, task: Task, log: FilteringBoundLogger) -> Answer:
        """One phase of a masked round: check, compute, make durable. The vector is computed before JOIN, and leaves in `masked`."""
        a, phase, terms = request.assignment, request.phase, study.terms
        if self.api.connection.now() > request.deadline:
            raise ReleaseDeclined("masking", "The request has expired.", why="A round that is over at the coordinator is over here.")
        keys, policy = await self._roster(a), self.door.policy
        asked = check_body(request.notice, await self.api.asked(request.notice)) if request.notice else b""
        raw = self.store.assignment(a.run, a.seq) or request.raw
        part = await self._thread(lambda: MaskedRound(self.store, self.identity, self.door.site, a, raw, keys, terms, policy))
        if phase == "join" and asked:
            await self._thread(lambda: part.open(asked))
        if phase in ("join", "masked"):
            async with self._visits:
                held = self._held.pop(a.run, None)
                known = held and held.seq == a.seq and phase == "masked"
                try:
                    protected, memory = (held.protected, held.memory) if held and known else await self._visit(a, study, task)
                except ReleaseDeclined as refusal:  # the session stays: this site may take part in a later round
                    return await self._decline(request, refusal.decline, refusal, log, part.saved())
                if phase == "masked":
                    release = await self._thread(lambda: self._cover(part, asked, protected, a, study))
                    return await self._keep(request, release, memory, part.saved(), private=study.terms.privacy.on)
                body = await self._thread(lambda: part.answer(phase, asked))
                self._held[a.run] = _Held(a.seq, protected, memory, request.deadline + GRACE_S)
                return await self._say(request, body, self.door.message(phase, body, a, self.identity), part.saved())
        async with self._locks.setdefault(f"sums of {a.study}", asyncio.Lock()):  # two runs of a study must not both find that nothing was summed
            summed: tuple[str, ...] = ()
            if phase in ("confirm", "unmask"):
                summed = part.survivors(phase, asked)
                self.door.check_differences(summed, self.store.summed(a.study, a.step, a.state), terms)
            body = await self._thread(lambda: part.answer(phase, asked))
            if phase == "unmask":
                context, entry = part.transcript, self._entry(study, a)
                envelope = await self._thread(lambda: self.door.unmask(body, a, terms, len(summed), identity=self.identity, context=context, **entry))
                return await self._say(request, body, envelope, part.saved(summed))
            return await self._say(request, body, self.door.message(phase, body, a, self.identity, context=part.transcript), part.saved())

    def _cover(self, part: MaskedRound, asked: bytes, protected: Protected, a: Assignment, study: Study) -> Release:
        return self.door.release(protected, a, study.terms, identity=self.identity, covered=part.mask(asked), **self._entry(study, a))

    def _entry(self, study: Study, a: Assignment) -> dict[str, Any]:
        return {"step": study.plan[a.step].name, "recipient": self.coordinator.fingerprint, "log": self.store}

    async def _say(self, request: Request, body: bytes, envelope: str, masking: Masking) -> Answer:
        """Make a message durable, with the secrets that belong to it."""
        answer = Answer.of_message(request.assignment, request.raw, body, envelope, phase=request.phase)
        await self._thread(lambda: self.store.keep(answer, masking=masking))
        return answer

    async def _roster(self, a: Assignment) -> dict[str, PublicKey]:
        """The sites' keys, by the consortium's roster that the round names. Checked once, then kept: it is asked for in every phase."""
        wanted = a.session.roster if a.session else ""
        if self._keys[0] != wanted:
            known = self.store.roster()
            signed = known[1] if known and known[1].digest == wanted else await self.api.roster()
            self._keys = wanted, check_roster(self.store, signed, wanted, self.consortium, self.api.connection.federation).keys
        return self._keys[1]

    async def _visit(self, a: Assignment, study: Study, task: Task) -> tuple[Protected, bytes | None]:
        """Fetch the state and visit the rows, in a thread; the state is freed before the vector travels."""
        if study.terms.privacy.on and self._stated is None:  # once in a life: what this site said of its ledgers before it went down
            self._stated = await self.api.ledgers()
        file = self.store.incoming_file(a.run, a.seq) if a.state_bytes > SMALL else None
        if file and shutil.disk_usage(file.parent).free < a.state_bytes:
            raise OSError("no room for the global model")
        source = await self.api.state(a, to=file)
        try:
            return await self._thread(lambda: self._compute(a, study, task, source))
        finally:
            if file:
                file.unlink(missing_ok=True)

    def _compute(self, a: Assignment, study: Study, task: Task, source: bytes | Path) -> tuple[Protected, bytes | None]:
        """Rows, visit, door: what may be released, and the memory that goes with it. Only `ReleaseDeclined` and OSError come out."""
        known = self.store.study(a.study)
        if known is None or known.decision != "approved":
            raise ReleaseDeclined("not_approved", "The approval was withdrawn.")
        try:
            ledger = self.ledgers(known, self._stated or {}) if study.terms.privacy.on else None
            budget = budget_of(study)
        except LocumError as error:
            raise ReleaseDeclined("budget", error.what, why=error.why, fix=error.fix) from error
        charge = self.door.charge(study, budget, a, ledger, requester=known.view.requester)
        try:
            rows = self.rows(study, known, a.run)
        except LocumError as error:
            raise ReleaseDeclined("data", error.what, why=error.why, fix=error.fix) from error
        try:
            kept = self.store.memory(a.run, a.step)
            memory = dict(decode_state(kept)) if kept else {}
            contribution, layout = visit(task, decode_state(source), rows, memory, a, self.door, study.terms, budget)
            after = encode_state(memory) if memory else None
        except (TaskError, EnvelopeError) as error:
            raise ReleaseDeclined("internal", error.what, why=error.why, fix=error.fix) from error
        return self.door.protect(contribution, layout, a, study.terms, budget=budget, charge=charge), after

    async def _keep(self, request: Request, release: Release, memory: bytes | None, masking: Masking | None = None, *, private: bool) -> Answer:
        """Make the release durable. A large vector travels meanwhile, from its own buffers; it counts for nothing without its message.

        Not one with noise: after a crash it would be drawn anew, and the two of them would say more than was paid for.
        """
        a = request.assignment
        answer = Answer.of_release(a, request.raw, release, phase=request.phase)
        keep = self._thread(lambda: self.store.keep(answer, step=a.step, memory=memory, release=release, masking=masking))
        if answer.body is not None or private:
            await keep
            if answer.body is None:
                await self._wanted(answer, self._upload(a, release))
            return answer
        upload = asyncio.create_task(self._upload(a, release))
        try:
            await keep
        except BaseException:
            upload.cancel()
            await asyncio.wait({upload})
            raise
        await self._wanted(answer, upload)
        return answer

    async def _upload(self, a: Assignment, release: Release) -> None:
        def source(offset: int) -> Iterator[memoryview]:
            return _from(offset, release.layout.buffers(release.vector))

        await self.api.upload(a, source, sha256=release.digest, size=release.layout.file_bytes)

    async def _upload_kept(self, request: Request, answer: Answer) -> None:
        """After a restart: the rest of a large vector, from the outbox."""
        if answer.kind == "release" and answer.body is None:
            with self.store.outbox_file(answer.run, answer.seq).open("rb") as file:
                await self.api.upload(request.assignment, lambda at: _read(file, at), sha256=answer.digest, size=answer.nbytes, resume=True)

    async def _decline(self, request: Request, code: str, error: Exception, log: FilteringBoundLogger, masking: Masking | None = None) -> Answer:
        """A signed code; durable if the disk allows, for a decline that cannot be kept is still better said."""
        a = request.assignment
        log.warning("declined", code=code, **reason(error))
        answer = Answer.of_decline(a, request.raw, *self.door.decline(code, a, self.identity, phase=request.phase), phase=request.phase)
        try:
            await self._thread(lambda: self.store.keep(answer, masking=masking))
        except (OSError, sqlite3.Error) as full:
            log.warning("the decline is not on record here", **reason(full))
        return answer

    async def _thread(self, work: Callable[[], T]) -> T:
        self.computing += 1
        try:
            return await asyncio.to_thread(work)
        finally:
            self.computing -= 1


def _from(offset: int, pieces: Iterable[bytes | memoryview]) -> Iterator[memoryview]:
    """The pieces from a byte offset on, uncopied."""
    for piece in pieces:
        view = memoryview(piece)
        if offset < len(view):
            yield view[offset:]
        offset = max(0, offset - len(view))


def _read(file: BinaryIO, offset: int) -> Iterator[bytes]:
    file.seek(offset)
    while chunk := file.read(CHUNK):
        yield chunk
