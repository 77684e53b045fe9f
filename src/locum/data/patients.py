"""The patient is the unit: identifiers become keyed pseudonyms as soon as rows are made, and tie a patient's records together.

A pseudonym is BLAKE2b-128 (RFC 7693) of the identifier under a key that stays at the site. Whoever sees one without the key cannot
tell whose it is, not even by trying all identifiers. The split is drawn from the identifier itself, before it is gone, so that
any machine that holds the same records splits alike.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from locum.errors import DataError
from locum.study.manifest import Split

KEY = "patients.key"
_PERSON = b"locum/patient/1"


def load_key(folder: Path) -> bytes:
    """The site's key for pseudonyms, made on first use and readable by its owner only. Another key makes other pseudonyms.

    Raises `DataError` where the file is not such a key.
    """
    path = folder / KEY
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        key = path.read_bytes()
        if len(key) != 32:
            raise DataError(f"{path} is not a key for pseudonyms.", fix="restore it from the backup of this site's folder") from None
        return key
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(32))
        file.flush()
        os.fsync(file.fileno())
    return path.read_bytes()


def pseudonyms(identifiers: Sequence[str], key: bytes) -> NDArray[np.str_]:
    """The pseudonym of each identifier, as 32 hexadecimal digits, shape (n,)."""
    made: dict[str, str] = {}
    for identifier in identifiers:
        if identifier not in made:
            made[identifier] = hashlib.blake2b(identifier.encode(), digest_size=16, key=key, person=_PERSON).hexdigest()
    return np.asarray([made[i] for i in identifiers], dtype="U32")


def is_test(identifiers: NDArray[np.str_], split: Split) -> NDArray[np.bool_]:
    """Whether each patient is a test patient, by a hash of salt and identifier."""
    return np.array([_uniform(split.salt, p) < split.test_share for p in identifiers.tolist()], dtype=bool)


def _uniform(salt: str, patient: str) -> float:
    digest = hashlib.sha256(f"locum/split/1\0{salt}\0{patient}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2.0**56
