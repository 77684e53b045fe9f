"""What a site remembers: one SQLite file, durable at every commit (WAL, synchronous = FULL) but one, and two folders beside it.

site.db    data sets, decisions on studies, the release log, the answers given, the tasks' site-private memory
outbox/    vectors too large for the database, until the round is over
incoming/  global models that are being fetched

An answer and the memory that its visit left behind are one transaction: after a crash there are both or neither.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from locum.errors import Conflict, DataError, LocumError, NotFound
from locum.federation.door import LogEntry, Release
from locum.federation.roster import SignedRoster
from locum.federation.round import PHASES
from locum.federation.wire import INLINE_BYTES, Assignment, StudyView
from locum.privacy.durable import statements, sync_folder

_SCHEMA = """
CREATE TABLE data (name TEXT PRIMARY KEY, source TEXT NOT NULL, mapping TEXT NOT NULL, added REAL NOT NULL) STRICT;
CREATE TABLE study (
    digest TEXT PRIMARY KEY, view BLOB NOT NULL, decision TEXT NOT NULL DEFAULT '', data TEXT NOT NULL DEFAULT '',
    decided REAL NOT NULL DEFAULT 0, told INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE answer (
    run TEXT, seq INTEGER, study TEXT NOT NULL, assignment TEXT NOT NULL, state TEXT NOT NULL, kind TEXT NOT NULL, digest TEXT NOT NULL,
    nbytes INTEGER NOT NULL, envelope TEXT NOT NULL, request BLOB NOT NULL, status TEXT NOT NULL, time REAL NOT NULL,
    PRIMARY KEY (run, seq)) STRICT;
CREATE TABLE body (run TEXT, seq INTEGER, bytes BLOB NOT NULL, PRIMARY KEY (run, seq)) STRICT;
CREATE TABLE memory (run TEXT, step INTEGER, body BLOB NOT NULL, PRIMARY KEY (run, step)) STRICT;
CREATE TABLE release (n INTEGER PRIMARY KEY, line TEXT NOT NULL, hash TEXT NOT NULL) STRICT;
CREATE TRIGGER release_is_not_edited BEFORE UPDATE ON release BEGIN SELECT RAISE(ABORT, 'the release log is append-only'); END;
CREATE TRIGGER release_is_not_erased BEFORE DELETE ON release BEGIN SELECT RAISE(ABORT, 'the release log is append-only'); END;
"""
_PHASES = """
ALTER TABLE answer RENAME TO answer_1;
CREATE TABLE answer (
    run TEXT, seq INTEGER, turn INTEGER, phase TEXT NOT NULL, study TEXT NOT NULL, assignment TEXT NOT NULL, state TEXT NOT NULL, kind TEXT NOT NULL,
    digest TEXT NOT NULL, nbytes INTEGER NOT NULL, envelope TEXT NOT NULL, request BLOB NOT NULL, status TEXT NOT NULL, time REAL NOT NULL,
    PRIMARY KEY (run, seq, turn)) STRICT;
INSERT INTO answer SELECT run, seq, 0, 'release', study, assignment, state, kind, digest, nbytes, envelope, request, status, time FROM answer_1;
DROP TABLE answer_1;
CREATE INDEX answer_by_status ON answer (status);
ALTER TABLE body RENAME TO body_1;
CREATE TABLE body (run TEXT, seq INTEGER, turn INTEGER, bytes BLOB NOT NULL, PRIMARY KEY (run, seq, turn)) STRICT;
INSERT INTO body SELECT run, seq, 0, bytes FROM body_1;
DROP TABLE body_1;
CREATE TABLE roster (version INTEGER PRIMARY KEY, body TEXT NOT NULL, signature TEXT NOT NULL) STRICT;
CREATE TABLE session (run TEXT PRIMARY KEY, state BLOB NOT NULL) STRICT;
CREATE TABLE masking (run TEXT, seq INTEGER, state BLOB NOT NULL, PRIMARY KEY (run, seq)) STRICT;
CREATE TABLE summed (study TEXT, step INTEGER, state TEXT, cohort TEXT, PRIMARY KEY (study, step, state, cohort)) STRICT;
"""
_WAIVERS = """
CREATE TABLE waiver (n INTEGER PRIMARY KEY, study TEXT NOT NULL, time REAL NOT NULL, line TEXT NOT NULL, signature TEXT NOT NULL) STRICT;
CREATE TRIGGER waiver_is_not_edited BEFORE UPDATE ON waiver BEGIN SELECT RAISE(ABORT, 'waivers are append-only'); END;
CREATE TRIGGER waiver_is_not_erased BEFORE DELETE ON waiver BEGIN SELECT RAISE(ABORT, 'waivers are append-only'); END;
"""
_WITNESS = """
CREATE TABLE log_head (size INTEGER NOT NULL, checkpoint TEXT NOT NULL) STRICT;
CREATE TABLE log_fork (
    n INTEGER PRIMARY KEY, time REAL NOT NULL, what TEXT NOT NULL, seen TEXT NOT NULL, shown TEXT NOT NULL, settled TEXT NOT NULL DEFAULT '') STRICT;
"""
_POLICY = """
ALTER TABLE study ADD COLUMN approval TEXT NOT NULL DEFAULT '';
ALTER TABLE study ADD COLUMN patients INTEGER NOT NULL DEFAULT 0;
CREATE TABLE policy (n INTEGER PRIMARY KEY, time REAL NOT NULL, digest TEXT NOT NULL, text TEXT NOT NULL) STRICT;
CREATE TRIGGER policy_is_not_edited BEFORE UPDATE ON policy BEGIN SELECT RAISE(ABORT, 'policies are append-only'); END;
CREATE TRIGGER policy_is_not_erased BEFORE DELETE ON policy BEGIN SELECT RAISE(ABORT, 'policies are append-only'); END;
"""
_MIGRATIONS = (_SCHEMA, _PHASES, _WAIVERS, _WITNESS, _POLICY)
_CHAIN = b"locum/release-log/1\0"

Decision = Literal["", "approved", "denied"]
Status = Literal["ready", "sent", "over"]


class DataSet(msgspec.Struct, frozen=True):
    """A table of this site. mapping: path of its mapping file, or '' where columns bear the studies' names."""

    name: str
    source: str
    mapping: str


class KnownStudy(msgspec.Struct, frozen=True):
    """A study as it was when this site first saw it, and what this site said. data: the data set that it may read.

    approval: what exactly was approved (`governance.policy.approval`), '' where nothing is. patients: counted then; they stay here.
    """

    view: StudyView
    decision: Decision
    data: str
    told: bool
    approval: str = ""
    patients: int = 0


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What was answered to one phase of a round, once and for all. body: None where the vector lies in the outbox.

    turn: the phase's place in `PHASES`. assignment: digest of the request's JSON, which `request` keeps. over: nobody wants
    it any more.
    """

    run: str
    seq: int
    turn: int
    phase: str
    study: str
    assignment: str
    state: str
    kind: Literal["release", "decline"]
    digest: str
    nbytes: int
    envelope: str
    request: bytes
    body: bytes | None
    status: Status

    @classmethod
    def of_release(cls, a: Assignment, request: bytes, release: Release, *, phase: str = "release") -> Answer:
        """The answer that a release is. A vector above INLINE_BYTES is not copied."""
        layout = release.layout
        body = layout.pack(release.vector) if layout.file_bytes <= INLINE_BYTES else None
        return cls._of(a, request, phase, kind="release", digest=release.digest, nbytes=layout.file_bytes, envelope=release.envelope, body=body)

    @classmethod
    def of_message(cls, a: Assignment, request: bytes, body: bytes, envelope: str, *, phase: str) -> Answer:
        """A message of the masking protocol."""
        return cls._of(a, request, phase, kind="release", digest=hashlib.sha256(body).hexdigest(), nbytes=len(body), envelope=envelope, body=body)

    @classmethod
    def of_decline(cls, a: Assignment, request: bytes, code: bytes, envelope: str, *, phase: str = "release") -> Answer:
        return cls._of(a, request, phase, kind="decline", digest=hashlib.sha256(code).hexdigest(), nbytes=len(code), envelope=envelope, body=code)

    @classmethod
    def _of(cls, a: Assignment, request: bytes, phase: str, **given: Any) -> Answer:
        digest, turn = hashlib.sha256(request).hexdigest(), PHASES.index(phase)
        fields = {"study": a.study, "assignment": digest, "state": a.state, "request": request, "status": "ready", **given}
        return cls(run=a.run, seq=a.seq, turn=turn, phase=phase, **fields)


class Masking(msgspec.Struct, frozen=True, kw_only=True):
    """What a masked round leaves at the site, made durable with the answer that it belongs to; see `locum.site.masking`.

    summed: (study, step, state, sites) whose sum can be read once this answer is out.
    """

    session: bytes | None = None
    round: bytes | None = None
    summed: tuple[str, int, str, tuple[str, ...]] | None = None


class LogFork(NamedTuple):
    """Evidence against the log: when, what was found, both checkpoints as text, and why a person let the site go on ('' if none has)."""

    time: float
    what: str
    seen: str
    shown: str
    settled: str = ""


class LogLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the release log: when, what, and the hash of the line before."""

    n: int
    time: float
    previous: str
    entry: LogEntry


class Store:
    """One site's memory. May be used from several threads; several processes may have it open."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.folder, self.clock = folder, clock
        self.outbox, self.incoming = folder / "outbox", folder / "incoming"
        for path in (folder, self.outbox, self.incoming):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = threading.RLock()
        self.db = sqlite3.connect(folder / "site.db", isolation_level=None, check_same_thread=False, timeout=10.0)
        os.chmod(folder / "site.db", 0o600)
        for pragma in ("journal_mode = WAL", "wal_autocheckpoint = 4000", "cache_size = -2048", "secure_delete = ON"):
            self.db.execute(f"PRAGMA {pragma}")
        self._migrate()

    def close(self) -> None:
        with self._lock:
            self.db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _migrate(self) -> None:
        with self._transaction():
            (version,) = self.db.execute("PRAGMA user_version").fetchone()
            if version > len(_MIGRATIONS):
                raise LocumError("This site's store was made by a later release.", fix="update Locum on this machine")
            for number, script in enumerate(_MIGRATIONS[version:], version + 1):
                for statement in statements(f"{script}PRAGMA user_version = {number};\n"):
                    self.db.execute(statement)

    @contextlib.contextmanager
    def _transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self.db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield self.db
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back already
                    self.db.execute("ROLLBACK")
                raise
            self.db.execute("COMMIT")

    def _rows(self, sql: str, *values: Any) -> list[Any]:
        with self._lock:
            return self.db.execute(sql, values).fetchall()

    # --- data sets ------------------------------------------------------------------------------------------------

    def put_data(self, data: DataSet) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO data VALUES (?, ?, ?, ?)", (data.name, data.source, data.mapping, self.clock()))

    def data(self) -> list[DataSet]:
        return [DataSet(*row) for row in self._rows("SELECT name, source, mapping FROM data ORDER BY name")]

    def data_for(self, study: KnownStudy) -> DataSet:
        """The data set that the study was approved on. Raises `DataError`."""
        found = [d for d in self.data() if d.name == study.data]
        if not found:
            raise DataError("The data set that this study was approved on is not here any more.", fix="add it again, or decide on the study anew")
        return found[0]

    # --- waivers --------------------------------------------------------------------------------------------------

    def put_waiver(self, study: str, line: str, signature: str) -> None:
        """One more line, for good: a waiver, or that one is withdrawn (`site.waivers`)."""
        with self._transaction() as db:
            db.execute("INSERT INTO waiver (study, time, line, signature) VALUES (?, ?, ?, ?)", (study, self.clock(), line, signature))

    def waivers(self, study: str) -> list[tuple[int, float, str, str]]:
        """Number, time, line and signature of all lines about a study, oldest first."""
        return [
            (n, at, line, signature) for n, at, line, signature in self._rows("SELECT n, time, line, signature FROM waiver WHERE study = ? ORDER BY n", study)
        ]

    # --- studies --------------------------------------------------------------------------------------------------

    def put_study(self, view: StudyView) -> None:
        """Keep a verified study; the first view of a digest stays."""
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO study (digest, view) VALUES (?, ?)", (view.digest, msgspec.json.encode(view)))

    def study(self, digest: str) -> KnownStudy | None:
        rows = self._rows(f"SELECT {_KNOWN} FROM study WHERE digest = ?", digest)  # noqa: S608 - our own names
        return _study(rows[0]) if rows else None

    def studies(self) -> list[KnownStudy]:
        return [_study(row) for row in self._rows(f"SELECT {_KNOWN} FROM study ORDER BY rowid")]  # noqa: S608 - our own names

    def undecided(self) -> list[str]:
        """Digests of the studies that await this site's decision."""
        return [digest for (digest,) in self._rows("SELECT digest FROM study WHERE decision = '' ORDER BY rowid")]

    def untold(self) -> list[tuple[str, Decision]]:
        """Decisions that the coordinator has not acknowledged."""
        return list(self._rows("SELECT digest, decision FROM study WHERE decision != '' AND told = 0 ORDER BY rowid"))

    def decide(self, digest: str, *, approve: bool, data: str, approval: str = "", patients: int = 0) -> None:
        """Record this site's decision, and what exactly was approved; the coordinator is still to be told. Raises `NotFound`."""
        with self._transaction() as db:
            change = "UPDATE study SET decision = ?, data = ?, decided = ?, approval = ?, patients = ?, told = 0 WHERE digest = ?"
            done = db.execute(change, ("approved" if approve else "denied", data, self.clock(), approval, patients, digest))
            if not done.rowcount:
                raise NotFound("This site has not seen a study with that digest.", fix="list the studies that await a decision")

    def told(self, digest: str, decision: Decision) -> None:
        """The coordinator knows of this decision, unless another was made meanwhile."""
        with self._transaction() as db:
            db.execute("UPDATE study SET told = 1 WHERE digest = ? AND decision = ?", (digest, decision))

    # --- the site's own rules ------------------------------------------------------------------------------------

    def put_policy(self, digest: str, text: str) -> None:
        """Keep what is in force from now on, unless it is already."""
        with self._transaction() as db:
            if db.execute("SELECT digest FROM policy ORDER BY n DESC LIMIT 1").fetchone() != (digest,):
                db.execute("INSERT INTO policy (time, digest, text) VALUES (?, ?, ?)", (self.clock(), digest, text))

    def policies(self) -> list[tuple[float, str, str]]:
        """Since when, digest and text of all rules that were in force here, oldest first."""
        return [tuple(row) for row in self._rows("SELECT time, digest, text FROM policy ORDER BY n")]

    # --- answers --------------------------------------------------------------------------------------------------

    def answer(self, run: str, seq: int, turn: int = 0) -> Answer | None:
        rows = self._rows("SELECT * FROM answer LEFT JOIN body USING (run, seq, turn) WHERE run = ? AND seq = ? AND turn = ?", run, seq, turn)
        return _answer(rows[0]) if rows else None

    def last(self, run: str) -> tuple[int, int, str] | None:
        """The last seq and turn that were answered in a run, and the run's study."""
        rows = self._rows("SELECT seq, turn, study FROM answer WHERE run = ? ORDER BY seq DESC, turn DESC LIMIT 1", run)
        return rows[0] if rows else None

    def assignment(self, run: str, seq: int) -> bytes | None:
        """The JSON of the assignment that opened a round, if this site answered it."""
        rows = self._rows("SELECT request FROM answer WHERE run = ? AND seq = ? ORDER BY turn LIMIT 1", run, seq)
        return rows[0][0] if rows else None

    def unsent(self) -> list[tuple[str, int, bytes]]:
        """What was answered but not yet acknowledged, first in line after a restart: run, seq and the request."""
        return self._rows("SELECT run, seq, request FROM answer WHERE status = 'ready' ORDER BY time")

    def keep(self, answer: Answer, *, step: int = 0, memory: bytes | None = None, release: Release | None = None, masking: Masking | None = None) -> None:
        """Make an answer durable before its message leaves, with the memory that its visit left for `step`, and with what the
        masking protocol must not forget. Blocking.

        release: whose vector becomes a file, written from its own buffers, if it is not the answer's body. Raises
        OSError or sqlite3.Error, for instance if the disk is full; then nothing is kept. Raises `Conflict` if this round
        or a later one has an answer.
        """
        if answer.body is None and release:
            self._write_outbox(answer, release)
        self._keep(answer, step, memory, masking or Masking())

    def _keep(self, answer: Answer, step: int, memory: bytes | None, masking: Masking) -> None:
        """Earlier phases and rounds of the run are over by now: their bytes and secrets go, their digests stay."""
        run, seq = answer.run, answer.seq
        with self._transaction() as db:
            if db.execute("SELECT 1 FROM answer WHERE run = ? AND (seq, turn) >= (?, ?)", (run, seq, answer.turn)).fetchone():
                raise Conflict("Another process of this site has answered this round.", fix="run one agent per site folder")
            old = db.execute("SELECT max(seq) FROM answer WHERE run = ? AND seq < ?", (run, seq)).fetchone()[0]
            db.execute("DELETE FROM body WHERE run = ?", (run,))
            db.execute("DELETE FROM masking WHERE run = ? AND seq < ?", (run, seq))
            db.execute("UPDATE answer SET status = 'over' WHERE run = ? AND status = 'ready'", (run,))
            row = (*(getattr(answer, column) for column in _COLUMNS), self.clock())
            db.execute(f"INSERT INTO answer VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608 - placeholders
            if answer.body is not None:
                db.execute("INSERT INTO body VALUES (?, ?, ?, ?)", (run, seq, answer.turn, answer.body))
            if memory is not None:
                db.execute("INSERT OR REPLACE INTO memory VALUES (?, ?, ?)", (run, step, memory))
            if masking.session is not None:
                db.execute("INSERT OR REPLACE INTO session VALUES (?, ?)", (run, masking.session))
            if masking.round is not None:
                db.execute("INSERT OR REPLACE INTO masking VALUES (?, ?, ?)", (run, seq, masking.round))
            if masking.summed is not None:
                study, number, state, cohort = masking.summed
                db.execute("INSERT OR IGNORE INTO summed VALUES (?, ?, ?, ?)", (study, number, state, "\n".join(cohort)))
        if old is not None:
            self.outbox_file(run, old).unlink(missing_ok=True)

    def mark(self, answer: Answer, status: Status) -> None:
        """Not worth a wait for the disk: if it is lost with the machine's power, the answer is sent once more."""
        with self._transaction(durable=False) as db:
            db.execute("UPDATE answer SET status = ? WHERE run = ? AND seq = ? AND turn = ?", (status, answer.run, answer.seq, answer.turn))

    def prune(self, age_s: float = 7 * 86400.0) -> None:
        """Drop the bytes, not the record, of answers that the coordinator has had for a week, the secrets of runs that have
        been silent for so long, and abandoned downloads.
        """
        before = self.clock() - age_s
        with self._transaction() as db:
            old = db.execute("SELECT run, seq FROM answer WHERE status != 'ready' AND time < ?", (before,)).fetchall()
            db.executemany("DELETE FROM body WHERE run = ? AND seq = ?", old)
            for table in ("session", "masking"):
                db.execute(f"DELETE FROM {table} WHERE run NOT IN (SELECT run FROM answer WHERE time >= ?)", (before,))  # noqa: S608 - our own names
        for run, seq in old:
            self.outbox_file(run, seq).unlink(missing_ok=True)
        for path in self.incoming.iterdir():
            if path.stat().st_mtime < before:
                path.unlink(missing_ok=True)

    # --- masking --------------------------------------------------------------------------------------------------

    def masking(self, run: str, seq: int) -> tuple[bytes | None, bytes | None]:
        """What is kept of a run's session, and of a masked round in progress."""
        session = self._rows("SELECT state FROM session WHERE run = ?", run)
        state = self._rows("SELECT state FROM masking WHERE run = ? AND seq = ?", run, seq)
        return session[0][0] if session else None, state[0][0] if state else None

    def summed(self, study: str, step: int, state: str) -> list[list[str]]:
        """The cohorts over which this site's numbers for a step and a global state have been summed."""
        return [text.split("\n") for (text,) in self._rows("SELECT cohort FROM summed WHERE study = ? AND step = ? AND state = ?", study, step, state)]

    def roster(self) -> tuple[int, SignedRoster] | None:
        """The latest roster that this site has seen, and its version."""
        rows = self._rows("SELECT version, body, signature FROM roster ORDER BY version DESC LIMIT 1")
        return (rows[0][0], SignedRoster(body=rows[0][1], signature=rows[0][2])) if rows else None

    def put_roster(self, version: int, signed: SignedRoster) -> None:
        """Only ever forward. Raises `Conflict` for an older version, or another roster of the same."""
        with self._transaction() as db:
            known = db.execute("SELECT version, body FROM roster ORDER BY version DESC LIMIT 1").fetchone()
            if known and (version < known[0] or (version == known[0] and signed.body != known[1])):
                raise Conflict("The roster is older than one that this site has seen.", why="The coordinator may not go back to it.")
            db.execute("INSERT OR REPLACE INTO roster VALUES (?, ?, ?)", (version, signed.body, signed.signature))

    def log_head(self) -> str:
        """The checkpoint of the federation's log that this site has cosigned last; '' before the first."""
        rows = self._rows("SELECT checkpoint FROM log_head ORDER BY size DESC LIMIT 1")
        return str(rows[0][0]) if rows else ""

    def put_log_head(self, size: int, checkpoint: str) -> None:
        """Durable before the cosignature leaves: a site never says yes to two histories."""
        with self._transaction() as db:
            db.execute("DELETE FROM log_head")
            db.execute("INSERT INTO log_head VALUES (?, ?)", (size, checkpoint))

    def log_forks(self) -> list[LogFork]:
        """Every time that the coordinator has shown a log which does not continue what this site has cosigned."""
        return [LogFork(*row) for row in self._rows("SELECT time, what, seen, shown, settled FROM log_fork ORDER BY n")]

    def settle_log(self, reason: str) -> None:
        """Somebody has looked: the evidence stays, and the next head that is shown is a new beginning."""
        with self._transaction() as db:
            db.execute("UPDATE log_fork SET settled = ? WHERE settled = ''", (reason,))
            db.execute("DELETE FROM log_head")

    def put_log_fork(self, what: str, seen: str, shown: str) -> None:
        """Keep the evidence."""
        with self._transaction() as db:
            db.execute("INSERT INTO log_fork (time, what, seen, shown) VALUES (?, ?, ?, ?)", (time.time(), what, seen, shown))

    def last_memory(self, study: str) -> dict[int, bytes]:
        """What the steps of a study left in memory, in the last run that this site answered: step -> body."""
        latest = "SELECT step, body FROM memory WHERE run = (SELECT run FROM answer WHERE study = ? ORDER BY time DESC LIMIT 1)"
        return dict(self._rows(latest, study))

    def memory(self, run: str, step: int) -> bytes | None:
        """What a task left for itself at this site in an earlier round of the same step, as safetensors."""
        rows = self._rows("SELECT body FROM memory WHERE run = ? AND step = ?", run, step)
        return rows[0][0] if rows else None

    def outbox_file(self, run: str, seq: int) -> Path:
        return self.outbox / f"{_key(run, seq)}.safetensors"

    def incoming_file(self, run: str, seq: int) -> Path:
        return self.incoming / f"{_key(run, seq)}.part"

    def _write_outbox(self, answer: Answer, release: Release) -> None:
        path = self.outbox_file(answer.run, answer.seq)
        try:
            with path.open("wb", buffering=0) as f:
                for piece in release.layout.buffers(release.vector):
                    view = memoryview(piece)
                    while view:
                        view = view[f.write(view) :]
                os.fsync(f.fileno())
            sync_folder(self.outbox)
        except OSError:
            path.unlink(missing_ok=True)
            raise

    # --- the release log ------------------------------------------------------------------------------------------

    def record(self, entry: LogEntry) -> None:
        """Append a line and make it durable. Each line holds the hash of the one before, so that an edit shows."""
        with self._transaction() as db:
            n, previous = _head(db)
            line = msgspec.json.encode(LogLine(n + 1, self.clock(), previous, entry))
            db.execute("INSERT INTO release VALUES (?, ?, ?)", (n + 1, line.decode(), _hash(line)))

    def releases(self) -> Iterator[LogLine]:
        """Every line, oldest first."""
        for (line,) in self._rows("SELECT line FROM release ORDER BY n"):
            yield msgspec.json.decode(line, type=LogLine)

    def verify(self) -> str:
        """Check every line against its hash and the chain; the hash of the last line, which names the whole log.

        A log that was cut at its end still verifies: note the hash elsewhere, and compare. Raises `LocumError` that
        names the first line that does not fit.
        """
        previous, expected = "", 1
        for n, line, kept in self._rows("SELECT n, line, hash FROM release ORDER BY n"):
            try:
                decoded = msgspec.json.decode(line, type=LogLine)
            except msgspec.DecodeError:
                decoded = None
            if decoded is None or n != expected or decoded.n != n or decoded.previous != previous or _hash(line.encode()) != kept:
                raise LocumError(f"The release log does not hold together at line {expected}.", why="It was edited.", fix="restore it from a backup")
            previous, expected = kept, expected + 1
        return previous


_KNOWN = "view, decision, data, told, approval, patients"
_COLUMNS = ("run", "seq", "turn", "phase", "study", "assignment", "state", "kind", "digest", "nbytes", "envelope", "request", "status")


def _answer(row: Any) -> Answer:
    return Answer(**dict(zip(_COLUMNS, row, strict=False)), body=row[-1])


def _study(row: Any) -> KnownStudy:
    return KnownStudy(msgspec.json.decode(row[0], type=StudyView), row[1], row[2], bool(row[3]), row[4], row[5])


def _head(db: sqlite3.Connection) -> tuple[int, str]:
    row = db.execute("SELECT n, hash FROM release ORDER BY n DESC LIMIT 1").fetchone()
    return (row[0], row[1]) if row else (0, "")


def _hash(line: bytes) -> str:
    return hashlib.sha256(_CHAIN + line).hexdigest()


def _key(run: str, seq: int) -> str:
    return hashlib.sha256(f"{run}\0{seq}".encode()).hexdigest()[:40]
