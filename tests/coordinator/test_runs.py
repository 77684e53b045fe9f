"""Whole studies over real HTTP: the model is the simulated one, bit for bit, whatever happens to the processes."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from locum import Rows, simulate
from locum.federation.wire import INLINE_BYTES, RoundView, RunView

SIZES = {"row": 3, "blob": 20_000, "upload": INLINE_BYTES // 8 + 1000}


def ended_as_simulated(f: Any, study: Any, rows: dict[str, Rows], run: str, timeout: float = 40) -> RunView:
    view = f.investigator.ended(run, timeout)
    assert view.status == "finished", view
    expected = simulate(study, rows)
    assert view.model == expected.model_sha256
    assert f.investigator.call("GET", f"/v1/models/{view.model}/file").content == expected.model
    assert view.results == expected.results
    return view


def leftovers(f: Any) -> list[Path]:
    return [path for path in (f.folder.path / "blobs").rglob("*") if path.is_file() and "models" not in path.parts]


@pytest.mark.parametrize("size", SIZES)
def test_the_model_is_the_simulated_one(federation, walk, rows, size) -> None:
    f = federation()
    f.serve()
    f.add_sites(rows)
    study = walk(size=SIZES[size])
    run = f.investigator.submit(study)
    view = ended_as_simulated(f, study, rows, run)
    seen = f.investigator.get(f"/v1/runs/{run}/rounds", list[RoundView])
    assert [(r.seq, r.step, r.status, r.asked, r.answered) for r in seen] == [(i, "walk", "closed", 4, 4) for i in range(3)]
    assert view.protection == "updates: clear text, visible to the coordinator; no noise: the sums are exact"
    end = time.monotonic() + 5
    while leftovers(f) and time.monotonic() < end:
        time.sleep(0.05)
    assert leftovers(f) == []  # no single site's release outlives its round
    with sqlite3.connect(f.folder.path / "coordinator.db") as db:
        assert db.execute("SELECT count(*) FROM messages WHERE body IS NOT NULL").fetchone() == (0,)
        assert db.execute("SELECT count(*) FROM messages").fetchone() == (12,)


def test_everything_on_postgres_and_s3(federation, walk, rows, postgres_url, s3_server) -> None:
    f = federation(database=postgres_url, blobs=s3_server.new_bucket(), s3_endpoint=s3_server.endpoint)
    f.serve()
    f.add_sites(rows)
    for size in ("row", "upload"):
        study = walk(f"s3-{size}", size=SIZES[size], rounds=2)
        ended_as_simulated(f, study, rows, f.investigator.submit(study))


def test_over_tls_with_our_own_authority(federation, walk, rows) -> None:
    import ssl

    import httpx

    f = federation(url="https://localhost:8443")
    f.serve()
    context = ssl.create_default_context(cadata=f.folder.ca)
    assert httpx.get(f.urls[0] + "/v1/health", verify=context).json() == {"status": "ok"}
    assert f.urls[0].startswith("https://127.0.0.1:")
    f.add_sites(rows)
    study = walk(size=SIZES["upload"], rounds=1)
    ended_as_simulated(f, study, rows, f.investigator.submit(study))


def test_a_site_that_declines_and_one_that_is_away(federation, walk, rows) -> None:
    f = federation()
    f.serve()
    f.add_sites({**rows, "empty": Rows.of({"x": []})})
    f.add_sites({"away": Rows.of({"x": [1.0]})}, start=False)
    study = walk(rounds=2, terms={"deadline_s": 1.5, "start_when": 6})
    run = f.investigator.submit(study)
    f.sites["away"].decide(study.digest)
    ended_as_simulated(f, study, {**rows, "empty": Rows.of({"x": []})}, run)
    seen = f.investigator.get(f"/v1/runs/{run}/rounds", list[RoundView])
    assert [(r.asked, r.answered, r.declined) for r in seen] == [(6, 5, {"empty": "no_rows"})] * 2
    assert seen[0].closed - seen[0].opened > 1.4
    assert all(r.declined == {} for r in f.sites["s0"].get(f"/v1/runs/{run}/rounds", list[RoundView]))


def test_a_run_fails_with_the_reason_and_others_go_on(federation, walk, rows) -> None:
    f = federation()
    f.serve()
    f.add_sites(rows)
    unforeseen = f.investigator.submit(walk("unforeseen", fail=2))
    no_quorum = f.investigator.submit(walk("no-quorum", terms={"min_rows": 5}))
    good = walk("good")
    run = f.investigator.submit(good)
    view = f.investigator.ended(unforeseen)
    assert view.status == "failed"
    assert view.error == "The coordinator failed while it combined the answers. To fix it: the operator finds the reason in the coordinator's log."
    assert "with a number" in f.replicas[0].said()  # the traceback is in the operator's log, and only there
    view = f.investigator.ended(no_quorum)
    assert view.status == "failed"
    assert "failed 3 times" in view.error
    assert "too_few_rows" in view.error
    ended_as_simulated(f, good, rows, run)


def test_a_run_that_is_cancelled_stops(federation, walk, rows) -> None:
    f = federation()
    f.serve()
    f.add_sites(rows)
    for site in f.sites.values():
        site.pace = 0.05
    run = f.investigator.submit(walk(rounds=1000))
    f.investigator.wait(run, lambda v: v.seq >= 2)
    view = f.investigator.call("POST", f"/v1/runs/{run}/cancel").json()
    assert view["status"] == "cancelled"
    time.sleep(0.5)
    assert f.investigator.get(f"/v1/runs/{run}", RunView).version == view["version"]
    assert leftovers(f) == []


def test_a_withdrawal_takes_effect_at_the_next_round(federation, walk, rows) -> None:
    f = federation()
    f.serve()
    f.add_sites(rows)
    for site in f.sites.values():
        site.pace = 0.2
    study = walk(rounds=4)
    run = f.investigator.submit(study)
    f.investigator.wait(run, lambda v: v.seq == 1)
    f.sites["s3"].decide(study.digest, "denial")
    assert f.investigator.ended(run).status == "finished"
    asked = [r.asked for r in f.investigator.get(f"/v1/runs/{run}/rounds", list[RoundView])]
    assert asked[0] == 4
    assert asked[-1] == 3


@pytest.mark.parametrize("size", ["row", "upload"])
def test_kill_9_and_restart(federation, walk, rows, size) -> None:
    f = federation()
    replica = f.serve()
    port = replica.port
    f.add_sites(rows)
    for site in f.sites.values():
        site.pace = 0.1
    study = walk(size=SIZES[size], rounds=4)
    run = f.investigator.submit(study)
    for seq in (1, 2):
        f.investigator.wait(run, lambda v, seq=seq: v.seq >= seq)
        time.sleep(0.05 * seq)
        replica.kill()
        replica = f.serve(port)
        f.urls.pop()
    ended_as_simulated(f, study, rows, run)


def test_two_replicas_on_one_postgres_and_the_driving_one_is_killed(federation, walk, rows, postgres_url) -> None:
    f = federation(database=postgres_url)
    one, two = f.serve(), f.serve()
    f.add_sites(rows)
    for site in f.sites.values():
        site.pace = 0.1
    study = walk(rounds=5, size=SIZES["blob"])
    run = f.investigator.submit(study)
    f.investigator.wait(run, lambda v: v.seq >= 2)
    driving, other = (one, two) if f"run={run}" in one.said() else (two, one)
    driving.kill()
    view = ended_as_simulated(f, study, rows, run)
    assert "taken_over=True" in other.said()
    assert view.seq == 5  # no round had to be asked again


def test_the_idle_replica_is_killed(federation, walk, rows, postgres_url) -> None:
    f = federation(database=postgres_url)
    one, two = f.serve(), f.serve()
    f.add_sites(rows)
    for site in f.sites.values():
        site.pace = 0.1
    study = walk(rounds=3)
    run = f.investigator.submit(study)
    f.investigator.wait(run, lambda v: v.seq >= 1)
    (two if f"run={run}" in one.said() else one).kill()
    ended_as_simulated(f, study, rows, run)


def test_a_replica_that_is_told_to_stop_hands_over_at_once(federation, walk, rows, postgres_url) -> None:
    f = federation(database=postgres_url)
    one, two = f.serve(), f.serve()
    f.add_sites(rows)
    for site in f.sites.values():
        site.pace = 0.1
    study = walk(rounds=3)
    run = f.investigator.submit(study)
    f.investigator.wait(run, lambda v: v.seq >= 1)
    driving, other = (one, two) if f"run={run}" in one.said() else (two, one)
    driving.stop()
    assert driving.process.returncode == 0
    ended_as_simulated(f, study, rows, run)
    assert "run.driving" in other.said()


def test_a_database_that_goes_away_and_comes_back(federation, walk, rows, postgres_cluster) -> None:
    f = federation(database=postgres_cluster.new_database())
    f.serve()
    f.add_sites(rows)
    for site in f.sites.values():
        site.pace = 0.05
    study = walk(rounds=4)
    run = f.investigator.submit(study)
    f.investigator.wait(run, lambda v: v.seq >= 2)
    postgres_cluster.stop()
    time.sleep(0.5)
    response = f.investigator.send("GET", f"/v1/runs/{run}")
    assert (response.status_code, response.json()["error"]) == (503, "unavailable")
    assert f.investigator.http.get(f.urls[0] + "/v1/health").status_code == 200
    assert f.investigator.http.get(f.urls[0] + "/v1/ready").status_code == 503
    postgres_cluster.start()
    ended_as_simulated(f, study, rows, run)
