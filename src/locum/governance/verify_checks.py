"""The checks of an audit bundle: each compares what the bundle says with what was signed and logged, and names what does not hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from locum.governance.verify_formats import Bad, Entry, Log, Note, canonical, fingerprint, included, number, open_envelope, parse, sha256, signed, unb64


@dataclass
class Bundle:
    """A bundle that was read. pinned: party -> key or fingerprint that the reader knows from elsewhere. seen: a checkpoint seen elsewhere."""

    files: dict[str, bytes]
    model: str
    pinned: dict[str, str]
    least: int
    seen: str = ""

    def json(self, name: str) -> Any:
        return parse(self.files[name], name)

    @cached_property
    def note(self) -> Note:
        return Note.parse(self.files["checkpoint.txt"].decode())

    @cached_property
    def log(self) -> Log:
        return Log(self.json("entries.json"))

    @cached_property
    def study(self) -> dict[str, str]:
        """{study, run, model, requester, envelope}"""
        value: dict[str, str] = self.json("study.json")
        if set(value) != {"study", "run", "model", "requester", "envelope"} or not all(isinstance(v, str) for v in value.values()):
            raise Bad("study.json is not in its one form")
        return value

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return dict(parse(self.files["manifest.json"], "the manifest", one_form=False))

    def key(self, party: str) -> bytes:
        return unb64(self.json("keys.json")[party])

    @cached_property
    def federation(self) -> str:
        return sha256(b"locum/federation/1\0", self.key("coordinator")).hex()[:32]

    @cached_property
    def rounds(self) -> list[dict[str, Any]]:
        return [{"seq": int(name[7:-5]), **self.json(name)} for name in sorted(self.files) if name.startswith("rounds/")]

    def assignment(self, round_: dict[str, Any]) -> dict[str, Any]:
        return dict(parse(round_["body"].encode(), "an assignment", one_form=False))

    @cached_property
    def combined(self) -> dict[int, Entry]:
        """The log's entry about each round that was summed."""
        return {number(e.details["seq"]): e for e in self.log.about(self.study["run"], "coordinator:round:combined")}


Problems = list[str]


def keys(b: Bundle, wrong: Problems) -> str:
    said = []
    for party in ("coordinator", "consortium"):
        raw, pin = b.key(party), b.pinned.get(party, "")
        if not raw and party == "consortium" and not pin:
            said.append("no consortium key")
            continue
        if pin and pin not in (fingerprint(raw), b.json("keys.json")[party]):
            wrong.append(f"the {party}'s key is {fingerprint(raw)}, not the one that you gave")
        said.append(f"{party} {fingerprint(raw)} " + ("is the key that you gave" if pin else "is NOT PINNED: the bundle only agrees with itself about it"))
    return "; ".join(said)


def checkpoint(b: Bundle, wrong: Problems) -> str:
    note, key = b.note, b.key("coordinator")
    if note.origin != f"locum.log/{b.federation}":
        wrong.append(f"the checkpoint is of the log '{note.origin}', which is not this coordinator's")
    lines = [s for name, s in note.lines if name == note.origin and s[:4] == Note.id(note.origin, 1, key)]
    if not any(signed(key, s[4:], note.text.encode()) for s in lines):
        wrong.append("the checkpoint is not signed by the coordinator's key: it was forged or altered")
    text = f"{note.size} entries, root {note.root.hex()[:16]}, signed by the coordinator"
    if b.seen:
        other = Note.parse(b.seen)
        if (other.origin, other.size) == (note.origin, note.size) and other.root != note.root:
            wrong.append(f"the log was forked: of its {note.size} entries you have seen another root, {other.root.hex()[:16]}")
        elif other.origin == note.origin and other.size != note.size:
            text += f"; the one that you have seen has {other.size} entries, so they cannot be compared without a consistency proof"
    return text


def witnesses(b: Bundle, wrong: Problems) -> str:
    good = set()
    for name, line in b.note.lines:
        if name == b.note.origin:
            continue
        when = int.from_bytes(line[4:12], "big")
        message = f"cosignature/v1\ntime {when}\n{b.note.text}".encode()
        try:
            known = b.log.keys(name, b.note.size, b.note.size)
        except Bad as error:
            wrong.append(f"a cosignature in the name of {name}: {error}")
            continue
        if any(line[:4] == Note.id(name, 4, key) and len(line) == 76 and signed(key, line[12:], message) for key in known):
            good.add(name)
        else:
            wrong.append(f"the cosignature of the witness {name} is not its own, or is of another checkpoint: it was forged")
    if len(good) < b.least:
        wrong.append(f"{len(good)} sites have cosigned this checkpoint; you asked for {b.least}: it may be of a log that others were not shown")
    return f"cosigned by {len(good)} sites" + (f": {', '.join(sorted(good)[:5])}" + (" ..." if len(good) > 5 else "") if good else "")


def inclusion(b: Bundle, wrong: Problems) -> str:
    for e in b.log.entries:
        if not (0 <= e.n < b.note.size and included(e.n, b.note.size, e.body, e.proof, b.note.root)):
            wrong.append(f"{e} is not in the log at that place: it was edited, inserted or moved, or the log is another")
    if len({e.n for e in b.log.entries}) < len(b.log.entries):
        wrong.append("two entries have the same number")
    return f"{len(b.log.entries)} entries lead to the checkpoint's root"


def complete(b: Bundle, wrong: Problems) -> str:
    given = b.json("complete.json")
    if not signed(b.key("coordinator"), unb64(given["signature"]), b"locum/log-entries/1\0" + given["body"].encode()):
        raise Bad("the list of entries about this run is not signed by the coordinator")
    said = parse(given["body"].encode(), "the list of entries")
    if (said["origin"], said["size"], said["root"]) != (b.note.origin, b.note.size, b.note.root.hex()):
        raise Bad("the list of entries about this run is of another checkpoint")
    have, subjects = {e.n for e in b.log.entries}, set(said["subjects"])
    wrong += [f"entry {n} was left out: the coordinator's list names it" for n in said["entries"] if n not in have]
    wrong += [f"{e} is not in the coordinator's list" for e in b.log.entries if e.n not in set(said["entries"])]
    about = {b.study[k] for k in ("study", "run", "model", "requester")} | {name for r in b.rounds for name in b.assignment(r)["roster"]}
    about |= {sha256(r["body"].encode()).hex() for r in b.json("rosters.json")} | {name for name, _ in b.note.lines if name != b.note.origin}
    wrong += [f"the coordinator's list does not cover {name[:20]}" for name in sorted(about - subjects)]
    return f"the coordinator signs that these {len(have)} entries are all about {len(subjects)} subjects"


def study(b: Bundle, wrong: Problems) -> str:
    s = b.study
    if sha256(b.files["manifest.json"]).hex() != s["study"]:
        wrong.append("the manifest is not the study that was signed: it was altered")
    entry = b.log.one(s["study"], "investigator:study:submitted")
    if entry.by != s["requester"] or entry.details["envelope"] != s["envelope"]:
        wrong.append(f"{entry} is of another requester or another signature")
    known = b.log.keys(s["requester"], entry.n, entry.n)
    open_envelope(s["envelope"], s["requester"], known, kind="study", study=s["study"], digest=s["study"], run="")
    b.log.one(s["run"], "investigator:run:created", study=s["study"])
    return f"'{b.manifest['name']}' is the study that {s['requester']} signed, and its run is in the log"


def approvals(b: Bundle, wrong: Problems) -> str:
    kinds = {"site:study:approved": "approval", "site:study:denied": "denial"}
    decided = b.log.decisions(b.study["study"])
    for e in decided:
        try:
            wanted = {"kind": kinds[e.event]} if e.event in kinds else {}
            known = b.log.keys(e.by, e.n, e.n)
            open_envelope(e.details["envelope"], e.by, known, study=b.study["study"], digest=b.study["study"], run="", **wanted)
        except Bad as error:
            wrong.append(f"{e}: {error}")
    now = {e.by: e.event == "site:study:approved" for e in decided}
    return f"{len(decided)} decisions by {len(now)} sites, each signed with the key that it had then; {sum(now.values())} approvals in force"


def rosters(b: Bundle, wrong: Problems) -> str:
    listed: dict[str, dict[str, Any]] = {}
    for r in b.json("rosters.json"):
        digest, body = sha256(r["body"].encode()).hex(), parse(r["body"].encode(), "a roster")
        if not signed(b.key("consortium"), unb64(r["signature"]), b"locum/roster/1\0" + r["body"].encode()):
            wrong.append(f"roster {body['version']} is not signed by the consortium: it was altered or swapped")
        if body["federation"] != b.federation:
            wrong.append(f"roster {body['version']} is another federation's")
        listed[digest] = body | {"since": b.log.one(digest, "consortium:roster:installed", version=body["version"]).n}
    masked, newest = 0, 0
    for r in b.rounds:
        a = b.assignment(r)
        if a.get("session") is None:
            continue
        masked += 1
        roster = listed.get(a["session"]["roster"])
        if roster is None:
            wrong.append(f"round {r['seq']} was masked under a roster that the bundle does not have")
            continue
        first, last = _when(b, r["seq"])
        if roster["since"] > last or number(roster["version"]) < newest:
            wrong.append(f"round {r['seq']} was masked under a roster that was not in force then")
        newest = max(newest, number(roster["version"]))
        for name in a["roster"]:
            if name not in roster["sites"] or unb64(roster["sites"][name]) not in b.log.keys(name, first, last):
                wrong.append(f"round {r['seq']}: the key of {name} is not the one in the consortium's roster")
    return f"{len(listed)} rosters signed by the consortium, over {masked} masked rounds" if listed else "no round was masked, and no roster is signed"


def rounds(b: Bundle, wrong: Problems) -> str:
    s, run = b.study, b.study["run"]
    failed = {e.details["seq"] for e in b.log.about(run, "coordinator:round:failed")}
    if [r["seq"] for r in b.rounds] != list(range(len(b.rounds))):
        wrong.append("the rounds are not numbered without a gap: one was left out")
    if len(b.log.about(run, "coordinator:round:combined")) > len(b.combined):
        wrong.append("a round was summed twice: two sums over other sites tell what those sites answered")
    wrong += [f"round {seq} is in the log, and not in the bundle" for seq in sorted(({*b.combined} | failed) - {r["seq"] for r in b.rounds})]
    state = None
    for r in b.rounds:
        seq, a, entry = r["seq"], b.assignment(r), b.combined.get(r["seq"])
        try:
            wanted = {"kind": "assignment", "study": s["study"], "run": run, "seq": seq, "digest": sha256(r["body"].encode()).hex()}
            open_envelope(r["envelope"], "coordinator", [b.key("coordinator")], **wanted)
            if (a["study"], a["run"], a["seq"]) != (s["study"], run, seq):
                raise Bad("it is of another study, run or round")
        except Bad as error:
            wrong.append(f"the assignment of round {seq}: {error}")
        if state not in (None, a["state"]):
            wrong.append(f"round {seq} did not start from the state that the round before had made")
        if entry is None and seq not in failed:
            wrong.append(f"round {seq} is not in the log")
        state = entry.details["state"] if entry else a["state"]
    if state != s["model"]:
        wrong.append("the last round did not make this model")
    return f"{len(b.rounds)} rounds, {len(b.combined)} of them summed, each signed by the coordinator and continuing the one before"


def answers(b: Bundle, wrong: Problems) -> str:
    s, count = b.study, 0
    terms = b.manifest["terms"]
    least = max(terms["min_cohort"], terms.get("quorum") or 0)
    for r in b.rounds:
        seq, a, entry = r["seq"], b.assignment(r), b.combined.get(r["seq"])
        if entry is None:
            continue
        first, last = _when(b, seq)
        given = {}
        for name in sorted(r["answers"]):
            try:
                wanted = {"kind": "release", "study": s["study"], "run": s["run"], "seq": seq, "phase": "release" if a.get("session") is None else "masked"}
                given[name] = open_envelope(r["answers"][name], name, b.log.keys(name, first, last), **wanted)["digest"]
                if name not in a["roster"]:
                    raise Bad("it was not asked")
                if not b.log.approved(s["study"], name, first, last):
                    raise Bad("it answered, and no approval by it is in the log")
            except Bad as error:
                wrong.append(f"round {seq}, {name}: {error}")
        count += len(given)
        if entry.details["answers"] != sha256(canonical(given)).hex() or entry.details["sites"] != len(given):
            wrong.append(f"round {seq}: the answers are not those that the log says were summed")
        if len(given) < least:
            wrong.append(f"round {seq} was summed over {len(given)} sites; the study asks for {least}")
    return f"{count} answers, each signed by the site that gave it, by sites that had approved; their digests are those in the log"


def model(b: Bundle, wrong: Problems) -> str:
    s = b.study
    b.log.one(s["model"], "coordinator:model:made", run=s["run"], study=s["study"])
    if b.model and b.model != s["model"]:
        wrong.append(f"the model file is {b.model[:16]}, not {s['model'][:16]}: it was swapped")
    return f"SHA-256 {s['model']} " + ("is that of the file" if b.model else "is in the log; the file is not in the bundle")


def results(b: Bundle, wrong: Problems) -> str:
    entry = b.log.one(b.study["model"], "coordinator:model:made", run=b.study["run"])
    if sha256(b.files["results.json"]).hex() != entry.details["results"]:
        wrong.append("the results are not those that the log says the run had: they were altered")
    return f"SHA-256 {entry.details['results'][:16]} is that in {entry}"


def _when(b: Bundle, seq: int) -> tuple[int, int]:
    """Between which entries a round went on."""
    entry = b.combined.get(seq)
    run = [e.n for e in b.log.about(b.study["run"])]
    last = entry.n if entry else b.note.size
    return max((n for n in run if n < last), default=0), last


CHECKS: tuple[Callable[[Bundle, Problems], str], ...] = (
    keys, checkpoint, witnesses, inclusion, complete, study, approvals, rosters, rounds, answers, model, results,
)  # fmt: skip
