"""Study files to start from: one or more for each scenario, and 'blank'."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any

from locum.errors import NotFound
from locum.study import Study
from locum.study.document import nearest


def names() -> list[str]:
    """The study files that ship with Locum."""
    return sorted(f.name.removesuffix(".toml") for f in resources.files(__name__).iterdir() if f.name.endswith(".toml"))


def text(name: str) -> str:
    """The text of one; raises `NotFound`."""
    if name not in names():
        raise NotFound(f"There is no study file '{name}' to start from.", fix=nearest(name, names()))
    return (resources.files(__name__) / f"{name}.toml").read_text(encoding="utf-8")


def study(name: str, **terms: Any) -> Study:
    """One as a study, with some of its terms changed; raises `NotFound` or `ManifestError`."""
    value = tomllib.loads(text(name))
    return Study.parse({**value, "terms": {**value.get("terms", {}), **terms}}, where=f"{name}.toml")
