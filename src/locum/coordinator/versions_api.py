"""The registry's endpoints: propose a version, judge it again, decide on it; and which one is in use."""

from __future__ import annotations

from starlette.responses import Response

from locum.coordinator import versions, versions_views
from locum.coordinator.call import ANY, APPROVER, INVESTIGATOR, Call, Endpoint, decode, reply
from locum.federation.lines import MAX_AUDIT_BYTES, MAX_DECISION_BYTES, LineView, Proposal, SignedDecision, VersionView

_DECISION_BYTES = 4 * MAX_DECISION_BYTES


async def list_lines(call: Call) -> Response:
    return reply(await call.services.thread(versions_views.list_lines, call.services.store, call.party))


async def get_line(call: Call) -> Response:
    return reply(await call.services.thread(versions_views.get_line, call.services.store, call.party, call.part("name")))


async def current(call: Call) -> Response:
    return reply(await call.services.thread(versions_views.current, call.services.store, call.party, call.part("name")))


async def get_version(call: Call) -> Response:
    s = call.services
    return reply(await s.thread(versions_views.version_view, s.store, call.party, call.part("name"), _number(call)))


async def propose(call: Call) -> Response:
    s, asked = call.services, decode(await call.body(2 * MAX_AUDIT_BYTES + _DECISION_BYTES), Proposal)
    return reply(await s.thread(versions.propose, s.store, call.party, call.part("name"), asked))


async def judge(call: Call) -> Response:
    s = call.services
    await call.body(0)
    return reply(await s.thread(versions.judge_again, s.store, call.party, call.part("name"), _number(call)))


async def decide(call: Call) -> Response:
    s, signed = call.services, decode(await call.body(_DECISION_BYTES), SignedDecision)
    return reply(await s.thread(versions.decide, s.store, call.party, call.part("name"), signed))


def _number(call: Call) -> int:
    return min(int(call.part("version")), 1 << 30)


LINE = "/v1/lines/{name}"
PEOPLE = (*INVESTIGATOR, *APPROVER)
ENDPOINTS = (
    Endpoint("GET", "/v1/lines", list_lines, ANY, "Lines of models, and their versions", tuple[LineView, ...]),
    Endpoint("GET", LINE, get_line, ANY, "One line, with all that was signed about it", LineView),
    Endpoint("GET", LINE + "/current", current, ANY, "The version in use", VersionView),
    Endpoint("GET", LINE + "/versions/{version:int}", get_version, ANY, "One version with its verdict", VersionView),
    Endpoint("POST", LINE + "/versions", propose, INVESTIGATOR, "Propose a run's model as the next version", VersionView, Proposal),
    Endpoint("POST", LINE + "/versions/{version:int}/verdict", judge, PEOPLE, "Judge a candidate against what is current now", VersionView),
    Endpoint("POST", LINE + "/decisions", decide, PEOPLE, "Promote, roll back or withdraw a version", VersionView, SignedDecision),
)
