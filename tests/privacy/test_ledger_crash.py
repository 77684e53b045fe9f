"""Processes that are killed (SIGKILL) between any two steps of a line, or anywhere at all, and processes that race: no charge is ever lost.

A child process never inherits an open ledger: SQLite's locks do not survive a fork.
"""

import os
import random
import signal
import sqlite3
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from locum.errors import Unavailable
from locum.privacy.accountant import Plan, Release
from locum.privacy.anchor import Anchor
from locum.privacy.errors import BudgetExhausted, LedgerError
from locum.privacy.ledger import Ledger
from locum.privacy.sampler import FullBatch

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

TERMS: dict[str, Any] = {"site": "north", "dataset": "stroke"}
SHA, OTHER = "a" * 64, "b" * 64


def plan(multiplier: float = 60.0, rounds: int = 4000) -> Plan:
    return Plan((Release("fit", FullBatch(), multiplier, rounds),))


def forked(work: Callable[[], None]) -> int:
    """A child process that does this work and ends; its id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)


def ended(child: int) -> int:
    """The signal that a child was killed by, negative, or its exit status."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die(*_: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


class Dying(Ledger):
    """Is killed at one point of writing a line."""

    point = ""

    def _insert(self, n: int, line: bytes) -> None:
        if self.point == "before all":
            die()
        super()._insert(n, line)
        anchor = self._anchor
        if self.point == "before the anchor":
            anchor.write = die  # type: ignore[method-assign]
        elif self.point == "before the rename":
            anchor._put_in_place = die  # type: ignore[method-assign]
        elif self.point == "after the rename":
            put = anchor._put_in_place

            def put_and_die(new: Path) -> None:
                put(new)
                die()

            anchor._put_in_place = put_and_die  # type: ignore[method-assign]

    def _commit(self) -> None:
        if self.point == "before the commit":
            die()
        super()._commit()
        if self.point == "after the commit":
            die()


def dying(at: str) -> type[Dying]:
    return type("DyingAt", (Dying,), {"point": at})


BEFORE = ("before all", "before the anchor", "before the rename")
AFTER = ("after the rename", "before the commit", "after the commit")
WORK: dict[str, Callable[[Ledger], object]] = {
    "reserve": lambda x: x.reserve("t", plan(rounds=5), 1, requester="bob"),
    "charge": lambda x: x.charge("s", "r", 2, "fit", 2),
    "settle": lambda x: x.settle("s"),
    "rebase": lambda x: x.rebase(OTHER),
}


def used(folder: Path) -> None:
    with Ledger.create(folder, **TERMS, data_sha256=SHA) as ledger:
        ledger.reserve("s", plan(), requester="amy")
        for seq in range(2):
            ledger.charge("s", "r", seq, "fit", seq)


@pytest.mark.parametrize("point", BEFORE + AFTER)
@pytest.mark.parametrize("work", WORK)
def test_killed_at_a_chosen_point(tmp_path: Path, point: str, work: str) -> None:
    used(tmp_path)
    assert ended(forked(lambda: print(WORK[work](dying(point).open(tmp_path, **TERMS))))) == -signal.SIGKILL
    with Ledger.open(tmp_path, **TERMS) as ledger:
        assert len(ledger.lines()) == 4 + (point in AFTER), "what the anchor knows counts, and nothing else"
        if work == "charge":
            (study,) = ledger.studies()
            assert study.rounds_charged == 2 + (point in AFTER)
            assert study.charged == study.rounds_charged * ledger.charge("s", "r", 0, "fit", 0).cost
        WORK[work](ledger)
        assert len(ledger.lines()) == 5, "the same again completes it, once"
        assert ledger.verify() == ledger.head()


def test_a_charge_is_durable_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a power cut no test can kill anything: the anchor's file, its name and SQLite's journal are each brought to the disk."""
    used(tmp_path)
    done: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("rename"), replace(a, b))[1])
    with Ledger.open(tmp_path, **TERMS) as ledger:
        ledger._db.set_trace_callback(lambda statement: done.append("commit") if statement == "COMMIT" else None)
        ledger.charge("s", "r", 2, "fit", 2)
        assert done[:4] == ["file", "rename", "folder", "commit"]
        assert ledger._db.execute("PRAGMA synchronous").fetchone() == (3,)
        assert ledger._db.execute("PRAGMA journal_mode").fetchone() == ("delete",)


@pytest.mark.parametrize("point", BEFORE + AFTER)
def test_killed_while_it_is_created(tmp_path: Path, point: str) -> None:
    assert ended(forked(lambda: print(dying(point).create(tmp_path, **TERMS, data_sha256=SHA)))) == -signal.SIGKILL
    if point in BEFORE:
        with pytest.raises(LedgerError, match="not created to the end"):
            Ledger.open(tmp_path, **TERMS)
        Ledger.create(tmp_path, **TERMS, data_sha256=SHA).close()
    else:
        with pytest.raises(LedgerError, match="There is a ledger"):
            Ledger.create(tmp_path, **TERMS, data_sha256=SHA)
    with Ledger.open(tmp_path, **TERMS, data_sha256=SHA) as ledger:
        assert len(ledger.lines()) == 1


@pytest.mark.parametrize("point", ["before all", "before the commit", "after the commit"])
def test_killed_while_it_completes_anothers_line(tmp_path: Path, point: str) -> None:
    used(tmp_path)
    assert ended(forked(lambda: print(WORK["charge"](dying("before the commit").open(tmp_path, **TERMS))))) == -signal.SIGKILL
    for _ in range(2 if point != "after the commit" else 1):
        assert ended(forked(lambda: print(dying(point).open(tmp_path, **TERMS)))) == -signal.SIGKILL
    with Ledger.open(tmp_path, **TERMS) as ledger:
        assert ledger.studies()[0].rounds_charged == 3


def test_another_process_goes_on_after_the_kill(tmp_path: Path) -> None:
    """One that had the ledger open all along first completes the dead one's line: it would else write another in its place."""
    used(tmp_path)
    asking, answer = os.pipe(), os.pipe()

    def survivor() -> None:
        with Ledger.open(tmp_path, **TERMS) as ledger:
            os.write(answer[1], b".")
            os.read(asking[0], 1)
            ledger.charge("s", "r", 3, "fit", 3)

    child = forked(survivor)
    os.read(answer[0], 1)
    assert ended(forked(lambda: print(WORK["charge"](dying("before the commit").open(tmp_path, **TERMS))))) == -signal.SIGKILL
    os.write(asking[1], b".")
    assert ended(child) == 0
    for end in (*asking, *answer):
        os.close(end)
    with Ledger.open(tmp_path, **TERMS) as ledger:
        assert [x.entry.seq for x in ledger.lines()[2:]] == [0, 1, 2, 3]  # type: ignore[union-attr]


def test_killed_anywhere(tmp_path: Path) -> None:
    """60 processes that charge as fast as they can, each killed at a random time: all that one was told is charged is charged."""
    used(tmp_path)
    draw, counted, completed = random.Random(11), 2, 0
    for _ in range(60):
        told, tell = os.pipe()

        def work(first: int = counted, tell: int = tell) -> None:
            with Ledger.open(tmp_path, **TERMS) as ledger:
                for seq in range(first, first + 1000):
                    ledger.charge("s", "r", seq, "fit", seq)
                    os.write(tell, b".")

        child = forked(work)
        os.close(tell)
        os.read(told, 1)
        counted += 1
        time.sleep(draw.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        assert ended(child) == -signal.SIGKILL
        while said := os.read(told, 4096):
            counted += len(said)
        os.close(told)
        with Ledger.open(tmp_path, **TERMS) as ledger:
            (study,) = ledger.studies()
            assert study.rounds_charged - counted in (0, 1)
            completed += study.rounds_charged - counted
            assert study.charged == study.rounds_charged * ledger.charge("s", "r", 0, "fit", 0).cost
            counted = study.rounds_charged
    assert counted > 60


class Full(Ledger):
    """Its disk is full at the first commit after the anchor was written, and then not any more."""

    trouble: list[Exception]

    def _commit(self) -> None:
        if self.trouble:
            raise self.trouble.pop()
        super()._commit()


def full() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error


@pytest.mark.parametrize(("trouble", "seen"), [(full(), Unavailable), (OSError(28, "No space left"), Unavailable), (KeyboardInterrupt(), KeyboardInterrupt)])
def test_an_error_between_the_anchor_and_the_commit(tmp_path: Path, trouble: Any, seen: type[BaseException]) -> None:
    used(tmp_path)
    Full.trouble = []
    with Full.open(tmp_path, **TERMS) as ledger:
        Full.trouble = [trouble]
        with pytest.raises(seen):
            WORK["charge"](ledger)
        assert ledger.studies()[0].rounds_charged == 3, "it may have been seen elsewhere, so it counts"
        assert not ledger.charge("s", "r", 2, "fit", 2).fresh
        assert ledger.charge("s", "r", 3, "fit", 3).fresh


class Unwritable(Anchor):
    def _put_in_place(self, new: Path) -> None:
        raise OSError(28, "No space left on device")


def test_an_anchor_that_cannot_be_written(tmp_path: Path) -> None:
    used(tmp_path)
    with Ledger.open(tmp_path, **TERMS) as ledger:
        good, ledger._anchor = ledger._anchor, Unwritable(ledger._anchor.path)
        with pytest.raises(Unavailable, match="No space left"):
            WORK["charge"](ledger)
        ledger._anchor = good
        assert ledger.studies()[0].rounds_charged == 2
        assert ledger.charge("s", "r", 2, "fit", 2).fresh


def together(folder: Path, count: int, work: Callable[[Ledger, int], bool]) -> list[bool]:
    """What so many processes, let off at the same moment, each with the ledger open, came to."""
    ready, go = os.pipe(), os.pipe()
    out = [os.pipe() for _ in range(count)]

    def child(number: int) -> None:
        os.close(go[1])
        with Ledger.open(folder, **TERMS) as ledger:
            os.write(ready[1], b".")
            os.read(go[0], 1)
            os.write(out[number][1], b"1" if work(ledger, number) else b"0")

    children = [forked(lambda number=number: child(number)) for number in range(count)]  # type: ignore[misc]
    for _ in range(count):
        os.read(ready[0], 1)
    os.close(go[1])  # all wake up at the end of file
    assert [ended(c) for c in children] == [0] * count
    results = [os.read(end[0], 1) == b"1" for end in out]
    for end in (*ready, go[0], *(e for pair in out for e in pair)):
        os.close(end)
    return results


@pytest.mark.parametrize("attempt", range(5))
def test_the_last_room_goes_to_one(tmp_path: Path, attempt: int) -> None:
    with Ledger.create(tmp_path, **TERMS, data_sha256=SHA) as ledger:
        large = plan((1 / (0.6 * ledger.balance().limit)) ** 0.5, 1)

    def work(ledger: Ledger, number: int) -> bool:
        try:
            ledger.reserve(f"study {number}", large, requester="amy")
        except BudgetExhausted:
            return False
        return True

    won = together(tmp_path, 2, work)
    assert sorted(won) == [False, True]
    with Ledger.open(tmp_path, **TERMS) as ledger:
        assert [x.study for x in ledger.studies()] == [f"study {won.index(True)}"]


def test_one_charge_from_several_processes(tmp_path: Path) -> None:
    used(tmp_path)

    def work(ledger: Ledger, number: int) -> bool:
        return ledger.charge("s", "r", 2, "fit", 2).fresh

    assert sorted(together(tmp_path, 3, work)) == [False, False, True]
    with Ledger.open(tmp_path, **TERMS) as ledger:
        assert ledger.studies()[0].rounds_charged == 3


@pytest.mark.parametrize("attempt", range(3))
def test_a_ledger_is_created_by_one(tmp_path: Path, attempt: int) -> None:
    out, into = os.pipe()

    def work(number: int) -> None:
        try:
            Ledger.create(tmp_path, **TERMS, data_sha256=str(number) * 64).close()
        except LedgerError:
            return
        os.write(into, str(number).encode())

    children = [forked(lambda number=number: work(number)) for number in range(3)]  # type: ignore[misc]
    assert [ended(c) for c in children] == [0] * 3
    os.close(into)
    winner = os.read(out, 9).decode()
    os.close(out)
    assert len(winner) == 1
    Ledger.open(tmp_path, **TERMS, data_sha256=winner * 64).close()
