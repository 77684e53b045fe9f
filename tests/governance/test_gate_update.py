"""What an envelope lets change, and that nothing beside it does."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest

from locum import Study
from locum.governance.update import changes, continued, judged

TODAY = date(2026, 11, 24)


def study(envelope: dict[str, Any] | None = None, **more: Any) -> Study:
    plan = [
        {"name": "train", "task": "logistic", "features": ["x"], "outcome": "y", "part": "train", "rounds": 20},
        {"name": "test", "task": "evaluate_binary", "model": "train"},
    ]
    variables = {"x": {}, "y": {"type": "boolean", "role": "outcome"}}
    base = {"name": "t", "data": {"variables": variables}, "terms": {"privacy": "none"}, "plan": plan, "governance": {"envelope": envelope or {}}}
    return Study.parse({**base, **more})


def edited(old: Study, path: str, value: Any) -> Study:
    raw = json.loads(old.canonical)
    here: Any = raw
    *way, last = path.split(".")
    for key in way:
        here = next(s for s in here if s["name"] == key) if isinstance(here, list) else here[key]
    here[last] = value
    return Study.parse(raw)


def test_paths_of_what_differs() -> None:
    old = study()
    new = edited(edited(edited(old, "seed", 5), "plan.train.rounds", 30), "data.split.test_share", 0.4)
    found = changes(old, new)
    assert [(c.path, c.before, c.after) for c in found] == [("data.split.test_share", "0.3", "0.4"), ("plan.train.rounds", "20", "30"), ("seed", "0", "5")]
    assert changes(old, old) == ()


@pytest.mark.parametrize(
    ("may", "path", "value", "good"),
    [
        (["seed"], "seed", 5, True),
        (["plan.train.rounds"], "plan.train.rounds", 30, True),
        (["plan.train"], "plan.train.rounds", 30, True),
        (["plan.tra"], "plan.train.rounds", 30, False),
        (["plan.train.rounds"], "plan.train.ridge", 0.5, False),
        (["data.split"], "data.split.test_share", 0.4, True),
        (["governance"], "governance.envelope.updates", 9999, False),
        (["governance.envelope.updates"], "governance.envelope.updates", 9999, False),
        (["governance"], "governance.gate", {"evaluation": "test"}, False),
        (["governance"], "governance.publishes", False, True),
        (["requester"], "requester", "somebody else", False),
        ([], "title", "T", False),
    ],
)
def test_the_envelope(may: list[str], path: str, value: Any, good: bool) -> None:
    old = study({"may_change": may})
    found = judged(old, edited(old, path, value), used=0, today=TODAY)
    assert found.within is good
    assert good or path.split(".")[-1] in found.reason


def test_steps_that_come_go_or_move() -> None:
    old = study({"may_change": ["plan.train"]})
    raw = json.loads(old.canonical)
    extra = {**raw["plan"][1], "name": "again"}
    for plan in ([*raw["plan"], extra], raw["plan"][:1]):
        assert not judged(old, Study.parse({**raw, "plan": plan}), used=0, today=TODAY).within
    moved = Study.parse({**raw, "plan": [{**raw["plan"][1], "part": "all"}, {**raw["plan"][0]}]})
    assert "plan" in judged(old, moved, used=0, today=TODAY).outside


def test_a_name_with_a_dot_is_no_way_around() -> None:
    raw = json.loads(study({"may_change": ["plan.a.b"]}).canonical)
    old = Study.parse({**raw, "plan": [*raw["plan"], {**raw["plan"][0], "name": "a.b"}]})
    new = json.loads(old.canonical)
    new["plan"][2]["rounds"] = 99
    assert judged(old, Study.parse(new), used=0, today=TODAY).outside == ('plan."a.b".rounds',)


def test_count_and_last_day() -> None:
    old = study({"may_change": ["seed"], "updates": 2, "until": "2026-11-24"})
    new = edited(old, "seed", 5)
    assert judged(old, new, used=1, today=TODAY).within
    assert "2 updates, and 2 were made" in judged(old, new, used=2, today=TODAY).reason
    assert "ended on 2026-11-24" in judged(old, new, used=0, today=date(2026, 11, 25)).reason


@pytest.mark.parametrize(
    ("before", "now", "status", "rests"),
    [(["a", "b"], ["a", "b", "c"], "PASS", False), (["a", "b"], ["a"], "BLOCK", True), ([], ["a"], "BLOCK", True)],
)
def test_outside_only_with_approvals_of_its_own(before: list[str], now: list[str], status: str, rests: bool) -> None:
    old = study()
    check, stays = continued(old, edited(old, "title", "T"), used=0, today=TODAY, before=before, now=now)
    assert (check.status, stays) == (status, rests)
    assert "title" in check.reason


def test_the_same_study_cannot_be_its_own_renewal() -> None:
    old = study({"updates": 1})
    check, _ = continued(old, old, used=1, today=TODAY, before=["a"], now=["a"])
    assert check.status == "BLOCK"
    assert continued(old, old, used=0, today=TODAY, before=["a"], now=["a"])[0].status == "PASS"
