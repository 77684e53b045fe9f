"""The coordinator's API as typed calls. Every answer is decoded strictly: an unknown field is an error, not a guess."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from locum.client.connection import Answer, Connection, Source
from locum.errors import EnvelopeError
from locum.federation.envelope import Envelope
from locum.federation.identity import PublicKey, b64
from locum.federation.record import RoundRecord, RunRecord
from locum.federation.roster import SignedRoster
from locum.federation.wire import (
    LONG_POLL_S,
    Assignment,
    Enrolled,
    Enrolment,
    LogEntries,
    LogEntry,
    ModelView,
    Notice,
    Proof,
    RoundView,
    RunView,
    StudyView,
    Work,
    federation_id,
)
from locum.federation.witness import LedgerHead, SignedHead, SignedHeads
from locum.governance.log import Signed
from locum.study.manifest import Study

T = TypeVar("T")
ENROLL = b"locum/enroll/1"
MAX_PROOF = 128
MAX_KNOWN = 100
"""Ids in one poll: they travel in the URL."""


class Api:
    """Calls over one `Connection`. Each raises the `LocumError` that the coordinator sent, or `Unavailable`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def __aenter__(self) -> Api:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.connection.close()

    async def enroll(self, token: str, coordinator: PublicKey) -> Enrolled:
        """Spend an invitation's token and prove that this party holds its private key."""
        me = self.connection.identity
        key = str(me.public)
        proof = b64(me.sign(ENROLL, f"{token}\n{key}\n{federation_id(coordinator)}".encode()))
        body = msgspec.json.encode(Enrolment(token=token, public_key=key, proof=proof))
        return _decode(await self.connection.call("POST", "/v1/enroll", body, headers=JSON, signed=False), Enrolled)

    # --- a site's calls -------------------------------------------------------------------------------------------

    async def work(self, known: Iterable[str] = (), wait: float = LONG_POLL_S) -> Work:
        """What this site has not been given yet; the coordinator holds the answer back for up to `wait` seconds."""
        target = "/v1/work?" + urlencode({"wait": f"{wait:g}", "known": ",".join(sorted(known)[:MAX_KNOWN])}, safe=",:")
        return _decode(await self.connection.call("GET", target, wait=wait), Work)

    async def state(self, a: Assignment, to: Path | None = None) -> bytes | Path:
        """The round's global state, checked against the signed digest; see `Connection.download`."""
        return await self.connection.download(f"{_round(a)}/state", sha256=a.state, size=a.state_bytes, to=to)

    async def upload(self, a: Assignment, source: Source, *, sha256: str, size: int, resume: bool = False) -> None:
        """Send a large vector ahead of its message; see `Connection.upload`."""
        await self.connection.upload(f"{_round(a)}/upload/{sha256}", source, sha256=sha256, size=size, resume=resume)

    async def answer(self, a: Assignment, envelope: str, body: bytes = b"", *, phase: str = "") -> None:
        """The release (with its vector, unless that was uploaded), a masking message, or the decline (with its code)."""
        await self.connection.call(
            "PUT", f"{_round(a)}/{phase or a.phase}", body, headers={"Locum-Envelope": envelope, "Content-Type": "application/octet-stream"}
        )

    async def asked(self, n: Notice) -> bytes:
        """What a notice asks to answer; the caller compares it with the digest that the notice names."""
        if n.body:
            return n.body
        return (await self.connection.call("GET", f"/v1/runs/{quote(n.run)}/rounds/{n.seq}/{quote(n.phase)}")).body

    async def roster(self) -> SignedRoster:
        """The consortium's roster; its signature is still to be verified."""
        return await self._get("/v1/roster", SignedRoster)

    async def ledgers(self) -> dict[str, LedgerHead]:
        """What this site itself has stated about its ledgers, by data set. Raises `EnvelopeError` for what it has not signed."""
        c = self.connection
        heads = [signed.open(c.name, c.identity.public) for signed in (await self._get("/v1/ledgers", SignedHeads)).heads]
        return {head.data: head for head in heads}

    async def witness(self, data: str, n: int, hash: str) -> None:
        """State, signed, how far a ledger has got."""
        c = self.connection
        signed = SignedHead.seal(LedgerHead(site=c.name, data=data, n=n, hash=hash), c.identity)
        await c.call("PUT", "/v1/ledgers", msgspec.json.encode(signed), headers=JSON)

    async def cosign(self, checkpoint: str) -> None:
        """Leave this site's cosignature under a checkpoint of the log."""
        await self.connection.call("PUT", "/v1/log/cosignature", checkpoint.encode(), headers={"Content-Type": "text/plain; charset=utf-8"})

    async def decide(self, study: str, *, approve: bool) -> None:
        """Tell the coordinator this site's decision, signed."""
        c = self.connection
        envelope = Envelope(kind="approval" if approve else "denial", study=study, sender=c.name, digest=study).seal(c.identity)
        await c.call("PUT", f"/v1/studies/{quote(study)}/decision", headers={"Locum-Envelope": envelope})

    # --- an investigator's calls ----------------------------------------------------------------------------------

    async def submit(self, study: Study, envelope: str = "") -> StudyView:
        """Hand in a study, signed: now, or with the envelope that was made where the key is."""
        c = self.connection
        envelope = envelope or Envelope(kind="study", study=study.digest, sender=c.name, digest=study.digest).seal(c.identity)
        return _decode(await c.call("POST", "/v1/studies", study.canonical, headers={**JSON, "Locum-Envelope": envelope}), StudyView)

    async def start_run(self, study: str) -> RunView:
        """Ask for a run of a study; it starts when enough sites have approved."""
        return _decode(await self.connection.call("POST", f"/v1/studies/{quote(study)}/runs"), RunView)

    async def cancel(self, run: str) -> RunView:
        """Stop a run. What was computed stays at the coordinator; no model comes of it."""
        return _decode(await self.connection.call("POST", f"/v1/runs/{quote(run)}/cancel"), RunView)

    async def run_record(self, run: str) -> RunRecord:
        """What an audit bundle of a finished run is made of; `client.bundle` puts it together."""
        return await self._get(f"/v1/runs/{quote(run)}/record", RunRecord)

    async def round_record(self, run: str, seq: int) -> RoundRecord:
        """One of its rounds."""
        return await self._get(f"/v1/runs/{quote(run)}/record/{seq}", RoundRecord)

    # --- everyone's calls -----------------------------------------------------------------------------------------

    async def studies(self) -> Sequence[StudyView]:
        return await self._get("/v1/studies", tuple[StudyView, ...])

    async def study(self, digest: str) -> StudyView:
        return await self._get(f"/v1/studies/{quote(digest)}", StudyView)

    async def runs(self) -> Sequence[RunView]:
        return await self._get("/v1/runs", tuple[RunView, ...])

    async def run(self, run: str, *, version: int = -1, wait: float = 0.0) -> RunView:
        """A run; with `wait` the answer comes as soon as its version is above `version`, or after that many seconds."""
        query = "?" + urlencode({"wait": f"{wait:g}", "version": version}) if wait else ""
        return _decode(await self.connection.call("GET", f"/v1/runs/{quote(run)}{query}", wait=wait), RunView)

    async def rounds(self, run: str) -> Sequence[RoundView]:
        return await self._get(f"/v1/runs/{quote(run)}/rounds", tuple[RoundView, ...])

    async def models(self) -> Sequence[ModelView]:
        return await self._get("/v1/models", tuple[ModelView, ...])

    async def model(self, model: str) -> ModelView:
        return await self._get(f"/v1/models/{quote(model)}", ModelView)

    async def model_file(self, model: ModelView, to: Path) -> Path:
        """Fetch a model to the file `to`; its bytes are those that its id names, or `EnvelopeError` is raised."""
        await self.connection.download(f"/v1/models/{quote(model.id)}/file", sha256=model.id, size=model.bytes, to=to)
        return to

    async def checkpoint(self, *, witnessed: bool = False) -> Signed:
        """The log's signed head, or the newest that a site has cosigned; signatures are still to be verified."""
        answer = await self.connection.call("GET", "/v1/log/" + ("witnessed" if witnessed else "checkpoint"))
        return Signed.parse(answer.body.decode("utf-8", "replace"))

    async def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the log of `new` entries continues that of `old`."""
        return _hashes(await self._get(f"/v1/log/consistency?old={old}&new={new}", Proof))

    async def inclusion(self, n: int, size: int) -> list[bytes]:
        """The proof that entry `n` is in the log of `size` entries."""
        return _hashes(await self._get(f"/v1/log/inclusion?n={n}&size={size}", Proof))

    async def log_entries(self, *subjects: str) -> Sequence[LogEntry]:
        """The log's entries about these studies, runs, models or parties."""
        return (await self._get("/v1/log/entries?subject=" + ",".join(quote(s) for s in subjects), LogEntries)).entries

    async def log_tile(self, path: str) -> bytes:
        """A tile of hashes, or of entries, by the path that tlog-tiles gives it."""
        return (await self.connection.call("GET", f"/v1/log/{path}")).body

    async def sites(self) -> Sequence[dict[str, Any]]:
        return await self._get("/v1/sites", tuple[dict[str, Any], ...])

    async def _get(self, target: str, kind: type[T]) -> T:
        return _decode(await self.connection.call("GET", target), kind)


JSON = {"Content-Type": "application/json"}


def _round(a: Assignment) -> str:
    return f"/v1/runs/{quote(a.run)}/rounds/{a.seq}"


def _hashes(proof: Proof) -> list[bytes]:
    try:
        return [bytes.fromhex(h) for h in proof.hashes[:MAX_PROOF]]
    except ValueError:
        raise EnvelopeError("A proof of the log is not in hexadecimal.", fix="update both sides to the same release") from None


def _decode(answer: Answer, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except msgspec.DecodeError:
        raise EnvelopeError("The coordinator's answer is not what this version understands.", fix="update both sides to the same release") from None
