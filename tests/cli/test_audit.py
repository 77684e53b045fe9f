"""A real federation's run, bundled and verified by the commands; and its log, shown and exported."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from fhir.resources.R4B.auditevent import AuditEvent
from typer.testing import CliRunner

from locum.cli.app import app
from locum.client import Client, Patience, join
from locum.client.membership import Membership
from locum.coordinator import Folder, init_folder, invite, office
from locum.errors import LocumError
from locum.governance.verify import verify
from locum.site import folder as site_folder
from locum.site.review import decide
from locum.site.serve import open_agent
from locum.testing.process import CoordinatorProcess

STUDY = """
name = "audited"
[data.variables]
age = { unit = "a", minimum = 0, maximum = 120 }
[terms]
min_cohort = 3
privacy = "none"
[[plan]]
name = "age"
task = "moments"
variables = ["age"]
"""
QUICK = Patience(first_s=0.02, cap_s=0.2, connect_s=3.0, answer_s=5.0)


class World:
    """A coordinator, three sites and the investigator lee; `path` is where the commands run."""

    def __init__(self, path: Path, folder: Folder) -> None:
        self.path, self.folder = path, folder
        self.run = ""

    def __call__(self, *words: str | Path, code: int = 0) -> str:
        """A command in this process: what it printed, or what its error says."""
        with contextlib.chdir(self.path):
            done = CliRunner().invoke(app, [str(w) for w in words])
        if isinstance(done.exception, LocumError):
            assert code == 1, done.exception
            return str(done.exception)
        assert done.exit_code == code, (words, done.output, done.exception)
        return done.stdout

    def json(self, *words: str | Path, code: int = 0) -> Any:
        return json.loads(self(*words, "--json", code=code))


@contextlib.contextmanager
def serving(sites: list[Path]) -> Iterator[None]:
    """The sites' agents, in one thread of this process."""
    stop, loop = asyncio.Event(), asyncio.new_event_loop()

    async def one(site: Path) -> None:
        async with open_agent(site, log=structlog.get_logger(), patience=QUICK, poll_s=1.0) as agent:
            await agent.run(stop)

    async def every() -> None:
        await asyncio.gather(*map(one, sites))

    thread = threading.Thread(target=loop.run_until_complete, args=(every(),), daemon=True)
    thread.start()
    yield
    loop.call_soon_threadsafe(stop.set)
    thread.join(15)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    from locum.testing.federation import free_port

    path, port = tmp_path_factory.mktemp("audit"), free_port()
    folder = init_folder(path / "coordinator", url=f"http://127.0.0.1:{port}")
    made = World(path, folder)
    with contextlib.ExitStack() as running:
        running.enter_context(CoordinatorProcess(folder.path, port=port))
        for i, name in enumerate(("a", "b", "c")):
            site_folder.enroll(path / name, invite(folder, name))
            (path / name / site_folder.CONFIG).write_text('[policy]\nmin_cohort = 3\nexact = "allow"\n')
            (path / name / "table.csv").write_text(f"age\n{50 + i}\n{60 + i}\n")
            site_folder.add_data(path / name, "main", path / name / "table.csv")
        running.enter_context(serving([path / name for name in ("a", "b", "c")]))
        drafted, _ = office.draft(folder.path)
        office.install(folder.path, office.sign(drafted, folder.path / office.KEY))
        join(path / "lee", invite(folder, "lee", "investigator"))
        (path / "study.toml").write_text(STUDY)
        submitted = made.json("study", "submit", "study.toml", "--home", "lee")
        made.run = submitted["run"]
        for name in ("a", "b", "c"):
            assert decide(path / name, submitted["study"], approve=True, patience=QUICK)
        with Client.open(path / "lee", patience=QUICK) as client:
            *_, view = client.watch(made.run, wait=2.0)
            assert view.status == "finished", view.error
            until = time.monotonic() + 30  # the sites cosign when they next look
            while True:
                signed = client(client.api.checkpoint())
                if sum(not name.startswith("locum.log/") for name, _ in signed.lines) == 3:
                    break
                assert time.monotonic() < until
                time.sleep(0.1)
        yield made


def test_a_run_is_bundled_and_verified(world: World) -> None:
    made = world.json("audit", "bundle", "audited", "run.zip", "--home", "lee")
    assert made["witnesses"] == "cosigned by 3 sites: a, b, c"
    member = Membership.load(world.path / "lee")
    pins = ["--coordinator", member.coordinator.fingerprint, "--consortium", member.consortium_key]
    told = world("audit", "verify", "run.zip", *pins, "--witnesses", "3")
    assert told.count("PASS") == 13
    assert "Every check holds." in told
    report = world.json("audit", "verify", "run.zip", *pins, "--witnesses", "4", code=1)
    assert [c["check"] for c in report["checks"] if not c["ok"]] == ["witnesses"]
    world("audit", "bundle", world.run, "again.zip", "--home", "lee")
    assert (world.path / "again.zip").read_bytes() == (world.path / "run.zip").read_bytes()
    small = world.json("audit", "bundle", world.run, "small.zip", "--no-model", "--home", "lee")
    assert small["bytes"] > 0
    with zipfile.ZipFile(world.path / "small.zip") as archive:
        assert "model.safetensors" not in archive.namelist()
        assert {"rounds/000000.json", "rosters.json"} <= set(archive.namelist())
        assert len(json.loads(archive.read("rounds/000000.json"))["answers"]) == 3


def test_what_the_coordinator_serves_is_not_believed(world: World) -> None:
    """Another key was pinned: the bundle is written, as evidence, and the command fails."""
    home = world.path / "lee2"
    shutil.copytree(world.path / "lee", home)
    member = Membership.load(home)
    text = (home / "membership.json").read_text().replace(member.consortium_key, str(Membership.load(world.path / "lee").coordinator))
    (home / "membership.json").write_text(text)
    assert "does not hold" in world("audit", "bundle", world.run, "bad.zip", "--home", "lee2", code=1)
    assert not verify(world.path / "bad.zip").ok


def test_the_verifiers_are_written_as_files(world: World) -> None:
    world("audit", "bundle", world.run, "v.zip", "--home", "lee")
    world("audit", "verifier", "verify.py")
    done = subprocess.run([sys.executable, "-I", "verify.py", "v.zip"], cwd=world.path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    assert world.json("audit", "page", "verify.html")["file"] == "verify.html"
    page = (world.path / "verify.html").read_text()
    assert "default-src 'none'" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "cannot be written" in world("audit", "page", "no/such/folder.html", code=1)


def test_a_run_without_a_model_has_no_bundle(world: World) -> None:
    (world.path / "other.toml").write_text(STUDY.replace("audited", "waiting"))
    world("study", "submit", "other.toml", "--home", "lee")
    assert "made no model" in world("audit", "bundle", "waiting", "w.zip", "--home", "lee", code=1)
    assert not (world.path / "w.zip").exists()
    assert "there is no folder" in world("audit", "bundle", world.run, "no/such/folder.zip", "--home", "lee", code=1)
    assert "no run" in world("audit", "bundle", "nothing", "w.zip", "--home", "lee", code=1)
    assert "not for a party of the role 'site'" in world("audit", "bundle", world.run, "s.zip", "--home", "a", code=1)


def test_the_log_is_shown_under_its_head(world: World) -> None:
    told = world("log", "show", "--home", "lee")
    assert "coordinator:model:made" in told
    assert "verified under the head" in told
    assert "sites cosigned its first" in told
    whole = world.json("log", "show", "--home", "lee")
    assert [e["n"] for e in whole["entries"]] == list(range(whole["log"]["size"]))
    assert set(whole["cosigned"]["sites"]) <= {"a", "b", "c"}
    about = world.json("log", "show", "--about", "a", "--about", world.run, "--home", "lee")
    assert {e["subject"] for e in about["entries"]} == {"a", world.run}
    assert len(world.json("log", "show", "--last", "2", "--home", "a")["entries"]) == 2  # a site may read it too


def test_a_log_that_was_rewritten_is_noticed(world: World) -> None:
    world("log", "show", "--about", "a", "--home", "lee")
    seen = world.path / "lee" / "log-head.txt"
    kept = seen.read_text()
    text = world("log", "show", "--checkpoint", "--home", "lee")
    assert text.startswith("locum.log/")
    (world.path / "seen.txt").write_text(text)
    from locum.governance.log import Checkpoint, NoteKey, Signed

    old = Signed.parse(kept).checkpoint
    identity = world.folder.identity
    forged = Signed.by(Checkpoint(old.origin, old.size - 1, bytes(32)), NoteKey(old.origin, identity.public.raw), identity.sign_note)
    seen.write_text(forged.text())
    assert "not the one that you were shown before" in world("log", "show", "--home", "lee", code=1)
    seen.write_text(kept)
    world("audit", "bundle", world.run, "s.zip", "--home", "lee")
    assert world("audit", "verify", "s.zip", "--seen", "seen.txt")


def test_the_log_is_exported_as_fhir(world: World) -> None:
    made = world.json("log", "export", "--fhir", "audit.ndjson", "--home", "lee")
    lines = (world.path / "audit.ndjson").read_text().splitlines()
    assert len(lines) == made["entries"] > 10
    events = [AuditEvent.model_validate_json(line) for line in lines]
    assert {e.subtype[0].code for e in events} >= {"site:study:approved", "coordinator:model:made", "party:party:enrolled"}
    assert {e.action for e in events} <= {"C", "U", "E"}
