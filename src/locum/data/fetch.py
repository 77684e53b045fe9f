"""One file from the web: streamed, bounded, resumed where it broke off, and in place only once its SHA-256 is right."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from locum.errors import DataError, Unavailable

Progress = Callable[[str, int, int], None]
"""Called with the file's name, the bytes that are here, and the bytes that it has."""

_CHUNK = 1 << 16


def _bring(to: Path) -> str:
    """What to do where a file cannot be had from the web."""
    return f"bring {to.parent.name}/{to.name} from elsewhere, and set LOCUM_DATA_DIR to the folder in which {to.parent.name} lies"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(url: str, to: Path, *, sha256: str, size: int, progress: Progress | None = None) -> Path:
    """Bring exactly the file of this digest and size to `to`.

    Raises `Unavailable` when the network or the server fails (what came is kept, and the next call goes on from there),
    and `DataError` when other bytes are published there than the registry knows.
    """
    part = to.with_name(f"{to.name}.part")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        if not part.exists() or part.stat().st_size != size:
            _receive(url, part, to.name, size, progress or (lambda name, have, total: None))
        if part.stat().st_size != size or sha256_of(part) != sha256:
            part.unlink()
            raise DataError(
                f"What was downloaded as {to.name} is not the file that the registry knows.",
                why="Its SHA-256 differs, so it was altered on the way or at its source.",
                fix=f"try again; behind a proxy that rewrites files, {_bring(to)}",
            )
        part.replace(to)
    except OSError as error:
        what = f"{to.name} cannot be stored in {to.parent}: {error.strerror}."
        raise Unavailable(what, fix="set LOCUM_CACHE to a folder with space that you may write to") from None
    return to


def _receive(url: str, part: Path, name: str, size: int, progress: Progress) -> None:
    import httpx  # here, because most commands need no network

    fix = f"try again; where there is no network, {_bring(part.with_name(name))}"
    have = part.stat().st_size if part.exists() else 0
    have = have if have < size else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})  # the digest is of the file, not of a gzip of it
    try:
        with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=30.0) as response:
            if response.status_code not in (200, 206):
                part.unlink(missing_ok=True)
                raise Unavailable(f"{name} cannot be downloaded from {url}.", why=f"The server answered {response.status_code}.", fix=fix)
            resumed = have > 0 and response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            have = have if resumed else 0
            with part.open("ab" if resumed else "wb") as file:
                for chunk in response.iter_raw(_CHUNK):
                    have += len(chunk)
                    if have > size:
                        break  # the digest cannot be right, and a stranger does not fill the disk
                    file.write(chunk)
                    progress(name, have, size)
            if have > size:
                part.unlink()
                what = f"{url} sends more than the {size:,} bytes that {name} has."
                raise DataError(what, fix=f"the published file has changed; {_bring(part.with_name(name))}")
            if have < size:
                raise Unavailable(f"The download of {name} ended after {have:,} of {size:,} bytes.", fix="try again: it goes on from there")
    except httpx.HTTPError as error:
        raise Unavailable(f"{name} cannot be downloaded from {url}.", why=f"{type(error).__name__}: {error}.", fix=fix) from None
