"""Finished arrays on disk, so that a folder of images is decoded once. Only de-identified pixels get here."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from locum.data.images import Image
from locum.errors import DataError

KEY = "cache.key"


class ArrayCache:
    """float32 arrays in a folder, one .npy file each, readable by its owner only.

    A file's name is a keyed BLAKE2b of what the array was made from, so a name does not betray that a known image is here. A file
    that is damaged, or has another shape, counts as absent.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder, self.key = folder, _key(folder / KEY)
        except OSError as error:
            raise DataError("The folder for the cache of images cannot be used.", fix="check cache_path under [source]", local=str(error)) from None

    def name(self, parts: Iterable[bytes]) -> str:
        """The name under which the array made from these bytes is kept."""
        digest = hashlib.blake2b(digest_size=24, key=self.key, person=b"locum/images/1")
        for part in parts:
            digest.update(hashlib.blake2b(part).digest())
        return digest.hexdigest() + ".npy"

    def get(self, name: str, shape: tuple[int, ...]) -> Image | None:
        """The array, of shape (k, *shape) for some k, or None."""
        try:
            with (self.folder / name).open("rb") as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return array if array.dtype == np.float32 and array.shape[1:] == shape else None

    def put(self, name: str, array: Image) -> None:
        """Keep the array. A full disk loses the cache's use, not the run."""
        draft = self.folder / f"{name}.{secrets.token_hex(4)}"
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array, dtype=np.float32), allow_pickle=False)
            draft.replace(self.folder / name)
        except OSError:
            draft.unlink(missing_ok=True)


def _key(path: Path) -> bytes:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
    except FileExistsError:
        pass
    key = path.read_bytes()
    if len(key) != 32:
        raise DataError("The key of the cache of images is damaged.", fix="delete the folder that cache_path names; it is filled again")
    return key
