"""The site's memory: one answer per round, an answer and its memory together or not at all, a log that shows edits."""

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from locum.errors import Conflict, LocumError, NotFound
from locum.federation.door import LogEntry, Release
from locum.federation.state import decode_state, encode_state
from locum.federation.wire import INLINE_BYTES, Assignment, StudyView
from locum.site.store import Answer, DataSet, Store
from locum.study import Layout
from locum.testing import Clock

MEMORY = encode_state({"m": np.arange(3.0)})


def assignment(seq: int = 0, run: str = "r") -> Assignment:
    values: dict[str, Any] = {"step": 1, "iteration": 0, "roster": ("a",), "state": "s", "state_bytes": 0, "layout": "l", "vector_bytes": 0}
    return Assignment(study="d", run=run, seq=seq, deadline=0.0, seed=0, **values)


def release(size: int = 3) -> Release:
    return Release(Layout.of(x=(size,)), {"x": np.arange(float(size))}, "digest", "envelope")


def keep(store: Store, a: Assignment, r: Release) -> Answer:
    answer = Answer.of_release(a, a.encode(), r)
    store.keep(answer, step=a.step, memory=MEMORY, release=r)
    return answer


def entry(seq: int) -> LogEntry:
    return LogEntry("study", "run", seq, "step", "to", "purpose", 3, 24, "digest", 5, "clear")


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store(tmp_path / "site", clock=Clock()) as store:
        yield store


def test_an_answer_outlives_the_process(store: Store) -> None:
    kept = keep(store, assignment(), release())
    with Store(store.folder) as again:
        assert again.answer("r", 0) == kept
        assert again.last("r") == (0, 0, "d")
        assert again.unsent() == [("r", 0, kept.request)]
        assert again.memory("r", 1) == MEMORY
        assert again.memory("r", 0) is None
        again.mark(kept, "sent")
        assert again.unsent() == []


def test_a_round_is_answered_once_and_seq_does_not_go_back(store: Store) -> None:
    keep(store, assignment(5), release())
    for seq in (5, 4):
        with pytest.raises(Conflict):
            keep(store, assignment(seq), release())
    keep(store, assignment(5, run="other"), release())
    keep(store, assignment(6), release())
    assert store.answer("r", 5).body is None  # type: ignore[union-attr]
    assert store.answer("r", 5).status == "over"  # type: ignore[union-attr]


def test_a_large_vector_is_a_file_until_the_next_round(store: Store) -> None:
    big = release(INLINE_BYTES // 8 + 1)
    answer = keep(store, assignment(0), big)
    assert answer.body is None
    path = store.outbox_file("r", 0)
    assert path.read_bytes() == big.layout.pack(big.vector)
    assert path.stat().st_mode & 0o077 == 0 or path.parent.stat().st_mode & 0o077 == 0
    keep(store, assignment(1), release())
    assert not path.exists()


def test_a_full_disk_keeps_neither_answer_nor_memory(store: Store) -> None:
    keep(store, assignment(0), release())
    (pages,) = store.db.execute("PRAGMA page_count").fetchone()
    store.db.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        keep(store, assignment(1), release(20_000))
    assert store.last("r") == (0, 0, "d")
    assert store.answer("r", 0).status == "ready"  # type: ignore[union-attr]
    assert decode_state(store.memory("r", 1) or b"")["m"].tolist() == [0.0, 1.0, 2.0]
    store.db.execute("PRAGMA max_page_count = 100000")
    keep(store, assignment(1), release(20_000))


def test_prune_drops_old_bytes_and_keeps_the_record(store: Store) -> None:
    answer = keep(store, assignment(), release(INLINE_BYTES // 8 + 1))
    store.clock.advance(8 * 86400)  # type: ignore[attr-defined]
    store.prune()
    assert store.outbox_file("r", 0).exists(), "not acknowledged yet"
    store.mark(answer, "sent")
    store.prune()
    assert not store.outbox_file("r", 0).exists()
    assert store.answer("r", 0)


def test_two_processes_share_a_store(store: Store) -> None:
    with Store(store.folder) as other:
        other.put_data(DataSet("main", "/a.csv", ""))
        assert store.data() == [DataSet("main", "/a.csv", "")]
        for i in range(20):
            (store, other)[i % 2].record(entry(i))
        store.verify()


def test_decisions(store: Store) -> None:
    view = StudyView(digest="d" * 64, manifest="{}", envelope="", requester="r", requester_key="", submitted=0.0)
    with pytest.raises(NotFound):
        store.decide(view.digest, approve=True, data="main")
    store.put_study(view)
    assert store.undecided() == [view.digest]
    store.decide(view.digest, approve=True, data="main")
    assert store.untold() == [(view.digest, "approved")]
    store.told(view.digest, "denied")
    assert store.untold() == [(view.digest, "approved")], "another decision was acknowledged"
    store.told(view.digest, "approved")
    assert store.untold() == []
    store.put_study(view)
    assert store.study(view.digest).decision == "approved"  # type: ignore[union-attr]


def test_the_release_log_is_append_only(store: Store) -> None:
    store.record(entry(0))
    for sql in ("UPDATE release SET line = ''", "DELETE FROM release"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            store.db.execute(sql)


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE release SET line = replace(line, '\"nbytes\":24', '\"nbytes\":12') WHERE n = 3",
        "DELETE FROM release WHERE n = 3",
        "DELETE FROM release WHERE n = 1",
        "UPDATE release SET n = n + 10 WHERE n = 5",
        "UPDATE release SET hash = 'x' WHERE n = 3",
        "UPDATE release SET line = 'x' WHERE n = 3",
    ],
)
def test_the_release_log_shows_edits(store: Store, edit: str) -> None:
    assert store.verify() == ""
    for i in range(5):
        store.record(entry(i))
    head = store.verify()
    assert [line.entry.seq for line in store.releases()] == list(range(5))
    store.db.execute("DROP TRIGGER release_is_not_edited")
    store.db.execute("DROP TRIGGER release_is_not_erased")
    store.db.execute(edit)
    with pytest.raises(LocumError, match="does not hold together"):
        store.verify()
    assert len(head) == 64


def test_a_log_cut_at_its_end_has_another_name(store: Store) -> None:
    store.record(entry(0))
    short = store.verify()
    store.record(entry(1))
    assert store.verify() != short


def test_only_the_owner_can_read_it(store: Store) -> None:
    assert store.folder.stat().st_mode & 0o077 == 0
    assert (store.folder / "site.db").stat().st_mode & 0o077 == 0


def test_a_store_of_a_later_release_is_left_alone(store: Store) -> None:
    store.db.execute("PRAGMA user_version = 99")
    with pytest.raises(LocumError, match="later release"):
        Store(store.folder)
