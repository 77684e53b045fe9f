"""The hashes and proofs of RFC 9162, section 2.1: what a verifier needs, in the standard library alone.

    leaf  SHA-256(0x00 || entry)          node  SHA-256(0x01 || left || right)

A tree of n leaves splits at the largest power of two below n. An inclusion proof is the siblings from a leaf to the root; a consistency
proof shows that the first m leaves of a larger tree are those of an older one.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from locum.errors import LocumError


class LogError(LocumError):
    """A proof, a checkpoint or an entry of the transparency log does not hold."""

    code = "log"


EMPTY = hashlib.sha256().digest()
"""The root of a tree without leaves."""


def leaf_hash(entry: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def split(n: int) -> int:
    """The largest power of two below n, for n > 1."""
    return 1 << ((n - 1).bit_length() - 1)


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """That the entry with hash `leaf` is at `index` of the tree of `size` entries with `root` (section 2.1.3.2). Raises `LogError`."""
    if not 0 <= index < size:
        raise LogError(f"There is no entry {index} in a log of {size} entries.")
    position, last, here = index, size - 1, leaf
    for sibling in proof:
        if len(sibling) != 32 or last == 0:
            raise _broken("inclusion")
        if position & 1 or position == last:
            here = node_hash(sibling, here)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            here = node_hash(here, sibling)
        position, last = position >> 1, last >> 1
    if last or not hmac.compare_digest(here, root):
        raise _broken("inclusion")


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """That the tree of `new` entries with `new_root` begins with that of `old` entries with `old_root` (section 2.1.4.2). Raises `LogError`."""
    if not 0 <= old <= new:
        raise LogError(f"A log of {new} entries cannot continue one of {old}.", why="It has become shorter: entries were deleted.")
    if old == new or old == 0:
        if proof or not hmac.compare_digest(old_root, new_root if old else EMPTY):
            raise _broken("consistency")
        return
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path or any(len(p) != 32 for p in path):
        raise _broken("consistency")
    position, last = old - 1, new - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    before = after = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise _broken("consistency")
        if position & 1 or position == last:
            before, after = node_hash(sibling, before), node_hash(sibling, after)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            after = node_hash(after, sibling)
        position, last = position >> 1, last >> 1
    if last or not (hmac.compare_digest(before, old_root) and hmac.compare_digest(after, new_root)):
        raise _broken("consistency")


def _broken(kind: str) -> LogError:
    what = {
        "inclusion": "The proof does not lead from the entry to the log's root.",
        "consistency": "The log does not continue what it was before.",
    }[kind]
    why = {"inclusion": "The entry, its place or the proof was altered.", "consistency": "Entries were altered, reordered or removed, or it is another log."}[
        kind
    ]
    return LogError(what, why=why, fix="keep both versions as evidence, and ask the coordinator's operator")
