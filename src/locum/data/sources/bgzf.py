"""Blocked gzip (BGZF, hts-specs SAMv1 section 4.1): ordinary gzip members, the last of them empty, so that a file cut off is noticed."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from locum.data.sources.base import MAX_UNPACKED_BYTES, Bounded
from locum.errors import DataError

_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_BUFFER = 1 << 20


def open_bgzf(path: Path) -> BinaryIO:
    """The unpacked bytes of a file that is plain, gzip or BGZF, whatever its name; at most MAX_UNPACKED_BYTES of them.

    There is no bound on the ratio, for a rare variant's genotypes shrink a thousandfold: readers bound a line instead. Raises
    `DataError` where a BGZF file lacks its end.
    """
    with path.open("rb") as file:
        head = file.read(18)
        if head[:2] != b"\x1f\x8b":
            return path.open("rb", buffering=_BUFFER)
        if head[3:4] == b"\x04" and head[12:14] == b"BC":
            file.seek(0, io.SEEK_END)
            file.seek(max(0, file.tell() - len(_END)))
            if file.read() != _END:
                raise DataError(f"{path.name} is cut off: it lacks the empty block that ends a BGZF file.", fix="copy or export it again")
    return io.BufferedReader(Bounded(cast(BinaryIO, gzip.open(path)), path.name, MAX_UNPACKED_BYTES), _BUFFER)


@contextmanager
def reading_genotypes(name: str) -> Iterator[None]:
    """Turn what unpacking and decoding raise into `DataError`; the reason may quote the file, so it stays on this machine."""
    try:
        yield
    except (OSError, EOFError, zlib.error, UnicodeError) as error:
        raise DataError(f"{name} is damaged: it cannot be unpacked or decoded to its end.", fix="copy or export it again", local=str(error)) from None
