"""A ledger as its owner reads it: balance, studies, lines; and the few things that an owner may say to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from locum.client import Api, Membership, Patience
from locum.client.membership import open_connection
from locum.errors import DataError, LocumError, NotFound
from locum.federation.budget import budget_of
from locum.federation.witness import LedgerHead
from locum.privacy.ledger import Balance, Ledger, StudyBalance, WhatIf
from locum.site.folder import open_store
from locum.site.ledgers import SiteLedgers
from locum.site.store import DataSet, Store
from locum.study.manifest import Study


@dataclass(frozen=True)
class StudyLine(StudyBalance):
    """A study in the statement. state: 'open', 'used up' or 'settled'."""

    state: str = ""


@dataclass(frozen=True)
class LedgerLine:
    """One line of the ledger in words."""

    n: int
    time: float
    kind: str
    details: str


@dataclass(frozen=True)
class Statement:
    """The ledger of one data set. what_if: what a further study would do to it."""

    data: str
    filter: str
    unit: str
    balance: Balance
    studies: tuple[StudyLine, ...]
    lines: tuple[LedgerLine, ...]
    head: str
    witness: str
    what_if: WhatIf | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        b = self.balance
        out = [
            f"Ledger of '{self.data}': eps {b.eps:g}, delta {b.delta:g} for each {self.unit}, over all studies ({self.filter} filter).",
            f"Spent: eps {b.eps_spent:.3g}. Spent or set aside: eps {b.eps_held:.3g}. A study that takes all that is left could have eps {b.eps_left:.3g}.",
        ]
        if self.what_if:
            w = self.what_if
            fits = "there is room" if w.fits else "there is no room"
            out.append(f"The study asked about: alone eps {w.eps_alone:.3g}; with it eps {w.eps_after:.3g} of {w.eps:g} would be spent or set aside: {fits}.")
        out.append(f"{len(self.lines)} lines; the chain of hashes holds, and the anchor knows none that is missing. Last line: {self.head[:16]}.")
        out.append(self.witness)
        return "\n".join(out)


def statement(folder: Path, data: str | None, study: Study | None = None) -> Statement:
    """The ledger of a data set, checked line by line. Raises `LedgerError`, `NotFound` or `DataError`."""
    with _ledger(folder, data) as (ledger, chosen):
        _, head = ledger.verify()
        created, budget = ledger.created, budget_of(study) if study else None
        if study and budget is None:
            raise LocumError("That study's sums are exact: it costs no budget, and protects nobody.", fix="ask about one with eps and delta")
        return Statement(
            data=chosen.name,
            filter=created.filter.kind + (f" at order {created.filter.order:g}" if created.filter.order else ""),
            unit=created.unit,
            balance=ledger.balance(),
            studies=tuple(StudyLine(**asdict(s), state=_state(s)) for s in ledger.studies()),
            lines=tuple(LedgerLine(x.n, x.time, type(x.entry).__name__.lower(), _details(x.entry)) for x in ledger.lines()),
            head=head,
            witness=_witnessed(folder, chosen.name, ledger),
            what_if=ledger.what_if(budget.priced, study.terms.privacy.spare) if study and budget else None,
        )


def _witnessed(folder: Path, name: str, ledger: Ledger) -> str:
    """What the coordinator, which keeps this site's own signed statement, says. Raises `LedgerError` if it knows of lines that are gone."""

    stated = stated_heads(folder)
    if stated is None:
        return "The coordinator, which keeps this site's statement of its last line, cannot be reached: it was not compared."
    head = stated.get(name)
    if head is None:
        return "The coordinator has no statement of this site about this ledger."
    ledger.check_witness(head.n, head.hash)
    return f"The coordinator keeps this site's signed statement of line {head.n}: it is in the ledger."


def stated_heads(folder: Path) -> dict[str, LedgerHead] | None:
    """What this site has stated about its ledgers, as the coordinator keeps it; None where it cannot be reached."""

    async def ask() -> dict[str, LedgerHead]:
        async with Api(open_connection(folder, patience=Patience(attempts=1, connect_s=3.0, answer_s=5.0))) as api:
            return await api.ledgers()

    try:
        return asyncio.run(ask())
    except LocumError:
        return None


def accept_table(folder: Path, data: str | None) -> str:
    """Go on with the table's present bytes; their SHA-256."""
    with open_store(folder) as store, SiteLedgers(store, Membership.load(folder).name) as ledgers:
        return ledgers.accept(_choose(store, ledgers, data)).data_sha256


def settle_study(folder: Path, data: str | None, digest: str) -> StudyBalance:
    """Free what a study has not used. Raises `NotFound`."""
    with _ledger(folder, data) as (ledger, chosen):
        found = [s.study for s in ledger.studies() if s.study.startswith(digest)]
        if len(found) != 1:
            raise NotFound(f"{len(found) or 'No'} studies in the ledger of '{chosen.name}' start with '{digest}'.", fix="locum site ledger lists them")
        return ledger.settle(found[0])


@contextmanager
def _ledger(folder: Path, data: str | None) -> Iterator[tuple[Ledger, DataSet]]:
    with open_store(folder) as store, SiteLedgers(store, Membership.load(folder).name) as ledgers:
        chosen = _choose(store, ledgers, data)
        yield ledgers.open(chosen, check=False), chosen


def _choose(store: Store, ledgers: SiteLedgers, wanted: str | None) -> DataSet:
    found = [d for d in store.data() if d.name == wanted] if wanted else [d for d in store.data() if ledgers.exists(d)]
    if wanted and not found:
        raise DataError(f"This site has no data set '{wanted}'.", fix="locum site data list shows them")
    if not found:
        raise NotFound("This site has no ledger yet.", why="One is opened with the first private study that is approved.")
    if len(found) > 1:
        raise DataError("This site has several ledgers.", fix=f"give --data, one of: {', '.join(d.name for d in found)}")
    return found[0]


def _state(s: StudyBalance) -> str:
    if s.settled:
        return "settled"
    return "used up" if s.rounds_charged >= s.rounds_planned + s.rounds_spare else "open"


def _details(entry: Any) -> str:
    fields = msgspec.to_builtins(entry)
    fields.pop("type", None)
    plan = fields.pop("plan", None)
    shown = [f"{k} {v[:12] if isinstance(v, str) and len(v) == 64 else v}" for k, v in fields.items() if not isinstance(v, dict)]
    return ", ".join(shown + ([f"{len(plan)} steps"] if plan else []))
