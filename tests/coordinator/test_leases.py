"""Leases and fences on both databases: two replicas may believe that they drive a run; only one can change it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import insert, select, update

from locum.coordinator import runs, studies, tables
from locum.coordinator.messages import Message, Recorder, record
from locum.coordinator.parties import Party
from locum.coordinator.runs import LeaseLost, OpenRound
from locum.coordinator.store import Store
from locum.coordinator.wakeups import Wakeups
from locum.errors import Conflict, Forbidden, LocumError, NotFound, Unavailable
from locum.federation.envelope import Envelope
from locum.federation.identity import Identity
from locum.federation.round import Round
from locum.federation.runner import Cursor
from locum.federation.wire import Assignment, SignedAssignment

SITES = ("a", "b", "c", "d")
ELSEWHERE = "another-machine:1:x"


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request, tmp_path):
    url = f"sqlite:///{tmp_path / 'c.db'}" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    store = Store(url, Wakeups(), Clock())
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def study(store, walk):
    """A submitted study; its run is called `run`."""
    identity, study = Identity.generate(), walk()

    def people(tx) -> None:
        tx.execute(insert(tables.parties).values(name="ada", role="investigator", public_key=str(identity.public), enrolled=1.0))
        for name in SITES:
            tx.execute(insert(tables.parties).values(name=name, role="site", public_key=name, enrolled=1.0))

    store.write(people)
    envelope = Envelope(kind="study", study=study.digest, sender="ada", digest=study.digest).seal(identity)
    studies.submit(store, Party("ada", "investigator", identity.public), study.canonical, envelope, "signature")
    return study


def run_of(store, study) -> str:
    return store.read(lambda tx: tx.first(select(tables.runs.c.id).where(tables.runs.c.study == study.digest))).id


def approve(store, study, *names: str) -> None:
    store.write(lambda tx: [tx.execute(insert(tables.decisions).values(study=study.digest, site=n, kind="approval", envelope="", at=1.0)) for n in names])


def expire(store) -> None:
    store.write(lambda tx: tx.execute(update(tables.runs).values(lease_until=tx.clock() - 1)))


def assignment(study, run: str, **change) -> Assignment:
    fields = {"step": 0, "iteration": 0, "roster": SITES, "state": "0" * 64, "state_bytes": 8, "layout": "l", "vector_bytes": 8, "deadline": 2000.0, "seed": 0}
    return Assignment(study=study.digest, run=run, seq=0, **{**fields, **change})


def open_round(store, study, claim, **change) -> OpenRound:
    a = assignment(study, claim.run, **change)
    found = OpenRound(a, SignedAssignment(a.encode().decode(), "signed"), b"header", 3, "open")
    runs.open_round(store, claim.fence, found)
    return found


def message(found: OpenRound, sender: str, digest: str = "1" * 64, kind: str = "release", code: str = "") -> Message:
    a = found.assignment
    envelope = Envelope(kind=kind, study=a.study, run=a.run, seq=a.seq, phase=a.phase, sender=sender, digest=digest)  # type: ignore[arg-type]
    return Message(found, envelope, "text", code, 8, b"body")


@pytest.fixture
def claimed(store, study):
    approve(store, study, *SITES)
    return runs.claim(store, "me:0:1", [])[0]


def test_a_run_waits_for_its_approvals(store, study) -> None:
    assert runs.claim(store, "me:0:1", []) == []
    approve(store, study, "a", "b", "c")
    assert runs.claim(store, "me:0:1", []) == []
    approve(store, study, "d")
    assert [c.run for c in runs.claim(store, "me:0:1", [])] == [run_of(store, study)]


def test_a_revoked_sites_approval_counts_no_more(store, study) -> None:
    approve(store, study, *SITES)
    assert runs.cohort(store, study) == list(SITES)
    store.write(lambda tx: tx.execute(update(tables.parties).where(tables.parties.c.name == "b").values(revoked=2.0)))
    assert runs.cohort(store, study) == ["a", "c", "d"]
    assert runs.claim(store, "me:0:1", []) == []


def test_one_lease_at_a_time(store, study) -> None:
    approve(store, study, *SITES)
    with ThreadPoolExecutor(6) as pool:
        taken = [c for claims in pool.map(lambda i: runs.claim(store, f"machine{i}:1:x", []), range(6)) for c in claims]
    assert len(taken) == 1
    assert runs.claim(store, ELSEWHERE, []) == []
    expire(store)
    again = runs.claim(store, ELSEWHERE, [])
    assert [(c.fence, c.taken_over) for c in again] == [(taken[0].fence + 1, True)]


def test_a_lease_that_is_renewed_is_kept(store, claimed) -> None:
    expire(store)
    runs.renew(store, "me:0:1", [claimed.run])
    assert runs.claim(store, ELSEWHERE, []) == []
    runs.release(store, "me:0:1")
    assert len(runs.claim(store, ELSEWHERE, [])) == 1


def test_a_dead_process_of_this_machine_holds_nothing(store, study) -> None:
    import subprocess
    import sys

    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    dead = runs.owner("x").split(":")
    dead[1] = str(child.pid)
    approve(store, study, *SITES)
    assert len(runs.claim(store, ":".join(dead), [])) == 1
    assert len(runs.claim(store, runs.owner("y"), [])) == 1
    assert runs.claim(store, runs.owner("z"), []) == []  # the process that asks is alive, under whatever nonce


def test_who_lost_the_lease_can_change_nothing(store, study, claimed) -> None:
    found = open_round(store, study, claimed)
    expire(store)
    heir = runs.claim(store, ELSEWHERE, [])[0]
    before = store.read(lambda tx: (tx.rows(select(tables.runs)), tx.rows(select(tables.rounds)), tx.rows(select(tables.models))))
    machine = Round(found.assignment, 3)
    late = [
        lambda: runs.progress(store, claimed.run, 0, claimed.fence),
        lambda: open_round(store, study, claimed, deadline=1.0),
        lambda: runs.settle(store, claimed.fence, machine),
        lambda: runs.checkpoint(store, claimed.fence, claimed.run, 0, Cursor(), "0" * 64, study=study.digest, model_bytes=8),
        lambda: runs.fail(store, claimed.fence, claimed.run, "x"),
    ]
    for attempt in late:
        with pytest.raises(LeaseLost):
            attempt()
    assert before == store.read(lambda tx: (tx.rows(select(tables.runs)), tx.rows(select(tables.rounds)), tx.rows(select(tables.models))))
    runs.checkpoint(store, heir.fence, heir.run, 0, Cursor(seq=1), "0" * 64, study=study.digest, model_bytes=8)
    assert runs.has_ended(store, heir.run)
    with pytest.raises(LeaseLost):
        runs.fail(store, heir.fence, heir.run, "a run that has ended does not fail")


def test_cancelling_takes_the_lease_away(store, study, claimed) -> None:
    open_round(store, study, claimed)
    ada = Party("ada", "investigator", Identity.generate().public)
    studies.cancel(store, ada, claimed.run)
    with pytest.raises(LeaseLost):
        runs.progress(store, claimed.run, 0, claimed.fence)
    assert runs.claim(store, ELSEWHERE, []) == []
    with pytest.raises(NotFound):
        studies.cancel(store, ada, "no such run")


def test_messages_of_one_batch_get_each_its_own_answer(store, study, claimed) -> None:
    found = open_round(store, study, claimed)
    ghost = OpenRound(assignment(study, "ghost"), found.signed, b"", 3, "open")
    batch = [
        message(found, "a"),
        message(found, "a"),
        message(found, "a", "2" * 64),
        message(found, "stranger"),
        message(found, "b", kind="decline", code="data"),
        message(found, "b", kind="decline", code="task"),
        message(ghost, "c"),
    ]
    outcomes = store.write(lambda tx: record(tx, batch))
    kinds = [o if isinstance(o, bool) else type(o) for o in outcomes]
    assert kinds == [True, False, Conflict, Forbidden, True, Conflict, NotFound]
    assert runs.progress(store, claimed.run, 0, claimed.fence) == (1, 1)
    assert store.write(lambda tx: record(tx, batch[:2])) == [False, False]


def test_settling_and_late_messages(store, study, claimed) -> None:
    found = open_round(store, study, claimed)
    machine = Round(found.assignment, found.needed)
    store.write(lambda tx: record(tx, [message(found, s) for s in "abc"]))
    assert runs.settle(store, claimed.fence, machine).status == "open"
    store.now.time = 2000.0
    assert runs.settle(store, claimed.fence, machine).contributors == ["a", "b", "c"]
    [late] = store.write(lambda tx: record(tx, [message(found, "d")]))
    assert isinstance(late, Conflict)
    assert store.write(lambda tx: record(tx, [message(found, "a")])) == [False]  # a repetition is still a repetition
    assert runs.replay(store, found).status == "closed"
    assert list(runs.bodies(store, claimed.run, 0, ["a", "b", "c"])) == [b"body"] * 3


def test_a_round_that_can_no_longer_succeed_fails_whatever_came_with_it(store, study, claimed) -> None:
    found = open_round(store, study, claimed)
    declines = [message(found, s, kind="decline", code="data") for s in "cd"]
    store.write(lambda tx: record(tx, [*declines, message(found, "a"), message(found, "b")]))
    machine = runs.settle(store, claimed.fence, Round(found.assignment, found.needed))
    assert machine.status == "failed"
    assert runs.replay(store, found).status == "failed"


def test_closing_races_with_answers_and_none_is_half_in(store, study, claimed) -> None:
    """Whoever was told 'recorded' is in the sum; whoever was told 'over' is not. Many rounds, all interleavings that come."""
    for seq in range(12):
        a = assignment(study, claimed.run, deadline=500.0, roster=SITES)
        a = Assignment(**{f: getattr(a, f) for f in a.__struct_fields__} | {"seq": seq})
        found = OpenRound(a, SignedAssignment(a.encode().decode(), ""), b"", 1, "open")
        runs.open_round(store, claimed.fence, found)
        with ThreadPoolExecutor(5) as pool:
            answers = {s: pool.submit(lambda s=s, found=found: store.write(lambda tx: record(tx, [message(found, s)]))[0]) for s in SITES}
            settled = pool.submit(lambda found=found: runs.settle(store, claimed.fence, Round(found.assignment, 1))).result()
        told = {s for s, future in answers.items() if future.result() is True}
        assert settled.status in ("closed", "failed")
        assert set(settled.contributors) == told


def test_the_recorder_shares_transactions_and_never_answers_early(store, study, claimed) -> None:
    names = [f"site-{i:03}" for i in range(200)]
    store.write(lambda tx: [tx.execute(insert(tables.parties).values(name=n, role="site", public_key=n, enrolled=1.0)) for n in names])
    found = open_round(store, study, claimed, roster=tuple(names))
    commits = []
    store.wakeups.on(f"run:{claimed.run}", lambda: commits.append(1))
    recorder = Recorder(store)
    futures = [recorder.submit(message(found, n)) for n in names]
    recorder.start()
    assert all(f.result(timeout=20) for f in futures)
    assert len(commits) < 10
    assert runs.progress(store, claimed.run, 0, claimed.fence) == (200, 0)
    stranger = recorder.submit(message(found, "nobody"))
    with pytest.raises(Forbidden):
        stranger.result(timeout=20)
    recorder.stop()


def test_the_recorder_passes_an_outage_on_and_lives(store, study, claimed, monkeypatch) -> None:
    found = open_round(store, study, claimed)
    recorder = Recorder(store)
    recorder.start()
    with monkeypatch.context() as patch:

        def away(*_: object) -> None:
            raise Unavailable("away")

        patch.setattr(store, "write", away)
        with pytest.raises(Unavailable):
            recorder.submit(message(found, "a")).result(timeout=5)
        patch.setattr(store, "write", lambda *_: 1 / 0)
        with pytest.raises(LocumError):
            recorder.submit(message(found, "a")).result(timeout=5)
    assert recorder.submit(message(found, "a")).result(timeout=5) is True
    recorder.stop()


def test_leases_run_on_the_databases_clock(store, claimed) -> None:
    row = store.read(lambda tx: tx.first(select(tables.runs)))
    clock = time.time() if store.is_postgres else store.now()
    assert abs(row.lease_until - clock - runs.LEASE_S) < 3
