"""The record of a run that never ran, with real keys, real signatures and a real log: for tests of the verifiers, and to measure them.

`World` keeps its parts and its private keys, so that a test can forge what an adversary with some of them could.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from locum.client.bundle import files_of
from locum.client.membership import Membership
from locum.federation.envelope import Envelope
from locum.federation.identity import Identity, b64
from locum.federation.record import ENTRIES, ProvedEntry, RoundRecord, RunRecord, Statement, listing
from locum.federation.roster import Roster, SignedRoster
from locum.federation.wire import Assignment, Session, federation_id
from locum.governance import bundle
from locum.governance.events import Entry, Event, log_origin
from locum.governance.log import Checkpoint, NoteKey, Signed, Tree, leaf_hash
from locum.governance.log.note import WITNESS
from locum.governance.log.tree import MemoryTiles
from locum.study.canonical import canonical, sha256
from locum.study.manifest import Study

START = 1_790_000_000.0
MODEL = b"the bytes of a model"


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_study(name: str = "pretended", cohort: int = 3) -> Study:
    return Study.parse(
        {
            "schema": "locum/study/1",
            "name": name,
            "data": {"variables": {"x": {}}},
            "terms": {"privacy": "none", "min_cohort": cohort},
            "plan": [{"name": "mean", "task": "moments", "variables": ["x"]}],
        }
    )


@dataclass
class World:
    """sites, rounds, witnesses: how many. silent: sites that never decided; denying: that had denied before the first round; both answer all the same.

    Change its parts, then `bundle`: that signs the log's head, and proves what is in the log, as it is then.
    """

    sites: int = 4
    rounds: int = 2
    study: Study = field(default_factory=make_study)
    run: str = "a1b2c3d4e5f6a7b8c9d0"
    witnesses: int = 3
    silent: tuple[str, ...] = ()
    denying: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.coordinator, self.consortium, self.requester = (Identity.generate() for _ in range(3))
        self.keys = {f"s{i:03d}": Identity.generate() for i in range(self.sites)}
        self.federation = federation_id(self.coordinator.public)
        self.origin = log_origin(self.federation)
        self.entries: list[Entry] = []
        self.results = {"mean": {"x": 1.5}}
        self.model = sha256(MODEL)
        self.add(Event.LOG_OPENED, "log", "coordinator")
        for name, key in {**self.keys, "ada": self.requester}.items():
            self.add(Event.PARTY_ENROLLED, name, name, role="site", key=key.public.fingerprint, public_key=str(key.public))
        listed = {name: str(key.public) for name, key in self.keys.items()}
        self.roster = SignedRoster.of(Roster(federation=self.federation, version=1, issued=START, sites=listed), self.consortium)
        self.add(Event.ROSTER_INSTALLED, self.roster.digest, "consortium", version=1, sites=len(listed))
        self.envelope = self.seal(self.requester, "study", "ada", self.study.digest, self.study.digest)
        self.add(Event.STUDY_SUBMITTED, self.study.digest, "ada", key=self.requester.public.fingerprint, envelope=self.envelope)
        self.add(Event.RUN_CREATED, self.run, "ada", study=self.study.digest)
        for name, key in self.keys.items():
            if name not in self.silent:
                self.decide(name, key)
            if name in self.denying:
                self.decide(name, key, event=Event.STUDY_DENIED)
        self.add(Event.RUN_STARTED, self.run, "coordinator", study=self.study.digest)
        self.told = [self._round(seq) for seq in range(self.rounds)]
        made: dict[str, Any] = {"bytes": len(MODEL), "results": sha256(canonical(self.results))}
        self.add(Event.MODEL_MADE, self.model, "coordinator", run=self.run, study=self.study.digest, **made)

    def add(self, event: Event, subject: str, by: str, **details: Any) -> None:
        self.entries.append(Entry(START + len(self.entries), event, by, subject, details))

    def seal(self, key: Identity, kind: Any, sender: str, study: str, digest: str, **more: Any) -> str:
        return Envelope(kind=kind, study=study, sender=sender, digest=digest, **more).seal(key)

    def decide(self, name: str, key: Identity, *, event: Event = Event.STUDY_APPROVED, study: str = "") -> None:
        kind = "approval" if event is Event.STUDY_APPROVED else "denial"
        envelope = self.seal(key, kind, name, study or self.study.digest, study or self.study.digest)
        self.add(event, self.study.digest, name, key=key.public.fingerprint, envelope=envelope)

    def _round(self, seq: int) -> RoundRecord:
        state = digest_of(f"state {seq}")
        a = Assignment(
            study=self.study.digest, run=self.run, seq=seq, step=0, iteration=seq, roster=tuple(self.keys), state=state, state_bytes=8,
            layout=digest_of("layout"), vector_bytes=8, deadline=START + 600, seed=0, phase="join", session=Session(roster=self.roster.digest, seq=0),
        )  # fmt: skip
        answers = {name: self.answer(name, seq) for name in self.keys}
        after = self.model if seq == self.rounds - 1 else digest_of(f"state {seq + 1}")
        given = {name: digest_of(f"{seq} {name}") for name in answers}
        self.add(Event.ROUND_COMBINED, self.run, "coordinator", seq=seq, state=after, sites=len(given), answers=sha256(canonical(given)))
        return self.assign(a, answers)

    def answer(self, name: str, seq: int) -> str:
        more: dict[str, Any] = {"run": self.run, "seq": seq, "phase": "masked", "context": digest_of(f"joined {seq}")}
        return self.seal(self.keys[name], "release", name, self.study.digest, digest_of(f"{seq} {name}"), **more)

    def assign(self, a: Assignment, answers: dict[str, str]) -> RoundRecord:
        body = a.encode()
        envelope = self.seal(self.coordinator, "assignment", "coordinator", a.study, sha256(body), run=a.run, seq=a.seq, phase=a.phase)
        return RoundRecord(seq=a.seq, body=body.decode(), envelope=envelope, answers=answers)

    @property
    def log_key(self) -> NoteKey:
        return NoteKey(self.origin, self.coordinator.public.raw)

    def head(self, tree: Tree) -> Signed:
        signed = Signed.by(Checkpoint(self.origin, tree.size, tree.root()), self.log_key, self.coordinator.sign_note)
        for name in list(self.keys)[: self.witnesses]:
            signed = signed.cosigned(NoteKey(name, self.keys[name].public.raw, WITNESS), self.keys[name].sign_note, int(START) + 900)
        return signed

    def files(self) -> dict[str, bytes]:
        """The bundle's files, but index and model, under a head that is signed now."""
        tree = Tree(MemoryTiles())
        tree.extend([leaf_hash(e.encode()) for e in self.entries])
        signed, names = self.head(tree), [*self.keys, "ada"]
        subjects = [self.study.digest, self.run, self.model, self.roster.digest, *names]
        proved = [
            ProvedEntry(n, e.encode().decode(), tuple(h.hex() for h in tree.inclusion(n))) for n, e in enumerate(self.entries) if e.subject in set(subjects)
        ]
        said = listing(self.origin, tree.size, tree.root(), subjects, [e.n for e in proved])
        record = RunRecord(
            study=self.study.digest, run=self.run, model=self.model, model_bytes=len(MODEL), requester="ada", manifest=self.study.canonical.decode(),
            envelope=self.envelope, results=canonical(self.results).decode(), rosters=(self.roster,), checkpoint=signed.text(), entries=tuple(proved),
            complete=Statement(said.decode(), b64(self.coordinator.sign(ENTRIES, said))), rounds=len(self.told),
        )  # fmt: skip
        coordinator, consortium = str(self.coordinator.public), str(self.consortium.public)
        member = Membership(url="", name="ada", role="investigator", federation=self.federation, coordinator_key=coordinator, consortium_key=consortium)
        return files_of(record, self.told, member)

    def bundle(self, target: Path, *, files: dict[str, bytes] | None = None, model: bytes | None = MODEL) -> Path:
        """Write it. model: its file's bytes; None leaves it out."""
        if model is None:
            return bundle.write(target, files or self.files())
        beside = target.with_suffix(".model")
        beside.write_bytes(model)
        return bundle.write(target, files or self.files(), beside)


def edited(files: dict[str, bytes], name: str, change: Any) -> dict[str, bytes]:
    """The files with one of them (JSON) changed by `change`, which gets its value and returns the new one or changes it in place."""
    value = msgspec.json.decode(files[name])
    new = change(value)
    return {**files, name: canonical(value if new is None else new)}
