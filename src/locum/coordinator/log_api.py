"""The log's endpoints: what a monitor, a witness or an auditor reads, and the cosignature that a site leaves.

The checkpoint and the tiles are those of C2SP tlog-tiles; the proofs could be computed from the tiles, and are given for convenience.
"""

from __future__ import annotations

import re

from starlette.responses import Response

from locum.coordinator.call import ANY, SITE, Call, Endpoint, reply
from locum.errors import ManifestError, NotFound
from locum.federation.wire import LogEntries, LogEntry, Proof
from locum.governance.log.note import MAX_NOTE_BYTES
from locum.governance.log.tree import WIDTH

_PATH = re.compile(r"^(entries|[0-9]{1,2})/((?:x[0-9]{3}/){0,4}[0-9]{3})(?:\.p/([0-9]{1,3}))?\Z")
MOST_SUBJECTS = 64


async def checkpoint(call: Call) -> Response:
    return _text((await call.services.thread(call.services.journal.checkpoint)).text())


async def witnessed(call: Call) -> Response:
    found = await call.services.thread(call.services.journal.latest_witnessed)
    if found is None:
        raise NotFound("No site has cosigned the log yet.", fix="sites do so by themselves while they are served")
    return _text(found.text())


async def consistency(call: Call) -> Response:
    old, new = int(call.number("old", 0)), int(call.number("new", 0))
    return reply(Proof(tuple(h.hex() for h in await call.services.thread(call.services.journal.consistency, old, new))))


async def inclusion(call: Call) -> Response:
    n, size = int(call.number("n", -1)), int(call.number("size", 0))
    return reply(Proof(tuple(h.hex() for h in await call.services.thread(call.services.journal.inclusion, n, size))))


async def about(call: Call) -> Response:
    subjects = [s for s in call.request.query_params.get("subject", "").split(",") if s]
    if not 0 < len(subjects) <= MOST_SUBJECTS or not all(len(s) <= 128 and s.isprintable() for s in subjects):
        raise ManifestError(f"Ask for the entries about 1 to {MOST_SUBJECTS} subjects.", fix="subject=ID,ID,...")
    found = await call.services.thread(call.services.journal.about, *subjects)
    return reply(LogEntries(tuple(LogEntry(n, body.decode()) for n, body in found)))


async def tile(call: Call) -> Response:
    match = _PATH.match(call.part("path"))
    if match is None:
        raise NotFound("There is no such tile.")
    what, number, width = match[1], int(re.sub(r"[x/]", "", match[2])), int(match[3] or WIDTH)
    journal = call.services.journal
    body = await (call.services.thread(journal.bundle, number, width) if what == "entries" else call.services.thread(journal.tile, int(what), number, width))
    call.services.metrics.bytes_out.inc(len(body))
    return Response(body, media_type="application/octet-stream")


async def cosign(call: Call) -> Response:
    raw = await call.body(MAX_NOTE_BYTES)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise ManifestError("A checkpoint is text.") from None
    await call.services.thread(call.services.journal.cosign, call.party.name, call.party.key, text)
    return Response(status_code=204)


def _text(text: str) -> Response:
    return Response(text, media_type="text/plain; charset=utf-8")


ENDPOINTS = (
    Endpoint("GET", "/v1/log/checkpoint", checkpoint, ANY, "The log's signed head, with the sites' cosignatures", str),
    Endpoint("GET", "/v1/log/witnessed", witnessed, ANY, "The newest head that a site has cosigned", str),
    Endpoint("GET", "/v1/log/consistency", consistency, ANY, "That a longer log continues a shorter one", Proof, query=("old", "new")),
    Endpoint("GET", "/v1/log/inclusion", inclusion, ANY, "That an entry is in the log", Proof, query=("n", "size")),
    Endpoint("GET", "/v1/log/entries", about, ANY, "Entries about subjects: digests, runs, parties", LogEntries, query=("subject",)),
    Endpoint("GET", "/v1/log/tile/{path:path}", tile, ANY, "Hashes or entries, as C2SP tlog-tiles lays them out", bytes),
    Endpoint("PUT", "/v1/log/cosignature", cosign, SITE, "A checkpoint with this site's cosignature", None, bytes),
)
