"""Bytes too large for a row: states, models, and releases on their way in.

A key is a path whose last 64 characters are the SHA-256 of the content. What `open` gives was complete and verified when
it appeared; until then it is staged, and an upload that was cut goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import AsyncIterable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, Protocol

import anyio
import anyio.to_thread

from locum.errors import EnvelopeError, NotFound, TaskError, TooLarge, Unavailable

PIECE = 1 << 19


def state_key(run: str, digest: str) -> str:
    return f"runs/{run}/states/{digest}"


def round_prefix(run: str, seq: int) -> str:
    """What every release of one round begins with."""
    return f"runs/{run}/rounds/{seq}/"


def release_key(run: str, seq: int, sender: str, digest: str) -> str:
    return f"{round_prefix(run, seq)}{sender}@{digest}"


def model_key(digest: str) -> str:
    return f"models/{digest}"


class BlobStore(Protocol):
    """Where blobs live. Every method may raise `Unavailable`: a full disk, a store that is away."""

    def check(self) -> None:
        """Raise `Unavailable` unless the store answers."""

    def size(self, key: str) -> int | None:
        """Bytes of a complete blob, or None."""

    def put(self, key: str, pieces: Iterable[bytes | memoryview]) -> None:
        """Store a blob durably from its pieces, unless it is there already."""

    def staged(self, key: str) -> int:
        """Bytes of an unfinished upload that have arrived."""

    async def append(self, key: str, offset: int, chunks: AsyncIterable[bytes], limit: int) -> int:
        """Add to an upload from `offset` (its `staged` size) and return the new size; keeps what arrived when `chunks` breaks off."""

    def finish(self, key: str, prefix: bytes) -> None:
        """Verify an upload's digest and first bytes and make it a blob, durably. Raises `EnvelopeError` or `TaskError` and drops it."""

    def open(self, key: str) -> BinaryIO:
        """Read a blob; seekable. Raises `NotFound`."""

    def local(self, key: str) -> AbstractContextManager[Path]:
        """The blob as a file of this machine, for the time of a with statement."""

    def names(self, prefix: str) -> list[str]:
        """Keys of blobs and unfinished uploads that begin with `prefix`."""

    def delete(self, prefix: str) -> None:
        """Delete every blob and unfinished upload whose key begins with `prefix`; `prefix` is a key or ends with '/'."""


class Staging:
    """The part of an upload that is the same everywhere: collect, bound, and never lose what arrived."""

    piece = PIECE

    def __init__(self) -> None:
        self._turns: dict[str, object] = {}

    def _write(self, key: str, position: int, data: bytes | bytearray) -> None:
        raise NotImplementedError

    async def append(self, key: str, offset: int, chunks: AsyncIterable[bytes], limit: int) -> int:
        turn = self._turns[key] = object()  # a newer connection for the same upload ends the older one
        position, buffer = offset, bytearray()
        try:
            async for chunk in chunks:
                if position + len(buffer) + len(chunk) > limit:
                    raise TooLarge(f"The upload is longer than the {limit} bytes of this round's vector.")
                buffer += chunk
                if len(buffer) >= self.piece:
                    full, buffer = buffer, bytearray()
                    await self._in_turn(key, turn, position, full)
                    position += len(full)
        finally:
            with anyio.CancelScope(shield=True):
                if buffer:
                    await self._in_turn(key, turn, position, buffer)
        if self._turns.get(key) is turn:
            del self._turns[key]
        return position + len(buffer)

    async def _in_turn(self, key: str, turn: object, position: int, data: bytearray) -> None:
        if self._turns.get(key) is not turn:
            raise Unavailable("A newer connection has taken over this upload.")
        await anyio.to_thread.run_sync(self._write, key, position, data)


class FolderBlobs(Staging):
    """Blobs in a folder: written beside their place, synced, then renamed into it."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        with _storage():
            root.mkdir(parents=True, exist_ok=True)

    def check(self) -> None:
        with _storage():
            probe = self.root / f".probe-{secrets.token_hex(4)}"
            probe.write_bytes(b"ok")
            probe.unlink()

    def size(self, key: str) -> int | None:
        try:
            return self._path(key).stat().st_size
        except FileNotFoundError:
            return None

    def put(self, key: str, pieces: Iterable[bytes | memoryview]) -> None:
        path = self._path(key)
        if path.exists():
            return
        part = self._staged(key).with_name(f"{secrets.token_hex(8)}.put")
        with _storage():
            _mkdir(part.parent)
            try:
                with part.open("wb", buffering=0) as f:
                    for piece in pieces:
                        _write_all(f.fileno(), piece)
                    os.fsync(f.fileno())
                self._publish(part, path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise

    def staged(self, key: str) -> int:
        try:
            return self._staged(key).stat().st_size
        except FileNotFoundError:
            return 0

    def _write(self, key: str, position: int, data: bytes | bytearray) -> None:
        path = self._staged(key)
        with _storage():
            _mkdir(path.parent)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.lseek(fd, position, os.SEEK_SET)
                _write_all(fd, data)
            finally:
                os.close(fd)

    def finish(self, key: str, prefix: bytes) -> None:
        path, part = self._path(key), self._staged(key)
        self._turns.pop(key, None)
        with _storage():
            try:
                f = part.open("r+b", buffering=0)
            except FileNotFoundError:
                if path.exists():
                    return  # a retry after a lost answer
                raise NotFound("Nothing of this upload has arrived.") from None
            with f:
                try:
                    verify(key, prefix, iter(lambda: f.read(PIECE), b""))
                except (EnvelopeError, TaskError):
                    part.unlink(missing_ok=True)
                    raise
                os.fsync(f.fileno())
            self._publish(part, path)

    def open(self, key: str) -> BinaryIO:
        try:
            return self._path(key).open("rb")
        except FileNotFoundError:
            raise missing() from None

    def local(self, key: str) -> AbstractContextManager[Path]:
        path = self._path(key)
        if not path.exists():
            raise missing()
        return nullcontext(path)

    def names(self, prefix: str) -> list[str]:
        folder, _, start = prefix.rpartition("/")
        roots = (self.root, self.root / "staged")
        return sorted({f"{folder}/{p.name}" for root in roots for p in (root / folder).glob("*") if p.name.startswith(start) and p.is_file()})

    def delete(self, prefix: str) -> None:
        for path in (self._path(prefix), self._staged(prefix)):
            with _storage():
                if prefix.endswith("/"):
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.root / key

    def _staged(self, key: str) -> Path:
        return self.root / "staged" / key

    def _publish(self, part: Path, path: Path) -> None:
        _mkdir(path.parent)
        part.rename(path)
        _sync(path.parent)


def verify(key: str, prefix: bytes, pieces: Iterable[bytes]) -> None:
    """Read `pieces` to the end and compare digest and first bytes with what `key` and `prefix` promise."""
    h, head = hashlib.sha256(), b""
    for piece in pieces:
        h.update(piece)
        if len(head) < len(prefix):
            head += piece[: len(prefix) - len(head)]
    check_content(key, prefix, h.hexdigest(), head)


def check_content(key: str, prefix: bytes, digest: str, head: bytes) -> None:
    """Raises `EnvelopeError` for another digest than the key's, `TaskError` for other first bytes than `prefix`."""
    if digest != key[-64:]:
        raise EnvelopeError("The bytes that arrived are not those that were announced.", why="They were altered or mixed up on the way.", fix="send them again")
    if head != prefix:
        raise TaskError(
            "The answer is not of this round's shape.", why="The site's task and the coordinator's differ.", fix="update both sides to the same release"
        )


def missing() -> NotFound:
    return NotFound("There is no such blob.", why="It was deleted after its round, or the store was restored from an older copy.")


@contextmanager
def _storage() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"The coordinator's storage failed: {error.strerror}.", fix="try again later; the operator must look at the disk") from None


def _write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _mkdir(folder: Path) -> None:
    """Create a folder and its parents, durably."""
    if folder.is_dir():
        return
    _mkdir(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
