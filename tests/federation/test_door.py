"""The door: what belongs together, what was summed before, and which protection was approved."""

from typing import Any

import numpy as np
import pytest

from locum.federation.door import Door, Masks, ReleaseDeclined, SitePolicy
from locum.federation.identity import Identity
from locum.federation.summation import wire_layout
from locum.federation.wire import Assignment
from locum.secagg.masks import Stream
from locum.study.manifest import Privacy, Terms
from locum.study.vector import Contribution, Layout

LAYOUT = Layout.of(x=(2,))
ROSTER = ("a", "b", "c", "d", "e")
ASSIGNMENT = Assignment(
    study="s", run="r", seq=0, step=0, iteration=0, roster=ROSTER, state="x", state_bytes=1,
    layout=wire_layout(LAYOUT).digest, vector_bytes=1, deadline=9.0, seed=0,
)  # fmt: skip
EXACT = Privacy(unit="none")
MASKED, CLEAR = Terms(privacy=EXACT), Terms(privacy=EXACT, aggregation="clear")
DOOR, ME = Door("a", SitePolicy()), Identity.generate()
MASKS = Masks([Stream(bytes(32), "self", 1)], bytes(32), 5)


class Log:
    def __init__(self) -> None:
        self.entries: list[Any] = []

    def record(self, entry: Any) -> None:
        self.entries.append(entry)


def contribution(**change: Any) -> Contribution:
    return Contribution(**{"vector": {"x": np.array([1.5, -2.25])}, "rows": 7, "purpose": "test", **change})


def release(terms: Terms, covered: Masks | None, log: Log, *, protected_for: Terms | None = None) -> Any:
    protected = DOOR.protect(contribution(), LAYOUT, ASSIGNMENT, protected_for or terms)
    return DOOR.release(protected, ASSIGNMENT, terms, step="s", recipient="r", identity=ME, log=log, covered=covered)


@pytest.mark.parametrize(
    ("terms", "covered", "protected_for"), [(MASKED, None, None), (CLEAR, MASKS, None), (MASKED, None, CLEAR), (CLEAR, None, MASKED), (MASKED, MASKS, CLEAR)]
)
def test_a_vector_leaves_under_the_approved_protection_or_not_at_all(terms: Terms, covered: Masks | None, protected_for: Terms | None) -> None:
    log = Log()
    with pytest.raises(ReleaseDeclined, match="do not belong together"):
        release(terms, covered, log, protected_for=protected_for)
    assert log.entries == []


def test_a_masked_vector_is_masked_signed_and_logged() -> None:
    log = Log()
    made = release(MASKED, MASKS, log)
    plain = DOOR.protect(contribution(), LAYOUT, ASSIGNMENT, MASKED)
    assert (made.vector["wide"] != plain.vector["wide"]).all()
    (entry,) = log.entries
    assert (entry.cohort, entry.scalars, entry.digest) == (5, 3, made.digest)
    assert entry.protection.startswith("updates: masked")


@pytest.mark.parametrize(
    ("terms", "policy", "code"),
    [
        (MASKED, SitePolicy(min_cohort=6), "too_small_cohort"),
        (Terms(privacy=EXACT, min_cohort=9), SitePolicy(), "too_small_cohort"),
        (CLEAR, SitePolicy(allow_clear=False), "policy"),
        (MASKED, SitePolicy(retired=("mlkem768-x25519",)), "policy"),
    ],
)
def test_what_the_door_does_not_admit(terms: Terms, policy: SitePolicy, code: str) -> None:
    with pytest.raises(ReleaseDeclined) as error:
        Door("a", policy).admit(ASSIGNMENT, terms)
    assert error.value.decline == code


@pytest.mark.parametrize("weight", [np.nan, np.inf, -1.0])
def test_a_weight_that_is_none(weight: float) -> None:
    with pytest.raises(ReleaseDeclined) as error:
        DOOR.protect(contribution(weight=weight), LAYOUT, ASSIGNMENT, MASKED)
    assert error.value.decline == "task"


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e300, 2.0**62])
def test_numbers_that_cannot_be_masked(value: float) -> None:
    with pytest.raises(ReleaseDeclined) as error:
        DOOR.protect(contribution(vector={"x": np.array([1.0, value])}), LAYOUT, ASSIGNMENT, MASKED)
    assert error.value.decline == "task"


def test_the_same_numbers_are_summed_again_only_where_the_difference_is_no_small_sum() -> None:
    first, far = frozenset("abcdefgh"), frozenset("abcijkmn")
    DOOR.check_differences(first, [], MASKED)
    DOOR.check_differences(first, [first], MASKED)
    DOOR.check_differences(far, [first], MASKED)
    DOOR.check_differences(far, [first, far], MASKED)
    for now, before in ((first - {"h"}, [first]), (first | {"i"}, [first]), (frozenset("abcdxyz"), [first, far]), (frozenset("uvwxyz"), [first, far])):
        with pytest.raises(ReleaseDeclined, match="summed before") as error:
            DOOR.check_differences(now, before, MASKED)
        assert error.value.decline == "differencing"
