"""The two blob stores behave alike; S3 is a real server."""

import errno
import hashlib
import os
from collections.abc import AsyncIterator

import anyio
import pytest

from locum.coordinator.blobs import FolderBlobs
from locum.coordinator.s3 import PART, S3Blobs
from locum.errors import EnvelopeError, NotFound, TaskError, TooLarge, Unavailable

CONTENT = os.urandom(3 * PART + 12345)


@pytest.fixture(params=["folder", "s3"])
def blobs(request, tmp_path):
    if request.param == "folder":
        return FolderBlobs(tmp_path / "blobs")
    server = request.getfixturevalue("s3_server")
    return S3Blobs(server.new_bucket(), server.endpoint)


def key(content: bytes, sender: str = "s1") -> str:
    return f"runs/r/rounds/0/{sender}@{hashlib.sha256(content).hexdigest()}"


class CutError(Exception):
    pass


async def pieces(content: bytes, size: int = 100_000, cut: bool = False) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]
    if cut:
        raise CutError


def append(blobs, name: str, offset: int, content: bytes, *, limit: int = 1 << 30, cut: bool = False) -> int:
    return anyio.run(lambda: blobs.append(name, offset, pieces(content, cut=cut), limit))


@pytest.mark.parametrize("size", [0, 1, PART, len(CONTENT)])
def test_put_open_seek_delete(blobs, size) -> None:
    content = CONTENT[:size]
    name = key(content)
    assert blobs.size(name) is None
    blobs.put(name, iter([content[:7], memoryview(content)[7:]]))
    blobs.put(name, iter([]))  # already there
    assert blobs.size(name) == size
    with blobs.open(name) as f:
        assert f.read(10) == content[:10]
        assert f.read() == content[10:]
        f.seek(size // 2)
        assert f.read(1000) == content[size // 2 :][:1000]
    with blobs.local(name) as path:
        assert path.read_bytes() == content
    blobs.delete(name)
    assert blobs.size(name) is None
    with pytest.raises(NotFound):
        blobs.open(name)


def test_an_upload_that_is_cut_goes_on_where_it_stopped(blobs) -> None:
    name, at = key(CONTENT), 0
    for end in (1, 99_999, 5_000_001, len(CONTENT)):
        if end < len(CONTENT):
            with pytest.raises(CutError):
                append(blobs, name, at, CONTENT[at:end], cut=True)
        else:
            assert append(blobs, name, at, CONTENT[at:end]) == end
        at = blobs.staged(name)
        assert at == end
    blobs.finish(name, CONTENT[:8])
    blobs.finish(name, CONTENT[:8])  # a retry
    with blobs.open(name) as f:
        assert f.read() == CONTENT
    assert blobs.staged(name) == 0


def test_two_connections_that_overlap_leave_the_right_bytes(blobs) -> None:
    name = key(CONTENT)
    append(blobs, name, 0, CONTENT[:6_000_000])
    append(blobs, name, 2_000_000, CONTENT[2_000_000:])
    blobs.finish(name, b"")
    with blobs.open(name) as f:
        assert f.read() == CONTENT


def test_wrong_bytes_are_dropped(blobs) -> None:
    name = key(CONTENT)
    append(blobs, name, 0, CONTENT[:-1] + b"\0" if CONTENT[-1] else CONTENT[:-1] + b"\1")
    with pytest.raises(EnvelopeError):
        blobs.finish(name, b"")
    assert blobs.staged(name) == 0
    append(blobs, name, 0, CONTENT)
    with pytest.raises(TaskError):
        blobs.finish(name, b"another header")
    assert blobs.names("runs/r/rounds/0/") == []
    with pytest.raises(NotFound):
        blobs.finish(name, b"")


def test_more_than_the_limit_is_refused_and_what_fits_is_kept(blobs) -> None:
    name = key(CONTENT)
    with pytest.raises(TooLarge):
        append(blobs, name, 0, CONTENT, limit=250_000)
    assert blobs.staged(name) <= 250_000


def test_a_newer_connection_ends_the_older(blobs) -> None:
    name = key(CONTENT)

    async def both() -> None:
        gate = anyio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield CONTENT[: blobs.piece]
            await gate.wait()
            yield b"x" * blobs.piece

        async def old() -> None:
            with pytest.raises(Unavailable, match="newer"):
                await blobs.append(name, 0, slow(), 1 << 30)

        async with anyio.create_task_group() as group:
            group.start_soon(old)
            while await anyio.to_thread.run_sync(blobs.staged, name) < blobs.piece:
                await anyio.sleep(0.01)
            await blobs.append(name, blobs.piece, pieces(CONTENT[blobs.piece :]), 1 << 30)
            await anyio.to_thread.run_sync(blobs.finish, name, b"")
            gate.set()

    anyio.run(both)
    with blobs.open(name) as f:
        assert f.read() == CONTENT


def test_names_and_delete_are_of_one_round(blobs) -> None:
    small = [b"a", b"b", b"c"]
    blobs.put(key(small[0]), [small[0]])
    append(blobs, key(small[1]), 0, small[1])
    blobs.put(key(small[2], "s10"), [small[2]])
    other = f"runs/r/rounds/1/s1@{hashlib.sha256(b'd').hexdigest()}"
    blobs.put(other, [b"d"])
    assert blobs.names("runs/r/rounds/0/s1@") == sorted([key(small[0]), key(small[1])])
    blobs.delete("runs/r/rounds/0/")
    assert blobs.names("runs/r/rounds/0/") == []
    assert blobs.size(other) == 1
    blobs.check()


def test_a_store_that_is_away(tmp_path) -> None:
    away = S3Blobs("s3://nowhere/x", "http://127.0.0.1:9")
    with pytest.raises(Unavailable):
        away.check()


def test_a_full_disk_is_unavailable_and_leaves_no_trace(tmp_path, monkeypatch) -> None:
    blobs = FolderBlobs(tmp_path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match="No space left"):
        blobs.put(key(b"x"), [b"x"])
    monkeypatch.undo()
    assert blobs.names("runs/r/rounds/0/") == []
    blobs.put(key(b"x"), [b"x"])
