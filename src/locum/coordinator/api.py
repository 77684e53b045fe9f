"""The endpoints: each reads what it may, checks, records, and answers. `ENDPOINTS` at the end is the whole API."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
import time
from collections.abc import AsyncIterator
from typing import Any, BinaryIO

import msgspec
from starlette.responses import Response, StreamingResponse

from locum.coordinator import audit, log_api, openapi, parties, phases, rosters, studies, versions_api, views, witness
from locum.coordinator.blobs import BlobStore, model_key, release_key, state_key
from locum.coordinator.call import ANY, INVESTIGATOR, OPEN, SITE, Call, Endpoint, Services, decode, reply
from locum.coordinator.driver import ROW_BYTES
from locum.coordinator.messages import Message
from locum.coordinator.runs import OpenRound, find_round
from locum.coordinator.views import SiteView
from locum.coordinator.wakeups import RECHECK_S, wait_for
from locum.errors import Conflict, EnvelopeError, Forbidden, NotEnrolled, NotFound, TaskError
from locum.federation.envelope import Envelope
from locum.federation.roster import SignedRoster
from locum.federation.round import VECTORS
from locum.federation.round import phases as phases_of
from locum.federation.wire import INLINE_BYTES, MAX_JSON_BYTES, Enrolled, Enrolment, ModelView, RoundView, RunView, StudyView, Work
from locum.federation.witness import SignedHead, SignedHeads
from locum.secagg.messages import MAX_BYTES
from locum.study.canonical import DIGEST

MAX_UPLOADS = 4
"""Different vectors that one site may upload for one round: it needs one, and perhaps another after a crash."""
SEND, SMALL = 1 << 18, 1 << 20
CALM_S = 0.1
"""Changes of a run within this time reach a watcher together: hundreds of answers are not hundreds of queries."""
KEPT = 16


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """An answer is durable. new: False if the very same was there before."""

    new: bool


class Health(msgspec.Struct, frozen=True, kw_only=True):
    status: str


# --- open to all ---------------------------------------------------------------------------------------------------


async def health(call: Call) -> Response:
    return reply(Health(status="ok"))


async def ready(call: Call) -> Response:
    s = call.services
    await s.thread(lambda: s.store.read(lambda tx: tx.clock()))
    await s.thread(s.blobs.check)
    return reply(Health(status="ready"))


async def metrics(call: Call) -> Response:
    given = call.request.headers.get("authorization", "").encode("latin-1")
    if not hmac.compare_digest(given, b"Bearer " + call.services.metrics_token.encode()):
        raise NotEnrolled("Metrics need the token of this coordinator.", fix="send 'Authorization: Bearer ...' with the content of metrics.token")
    return Response(call.services.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def enroll(call: Call) -> Response:
    request = decode(await call.body(16 << 10), Enrolment)
    return reply(await call.services.thread(parties.enroll, call.services.store, request, call.services.federation))


async def description(call: Call) -> Response:
    return reply(openapi.document(ENDPOINTS, call.services.folder.settings.url))


# --- a site's work -------------------------------------------------------------------------------------------------


async def work(call: Call) -> Response:
    s, until = call.services, time.monotonic() + call.wait
    known = frozenset(call.request.query_params.get("known", "").split(","))
    while True:
        event = s.wakeups.event("work")
        found = (await s.board.snapshot()).work(call.party.name, known)
        left = until - time.monotonic()
        if found.assignments or found.notices or found.studies or left <= 0 or s.closing.is_set():
            return reply(found)
        await wait_for(event, min(left, RECHECK_S * (1 + random.random())))  # noqa: S311 - spreads the polls


async def _round(call: Call) -> OpenRound:
    """The round that the path names, if this site was asked in it."""
    run, seq = call.part("run"), int(call.part("seq"))
    posted = (await call.services.board.snapshot()).rounds.get((run, seq))
    found = posted.round if posted else await call.services.thread(find_round, call.services.store, run, seq)
    if found is None:
        raise NotFound("There is no such round.")
    if call.party.name not in found.assignment.roster:
        raise Forbidden("This site was not asked in that round.")
    return found


def _still_open(found: OpenRound) -> None:
    if found.status not in ("open", "between"):
        raise Conflict("This round is over.", fix="nothing to do: the site takes part again in the next round")


async def state(call: Call) -> Response:
    found = await _round(call)
    _still_open(found)
    a = found.assignment
    return await _file(call, state_key(a.run, a.state), a.state)


async def uploaded(call: Call) -> Response:
    key, limit, _ = await _upload(call)
    have = await call.services.thread(_arrived, call.services.blobs, key, limit)
    return Response(status_code=200, headers={"Upload-Offset": str(have)})


async def upload(call: Call) -> Response:
    s = call.services
    key, limit, header = await _upload(call)
    have = await s.thread(_arrived, s.blobs, key, limit)
    if call.request.headers.get("upload-offset") != str(have):
        return Response(status_code=409, headers={"Upload-Offset": str(have)})
    call.bound(limit - have)
    if have == 0:
        await s.thread(_few_uploads, s.blobs, key)
    if have < limit:
        have = await s.blobs.append(key, have, call.chunks(), limit)
    if have == limit:
        await s.thread(s.blobs.finish, key, header)
    return Response(status_code=200, headers={"Upload-Offset": str(have)})


async def _upload(call: Call) -> tuple[str, int, bytes]:
    """Key, exact length and first bytes of the upload that the path names."""
    found, digest = await _round(call), call.part("digest")
    _still_open(found)
    if not DIGEST.match(digest) or call.caller.digest != digest:
        raise EnvelopeError("The request was not signed for this upload.")
    a = found.assignment
    return release_key(a.run, a.seq, call.party.name, digest), a.vector_bytes, found.header


def _arrived(blobs: BlobStore, key: str, limit: int) -> int:
    return limit if blobs.size(key) is not None else blobs.staged(key)


def _few_uploads(blobs: BlobStore, key: str) -> None:
    if len(blobs.names(key[:-64])) >= MAX_UPLOADS:
        raise Conflict("This site has uploaded several different answers in this round.", fix="one answer per round is taken; see the site's log")


async def answer(call: Call) -> Response:
    s, found, text = call.services, await _round(call), call.envelope()
    a, phase = found.assignment, call.part("phase")
    if phase not in phases_of(a):
        raise NotFound("This round has no such phase.")
    vector = phase in VECTORS
    call.bound(INLINE_BYTES if vector else MAX_BYTES)
    envelope = Envelope.open(text, call.party.key, study=a.study, run=a.run, seq=a.seq, phase=phase, sender=call.party.name)
    code, body, size = "", None, a.vector_bytes
    if envelope.kind == "decline":
        code = await _code(call, envelope)
        size = len(code)
    elif not vector:
        body = await call.body(MAX_BYTES)
        _same(body, envelope)
        size = len(body)
    elif found.status == "open":  # later nothing is stored: the round's machine tells a repetition from a latecomer
        body = await _vector(call, found, envelope)
    new = await asyncio.wrap_future(s.recorder.submit(Message(found, envelope, text, code, size, body)))
    s.board.answered(a.run, a.seq, phase, call.party.name)
    return reply(Recorded(new=new))


async def asked(call: Call) -> Response:
    """What this site is to answer in a later phase of a masked round."""
    found, phase = await _round(call), call.part("phase")
    body = await call.services.thread(phases.inbox_body, call.services.store, found.assignment.run, found.assignment.seq, phase, call.party.name)
    if body is None:
        raise NotFound("This site is not asked anything in that phase.", why="The round is over, or it went on without this site.")
    call.services.metrics.bytes_out.inc(len(body))
    return Response(body, media_type="application/cbor")


async def roster(call: Call) -> Response:
    return reply(await call.services.thread(rosters.current, call.services.store))


async def ledgers(call: Call) -> Response:
    return reply(await call.services.thread(witness.stated, call.services.store, call.party.name))


async def keep_ledger(call: Call) -> Response:
    signed = decode(await call.body(1 << 14), SignedHead)
    await call.services.thread(witness.keep, call.services.store, call.party.name, call.party.key, signed)
    return Response(status_code=204)


async def _code(call: Call, envelope: Envelope) -> str:
    body = await call.body(64)
    _same(body, envelope)
    return body.decode("ascii", "replace")


def _same(body: bytes, envelope: Envelope) -> None:
    if hashlib.sha256(body).hexdigest() != envelope.digest:
        raise EnvelopeError("The envelope was made for another body.")


async def _vector(call: Call, found: OpenRound, envelope: Envelope) -> bytes | None:
    """Take the vector in; returns it if it belongs in the row, else it is a complete blob by then."""
    s, a = call.services, found.assignment
    key = release_key(a.run, a.seq, call.party.name, envelope.digest)
    if not DIGEST.match(envelope.digest):
        raise EnvelopeError("The envelope's digest is not a SHA-256.")
    if call.length == 0:
        if await s.thread(_arrived, s.blobs, key, a.vector_bytes) != a.vector_bytes:
            raise Conflict("The upload of this answer is not complete.", fix="upload the rest, then send the message again")
        await s.thread(s.blobs.finish, key, found.header)
        return await s.thread(_content, s.blobs, key) if a.vector_bytes <= ROW_BYTES else None
    if call.caller.digest != envelope.digest:
        raise EnvelopeError("The envelope was made for another body.")
    if call.length != a.vector_bytes:
        raise TaskError("The answer is not of this round's shape.", why="Its length differs.", fix="update both sides to the same release")
    body = await call.body(INLINE_BYTES)
    if not body.startswith(found.header):
        raise TaskError("The answer is not of this round's shape.", why="Its tensors differ.", fix="update both sides to the same release")
    if a.vector_bytes <= ROW_BYTES:
        return body
    await s.thread(_put, s.blobs, key, body)
    return None


def _put(blobs: BlobStore, key: str, body: bytes) -> None:
    _few_uploads(blobs, key)
    blobs.put(key, [body])


def _content(blobs: BlobStore, key: str) -> bytes:
    with blobs.open(key) as f:
        return f.read()


# --- studies, runs, models -----------------------------------------------------------------------------------------


async def list_studies(call: Call) -> Response:
    return reply(await call.services.thread(views.list_studies, call.services.store, call.party))


async def get_study(call: Call) -> Response:
    return reply(await call.services.thread(views.get_study, call.services.store, call.party, call.part("digest")))


async def submit_study(call: Call) -> Response:
    s, body = call.services, await call.body(MAX_JSON_BYTES)
    digest = await s.thread(studies.submit, s.store, call.party, body, call.envelope(), call.caller.signature)
    return reply(await s.thread(views.get_study, s.store, call.party, digest))


async def decide(call: Call) -> Response:
    s = call.services
    await call.body(0)
    await s.thread(studies.decide, s.store, call.party, call.part("digest"), call.envelope(), float(call.caller.time))
    return reply(await s.thread(views.get_study, s.store, call.party, call.part("digest")))


async def start_run(call: Call) -> Response:
    s = call.services
    await call.body(0)
    run = await s.thread(studies.start_run, s.store, call.party, call.part("digest"), call.caller.signature)
    return reply(await s.thread(views.get_run, s.store, call.party, run))


async def list_runs(call: Call) -> Response:
    return reply(await call.services.thread(views.list_runs, call.services.store, call.party))


async def get_run(call: Call) -> Response:
    s, run, until = call.services, call.part("run"), time.monotonic() + call.wait
    version = call.number("version", -1)
    while True:
        event = s.wakeups.event(f"run:{run}")
        view = await s.thread(views.get_run, s.store, call.party, run)
        left = until - time.monotonic()
        if view.version > version or left <= 0 or s.closing.is_set():
            return reply(view)
        await wait_for(event, min(left, RECHECK_S))
        await asyncio.sleep(CALM_S)


async def list_rounds(call: Call) -> Response:
    return reply(await call.services.thread(views.list_rounds, call.services.store, call.party, call.part("run")))


async def cancel_run(call: Call) -> Response:
    s, run = call.services, call.part("run")
    await call.body(0)
    await s.thread(studies.cancel, s.store, call.party, run)
    view = await s.thread(views.get_run, s.store, call.party, run)
    if view.status == "cancelled":
        await s.thread(s.blobs.delete, f"runs/{run}/")
    return reply(view)


async def list_models(call: Call) -> Response:
    return reply(await call.services.thread(views.list_models, call.services.store, call.party))


async def get_model(call: Call) -> Response:
    return reply(await call.services.thread(views.get_model, call.services.store, call.party, call.part("digest")))


async def model_file(call: Call) -> Response:
    model = await call.services.thread(views.get_model, call.services.store, call.party, call.part("digest"))
    return await _file(call, model_key(model.id), model.id)


async def list_sites(call: Call) -> Response:
    return reply(await call.services.thread(views.list_sites, call.services.store))


# --- parts ---------------------------------------------------------------------------------------------------------


async def _file(call: Call, key: str, digest: str) -> Response:
    """A blob, from the first byte that a Range header asks for."""
    s = call.services
    kept = s.small.get(key)
    size, small = kept if kept is not None else await s.thread(_look, s, key)
    start = _range_start(call.request.headers.get("range"))
    headers = {"Accept-Ranges": "bytes", "ETag": f'"{digest}"', "Content-Length": str(max(0, size - start))}
    if start >= size and start:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
    if start:
        headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
    if small is not None:
        s.metrics.bytes_out.inc(size - start)
        return Response(small[start:], 206 if start else 200, headers, media_type="application/octet-stream")
    file = await s.thread(s.blobs.open, key)
    return StreamingResponse(_read(call, file, start), 206 if start else 200, headers, media_type="application/octet-stream")


def _look(s: Services, key: str) -> tuple[int, bytes | None]:
    """A blob's size, and its content if it is small; the latest small ones are kept, for every site asks for the same."""
    size = s.blobs.size(key)
    if size is None:
        raise NotFound("That file is not here any more.")
    found = size, _content(s.blobs, key) if size <= SMALL else None
    while len(s.small) >= KEPT:
        s.small.pop(next(iter(s.small)), None)
    s.small[key] = found
    return found


async def _read(call: Call, file: BinaryIO, start: int) -> AsyncIterator[bytes]:
    s = call.services
    try:
        if start:
            await s.thread(file.seek, start)
        while piece := await s.thread(file.read, SEND):
            s.metrics.bytes_out.inc(len(piece))
            yield piece
    finally:
        file.close()


def _range_start(header: str | None) -> int:
    """The start of 'bytes=N-', the only form that resuming needs; anything else asks for the whole."""
    text = (header or "").removeprefix("bytes=").removesuffix("-")
    return int(text) if header and header.startswith("bytes=") and header.endswith("-") and text.isascii() and text.isdigit() and len(text) < 16 else 0


ROUND = "/v1/runs/{run}/rounds/{seq:int}"
ENDPOINTS = (
    Endpoint("GET", "/v1/health", health, OPEN, "The process answers", Health),
    Endpoint("GET", "/v1/ready", ready, OPEN, "Database and blob store answer", Health),
    Endpoint("GET", "/metrics", metrics, OPEN, "Prometheus metrics; needs the bearer token in metrics.token", str),
    Endpoint("POST", "/v1/enroll", enroll, OPEN, "Spend an invitation", Enrolled, Enrolment),
    Endpoint("GET", "/v1/openapi.json", description, ANY, "This description", dict[str, Any]),
    Endpoint("GET", "/v1/work", work, SITE, "What this site has to do; waits until there is something", Work, query=("wait", "known")),
    Endpoint("GET", ROUND + "/state", state, SITE, "The round's global state", bytes, headers=("Range",)),
    Endpoint("HEAD", ROUND + "/upload/{digest}", uploaded, SITE, "How much of an upload has arrived (Upload-Offset)"),
    Endpoint("PUT", ROUND + "/upload/{digest}", upload, SITE, "The rest of an upload", None, bytes, headers=("Upload-Offset",)),
    Endpoint("GET", ROUND + "/{phase}", asked, SITE, "What to answer in a later phase of a masked round (CBOR)", bytes),
    Endpoint("PUT", ROUND + "/{phase}", answer, SITE, "A release, a masking message, or a decline", Recorded, bytes, headers=("Locum-Envelope",)),
    Endpoint("GET", "/v1/roster", roster, ANY, "The sites and their keys, as the consortium has signed them", SignedRoster),
    Endpoint("GET", "/v1/ledgers", ledgers, SITE, "What this site has signed about its privacy ledgers", SignedHeads),
    Endpoint("PUT", "/v1/ledgers", keep_ledger, SITE, "Sign how far a privacy ledger has got", None, SignedHead),
    Endpoint("GET", "/v1/studies", list_studies, ANY, "Studies", tuple[StudyView, ...]),
    Endpoint("POST", "/v1/studies", submit_study, INVESTIGATOR, "Submit a study (canonical JSON)", StudyView, dict[str, Any], headers=("Locum-Envelope",)),
    Endpoint("GET", "/v1/studies/{digest}", get_study, ANY, "One study", StudyView),
    Endpoint("PUT", "/v1/studies/{digest}/decision", decide, SITE, "Approve or deny a study", StudyView, headers=("Locum-Envelope",)),
    Endpoint("POST", "/v1/studies/{digest}/runs", start_run, INVESTIGATOR, "Start a run, or find the active one", RunView),
    Endpoint("GET", "/v1/runs", list_runs, ANY, "Runs", tuple[RunView, ...]),
    Endpoint("GET", "/v1/runs/{run}", get_run, ANY, "One run; waits for a version above the given one", RunView, query=("wait", "version")),
    Endpoint("GET", "/v1/runs/{run}/rounds", list_rounds, ANY, "A run's rounds", tuple[RoundView, ...]),
    Endpoint("POST", "/v1/runs/{run}/cancel", cancel_run, INVESTIGATOR, "Stop a run", RunView),
    Endpoint("GET", "/v1/models", list_models, ANY, "Models", tuple[ModelView, ...]),
    Endpoint("GET", "/v1/models/{digest}", get_model, ANY, "One model", ModelView),
    Endpoint("GET", "/v1/models/{digest}/file", model_file, ANY, "A model's safetensors file", bytes, headers=("Range",)),
    Endpoint("GET", "/v1/sites", list_sites, ANY, "Enrolled sites", tuple[SiteView, ...]),
    *audit.ENDPOINTS,
    *log_api.ENDPOINTS,
    *versions_api.ENDPOINTS,
)
