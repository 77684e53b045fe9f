"""The privacy ledger of one data set: an append-only, hash-chained account of what every study may spend and has spent. The site holds it.

ledger.db      the lines: created, reserved, charged, settled, rebased; one JSON object each, which names the hash of the one before
ledger.head    the anchor: the last line once more, written before the ledger commits it; see `anchor`

Precondition   prices are those of a fully adaptive filter: additive over rounds that are chosen as one goes. One unit's presence
               decides only its own rows. Noise of a round is fresh, and so is a Poisson draw. A charge comes before
               the round's rows are read; what leaves is durable before it leaves.
Pseudocode     price of one round of release r:  p_r = filter.cost(r, 0), rounded up to a multiple of 2^-40
               epoch of iteration i:             i // batches in fixed order, else i itself
               reserve(study, plan, spare):      R = sum_r p_r * epochs_r + spare * (price of the costliest round)
                                                 refuse unless held + R <= limit;  append
               charge(study, run, seq, step, i): c = sum of p_r over the releases r of the step for which (step, i) has now run more
                                                     often than any iteration of its epoch (a repetition is one participation more)
                                                 refuse unless the plan has a round left and charged + c <= R;  append
               settle(study):                    what was not charged is free again; nothing is charged after
               held = sum over studies of (R while a round is left, else what was charged);  limit = filter.limit(eps, delta), rounded down
Postcondition  At every time charged <= R for every study, and their sum <= held <= limit: everything that left the data set under
               this ledger is (eps, delta)-private by the filter's theorem, whatever crashed and whoever asked.
Sources        Koskela, Tobaben, Honkela 2022, "Individual Privacy Accounting with Gaussian Differential Privacy" (GDP filter: sum of
               mu_i^2); Feldman, Zrnic 2021, "Individual Privacy Accounting via a Renyi Filter"; Whitehouse, Ramdas, Rogers, Wu 2023,
               "Fully Adaptive Composition in Differential Privacy" (zCDP).

Why floats may be added here: every price is a multiple of 2^-40 of at most 2^13, so that every sum below 2^13 has at most 53 bits
and is exact, in any order. Rounding up costs a round at most 1e-12.

Repetitions in fixed order: no more than one window of `band` rounds covers a round for one patient (band <= batches), so a round's
repetition adds at most its window's largest c_j^2 / z^2, and an epoch whose rounds all ran m times costs m participations.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil, floor, isnan
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Annotated, Any, Literal, Self, TypeVar

import msgspec

from locum.errors import Unavailable
from locum.privacy.accountant import Noise, Plan
from locum.privacy.adjacency import Unit, check_unit
from locum.privacy.anchor import MAX_LINE, RESTORE, Anchor, NoAnchor, line_hash
from locum.privacy.durable import statements
from locum.privacy.errors import BudgetExhausted, LedgerError
from locum.privacy.filters import Filter
from locum.privacy.sampler import FixedOrder, FullBatch, Poisson, Sampler

_SCHEMA = """
CREATE TABLE line (n INTEGER PRIMARY KEY, line BLOB NOT NULL) STRICT;
CREATE TRIGGER line_is_not_edited BEFORE UPDATE ON line BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER line_is_not_erased BEFORE DELETE ON line BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""
_MIGRATIONS = (_SCHEMA,)
_QUANTA = 2.0**40
MAX_COST = 4096.0
_TOO_MUCH = 2 * MAX_COST
_AWAY = {3, 5, 6, 7, 8, 9, 10, 13, 14}  # PERM BUSY LOCKED NOMEM READONLY INTERRUPT IOERR FULL CANTOPEN

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
DataName = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9][a-z0-9_.-]{0,63}\Z")]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Cost = Annotated[float, msgspec.Meta(ge=0, le=MAX_COST)]
Index = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
Rounds = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


# --- the lines: what is written, and all that is believed when it is read ---------------------------------------------


class FilterTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which filter a ledger adds up with, for good."""

    kind: Literal["gdp", "zcdp", "rdp"]
    order: Annotated[float, msgspec.Meta(gt=1, le=1024)] | None = None


class FullTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="full"):
    """Every patient in every round."""


class PoissonTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="poisson"):
    """Each patient by its own coin in every round."""

    rate: Annotated[float, msgspec.Meta(gt=0, le=1)]


class FixedTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="fixed"):
    """Batches in a fixed order, with noise correlated over a band."""

    batches: Rounds
    band: Rounds


class ReleaseTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A release as it was reserved. price: cost of one round, or in fixed order of one epoch."""

    step: Text
    sampler: FullTerms | PoissonTerms | FixedTerms
    multiplier: Annotated[float, msgspec.Meta(gt=0, le=1e9)]
    rounds: Rounds
    noise: Noise
    price: Cost

    @property
    def period(self) -> int:
        """Rounds in one epoch: within it no patient takes part twice."""
        return self.sampler.batches if isinstance(self.sampler, FixedTerms) else 1

    @property
    def total(self) -> float:
        return min(self.price * ceil(self.rounds / self.period), _TOO_MUCH)


class Created(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="created"):
    """The first line. `filter`, `eps`, `delta`, `unit`, `site` and `dataset` never change."""

    site: Text
    dataset: DataName
    data_sha256: Sha256
    unit: Unit
    eps: Annotated[float, msgspec.Meta(gt=0, le=1000)]
    delta: Annotated[float, msgspec.Meta(gt=0, le=0.1)]
    filter: FilterTerms


class Reserved(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="reserved"):
    """A study may spend this plan, and `spare` rounds more, as repetitions."""

    study: Text
    requester: Text
    plan: Annotated[tuple[ReleaseTerms, ...], msgspec.Meta(min_length=1, max_length=1024)]
    spare: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]

    @property
    def unpriced(self) -> Reserved:
        """What was asked for: prices are this release's of Locum, and may differ in the last digit in the next."""
        return msgspec.structs.replace(self, plan=tuple(msgspec.structs.replace(r, price=0.0) for r in self.plan))

    @property
    def rounds(self) -> dict[str, int]:
        """Planned rounds by step."""
        return {r.step: r.rounds for r in self.plan}

    @property
    def cost(self) -> float:
        """The whole reservation."""
        costliest = max(sum(r.price for r in self.plan if r.step == step) for step in self.rounds)
        return min(sum(r.total for r in self.plan) + (self.spare * costliest if self.spare else 0.0), _TOO_MUCH)


class Charged(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="charged"):
    """A round that was answered, or may have been. run, seq: which. step, iteration: its place in the plan."""

    study: Text
    run: Text
    seq: Index
    step: Text
    iteration: Index
    cost: Cost


class Settled(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="settled"):
    """A study is over."""

    study: Text


class Rebased(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="rebased"):
    """The same patients' data has other bytes from here on."""

    data_sha256: Sha256


Entry = Created | Reserved | Charged | Settled | Rebased


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line: its number from 1, when it was written (seconds since 1970, UTC), the hash of the line before, and what it says."""

    n: Annotated[int, msgspec.Meta(ge=1, le=1 << 53)]
    time: Annotated[float, msgspec.Meta(ge=0, le=1e12)]
    previous: Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{64})?\Z")]
    entry: Entry


_LINE = msgspec.json.Decoder(Line, strict=True)


# --- what the ledger answers ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Charge:
    """What a round costs. fresh: False where it was charged before, and nothing was added."""

    study: str
    run: str
    seq: int
    cost: float
    fresh: bool


@dataclass(frozen=True)
class StudyBalance:
    """One study's account, in the filter's cost and as eps at the ledger's delta, were it alone. held: what others cannot have."""

    study: str
    requester: str
    reserved: float
    charged: float
    held: float
    rounds_planned: int
    rounds_spare: int
    rounds_charged: int
    settled: bool
    eps_reserved: float
    eps_charged: float


@dataclass(frozen=True)
class Balance:
    """The whole account. spent + reserved + left = limit, in the filter's cost.

    spent: charged so far, by all. reserved: what open studies may still charge. eps_spent, eps_held: of spent, and of
    spent + reserved. eps_left: of a study that takes all that is left. eps: the ledger's. All at the ledger's delta.
    """

    spent: float
    reserved: float
    left: float
    limit: float
    eps_spent: float
    eps_held: float
    eps_left: float
    eps: float
    delta: float


@dataclass(frozen=True)
class WhatIf:
    """What a plan would do to the ledger. eps_alone: of the plan by itself. eps_after: of everything held, with it.

    shortfall: cost that it needs above what is left; 0 where it fits. A plan too large for any ledger counts as 2^13.
    """

    cost: float
    fits: bool
    shortfall: float
    eps_alone: float
    eps_after: float
    eps: float
    delta: float


# --- the account: lines folded into what they mean --------------------------------------------------------------------


@dataclass
class _Study:
    terms: Reserved
    charges: dict[tuple[str, int], Charged] = field(default_factory=dict)
    runs_of: dict[tuple[str, int], int] = field(default_factory=dict)
    most_in: dict[tuple[str, int, int], int] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    charged: float = 0.0
    settled: bool = False

    @cached_property
    def reserved(self) -> float:
        return self.terms.cost

    @cached_property
    def rounds(self) -> Mapping[str, int]:
        return MappingProxyType(self.terms.rounds)

    @property
    def spare_left(self) -> int:
        return self.terms.spare - sum(max(0, used - self.rounds[step]) for step, used in self.used.items())

    @property
    def over(self) -> bool:
        return self.settled or len(self.charges) >= sum(self.rounds.values()) + self.terms.spare

    @property
    def held(self) -> float:
        return self.charged if self.over else self.reserved

    def price(self, step: str, iteration: int) -> float:
        """What one more round costs: see the module's pseudocode."""
        times = self.runs_of.get((step, iteration), 0) + 1
        due = (r.price for r in self.terms.plan if r.step == step and times > self.most_in.get((step, r.period, iteration // r.period), 0))
        return sum(due, 0.0)

    def refusal(self, step: str, iteration: int) -> str:
        """Why one more round is outside the reservation; '' where it is inside."""
        if step not in self.rounds:
            return f"The plan has no step '{step}'."
        if self.used.get(step, 0) >= self.rounds[step] and self.spare_left <= 0:
            return f"The plan has {self.rounds[step]} rounds of step '{step}' and {self.terms.spare} spare rounds, and all were charged."
        if self.charged + self.price(step, iteration) > self.reserved:
            return "One more repetition costs more than is left of the reservation."
        return ""

    def add(self, c: Charged) -> None:
        times = self.runs_of[(c.step, c.iteration)] = self.runs_of.get((c.step, c.iteration), 0) + 1
        for period in {r.period for r in self.terms.plan if r.step == c.step}:
            epoch = (c.step, period, c.iteration // period)
            self.most_in[epoch] = max(times, self.most_in.get(epoch, 0))
        self.used[c.step] = self.used.get(c.step, 0) + 1
        self.charges[(c.run, c.seq)] = c
        self.charged += c.cost


class _Account:
    """Lines read so far, each checked against the chain and against what the lines before it allow."""

    def __init__(self) -> None:
        self.n, self.last, self.head = 0, b"", ""
        self.created: Created | None = None
        self.data_sha256 = ""
        self.studies: dict[str, _Study] = {}

    def decode(self, raw: object) -> Line:
        """The next line. Raises `LedgerError` where it is not one, or does not follow."""
        line = _decode(raw)
        if line is None or line.n != self.n + 1 or line.previous != self.head or not self._allowed(line.entry):
            raise _edited(self.n + 1)
        return line

    def learn(self, raw: bytes) -> None:
        entry = self.decode(raw).entry
        match entry:
            case Created():
                self.created, self.data_sha256 = entry, entry.data_sha256
            case Rebased():
                self.data_sha256 = entry.data_sha256
            case Reserved():
                self.studies[entry.study] = _Study(entry)
            case Charged():
                self.studies[entry.study].add(entry)
            case Settled():
                self.studies[entry.study].settled = True
        self.n, self.last, self.head = self.n + 1, raw, line_hash(raw)

    def _allowed(self, entry: Entry) -> bool:
        if isinstance(entry, Created):
            return self.n == 0
        if self.n == 0 or isinstance(entry, Rebased):
            return self.n > 0
        study = self.studies.get(entry.study)
        if isinstance(entry, Reserved):
            return study is None
        if study is None or study.settled:
            return False
        return isinstance(entry, Settled) or self._is_due(study, entry)

    @staticmethod
    def _is_due(study: _Study, c: Charged) -> bool:
        return (c.run, c.seq) not in study.charges and not study.refusal(c.step, c.iteration) and c.cost == study.price(c.step, c.iteration)


# --- the ledger -------------------------------------------------------------------------------------------------------


class Ledger:
    """One data set's ledger. May be used from several threads. Several processes may have it open, each with an object
    that it made itself: none survives a fork.

    Every method may raise `LedgerError`: the files were edited, damaged or put back from a copy; nothing should run then.
    `Unavailable`: the disk is full, or the file is locked for too long; a charge that met it may or may not count, and is
    found by its (study, run, seq) when it is tried again.
    """

    def __init__(self, file: Path | None, anchor: Anchor, *, clock: Callable[[], float] = time.time) -> None:
        """For `create`, `open` and `in_memory`, which say what the ledger must be."""
        self._anchor, self._clock = anchor, clock
        self._lock = threading.RLock()
        self._account = _Account()
        with _explained():
            self._db = sqlite3.connect(file or ":memory:", isolation_level=None, check_same_thread=False, timeout=20.0)
            try:
                if file is not None:
                    os.chmod(file, 0o600)
                # one file, not WAL: a copy of ledger.db is all or nothing. EXTRA: the folder too is durable at a commit
                for pragma in ("trusted_schema = OFF", "journal_mode = DELETE", "synchronous = EXTRA"):
                    self._db.execute(f"PRAGMA {pragma}")
            except BaseException:
                self._db.close()
                raise

    @classmethod
    def create(
        cls,
        folder: str | Path,
        *,
        site: str,
        dataset: str,
        data_sha256: str,
        unit: Unit = "patient",
        eps: float = 8.0,
        delta: float = 1e-6,
        filter: Filter = Filter("gdp"),  # noqa: B008 - frozen
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """A new ledger in `folder`/`dataset`; all that it is given holds for good. data_sha256: of the data set's bytes.

        Raises `LedgerError` where there is a ledger, or half of one.
        """
        created = _created(site, dataset, data_sha256, unit, eps, delta, filter)
        home = Path(folder) / dataset
        file, anchor = home / "ledger.db", Anchor(home / "ledger.head")
        if anchor.exists():
            raise LedgerError(f"There is a ledger for '{dataset}', or half of one.", fix=f"open it; if ledger.db is gone, {RESTORE}")
        with _explained():
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
        return cls._begin(cls(file, anchor, clock=clock), created)

    @classmethod
    def in_memory(
        cls,
        *,
        site: str,
        dataset: str,
        data_sha256: str,
        unit: Unit = "patient",
        eps: float = 8.0,
        delta: float = 1e-6,
        filter: Filter = Filter("gdp"),  # noqa: B008 - frozen
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """A ledger that lasts as long as its process, for simulation."""
        return cls._begin(cls(None, NoAnchor(), clock=clock), _created(site, dataset, data_sha256, unit, eps, delta, filter))

    @classmethod
    def open(cls, folder: str | Path, *, site: str, dataset: str, data_sha256: str | None = None, clock: Callable[[], float] = time.time) -> Self:
        """The ledger in `folder`/`dataset`, with every line checked.

        data_sha256: of the data set as it is now, for whoever is about to read rows; without it no check. Raises
        `LedgerError`: no ledger, another site's or data set's, other data, edited, damaged or rolled back.
        """
        if _invalid(dataset, DataName):
            raise LedgerError("That is not a name for a data set.", fix="use up to 64 lower-case letters, digits, '-', '_' and '.'")
        home = Path(folder) / dataset
        file, anchor = home / "ledger.db", Anchor(home / "ledger.head")
        if not file.exists():
            if anchor.exists():
                raise LedgerError("ledger.db is missing, though ledger.head is there.", why="A new ledger would forget what was spent.", fix=RESTORE)
            raise LedgerError(f"There is no ledger for '{dataset}' here.", fix=f"create one; if there was one, {RESTORE}")
        ledger = cls(file, anchor, clock=clock)
        try:
            ledger._must_be_of(site, dataset)
            if data_sha256 is not None:
                ledger.check_data(data_sha256)
        except BaseException:
            ledger.close()
            raise
        return ledger

    @classmethod
    def _begin(cls, ledger: Self, created: Created) -> Self:
        try:
            with ledger._turn() as account:
                if account.created is not None:
                    raise LedgerError(f"There is a ledger for '{created.dataset}' already.", fix="open it")
                ledger._append(created)
        except BaseException:
            ledger.close()
            raise
        return ledger

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # --- spending -----------------------------------------------------------------------------------------------------

    def reserve(self, study: str, plan: Plan, spare: int = 0, *, requester: str) -> StudyBalance:
        """Set aside the cost of a plan and of `spare` rounds more, before any row is read. Once per study; the same again is a no-op.

        Raises `BudgetExhausted` where it does not fit, `LedgerError` where the study was reserved with other terms or is
        settled, and whatever the filter says of a plan that it cannot add up.
        """
        terms = self._asked(study, requester, plan, spare)
        with self._turn() as account:
            known = account.studies.get(study)
            if known is None:
                self._must_fit(terms)
                self._append(terms)
            elif known.settled:
                raise LedgerError("This study is settled.", why="What it did not use may be another's by now.", fix="submit a new study")
            elif known.terms.unpriced != terms.unpriced:
                raise LedgerError("This study was reserved with other terms.", fix="submit what changed as a new study")
            return self._balance_of(account.studies[study])

    def charge(self, study: str, run: str, seq: int, step: str, iteration: int) -> Charge:
        """Count a round as released, durably, before its rows are read. Once per (study, run, seq); the same again is a no-op.

        Raises `BudgetExhausted` for a round outside the reservation, `LedgerError` where there is none, it is settled, or
        (run, seq) was charged as another round. A charge is never taken back.
        """
        _valid(Charged(study, run, seq, step, iteration, 0.0))
        with self._turn() as account:
            account_of = self._reserved(account, study)
            known = account_of.charges.get((run, seq))
            if known is None:
                self._append_charge(account_of, run, seq, step, iteration)
            elif (known.step, known.iteration) != (step, iteration):
                raise LedgerError("A round with this run and number was charged as another step or iteration.", fix="give each round a number of its own")
            return Charge(study, run, seq, account_of.charges[(run, seq)].cost, fresh=known is None)

    def _append_charge(self, account_of: _Study, run: str, seq: int, step: str, iteration: int) -> None:
        if account_of.settled:
            raise LedgerError("This study is settled: nothing more is charged to it.", fix="submit a new study")
        if refusal := account_of.refusal(step, iteration):
            raise BudgetExhausted("This round is outside what the study reserved.", why=refusal, fix="submit a new study for more rounds")
        self._append(Charged(account_of.terms.study, run, seq, step, iteration, account_of.price(step, iteration)))

    def settle(self, study: str) -> StudyBalance:
        """The study is over: what it did not charge is free again. Again is a no-op. Raises `LedgerError` for an unknown study."""
        with self._turn() as account:
            account_of = self._reserved(account, study)
            if not account_of.settled:
                self._append(Settled(study))
            return self._balance_of(account_of)

    def rebase(self, data_sha256: str) -> None:
        """The data set has other bytes now; its patients keep what they have spent. The hash that it has is a no-op."""
        _valid(Rebased(data_sha256))
        with self._turn() as account:
            if account.data_sha256 != data_sha256:
                self._append(Rebased(data_sha256))

    # --- looking ------------------------------------------------------------------------------------------------------

    @property
    def created(self) -> Created:
        """The ledger's terms."""
        with self._turn() as account:
            return _begun(account)

    @property
    def data_sha256(self) -> str:
        """Of the data set that the ledger stands for now."""
        with self._turn() as account:
            return account.data_sha256

    def check_data(self, data_sha256: str) -> None:
        """Raises `LedgerError` where the data set is not the one that this ledger stands for."""
        if self.data_sha256 != data_sha256:
            raise LedgerError(
                "The data set's hash is not the one in its ledger.",
                why="Its rows changed since, or it is another data set.",
                fix="if the patients are the same, accept the table (locum site ledger accept), which keeps what was spent; else give it a name of its own",
            )

    def lines(self) -> tuple[Line, ...]:
        """Every line, oldest first. `msgspec.json.encode` or `msgspec.to_builtins` makes JSON of them."""
        with self._turn():
            return tuple(_LINE.decode(raw) for _, raw in self._rows(1))

    def balance(self) -> Balance:
        """What is spent, set aside and left."""
        with self._turn() as account:
            spent = sum((s.charged for s in account.studies.values()), 0.0)
            held = _held(account)
            left, terms = max(0.0, self._limit - held), _begun(account)
            eps = {"eps_spent": self._eps(spent), "eps_held": self._eps(held), "eps_left": self._eps(left)}
            return Balance(spent, held - spent, left, self._limit, **eps, eps=terms.eps, delta=terms.delta)

    def studies(self) -> tuple[StudyBalance, ...]:
        """Each study's account, in the order in which they reserved."""
        with self._turn() as account:
            return tuple(self._balance_of(s) for s in account.studies.values())

    def what_if(self, plan: Plan, spare: int = 0) -> WhatIf:
        """What reserving a plan would do; nothing is written. Raises what the filter says of a plan that it cannot add up."""
        cost = self._asked("-", "-", plan, spare).cost
        with self._turn() as account:
            held, terms = _held(account), _begun(account)
            short = max(0.0, held + cost - self._limit)
            return WhatIf(cost, short == 0, short, self._eps(cost), self._eps(held + cost), terms.eps, terms.delta)

    def head(self) -> tuple[int, str]:
        """Number and hash of the last line, for a witness outside this folder to keep. The hash stands for all lines up to it."""
        with self._turn() as account:
            return account.n, account.head

    def check_witness(self, n: int, hash: str) -> None:
        """Compare with what a witness once got from `head`. Raises `LedgerError` where the witness knows a line that is not here."""
        with self._turn() as account:
            if n > account.n:
                what = f"The ledger was rolled back: a witness knows {n} lines, and it has {account.n}."
                raise LedgerError(what, why="ledger.db and ledger.head were both put back from an older copy, or begun anew.", fix=RESTORE)
            if n < 1 or [line_hash(raw) for number, raw in self._rows(n, n)] != [hash]:
                raise LedgerError(f"Line {n} of the ledger is not the one that a witness knows.", why="The ledger was rewritten or replaced.", fix=RESTORE)

    def verify(self) -> tuple[int, str]:
        """Read every line again and check it; `head`. Raises `LedgerError` that names the first line that does not fit."""
        with self._turn() as account:
            fresh = _Account()
            for _, raw in self._rows(1):
                fresh.learn(raw)
            if (fresh.n, fresh.head) != (account.n, account.head):
                raise _edited(account.n)
            return account.n, account.head

    # --- prices -------------------------------------------------------------------------------------------------------

    @cached_property
    def _terms_once(self) -> Created:
        return self.created

    @cached_property
    def _filter(self) -> Filter:
        return _filter(self._terms_once.filter)

    @cached_property
    def _limit(self) -> float:
        return _down(self._filter.limit(self._terms_once.eps, self._terms_once.delta))

    def _eps(self, cost: float) -> float:
        return float(self._filter.epsilon(cost, self._terms_once.delta)) if cost > 0 else 0.0

    def _asked(self, study: str, requester: str, plan: Plan, spare: int) -> Reserved:
        """The reservation as it would be written; a price may still be too large for a line."""
        free = tuple(ReleaseTerms(r.step, _sampler_terms(r.sampler), r.multiplier, r.rounds, r.noise, 0.0) for r in plan.releases)
        _valid(Reserved(study, requester, free, spare))
        rounds = {r.step: r.rounds for r in free}
        if any(r.rounds != rounds[r.step] for r in free):
            raise LedgerError("The releases of one step have different numbers of rounds.", why="A round pays for all of them.", fix="name the steps apart")
        # in fixed order the first round of an epoch bears the price of all; it is no less than a repetition's
        prices = (_up(self._filter.cost(r, 0)) for r in plan.releases)
        return Reserved(study, requester, tuple(msgspec.structs.replace(r, price=p) for r, p in zip(free, prices, strict=True)), spare)

    def _must_fit(self, asked: Reserved) -> None:
        held = _held(self._account)
        if held + asked.cost <= self._limit:
            return
        left, terms = max(0.0, self._limit - held), self._terms_once
        alone, room, so_far, after = (self._eps(cost) for cost in (asked.cost, left, held, held + asked.cost))
        raise BudgetExhausted(
            f"The study costs eps {alone:.3g}, and what is left of the data set's budget pays for one of eps {room:.3g}.",
            why=f"Of eps {terms.eps:g} at delta {terms.delta:g}, eps {so_far:.3g} is spent or reserved; with this study it would be {after:.4g}.",
            fix="ask for fewer rounds, fewer spare rounds or more noise, or settle studies that are over",
        )

    def _balance_of(self, s: _Study) -> StudyBalance:
        return StudyBalance(
            study=s.terms.study,
            requester=s.terms.requester,
            reserved=s.reserved,
            charged=s.charged,
            held=s.held,
            rounds_planned=sum(s.rounds.values()),
            rounds_spare=s.terms.spare,
            rounds_charged=len(s.charges),
            settled=s.settled,
            eps_reserved=self._eps(s.reserved),
            eps_charged=self._eps(s.charged),
        )

    @staticmethod
    def _reserved(account: _Account, study: str) -> _Study:
        if study not in account.studies:
            raise LedgerError("This study has reserved nothing in the ledger.", fix="reserve its plan before its first round")
        return account.studies[study]

    def _must_be_of(self, site: str, dataset: str) -> None:
        with self._turn() as account:
            terms = _begun(account)
            if (terms.site, terms.dataset) != (site, dataset):
                raise LedgerError("This is the ledger of another site or data set.", why="The folder was copied or renamed.", fix="open the right folder")

    # --- the file -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _turn(self) -> Iterator[_Account]:
        """The account, up to date, with nobody else writing meanwhile. A line appended in it is committed at once."""
        with self._lock, _explained():
            if self._db.in_transaction:  # a method that calls another
                yield self._account
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._migrate()
                self._catch_up()
                yield self._account
                if self._db.in_transaction:
                    self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        self._db.execute("ROLLBACK")

    def _migrate(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > len(_MIGRATIONS):
            raise LedgerError("This ledger was made by a later release.", fix="update Locum on this machine")
        for number, script in enumerate(_MIGRATIONS[version:], version + 1):
            for statement in statements(f"{script}PRAGMA user_version = {number};\n"):
                self._db.execute(statement)

    def _catch_up(self) -> None:
        """Learn what other processes wrote, and complete the line of one that was killed before its commit."""
        account = self._account
        rows = self._rows(max(account.n, 1))
        if account.n and next(rows, None) != (account.n, account.last):
            raise LedgerError("The ledger was rolled back or edited while it was open.", fix=RESTORE)
        for n, raw in rows:
            if n != account.n + 1:
                raise _edited(account.n + 1)
            account.learn(raw)
        pending = self._anchor.pending(account.n, account.last)
        if pending is not None:
            account.decode(pending)
            self._insert(account.n + 1, pending)
            self._commit()
            account.learn(pending)
            self._db.execute("BEGIN IMMEDIATE")
            self._catch_up()

    def _append(self, entry: Entry) -> None:
        """Write a line: to the database's journal, to the anchor, and only then for good. Nothing is learnt that is not committed."""
        account = self._account
        line = msgspec.json.encode(Line(account.n + 1, self._clock(), account.head, entry))
        account.decode(line)  # what could not be read again is not written
        self._insert(account.n + 1, line)
        self._anchor.write(account.n + 1, line)
        self._commit()
        account.learn(line)

    def _insert(self, n: int, line: bytes) -> None:
        self._db.execute("INSERT INTO line VALUES (?, ?)", (n, line))

    def _commit(self) -> None:
        self._db.execute("COMMIT")

    def _rows(self, first: int, last: int = 1 << 53) -> Iterator[tuple[int, bytes]]:
        """Number and text of lines. One that is too long or no blob is b'', which is no line."""
        read = "SELECT n, CASE WHEN typeof(line) = 'blob' AND length(line) <= ? THEN line ELSE x'' END FROM line WHERE n BETWEEN ? AND ? ORDER BY n"
        return iter(self._db.execute(read, (MAX_LINE, first, last)))


# --- helpers ----------------------------------------------------------------------------------------------------------


def _up(cost: float) -> float:
    """To the next multiple of 2^-40, or _TOO_MUCH."""
    if isnan(cost) or cost < 0:
        raise LedgerError("The filter gave a cost that is no number.", fix="report this plan as a bug")
    return ceil(cost * _QUANTA) / _QUANTA if cost <= MAX_COST else _TOO_MUCH


def _down(limit: float) -> float:
    return floor(min(limit, _TOO_MUCH) * _QUANTA) / _QUANTA


def _held(account: _Account) -> float:
    return sum((s.held for s in account.studies.values()), 0.0)


def _begun(account: _Account) -> Created:
    if account.created is None:
        raise LedgerError("The ledger has no lines: it was not created to the end, or was emptied.", fix=f"create it; if it was in use, {RESTORE}")
    return account.created


def _created(site: str, dataset: str, data_sha256: str, unit: Unit, eps: float, delta: float, filter: Filter) -> Created:
    """The first line. Raises `LedgerError`, or what the filter says of an eps and delta that it has no room for."""
    check_unit(unit)
    limit = filter.limit(eps, delta)
    if limit > MAX_COST:
        raise LedgerError("The ledger's eps is too large.", why="Costs are added exactly up to 4096.", fix="choose a smaller eps, such as 8")
    return _valid(Created(site, dataset, data_sha256, unit, eps, delta, FilterTerms(filter.kind, filter.order)))


def _filter(terms: FilterTerms) -> Filter:
    return Filter(terms.kind, terms.order)


def _sampler_terms(sampler: Sampler) -> FullTerms | PoissonTerms | FixedTerms:
    match sampler:
        case Poisson():
            return PoissonTerms(sampler.rate)
        case FixedOrder():
            return FixedTerms(sampler.batches, sampler.band)
        case FullBatch():
            return FullTerms()
    raise LedgerError("The ledger does not know how this sampler is accounted.", fix="use FullBatch, Poisson or FixedOrder")


_S = TypeVar("_S", Created, Reserved, Charged, Rebased)


def _valid(entry: _S) -> _S:
    """The entry, if its bytes would be believed when they are read again. Raises `LedgerError`."""
    try:
        if msgspec.json.decode(msgspec.json.encode(entry), type=type(entry), strict=True) == entry:
            return entry
        why = ""
    except (msgspec.DecodeError, msgspec.EncodeError, UnicodeError, TypeError, OverflowError) as e:
        why = f"{e}."
    raise LedgerError("That cannot be written to the ledger.", why=why, fix="correct the value that is named")


def _invalid(value: object, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError:
        return True
    return False


def _decode(raw: object) -> Line | None:
    try:
        return _LINE.decode(raw) if isinstance(raw, bytes) else None
    except (msgspec.DecodeError, UnicodeError):
        return None


def _edited(n: int) -> LedgerError:
    return LedgerError(
        f"The ledger does not hold together at line {n}.", why="It or the one before was edited, or lines were lost, moved or put in.", fix=RESTORE
    )


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Errors of the disk and of SQLite, in the project's words."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.DatabaseError as e:
        if getattr(e, "sqlite_errorcode", 1) & 0xFF in _AWAY:
            raise Unavailable("The privacy ledger cannot be written now.", why=f"SQLite says: {e}.", fix="free the disk, or wait, and try again") from e
        raise LedgerError("The privacy ledger's file is damaged.", why=f"SQLite says: {e}.", fix=RESTORE) from e
    except OSError as e:
        raise Unavailable("The privacy ledger's folder cannot be used now.", why=f"{e.strerror}.", fix="check the disk and the folder's owner") from e
