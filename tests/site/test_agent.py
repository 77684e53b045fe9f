"""The agent against a real coordinator: same bits as in process, every refusal a code, every cut waited out."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from locum.client import Client
from locum.data import load_rows
from locum.federation.wire import INLINE_BYTES
from locum.site.folder import releases
from locum.site.serve import open_agent
from locum.site.store import Store
from locum.testing import CuttingProxy

BIG = 400_000
"""Scalars of a vector that is uploaded ahead of its message: 3.2 MB."""
assert BIG * 8 > INLINE_BYTES


def test_the_network_gives_the_same_model_as_the_process_bit_for_bit(federation: Any, study: Any) -> None:
    sites = federation.sites(4)
    plan = [{"name": "one", "task": "test_site_walk", "rounds": 3}, {"name": "two", "task": "moments", "variables": ["x"]}]
    asked = study("equal", plan=plan, terms={"start_when": 4})
    with federation.serve(sites) as agents:
        view = federation.finish(federation.submit(asked, sites))
        agents.wait(sites[0], "round answered")
    assert view.status == "finished", view.error
    assert view.model == federation.simulated(asked, sites)
    for path in sites:
        lines = releases(path)
        assert [line.entry.step for line in lines] == ["one"] * 3 + ["two"]
        assert {line.entry.recipient for line in lines} == {federation.folder.identity.public.fingerprint}


def test_several_runs_at_once_and_one_that_fails_leaves_the_others_going(federation: Any, study: Any) -> None:
    sites = federation.sites(3)
    good = [study(f"good{i}", size=10 + i) for i in range(3)]
    bad = study("bad", mode="nan")
    with federation.serve(sites) as agents:
        runs = [federation.submit(s, sites) for s in (bad, *good)]
        views = [federation.finish(run) for run in runs]
        refused = agents.wait(sites[0], "declined")
    assert views[0].status == "failed"
    assert "task" in views[0].error
    assert [v.model for v in views[1:]] == [federation.simulated(s, sites) for s in good]
    assert refused["code"] == "task"
    assert "NaN" in refused["what"]


def test_a_large_model_goes_through_files_and_leaves_none_behind(federation: Any, study: Any) -> None:
    sites = federation.sites(3)
    asked = study("large", size=BIG, rounds=3)
    with federation.serve(sites):
        view = federation.finish(federation.submit(asked, sites))
    assert view.model == federation.simulated(asked, sites)
    for path in sites:
        assert len(list((path / "outbox").iterdir())) == 1, "only the last round's vector is kept"
        assert not list((path / "incoming").iterdir())


@pytest.mark.parametrize("after", [0, 1, 200, 900, 70_000, 2_000_000, BIG * 8, BIG * 8 + 500])
def test_an_upload_cut_at_any_byte_changes_nothing(federation: Any, study: Any, after: int) -> None:
    with CuttingProxy(federation.port) as proxy:
        sites = [federation.site("s0", port=proxy.port), *(federation.site(f"s{i}") for i in (1, 2))]
        asked = study("cut", size=BIG, rounds=1)
        run = federation.submit(asked, sites)
        proxy.cut_upload(after)
        with federation.serve(sites) as agents:
            view = federation.finish(run)
            agents.wait(sites[0], "coordinator back")
        assert proxy.cuts == 1
    assert view.model == federation.simulated(asked, sites)


def test_an_outage_in_the_middle_of_a_run_is_waited_out(federation: Any, study: Any) -> None:
    with CuttingProxy(federation.port) as proxy:
        sites = federation.sites(3, port=proxy.port)
        asked = study("outage", size=BIG, rounds=4)
        run = federation.submit(asked, sites)
        with federation.serve(sites) as agents:
            agents.wait(sites[0], "round begins")
            proxy.down()
            agents.wait(sites[1], "coordinator away")
            time.sleep(0.5)
            proxy.up()
            view = federation.finish(run)
            assert agents.wait(sites[1], "coordinator back")
    assert view.model == federation.simulated(asked, sites)


@pytest.mark.parametrize(
    ("mode", "code"),
    [("nan", "task"), ("bug", "internal"), ("unfit", "internal"), ("empty", "data"), ("no header", "data"), ("gone", "data"), ("few", "too_few_rows")],
)
def test_what_goes_wrong_at_one_site_becomes_a_code_and_the_round_goes_on(federation: Any, study: Any, mode: str, code: str) -> None:
    terms = {"quorum": 3, "min_rows": 2, "start_when": 4}
    task_fails = mode in ("nan", "bug", "unfit")
    sites = federation.sites(4)
    asked = study("decline", terms={**terms, "attempts": 1}, rounds=1, **({"mode": mode} if task_fails else {}))
    run = federation.submit(asked, sites)
    table = sites[3] / "table.csv"
    if mode == "empty":
        table.write_text("x\n")
    elif mode == "no header":
        table.write_text("")
    elif mode == "gone":
        table.unlink()
    elif mode == "few":
        table.write_text("x\n4711.5\n")
    with federation.serve(sites) as agents:
        view = federation.finish(run)
        line = agents.wait(sites[3], "declined")
    assert line["code"] == code
    assert "4711" not in json.dumps(line)
    assert "convert" not in json.dumps(line), "a stranger's message may quote a cell"
    assert federation.client.rounds(run)[0].declined.get(sites[3].name, code if task_fails else "") == code  # a failed round does not wait for all
    if task_fails:
        assert view.status == "failed"
    else:
        assert view.model == federation.simulated(asked, sites[:3])


def test_the_sites_own_policy_is_stricter_than_the_study(federation: Any, study: Any) -> None:
    sites = federation.sites(4)
    (sites[0] / "site.toml").write_text("[policy]\nmin_cohort = 9\n")
    (sites[1] / "site.toml").write_text("[policy]\nmin_cohort = 3\nmin_rows = 1000\n")
    asked = study("policy", rounds=1, terms={"min_cohort": 2, "quorum": 2, "start_when": 4})
    run = None
    federation.client.submit(asked)
    for path in sites:
        with Store(path) as store:  # approved when the policy was laxer
            store.put_study(federation.client.study(asked.digest))
            store.decide(asked.digest, approve=True, data="main")
    with federation.serve(sites):
        run = next(r.id for r in federation.client.runs() if r.study == asked.digest)
        view = federation.finish(run)
    assert view.status in ("finished", "failed")
    declined = federation.client.rounds(run)[-1].declined
    assert declined.get(sites[0].name, "too_small_cohort") == "too_small_cohort"
    assert declined.get(sites[1].name, "too_few_rows") == "too_few_rows"
    assert declined


def test_a_disk_that_is_full_is_a_decline_and_the_next_run_works_again(federation: Any, study: Any) -> None:
    sites = federation.sites(4)
    asked = study("full", rounds=1, size=30_000, terms={"quorum": 3, "start_when": 4})
    run = federation.submit(asked, sites)

    async def serve_with_a_full_disk() -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []
        log = _Log(lines)
        async with open_agent(sites[3], log=log, poll_s=1.0) as agent:  # type: ignore[arg-type]
            (pages,) = agent.store.db.execute("PRAGMA page_count").fetchone()
            agent.store.db.execute(f"PRAGMA max_page_count = {pages + 6}")  # SQLite itself now reports a full disk
            stop = asyncio.Event()
            job = asyncio.create_task(agent.run(stop))
            while not any(line["event"] == "round answered" for line in lines):
                await asyncio.sleep(0.02)
                assert not job.done()
            stop.set()
            await job
        return lines

    with federation.serve(sites[:3]):
        lines = asyncio.run(asyncio.wait_for(serve_with_a_full_disk(), 20))
        view = federation.finish(run)
        assert [line["code"] for line in lines if line["event"] == "declined"] == ["storage"]
        assert federation.client.rounds(run)[0].declined == {sites[3].name: "storage"}
        assert view.model == federation.simulated(asked, sites[:3])
        again = study("roomy", rounds=1, terms={"start_when": 4})
        with federation.serve(sites[3:]):
            assert federation.finish(federation.submit(again, sites)).model == federation.simulated(again, sites)


class _Log:
    def __init__(self, lines: list[dict[str, Any]]) -> None:
        self.lines = lines

    def bind(self, **_: Any) -> "_Log":
        return self

    def info(self, event: str, **details: Any) -> None:
        self.lines.append({"event": event, **details})

    warning = info


def test_nothing_runs_without_an_approval_and_a_late_one_joins_the_next_run(federation: Any, study: Any) -> None:
    sites = federation.sites(4)
    asked = study("deny", rounds=1)
    with federation.serve(sites) as agents:
        agents_met = federation.client.submit(asked)
        assert agents_met.approvals == ()
        for path in sites:
            agents.wait(path, "study awaits a decision")
        run = federation.submit(asked, sites[:3])
        view = federation.finish(run)
    assert view.model == federation.simulated(asked, sites[:3])
    assert not releases(sites[3])


def test_decisions_that_were_made_during_an_outage_are_told_later(federation: Any, study: Any) -> None:
    from locum.client import Patience
    from locum.site.review import decide, list_studies

    with CuttingProxy(federation.port) as proxy:
        sites = federation.sites(3, port=proxy.port)
        asked = study("later", rounds=1)
        federation.client.submit(asked)
        for path in sites:
            assert any(s.digest == asked.digest for s in list_studies(path))
        proxy.down()
        impatient = Patience(first_s=0.01, attempts=2)
        assert [decide(path, asked.digest, approve=True, patience=impatient) for path in sites] == [False] * 3
        assert [s.told for s in list_studies(sites[0], patience=impatient) if s.digest == asked.digest] == [False]
        proxy.up()
        with federation.serve(sites):
            run = next(r.id for r in federation.client.runs() if r.study == asked.digest)
            assert federation.finish(run).model == federation.simulated(asked, sites)


def test_a_wrong_clock_is_named_and_corrected(federation: Any, study: Any) -> None:
    sites = federation.sites(3)
    asked = study("clock", rounds=1)
    run = federation.submit(asked, sites)

    async def serve_with_a_wrong_clock(lines: list[dict[str, Any]]) -> None:
        async with open_agent(sites[0], log=_Log(lines), poll_s=1.0, clock=lambda: time.time() - 7200) as agent:  # type: ignore[arg-type]
            stop = asyncio.Event()
            job = asyncio.create_task(agent.run(stop))
            while not any(line["event"] == "round answered" for line in lines):
                await asyncio.sleep(0.02)
                assert not job.done()
            stop.set()
            await job

    lines: list[dict[str, Any]] = []
    with federation.serve(sites[1:]):
        asyncio.run(asyncio.wait_for(serve_with_a_wrong_clock(lines), 20))
        assert federation.finish(run).model == federation.simulated(asked, sites)
    (warning,) = [line for line in lines if line["event"] == "clock off"]
    assert warning["offset_s"] == pytest.approx(7200, abs=5)


def test_data_that_changes_between_runs_is_read_again(federation: Any, study: Any) -> None:
    sites = federation.sites(3)
    asked = study("fresh", rounds=1)
    with federation.serve(sites):
        before = federation.finish(federation.submit(asked, sites)).model
        (sites[0] / "table.csv").write_text("x\n100\n200\n")
        run = federation.client.start_run(asked.digest).id
        after = federation.finish(run).model
    assert after == federation.simulated(asked, sites)
    assert after != before


def test_a_client_watches_a_run_and_fetches_the_model(federation: Any, study: Any, tmp_path: Path) -> None:
    sites = federation.sites(3)
    asked = study("watch")
    client: Client = federation.client
    run = federation.submit(asked, sites)
    with federation.serve(sites):
        views = list(client.watch(run, wait=2.0))
    assert views[-1].status == "finished"
    versions = [v.version for v in views]
    assert versions == sorted(set(versions))
    (model,) = [m for m in client.models() if m.run == run]
    path = client.model_file(model, tmp_path / "model.safetensors")
    assert path.stat().st_size == model.bytes
    assert load_rows(asked, None, sites[0] / "table.csv").patients == 4
