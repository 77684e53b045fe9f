"""An audit bundle of a finished run, from what the coordinator serves and from the keys that this party pinned when it enrolled."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import msgspec

from locum.client.api import Api
from locum.client.membership import Membership
from locum.errors import Conflict, EnvelopeError
from locum.federation.record import RoundRecord, RunRecord
from locum.federation.wire import ModelView, federation_id
from locum.governance import bundle
from locum.study.canonical import canonical

MOST_ROUNDS = 100_000
AT_ONCE = 4


async def fetch(api: Api, member: Membership, run: str, target: Path, *, with_model: bool = True) -> Path:
    """Write the bundle of `run` to `target`. It is not verified here: `governance.verify` does that. Raises `Conflict` for a run without a model."""
    if not target.parent.is_dir():
        raise Conflict(f"{target} cannot be written: there is no folder {target.parent}.", fix="choose another place")
    record = await api.run_record(run)
    if record.rounds > MOST_ROUNDS:
        raise EnvelopeError("The coordinator names more rounds than a run may have.")
    some, rounds = asyncio.Semaphore(AT_ONCE), list(range(record.rounds))

    async def one(seq: int) -> RoundRecord:
        async with some:
            return await api.round_record(run, seq)

    files = files_of(record, list(await asyncio.gather(*map(one, rounds))), member)
    if not with_model:
        return bundle.write(target, files)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".bundle-") as folder:
        view = ModelView(id=record.model, run=run, study=record.study, name="", bytes=record.model_bytes, created=0.0)
        return bundle.write(target, files, await api.model_file(view, Path(folder) / "model"))


def files_of(record: RunRecord, rounds: list[RoundRecord], member: Membership) -> dict[str, bytes]:
    """The files of a bundle. The keys are those that were pinned, not those that the coordinator says."""
    study = {name: getattr(record, name) for name in ("study", "run", "model", "requester", "envelope")}
    keys = {"coordinator": member.coordinator_key, "consortium": member.consortium_key, "federation": federation_id(member.coordinator)}
    parts = {bundle.round_name(r.seq): canonical({"answers": r.answers, "body": r.body, "envelope": r.envelope}) for r in rounds}
    return parts | {
        "manifest.json": record.manifest.encode(),
        "study.json": canonical(study),
        "results.json": record.results.encode(),
        "rosters.json": canonical(msgspec.to_builtins(record.rosters)),
        "checkpoint.txt": record.checkpoint.encode(),
        "entries.json": canonical(msgspec.to_builtins(record.entries)),
        "complete.json": canonical(msgspec.to_builtins(record.complete)),
        "keys.json": canonical(keys),
    }
