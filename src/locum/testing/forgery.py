"""Forged audit bundles: what an adversary with these or those keys could make, and the check that must name it.

A forgery is made from a `World`. The index is always made anew, for anybody can do that; so are the log and its head where the adversary is the
coordinator itself.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from locum.federation.identity import Identity
from locum.federation.roster import Roster, SignedRoster
from locum.federation.wire import Assignment
from locum.governance.events import Entry, Event
from locum.governance.log import Checkpoint, NoteKey, Signed
from locum.governance.log.note import WITNESS
from locum.testing.record import START, World, edited


@dataclass
class Made:
    """A bundle, what the verifier is told besides, and what it must say: the name of a check, and words of its sentence."""

    path: Path
    check: str
    words: str
    options: dict[str, Any] = field(default_factory=dict)


Forgery = Callable[[Path], Made]
FORGERIES: dict[str, Forgery] = {}


def forgery(make: Forgery) -> Forgery:
    FORGERIES[make.__name__.replace("_", " ")] = make
    return make


def _with(target: Path, check: str, words: str, name: str, change: Callable[[Any], Any], world: World | None = None, **options: Any) -> Made:
    """A bundle in which one file was changed."""
    world = world or World()
    return Made(world.bundle(target, files=edited(world.files(), name, change)), check, words, options)


def _entry(entries: list[dict[str, Any]], event: Event) -> dict[str, Any]:
    return next(e for e in entries if f'"{event}"' in e["body"])


# --- the log ---------------------------------------------------------------------------------------------------------------


@forgery
def an_entry_is_edited(target: Path) -> Made:
    def change(entries: list[dict[str, Any]]) -> None:
        e = _entry(entries, Event.STUDY_APPROVED)
        e["body"] = Entry.decode(e["body"].encode()).encode().decode().replace('"by":"s000"', '"by":"s001"')

    return _with(target, "inclusion", "edited, inserted or moved", "entries.json", change)


@forgery
def an_entry_is_deleted(target: Path) -> Made:
    return _with(target, "complete", "was left out", "entries.json", lambda entries: entries.remove(_entry(entries, Event.RUN_STARTED)))


@forgery
def a_revocation_is_deleted(target: Path) -> Made:
    world = World()
    world.add(Event.PARTY_REVOKED, "s003", "operator")
    return _with(target, "complete", "was left out", "entries.json", lambda entries: entries.remove(_entry(entries, Event.PARTY_REVOKED)), world)


@forgery
def a_deletion_is_covered_up(target: Path) -> Made:
    world = World()
    files = edited(world.files(), "entries.json", lambda entries: entries.remove(_entry(entries, Event.RUN_STARTED)))
    kept = [e["n"] for e in json.loads(files["entries.json"])]

    def change(value: dict[str, Any]) -> None:
        value["body"] = json.dumps(json.loads(value["body"]) | {"entries": kept}, separators=(",", ":"))

    return Made(world.bundle(target, files=edited(files, "complete.json", change)), "complete", "is not signed by the coordinator")


@forgery
def two_entries_are_reordered(target: Path) -> Made:
    def change(entries: list[dict[str, Any]]) -> None:
        a, b = [e for e in entries if f'"{Event.STUDY_APPROVED}"' in e["body"]][:2]
        a["body"], b["body"] = b["body"], a["body"]

    return _with(target, "inclusion", "edited, inserted or moved", "entries.json", change)


@forgery
def an_entry_is_inserted(target: Path) -> Made:
    def change(entries: list[dict[str, Any]]) -> None:
        entries.append({**_entry(entries, Event.STUDY_APPROVED), "n": 0})

    return _with(target, "inclusion", "edited, inserted or moved", "entries.json", change)


@forgery
def the_log_is_forked_by_a_stranger(target: Path) -> Made:
    world = World()
    files = world.files()
    signed = Signed.parse(files["checkpoint.txt"].decode())
    other = Signed(Checkpoint(signed.checkpoint.origin, signed.checkpoint.size, bytes(32)), signed.lines)
    return Made(world.bundle(target, files={**files, "checkpoint.txt": other.text().encode()}), "checkpoint", "not signed by the coordinator's key")


def _forked(target: Path, witnesses: int) -> tuple[Path, str]:
    """The coordinator's other history, of the same size; and the checkpoint that everybody else was shown."""
    world = World()
    seen = world.files()["checkpoint.txt"].decode()
    at = next(i for i, e in enumerate(world.entries) if e.event is Event.RUN_STARTED)
    world.entries[at] = Entry(START, Event.RUN_STARTED, "coordinator", world.run, {"study": world.study.digest, "told": "otherwise"})
    world.witnesses = witnesses
    return world.bundle(target), seen


@forgery
def the_log_is_forked_by_the_coordinator_without_witnesses(target: Path) -> Made:
    return Made(_forked(target, 0)[0], "witnesses", "0 sites have cosigned this checkpoint; you asked for 2", {"witnesses": 2})


@forgery
def the_log_is_forked_by_the_coordinator_and_another_root_was_seen(target: Path) -> Made:
    path, seen = _forked(target, 0)
    return Made(path, "checkpoint", "the log was forked", {"seen": seen})


@forgery
def the_log_is_forked_and_old_cosignatures_are_kept(target: Path) -> Made:
    path, seen = _forked(target, 0)
    world = World()
    cosigned = [line for line in Signed.parse(seen).lines if not line[0].startswith("locum.log/")]
    with zipfile.ZipFile(path) as archive:
        files = {n: archive.read(n) for n in archive.namelist() if n not in ("index.json", "model.safetensors")}
    signed = Signed.parse(files["checkpoint.txt"].decode())
    files["checkpoint.txt"] = Signed(signed.checkpoint, (*signed.lines, *cosigned)).text().encode()
    return Made(world.bundle(target, files=files), "witnesses", "it was forged")


@forgery
def a_witness_is_forged(target: Path) -> Made:
    world = World(witnesses=0)
    files = world.files()
    signed = Signed.parse(files["checkpoint.txt"].decode())
    forged = signed.cosigned(NoteKey("s000", world.keys["s000"].public.raw, WITNESS), Identity.generate().sign_note, int(START))
    return Made(world.bundle(target, files={**files, "checkpoint.txt": forged.text().encode()}), "witnesses", "s000 is not its own")


@forgery
def a_witness_is_invented(target: Path) -> Made:
    world, stranger = World(), Identity.generate()
    files = world.files()
    signed = Signed.parse(files["checkpoint.txt"].decode()).cosigned(NoteKey("nowhere", stranger.public.raw, WITNESS), stranger.sign_note, int(START))
    return Made(world.bundle(target, files={**files, "checkpoint.txt": signed.text().encode()}), "witnesses", "nowhere was not enrolled")


# --- approvals, by a coordinator that writes into its log what it likes ------------------------------------------------------


@forgery
def an_approval_of_another_study_is_replayed(target: Path) -> Made:
    world = World()
    world.decide("s003", world.keys["s003"], study="0" * 64)
    return Made(world.bundle(target), "approvals", "made for another study")


@forgery
def a_denial_is_told_as_an_approval(target: Path) -> Made:
    world = World()
    envelope = world.seal(world.keys["s003"], "denial", "s003", world.study.digest, world.study.digest)
    world.add(Event.STUDY_APPROVED, world.study.digest, "s003", key="", envelope=envelope)
    return Made(world.bundle(target), "approvals", "made for another kind")


@forgery
def a_revoked_key_approves(target: Path) -> Made:
    world = World()
    world.add(Event.PARTY_REVOKED, "s003", "operator")
    world.decide("s003", world.keys["s003"])
    return Made(world.bundle(target), "approvals", "the key of s003 was revoked by entry")


@forgery
def an_old_key_approves_after_a_new_enrolment(target: Path) -> Made:
    world, new = World(), Identity.generate()
    world.add(Event.PARTY_REVOKED, "s003", "operator")
    world.add(Event.PARTY_ENROLLED, "s003", "s003", role="site", key=new.public.fingerprint, public_key=str(new.public))
    world.decide("s003", world.keys["s003"])
    return Made(world.bundle(target), "approvals", "not signed by s003's key")


@forgery
def an_approval_is_missing_for_a_site_that_answered(target: Path) -> Made:
    return Made(World(silent=("s002",)).bundle(target), "answers", "s002: it answered, and no approval by it is in the log")


@forgery
def a_site_that_had_denied_is_summed(target: Path) -> Made:
    return Made(World(denying=("s002",)).bundle(target), "answers", "s002: it answered, and no approval by it is in the log")


# --- study, rosters, rounds, model -------------------------------------------------------------------------------------------


@forgery
def the_manifest_is_altered(target: Path) -> Made:
    return _with(target, "study", "the manifest is not the study that was signed", "manifest.json", lambda study: study["terms"].update(min_cohort=2))


@forgery
def the_requester_is_another(target: Path) -> Made:
    return _with(target, "study", "of another requester", "study.json", lambda study: study.update(requester="s000"))


@forgery
def the_roster_is_swapped(target: Path) -> Made:
    world = World()
    listed = {name: str(Identity.generate().public) for name in world.keys}
    other = SignedRoster.of(Roster(federation=world.federation, version=1, issued=START, sites=listed), Identity.generate())
    files = edited(world.files(), "rosters.json", lambda _: [msgspec.to_builtins(other)])
    return Made(world.bundle(target, files=files), "rosters", "not signed by the consortium")


@forgery
def the_roster_is_not_in_the_log(target: Path) -> Made:
    world = World()
    listed = {name: str(key.public) for name, key in world.keys.items()}
    other = SignedRoster.of(Roster(federation=world.federation, version=1, issued=START + 1, sites=listed), world.consortium)
    files = edited(world.files(), "rosters.json", lambda _: [msgspec.to_builtins(other)])
    return Made(world.bundle(target, files=files), "rosters", "the log has 0 entries 'consortium:roster:installed'")


@forgery
def an_assignment_is_altered(target: Path) -> Made:
    def change(round_: dict[str, Any]) -> None:
        round_["body"] = round_["body"].replace('"iteration":1', '"iteration":7')

    return _with(target, "rounds", "the assignment of round 1: it was made for another digest", "rounds/000001.json", change)


@forgery
def an_assignment_of_another_run_is_replayed(target: Path) -> Made:
    world = World()
    a = msgspec.json.decode(world.told[1].body, type=Assignment)
    world.told[1] = world.assign(msgspec.structs.replace(a, run="f" * 20), world.told[1].answers)
    return Made(world.bundle(target), "rounds", "the assignment of round 1: it was made for another run")


@forgery
def a_round_is_left_out(target: Path) -> Made:
    world = World(rounds=3)
    world.told = [world.told[0], *world.told[2:]]
    return Made(world.bundle(target), "rounds", "round 1 is in the log, and not in the bundle")


@forgery
def an_answer_is_forged(target: Path) -> Made:
    world = World()
    real, world.keys["s001"] = world.keys["s001"], world.coordinator
    forged = world.answer("s001", 1)
    world.keys["s001"] = real
    world.told[1] = msgspec.structs.replace(world.told[1], answers={**world.told[1].answers, "s001": forged})
    return Made(world.bundle(target), "answers", "round 1, s001: it is not signed by s001's key")


@forgery
def an_answer_of_another_round_is_replayed(target: Path) -> Made:
    world = World()
    world.told[1] = msgspec.structs.replace(world.told[1], answers={**world.told[1].answers, "s001": world.told[0].answers["s001"]})
    return Made(world.bundle(target), "answers", "round 1, s001: it was made for another seq")


@forgery
def an_answer_is_left_out(target: Path) -> Made:
    return _with(target, "answers", "not those that the log says were summed", "rounds/000001.json", lambda r: r["answers"].pop("s001") and None)


@forgery
def fewer_sites_than_the_study_asks_for_are_summed(target: Path) -> Made:
    return Made(World(sites=2, witnesses=0).bundle(target), "answers", "was summed over 2 sites; the study asks for 3")


@forgery
def the_model_file_is_swapped(target: Path) -> Made:
    return Made(World().bundle(target, model=b"another model"), "model", "it was swapped")


@forgery
def the_model_is_another_runs(target: Path) -> Made:
    return _with(target, "rounds", "the last round did not make this model", "study.json", lambda study: study.update(model="0" * 64))


@forgery
def the_results_are_altered(target: Path) -> Made:
    return _with(target, "results", "they were altered", "results.json", lambda results: results["mean"].update(x=1.25))


# --- keys and files ----------------------------------------------------------------------------------------------------------


@forgery
def the_whole_bundle_is_another_coordinators(target: Path) -> Made:
    return Made(World().bundle(target), "keys", "not the one that you gave", {"coordinator": World().coordinator.public.fingerprint})


@forgery
def the_consortium_is_another(target: Path) -> Made:
    return Made(World().bundle(target), "keys", "the consortium's key is", {"consortium": str(World().consortium.public)})


@forgery
def a_file_is_missing(target: Path) -> Made:
    world = World()
    return Made(world.bundle(target, files={n: b for n, b in world.files().items() if n != "results.json"}), "files", "'results.json' is missing")


@forgery
def a_file_is_extra(target: Path) -> Made:
    world = World()
    return Made(world.bundle(target, files={**world.files(), "notes.txt": b"x"}), "files", "'notes.txt' is an extra file")


def _zip(target: Path, change: Callable[[zipfile.ZipFile], None]) -> Path:
    World().bundle(target)
    with zipfile.ZipFile(target, "a") as archive:
        change(archive)
    return target


@forgery
def a_file_is_not_in_the_index(target: Path) -> Made:
    return Made(_zip(target, lambda z: z.writestr("rounds/000077.json", "{}")), "files", "the index does not list it")


@forgery
def a_name_leads_out_of_the_bundle(target: Path) -> Made:
    return Made(_zip(target, lambda z: z.writestr("../../etc/passwd", "x")), "files", "leads out of the bundle")


@forgery
def a_file_is_altered_and_the_index_is_not(target: Path) -> Made:
    world = World()
    good, out = world.bundle(target.with_suffix(".good")), target
    with zipfile.ZipFile(good) as a, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as b:
        for name in a.namelist():
            b.writestr(name, a.read(name).replace(b"1.5", b"1.6") if name == "results.json" else a.read(name))
    return Made(out, "files", "'results.json' is not the file that the index lists")


@forgery
def a_file_is_a_bomb(target: Path) -> Made:
    good, out = World().bundle(target.with_suffix(".good")), target
    with zipfile.ZipFile(good) as a, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as b:
        for name in a.namelist():
            b.writestr(name, b"0" * (64 << 20) if name == "results.json" else a.read(name))
    return Made(out, "files", "is longer than the index says")


@forgery
def something_stands_before_the_archive(target: Path) -> Made:
    path = World().bundle(target)
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    return Made(path, "files", "")


@forgery
def it_is_cut_off(target: Path) -> Made:
    path = World().bundle(target)
    path.write_bytes(path.read_bytes()[:-30])
    return Made(path, "files", "cannot be read as a zip file")


@forgery
def it_is_no_archive(target: Path) -> Made:
    target.write_bytes(b"nothing of the kind")
    return Made(target, "files", "cannot be read as a zip file")
