"""Masked rounds with real processes that are killed at every message, and a coordinator that asks for what it may not have."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from locum.client import Client, Patience, join
from locum.coordinator.config import init_folder
from locum.coordinator.server import invite
from locum.federation.roster import Roster, SignedRoster
from locum.federation.wire import Session
from locum.secagg.site import Secrets
from locum.site.masking import _State
from locum.site.store import Store
from locum.testing.federation import free_port
from locum.testing.process import CoordinatorProcess

PLAN = [{"name": name, "task": "moments", "variables": ["x"]} for name in ("first", "second")]
KILLER = """
import os, signal
from locum.client.api import Api
send = Api.answer
async def answer(self, a, envelope, body=b"", *, phase=""):
    hit = (a.seq, phase) == ({seq}, "{phase}")
    if hit and "{when}" == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    await send(self, a, envelope, body, phase=phase)
    if hit:
        os.kill(os.getpid(), signal.SIGKILL)
Api.answer = answer
"""


@pytest.fixture
def killer(tmp_path: Path) -> Callable[[int, str, str], Path]:
    """killer(seq, phase, when): a file that makes a site's process kill itself with SIGKILL, the answer durable, unsent or just sent."""

    def write(seq: int, phase: str, when: str) -> Path:
        path = tmp_path / f"killer_{seq}_{phase}_{when}.py"
        path.write_text(KILLER.format(seq=seq, phase=phase, when=when))
        return path

    return write


def table(site: Path) -> np.ndarray:
    return np.loadtxt(site / "table.csv", skiprows=1)


@contextlib.contextmanager
def dying(federation: Any, sites: list[Path], *preload: Path) -> Iterator[list[Any]]:
    """Sites in processes of their own."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(federation.process_of(site, *preload)) for site in sites]


CASES = [(0, "keys", "before", 6), (0, "seals", "after", 6), (1, "join", "before", 6), (1, "join", "after", 6), (1, "masked", "before", 6)]
CASES += [(1, "masked", "after", 7), (1, "confirm", "before", 7), (1, "confirm", "after", 7), (1, "unmask", "before", 7), (1, "unmask", "after", 7)]


@pytest.mark.parametrize(("seq", "phase", "when", "summed"), CASES)
def test_the_round_goes_on_without_a_site_that_was_killed(federation: Any, study: Any, killer: Any, seq: int, phase: str, when: str, summed: int) -> None:
    sites = federation.sites(7)
    federation.sign_roster()
    asked = study("dropout", plan=PLAN, terms={"aggregation": "masked", "start_when": 7, "deadline_s": 3.0})
    with dying(federation, sites[:1], killer(seq, phase, when)) as (victim,), federation.serve(sites[1:]):
        victim.wait_for("serving", seconds=60)  # else a slow start, on a busy machine, would miss the round's first deadline
        run = federation.submit(asked, sites)
        view = federation.finish(run, 60)
        assert victim.process.wait(10) == -9
    assert (view.status, view.error) == ("finished", "")
    rounds = {r.seq: r for r in federation.client.rounds(run) if r.status == "closed"}
    assert rounds[seq].summed == summed
    alive = np.concatenate([table(site) for site in (sites if summed == 7 else sites[1:])])
    result = view.results["second" if seq else "first"]
    mean, count = found(result)
    assert count == len(alive)
    assert mean == pytest.approx(alive.mean(), abs=1e-12)


def found(result: Any) -> tuple[float, int]:
    """Mean and count of x in what `moments` answers."""
    return result["variables"]["x"]["mean"], result["variables"]["x"]["n"]


def test_too_many_dropouts_fail_cleanly_and_the_round_is_retried_with_fresh_masks(federation: Any, study: Any, killer: Any) -> None:
    sites = federation.sites(7)
    federation.sign_roster()
    asked = study("retried", plan=PLAN, terms={"aggregation": "masked", "start_when": 7, "deadline_s": 3.0, "attempts": 10})
    run = federation.submit(asked, sites)
    with federation.serve(sites[2:]):
        with dying(federation, sites[:2], killer(1, "masked", "before")) as victims:
            for victim in victims:
                assert victim.process.wait(30) == -9
        secrets, version = [state_of(site, run, 1) for site in sites[2:]], -1
        while all(r.status != "failed" for r in federation.client.rounds(run)):  # more have dropped out than a quorum can spare
            version = federation.client(federation.client.api.run(run, version=version, wait=2.0)).version
        with dying(federation, sites[:2]):
            view = federation.finish(run, 60)
    assert (view.status, view.error) == ("finished", "")
    rounds = federation.client.rounds(run)
    assert rounds[1].status == "failed"
    assert [r.summed for r in rounds if r.status == "closed"] == [7, 7]
    everyone = np.concatenate([table(site) for site in sites])
    assert found(view.results["second"]) == (pytest.approx(everyone.mean(), abs=1e-12), len(everyone))
    for site, old in zip(sites[2:], secrets, strict=True):
        new = state_of(site, run, rounds[-1].seq)
        assert new.phase == "unmasked"
        assert old is None or old.own != new.own, "another JOIN"
        with Store(site) as store:
            assert store.masking(run, 1)[1] is None, "what was kept of the failed round is gone"


def state_of(site: Path, run: str, seq: int) -> Secrets | None:
    with Store(site) as store:
        raw = store.masking(run, seq)[1]
    return msgspec.msgpack.decode(raw, type=_State).secrets if raw else None


def test_after_a_run_a_site_keeps_the_record_and_no_seed(federation: Any, study: Any) -> None:
    sites = federation.sites(5)
    federation.sign_roster()
    asked = study("kept", plan=PLAN[:1], terms={"aggregation": "masked", "start_when": 5})
    run = federation.submit(asked, sites)
    with federation.serve(sites):
        assert federation.finish(run).status == "finished"
    for site in sites:
        secrets = state_of(site, run, 0)
        assert secrets
        assert (secrets.phase, secrets.b, secrets.k, secrets.pairs, secrets.shares) == ("unmasked", b"", b"", {}, {})
        with Store(site) as store:
            (line, shares) = store.releases()
            assert (line.entry.cohort, shares.entry.cohort) == (5, 5)
            assert shares.entry.scalars == 0
            store.verify()
    db = sqlite3.connect(federation.folder.path / "coordinator.db")
    assert db.execute("SELECT count(*) FROM messages WHERE run = ? AND body IS NOT NULL", (run,)).fetchone() == (0,)
    assert db.execute("SELECT count(*) FROM inbox WHERE run = ?", (run,)).fetchone() == (0,)


def test_the_same_numbers_are_not_summed_over_a_cohort_that_differs_by_one(federation: Any, study: Any) -> None:
    sites = federation.sites(6)
    federation.sign_roster()
    asked = study("difference", plan=PLAN[:1], terms={"aggregation": "masked", "start_when": 6, "deadline_s": 3.0, "attempts": 1})
    run = federation.submit(asked, sites)
    with federation.serve(sites):
        assert federation.finish(run).status == "finished"
        again = federation.client.start_run(asked.digest).id
        assert federation.finish(again).status == "finished", "the very same sum says nothing new"
    with federation.serve(sites[1:]):
        third = federation.client.start_run(asked.digest).id
        view = federation.finish(third)
    assert view.status == "failed"
    assert "differencing" in view.error


def test_a_masked_study_does_not_run_in_a_clear_round(rogue: Any, study: Any, agents: Any) -> None:
    asked = study("forged", plan=PLAN[:1], terms={"aggregation": "masked"})
    rogue.learn(asked)
    rogue.offer(rogue.sign(rogue.assignment(asked)))  # signed by the coordinator's own key, without a session
    with agents([rogue.site]) as running:
        running.wait(rogue.site, "round answered")
    ((_, envelope, body),) = rogue.answers
    assert (envelope.kind, body) == ("decline", b"policy")


def test_a_roster_never_goes_back(tmp_path: Path) -> None:
    from locum.errors import Conflict
    from locum.federation.identity import Identity

    office = Identity.generate()
    key = str(Identity.generate().public)
    signed = [SignedRoster.of(Roster(federation="f", version=v, issued=0.0, sites={"a": key}), office) for v in (1, 2)]
    with Store(tmp_path) as store:
        store.put_roster(2, signed[1])
        store.put_roster(2, signed[1])
        with pytest.raises(Conflict, match="older"):
            store.put_roster(1, signed[0])
        other = SignedRoster.of(Roster(federation="f", version=2, issued=1.0, sites={"a": key}), office)
        with pytest.raises(Conflict):
            store.put_roster(2, other)


def test_buckets_bound_what_one_dishonest_site_can_do(federation: Any, study: Any) -> None:
    """Nine sites in three buckets; one has a value a thousand times too large, and the trimmed mean leaves its bucket out."""
    sites = [federation.site(f"s{i}", rows="x\n" + ("1000.0\n" if i == 0 else "1.0\n")) for i in range(9)]
    federation.sign_roster()
    masking = {"buckets": 3, "trim": 1, "corrupt": 0.2}
    asked = study("buckets", plan=PLAN[:1], terms={"aggregation": "masked", "masking": masking, "start_when": 9})
    run = federation.submit(asked, sites)
    with federation.serve(sites):
        view = federation.finish(run)
    assert view.status == "finished"
    assert "random buckets of at least 3 sites" in view.protection
    assert found(view.results["first"]) == (pytest.approx(1.0), 9)
    assert {r.summed for r in federation.client.rounds(run)} == {9}


def test_a_request_that_has_expired_is_declined(rogue: Any, study: Any, agents: Any) -> None:
    asked = study("stale", plan=PLAN[:1], terms={"aggregation": "masked"})
    rogue.learn(asked)
    session = Session(roster="0" * 64, seq=0)
    rogue.offer(rogue.sign(rogue.assignment(asked, session=session, phase="keys", deadline=1.0)))
    with agents([rogue.site]) as running:
        declined = running.wait(rogue.site, "declined")
        running.wait(rogue.site, "round answered")
    assert "expired" in declined["what"]
    ((_, envelope, body),) = rogue.answers
    assert (envelope.kind, envelope.phase, body) == ("decline", "keys", b"masking")


def test_what_a_silent_run_left_is_dropped_after_a_week(tmp_path: Path) -> None:
    with Store(tmp_path, clock=lambda: 1000.0) as store, store._transaction() as db:
        db.execute("INSERT INTO session VALUES ('r', x'00')")
        db.execute("INSERT INTO masking VALUES ('r', 3, x'00')")
    with Store(tmp_path, clock=lambda: 1000.0 + 8 * 86400) as store:
        store.prune()
        assert store.masking("r", 3) == (None, None)


@pytest.fixture
def elsewhere(tmp_path: Path, postgres_url: str, s3_server: Any, federation: Any) -> Iterator[Any]:
    """A federation whose coordinator keeps its state in PostgreSQL and its vectors in an S3 store."""
    port = free_port()
    where = {"database": postgres_url, "blobs": s3_server.new_bucket(), "s3_endpoint": s3_server.endpoint}
    folder = init_folder(tmp_path / "coordinator", url=f"http://127.0.0.1:{port}", **where)
    with CoordinatorProcess(folder.path, (Path(__file__).parent / "walk.py",), port=port) as process:
        join(tmp_path / "ida", invite(folder, "ida", "investigator"))
        with Client.open(tmp_path / "ida", patience=Patience(attempts=20, cap_s=0.5)) as client:
            yield type(federation)(tmp_path, folder, process, client)


def test_masked_rounds_on_postgresql_and_s3_with_a_coordinator_that_is_killed(elsewhere: Any, study: Any) -> None:
    sites = elsewhere.sites(5)
    elsewhere.sign_roster()
    asked = study("elsewhere", size=20_000, rounds=4, terms={"aggregation": "masked", "start_when": 5})
    run = elsewhere.submit(asked, sites)
    with elsewhere.serve(sites):
        view = elsewhere.client.run(run)
        while view.seq < 1:
            view = elsewhere.client(elsewhere.client.api.run(run, version=view.version, wait=2.0))
        elsewhere.process.kill()
        elsewhere.process.start()
        view = elsewhere.finish(run, 60)
    assert (view.status, view.error) == ("finished", "")
    assert view.model == elsewhere.simulated(asked, sites), "the same bits as in process"
    assert {r.summed for r in elsewhere.client.rounds(run) if r.status == "closed"} == {5}


def test_a_site_that_declines_stays_in_the_session(federation: Any, study: Any) -> None:
    """Its table is empty when the session is set up, and filled later: it joins without another set-up."""
    sites = [*federation.sites(5), federation.site("empty", rows="x\n")]
    federation.sign_roster()
    asked = study("declines", rounds=15, terms={"aggregation": "masked", "start_when": 6})
    federation.client.submit(asked)
    for path in sites:
        with Store(path) as store:  # approved before its table became empty
            store.put_study(federation.client.study(asked.digest))
            store.decide(asked.digest, approve=True, data="main")
    with federation.serve(sites):
        run = next(r.id for r in federation.client.runs() if r.study == asked.digest)
        view = federation.client.run(run)
        while view.seq < 2:
            view = federation.client(federation.client.api.run(run, version=view.version, wait=2.0))
        (sites[-1] / "table.csv").write_text("x\n0.5\n")
        view = federation.finish(run, 60)
    assert (view.status, view.error) == ("finished", "")
    rounds = federation.client.rounds(run)
    assert rounds[0].declined == {sites[-1].name: "data"}
    assert (rounds[0].summed, rounds[-1].summed) == (5, 6)
    db = sqlite3.connect(federation.folder.path / "coordinator.db")
    assert db.execute("SELECT count(*) FROM sessions WHERE run = ?", (run,)).fetchone() == (1,)
