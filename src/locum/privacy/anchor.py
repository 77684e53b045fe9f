"""The anchor: a small file beside a ledger that knows each line before the ledger does, so that no line is lost and an older copy shows.

Precondition   whoever writes or compares holds the ledger's write lock (BEGIN IMMEDIATE); line n + 1 names the hash of line n.
Pseudocode     write(n, line):   ledger.head.new <- {n, line, hash(line)}; fsync; rename over ledger.head; fsync of the folder
               append(line):     insert the line; write(n, line); COMMIT
               compare(n, line): the anchor's (n, line) is the ledger's last       -> nothing to do
                                 the anchor is one ahead and follows the last line -> that line, to be completed
                                 anything else                                     -> LedgerError
Postcondition  A process that is killed before the rename has changed nothing; one that is killed after it has charged: the
               next process to open the ledger completes the line. The anchor is never behind, so a ledger with fewer lines
               by two or more, or an anchor with fewer, was put back from a copy.
Not seen       both files put back from the same older copy, both deleted, or both rewritten by somebody who computes the
               hashes anew. Only a witness outside the folder knows better: see `Ledger.check_witness`.

Source: write-ahead logging (Mohan et al., "ARIES", TODS 1992), with the last record alone as the log.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Annotated

import msgspec

from locum.privacy.durable import sync_folder
from locum.privacy.errors import LedgerError

MAX_LINE = 1 << 20
_MAX_ANCHOR = 2 * MAX_LINE + 4096  # JSON in JSON: quotes and backslashes double
_DOMAIN = b"locum/privacy-ledger/1\0"
RESTORE = (
    "put the newest ledger.db and ledger.head back together; if they are lost, count the budget of these patients as spent, and ask whoever keeps a witness"
)


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    n: Annotated[int, msgspec.Meta(ge=1, le=1 << 53)]
    line: Annotated[str, msgspec.Meta(max_length=MAX_LINE)]
    hash: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


def line_hash(line: bytes) -> str:
    """The name of a line, and by its `previous` of all lines before it: 64 hexadecimal digits of SHA-256."""
    return hashlib.sha256(_DOMAIN + line).hexdigest()


class Anchor:
    """The file `path`, which holds the number, text and hash of a ledger's last line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def exists(self) -> bool:
        return self.path.exists()

    def write(self, n: int, line: bytes) -> None:
        """Make line n known, durably. Raises OSError; then the ledger's next turn finds out whether it is known."""
        new = self._write_new(msgspec.json.encode(_Head(n, line.decode(), line_hash(line))))
        self._put_in_place(new)
        sync_folder(self.path.parent)

    def pending(self, n: int, last: bytes) -> bytes | None:
        """The line that the anchor knows and a ledger of n lines, which ends with `last`, lacks; None where there is none.

        That it names the hash of `last` is for its reader to check. Raises `LedgerError` where the two files do not belong
        together.
        """
        known = self._read()
        if known is None:
            if n:
                raise _refused("ledger.head is missing, though the ledger has lines.", "Without it an older ledger would not show.")
            return None
        line = known.line.encode()
        if known.n > n + 1:
            raise _refused(f"The ledger was rolled back: it has {n} lines, and ledger.head knows {known.n}.", "An older copy would forget what was spent.")
        if known.n < n:
            raise _refused(f"ledger.head was rolled back: it knows {known.n} lines, and the ledger has {n}.", "It is never behind by itself.")
        if known.n == n and line != last:
            raise _refused(f"ledger.head and the ledger differ in line {n}.", "One of them was edited, or is a copy from another ledger.")
        return None if known.n == n else line

    def _read(self) -> _Head | None:
        try:
            with self.path.open("rb") as f:
                raw = f.read(_MAX_ANCHOR + 1)
        except FileNotFoundError:
            return None
        try:
            head = msgspec.json.decode(raw, type=_Head) if len(raw) <= _MAX_ANCHOR else None
        except (msgspec.DecodeError, UnicodeError):
            head = None
        if head is None or line_hash(head.line.encode()) != head.hash:
            raise _refused("ledger.head is damaged.", "It was edited or cut.")
        return head

    def _write_new(self, raw: bytes) -> Path:
        new = self.path.with_name(self.path.name + ".new")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600)
        with open(fd, "wb", buffering=0) as f:
            view = memoryview(raw)
            while view:
                view = view[f.write(view) :]
            os.fsync(f.fileno())
        return new

    def _put_in_place(self, new: Path) -> None:
        os.replace(new, self.path)


class NoAnchor(Anchor):
    """For a ledger in memory, which no copy can be put back of."""

    def __init__(self) -> None:
        super().__init__(Path())

    def exists(self) -> bool:
        return False

    def write(self, n: int, line: bytes) -> None:
        """Nothing outlives the process."""

    def pending(self, n: int, last: bytes) -> bytes | None:
        return None


def _refused(what: str, why: str) -> LedgerError:
    return LedgerError(what, why=why, fix=RESTORE)
