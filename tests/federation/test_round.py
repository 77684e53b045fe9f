"""The round machine: any order of the same messages ends in the same state, and no message can be counted twice."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.errors import Conflict, EnvelopeError, Forbidden
from locum.federation.envelope import Envelope
from locum.federation.round import DECLINES, Round, phases
from locum.federation.wire import Assignment, Session

ROSTER = ("a", "b", "c", "d")
ASSIGNMENT = Assignment(
    study="s", run="r", seq=7, step=0, iteration=0, roster=ROSTER, state="x", state_bytes=1, layout="l", vector_bytes=1, deadline=100.0, seed=0
)


def message(sender: str, digest: str = "1", kind: str = "release", **change: object) -> Envelope:
    fields = {"study": "s", "run": "r", "seq": 7, "phase": "release", **change}
    return Envelope(kind=kind, sender=sender, digest=digest, **fields)


def test_closes_when_all_answered() -> None:
    machine = Round(ASSIGNMENT, needed=3)
    for site in "abc":
        machine.feed(message(site))
        assert machine.status == "open"
    machine.feed(message("d", kind="decline"), "no_rows")
    assert machine.status == "closed"
    assert machine.contributors == ["a", "b", "c"]


def test_deadline_with_and_without_quorum() -> None:
    for count, status in ((3, "closed"), (2, "failed")):
        machine = Round(ASSIGNMENT, needed=3)
        for site in ROSTER[:count]:
            machine.feed(message(site))
        machine.tick(99.9)
        assert machine.status == "open"
        machine.tick(100.0)
        assert machine.status == status


def test_fails_as_soon_as_quorum_is_out_of_reach() -> None:
    machine = Round(ASSIGNMENT, needed=3)
    machine.feed(message("a", kind="decline"), "data")
    assert machine.status == "open"
    machine.feed(message("b", kind="decline"), "task")
    assert machine.status == "failed"
    assert "data, task" in machine.reason()


@pytest.mark.parametrize("change", [{"study": "t"}, {"run": "q"}, {"seq": 6}, {"phase": "join"}])
def test_other_rounds_messages(change: dict) -> None:
    with pytest.raises(EnvelopeError):
        Round(ASSIGNMENT, 3).feed(message("a", **change))


def test_strangers_and_unknown_reasons() -> None:
    machine = Round(ASSIGNMENT, 3)
    with pytest.raises(Forbidden):
        machine.feed(message("mallory"))
    for kind, code in (("decline", "patient 17 has HIV"), ("approval", "")):
        with pytest.raises(EnvelopeError):
            machine.feed(message("a", kind=kind), code)
    assert not machine.released
    assert not machine.declined


def test_second_answers() -> None:
    machine = Round(ASSIGNMENT, 3)
    assert machine.feed(message("a"))
    assert not machine.feed(message("a")), "the very same message again is a duplicate"
    for second, code in ((message("a", "2"), ""), (message("a", kind="decline"), "data")):
        with pytest.raises(Conflict):
            machine.feed(second, code)
    for site in "bcd":
        machine.feed(message(site))
    assert not machine.feed(message("a")), "a duplicate is a duplicate after the end too"
    late = Round(ASSIGNMENT, 3)
    for site in "abc":
        late.feed(message(site))
    late.tick(100)
    with pytest.raises(Conflict, match="over"):
        late.feed(message("d"))


MASKED_ROUND = msgspec.structs.replace(ASSIGNMENT, session=Session(roster="r", seq=3), phase="join")


def masked_until(phase: str, needed: int) -> Round:
    machine = Round(MASKED_ROUND, needed)
    machine.enter(phase, ROSTER, needed, 200.0)
    return machine


def test_a_masked_round_goes_through_its_phases() -> None:
    assert phases(MASKED_ROUND) == ("join", "masked", "confirm", "unmask")
    assert phases(msgspec.structs.replace(MASKED_ROUND, session=Session(roster="r", seq=7)))[:3] == ("keys", "seals", "join")
    machine = Round(MASKED_ROUND, 3)
    for site in ROSTER:
        machine.feed(message(site, phase="join"))
    assert machine.status == "between"
    machine.enter("masked", "abc", 3, 200.0)
    with pytest.raises(Conflict, match="phase"):
        machine.feed(message("d", "other", phase="confirm"))
    with pytest.raises(Forbidden):
        machine.feed(message("d", phase="masked"))
    for site in "abc":
        machine.feed(message(site, phase="masked"))
    assert machine.contributors == ["a", "b", "c"]


@pytest.mark.parametrize("phase", ["confirm", "unmask"])
def test_an_eager_phase_ends_with_enough_and_takes_more_until_the_next_begins(phase: str) -> None:
    machine = masked_until(phase, 2)
    for site in "abc":
        machine.feed(message(site, phase=phase))
    assert machine.status == "between"
    assert set(machine.answered) == {"a", "b", "c"}, "the third is kept: one of the first two may be corrupt"
    machine.enter(phase, ROSTER, 4, 200.0)
    assert machine.status == "open"
    machine.feed(message("d", phase=phase))
    assert machine.status == "between"


def test_a_phase_that_can_no_longer_reach_its_quorum_fails() -> None:
    machine = masked_until("masked", 4)
    machine.feed(message("a", kind="decline", phase="masked"), "masking")
    assert machine.status == "failed"
    assert "masking" in machine.reason()
    short = Round(MASKED_ROUND, 3)
    short.enter("confirm", "ab", 3, 200.0)
    assert short.status == "failed"


answers = st.lists(st.tuples(st.sampled_from(["release", "decline"]), st.sampled_from(DECLINES)), min_size=4, max_size=4)


@given(answers, st.permutations(range(4)), st.permutations(range(4)), st.integers(2, 4))
def test_order_does_not_matter_while_the_quorum_is_in_reach(kinds: list, first: list, second: list, needed: int) -> None:
    def run(order: list) -> Round:
        machine = Round(ASSIGNMENT, needed)
        for i in order:
            if machine.status == "open":
                machine.feed(message(ROSTER[i], kind=kinds[i][0]), kinds[i][1] if kinds[i][0] == "decline" else "")
        return machine

    one, two = run(first), run(second)
    assert one.status == two.status
    if one.status == "closed":
        assert one == two
        assert (
            Round.replay(ASSIGNMENT, needed, [(message(s), "") for s in one.released] + [(message(s, kind="decline"), c) for s, c in one.declined.items()])
            == one
        )
