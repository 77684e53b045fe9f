"""Medical questions on real data, each with its study, its answer and what every alternative would have given."""

from __future__ import annotations

import importlib

from locum.errors import NotFound
from locum.scenarios.base import MODES, Line, Mode, Outcome, Scenario, interval, plain
from locum.scenarios.lab import Lab, Ran
from locum.study.document import nearest

_MODULES = {
    "stroke": "stroke",
    "aspirin": "aspirin",
    "stroke-personal": "stroke_personal",
    "heart": "heart",
    "breast-cancer": "breast_cancer",
    "lung": "lung",
    "rare-disease": "rare_disease",
    "flu": "flu",
    "ecg": "ecg",
    "watch": "watch",
    "imaging": "imaging",
    "gwas": "gwas",
}


def names() -> list[str]:
    """The scenarios, in the order in which one would read about them."""
    return list(_MODULES)


def scenario(name: str) -> Scenario:
    """The scenario called `name`; raises `NotFound`."""
    if name not in _MODULES:
        raise NotFound(f"There is no scenario '{name}'.", fix=nearest(name, names()))
    found: Scenario = importlib.import_module(f"locum.scenarios.{_MODULES[name]}").SCENARIO
    return found


__all__ = ["MODES", "Lab", "Line", "Mode", "Outcome", "Ran", "Scenario", "interval", "names", "plain", "scenario"]
