"""Policies that ship: a sensible default, and the smallest cells of two rule books."""

from __future__ import annotations

from importlib.resources import files

from locum.governance.policy.source import PolicyError
from locum.study.document import nearest

PRESETS = {
    "default": "health research; a data set that states nothing about its use is open to nothing else",
    "cms": "no cell below 11, as the CMS cell size suppression policy asks",
    "datashield": "the disclosure filters of DataSHIELD: table 3, subset 3, glm 0.33",
}


def preset(name: str) -> str:
    """The text of a policy that ships. Raises `PolicyError`."""
    if name not in PRESETS:
        raise PolicyError(f"There is no preset '{name[:100]}'.", fix=nearest(name[:100], list(PRESETS)))
    return (files(__name__) / f"{name}.cedar").read_text(encoding="utf-8")
