"""A site as a witness: it cosigns what continues, and stops at what does not."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from locum.client import Api
from locum.client.membership import Membership
from locum.federation.identity import Identity
from locum.governance.events import log_origin
from locum.governance.log import Checkpoint, NoteKey, Signed, Tree, leaf_hash
from locum.governance.log.note import WITNESS
from locum.governance.log.tree import MemoryTiles
from locum.site.folder import load_identity
from locum.site.store import Store
from locum.site.witness import Witness


class Liar(Api):
    """A coordinator's answers, whatever it likes to answer; the signatures are its own."""

    def __init__(self, real: Api, key: Identity) -> None:
        super().__init__(real.connection)
        self.key, self.leaves, self.cosigned = key, [leaf_hash(b"%d" % i) for i in range(10)], []  # type: ignore[var-annotated]

    def tree(self) -> Tree:
        tree = Tree(MemoryTiles())
        tree.extend(self.leaves)
        return tree

    async def checkpoint(self, *, witnessed: bool = False) -> Signed:
        name = log_origin(self.connection.federation)
        signed = Signed.by(Checkpoint(name, len(self.leaves), self.tree().root()), NoteKey(name, self.key.public.raw), self.key.sign_note)
        kept = [Signed.parse(text) for text in self.cosigned]
        return Signed(signed.checkpoint, (*signed.lines, *(s.lines[-1] for s in kept if s.checkpoint == signed.checkpoint)))

    async def consistency(self, old: int, new: int) -> list[bytes]:
        return self.tree().consistency(old, new)

    async def cosign(self, checkpoint: str) -> None:
        self.cosigned.append(checkpoint)


def witness_of(site: Path, key: Identity | None = None) -> tuple[Witness, Any]:
    """A witness over a site's own folder, and the API that it asks."""
    member, identity = Membership.load(site), load_identity(site)
    key = key or Identity.generate()
    api = Liar(Api(member.connect(identity)), key)
    return Witness(Store(site), api, identity, key.public, time.time), api


@pytest.fixture
def witness(federation: Any) -> tuple[Witness, Any]:
    return witness_of(federation.site("witness"))


def look(witness: Witness) -> int | None:
    return asyncio.run(witness.look())


def test_a_log_that_grows_is_cosigned_once(witness: Any) -> None:
    w, api = witness
    assert [look(w), look(w)] == [10, 10]
    api.leaves.append(leaf_hash(b"new"))
    assert look(w) == 11
    assert [Signed.parse(t).checkpoint.size for t in api.cosigned] == [10, 11]
    assert set(Signed.parse(api.cosigned[-1]).witnesses([w.me])) == {w.me.name}


def test_a_cosignature_that_did_not_arrive_is_sent_again(witness: Any) -> None:
    w, api = witness
    assert look(w) == 10
    first = api.cosigned.pop()  # the connection broke
    assert look(w) == 10
    assert api.cosigned == [first]  # the same signature: nothing new was said
    assert look(w) == 10
    assert api.cosigned == [first]


def test_two_logs_by_turns_are_evidence_at_the_first_turn(witness: Any) -> None:
    w, api = witness
    assert look(w) == 10
    one, other = api.leaves, [leaf_hash(b"other %d" % i) for i in range(12)]
    api.leaves = other
    assert look(w) is None
    api.leaves = one
    assert look(w) is None
    assert len(w.store.log_forks()) == 1


def test_an_old_head_played_back_stops_the_site(witness: Any) -> None:
    w, api = witness
    api.leaves = api.leaves[:7]
    assert look(w) == 7
    api.leaves = [*api.leaves, *(leaf_hash(b"more %d" % i) for i in range(4))]
    assert look(w) == 11
    api.leaves = api.leaves[:7]
    assert look(w) is None
    assert "shorter" in w.store.log_forks()[0].what


def test_a_site_answers_rounds_while_the_log_is_never_shown(federation: Any, study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that is hidden is no evidence of a lie: it is seen from what no site has cosigned."""

    async def never(self: Witness) -> int | None:
        await asyncio.sleep(3600)
        return None

    monkeypatch.setattr(Witness, "look", never)
    sites = federation.sites()
    with federation.serve(sites):
        view = federation.finish(federation.submit(study("hidden"), sites))
    assert view.status == "finished", view.error


@pytest.mark.parametrize("lie", ["edited", "deleted", "reordered", "inserted", "another"])
def test_a_log_that_was_rewritten_stops_the_site(witness: Any, lie: str) -> None:
    w, api = witness
    assert look(w) == 10
    before = list(api.leaves)
    more = [leaf_hash(b"more")]
    api.leaves = {
        "edited": [*before[:4], leaf_hash(b"edited"), *before[5:], *more],
        "deleted": before[:-1],
        "reordered": [before[1], before[0], *before[2:], *more],
        "inserted": [*before[:3], leaf_hash(b"x"), *before[3:]],
        "another": [leaf_hash(b"fork %d" % i) for i in range(10)],
    }[lie]
    assert look(w) is None
    assert w.forked
    when, what, seen, shown, settled = w.store.log_forks()[0]
    assert not settled
    assert Signed.parse(seen).checkpoint.root != Signed.parse(shown).checkpoint.root
    assert when > 0
    assert what
    assert look(w) is None  # and it stays so, with the evidence kept once
    assert len(w.store.log_forks()) == 1
    assert len(api.cosigned) == 1
    w.store.settle_log("the database was restored from a backup")
    assert look(w) == len(api.leaves)
    assert not w.forked
    assert w.store.log_forks()[0].settled


def test_a_head_that_another_key_signed_is_no_evidence(federation: Any) -> None:
    w, api = witness_of(federation.site("witness"))
    api.key = Identity.generate()
    with pytest.raises(Exception, match="not signed by the log's key"):
        look(w)
    assert not w.forked


def test_a_served_site_cosigns_what_it_took_part_in(federation: Any, study: Any) -> None:
    sites = federation.sites()
    s = study("witnessed")
    with federation.serve(sites):
        run = federation.submit(s, sites)
        view = federation.finish(run)
        assert view.status == "finished", view.error
        until, keys = time.monotonic() + 20, [NoteKey(p.name, load_identity(p).public.raw, WITNESS) for p in sites]
        while True:
            signed = federation.client(federation.client.api.checkpoint(witnessed=True))
            entry = federation.client(federation.client.api.log_entries(view.model))
            if entry and signed.checkpoint.size > entry[0].n and signed.witnesses(keys):
                break
            assert time.monotonic() < until
            time.sleep(0.2)
    signed.verify(NoteKey(log_origin(federation.folder.federation), federation.folder.identity.public.raw))


def test_a_site_with_evidence_declines(federation: Any, study: Any) -> None:
    sites = federation.sites()
    with Store(sites[0]) as store:
        store.put_log_fork("It was rewritten.", "a", "b")
    with federation.serve(sites):
        view = federation.finish(federation.submit(study("declined", terms={"attempts": 1, "deadline_s": 3}), sites))
    assert view.status == "failed"
    assert federation.client.rounds(view.id)[0].declined == {sites[0].name: "log"}


def test_the_coordinators_database_edited_by_hand_is_noticed(federation: Any, study: Any) -> None:
    """Somebody with the database rewrites an entry and lets the log be built and signed again."""
    site = federation.site("auditor")
    member, identity = Membership.load(site), load_identity(site)

    async def once() -> int | None:
        async with Api(member.connect(identity)) as api:
            return await Witness(Store(site), api, identity, member.coordinator, time.time).look()

    assert asyncio.run(once())
    with sqlite3.connect(federation.folder.path / "coordinator.db") as db:
        (body,) = db.execute("SELECT body FROM log_entries WHERE n = 0").fetchone()
        value = json.loads(body)
        saved = db.execute("SELECT level, number, body FROM log_tiles").fetchall()
        head = db.execute("SELECT size, built, checkpoint FROM log_head").fetchone()
        value["by"] = "somebody else"
        db.execute("UPDATE log_entries SET body = ? WHERE n = 0", (json.dumps(value, sort_keys=True, separators=(",", ":")).encode(),))
        db.execute("DELETE FROM log_tiles")
        db.execute("UPDATE log_head SET built = 0, checkpoint = ''")
    try:
        assert asyncio.run(once()) is None
        with Store(site) as store:
            assert store.log_forks()
    finally:
        with sqlite3.connect(federation.folder.path / "coordinator.db") as db:
            db.execute("UPDATE log_entries SET body = ? WHERE n = 0", (body,))
            db.execute("DELETE FROM log_tiles")
            db.executemany("INSERT INTO log_tiles VALUES (?, ?, ?)", saved)
            db.execute("UPDATE log_head SET built = ?, checkpoint = ?", head[1:])
