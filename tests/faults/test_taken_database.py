"""The coordinator's database, blobs and logs are taken whole, with every message of every phase before any was dropped.

What the thief can try with them gives noise for each site; the same arithmetic with a site's own secrets gives its numbers,
so the test would notice if it gave something away.
"""

import asyncio
import importlib.util
import sqlite3
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from locum.coordinator import runs
from locum.federation.summation import encoding_of, wire_layout
from locum.federation.wire import Assignment
from locum.secagg import masks
from locum.secagg.errors import ProtocolError
from locum.secagg.masks import Stream
from locum.secagg.messages import Join, Unmask, decode
from locum.secagg.site import open_escrow
from locum.site.masking import MaskedRound
from locum.study.vector import Layout
from locum.tasks import build_plan

_spec = importlib.util.spec_from_file_location("faults_world_taken", Path(__file__).with_name("world.py"))
assert _spec
assert _spec.loader
world = sys.modules["faults_world_taken"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(world)

SITES = list(world.ROWS)
STUDY = world.STUDIES["masked"]


class Taken:
    """Everything that the coordinator ever held of a run, round by round."""

    def __init__(self) -> None:
        self.rounds: dict[int, dict[str, dict[str, bytes]]] = {}
        self.assignments: dict[int, Assignment] = {}
        self.bytes = b""
        self.covered: dict[tuple[int, str], Any] = {}
        self.own: dict[tuple[int, str], Any] = {}

    def look(self, folder: Path, seq: int) -> None:
        import msgspec

        db = sqlite3.connect(folder / "coordinator.db")
        phases: dict[str, dict[str, bytes]] = {}
        for phase, sender, body in db.execute("SELECT phase, sender, body FROM messages WHERE seq = ?", (seq,)):
            phases.setdefault(phase, {})[sender] = body
        self.rounds[seq] = phases
        (text,) = db.execute("SELECT body FROM rounds WHERE seq = ?", (seq,)).fetchone()
        self.assignments[seq] = msgspec.json.decode(text, type=Assignment)
        self.bytes += b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file() and "key" not in p.suffix)


@pytest.fixture
def taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Taken:
    found, folder = Taken(), tmp_path / "coordinator"
    checkpoint, mask = runs.checkpoint, MaskedRound.mask

    def watched(store: Any, fence: int, run: str, seq: int, *args: Any, **options: Any) -> None:
        found.look(folder, seq)
        checkpoint(store, fence, run, seq, *args, **options)

    def recorded(self: MaskedRound, asked: bytes) -> Any:
        covered = mask(self, asked)
        found.covered[self.a.seq, self.me] = covered
        found.own[self.a.seq, self.me] = (self.manifest, self._secrets.k)
        return covered

    monkeypatch.setattr(runs, "checkpoint", watched)
    monkeypatch.setattr(MaskedRound, "mask", recorded)
    asyncio.run(world.prepare(tmp_path, STUDY))
    view = asyncio.run(world.World(tmp_path).run())
    assert (view.status, view.model) == ("finished", world.EXPECTED["masked"])
    found.bytes += "".join(capfd.readouterr()).encode()
    return found


def vector(taken: Taken, seq: int, site: str) -> tuple[Any, dict[str, np.ndarray]]:
    """The encoding of a round, and what a site uploaded in it."""
    layout: Layout = build_plan(STUDY)[taken.assignments[seq].step].layout({})
    encoding = encoding_of(wire_layout(layout), taken.assignments[seq], STUDY.terms)
    assert encoding
    return encoding, {g: a.copy() for g, a in encoding.unpack(encoding.wire.unpack(taken.rounds[seq]["masked"][site])).items()}


def without(encoding: Any, y: dict[str, np.ndarray], streams: list[Stream], transcript: bytes) -> dict[str, np.ndarray]:
    masks.apply(y, encoding.rings, [Stream(s.seed, s.purpose, -s.sign) for s in streams], transcript)
    return encoding.decode(y)


def test_nobody_recovers_a_sites_update(taken: Taken) -> None:
    assert set(taken.rounds) == {0, 1}
    for seq in taken.rounds:
        phases = taken.rounds[seq]
        assert set(phases) >= {"join", "masked", "confirm", "unmask"}
        answers = {site: decode(body, Unmask) for site, body in phases["unmask"].items()}
        assert all(not a.shares_k for a in answers.values()), "nobody dropped out, so no share of any K was ever sent"
        for site in SITES:
            covered = taken.covered[seq, site]
            encoding, y = vector(taken, seq, site)
            mine = without(encoding, {g: a.copy() for g, a in y.items()}, list(covered.streams), covered.transcript)
            assert mine["weight"] == 1.0, "the control: with the site's own seeds its numbers are there"
            assert mine["rows" if seq == 0 else "count"].sum() == len(world.ROWS[site])
            if site in answers:
                theft = without(encoding, {g: a.copy() for g, a in y.items()}, [Stream(answers[site].b, "self", 1)], covered.transcript)
                assert abs(theft["weight"]) > 1e6, "noise: the pair masks are still on it"
            (manifest, k), escrow = taken.own[seq, site], decode(phases["join"][site], Join)
            assert open_escrow(manifest, manifest.number(site), k, escrow), "the control: with its K the escrow opens"
            for sent in answers.values():
                with pytest.raises(ProtocolError):
                    open_escrow(manifest, manifest.number(site), sent.b, escrow)
            assert k not in taken.bytes


def test_no_seed_and_no_number_of_a_site_stands_in_what_was_taken(taken: Taken) -> None:
    for (seq, site), covered in taken.covered.items():
        pairs = [s.seed for s in covered.streams if s.purpose == "pair"]
        assert pairs
        assert all(seed not in taken.bytes and seed.hex().encode() not in taken.bytes for seed in pairs)
        encoding, y = vector(taken, seq, site)
        masks.apply(y, encoding.rings, [Stream(s.seed, s.purpose, -s.sign) for s in covered.streams], covered.transcript)
        assert y["wide"].tobytes() not in taken.bytes
        assert taken.rounds[seq]["masked"][site] in taken.bytes, "the control: what was uploaded is there"
