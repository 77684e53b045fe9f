"""A first mapping of a site's table to a study's contract, with the reason for each line: for a data manager to correct.

A column is proposed by its name (words, abbreviations and their synonyms in four languages, LOINC codes) and by whether its values
are what the contract expects; the best assignment of all variables at once is taken. What is uncertain says so, and what cannot be
told is left as a comment to fill in: codes 1 and 2 are asked, not guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from locum.data import toml_text as toml
from locum.data.fit import Fit, fit
from locum.data.mapping import SiteMapping
from locum.data.names import alike, meant
from locum.data.profile import profile
from locum.data.sources.base import Source, SourceSpec
from locum.study.contract import DataSpec, Variable

Sure = Literal["sure", "likely", "doubtful", "none"]
NAME_SHARE = 0.7
"""How much of the score is the name's; the rest is the values'."""
MAX_PAIRS = 100_000
"""Names that are compared letter by letter; beyond, word by word."""
LEAST_SCORE, LIKELY, CERTAIN = 0.45, 0.62, 0.82


@dataclass(frozen=True)
class Proposal:
    """What is proposed for one variable. entry: the mapping's, None where nothing is. ask: what only the site can say."""

    variable: str
    column: str | None
    score: float
    sure: Sure
    reasons: tuple[str, ...]
    entry: dict[str, Any] | None = None
    ask: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proposed:
    """The mapping, and why. `unused`: columns of the table that no variable needs."""

    proposals: tuple[Proposal, ...]
    source: SourceSpec
    rows: int
    unused: tuple[str, ...] = ()

    @property
    def mapping(self) -> SiteMapping:
        """All lines that are proposed, sure or not, as a mapping."""
        columns = {p.variable: p.entry for p in self.proposals if p.entry is not None}
        return SiteMapping.parse({"source": self.source.model_dump(exclude_unset=True), "columns": columns}, where="proposal")

    def to_toml(self) -> str:
        """The text of a mapping file, in which only sure lines take effect. It may quote codes of the table, so it stays at the site."""
        lines = [
            toml.comment("Proposed from the names and values of the table. Read every line, and correct it; the reasons may then go."),
            toml.comment("What is not sure is commented out: remove the # where it is right."),
            "[source]",
        ]
        lines += [f"{k} = {toml.value(v)}" for k, v in self.source.model_dump(exclude_unset=True).items()]
        lines += ["", "[columns]"]
        for p in self.proposals:
            lines += ["", toml.comment(f"{p.sure}: {'; '.join(p.reasons)}" if p.reasons else p.sure)]
            lines += [toml.comment(f"ASK: {question}") for question in p.ask]
            if p.entry is not None:
                short = p.entry["column"] if [*p.entry] == ["column"] else p.entry
                lines.append(f"{'' if p.sure == 'sure' else '# '}{p.variable} = {toml.value(short)}")
            else:
                guess = {"column": p.column or "...", **({"values": {"...": "..."}} if p.column else {})}
                lines.append(toml.comment(f"{p.variable} = {toml.value(guess)}"))
        if self.unused:
            lines += ["", toml.comment("not needed: " + ", ".join(self.unused))]
        return "\n".join(lines) + "\n"


def propose_mapping(data: DataSpec, source: Source, spec: SourceSpec | None = None) -> Proposed:
    """For every variable of `data` the likeliest column of `source`. Reads the source once, and raises what it raises.

    spec: the [source] that the mapping is to have.
    """
    spec = spec or SourceSpec()
    found = profile(source, spec)
    variables, columns = [*data.variables], [*found]
    letters, have = len(variables) * len(columns) <= MAX_PAIRS, [meant(c) for c in columns]
    wanted = [_wanted(v, data.variables[v]) for v in variables]
    scored = [[_name_score(v, data.variables[v], c, w, h, letters) for c, h in zip(columns, have, strict=True)] for v, w in zip(variables, wanted, strict=True)]
    names = np.array(scored).reshape(len(variables), len(columns))
    scores = np.zeros_like(names)
    fits: dict[tuple[int, int], Fit] = {}
    for i, v in enumerate(variables):
        for j in _worth_a_look(names[i]):
            values = fits[i, j] = fit(v, data.variables[v], found[columns[j]])
            scores[i, j] = (NAME_SHARE * names[i, j] + (1 - NAME_SHARE) * values.score) * (1.0 if values.score > 0.05 else 0.5)
    chosen = _assign(scores)
    proposals = []
    for i, v in enumerate(variables):
        tried = {j: f for (k, j), f in fits.items() if k == i}
        found_one = i in chosen and _proposal(v, columns, scores[i], float(names[i, chosen[i]]), chosen[i], tried[chosen[i]])
        proposals.append(found_one or _unfound(v, columns, names[i], tried))
    used = {p.column for p in proposals}
    return Proposed(tuple(proposals), spec, max((p.rows for p in found.values()), default=0), tuple(c for c in columns if c not in used))


def _worth_a_look(names: NDArray[np.float64]) -> list[int]:
    """The columns whose names are not out of the question, at most 25."""
    return [int(j) for j in np.argsort(-names, kind="stable")[:25] if names[j] > 0.2]


def _assign(scores: NDArray[np.float64]) -> dict[int, int]:
    """Variable -> column, each column for one variable, with the largest sum of scores."""
    from scipy.optimize import linear_sum_assignment

    rows, cols = linear_sum_assignment(scores, maximize=True)
    return {int(i): int(j) for i, j in zip(rows, cols, strict=True) if scores[i, j] >= LEAST_SCORE}


def _wanted(name: str, variable: Variable) -> dict[str, float]:
    """The concepts that a variable may be, by its code, name, label and role."""
    wanted = meant(name, variable.code, variable.label)
    if {"female", "male"} & {*wanted}:
        wanted |= {other: max(wanted.get(other, 0.0), 0.4) for other in ("female", "male")}  # the one is the other, turned round
        wanted["sex"] = max(wanted.get("sex", 0.0), 0.95 * max(wanted.get("female", 0.0), wanted.get("male", 0.0)))
    if variable.role in ("patient", "time", "event", "outcome", "group"):
        wanted[variable.role] = max(wanted.get(variable.role, 0.0), 0.75)
    return wanted


def _name_score(name: str, variable: Variable, column: str, wanted: dict[str, float], have: dict[str, float], letters: bool) -> float:
    """How likely a column of this name is the variable, from 0 to 1. wanted, have: the concepts that either may be."""
    code = (variable.code or "").rpartition("|")[2]
    if len(code) >= 4 and code in column:
        return 1.0
    words = max(alike(name, column, letters=letters), 0.95 * alike(variable.label, column, letters=letters) if variable.label else 0.0)
    shared = max((wanted[k] * have[k] for k in wanted if k in have), default=0.0)
    if variable.role == "patient" and any(w in column.lower() for w in ("stay", "encounter", "visit", "hadm", "fall")):
        shared *= 0.9  # a patient may have several
    if shared:
        return max(0.97 * shared, words)
    if max(wanted.values(), default=0.0) >= 0.9 and max(have.values(), default=0.0) >= 0.9 and words < 1.0:
        return min(words, 0.15)  # both are known, and they are not the same
    return words


def _unfound(name: str, columns: list[str], names: NDArray[np.float64], fits: Mapping[int, Fit]) -> Proposal:
    best = int(np.argmax(names)) if len(columns) else None
    near = f"the nearest name is '{columns[best]}'" if best is not None and names[best] > 0.3 else "no column has a name like it"
    if best is not None and names[best] > NAME_SHARE and best in fits:
        return Proposal(name, None, 0.0, "none", (f"'{columns[best]}' has such a name, and its values are none of this variable",), ask=tuple(fits[best].ask))
    return Proposal(name, None, 0.0, "none", (near,))


def _proposal(name: str, columns: list[str], scores: NDArray[np.float64], likeness: float, chosen: int, values: Fit) -> Proposal:
    column, score = columns[chosen], float(scores[chosen])
    rivals = [columns[int(j)] for j in np.argsort(-scores, kind="stable") if j != chosen and scores[j] >= score - 0.05]
    sure: Sure = "sure" if score >= CERTAIN and not rivals and not values.ask else "likely" if score >= LIKELY else "doubtful"
    how = "the same name" if alike(name, column) == 1.0 else "a name that means the same" if likeness >= 0.7 else "a similar name"
    reasons = (f"'{column}' has {how}", *values.reasons, *([f"or '{rivals[0]}'?"] if rivals else []))
    entry = {"column": column, **values.entry} if values.usable else None
    return Proposal(name, column, round(score, 3), sure, reasons, entry, tuple(values.ask))
