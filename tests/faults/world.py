"""A world of one coordinator and three sites in this process: the real applications, joined by a network in memory."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import structlog

from locum import Rows, Study, simulate
from locum.client import Api, Membership, Patience
from locum.client.membership import KEY, open_connection
from locum.coordinator import Coordinator, Folder, init_folder, invite, office
from locum.federation.identity import Identity, PublicKey
from locum.federation.wire import Invitation, Role, RunView, federation_id
from locum.site.folder import add_data
from locum.site.serve import open_agent
from locum.site.store import Store
from locum.testing import Network

URL = "http://127.0.0.1:9"
QUICK = Patience(first_s=0.005, cap_s=0.05)
ROWS = {"a": [1.5, 2.25], "b": [0.1, 0.2, 0.7], "c": [9.0]}
STUDIES = {
    aggregation: Study.parse(
        {
            "schema": "locum/study/1",
            "name": "faults",
            "data": {"variables": {"x": {"minimum": 0, "maximum": 10}}},
            "terms": {"aggregation": aggregation, "privacy": "none", "min_cohort": 3, "quorum": 3, "deadline_s": 60, "attempts": 2},
            "plan": [{"name": "check", "task": "data_check"}, {"name": "x", "task": "moments", "variables": ["x"]}],
        }
    )
    for aggregation in ("clear", "masked")
}
EXPECTED = {a: simulate(study, {name: Rows.of({"x": x}) for name, x in ROWS.items()}).model_sha256 for a, study in STUDIES.items()}


async def prepare(base: Path, study: Study) -> None:
    """A coordinator's folder and three sites that have approved the study."""
    coordinator = Coordinator(init_folder(base / "coordinator", url=URL))
    async with coordinator.lifespan(None), httpx.AsyncClient(transport=httpx.ASGITransport(app=coordinator.app)) as http:
        investigator = await _join(coordinator.folder, base / "investigator", "investigator", http)
        view = await investigator.submit(study)
        for name, x in ROWS.items():
            await _join(coordinator.folder, base / name, "site", http)
            (base / f"{name}.csv").write_text("x\n" + "\n".join(map(str, x)) + "\n")
            (base / name / "site.toml").write_text('[policy]\nmin_cohort = 3\nexact = "allow"\n')
            add_data(base / name, "default", base / f"{name}.csv")
            with Store(base / name) as store:
                store.put_study(view)
                store.decide(view.digest, approve=True, data="default")  # the agent tells the coordinator
        office.install(base / "coordinator", office.sign(office.draft(base / "coordinator")[0], base / "coordinator" / office.KEY))


async def _join(folder: Folder, home: Path, role: Role, http: httpx.AsyncClient) -> Api:
    asked = Invitation.parse(invite(folder, home.name, role))
    key = PublicKey.parse(asked.coordinator_key)
    home.mkdir()
    identity = Identity.load_or_create(home / KEY)
    keys = {"coordinator_key": asked.coordinator_key, "consortium_key": asked.consortium_key}
    member = Membership(url=asked.url, name=asked.name, role=role, federation=federation_id(key), **keys)
    member.save(home)
    api = Api(member.connect(identity, patience=QUICK, http=http))
    await api.enroll(asked.token, key)
    return api


class World:
    """One coordinator and three agents, each of which can die and live again from its folder."""

    def __init__(self, base: Path) -> None:
        self.base, self.network = base, Network()
        self.http = httpx.AsyncClient(transport=self.network)
        self.lives: dict[str, tuple[asyncio.Task[None], asyncio.Event]] = {}

    async def start(self, name: str) -> None:
        begun, stop = asyncio.Event(), asyncio.Event()
        life = self._coordinate if name == "coordinator" else self._serve
        self.lives[name] = (asyncio.create_task(life(name, begun, stop)), stop)
        await begun.wait()

    async def restart(self, name: str) -> None:
        """End a life without a word to anybody else, and begin the next one."""
        task, stop = self.lives[name]
        if name == "coordinator":
            self.network.inner = None
        stop.set()
        await asyncio.wait({task})
        await self.start(name)

    async def _coordinate(self, name: str, begun: asyncio.Event, stop: asyncio.Event) -> None:
        coordinator = Coordinator(Folder.open(self.base / name))
        async with coordinator.lifespan(None):
            self.network.inner = httpx.ASGITransport(app=coordinator.app)
            begun.set()
            await stop.wait()
            coordinator.close_polls()

    async def _serve(self, name: str, begun: asyncio.Event, stop: asyncio.Event) -> None:
        async with open_agent(self.base / name, http=self.http, patience=QUICK, poll_s=5.0, log=structlog.get_logger()) as agent:
            begun.set()
            await agent.run(stop)

    async def run(self) -> RunView:
        """The study's only run, to its end."""
        for name in ("coordinator", *ROWS):
            await self.start(name)
        api = Api(open_connection(self.base / "investigator", http=self.http, patience=QUICK))
        (view,) = await api.runs()
        async with asyncio.timeout(30):
            while view.status in ("waiting", "running"):
                view = await api.run(view.id, version=view.version, wait=5.0)
        for task, stop in reversed(self.lives.values()):
            stop.set()
            await task
        return view
