"""The ledger: what it lets a study spend, what it remembers, and every way in which its files can have been changed."""

import json
import random
import shutil
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import asdict
from fractions import Fraction
from math import sqrt
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from locum.errors import LocumError
from locum.privacy.accountant import Plan, Release
from locum.privacy.anchor import line_hash
from locum.privacy.errors import BudgetExhausted, LedgerError, PrivacyError
from locum.privacy.filters import Filter
from locum.privacy.ledger import Charged, Created, Ledger, Line, Rebased, Reserved, Settled
from locum.privacy.sampler import FixedOrder, FullBatch, Poisson, Sampler
from locum.testing import Clock

SHA, OTHER = "a" * 64, "b" * 64
TERMS: dict[str, Any] = {"site": "north", "dataset": "stroke", "data_sha256": SHA}


def plan(multiplier: float = 10.0, rounds: int = 5, sampler: Sampler | None = None, step: str = "fit", noise: Any = "gaussian") -> Plan:
    return Plan((Release(step, sampler or FullBatch(), multiplier, rounds, noise),))


def costing(share: float, limit: float) -> Plan:
    """One full-batch round of this share of a GDP ledger's limit."""
    return plan(1 / sqrt(share * limit), 1)


def create(folder: Path, **terms: Any) -> Ledger:
    return Ledger.create(folder, **{**TERMS, **terms})


def reopen(folder: Path, **given: Any) -> Ledger:
    return Ledger.open(folder, **{"site": "north", "dataset": "stroke", **given})


def files(folder: Path) -> tuple[Path, Path]:
    return folder / "stroke" / "ledger.db", folder / "stroke" / "ledger.head"


@pytest.fixture
def ledger() -> Any:
    with Ledger.in_memory(**TERMS) as made:
        yield made


# --- spending ---------------------------------------------------------------------------------------------------------


def test_reserve_charge_settle(ledger: Ledger) -> None:
    limit = ledger.balance().limit
    assert limit == pytest.approx(Filter("gdp").limit(8, 1e-6), rel=1e-9)
    assert limit <= Filter("gdp").limit(8, 1e-6)
    reserved = ledger.reserve("s", plan(10.0, 5), 2, requester="amy")
    assert (reserved.reserved, reserved.held, reserved.charged) == pytest.approx((0.07, 0.07, 0), abs=1e-9)
    assert reserved.reserved >= 0.07
    assert [ledger.charge("s", "r", seq, "fit", seq).fresh for seq in range(3)] == [True] * 3
    b = ledger.balance()
    assert (b.spent, b.reserved, b.left) == pytest.approx((0.03, 0.04, limit - 0.07), abs=1e-9)
    assert b.spent + b.reserved + b.left == limit
    settled = ledger.settle("s")
    assert settled.settled
    assert settled.held == settled.charged == b.spent
    assert ledger.balance().left == limit - b.spent
    (study,) = ledger.studies()
    assert study == settled
    assert (study.requester, study.rounds_planned, study.rounds_spare, study.rounds_charged) == ("amy", 5, 2, 3)
    assert study.eps_charged == pytest.approx(Filter("gdp").epsilon(0.03, 1e-6), rel=1e-6)
    assert study.eps_reserved > study.eps_charged > 0


def test_five_studies_of_eps_3_fit_and_a_sixth_does_not(ledger: Ledger) -> None:
    mu2 = Filter("gdp").limit(3, 1e-6)
    for number in range(5):
        ledger.reserve(str(number), plan(sqrt(10 / mu2), 10), requester="amy")
    assert ledger.balance().eps_held == pytest.approx(7.49, abs=0.01)
    with pytest.raises(BudgetExhausted) as e:
        ledger.reserve("6", plan(sqrt(10 / mu2), 10), requester="amy")
    left = ledger.balance()
    for figure in ("costs eps 3,", f"one of eps {left.eps_left:.3g}.", "eps 8 at delta 1e-06", "7.49 is spent or reserved", "settle studies"):
        assert figure in str(e.value)
    assert len(ledger.studies()) == 5
    ledger.settle("0")
    ledger.reserve("6", plan(sqrt(10 / mu2), 10), requester="amy")


def test_everything_may_be_asked_twice(tmp_path: Path) -> None:
    def work() -> tuple[Any, ...]:
        with reopen(tmp_path) as ledger:
            ledger.reserve("s", plan(), 1, requester="amy")
            costs = [ledger.charge("s", "r", seq, "fit", 0).cost for seq in (0, 1, 0, 1)]
            return costs, ledger.balance(), ledger.head()

    create(tmp_path).close()
    first = work()
    assert first == work()
    with reopen(tmp_path) as ledger:
        assert ledger.settle("s") == ledger.settle("s")
        again = ledger.charge("s", "r", 1, "fit", 0)
        assert (again.fresh, again.cost) == (False, first[0][1])
        ledger.rebase(SHA)
        assert len(ledger.lines()) == 5


@pytest.mark.parametrize("other", [{"plan": plan(11.0)}, {"spare": 0}, {"requester": "bob"}, {"plan": plan(noise="skellam")}])
def test_a_study_reserves_once(other: dict[str, Any]) -> None:
    with Ledger.in_memory(**TERMS, filter=Filter("zcdp")) as ledger:
        asked = {"plan": plan(), "spare": 1, "requester": "amy"}
        ledger.reserve("s", **asked)
        with pytest.raises(LedgerError, match="other terms"):
            ledger.reserve("s", **{**asked, **other})
        ledger.settle("s")
        with pytest.raises(LedgerError, match="settled"):
            ledger.reserve("s", **asked)


def test_prices_hold_from_the_reservation_on(tmp_path: Path) -> None:
    """A later release of Locum that prices a plan otherwise in the last digit neither refuses it nor charges otherwise."""
    used(tmp_path, 0)

    def dearer(lines: list[Line]) -> None:
        (only,) = lines[1].entry.plan  # type: ignore[union-attr]
        lines[1] = msgspec.structs.replace(lines[1], entry=msgspec.structs.replace(lines[1].entry, plan=(msgspec.structs.replace(only, price=0.0125),)))

    rewrite(tmp_path, dearer)
    with reopen(tmp_path) as ledger:
        assert ledger.reserve("s", plan(rounds=50), requester="amy").reserved == 0.0125 * 50
        assert ledger.charge("s", "r", 0, "fit", 0).cost == 0.0125


def test_rounds_outside_the_plan(ledger: Ledger) -> None:
    both = Plan((*plan(rounds=2).releases, *plan(20.0, 1, step="check").releases))
    with pytest.raises(LedgerError, match="reserved nothing"):
        ledger.charge("s", "r", 0, "fit", 0)
    ledger.reserve("s", both, 1, requester="amy")
    with pytest.raises(BudgetExhausted, match="no step 'tune'"):
        ledger.charge("s", "r", 0, "tune", 0)
    for seq, step in enumerate(("fit", "fit", "check", "check")):
        ledger.charge("s", "r", seq, step, seq % 2)
    with pytest.raises(BudgetExhausted, match="2 rounds of step 'fit' and 1 spare"):
        ledger.charge("s", "r", 4, "fit", 2)
    with pytest.raises(BudgetExhausted, match="1 rounds of step 'check'"):
        ledger.charge("s", "r", 4, "check", 0)
    with pytest.raises(LedgerError, match="another step or iteration"):
        ledger.charge("s", "r", 3, "check", 0)
    (study,) = ledger.studies()
    assert study.charged == study.held < study.reserved, "no round is left, so nothing is held back"
    ledger.settle("s")
    with pytest.raises(LedgerError, match="settled"):
        ledger.charge("s", "r", 9, "fit", 0)


def test_a_round_pays_for_all_releases_of_its_step(ledger: Ledger) -> None:
    ledger.reserve("s", Plan((*plan(10.0, 2).releases, *plan(20.0, 2).releases)), requester="amy")
    assert ledger.charge("s", "r", 0, "fit", 0).cost == pytest.approx(0.0125, abs=1e-9)
    with pytest.raises(LedgerError, match="different numbers of rounds"):
        ledger.reserve("t", Plan((*plan(10.0, 2).releases, *plan(20.0, 3).releases)), requester="amy")


def test_a_fixed_order_pays_by_epoch(ledger: Ledger) -> None:
    epoch = FixedOrder(4, 2).norm2 / 100
    state = ledger.reserve("s", plan(10.0, 8, FixedOrder(4, 2)), 3, requester="amy")
    assert state.reserved == pytest.approx(5 * epoch, abs=1e-9)

    def pay(run: str, *iterations: int) -> list[float]:
        return [round(ledger.charge("s", run, i, "fit", i).cost / epoch, 6) for i in iterations]

    assert pay("late", 2, 3, 4, 5, 6, 7) == [1, 0, 1, 0, 0, 0], "whoever joins in mid-epoch pays for it"
    assert pay("back", 0, 1) == [0, 0]
    assert pay("again", 2, 3) == [1, 0], "an epoch begun again is one participation more, not two"
    assert pay("third", 2) == [1]
    with pytest.raises(BudgetExhausted):
        pay("fourth", 2)


def test_repetitions_in_fixed_order_never_cost_more_than_the_reservation(ledger: Ledger) -> None:
    ledger.reserve("s", plan(10.0, 8, FixedOrder(4)), 1, requester="amy")
    costs = [ledger.charge("s", "r", seq, "fit", 0).cost for seq in range(3)]
    with pytest.raises(BudgetExhausted, match="repetition costs more"):
        ledger.charge("s", "r", 3, "fit", 0)
    assert sum(costs) == ledger.studies()[0].reserved


def test_an_iteration_may_come_in_any_run(ledger: Ledger) -> None:
    """A run that stopped early leaves its rounds to the next: what counts is how many there were."""
    ledger.reserve("s", plan(rounds=4), requester="amy")
    for run in ("a", "b"):
        for seq in range(2):
            ledger.charge("s", run, seq, "fit", seq)
    assert ledger.studies()[0].charged == ledger.studies()[0].reserved


def test_poisson_needs_the_renyi_filter(ledger: Ledger) -> None:
    sampled = plan(1.0, 10, Poisson(0.01))
    for refused in (sampled, plan(noise="skellam")):
        with pytest.raises(PrivacyError, match="rdp"):
            ledger.reserve("s", refused, requester="amy")
        with pytest.raises(PrivacyError, match="rdp"):
            ledger.what_if(refused)
    assert len(ledger.lines()) == 1
    with Ledger.in_memory(**TERMS, filter=Filter("rdp", 4)) as renyi:
        renyi.reserve("s", sampled, requester="amy")
        assert renyi.balance().reserved == pytest.approx(Filter("rdp", 4).total(sampled), rel=1e-6)
        fresh = [renyi.charge("s", "r", seq, "fit", 0).fresh for seq in (7, 8, 7)]
        assert fresh == [True, True, False], "a repetition is paid for anew, the same charge is not"


@pytest.mark.parametrize("kind", ["gdp", "zcdp", "rdp"])
def test_the_whole_plan_is_what_the_filter_says(kind: Any) -> None:
    filter = Filter(kind)
    whole = Plan((*plan(30.0, 100).releases, *plan(20.0, 12, FixedOrder(5, 3), "tune").releases))
    with Ledger.in_memory(**TERMS, filter=filter) as ledger:
        state = ledger.reserve("s", whole, requester="amy")
        assert filter.total(whole) <= state.reserved <= filter.total(whole) + 1e-9
        for step, rounds in (("fit", 100), ("tune", 12)):
            for i in range(rounds):
                ledger.charge("s", step, i, step, i)
        (state,) = ledger.studies()
        assert state.charged == state.reserved


def test_what_if_says_what_reserve_does(ledger: Ledger) -> None:
    limit = ledger.balance().limit
    ledger.reserve("s", costing(0.6, limit), requester="amy")
    head = ledger.head()
    fits, not_so = ledger.what_if(costing(0.39, limit)), ledger.what_if(costing(0.3, limit), spare=1)
    assert ledger.head() == head
    assert (fits.fits, fits.shortfall) == (True, 0)
    assert fits.eps_alone < fits.eps_after < 8
    assert not not_so.fits
    assert not_so.eps_after > 8
    assert not_so.shortfall == pytest.approx(0.2 * limit, rel=1e-6)
    ledger.reserve("t", costing(0.39, limit), requester="amy")
    assert ledger.balance().eps_held == fits.eps_after
    assert not ledger.what_if(plan(1e-9, 1_000_000), 1_000_000).fits
    with pytest.raises(BudgetExhausted):
        ledger.reserve("u", plan(1e-9, 1_000_000), 1_000_000, requester="amy")


def test_prices_add_up_exactly(ledger: Ledger) -> None:
    for number in range(40):
        ledger.reserve(str(number), plan(9.0 + number / 7, 3), number % 3, requester="amy")
        ledger.charge(str(number), "r", 0, "fit", 0)
    studies = list(ledger.studies())
    for _ in range(20):
        random.Random(_).shuffle(studies)
        assert sum(s.held for s in studies) == sum(Fraction(s.held) for s in studies) == ledger.balance().spent + ledger.balance().reserved


# --- what may be written ----------------------------------------------------------------------------------------------

BAD_TERMS: list[dict[str, Any]] = [
    *({"eps": bad} for bad in (0, -1, float("nan"), float("inf"), 1e9, None, "8", True)),
    *({"delta": bad} for bad in (0, -1e-6, float("nan"), 0.5, 1, None)),
    *({"unit": bad} for bad in ("user", "", None)),
    *({"dataset": bad} for bad in ("", "..", "../x", "a/b", "A", "a\n", "x" * 65)),
    *({"data_sha256": bad} for bad in ("", "A" * 64, "a" * 63, "a" * 64 + "\n", None)),
    *({"site": bad} for bad in ("", "x" * 201, "\ud800", 3)),
    {"filter": Filter("rdp", 2)},
]


@pytest.mark.parametrize("bad", BAD_TERMS, ids=repr)
def test_bad_terms_are_refused_before_there_is_a_file(tmp_path: Path, bad: dict[str, Any]) -> None:
    with pytest.raises(LocumError) as e:
        create(tmp_path, **bad)
    assert e.value.why
    assert e.value.fix
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x.reserve("", plan(), requester="amy"),
        lambda x: x.reserve("t", plan(), requester="a" * 201),
        lambda x: x.reserve("t", plan(), -1, requester="amy"),
        lambda x: x.reserve("t", plan(), 1.5, requester="amy"),
        lambda x: x.reserve("t", Plan(), requester="amy"),
        lambda x: x.reserve("t", plan(rounds=1_000_001), requester="amy"),
        lambda x: x.charge("s", "r", -1, "fit", 0),
        lambda x: x.charge("s", "r", 0, "fit", -1),
        lambda x: x.charge("s", "r", 0, "fit", "0"),
        lambda x: x.charge("s", "r", True, "fit", 0),
        lambda x: x.charge("s", "", 0, "fit", 0),
        lambda x: x.rebase("0" * 63),
        lambda x: x.settle("t"),
        lambda x: x.what_if(plan(), -1),
    ],
)
def test_bad_requests_write_nothing(ledger: Ledger, work: Callable[[Ledger], object]) -> None:
    ledger.reserve("s", plan(), requester="amy")
    head = ledger.head()
    with pytest.raises(LedgerError):
        work(ledger)
    assert ledger.head() == head
    assert ledger.charge("s", "r", 0, "fit", 0).fresh


def test_answers_are_json(tmp_path: Path) -> None:
    with create(tmp_path, clock=Clock(5.0), filter=Filter("rdp", 6)) as ledger:
        ledger.reserve("s", Plan((*plan(90.0, 3, FixedOrder(2)).releases, *plan(90.0, 3, Poisson(0.5), "p").releases)), 1, requester="amy")
        ledger.charge("s", "r", 0, "fit", 0)
        ledger.settle("s")
        ledger.rebase(OTHER)
        for answer in (ledger.balance(), *ledger.studies(), ledger.what_if(plan(1e-9))):
            assert json.loads(json.dumps(asdict(answer), allow_nan=False)) == asdict(answer)
        lines = ledger.lines()
        assert msgspec.json.decode(msgspec.json.encode(lines), type=tuple[Line, ...]) == lines
        assert [type(x.entry) for x in lines] == [Created, Reserved, Charged, Settled, Rebased]
        assert {x.time for x in lines} == {5.0}
        assert lines[0].entry == ledger.created
    with reopen(tmp_path) as again:
        assert again.lines() == lines
        assert again.created.filter.order == 6


# --- whose, and for which data ----------------------------------------------------------------------------------------


def test_other_data_is_refused_until_rebased(tmp_path: Path) -> None:
    with create(tmp_path) as ledger:
        ledger.reserve("s", plan(), requester="amy")
        spent = ledger.charge("s", "r", 0, "fit", 0).cost
    with pytest.raises(LedgerError, match="accept"):
        reopen(tmp_path, data_sha256=OTHER)
    with reopen(tmp_path) as ledger:
        ledger.rebase(OTHER)
        assert ledger.balance().spent == spent
    with reopen(tmp_path, data_sha256=OTHER) as ledger:
        assert ledger.data_sha256 == OTHER
        assert ledger.balance().spent == spent
        with pytest.raises(LedgerError, match="hash"):
            ledger.check_data(SHA)
    with pytest.raises(LedgerError, match="hash"):
        reopen(tmp_path, data_sha256=SHA)


def test_another_site_or_data_set(tmp_path: Path) -> None:
    create(tmp_path).close()
    with pytest.raises(LedgerError, match="another site"):
        reopen(tmp_path, site="south")
    shutil.copytree(tmp_path / "stroke", tmp_path / "heart")
    with pytest.raises(LedgerError, match="another site or data set"):
        reopen(tmp_path, dataset="heart")
    for name in ("lung", "../stroke", ""):
        with pytest.raises(LedgerError):
            reopen(tmp_path, dataset=name)
    assert not (tmp_path / "lung").exists()


def test_a_ledger_is_created_once(tmp_path: Path) -> None:
    with create(tmp_path) as ledger, pytest.raises(LedgerError, match="or half of one"):
        create(tmp_path, eps=100)
    with reopen(tmp_path) as ledger:
        assert ledger.created.eps == 8
    db, head = files(tmp_path)
    assert (db.stat().st_mode | head.stat().st_mode) & 0o077 == 0
    head.unlink()
    with pytest.raises(LedgerError, match=r"ledger\.head is missing"):
        create(tmp_path)
    with create(tmp_path, dataset="heart") as other:
        assert other.balance().spent == 0


# --- edited, damaged, rolled back -------------------------------------------------------------------------------------


def used(folder: Path, charges: int = 4) -> tuple[int, str]:
    """A ledger with lines 1 created, 2 reserved, and these charges; its head."""
    with create(folder) as ledger:
        ledger.reserve("s", plan(rounds=50), requester="amy")
        spend(ledger, range(charges))
        return ledger.head()


def spend(ledger: Ledger, numbers: range) -> None:
    for seq in numbers:
        ledger.charge("s", "r", seq, "fit", seq)


def sql(db: Path, *statements: tuple[str, tuple[Any, ...]]) -> None:
    with sqlite3.connect(db) as connection:
        for trigger in ("line_is_not_edited", "line_is_not_erased"):
            connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
        for statement in statements:
            connection.execute(*statement)
    connection.close()


def texts(db: Path) -> list[bytes]:
    connection = sqlite3.connect(db)
    try:
        return [line for (line,) in connection.execute("SELECT line FROM line ORDER BY n")]
    finally:
        connection.close()


def rewrite(folder: Path, change: Callable[[list[Line]], None]) -> None:
    """What somebody does who knows the format: the lines changed, all hashes and the anchor made anew."""
    db, head = files(folder)
    lines = [msgspec.json.decode(raw, type=Line) for raw in texts(db)]
    change(lines)
    previous, rows = "", []
    for n, line in enumerate(lines, 1):
        raw = msgspec.json.encode(msgspec.structs.replace(line, n=n, previous=previous))
        rows.append((n, raw))
        previous = line_hash(raw)
    sql(db, ("DELETE FROM line", ()), *(("INSERT INTO line VALUES (?, ?)", row) for row in rows))
    head.write_bytes(msgspec.json.encode({"n": len(rows), "line": rows[-1][1].decode(), "hash": previous}))


def test_an_older_copy_of_the_database(tmp_path: Path) -> None:
    used(tmp_path)
    db, _ = files(tmp_path)
    copy = db.read_bytes()
    with reopen(tmp_path) as ledger:
        spend(ledger, range(4, 6))
    db.write_bytes(copy)
    with pytest.raises(LedgerError, match=r"rolled back: it has 6 lines, and ledger\.head knows 8"):
        reopen(tmp_path)


def test_a_copy_older_by_one_line_loses_nothing(tmp_path: Path) -> None:
    used(tmp_path)
    db, _ = files(tmp_path)
    copy = db.read_bytes()
    with reopen(tmp_path) as ledger:
        spend(ledger, range(4, 5))
        balance, head = ledger.balance(), ledger.head()
    db.write_bytes(copy)
    with reopen(tmp_path) as ledger:
        assert (ledger.balance(), ledger.head()) == (balance, head)


def test_an_older_copy_of_the_anchor(tmp_path: Path) -> None:
    used(tmp_path)
    _, head = files(tmp_path)
    copy = head.read_bytes()
    with reopen(tmp_path) as ledger:
        spend(ledger, range(4, 5))
    head.write_bytes(copy)
    with pytest.raises(LedgerError, match=r"ledger\.head was rolled back: it knows 6 lines, and the ledger has 7"):
        reopen(tmp_path)


def test_older_copies_of_both_are_for_the_witness(tmp_path: Path) -> None:
    old = used(tmp_path)
    copies = [(file, file.read_bytes()) for file in files(tmp_path)]
    with reopen(tmp_path) as ledger:
        spend(ledger, range(4, 8))
        new = ledger.head()
        ledger.check_witness(*old)
        ledger.check_witness(*new)
        with pytest.raises(LedgerError, match="not the one that a witness knows"):
            ledger.check_witness(old[0], new[1])
        with pytest.raises(LedgerError, match="not the one"):
            ledger.check_witness(0, "")
    for file, copy in copies:
        file.write_bytes(copy)
    with reopen(tmp_path) as ledger:
        ledger.check_witness(*old)
        with pytest.raises(LedgerError, match="a witness knows 10 lines, and it has 6"):
            ledger.check_witness(*new)
    shutil.rmtree(tmp_path / "stroke")
    with pytest.raises(LedgerError, match=r"no ledger.*if there was one"):
        reopen(tmp_path)
    with create(tmp_path) as ledger, pytest.raises(LedgerError, match="begun anew"):
        ledger.check_witness(*new)


def test_both_put_back_under_a_running_process(tmp_path: Path) -> None:
    used(tmp_path)
    copies = [(file, file.read_bytes()) for file in files(tmp_path)]
    with reopen(tmp_path) as ledger:
        spend(ledger, range(4, 8))
        for file, copy in copies:
            file.write_bytes(copy)
        for _ in range(2):
            with pytest.raises(LedgerError):
                spend(ledger, range(8, 9))


def test_rewritten_under_a_running_process(tmp_path: Path) -> None:
    used(tmp_path)
    with reopen(tmp_path) as ledger:
        rewrite(tmp_path, lambda lines: lines.append(msgspec.structs.replace(lines.pop(), time=7.0)))
        reopen(tmp_path).close()
        with pytest.raises(LedgerError, match="while it was open"):
            ledger.balance()


def test_another_file_put_in_place_of_the_open_one(tmp_path: Path) -> None:
    used(tmp_path)
    db, _ = files(tmp_path)
    copy = db.read_bytes()
    with reopen(tmp_path) as ledger:
        spend(ledger, range(4, 6))
        db.unlink()
        db.write_bytes(copy)
        with pytest.raises(LocumError):
            spend(ledger, range(6, 7))
    with pytest.raises(LedgerError, match="rolled back"):
        reopen(tmp_path)


@pytest.mark.parametrize(("which", "reason"), [(0, r"ledger\.db is missing"), (1, r"ledger\.head is missing")])
def test_a_file_deleted(tmp_path: Path, which: int, reason: str) -> None:
    used(tmp_path)
    files(tmp_path)[which].unlink()
    with pytest.raises(LedgerError, match=reason):
        reopen(tmp_path)
    with pytest.raises(LedgerError):
        create(tmp_path)


def test_a_file_emptied(tmp_path: Path) -> None:
    used(tmp_path)
    db, head = files(tmp_path)
    kept = db.read_bytes(), head.read_bytes()
    db.write_bytes(b"")
    with pytest.raises(LedgerError, match="rolled back: it has 0 lines"):
        reopen(tmp_path)
    assert db.read_bytes() == b"", "what is refused is left as it was"
    db.write_bytes(kept[0])
    head.write_bytes(b"")
    with pytest.raises(LedgerError, match="damaged"):
        reopen(tmp_path)
    head.write_bytes(kept[1])
    reopen(tmp_path).close()


# the line at which it shows: a line that is still a line is found out by the next, which names its hash
EDITS: dict[str, tuple[int, list[tuple[str, tuple[Any, ...]]]]] = {
    "a byte of a line": (4, [("UPDATE line SET line = replace(line, '\"seq\":0', '\"seq\":9') WHERE n = 3", ())]),
    "a line swapped": (3, [("UPDATE line SET n = 99 WHERE n = 3", ()), ("UPDATE line SET n = 3 WHERE n = 4", ()), ("UPDATE line SET n = 4 WHERE n = 99", ())]),
    "a line lost": (4, [("DELETE FROM line WHERE n = 4", ())]),
    "a line lost, the rest moved up": (4, [("DELETE FROM line WHERE n = 4", ()), ("UPDATE line SET n = n - 1 WHERE n > 4", ())]),
    "a line put in": (7, [("INSERT INTO line SELECT 7, line FROM line WHERE n = 5", ())]),
    "a line far off": (7, [("INSERT INTO line SELECT 70, line FROM line WHERE n = 6", ())]),
    "a line before the first": (1, [("INSERT INTO line SELECT 0, line FROM line WHERE n = 6", ()), ("UPDATE line SET line = x'00' WHERE n = 1", ())]),
    "a line too long": (3, [("UPDATE line SET line = zeroblob(2000000) WHERE n = 3", ())]),
    "no UTF-8": (3, [("UPDATE line SET line = x'ff' WHERE n = 3", ())]),
    "the first line": (2, [("UPDATE line SET line = replace(line, '\"eps\":8.0', '\"eps\":9.0') WHERE n = 1", ())]),
}


@pytest.mark.parametrize("edit", EDITS, ids=str)
def test_an_edited_line(tmp_path: Path, edit: str) -> None:
    used(tmp_path)
    where, statements = EDITS[edit]
    db, _ = files(tmp_path)
    before = texts(db)
    sql(db, *((s.replace("replace(line", "CAST(replace(CAST(line AS TEXT)").replace("') WHERE", "') AS BLOB) WHERE"), v) for s, v in statements))
    assert texts(db) != before
    with pytest.raises(LedgerError, match=f"line {where}\\."):
        reopen(tmp_path)


def test_the_last_line_edited_in_either_file(tmp_path: Path) -> None:
    used(tmp_path)
    db, head = files(tmp_path)
    text = head.read_bytes()
    head.write_bytes(text.replace(b'\\"seq\\":3', b'\\"seq\\":9'))
    assert head.read_bytes() != text
    with pytest.raises(LedgerError, match=r"ledger\.head is damaged"):
        reopen(tmp_path)
    head.write_bytes(text)
    sql(db, ("UPDATE line SET line = CAST(replace(CAST(line AS TEXT), ?, ?) AS BLOB) WHERE n = 6", ('"seq":3', '"seq":9')))
    with pytest.raises(LedgerError, match="differ in line 6"):
        reopen(tmp_path)


def test_triggers_forbid_edits(tmp_path: Path) -> None:
    used(tmp_path)
    with sqlite3.connect(files(tmp_path)[0]) as connection:
        for statement in ("UPDATE line SET n = 9 WHERE n = 1", "DELETE FROM line"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(statement)
    connection.close()


def _cheaper(lines: list[Line]) -> None:
    lines[3] = msgspec.structs.replace(lines[3], entry=msgspec.structs.replace(lines[3].entry, cost=0.0))


def _second_terms(lines: list[Line]) -> None:
    lines.append(msgspec.structs.replace(lines[0], entry=msgspec.structs.replace(lines[0].entry, eps=99.0)))


def _twice(lines: list[Line]) -> None:
    lines.append(lines[3])


def _reserved_again(lines: list[Line]) -> None:
    lines.append(lines[1])


def _after_the_end(lines: list[Line]) -> None:
    lines.insert(4, msgspec.structs.replace(lines[0], entry=Settled("s")))


def _of_nobody(lines: list[Line]) -> None:
    del lines[1]


@pytest.mark.parametrize(
    ("change", "where"),
    [(_cheaper, 4), (_second_terms, 7), (_twice, 7), (_reserved_again, 7), (_after_the_end, 6), (_of_nobody, 2), (lambda x: x.pop(0), 1)],
)
def test_lines_that_cannot_follow_though_the_hashes_do(tmp_path: Path, change: Callable[[list[Line]], None], where: int) -> None:
    used(tmp_path)
    rewrite(tmp_path, lambda lines: None)
    reopen(tmp_path).close()
    rewrite(tmp_path, change)
    with pytest.raises(LedgerError, match=f"line {where}\\."):
        reopen(tmp_path)


def test_a_full_rewrite_is_for_the_witness(tmp_path: Path) -> None:
    n, hash = used(tmp_path)
    rewrite(tmp_path, lambda lines: lines.pop())
    with reopen(tmp_path) as ledger:
        with pytest.raises(LedgerError, match="rolled back"):
            ledger.check_witness(n, hash)
        spend(ledger, range(7, 9))
        with pytest.raises(LedgerError, match="rewritten"):
            ledger.check_witness(n, hash)


def test_verify_reads_everything_again(tmp_path: Path) -> None:
    used(tmp_path)
    with reopen(tmp_path) as ledger:
        assert ledger.verify() == ledger.head()
        sql(files(tmp_path)[0], ("UPDATE line SET line = x'00' WHERE n = 3", ()))
        with pytest.raises(LedgerError, match="line 3"):
            ledger.verify()


def test_no_database_and_a_later_one(tmp_path: Path) -> None:
    used(tmp_path)
    db, _ = files(tmp_path)
    kept = db.read_bytes()
    sql(db, ("PRAGMA user_version = 2", ()))
    with pytest.raises(LedgerError, match="later release"):
        reopen(tmp_path)
    sql(db, ("PRAGMA user_version = 1", ()), ("DROP TABLE line", ()))
    with pytest.raises(LedgerError, match="damaged"):
        reopen(tmp_path)
    db.write_bytes(b"no database" * 1000)
    with pytest.raises(LedgerError, match="damaged"):
        reopen(tmp_path)
    db.write_bytes(kept)
    reopen(tmp_path).close()


def test_any_byte_and_any_length_of_either_file(tmp_path: Path) -> None:
    """Whatever is changed, the ledger is refused or says what it said before: never less."""
    used(tmp_path)
    with reopen(tmp_path) as ledger:
        truth = ledger.balance(), ledger.head()
    draw, refused = random.Random(4), 0
    for file in files(tmp_path):
        whole = file.read_bytes()
        for number in range(150):
            at = draw.randrange(len(whole))
            file.write_bytes(whole[:at] if number % 3 == 0 else whole[:at] + bytes([whole[at] ^ (1 << draw.randrange(8))]) + whole[at + 1 :])
            try:
                with reopen(tmp_path) as ledger:
                    assert (ledger.balance(), ledger.head()) == truth
            except LedgerError:
                refused += 1
            file.write_bytes(whole)
    assert refused > 150


# --- several at once --------------------------------------------------------------------------------------------------


def test_threads_and_several_objects(tmp_path: Path) -> None:
    """Each round charged by two of six threads, on three objects, with readers between them: every round counts once."""
    with create(tmp_path) as ledger:
        ledger.reserve("s", plan(30.0, 20), requester="amy")
    ledgers = [reopen(tmp_path) for _ in range(3)]
    fresh: list[int] = []

    def work(number: int) -> None:
        for seq in range(number // 2, 20, 3):
            if ledgers[(number + seq) % 3].charge("s", "r", seq, "fit", seq).fresh:
                fresh.append(seq)
            ledgers[seq % 3].balance()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(fresh) == list(range(20))
    assert len({x.head() for x in ledgers}) == 1
    assert ledgers[0].studies()[0].charged == ledgers[0].studies()[0].reserved
    for open_one in ledgers:
        open_one.close()


# --- whatever the order -----------------------------------------------------------------------------------------------

SAMPLERS: tuple[Sampler, ...] = (FullBatch(), FixedOrder(3, 2), FixedOrder(2))
STUDY = st.integers(0, 3)
RELEASE = st.tuples(st.sampled_from(SAMPLERS), st.floats(0.8, 4), st.integers(1, 4))
STEPS = st.one_of(
    st.tuples(st.just("reserve"), STUDY, st.lists(RELEASE, min_size=1, max_size=2), st.integers(0, 2)),
    st.tuples(st.just("charge"), STUDY, st.integers(0, 5), st.integers(0, 1), st.integers(0, 5)),
    st.tuples(st.just("charge"), STUDY, st.integers(0, 5), st.integers(0, 1), st.integers(0, 5)),
    st.tuples(st.just("settle"), STUDY),
    st.tuples(st.just("reopen")),
)


def truly_spent(plans: dict[str, Plan], done: dict[tuple[str, int], tuple[int, int]]) -> float:
    """mu^2 of the patient who pays most, were all batches theirs in turn: c_j^2 / z^2 for each time that a window was released."""
    total = 0.0
    for study, asked in plans.items():
        for number, r in enumerate(asked.releases):
            sampler = r.sampler
            batches, band = (sampler.batches, sampler.band) if isinstance(sampler, FixedOrder) else (1, 1)
            squares = [1.0, 0.25][:band]
            rounds = [i for (owner, _), (step, i) in done.items() if owner == study and step == number]
            batch = max(sum(squares[(i - b) % batches] for i in rounds if (i - b) % batches < band and i >= b) for b in range(batches))
            total += batch / r.multiplier**2
    return total


def drive(ledger: Ledger, actions: list[tuple[Any, ...]], again: Callable[[Ledger], Ledger]) -> Ledger:
    limit, plans, done = ledger.balance().limit, dict[str, Plan](), dict[tuple[str, int], tuple[int, int]]()
    for action, *args in actions:
        before = ledger.balance(), ledger.head()
        try:
            if action == "reserve":
                study, releases, spare = args
                asked = Plan(tuple(Release(str(i), s, z, n) for i, (s, z, n) in enumerate(releases)))
                for _ in range(2):
                    ledger.reserve(str(study), asked, spare, requester="amy")
                plans.setdefault(str(study), asked)
                assert plans[str(study)] == asked
            elif action == "charge":
                study, seq, step, iteration = args
                costs = {ledger.charge(str(study), "r", seq, str(step), iteration).cost for _ in range(2)}
                assert len(costs) == 1
                assert done.setdefault((str(study), seq), (step, iteration)) == (step, iteration)
            elif action == "settle":
                ledger.settle(str(args[0]))
                ledger.settle(str(args[0]))
            else:
                ledger = again(ledger)
                assert (ledger.balance(), ledger.head()) == before
        except (LedgerError, BudgetExhausted):
            assert (ledger.balance(), ledger.head()) == before, "a refusal changes nothing"
        balance, studies = ledger.balance(), ledger.studies()
        assert balance.spent + balance.reserved <= limit
        assert balance.spent >= before[0].spent
        assert balance.spent + balance.reserved + balance.left == limit
        assert all(s.charged <= s.reserved and s.charged <= s.held for s in studies)
        assert truly_spent(plans, done) <= balance.spent + 1e-12
        assert sum(s.rounds_charged for s in studies) == len(done)
    ledger.verify()
    return ledger


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_never_above_the_limit(actions: list[tuple[Any, ...]]) -> None:
    drive(Ledger.in_memory(**TERMS), actions, lambda ledger: ledger).close()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEPS, max_size=25), st.integers(0))
def test_never_above_the_limit_on_disk(tmp_path: Path, actions: list[tuple[Any, ...]], name: int) -> None:
    folder = tmp_path / f"{name % 2**64}-{len(list(tmp_path.iterdir()))}"

    def again(ledger: Ledger) -> Ledger:
        ledger.close()
        return reopen(folder)

    drive(create(folder), actions, again).close()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0.7, 6), st.integers(1, 20), st.integers(0, 3)), min_size=1, max_size=12))
def test_a_study_is_refused_only_for_want_of_room(asked: list[tuple[float, int, int]]) -> None:
    with Ledger.in_memory(**TERMS) as ledger:
        limit, held = Fraction(ledger.balance().limit), Fraction(0)
        for number, (multiplier, rounds, spare) in enumerate(asked):
            exact = (rounds + spare) / Fraction(multiplier) ** 2
            try:
                ledger.reserve(str(number), plan(multiplier, rounds), spare, requester="amy")
                held += exact
            except BudgetExhausted:
                assert held + exact > limit * (1 - Fraction(1, 10**9))
            assert held <= limit
