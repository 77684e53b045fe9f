"""Which program this is: one digest over the files of the installed package, so that an approval can name the code that it was given for.

Format: SHA-256 over "locum/code/1\\0", then for each file in the order of its path: path, NUL, SHA-256 in hexadecimal, LF. Compiled files (`.pyc`,
`__pycache__`) are made from the others and differ between machines, so they do not count. It names what lies on disk: somebody who can write to
the package can also make it state another digest, so against this machine's own administrator it proves nothing.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from locum.errors import Unavailable

PACKAGE = Path(__file__).parents[1]


def digest_of(folder: Path) -> str:
    """The digest of the files below a folder, in hexadecimal. Raises `Unavailable` where one cannot be read, as while an update is under way."""
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts and p.suffix != ".pyc"}
    total = hashlib.sha256(b"locum/code/1\0")
    try:
        for name in sorted(found):
            total.update(f"{name}\0{hashlib.sha256(found[name].read_bytes()).hexdigest()}\n".encode(errors="surrogateescape"))
    except OSError as error:
        raise Unavailable("The program's own files cannot be read.", why="They may be being updated.", fix="try again when that is done") from error
    return total.hexdigest()


@cache
def code_digest() -> str:
    """Of this program, as it was when the process first asked."""
    return digest_of(PACKAGE)
