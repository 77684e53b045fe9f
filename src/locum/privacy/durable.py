"""Two small things that whoever keeps a durable file needs: the ledger here, the site's store elsewhere."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path


def statements(script: str) -> Iterator[str]:
    """An SQL script's statements one by one: `executescript` would commit the transaction that it runs in."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def sync_folder(path: Path) -> None:
    """Make a folder's entries durable: a file that was renamed into it is there after a power cut."""
    if os.name == "posix":
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
