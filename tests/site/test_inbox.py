"""An agent and a coordinator gone bad: what the site believes, what it answers, and what it never does twice."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from locum.client import Patience
from locum.errors import EnvelopeError, ManifestError
from locum.federation.identity import Identity
from locum.federation.state import encode_state
from locum.federation.wire import StudyView
from locum.site.folder import releases
from locum.site.inbox import open_assignment, open_study
from locum.site.serve import open_agent
from locum.study.canonical import sha256

QUICK = Patience(first_s=0.02, cap_s=0.1, connect_s=3.0, answer_s=5.0)


class Log:
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def bind(self, **_: Any) -> "Log":
        return self

    def info(self, event: str, **details: Any) -> None:
        self.lines.append({"event": event, **details})

    warning = info

    def of(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]


def live(site: Path, until: Callable[[Log], Any], seconds: float = 10.0) -> Log:
    """One life of the site's agent, which ends when `until` holds."""
    log = Log()

    async def main() -> None:
        async with open_agent(site, log=log, patience=QUICK, poll_s=1.0) as agent:  # type: ignore[arg-type]
            stop = asyncio.Event()
            job = asyncio.create_task(agent.run(stop))
            end = time.monotonic() + seconds
            while not until(log):
                assert time.monotonic() < end, log.lines
                assert not job.done()
                await asyncio.sleep(0.01)
            stop.set()
            await job

    asyncio.run(main())
    return log


def answered(log: Log) -> Any:
    return log.of("round answered")


def test_an_honest_assignment_is_answered(rogue: Any, study: Any) -> None:
    asked = study("honest")
    rogue.learn(asked)
    rogue.offer(rogue.sign(rogue.assignment(asked)))
    live(rogue.site, answered)
    ((_, envelope, body),) = rogue.answers
    assert envelope.kind == "release"
    assert envelope.digest == sha256(body)
    assert len(releases(rogue.site)) == 1


def test_a_forged_assignment_reads_nothing_and_says_nothing(rogue: Any, study: Any) -> None:
    asked = study("forged")
    rogue.learn(asked)
    a = rogue.assignment(asked)
    rogue.offer(rogue.sign(a, by=Identity.generate()), rogue.sign(a, seq=5), rogue.sign(a, digest="0" * 64), rogue.sign(a, run="r"))
    log = live(rogue.site, lambda log: len(log.of("assignment refused")) >= 8)
    assert not rogue.answers
    assert not releases(rogue.site)
    assert rogue.polls <= 8, "a forgery is not polled for in a tight loop"
    assert {line["what"].split(".")[0] for line in log.of("assignment refused")} == {
        "The envelope's signature is not the sender's",
        "The assignment's envelope was made for another round",
        "The envelope was made for another digest",
    }


@pytest.mark.parametrize(
    "change",
    [{"run": "../../etc"}, {"state": "../x"}, {"layout": "zz"}, {"seq": -3}, {"phase": "mask"}, {"state_bytes": -1}, {"state_bytes": 1 << 60}],
    ids=lambda c: next(iter(c)),
)
def test_a_signed_assignment_that_no_round_asks_for(rogue: Any, study: Any, change: dict[str, Any]) -> None:
    a = msgspec.structs.replace(rogue.assignment(study("odd")), **change)
    with pytest.raises(EnvelopeError):
        open_assignment(rogue.sign(a), rogue.identity.public)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"study": "0" * 64}, "not_approved"),
        ({"step": 7}, "policy"),
        ({"step": -1}, "policy"),
        ({"iteration": 2}, "policy"),
        ({"seed": 8}, "policy"),
        ({"roster": ("a", "b", "c")}, "policy"),
        ({"roster": ("victim",)}, "too_small_cohort"),
        ({"roster": ("victim", "victim", "victim")}, "too_small_cohort"),
        ({"layout": "0" * 64}, "task"),
    ],
    ids=lambda v: f"{v}" if isinstance(v, str) else "-".join(map(str, v)),
)
def test_what_was_not_approved_is_declined(rogue: Any, study: Any, change: dict[str, Any], code: str) -> None:
    asked = study("narrow")
    rogue.learn(asked)
    rogue.offer(rogue.sign(msgspec.structs.replace(rogue.assignment(asked), **change)))
    live(rogue.site, answered)
    ((_, envelope, body),) = rogue.answers
    assert (envelope.kind, body.decode()) == ("decline", code)
    assert not releases(rogue.site)


def test_a_study_that_was_seen_but_not_approved(rogue: Any, study: Any) -> None:
    asked = study("unapproved")
    rogue.learn(asked, approve=False)
    rogue.offer(rogue.sign(rogue.assignment(asked)))
    live(rogue.site, answered)
    assert [body for _, _, body in rogue.answers] == [b"not_approved"]


def test_a_second_request_for_an_answered_round_gets_nothing_new(rogue: Any, study: Any) -> None:
    """Two states for one seq would be two sums: their difference is about fewer sites."""
    asked = study("twice")
    rogue.learn(asked)
    first = rogue.assignment(asked)
    rogue.offer(rogue.sign(first))
    live(rogue.site, answered)
    other = encode_state({"walk.x": np.ones(3), "walk.n": np.ones(())})
    rogue.states[first.run, first.seq] = other
    rogue.offer(rogue.sign(msgspec.structs.replace(first, state=sha256(other), state_bytes=len(other))))
    rogue.offer(rogue.sign(msgspec.structs.replace(first, roster=("victim", "b", "c"))))
    log = live(rogue.site, lambda log: log.of("round refused"))
    assert "Another request" in log.of("round refused")[0]["what"]
    assert len(rogue.answers) == 1
    assert len(releases(rogue.site)) == 1


def test_the_same_request_again_gets_the_very_same_bytes(rogue: Any, study: Any) -> None:
    asked = study("again")
    rogue.learn(asked)
    signed = rogue.sign(rogue.assignment(asked))
    for _ in range(2):
        rogue.offer(signed)
        live(rogue.site, answered)
    first, second = rogue.answers
    assert first[2] == second[2]
    assert first[1] == second[1]
    assert len(releases(rogue.site)) == 1, "sending again is not a new release"


def test_a_round_before_the_last_one_is_refused(rogue: Any, study: Any) -> None:
    asked = study("stale")
    rogue.learn(asked)
    rogue.offer(rogue.sign(rogue.assignment(asked, seq=4)))
    live(rogue.site, answered)
    rogue.offer(rogue.sign(rogue.assignment(asked, seq=3)))
    log = live(rogue.site, lambda log: log.of("round refused"))
    assert "gone beyond" in log.of("round refused")[0]["what"]
    assert len(rogue.answers) == 1


def test_a_run_cannot_change_its_study(rogue: Any, study: Any) -> None:
    one, two = study("one"), study("two")
    rogue.learn(one)
    rogue.learn(two)
    rogue.offer(rogue.sign(rogue.assignment(one)))
    live(rogue.site, answered)
    rogue.offer(rogue.sign(rogue.assignment(two, seq=1)))
    assert "another study" in live(rogue.site, lambda log: log.of("round refused")).of("round refused")[0]["what"]


def test_a_state_that_is_not_the_signed_one_is_not_used(rogue: Any, study: Any) -> None:
    asked = study("altered")
    rogue.learn(asked)
    a = rogue.assignment(asked)
    rogue.states[a.run, a.seq] = bytes(a.state_bytes)
    rogue.offer(rogue.sign(a))
    log = live(rogue.site, lambda log: log.of("round refused"))
    assert "not the ones that were announced" in log.of("round refused")[0]["what"]
    assert not rogue.answers
    assert not releases(rogue.site)


def test_an_answer_that_is_not_taken_now_is_sent_later_unchanged(rogue: Any, study: Any) -> None:
    asked = study("later")
    rogue.learn(asked)
    rogue.refuse = 3
    rogue.offer(rogue.sign(rogue.assignment(asked)))
    live(rogue.site, answered)
    assert len(rogue.answers) == 4
    assert len({body for _, _, body in rogue.answers}) == 1
    assert len({envelope for _, envelope, _ in rogue.answers}) == 1


def test_what_was_not_acknowledged_in_one_life_is_sent_in_the_next(rogue: Any, study: Any) -> None:
    asked = study("next-life")
    rogue.learn(asked)
    rogue.refuse = 1 << 30
    rogue.offer(rogue.sign(rogue.assignment(asked)))
    live(rogue.site, lambda _: rogue.answers)
    rogue.refuse, rogue.offers = 0, []
    before = len(rogue.answers)
    live(rogue.site, answered)
    assert len(rogue.answers) > before
    assert len({body for _, _, body in rogue.answers}) == 1


def test_a_study_is_what_its_digest_names_and_its_requester_signed(rogue: Any, study: Any) -> None:
    asked, other = study("real"), study("fake")
    rogue.learn(asked, approve=False)
    from locum.site.store import Store

    with Store(rogue.site) as store:
        known = store.study(asked.digest)
    assert known
    assert open_study(known.view, asked.digest) == asked
    replace = msgspec.structs.replace
    bad: list[StudyView] = [
        replace(known.view, manifest=other.canonical.decode()),
        replace(known.view, requester="mallory"),
        replace(known.view, requester_key=str(Identity.generate().public)),
        replace(known.view, digest=other.digest),
    ]
    for view in bad:
        with pytest.raises(EnvelopeError):
            open_study(view, asked.digest)
    with pytest.raises(ManifestError):
        open_study(replace(known.view, manifest="{}"), asked.digest)
