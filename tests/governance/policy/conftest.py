"""A study, and a question about it, whose parts a test changes."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from locum import Study
from locum.governance.policy import Permissions, Question


def make_study(governance: dict[str, Any] | None = None, terms: dict[str, Any] | None = None, **more: Any) -> Study:
    return Study.parse(
        {
            "schema": "locum/study/1",
            "name": "asked",
            "data": {"variables": {"x": {}}},
            "terms": {"privacy": "none", "min_rows": 11, **(terms or {})},
            "governance": governance or {},
            "plan": [{"name": "m", "task": "moments", "variables": ["x"]}],
            **more,
        }
    )


@pytest.fixture
def study() -> Callable[..., Study]:
    return make_study


@pytest.fixture
def question() -> Callable[..., Question]:
    """At noon on a Tuesday, in UTC."""

    def make(governance: dict[str, Any] | None = None, terms: dict[str, Any] | None = None, permissions: dict[str, Any] | None = None, **more: Any) -> Question:
        asked = Question(
            study=make_study(governance, terms), requester="ida", key="0123-4567-89ab-cdef", data="main", now=datetime(2026, 11, 24, 12, tzinfo=UTC),
            code="a" * 64, permissions=Permissions.parse(permissions or {}), patients=1000, remaining=8.0,
        )  # fmt: skip
        approval = more.get("approval")
        if approval and approval.study == "1" * 64:  # of this study, whose digest a test does not know beforehand
            more["approval"] = replace(approval, study=asked.study.digest)
        return replace(asked, **more)

    return make
