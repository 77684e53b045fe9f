"""What the cards are made of: plain data about one finished run, and a word for every field that nobody stated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from locum.study.canonical import canonical, sha256

NOT_STATED = "not stated"
Plain = Mapping[str, Any]


@dataclass(frozen=True)
class Package:
    """One installed Python package. licence: as its own metadata say, '' where they do not. needs: names of those that it asks for and that are there."""

    name: str
    version: str
    licence: str = ""
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """A finished run. study: the manifest. run, rounds: `RunView` and `RoundView`s. privacy: the run's privacy card. All as plain data.

    digest: of the study. model_bytes: the length of the model's file. approved: the sites that approved the study. leaves: step -> what leaves a
    site for it. rosters: SHA-256 of the signed rosters under which the run was masked. code, version, python, packages: of the installation
    that writes the cards, which need not be that of the coordinator or of the sites.
    """

    study: Plain
    digest: str
    run: Plain
    rounds: Sequence[Plain]
    privacy: Plain
    model_bytes: int
    approved: Sequence[str] = ()
    leaves: Mapping[str, str] = field(default_factory=dict)
    rosters: Sequence[str] = ()
    code: str = ""
    version: str = ""
    python: str = ""
    packages: Sequence[Package] = ()

    @property
    def model(self) -> str:
        """SHA-256 of the model's file."""
        return str(self.run["model"])

    @property
    def governance(self) -> Plain:
        return self.study["governance"]  # type: ignore[no-any-return]

    @property
    def terms(self) -> Plain:
        return self.study["terms"]  # type: ignore[no-any-return]

    @property
    def variables(self) -> Mapping[str, Plain]:
        return self.study["data"]["variables"]  # type: ignore[no-any-return]

    @property
    def title(self) -> str:
        return str(self.study["title"] or self.study["name"])

    @cached_property
    def contract(self) -> str:
        """SHA-256 of the data contract: of its file, or where it has none of the study's own [data], RFC 8785."""
        origin = self.study["data"].get("origin")
        return str(origin["sha256"]) if origin else sha256(canonical(dict(self.study["data"])))

    def steps(self, *tasks: str) -> list[tuple[str, str, Plain]]:
        """Name, task and result of the steps that gave one; of these tasks, or of every task."""
        results = self.run["results"]
        return [(s["name"], s["task"], results[s["name"]]) for s in self.study["plan"] if s["name"] in results and (not tasks or s["task"] in tasks)]

    @cached_property
    def fitted(self) -> list[tuple[str, str]]:
        """Name and task of the steps whose model another step judges."""
        judged = {s["model"] for s in self.study["plan"] if isinstance(s.get("model"), str)}
        return [(s["name"], s["task"]) for s in self.study["plan"] if s["name"] in judged]

    @cached_property
    def rows(self) -> int | None:
        """Rows at all sites together, as the data check counted them."""
        counts = [r["rows"] for _, _, r in self.steps("data_check") if isinstance(r.get("rows"), int)]
        return counts[0] if counts else None

    @cached_property
    def in_sums(self) -> tuple[int, int] | None:
        """The fewest and the most sites in a sum of this run that was read."""
        summed = [int(r["summed"]) for r in self.rounds if r["status"] == "closed"]
        return (min(summed), max(summed)) if summed else None


@dataclass(frozen=True)
class Gap:
    """A field that nobody stated. key: the manifest key that would fill it, '' where none does and a person has to."""

    file: str
    field: str
    key: str = ""


class Gaps:
    """Collects what one file had to leave open."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.found: list[Gap] = []

    def say(self, name: str, value: object, key: str = "") -> str:
        """The value as text, or 'not stated' and a line in the list."""
        text = "" if value is None else str(value).strip()
        if not text:
            self.found.append(Gap(self.file, name, key))
        return text or NOT_STATED


def stamp(seconds: float | None) -> str | None:
    """A time of the run as RFC 3339 text in UTC, to the second."""
    return None if seconds is None else datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
