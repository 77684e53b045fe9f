"""Transactions, migrations and wake-ups on both databases; PostgreSQL is a real server."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, select, text

from locum.coordinator.store import Store, conninfo
from locum.coordinator.tables import metadata, parties
from locum.coordinator.wakeups import Wakeups
from locum.errors import ManifestError, Unavailable


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path) -> str:
    return f"sqlite:///{tmp_path / 'c.db'}" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def store(url):
    store = Store(url, Wakeups(), time.time)
    store.migrate()
    yield store
    store.close()


def party(name: str) -> object:
    return insert(parties).values(name=name, role="site", public_key=name, enrolled=1.0)


def test_the_migrations_lead_to_the_tables_of_this_code(store) -> None:
    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    store.migrate()


def test_replicas_may_start_at_once(url) -> None:
    stores = [Store(url, Wakeups(), time.time) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(Store.migrate, stores))
    assert stores[0].read(lambda tx: tx.rows(select(parties))) == []
    for store in stores:
        store.close()


def test_a_failed_transaction_changes_and_wakes_nothing(store) -> None:
    with store.wakeups.thread("t") as heard:

        def change(tx) -> None:
            tx.execute(party("a"))
            tx.wake("t")
            raise KeyError

        with pytest.raises(KeyError):
            store.write(change)
        assert not heard.is_set()
        assert store.read(lambda tx: tx.rows(select(parties))) == []
        store.write(lambda tx: (tx.execute(party("a")), tx.wake("t")))
        assert heard.is_set()


def test_a_collision_is_tried_again_and_then_says_try_again(store) -> None:
    store.write(lambda tx: tx.execute(party("a")))
    calls = []

    def change(tx) -> None:
        calls.append(1)
        tx.execute(party("a" if len(calls) < 3 else "b"))

    store.write(change)
    assert len(calls) == 3
    with pytest.raises(Unavailable, match="collided"):
        store.write(lambda tx: tx.execute(party("a")))


def test_writers_in_many_threads_lose_nothing(store) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: store.write(lambda tx: tx.execute(party(f"p{i}"))), range(60)))
    assert len(store.read(lambda tx: tx.rows(select(parties.c.name)))) == 60


def test_sqlite_is_as_durable_as_promised(tmp_path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'c.db'}", Wakeups(), time.time)
    pragmas = {name: store.read(lambda tx, name=name: tx.first(text(f"PRAGMA {name}"))[0]) for name in ("journal_mode", "synchronous", "foreign_keys")}
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    assert (tmp_path / "c.db").stat().st_mode & 0o077 == 0
    store.close()


def test_postgres_wakes_the_other_replicas(postgres_url) -> None:
    one, other = Wakeups(), Wakeups(conninfo(postgres_url))
    store = Store(postgres_url, one, time.time)
    other.start(None)
    with other.thread("run:x") as heard:
        end = time.monotonic() + 10
        while not heard.is_set() and time.monotonic() < end:  # until the other one listens
            store.write(lambda tx: tx.wake("run:x"))
            heard.wait(0.05)
        time.sleep(0.3)
        heard.clear()
        store.write(lambda tx: tx.wake("run:y"))
        assert not heard.wait(0.3)
        store.write(lambda tx: tx.wake("run:x"))
        assert heard.wait(5)
    other.stop()
    store.close()


def test_a_database_that_is_away_is_unavailable_and_names_no_secret(postgres_cluster) -> None:
    url = f"postgresql://locum:hunter2@127.0.0.1:{postgres_cluster.port}/nowhere"
    store = Store(url, Wakeups(), time.time)
    with pytest.raises(Unavailable) as error:
        store.read(lambda tx: tx.clock())
    assert "hunter2" not in str(error.value) + error.value.local
    assert error.value.__cause__ is None
    store.close()


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://x/y", "sqlite://", "sqlite:///:memory:"])
def test_bad_urls(url) -> None:
    with pytest.raises(ManifestError):
        Store(url, Wakeups(), time.time)


def test_no_wake_up_is_lost_between_look_and_wait() -> None:
    wakeups, seen = Wakeups(), []
    stop = threading.Event()

    def listen() -> None:
        with wakeups.thread("t") as heard:
            while not stop.is_set():
                heard.clear()
                seen.append(value[0])
                heard.wait(5)

    value = [0]
    thread = threading.Thread(target=listen)
    thread.start()
    for i in range(1, 200):
        value[0] = i
        wakeups.notify(["t"])
    end = time.monotonic() + 4
    while seen[-1:] != [199] and time.monotonic() < end:
        time.sleep(0.001)
    assert seen[-1] == 199
    stop.set()
    wakeups.notify(["t"])
    thread.join()
