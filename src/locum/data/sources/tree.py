"""The files of a folder, of a zip archive, or one alone, behind the same two methods, each bounded."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from locum.data.sources.base import MAX_RATIO, Unusable, existing, reading
from locum.errors import TooLarge

MAX_FILES = 2_000_000


class Tree(Protocol):
    name: str

    def files(self) -> list[str]:
        """The relative names of all regular files, sorted, with / between folders."""

    def open(self, file: str) -> BinaryIO:
        """A seekable stream. Raises `Unusable`."""


class Folder:
    """All regular files below a folder. Links are not followed: they may lead out of it."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name

    def files(self) -> list[str]:
        found: list[str] = []
        for folder, _, names in os.walk(self.path, followlinks=False):
            found += [str((Path(folder) / n).relative_to(self.path).as_posix()) for n in names if not (Path(folder) / n).is_symlink()]
            _few(len(found), self.name)
        return sorted(found)

    def open(self, file: str) -> BinaryIO:
        try:
            return (self.path / file).open("rb")
        except OSError:
            raise Unusable("the file cannot be opened") from None


class Single:
    """One file."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name

    def files(self) -> list[str]:
        return [self.path.name]

    def open(self, file: str) -> BinaryIO:
        return Folder(self.path.parent).open(file)


class Archive:
    """The members of a zip file. A member that grows more than `MAX_RATIO` times is unusable (a decompression bomb)."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        with reading(path.name):
            self._zip = zipfile.ZipFile(path)
        _few(len(self._zip.filelist), self.name)
        self._members = {m.filename: m for m in self._zip.infolist() if not m.is_dir()}

    def files(self) -> list[str]:
        return sorted(self._members)

    def open(self, file: str) -> BinaryIO:
        member = self._members[file]
        if member.flag_bits & 1:
            raise Unusable("a member of the archive is encrypted")
        if member.file_size > max(1 << 20, member.compress_size * MAX_RATIO):
            raise Unusable(f"a member of the archive grows more than {MAX_RATIO} times")
        try:
            return cast(BinaryIO, self._zip.open(member))  # zipfile reads no more than the size that the archive states
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError):
            raise Unusable("a member of the archive cannot be unpacked") from None


def open_tree(path: Path | None) -> Tree:
    """The files at `path`: a folder, a .zip, or one file; raises `ManifestError`, `DataError` or `TooLarge`."""
    path = existing(path, folder=True)
    if path.is_dir():
        return Folder(path)
    return Archive(path) if path.suffix.lower() == ".zip" else Single(path)


@contextmanager
def opened(tree: Tree, file: str) -> Iterator[BinaryIO]:
    """The file's stream, with what reading it raises turned into `Unusable`."""
    stream = tree.open(file)
    try:
        yield stream
    except (zipfile.BadZipFile, OSError, EOFError, zlib.error):
        raise Unusable("the file cannot be read to its end") from None
    finally:
        stream.close()


def contents(tree: Tree, file: str, limit: int) -> bytes:
    """All bytes of a file; raises `Unusable` where there are more than `limit`."""
    with opened(tree, file) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise Unusable(f"the file is larger than {limit >> 20} MiB")
    return data


def _few(count: int, name: str) -> None:
    if count > MAX_FILES:
        raise TooLarge(f"{name} holds more than {MAX_FILES:,} files.", fix="split it")
