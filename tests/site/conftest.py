"""A real coordinator as a child process, real site folders, and an adversary that holds the coordinator's key."""

import asyncio
import hashlib
import importlib.util
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import uvicorn

from locum import Rows, Study, simulate
from locum.client import Client, Membership, Patience, join
from locum.client.membership import KEY
from locum.coordinator import office
from locum.coordinator.config import Folder, init_folder
from locum.coordinator.server import invite
from locum.data import load_rows
from locum.federation.envelope import Envelope
from locum.federation.identity import Identity
from locum.federation.round import PHASES
from locum.federation.runner import Runner
from locum.federation.state import encode_state
from locum.federation.wire import Assignment, RunView, SignedAssignment, StudyView, Work, federation_id
from locum.site import folder as site_folder
from locum.site.review import decide
from locum.site.serve import open_agent
from locum.site.store import Store
from locum.testing.process import CoordinatorProcess, SiteProcess

WALK = Path(__file__).parent / "walk.py"
_spec = importlib.util.spec_from_file_location("walk", WALK)
assert _spec
assert _spec.loader
_walk = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_walk)
_walk.PAUSES = False

QUICK = Patience(first_s=0.02, cap_s=0.2, connect_s=3.0, answer_s=5.0)
_count = itertools.count()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def make_study(name: str, *, terms: dict[str, Any] | None = None, plan: list[dict[str, Any]] | None = None, variables: Any = None, **step: Any) -> Study:
    """One step of the test task, unless `plan` says otherwise; every study of a test session has a title of its own."""
    return Study.parse(
        {
            "schema": "locum/study/1",
            "name": name,
            "title": f"number {next(_count)}",
            "question": "Does it walk?",
            "purpose": "To test.",
            "seed": 7,
            "data": {"variables": variables or {"x": {}}},
            "terms": {"aggregation": "clear", "privacy": "none", "min_cohort": 3, "deadline_s": 60, **(terms or {})},
            "plan": plan or [{"name": "walk", "task": "test_site_walk", "rounds": 2, **step}],
        }
    )


@dataclass
class Federation:
    """A coordinator, an investigator, and sites as they are asked for."""

    tmp: Path
    folder: Folder
    process: CoordinatorProcess
    client: Client

    @property
    def port(self) -> int:
        return self.process.port

    def site(self, name: str, rows: str | None = None, *, port: int | None = None) -> Path:
        """An enrolled site with a data set. port: a proxy that its traffic goes through."""
        name = f"{name}-{next(_count)}"
        path = self.tmp / name
        member = site_folder.enroll(path, invite(self.folder, name))
        (path / site_folder.CONFIG).write_text('[policy]\nmin_cohort = 3\nexact = "allow"\n')
        if port:
            msgspec.structs.replace(member, url=f"http://127.0.0.1:{port}").save(path)
        values = np.random.default_rng(hash_of(name)).normal(size=4)
        (path / "table.csv").write_text(rows if rows is not None else "x\n" + "".join(f"{v!r}\n" for v in values.tolist()))
        site_folder.add_data(path, "main", path / "table.csv") if rows != "" else None
        return path

    def sites(self, n: int = 3, **options: Any) -> list[Path]:
        return [self.site(f"s{i}", **options) for i in range(n)]

    def sign_roster(self) -> None:
        """The consortium signs for every site that is enrolled now."""
        drafted, _ = office.draft(self.folder.path)
        office.install(self.folder.path, office.sign(drafted, self.folder.path / office.KEY))

    def submit(self, study: Study, sites: list[Path]) -> str:
        """Hand in, approve everywhere; the run's id."""
        self.client.submit(study)
        for path in sites:
            assert decide(path, study.digest, approve=True, patience=QUICK)
        return next(r.id for r in self.client.runs() if r.study == study.digest)

    def simulated(self, study: Study, sites: list[Path]) -> str:
        """The model's digest of the same study in process."""
        return simulate(study, {p.name: load_rows(study, None, p / "table.csv") for p in sites}).model_sha256

    def finish(self, run: str, seconds: float = 30.0) -> RunView:
        until = time.monotonic() + seconds
        view = self.client.run(run)
        while view.status in ("waiting", "running"):
            assert time.monotonic() < until, (view, self.client.rounds(run))
            view = self.client(self.client.api.run(run, version=view.version, wait=1.0))
        return view

    def serve(self, sites: list[Path]) -> "Agents":
        return Agents(sites)

    def process_of(self, site: Path, *preload: Path) -> SiteProcess:
        return SiteProcess(site, (WALK, *preload))


def hash_of(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.split("-")[0].encode()).digest()[:4], "big")


class Agents:
    """Many agents in one thread of this process, as in a benchmark: `with federation.serve(sites): ...`"""

    def __init__(self, sites: list[Path]) -> None:
        self.sites = sites
        self.events: dict[str, list[dict[str, Any]]] = {p.name: [] for p in sites}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Agents":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(15)

    def wait(self, site: Path, event: str, seconds: float = 15.0) -> dict[str, Any]:
        """The first line of a site's log with this event."""
        until = time.monotonic() + seconds
        while True:
            found = [e for e in list(self.events[site.name]) if e["event"] == event]
            if found:
                return found[0]
            assert time.monotonic() < until, (event, self.events)
            time.sleep(0.01)

    def _run(self) -> None:
        self._loop.run_until_complete(self._main())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        await asyncio.gather(*(self._serve(path) for path in self.sites))

    async def _serve(self, path: Path) -> None:
        async with open_agent(path, log=Lines(self.events[path.name]), patience=QUICK, poll_s=2.0) as agent:  # type: ignore[arg-type]
            await agent.run(self._stop)


class Lines:
    """A logger that keeps its lines."""

    def __init__(self, lines: list[dict[str, Any]], **bound: Any) -> None:
        self.lines, self.bound = lines, bound

    def bind(self, **more: Any) -> "Lines":
        return Lines(self.lines, **self.bound, **more)

    def info(self, event: str, **details: Any) -> None:
        self.lines.append({"event": event, **self.bound, **details})

    warning = info


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    tmp, port = tmp_path_factory.mktemp("federation"), free_port()
    folder = init_folder(tmp / "coordinator", url=f"http://127.0.0.1:{port}")
    with CoordinatorProcess(folder.path, (WALK,), port=port) as process:
        join(tmp / "ida", invite(folder, "ida", "investigator"))
        with Client.open(tmp / "ida", patience=Patience(attempts=20, cap_s=0.5)) as client:
            yield Federation(tmp, folder, process, client)


@pytest.fixture
def study() -> Callable[..., Study]:
    return make_study


@dataclass
class Rogue:
    """A coordinator gone bad: it holds the key that the site pinned, and offers whatever it is told to."""

    site: Path
    identity: Identity = field(default_factory=Identity.generate)
    offers: list[SignedAssignment] = field(default_factory=list)
    states: dict[tuple[str, int], bytes] = field(default_factory=dict)
    answers: list[tuple[str, Envelope, bytes]] = field(default_factory=list)
    polls: int = 0
    refuse: int = 0

    def __post_init__(self) -> None:
        requester = Identity.generate()
        self.requester = requester
        Identity.generate().save(self.site / KEY)
        self.key = Identity.load(self.site / KEY).public

    def __enter__(self) -> "Rogue":
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        self.server = uvicorn.Server(uvicorn.Config(self.app, log_level="error", access_log=False, lifespan="off", interface="asgi3"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [sock]}, daemon=True)
        self.thread.start()
        key = self.identity.public
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        (self.site / site_folder.CONFIG).write_text('[policy]\nmin_cohort = 3\nexact = "allow"\n')
        Membership(url=url, name=self.site.name, role="site", federation=federation_id(key), coordinator_key=str(key)).save(self.site)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(10)

    def learn(self, study: Study, *, approve: bool = True) -> None:
        """The site meets a study, and perhaps approves it on the data set 'main'."""
        envelope = Envelope(kind="study", study=study.digest, digest=study.digest, sender="eve").seal(self.requester)
        key = str(self.requester.public)
        view = StudyView(digest=study.digest, manifest=study.canonical.decode(), envelope=envelope, requester="eve", requester_key=key, submitted=0.0)
        with Store(self.site) as store:
            store.put_study(view)
            if approve:
                store.decide(study.digest, approve=True, data="main")
                store.told(study.digest, "approved")

    def assignment(self, study: Study, *, roster: tuple[str, ...] = ("a", "b"), **change: Any) -> Assignment:
        runner = Runner(study, "run1")
        a, state = runner.assignment([self.site.name, *roster], time.time(), runner.layout), encode_state(runner.state)
        a = msgspec.structs.replace(a, **change)
        self.states.setdefault((a.run, a.seq), state)
        return a

    def sign(self, a: Assignment, *, by: Identity | None = None, **change: Any) -> SignedAssignment:
        body = a.encode()
        fields = {"study": a.study, "run": a.run, "seq": a.seq, "phase": a.phase, "digest": hashlib.sha256(body).hexdigest(), **change}
        return SignedAssignment(body.decode(), Envelope(kind="assignment", sender="coordinator", **fields).seal(by or self.identity))

    def offer(self, *signed: SignedAssignment) -> None:
        self.offers.extend(signed)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while (message := await receive()).get("more_body"):
            body += message["body"]
        body += message.get("body", b"")
        path, headers, reply = scope["path"], dict(scope["headers"]), b"{}"
        status = 200
        if path == "/v1/work":
            self.polls += 1
            known = scope["query_string"].decode()
            new = [o for o in self.offers if "%s:%s" % tuple(msgspec.json.decode(o.body)[k] for k in ("run", "seq")) not in known]  # noqa: UP031
            if not new:
                await asyncio.sleep(0.2)
            reply = msgspec.json.encode(Work(assignments=tuple(new)))
        elif path.endswith("/state"):
            reply = self.states[path.split("/")[3], int(path.split("/")[5])]
        elif path.endswith(("/release", *PHASES)):
            self.answers.append((path, Envelope.open(headers[b"locum-envelope"].decode(), self.key), body))
            if self.refuse:
                self.refuse -= 1
                status = 503
            else:
                done = path.split("/")[3], int(path.split("/")[5])
                self.offers = [o for o in self.offers if (msgspec.json.decode(o.body)["run"], msgspec.json.decode(o.body)["seq"]) != done]
        out = [(b"locum-time", b"0"), (b"content-length", str(len(reply)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": out})
        await send({"type": "http.response.body", "body": reply})


@pytest.fixture
def rogue(tmp_path: Path) -> Iterator[Rogue]:
    site = tmp_path / "victim"
    site.mkdir()
    with Rogue(site) as rogue:
        (site / "table.csv").write_text("x\n1.5\n2.5\n")
        site_folder.add_data(site, "main", site / "table.csv")
        yield rogue


@pytest.fixture
def rows() -> Rows:
    return Rows.of({"x": [1.5, 2.5]})


@pytest.fixture
def agents() -> type[Agents]:
    return Agents


@pytest.fixture
def walk() -> Path:
    return WALK
