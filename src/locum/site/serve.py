"""A site folder brought to life: one process, until SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from locum.client import FOR_EVER, Api, Membership, Patience
from locum.errors import LocumError
from locum.federation.wire import LONG_POLL_S
from locum.site.agent import Agent
from locum.site.folder import load_config, load_identity
from locum.site.ledgers import SiteLedgers
from locum.site.logs import open_log, reason
from locum.site.policy import SiteRules
from locum.site.rows import RowSource, SiteRows
from locum.site.store import Store
from locum.site.witness import Witness


@asynccontextmanager
async def open_agent(
    folder: Path,
    *,
    log: FilteringBoundLogger | None = None,
    patience: Patience = FOR_EVER,
    rows: RowSource | None = None,
    poll_s: float = LONG_POLL_S,
    **options: Any,
) -> AsyncIterator[Agent]:
    """The agent of a site folder: `async with open_agent(folder) as agent: await agent.run(stop)`.

    rows: in place of the folder's data sets, for simulated clients. options: as for `Connection`, such as a shared
    `http` client. Raises `NotEnrolled` or `ManifestError`.
    """
    member, config = Membership.load(folder), load_config(folder)
    log = log or open_log(sys.stderr, site=member.name)

    def notice(event: str, details: Mapping[str, object]) -> None:
        log.warning(event, **details)

    with Store(folder) as store:
        identity = load_identity(folder)
        async with Api(member.connect(identity, patience=patience, notice=notice, **options)) as api:
            keys = {"coordinator": member.coordinator, "consortium": member.consortium}
            own = rows or SiteRows(store, identity.public, notice=notice)
            witness = Witness(store, api, identity, member.coordinator, api.connection.now)
            rules = _rules(store, member.name, log)
            own_part = {"rows": own, "ledgers": SiteLedgers(store, member.name), "policy": config.policy, "rules": rules, "witness": witness}
            yield Agent(store, api, log=log, poll_s=poll_s, **own_part, **keys)  # type: ignore[arg-type]


def _rules(store: Store, site: str, log: FilteringBoundLogger) -> SiteRules:
    """The site's own rules. If they cannot be relied on, the agent serves and declines every round until they can."""
    rules = SiteRules(store, site)
    try:
        rules.in_force()
    except LocumError as error:
        log.warning("the site's policy cannot be relied on: every round is declined", **reason(error))
    return rules


def serve(folder: Path, *, log_file: Path | None = None, patience: Patience = FOR_EVER, poll_s: float = LONG_POLL_S) -> None:
    """Serve until SIGTERM or SIGINT. log_file: instead of standard error. May be killed at any time without harm."""
    name = Membership.load(folder).name
    target = log_file.open("a", encoding="utf-8", buffering=1) if log_file else nullcontext(sys.stderr)
    with target as stream, asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(folder, open_log(stream, site=name), patience, poll_s))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it exists: a round's bytes cost less."""
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop


async def _serve(folder: Path, log: FilteringBoundLogger, patience: Patience, poll_s: float) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError):  # Windows: Ctrl-C raises KeyboardInterrupt
            loop.add_signal_handler(number, stop.set)
    async with open_agent(folder, log=log, patience=patience, poll_s=poll_s) as agent:
        log.info("serving", pid=os.getpid())
        await agent.run(stop)
        log.info("stopped")
        if agent.computing:
            os._exit(0)  # a visit in a thread cannot be stopped, and need not be waited for: nothing of it is durable yet
