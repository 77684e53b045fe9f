"""Sources that read a folder with a file for each recording or person."""

from __future__ import annotations

from pathlib import Path

from locum.errors import DataError


def files(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The path itself, or the files below a folder with one of the suffixes, in a stable order; links are not followed, for they may lead out
    of it. Raises `DataError` where there are none."""
    below = (p for p in path.rglob("*") if p.suffix.lower() in suffixes and p.is_file() and not p.is_symlink())
    found = [path] if path.is_file() else sorted(below)
    if not found:
        raise DataError(f"{path.name} holds no file that ends in {' or '.join(suffixes)}.", fix="name the folder that holds the recordings")
    return found


def identity(file: Path, root: Path) -> str:
    """How a recording is called: its path below the folder, without the suffix."""
    return file.stem if file == root else file.relative_to(root).with_suffix("").as_posix()
