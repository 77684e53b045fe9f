"""Every message of a round is lost, answered into the void, or meets a dying site or coordinator; the model does not change.

The real coordinator and the real agents in one process, joined by a network that strikes at a named boundary:
(message, round, place), for one of three sites. Faults in real processes are in `test_processes.py`.
"""

import asyncio
import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from locum.federation.wire import RunView
from locum.site.store import Store
from locum.testing.transport import Strike

_spec = importlib.util.spec_from_file_location("faults_world", Path(__file__).with_name("world.py"))
assert _spec
assert _spec.loader
world = sys.modules["faults_world"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(world)


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each kind of study a coordinator's folder and three sites that have approved it, made once and copied for every case."""
    bases = {aggregation: tmp_path_factory.mktemp(aggregation) for aggregation in world.STUDIES}
    for aggregation, base in bases.items():
        asyncio.run(world.prepare(base, world.STUDIES[aggregation]))
    return bases


async def _lose() -> None:
    raise httpx.ReadError("cut")


BOUNDARIES = [("clear", message, seq) for seq in (0, 1) for message in ("work", "state", "answer")]
BOUNDARIES += [("masked", message, 0) for message in ("work", "keys", "seals", "state")]
BOUNDARIES += [("masked", message, 1) for message in ("join", "masked", "confirm", "unmask")]
FAULTS = ["lose-request", "lose-answer", "site-dies-before", "site-dies-after", "coordinator-dies-before", "coordinator-dies-after"]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("aggregation", "message", "seq"), BOUNDARIES, ids=lambda v: str(v))
def test_the_model_survives(enrolled: dict[str, Path], tmp_path: Path, aggregation: str, message: str, seq: int, fault: str) -> None:
    base = tmp_path / "world"
    shutil.copytree(enrolled[aggregation], base)

    async def story() -> tuple[RunView, bool]:
        place = world.World(base)
        strikes: dict[str, Strike] = {
            "lose": _lose,
            "site-dies": lambda: _die(place, "b"),
            "coordinator-dies": lambda: place.restart("coordinator"),
        }
        what, _, when = fault.rpartition("-")
        place.network.where = ("b", message, seq)
        setattr(place.network, "before" if when in ("request", "before") else "after", strikes[what])
        return await place.run(), place.network.struck

    view, struck = asyncio.run(story())
    assert struck, "the fault did not happen"
    assert (view.status, view.error) == ("finished", "")
    assert view.model == world.EXPECTED[aggregation]
    with Store(base / "b") as store:
        store.verify()
        assert {line.entry.seq for line in store.releases()} == {0, 1}


async def _die(place: Any, site: str) -> None:
    """The site's process ends in the middle of its own request: the request's task is cancelled with it."""
    place.reborn = asyncio.create_task(place.restart(site))
    await asyncio.sleep(30)
