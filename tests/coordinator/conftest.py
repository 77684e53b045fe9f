"""Real replicas, and parties that speak to them through plain httpx with the shared envelope code."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from locum import Rows, Study
from locum.coordinator import Folder, init_folder, invite
from locum.federation.door import Door, ReleaseDeclined, SitePolicy
from locum.federation.envelope import EMPTY_SHA256, Envelope, sign_request
from locum.federation.identity import Identity, b64
from locum.federation.state import decode_state
from locum.federation.visit import visit
from locum.federation.wire import INLINE_BYTES, Assignment, Enrolment, Invitation, Problem, RunView, Work
from locum.tasks import build_plan

SCRIPT = Path(__file__).with_name("replica.py")
_spec = importlib.util.spec_from_file_location("coordinator_replica", SCRIPT)
assert _spec
assert _spec.loader
_spec.loader.exec_module(importlib.util.module_from_spec(_spec))  # registers the task here too


class Replica:
    """One process of the coordinator."""

    def __init__(self, folder: Folder, port: int = 0) -> None:
        self.folder = folder
        self.log = (folder.path / f"replica-{time.monotonic_ns()}.log").open("wb")
        self.process = subprocess.Popen([sys.executable, str(SCRIPT), str(folder.path), str(port)], stdout=subprocess.PIPE, stderr=self.log)
        assert self.process.stdout
        line = self.process.stdout.readline().decode()
        assert "ready at" in line, Path(self.log.name).read_text()
        self.url = line.split()[-1]
        self.port = int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=20)
        self.log.close()

    def said(self) -> str:
        return Path(self.log.name).read_text()


class Refused(Exception):
    """The coordinator answered with a problem."""

    def __init__(self, status: int, problem: Problem) -> None:
        super().__init__(f"{status} {problem}")
        self.status, self.problem = status, problem


class Party:
    """An enrolled party. urls: one per replica; a request that fails goes to the next."""

    def __init__(self, folder: Folder, urls: list[str], name: str, identity: Identity | None = None) -> None:
        self.federation, self.urls, self.name = folder.federation, urls, name
        self.identity = identity or Identity.generate()
        self.http = httpx.Client(timeout=40, trust_env=False, verify=False, limits=httpx.Limits(max_connections=4))

    def send(
        self, method: str, target: str, body: bytes = b"", *, headers: dict[str, str] | None = None, digest: str = "", skew: float = 0.0
    ) -> httpx.Response:
        """One signed request, whatever the answer."""
        digest = digest or (hashlib.sha256(body).hexdigest() if body else EMPTY_SHA256)
        signed = sign_request(self.identity, federation=self.federation, sender=self.name, method=method, target=target, digest=digest, now=time.time() + skew)
        return self.http.request(method, self.urls[0] + target, content=body or None, headers={"Authorization": signed, **(headers or {})})

    def call(self, method: str, target: str, body: bytes = b"", **options: Any) -> httpx.Response:
        """One signed request; raises `Refused`."""
        response = self.send(method, target, body, **options)
        if response.status_code >= 400:
            raise Refused(response.status_code, msgspec.json.decode(response.content or b'{"error":"","what":""}', type=Problem))
        return response

    def get(self, target: str, kind: Any) -> Any:
        return msgspec.json.decode(self.call("GET", target).content, type=kind)

    def enroll(self, invitation: str) -> httpx.Response:
        token = Invitation.parse(invitation).token
        key = str(self.identity.public)
        proof = b64(self.identity.sign(b"locum/enroll/1", f"{token}\n{key}\n{self.federation}".encode()))
        body = msgspec.json.encode(Enrolment(token=token, public_key=key, proof=proof))
        return self.http.post(self.urls[0] + "/v1/enroll", content=body)

    def submit(self, study: Study) -> str:
        """Submit a study; the id of its run."""
        envelope = Envelope(kind="study", study=study.digest, sender=self.name, digest=study.digest).seal(self.identity)
        self.call("POST", "/v1/studies", study.canonical, headers={"Locum-Envelope": envelope})
        return str(next(r.id for r in self.get("/v1/runs", list[RunView]) if r.study == study.digest))

    def decide(self, digest: str, kind: str = "approval") -> None:
        envelope = Envelope(kind=kind, study=digest, sender=self.name, digest=digest).seal(self.identity)  # type: ignore[arg-type]
        self.call("PUT", f"/v1/studies/{digest}/decision", headers={"Locum-Envelope": envelope})

    def wait(self, run: str, until: Callable[[RunView], bool], timeout: float = 40) -> RunView:
        """Long-poll a run until it is as wished."""
        end, version = time.monotonic() + timeout, -1
        while time.monotonic() < end:
            try:
                view = self.get(f"/v1/runs/{run}?wait=2&version={version}", RunView)
            except (httpx.TransportError, Refused):
                self.urls.append(self.urls.pop(0))
                time.sleep(0.1)
                continue
            if until(view):
                return view
            version = view.version
        raise AssertionError(f"run {run} did not get there: {view}")

    def ended(self, run: str, timeout: float = 40) -> RunView:
        return self.wait(run, lambda v: v.status in ("finished", "failed", "cancelled"), timeout)


class Log:
    def record(self, entry: Any) -> None: ...


class Site(Party):
    """A fake site: its agent is one thread, and what it keeps survives whatever happens to the coordinator."""

    def __init__(self, folder: Folder, urls: list[str], name: str, rows: Rows) -> None:
        super().__init__(folder, urls, name)
        self.rows, self.memory = rows, {}  # type: ignore[var-annotated]
        self.answers: dict[tuple[str, int], Any] = {}
        self.door = Door(name, SitePolicy(min_cohort=3))
        self.stopping = threading.Event()
        self.pace = 0.0
        self.thread: threading.Thread | None = None

    def start(self) -> None:
        self.thread = threading.Thread(target=self.loop, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.stopping.set()
        if self.thread:
            self.thread.join(timeout=10)
        self.http.close()

    def loop(self) -> None:
        done: dict[str, None] = {}
        while not self.stopping.is_set():
            try:
                known = ",".join(list(done)[-20:])
                work = self.get(f"/v1/work?wait=2&known={known}", Work)
                for digest in work.studies:
                    self.decide(digest)
                for signed in work.assignments:
                    a = msgspec.json.decode(signed.body, type=Assignment)
                    with contextlib.suppress(ConflictError):
                        self.work(a)
                    done[f"{a.run}:{a.seq}"] = None
            except (httpx.TransportError, Refused):
                if not self.stopping.is_set():
                    self.urls.append(self.urls.pop(0))
                    time.sleep(0.05)

    def visit(self, a: Assignment) -> tuple[bytes, str]:
        """The answer to an assignment, computed once: (body, envelope)."""
        if (a.run, a.seq) not in self.answers:
            study = Study.from_json(self.get(f"/v1/studies/{a.study}", dict[str, Any])["manifest"].encode())
            raw = self.call("GET", f"/v1/runs/{a.run}/rounds/{a.seq}/state").content
            assert hashlib.sha256(raw).hexdigest() == a.state
            memory = dict(self.memory.get((a.run, a.step), {}))
            try:
                contribution, layout = visit(build_plan(study)[a.step], decode_state(raw), self.rows, memory, a, self.door, study.terms)
                protected = self.door.protect(contribution, layout, a, study.terms)
                release = self.door.release(protected, a, study.terms, step="", recipient="", identity=self.identity, log=Log())
                self.answers[a.run, a.seq] = release.layout.pack(release.vector), release.envelope
                self.memory[a.run, a.step] = memory
            except ReleaseDeclined as refusal:
                self.answers[a.run, a.seq] = self.door.decline(refusal.decline, a, self.identity)
        return self.answers[a.run, a.seq]

    def work(self, a: Assignment) -> None:
        try:
            body, envelope = self.visit(a)
            time.sleep(self.pace)
            self.answer(a, body, envelope)
        except Refused as error:
            if error.status == 409:
                raise ConflictError from None
            raise

    def answer(self, a: Assignment, body: bytes, envelope: str) -> httpx.Response:
        if len(body) > INLINE_BYTES:
            self.upload(a, body)
            body = b""
        return self.call("PUT", f"/v1/runs/{a.run}/rounds/{a.seq}/{a.phase}", body, headers={"Locum-Envelope": envelope})

    def upload(self, a: Assignment, body: bytes) -> httpx.Response:
        digest = hashlib.sha256(body).hexdigest()
        target = f"/v1/runs/{a.run}/rounds/{a.seq}/upload/{digest}"
        offset = int(self.call("HEAD", target, digest=digest).headers["Upload-Offset"])
        return self.call("PUT", target, body[offset:], digest=digest, headers={"Upload-Offset": str(offset)})


class ConflictError(Exception):
    """The round is over."""


class Federation:
    """A folder, its replicas, an investigator and some sites."""

    def __init__(self, path: Path, **options: Any) -> None:
        options.setdefault("url", "http://127.0.0.1:8443")
        self.folder = init_folder(path, **options)
        self.replicas: list[Replica] = []
        self.sites: dict[str, Site] = {}
        self.urls: list[str] = []
        self._investigator: Party | None = None

    def serve(self, port: int = 0) -> Replica:
        replica = Replica(self.folder, port)
        self.replicas.append(replica)
        self.urls.append(replica.url)
        return replica

    @property
    def investigator(self) -> Party:
        if self._investigator is None:
            self._investigator = self.party("ada", "investigator")
        return self._investigator

    def party(self, name: str, role: str) -> Party:
        party = Party(self.folder, list(self.urls), name)
        assert party.enroll(invite(self.folder, name, role)).status_code == 200  # type: ignore[arg-type]
        return party

    def add_sites(self, rows: dict[str, Rows], *, start: bool = True) -> None:
        for i, (name, data) in enumerate(rows.items()):
            urls = self.urls[i % len(self.urls) :] + self.urls[: i % len(self.urls)]
            site = self.sites[name] = Site(self.folder, urls, name, data)
            assert site.enroll(invite(self.folder, name)).status_code == 200
            if start:
                site.start()

    def close(self) -> None:
        for site in self.sites.values():
            site.stopping.set()
        for replica in self.replicas:
            replica.stop()
        for site in self.sites.values():
            site.stop()


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Callable[..., Federation]]:
    """Makes federations that end with the test."""
    made: list[Federation] = []

    def make(**options: Any) -> Federation:
        made.append(Federation(tmp_path / f"coordinator{len(made)}", **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def make_study(name: str = "walk", *, rounds: int = 3, terms: dict[str, Any] | None = None, **params: Any) -> Study:
    step = {"name": "walk", "task": "coordinator_walk", "rounds": rounds, **params}
    return Study.parse(
        {
            "schema": "locum/study/1",
            "name": name,
            "seed": 7,
            "data": {"variables": {"x": {}}},
            "terms": {"aggregation": "clear", "privacy": "none", "min_cohort": 3, "start_when": 4, **(terms or {})},
            "plan": [step],
        }
    )


@pytest.fixture(scope="session")
def walk() -> Callable[..., Study]:
    """Makes studies of the test's task."""
    return make_study


@pytest.fixture(scope="session")
def rows() -> dict[str, Rows]:
    """Four sites' data."""
    return {f"s{i}": Rows.of({"x": [0.1 * i, 0.7, 1.0 + i]}) for i in range(4)}


@pytest.fixture(scope="session")
def federation_class() -> type[Federation]:
    return Federation


@pytest.fixture(scope="session")
def party_class() -> type[Party]:
    return Party
