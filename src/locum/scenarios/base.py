"""What a scenario is: a question on real data, a study that answers it, and a table beside what each alternative would have given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from locum.scenarios.lab import Lab

Mode = Literal["clear", "masked", "private", "network"]
MODES: tuple[Mode, ...] = ("clear", "masked", "private", "network")
MEANING: dict[Mode, str] = {
    "clear": "in one process, sums as floating-point numbers",
    "masked": "in one process, the integers that masks would hide: the network's model",
    "private": "in one process, masked, with noise that protects each patient",
    "network": "real processes over HTTPS, masked",
}


@dataclass(frozen=True)
class Line:
    """One row of the table that people read.

    who: 'pooled', 'federated', 'personalised', 'each site alone', 'majority class', ... value: None where there is no answer, and `note`
    says why. reference: the figure of the publication or the specification. note: n, and how the interval was made.
    """

    who: str
    metric: str
    value: float | None
    ci95: tuple[float, float] | None = None
    reference: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a scenario found. figures: name -> SVG text. notes: what this does not show. metrics: what a benchmark prints."""

    lines: tuple[Line, ...]
    figures: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def headline(self) -> Line | None:
        """The figure by which modes are compared: the first of the federated model."""
        return next((line for line in self.lines if line.who == "federated"), None)


@dataclass(frozen=True)
class Scenario:
    """data: names of the registry. studies: the study files that it ships. without: mode -> why it is not offered. needs: modules of the extra
    'scenarios' without which it has no answer."""

    name: str
    title: str
    question: str
    data: tuple[str, ...]
    studies: tuple[str, ...]
    answer: Callable[[Lab], Outcome]
    modes: tuple[Mode, ...] = ("clear", "masked", "network")
    without: Mapping[Mode, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()

    def reason(self, mode: Mode) -> str:
        """Why the mode is not offered; '' if it is."""
        return "" if mode in self.modes else self.without.get(mode, "it would not be another answer")


def interval(value: float, se: float | None, *, low: float = float("-inf"), high: float = float("inf")) -> tuple[float, float] | None:
    """The normal 95 % interval, cut to [low, high]; None without a standard error."""
    return None if se is None else (max(low, value - 1.959964 * se), min(high, value + 1.959964 * se))


def plain(outcome: Outcome) -> dict[str, Any]:
    """An outcome as plain JSON data; figures by name only, since they are files of their own."""
    return {
        "lines": [
            {"who": x.who, "metric": x.metric, "value": x.value, "ci95": list(x.ci95) if x.ci95 else None, "reference": x.reference, "note": x.note}
            for x in outcome.lines
        ],
        "figures": sorted(outcome.figures),
        "notes": list(outcome.notes),
        "metrics": dict(outcome.metrics),
    }
