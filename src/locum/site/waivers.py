"""Waivers: what a data manager lets pass although a gate refuses it, for one study, signed with the site's key and kept for good.

A waiver names the gate, the variable, how many rows at most, why, who, and until when; it is looked at again at every run. One that is
withdrawn stays on record, with the line that withdraws it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from locum.data.gates.waiver import Waiver
from locum.errors import LocumError, ManifestError
from locum.federation.identity import Identity, PublicKey, b64, unb64
from locum.site.store import Store
from locum.study.canonical import canonical

LABEL = b"locum/waiver/1"


@dataclass(frozen=True)
class KeptWaiver:
    """A line of a site's record. withdrawn: the number of the line that takes it back, or None."""

    n: int
    time: float
    waiver: Waiver
    withdrawn: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {"n": self.n, "time": self.time, **self.waiver.model_dump(mode="json"), "withdrawn": self.withdrawn}


def grant(store: Store, identity: Identity, waiver: Waiver) -> None:
    """Sign a waiver and keep it."""
    _put(store, identity, waiver.study, {"study": waiver.study, "waiver": waiver.model_dump(mode="json")})


def withdraw(store: Store, identity: Identity, study: str, n: int, by: str) -> None:
    """Take back the waiver with this number, from the next run on. Raises `ManifestError`."""
    if n not in [w.n for w in waivers(store, identity.public, study) if w.withdrawn is None]:
        raise ManifestError(f"There is no waiver {n} in force for this study.", fix=f"list them: locum site waiver list {study[:12]}")
    _put(store, identity, study, {"study": study, "withdraws": n, "by": by})


def waivers(store: Store, key: PublicKey, study: str) -> list[KeptWaiver]:
    """All waivers for a study, oldest first. Raises `LocumError` where a line does not bear this site's signature."""
    found: dict[int, KeptWaiver] = {}
    for n, at, line, signature in store.waivers(study):
        said = json.loads(line) if key.verify(LABEL, unb64(signature, limit=128), line.encode()) else {}
        if said.get("study") != study:
            raise LocumError(
                f"Waiver {n} of this site is not what was signed.", why="Its line or its signature was edited.", fix="find out who can write to this folder"
            )
        if "waiver" in said:
            found[n] = KeptWaiver(n, at, Waiver.parse(said["waiver"], where=f"waiver {n}"))
        elif said["withdraws"] in found:
            kept = found[said["withdraws"]]
            found[kept.n] = KeptWaiver(kept.n, kept.time, kept.waiver, withdrawn=n)
    return list(found.values())


def in_force(store: Store, key: PublicKey, study: str, data: str) -> list[Waiver]:
    """Those that count now for a study on the table called `data`: not withdrawn, and not over."""
    today = datetime.fromtimestamp(store.clock(), UTC).date()
    return [w.waiver for w in waivers(store, key, study) if w.withdrawn is None and w.waiver.in_force(study, data, today)]


def _put(store: Store, identity: Identity, study: str, said: dict[str, Any]) -> None:
    line = canonical(said)
    store.put_waiver(study, line.decode(), b64(identity.sign(LABEL, line)))
