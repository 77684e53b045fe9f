"""Which categories a text variable has, found out under noise: for the contract of the next study.

A rare text may name a person, so no site may say which texts it holds. Instead everybody counts, character by character, how many
patients have a text that begins with each of the public candidates: every prefix that survived so far, followed by every character of
a public alphabet or by the end. What stands out from the noise survives (TreeHist). The candidates are known before anybody looks, so the noise
protects all by itself, whatever prefixes a coordinator asks for.

Precondition   prefixes, alphabet and lengths are public; a patient counts with `per_patient` of his or her distinct texts, at most
Pseudocode     a patient's vector: 1 in each cell (prefix, next character) that one of the texts is in, over sqrt(per_patient)
               keep the cells whose noisy count reaches the threshold; the `width` largest go on; those at the end are categories
Postcondition  at most per_patient cells are 1, so a patient's vector has norm at most 1; false categories, over all rounds and cells, are
               `FALSE` in expectation at most; nothing below the disclosure threshold of 11 patients is taken for a category
Source         Bassily, Nissim, Stemmer and Thakurta (2017), NeurIPS, Practical Locally Private Heavy Hitters (TreeHist), here with
               summed counts in place of local reports; there is no form without noise
"""

from __future__ import annotations

import json
import unicodedata
from statistics import NormalDist
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from locum.data.rows import Part, Rows
from locum.errors import TaskError
from locum.privacy.accountant import Request
from locum.privacy.clipping import factors
from locum.privacy.disclosure import THRESHOLD
from locum.study.manifest import Step, Study, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import Memory, Params, State, register_private
from locum.tasks.private.base import PrivateTask

Ints = NDArray[np.int64]
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789 -/.,()+|"
OTHER = "_"
"""Stands for every character that is not in the alphabet."""
FALSE = 0.05
"""Candidates, of all rounds together, that are expected to pass the threshold by noise alone, at most."""


class VocabularyParams(Params):
    """variable: of type text. length: characters of the longest category. width: how many prefixes are followed in a round. per_patient: how
    many distinct texts of one patient count, the first in the alphabet. alphabet: lower-case characters to tell apart."""

    variable: VariableName
    length: Annotated[int, Field(ge=1, le=200)] = 24
    width: Annotated[int, Field(ge=1, le=4096)] = 64
    per_patient: Annotated[int, Field(ge=1, le=100)] = 1
    alphabet: Annotated[str, Field(min_length=1, max_length=200)] = ALPHABET
    part: Part = "all"

    @field_validator("alphabet")
    @classmethod
    def _distinct(cls, value: str) -> str:
        if len(set(value)) < len(value) or value != normal(f"x{value}x")[1:-1] or OTHER in value:
            raise ValueError(f"list every character once, in lower case, without '{OTHER}'")
        return value


@register_private
class PrivateVocabulary(PrivateTask[VocabularyParams]):
    """One round for each character and one more for the end of the longest texts; none once no prefix is left."""

    kind = "vocabulary"
    Config = VocabularyParams
    takes = ("text",)

    def __init__(self, step: Step, params: VocabularyParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.require(params.variable)
        self.symbols = params.alphabet + OTHER
        self.end = len(self.symbols)
        self.code = {c: i for i, c in enumerate(params.alphabet)}
        self.rounds = min(step.rounds, params.length + 1)

    def reads(self) -> tuple[str, ...]:
        return (self.params.variable,)

    def request(self) -> Request:
        return self.releases(self.rounds)

    def leaves(self) -> str:
        p = self.params
        return (
            f"Each round, with noise: how many patients have a text in '{p.variable}' that begins with each of {p.width} prefixes followed by each of "
            f"{self.end} characters or its end; {self.layout({}).size} counts. Of a patient at most {p.per_patient} distinct texts count."
        )

    def layout(self, state: State) -> Layout:
        return Layout.of(counts=(self.params.width, self.end + 1))

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        if self.params.variable not in rows.texts:
            raise TaskError(f"Step '{self.step.name}' reads '{self.params.variable}', which this site's rows do not have.", fix="map that variable")
        rows = rows.part(self.params.part, self.study.data.split)
        patients, texts = self._texts(rows)
        depth, where = self._prefixes(state)
        counts = np.zeros((self.params.width, self.end + 1))
        cells = np.array([self._cell(text, depth, where) for text in texts], dtype=np.int64)
        hits = np.unique(np.column_stack([patients, cells])[cells >= 0], axis=0) if len(cells) else np.empty((0, 2), np.int64)
        weight = float(factors([np.sqrt(self.params.per_patient)])[0])  # at most per_patient cells of 1
        np.add.at(counts.reshape(-1), hits[:, 1], weight)
        return self.addend({"counts": counts}, rows.patients)

    def combine(self, state: State, total: Total) -> State:
        scale = float(np.sqrt(self.params.per_patient))
        counts, sd = np.asarray(total["counts"], float) * scale, total.noise * scale
        depth, where = self._prefixes(state)
        prefixes = sorted(where, key=lambda prefix: where[prefix])
        threshold, at = self.threshold(sd), np.asarray(self.own(state, "found") if depth else self._padded([]), np.int64)
        kept = counts[: len(prefixes)] >= threshold
        whole = [(prefixes[i], counts[i, self.end]) for i in np.flatnonzero(kept[:, self.end])] if depth else []
        onward = [(counts[i, c], (*prefixes[i], int(c))) for i, c in np.argwhere(kept[:, : self.end])]
        onward.sort(key=lambda pair: -pair[0])
        survivors = [prefix for _, prefix in onward[: self.params.width]]
        found = np.vstack([at, *(self._padded([prefix]) for prefix, _ in whole)])
        sizes = np.r_[self.own(state, "sizes") if depth else np.empty(0), [count for _, count in whole]]
        cut = bool(depth and self.own(state, "cut")) or len(onward) > self.params.width
        return self.merge(
            state,
            prefixes=self._padded(survivors),
            depth=depth + 1,
            found=found,
            sizes=sizes,
            cut=int(cut),
            noise=sd,
        )

    def done(self, state: State) -> bool:
        depth = int(state.get(self.key("depth"), np.asarray(0)))
        return depth >= self.rounds or (depth > 0 and not len(self.own(state, "prefixes")))

    def result(self, state: State) -> dict[str, Any]:
        sd = float(self.own(state, "noise"))
        pairs = sorted(zip(self.own(state, "sizes").tolist(), map(self._text, self.own(state, "found")), strict=True), reverse=True)
        names = [name for _, name in pairs]
        longer = sorted(self._text(prefix) for prefix in self.own(state, "prefixes"))
        warnings = [f"More than {self.params.width} prefixes stood out in a round; raise width to follow all."] if int(self.own(state, "cut")) else []
        if longer:
            warnings.append(f"{len(longer)} texts go on after {int(self.own(state, 'depth'))} characters; raise length to follow them.")
        if any(OTHER in name for name in names):
            warnings.append(f"'{OTHER}' stands for characters outside the alphabet.")
        return {
            "variable": self.params.variable,
            "categories": [{"category": name, "patients": round(size), "noise_sd": sd} for size, name in pairs],
            "line": f"categories = {json.dumps(names)}",
            "threshold": self.threshold(sd),
            "longer": longer,
            "warnings": warnings,
        }

    def threshold(self, sd: float) -> float:
        """The noisy count from which a candidate is taken for real. sd: of the noise in a count of patients."""
        candidates = self.rounds * self.params.width * (self.end + 1)
        return max(float(THRESHOLD), sd * NormalDist().inv_cdf(1.0 - FALSE / candidates))

    def _texts(self, rows: Rows) -> tuple[Ints, list[tuple[int, ...]]]:
        """The patient and the characters' codes of each text that counts."""
        given = rows.texts[self.params.variable]
        distinct, which = np.unique(given, return_inverse=True)
        short = [normal(text)[: self.params.length + 1] for text in distinct.tolist()]
        names = sorted(set(short) - {""})
        rank = {name: i for i, name in enumerate(names)}
        ranks = np.array([rank.get(text, -1) for text in short], dtype=np.int64)[which.reshape(-1)]
        pairs = np.unique(np.column_stack([rows.codes, ranks])[ranks >= 0], axis=0)
        first = np.searchsorted(pairs[:, 0], pairs[:, 0])
        pairs = pairs[np.arange(len(pairs)) - first < self.params.per_patient]
        codes = [tuple(self.code.get(c, self.end - 1) for c in name) for name in names]
        return pairs[:, 0], [codes[r] for r in pairs[:, 1].tolist()]

    def _prefixes(self, state: State) -> tuple[int, dict[tuple[int, ...], int]]:
        """How many characters are known, and the index of each prefix of so many."""
        depth = max(0, int(state.get(self.key("depth"), np.asarray(0))))
        if not depth:
            return 0, {(): 0}
        given = np.asarray(self.own(state, "prefixes"), np.int64)[: self.params.width, :depth]
        return depth, {tuple(row): i for i, row in enumerate(given.tolist())}

    def _cell(self, text: tuple[int, ...], depth: int, where: dict[tuple[int, ...], int]) -> int:
        """The cell of a text, or -1: it began otherwise, or ended before."""
        row = where.get(text[:depth], -1) if len(text) >= depth else -1
        return -1 if row < 0 else row * (self.end + 1) + (text[depth] if len(text) > depth else self.end)

    def _padded(self, prefixes: list[tuple[int, ...]]) -> Ints:
        out = np.full((len(prefixes), self.params.length + 1), -1, dtype=np.int64)
        for row, prefix in zip(out, prefixes, strict=True):
            row[: len(prefix)] = prefix
        return out

    def _text(self, codes: Ints) -> str:
        return "".join(self.symbols[c] for c in codes.tolist() if 0 <= c < self.end)


def normal(text: str) -> str:
    """A text as it is compared: compatibility characters unified, lower case, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
