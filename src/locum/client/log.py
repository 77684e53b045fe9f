"""The federation's log as any of its parties reads it: nothing is believed that the signed head does not cover.

The head that was seen last is kept in the party's folder; a log that does not continue it is refused, with both heads in the message.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from locum.client.api import Api
from locum.client.membership import Membership
from locum.federation.identity import PublicKey
from locum.governance.events import Entry, Event, log_origin
from locum.governance.log import NoteKey, Signed, Tree, leaf_hash, verify_consistency, verify_inclusion
from locum.governance.log.merkle import LogError
from locum.governance.log.note import WITNESS
from locum.governance.log.tree import WIDTH, MemoryTiles, entries_path

SEEN = "log-head.txt"


@dataclass(frozen=True)
class LogView:
    """Entries by their number, under `head`. cosigned: site -> Unix seconds of its cosignature, under a head of `cosigned_size` entries."""

    head: Signed
    entries: list[tuple[int, Entry]]
    cosigned: dict[str, int]
    cosigned_size: int


async def read(api: Api, member: Membership, *subjects: str, folder: Path | None = None) -> LogView:
    """The entries about these subjects, or every entry. folder: where the last head that was seen is kept. Raises `LogError`."""
    key = NoteKey(log_origin(member.federation), member.coordinator.raw)
    head = await api.checkpoint()
    head.verify(key)
    if folder:
        await _continues(api, head, key, folder / SEEN)
    found = await (_about(api, head, *subjects) if subjects else _every(api, head))
    cosigned, size = await _cosigned(api, head, key)
    return LogView(head, found, cosigned, size)


async def _continues(api: Api, head: Signed, key: NoteKey, seen: Path) -> None:
    if seen.exists():
        before = Signed.parse(seen.read_text(encoding="utf-8"))
        before.verify(key)
        await _consistent(api, before, head)
    part = seen.with_suffix(".part")
    part.write_text(head.text(), encoding="utf-8")
    part.replace(seen)


async def _consistent(api: Api, before: Signed, after: Signed) -> None:
    old, new = before.checkpoint, after.checkpoint
    try:
        proof = await api.consistency(old.size, new.size) if 0 < old.size < new.size else []
        verify_consistency(old.size, new.size, old.root, new.root, proof)
    except LogError as error:
        told = f"It had {old.size} entries and root {old.root.hex()[:16]}; now {new.size} and {new.root.hex()[:16]}."
        raise LogError("The log is not the one that you were shown before.", why=f"{told} {error.what}", fix=error.fix) from None


async def _about(api: Api, head: Signed, *subjects: str) -> list[tuple[int, Entry]]:
    size, found = head.checkpoint.size, []
    for given in await api.log_entries(*subjects):
        if given.n >= size:
            continue
        body = given.body.encode()
        verify_inclusion(given.n, size, leaf_hash(body), await api.inclusion(given.n, size), head.checkpoint.root)
        found.append((given.n, Entry.decode(body)))
    return found


async def _every(api: Api, head: Signed) -> list[tuple[int, Entry]]:
    """All entries; the root over them is computed here."""
    tree, found, size = Tree(MemoryTiles()), [], head.checkpoint.size
    for start in range(0, size, WIDTH):
        bodies = _cut(await api.log_tile(entries_path(start // WIDTH, min(WIDTH, size - start))))
        tree.extend([leaf_hash(body) for body in bodies])
        found += [(start + i, Entry.decode(body)) for i, body in enumerate(bodies)]
    if (tree.size, tree.root()) != (size, head.checkpoint.root):
        raise LogError("The entries that were sent are not those under the log's head.", why="Entries were altered, reordered, inserted or removed.")
    return found


def _cut(raw: bytes) -> list[bytes]:
    """A bundle of entries, each after its length in two bytes. Raises `LogError`."""
    out, at = [], 0
    while at < len(raw):
        n = int.from_bytes(raw[at : at + 2], "big")
        out.append(raw[at + 2 : at + 2 + n])
        at += 2 + n
    if at != len(raw) or len(out) > WIDTH:
        raise LogError("A bundle of entries is cut off.")
    return out


async def _cosigned(api: Api, head: Signed, key: NoteKey) -> tuple[dict[str, int], int]:
    """Who has cosigned the newest head that any site has cosigned, by the keys that the log itself says they have."""
    from locum.errors import NotFound

    try:
        signed = await api.checkpoint(witnessed=True)
    except NotFound:
        return {}, 0
    signed.verify(key)
    await _consistent(api, *sorted((signed, head), key=lambda s: s.checkpoint.size))
    names = [name for name, _ in signed.lines if name != key.name]
    keys: dict[str, str] = {}
    for start in range(0, len(names), 32):
        for _, entry in await _about(api, head, *names[start : start + 32]):
            if entry.event is Event.PARTY_ENROLLED:
                keys[entry.subject] = entry.details.get("public_key", "")
    known = [NoteKey(name, PublicKey.parse(text).raw, WITNESS) for name, text in keys.items() if text]
    return signed.witnesses(known), signed.checkpoint.size
