"""Back-off: bounds, jitter, an end where one is wanted, and one word at the beginning and the end of an outage."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.client.patience import A_WHILE, FOR_EVER, Patience, Retries, Transient, Tries
from locum.errors import Unavailable
from locum.testing import Clock


@given(st.integers(1, 10**6), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_within_its_bounds(failures: int, uniform: float) -> None:
    p = FOR_EVER
    delay = p.delay(failures, uniform)
    assert 0 <= delay <= p.cap_s
    assert delay <= p.first_s * 2.0 ** min(failures - 1, 60)


def test_delays_double_and_are_spread_over_the_whole_interval() -> None:
    p = Patience(first_s=0.1, cap_s=15.0)
    assert [p.delay(n, 0.999999) for n in (1, 2, 3, 9, 10)] == pytest.approx([0.1, 0.2, 0.4, 15.0, 15.0], rel=1e-5)
    assert p.delay(5, 0.0) == 0.0


class Flaky:
    """Fails until the clock says that the outage is over."""

    def __init__(self, clock: Clock, until: float, **trouble: Any) -> None:
        self.clock, self.until, self.trouble, self.calls = clock, until, trouble, 0

    async def __call__(self, tries: Tries) -> str:
        self.calls += 1
        if self.clock() < self.until:
            raise Transient("no route", **self.trouble)
        return "done"


def retries(clock: Clock, patience: Patience, told: list[Any]) -> Retries:
    return Retries(patience, lambda event, details: told.append((event, dict(details))), clock, clock.sleep, lambda: 0.5)


def test_six_minutes_are_waited_out_with_one_word_at_each_end() -> None:
    clock, told = Clock(), []
    flaky = Flaky(clock, clock() + 360)
    assert asyncio.run(retries(clock, FOR_EVER, told).until_done(flaky)) == "done"
    assert [event for event, _ in told] == ["coordinator away", "coordinator back"]
    assert told[0][1]["reason"] == "no route"
    assert 360 <= told[1][1]["after_s"] < 360 + FOR_EVER.cap_s
    assert max(clock.slept) == 7.5
    assert 30 < flaky.calls < 80, "neither a storm nor a nap"


def test_patience_ends_with_the_reason() -> None:
    clock, told = Clock(), []
    flaky = Flaky(clock, float("inf"), fix="plug it in")
    with pytest.raises(Unavailable) as error:
        asyncio.run(retries(clock, A_WHILE, told).until_done(flaky))
    assert flaky.calls == A_WHILE.attempts
    assert (error.value.why, error.value.fix) == ("no route", "plug it in")


def test_a_hopeless_case_is_told_at_once_to_a_person_and_tried_on_by_a_site() -> None:
    clock = Clock()
    with pytest.raises(Unavailable):
        asyncio.run(retries(clock, A_WHILE, []).until_done(Flaky(clock, float("inf"), hopeless=True)))
    assert clock.slept == []
    assert asyncio.run(retries(clock, FOR_EVER, []).until_done(Flaky(clock, clock() + 60, hopeless=True))) == "done"


def test_the_other_sides_wish_is_respected_within_bounds() -> None:
    clock = Clock()
    asyncio.run(retries(clock, FOR_EVER, []).until_done(Flaky(clock, clock() + 1, after=5.0)))
    assert clock.slept == [5.0]
    asyncio.run(retries(clock, FOR_EVER, []).until_done(Flaky(clock, clock() + 1, after=1e9)))
    assert clock.slept[-1] == FOR_EVER.cap_s


def test_progress_starts_the_count_anew() -> None:
    clock, left = Clock(), 50

    async def once(tries: Tries) -> int:
        nonlocal left
        left -= 1
        if left:
            tries.progress()
            raise Transient("cut")
        return left

    assert asyncio.run(retries(clock, Patience(attempts=3), []).until_done(once)) == 0, "49 cuts, never 3 in a row"
