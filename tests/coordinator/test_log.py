"""The federation's log at a real coordinator: what is recorded, what is proved, and what is not accepted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from locum.federation.wire import LogEntries, Proof
from locum.governance.events import Entry, Event, log_origin
from locum.governance.log import Checkpoint, NoteKey, Signed, leaf_hash, verify_consistency, verify_inclusion
from locum.governance.log.note import WITNESS


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, federation_class: Any, rows: Any, walk: Any) -> Any:
    """A federation in which one study ran to its end."""
    federation = federation_class(tmp_path_factory.mktemp("log") / "coordinator")
    federation.serve()
    federation.add_sites(rows)
    run = federation.investigator.submit(walk("logged"))
    view = federation.investigator.ended(run)
    assert view.status == "finished", view.error
    yield federation, view
    federation.close()


def key_of(federation: Any) -> NoteKey:
    return NoteKey(log_origin(federation.folder.federation), federation.folder.identity.public.raw)


def head(federation: Any) -> Signed:
    signed = Signed.parse(federation.investigator.call("GET", "/v1/log/checkpoint").text)
    signed.verify(key_of(federation))
    return signed


def entries(federation: Any, *subjects: str) -> list[tuple[int, Entry]]:
    found = federation.investigator.get("/v1/log/entries?subject=" + ",".join(subjects), LogEntries).entries
    return [(e.n, Entry.decode(e.body.encode())) for e in found]


def hashes(federation: Any, target: str) -> list[bytes]:
    return [bytes.fromhex(h) for h in federation.investigator.get(target, Proof).hashes]


def test_a_run_is_told_from_its_first_step_to_its_model(world: Any) -> None:
    federation, view = world
    head(federation)
    told = [e for _, e in entries(federation, view.study, view.id, view.model)]
    kinds = [e.event for e in told]
    assert kinds[:2] == [Event.STUDY_SUBMITTED, Event.RUN_CREATED]
    assert kinds.count(Event.STUDY_APPROVED) == 4
    assert [e.details["seq"] for e in told if e.event is Event.ROUND_COMBINED] == [0, 1, 2]
    assert kinds[-1] is Event.MODEL_MADE
    assert told[-1].details["run"] == view.id
    assert {e.by for e in told if e.event is Event.STUDY_APPROVED} == set(federation.sites)
    assert [e.event for _, e in entries(federation, "s0")] == [Event.PARTY_INVITED, Event.PARTY_ENROLLED]


def test_every_entry_is_under_the_signed_head(world: Any) -> None:
    federation, view = world
    signed = head(federation).checkpoint
    for n, entry in entries(federation, view.id, view.model):
        verify_inclusion(n, signed.size, leaf_hash(entry.encode()), hashes(federation, f"/v1/log/inclusion?n={n}&size={signed.size}"), signed.root)


def test_a_longer_log_continues_the_shorter(world: Any, walk: Any) -> None:
    federation, _ = world
    before = head(federation).checkpoint
    federation.investigator.ended(federation.investigator.submit(walk("another", rounds=1)))
    after = head(federation).checkpoint
    assert after.size > before.size
    proof = hashes(federation, f"/v1/log/consistency?old={before.size}&new={after.size}")
    verify_consistency(before.size, after.size, before.root, after.root, proof)


def test_tiles_hold_the_same_tree(world: Any) -> None:
    federation, _ = world
    signed = head(federation).checkpoint
    ada = federation.investigator
    bundle = ada.call("GET", f"/v1/log/tile/entries/000.p/{signed.size}").content
    tile = ada.call("GET", f"/v1/log/tile/0/000.p/{signed.size}").content
    leaves, at = [], 0
    while at < len(bundle):
        n = int.from_bytes(bundle[at : at + 2], "big")
        leaves.append(leaf_hash(bundle[at + 2 : at + 2 + n]))
        at += 2 + n
    assert b"".join(leaves) == tile
    for path in ("0/001", "0/000", "7/000.p/1", "x/000", "0/000.p/0", "0/0", "entries/000.p/257", "0/x000/000"):
        assert ada.send("GET", f"/v1/log/tile/{path}").status_code == 404, path


def test_a_site_cosigns_and_nobody_else_can_in_its_name(world: Any) -> None:
    federation, _ = world
    signed, (a, b) = head(federation), list(federation.sites.values())[:2]
    me = NoteKey(a.name, a.identity.public.raw, WITNESS)
    good = signed.cosigned(me, a.identity.sign_note, 1_800_000_000)
    assert a.send("PUT", "/v1/log/cosignature", good.text().encode()).status_code == 204
    shown = Signed.parse(b.call("GET", "/v1/log/witnessed").text)
    shown.verify(key_of(federation))
    assert shown.witnesses([me]) == {a.name: 1_800_000_000}
    forged = signed.cosigned(me, b.identity.sign_note, 1_800_000_000)
    for party, text in (
        (b, good.text()),  # the right signature, by another party
        (a, forged.text()),
        (a, signed.text()),  # no cosignature at all
        (a, Signed(Checkpoint(signed.checkpoint.origin, signed.checkpoint.size, bytes(32)), good.lines).text()),
        (a, "nonsense"),
        (a, "\x00"),
    ):
        assert party.send("PUT", "/v1/log/cosignature", text.encode()).status_code in (400, 409), text
    assert federation.investigator.send("PUT", "/v1/log/cosignature", good.text().encode()).status_code == 403


def test_an_edited_entry_no_longer_fits_what_was_signed(world: Any) -> None:
    federation, view = world
    signed = head(federation).checkpoint
    n, entry = entries(federation, view.model)[0]
    proof = hashes(federation, f"/v1/log/inclusion?n={n}&size={signed.size}")
    altered = Entry(entry.at, entry.event, entry.by, "0" * 64, entry.details)
    with pytest.raises(Exception, match="does not lead"):
        verify_inclusion(n, signed.size, leaf_hash(altered.encode()), proof, signed.root)


def test_what_may_be_asked_is_bounded(world: Any) -> None:
    ada = world[0].investigator
    for target in (
        "/v1/log/entries",
        "/v1/log/entries?subject=" + ",".join(["x"] * 65),
        "/v1/log/inclusion?n=1&size=99999999",
        "/v1/log/consistency?old=5&new=1",
    ):
        assert ada.send("GET", target).status_code == 400, target
    assert json.loads(ada.call("GET", "/v1/log/entries?subject=nobody").content) == {"entries": []}


def test_a_site_that_was_revoked_cosigns_nothing_more(world: Any) -> None:
    """Not even in the second in which a replica may still know its key: the log would show a witness after its end."""
    from locum.coordinator.journal import Journal
    from locum.coordinator.parties import revoke
    from locum.coordinator.server import open_store
    from locum.errors import Forbidden

    federation, _ = world
    signed, site = head(federation), list(federation.sites.values())[-1]
    text = signed.cosigned(NoteKey(site.name, site.identity.public.raw, WITNESS), site.identity.sign_note, 1_800_000_000).text()
    with open_store(federation.folder, lambda: 1.0) as store:
        journal = Journal(store, federation.folder.identity, federation.folder.federation)
        revoke(store, site.name)
        with pytest.raises(Forbidden):
            journal.cosign(site.name, site.identity.public, text)


def test_nor_does_it_approve(world: Any, walk: Any) -> None:
    """The same second, for an approval."""
    from locum.coordinator import studies
    from locum.coordinator.parties import Party as Known
    from locum.coordinator.parties import revoke
    from locum.coordinator.server import open_store
    from locum.errors import Forbidden
    from locum.federation.envelope import Envelope

    federation, view = world
    site = list(federation.sites.values())[-2]
    envelope = Envelope(kind="denial", study=view.study, sender=site.name, digest=view.study).seal(site.identity)
    with open_store(federation.folder, lambda: 1.0) as store:
        revoke(store, site.name)
        with pytest.raises(Forbidden):
            studies.decide(store, Known(site.name, "site", site.identity.public), view.study, envelope, 2e9)
