"""A site's table becomes `Rows`: the contract's variables of the cohort's rows, typed, in the contract's units and coding.

Called genotypes stay packed from the file to the task: an array that a `GenotypeSource` can give as two bits a genotype is not read by chunks.

What is not a value at all stops `load_rows`; what is a value but cannot be right, or is too often missing, is for the gates to judge
(`locum.data.gates`), which report on every variable before they refuse.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from locum.data.cohort import included
from locum.data.convert import arrays_of, cells_of, convert, identifiers, storable, texts_of
from locum.data.gates.words import TYPES, advice, place, reasons
from locum.data.mapping import Column, SiteMapping
from locum.data.patients import is_test, pseudonyms
from locum.data.rows import Rows
from locum.data.sources.base import MAX_CELLS, Source, open_source
from locum.data.sources.genotypes import GENOTYPES, GenotypeSource
from locum.errors import DataError, TooLarge, agree, counted
from locum.study.manifest import DataSpec, Study


def load_rows(study: Study, mapping: str | Path | None = None, source: str | Path | None = None, key: bytes | None = None) -> Rows:
    """The study's variables from a site's table.

    mapping: the site's mapping file; without one every variable is the column of the same name. source: the data, in place of what
    the mapping names. key: the site's key for pseudonyms (`patients.load_key`); without one identifiers stay as they are. Raises
    `ManifestError`, `DataError`, `TooLarge` or `Unavailable`.
    """
    site = SiteMapping.load(mapping) if mapping is not None else SiteMapping()
    return to_rows(study.data, open_source(site.source, source, key), site, key)


def to_rows(data: DataSpec, source: Source, mapping: SiteMapping | None = None, key: bytes | None = None) -> Rows:
    """The contract's variables of the cohort's rows, typed; read chunk by chunk. Raises as `load_rows`."""
    mapping = mapping or SiteMapping()
    have = source.columns()
    found = mapping.resolve(data, have, source.name)
    packed = _packed(data, source, found)
    listed = data.model_copy(update={"variables": {n: v for n, v in data.variables.items() if n not in packed}})
    reader = _Reader(listed, mapping, found, source.name)
    for chunk in source.chunks(reader.needs or have[:1]):
        reader.add(chunk)
    refuse_unreadable(source, mapping.source.accept_refused)
    rows = reader.rows(key)
    if packed and isinstance(source, GenotypeSource):
        genotypes = source.packed()[reader.kept]
        refuse_unreadable(source, mapping.source.accept_refused)
        rows = replace(rows, arrays={**rows.arrays, **dict.fromkeys(packed, genotypes)})
    return rows


def _packed(data: DataSpec, source: Source, found: Mapping[str, Column]) -> list[str]:
    """The array variables that the source gives as two bits a genotype; raises `DataError` where one has another length in the contract."""
    if not isinstance(source, GenotypeSource) or not source.called:
        return []
    names = [n for n, v in data.variables.items() if v.type == "array" and found[n].column == GENOTYPES]
    for name in names:
        wanted, there = data.variables[name].shape, len(source.variant_names)
        if wanted != (there,):
            raise DataError(
                f"'{name}' is to be an array of shape {list(wanted)}, and {there:,} variants are chosen from {source.name}.",
                fix="name the study's variants, in its order, in variants_file under [source]; or correct the contract's shape",
            )
    return names


def refuse_unreadable(source: Source, accepted: float) -> None:
    """Raise `DataError` where more records were unreadable than the mapping accepts."""
    tally = source.tally
    if tally.refused.total() > accepted * tally.read:
        raise DataError(
            f"{tally.refused.total():,} of {counted(tally.read, 'record')} of {source.name} cannot be used: {reasons(tally.refused)}.",
            why="No record is guessed or dropped in silence.",
            fix="correct them at their source, or accept the loss with accept_refused = 0.01 (a share) under [source] in the mapping",
        )


class _Reader:
    """Chunks of a table, one after the other, as the columns of `Rows`."""

    def __init__(self, data: DataSpec, mapping: SiteMapping, found: dict[str, Column], where: str) -> None:
        self.data, self.mapping, self.found, self.where = data, mapping, found, where
        self.needs = sorted({c for name in data.variables for c in found[name].reads})
        self.names = {n: v for n, v in data.variables.items() if v.role != "patient"}
        self._parts: list[Rows] = []
        self._kept: list[NDArray[np.intp]] = []
        self._bad: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self._seen = self._cells = self._nameless = 0

    def add(self, frame: pl.DataFrame) -> None:
        spec, found = self.mapping.source, self.found
        if not self._seen:
            self._refuse_types(frame)
        places = np.arange(self._seen, self._seen + len(frame))
        self._seen += len(frame)
        columns, arrays, texts = {}, {}, {}
        for name, variable in self.names.items():
            cells, bad = cells_of(frame, found[name], spec)
            if variable.type == "array":
                arrays[name] = arrays_of(cells, variable, name)
            elif variable.type == "text":
                texts[name] = texts_of(cells, found[name], spec)
            else:
                columns[name], wrong = convert(cells, variable, found[name], spec)
                bad += wrong
            self._bad[name] += bad
        part = Rows(columns, self._who(frame), arrays, texts)
        self._cells += len(frame) * (len(columns) + len(texts)) + sum(a.size for a in arrays.values())
        if self._cells > MAX_CELLS:
            raise TooLarge(f"{self.where} has more than {MAX_CELLS:,} cells in the study's columns.", fix="split the site, or map fewer variables")
        if self.data.cohort.include:
            keep, left_out = included(self.data, columns)
            self._left_out += left_out
            part, places = part.take(keep), places[keep]
        self._parts.append(part)
        self._kept.append(places)

    @property
    def kept(self) -> NDArray[np.intp]:
        """Which of the source's rows belong to the cohort."""
        return np.concatenate(self._kept)

    def rows(self, key: bytes | None) -> Rows:
        """Everything that was read, or the reason why it cannot be used. key: for pseudonyms."""
        if not self._seen:
            raise DataError(f"{self.where} has no rows.", fix="check the export, and the filter that made it")
        self._refuse_bad()
        if not any(len(p) for p in self._parts):
            raise DataError(
                f"No row of {self.where} belongs to the study's cohort: {reasons(self._left_out)}.", fix="check the units and codes in the mapping, or stay out"
            )
        columns, arrays, texts = (
            {n: np.concatenate([getattr(p, kind)[n] for p in self._parts]) for n in getattr(self._parts[0], kind)} for kind in ("columns", "arrays", "texts")
        )
        identified, split = self.data.of_role("patient") is not None, self.data.of_role("split")
        who = np.concatenate([p.patient for p in self._parts]) if identified else np.arange(sum(len(p) for p in self._parts)).astype(np.str_)
        rows = Rows(columns, who, arrays, texts)
        if split:
            test = self._test(columns[split], split)
            refuse_both_parts(rows, test)
            rows = replace(rows, test=test)
        if not identified or key is None:
            return rows
        test = rows.test if rows.test is not None else is_test(rows.distinct, self.data.split)[rows.codes]
        return replace(rows, patient=pseudonyms(who.tolist(), key), test=test)

    def _who(self, frame: pl.DataFrame) -> NDArray[np.str_]:
        """The patient of each row; an empty name where the contract has no such variable, and every row is a patient."""
        name = self.data.of_role("patient")
        if name is None:
            return np.full(len(frame), "", dtype=np.str_)
        column = self.found[name]
        who = identifiers(cells_of(frame, column, self.mapping.source)[0], column, self.mapping.source)
        self._nameless += who.null_count()
        return who.fill_null("").to_numpy().astype(np.str_)

    def _refuse_types(self, frame: pl.DataFrame) -> None:
        for name, variable in self.data.variables.items():
            for column in self.found[name].reads:
                kind = frame[column].dtype
                if not storable(kind) or (isinstance(kind, pl.Array) != (variable.type == "array")):
                    what = f"The column '{column}' of {self.where} holds {kind}, not {TYPES[variable.type]}."
                    raise DataError(what, fix="export it as numbers, text or dates")
                if kind.is_temporal() and variable.type in ("number", "integer") and self.found[name].expression is None:
                    what = f"The column '{column}' of {self.where} holds dates, and '{name}' is a number."
                    raise DataError(what, fix=f'count days by an expression: {name} = {{ expression = "{column} - another_date", dates = [...] }}')

    def _refuse_bad(self) -> None:
        if self._nameless:
            who = f"{self._nameless:,} of {counted(self._seen, 'row')} {agree(self._nameless, 'has', 'have')}"
            raise DataError(
                f"{who} no patient identifier, or one that was cut to a rounded number.",
                why="Without one, a patient's rows cannot be kept together.",
                fix="complete the identifiers, or leave those rows out of the export; long numbers are exported as text",
            )
        bad = {n: count for n, count in self._bad.items() if count}
        if bad:
            of = f"of {counted(self._seen, 'cell')}"
            told = [f"{count:,} {of} {place(self.found[n], n)} {agree(count, 'is', 'are')} not {TYPES[self.names[n].type]}" for n, count in [*bad.items()][:5]]
            fixes = dict.fromkeys(advice(self.names[n], self.found[n]) for n in bad)
            raise DataError("; ".join(told) + ".", why="No cell is guessed or dropped.", fix="; ".join(fixes))

    def _test(self, column: NDArray[np.float64], name: str) -> NDArray[np.bool_]:
        missing = int(np.isnan(column).sum())
        if missing:
            raise DataError(
                f"{counted(missing, 'row does', 'rows do')} not say in '{name}' which part {agree(missing, 'it is', 'they are')} in.",
                fix="complete it: 1 for test, 0 for training",
            )
        return np.asarray(column == 1)


def refuse_both_parts(rows: Rows, test: NDArray[np.bool_]) -> None:
    """Raise `DataError` where a patient is trained on and tested on. test: which rows are tested on, shape (n,)."""
    both = len(np.unique(np.column_stack([rows.codes, test]), axis=0)) - rows.patients
    if both:
        raise DataError(
            f"{counted(both, 'patient is', 'patients are')} in the training part and in the test part.",
            why="A model would be tested on patients whom it has seen.",
            fix="give all of a patient's rows the same value",
        )
