"""The privacy ledgers of a site: one for each data set, opened with the first private study that is approved on it.

A ledger is bound to the bytes of its table. Where they change (a new extract of the same patients), nothing private runs until the
data manager says that it is the same patients' table: what was spent on them stays spent.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from pydantic import Field

from locum.federation.witness import LedgerHead
from locum.privacy.errors import LedgerError
from locum.privacy.filters import Filter
from locum.privacy.ledger import Created, Ledger, Rebased
from locum.site.store import DataSet, KnownStudy, Store
from locum.site.tables import fingerprint, same_table, stamp, table_sha256
from locum.study.document import Document

FOLDER = "ledgers"


class LedgerTerms(Document):
    """How much a data set's patients may lose to all studies together: [privacy] in site.toml, read when a ledger is opened.

    filter: how costs add up; 'rdp' (at one order) is the one that can also count random samples of patients.
    """

    eps: Annotated[float, Field(gt=0, le=100)] = 8.0
    delta: Annotated[float, Field(gt=0, lt=1e-3)] = 1e-6
    filter: Literal["gdp", "zcdp", "rdp"] = "gdp"
    order: Annotated[int, Field(ge=2, le=256)] = 4

    @property
    def law(self) -> Filter:
        return Filter("rdp", self.order) if self.filter == "rdp" else Filter(self.filter)


class LedgerSource(Protocol):
    """Where an agent's ledgers come from."""

    def __call__(self, known: KnownStudy, heads: Mapping[str, LedgerHead]) -> Ledger:
        """The ledger of the data set that a study was approved on. heads: what this site has stated about its ledgers before.

        Raises `LocumError` where it may not be charged.
        """


def no_ledgers(known: KnownStudy, heads: Mapping[str, LedgerHead]) -> Ledger:
    """A site without ledgers, where no private study runs."""
    raise LedgerError("This site keeps no ledger.", fix="serve it from a site folder")


@dataclass
class _Open:
    ledger: Ledger
    stamp: object
    sha256: str


class SiteLedgers:
    """The ledgers in a site's folder. May be used from several threads."""

    def __init__(self, store: Store, site: str) -> None:
        self.store, self.site = store, site
        self.folder = store.folder / FOLDER
        self._lock = threading.Lock()
        self._open: dict[str, _Open] = {}

    def __call__(self, known: KnownStudy, heads: Mapping[str, LedgerHead]) -> Ledger:
        data = self.store.data_for(known)
        ledger = self.open(data)
        if head := heads.get(data.name):
            ledger.check_witness(head.n, head.hash)
        return ledger

    def exists(self, data: DataSet) -> bool:
        return (self.folder / data.name).is_dir()

    def __enter__(self) -> SiteLedgers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, data: DataSet, *, check: bool = True) -> Ledger:
        """The ledger of a data set, if it is of these very bytes; only to look at it, without that check.

        Raises `LedgerError` or `DataError`.
        """
        if not check:
            with self._lock:
                unchecked = self._open.get(data.name) or _Open(Ledger.open(self.folder, site=self.site, dataset=data.name), None, "")
                self._open[data.name] = unchecked
                return unchecked.ledger
        with self._lock:
            now, kept = stamp(data), self._open.get(data.name)
            if kept is None or kept.stamp != now or now is None:
                sha256 = fingerprint(data)
                if kept is None or kept.sha256 != sha256:
                    if kept:
                        self._open.pop(data.name).ledger.close()
                    kept = _Open(Ledger.open(self.folder, site=self.site, dataset=data.name, data_sha256=sha256), now, sha256)
                kept.stamp = now
                self._open[data.name] = kept
            return kept.ledger

    def create(self, data: DataSet, terms: LedgerTerms, heads: Mapping[str, LedgerHead]) -> Ledger:
        """Open a ledger for a data set that has none. Raises `LedgerError` where another data set is the same table, or where this
        site has stated that it had a ledger for this one.
        """
        self.check_new(data, heads)
        table, sha256 = table_sha256(data), fingerprint(data)
        for other in self.store.data():
            if other.name != data.name and self.exists(other) and (table in self._hashes(other) or same_table(data, other)):
                raise LedgerError(
                    f"'{data.name}' is the table that '{other.name}' is, or was.",
                    why="A second ledger for the same patients would spend what they have twice.",
                    fix=f"use the data set '{other.name}'",
                )
        with self._lock:
            ledger = Ledger.create(self.folder, site=self.site, dataset=data.name, data_sha256=table, eps=terms.eps, delta=terms.delta, filter=terms.law)
            ledger.rebase(sha256)  # the table alone is on record too: another mapping makes no other patients of it
            self._open[data.name] = _Open(ledger, stamp(data), sha256)
        return ledger

    def check_new(self, data: DataSet, heads: Mapping[str, LedgerHead]) -> None:
        """Raises `LedgerError` where a ledger that this site has stated it had is gone."""
        if data.name in heads and not self.exists(data):
            raise LedgerError(
                f"The ledger of '{data.name}' is gone: this site has stated that it had {heads[data.name].n} lines.",
                why="A new one would forget what was spent.",
                fix="restore it from the latest copy, or add the table under another name if its patients are others",
            )

    def _hashes(self, data: DataSet) -> set[str]:
        """Of every table that a ledger has stood for."""
        with Ledger.open(self.folder, site=self.site, dataset=data.name) as ledger:
            return {line.entry.data_sha256 for line in ledger.lines() if isinstance(line.entry, Created | Rebased)}

    def accept(self, data: DataSet) -> Ledger:
        """Go on with the data set's present table: the same patients, another extract. What was spent stays spent."""
        with self._lock:
            if kept := self._open.pop(data.name, None):
                kept.ledger.close()
            sha256 = fingerprint(data)
            ledger = Ledger.open(self.folder, site=self.site, dataset=data.name)
            ledger.rebase(table_sha256(data))
            ledger.rebase(sha256)
            self._open[data.name] = _Open(ledger, stamp(data), sha256)
        return ledger

    def close(self) -> None:
        with self._lock:
            for kept in self._open.values():
                kept.ledger.close()
            self._open.clear()
