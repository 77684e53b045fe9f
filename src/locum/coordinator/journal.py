"""The federation's log in the database: entries in the order of the changes that they record, tiles and a signed checkpoint over them.

An entry is written in the transaction of what it records, so neither can be there without the other. The tree is built, and its head
signed, when somebody asks for a checkpoint: whoever asks first pays for the entries since the last.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, insert, select, update

from locum.coordinator.store import Store, Tx
from locum.coordinator.tables import cosignatures, log_entries, log_head, log_tiles, parties
from locum.errors import Conflict, Forbidden, NotFound
from locum.federation.identity import Identity, PublicKey
from locum.governance.events import Entry, Event, log_origin
from locum.governance.log import Checkpoint, NoteKey, Signed, Tree, leaf_hash
from locum.governance.log.merkle import LogError
from locum.governance.log.note import WITNESS
from locum.governance.log.tree import WIDTH

BATCH = 4096
"""Entries read at a time while the tree grows."""


_GROW = update(log_head).values(size=log_head.c.size + 1).returning(log_head.c.size)
_ADD = insert(log_entries)


def record(tx: Tx, event: Event, subject: str, *, by: str, **details: object) -> None:
    """Append an entry in this transaction. Call it last: from here on other writers of the log wait for the commit."""
    n = tx.first(_GROW).size - 1
    body = Entry(round(tx.now(), 3), event, by, subject, details).encode()
    tx.execute(_ADD, {"n": n, "event": str(event), "subject": subject, "body": body})


class Journal:
    """The log as others see it. `Journal(store, identity, federation)`."""

    def __init__(self, store: Store, identity: Identity, federation: str) -> None:
        self.store, self.identity, self.key = store, identity, NoteKey(log_origin(federation), identity.public.raw)

    def checkpoint(self) -> Signed:
        """The signed head over every entry that is durable now, with the witnesses' cosignatures where they fit it."""
        head = self.store.read(_head)
        if head.size != head.built or not head.checkpoint:
            self.store.write(self._build)
            head = self.store.read(_head)
        signed = Signed.parse(head.checkpoint)
        lines = self.store.read(lambda tx: tx.rows(select(cosignatures).where(cosignatures.c.size == signed.checkpoint.size).order_by(cosignatures.c.site)))
        return Signed(signed.checkpoint, (*signed.lines, *((row.site, row.line) for row in lines)))

    def latest_witnessed(self) -> Signed | None:
        """The newest checkpoint that any site has cosigned, with all of its cosignatures; None before the first."""
        row = self.store.read(lambda tx: tx.first(select(cosignatures).order_by(cosignatures.c.size.desc()).limit(1)))
        if row is None:
            return None
        lines = self.store.read(lambda tx: tx.rows(select(cosignatures).where(cosignatures.c.size == row.size).order_by(cosignatures.c.site)))
        signed = Signed.parse(row.checkpoint)
        return Signed(signed.checkpoint, (*signed.lines, *((r.site, r.line) for r in lines)))

    def best(self, n: int) -> Signed:
        """The checkpoint over entry `n` that most sites have cosigned, of those that are kept; the present head where none has."""
        query = select(cosignatures).where(cosignatures.c.size > n).order_by(cosignatures.c.size, cosignatures.c.site)
        by_size: dict[int, list[Any]] = {}
        for row in self.store.read(lambda tx: tx.rows(query)):
            by_size.setdefault(row.size, []).append(row)
        if not by_size:
            return self.checkpoint()
        rows = max(by_size.values(), key=lambda found: (len(found), found[0].size))
        return Signed(Signed.parse(rows[0].checkpoint).checkpoint, (*Signed.parse(rows[0].checkpoint).lines, *((r.site, r.line) for r in rows)))

    def proved(self, subjects: list[str], size: int) -> list[tuple[int, bytes, list[bytes]]]:
        """Number, body and inclusion proof of every entry about these subjects, in the log of `size` entries."""

        def query(tx: Tx) -> list[tuple[int, bytes, list[bytes]]]:
            tree, found = Tree(_Tiles(tx), _head(tx).built), []
            for start in range(0, len(subjects), 500):
                where = (log_entries.c.subject.in_(subjects[start : start + 500]), log_entries.c.n < size)
                found += [(r.n, bytes(r.body)) for r in tx.rows(select(log_entries.c.n, log_entries.c.body).where(*where))]
            return [(n, body, tree.inclusion(n, size)) for n, body in sorted(found)]

        return self.store.read(query)

    def _build(self, tx: Tx) -> None:
        tx.execute(update(log_head).values(size=log_head.c.size))  # takes the lock that `record` takes
        head = _head(tx)
        tree = Tree(_Tiles(tx), head.built)
        while tree.size < head.size:
            rows = tx.rows(select(log_entries.c.body).where(log_entries.c.n >= tree.size, log_entries.c.n < head.size).order_by(log_entries.c.n).limit(BATCH))
            if not rows:
                raise LogError("The log has lost entries.", fix="restore the coordinator's database from its last back-up, and tell the sites")
            tree.extend([leaf_hash(r.body) for r in rows])
        signed = Signed.by(Checkpoint(self.key.name, tree.size, tree.root()), self.key, self.identity.sign_note)
        tx.execute(update(log_head).values(built=tree.size, checkpoint=signed.text()))

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the log of `new` entries continues that of `old`. Raises `LogError`."""
        return self.store.read(lambda tx: Tree(_Tiles(tx), _head(tx).built).consistency(old, new))

    def inclusion(self, n: int, size: int) -> list[bytes]:
        """The proof that entry `n` is in the log of `size` entries. Raises `LogError`."""
        return self.store.read(lambda tx: Tree(_Tiles(tx), _head(tx).built).inclusion(n, size))

    def entries(self, start: int, stop: int) -> list[bytes]:
        """The entries from `start` to before `stop` that are under a checkpoint."""
        built = self.store.read(_head).built
        where = (log_entries.c.n >= start, log_entries.c.n < min(stop, built))
        return [r.body for r in self.store.read(lambda tx: tx.rows(select(log_entries.c.body).where(*where).order_by(log_entries.c.n)))]

    def about(self, *subjects: str) -> list[tuple[int, bytes]]:
        """Number and body of every entry, under a checkpoint, whose subject is one of these."""
        built = self.store.read(_head).built
        where = (log_entries.c.subject.in_(subjects), log_entries.c.n < built)
        rows = self.store.read(lambda tx: tx.rows(select(log_entries.c.n, log_entries.c.body).where(*where).order_by(log_entries.c.n)))
        return [(r.n, r.body) for r in rows]

    def tile(self, level: int, index: int, width: int) -> bytes:
        """So many hashes of a tile, as tlog-tiles serves them. Raises `NotFound`."""
        body = self.store.read(lambda tx: _Tiles(tx).get(level, index))
        if not 0 < width <= WIDTH or len(body) < 32 * width:
            raise NotFound("There is no such tile.")
        return body[: 32 * width]

    def bundle(self, index: int, width: int) -> bytes:
        """So many entries, each after its length in two bytes. Raises `NotFound`."""
        found = self.entries(WIDTH * index, WIDTH * index + width) if 0 < width <= WIDTH else []
        if not found or len(found) != width:
            raise NotFound("There are no such entries.")
        return b"".join(len(e).to_bytes(2, "big") + e for e in found)

    def cosign(self, site: str, key: PublicKey, text: str) -> None:
        """Keep a site's cosignature under a checkpoint of this log. Raises `LogError` for one that is not its own, `Conflict` for an old one."""
        signed = Signed.parse(text)
        signed.verify(self.key)
        bare, line = signed.own(self.key, NoteKey(site, key.raw, WITNESS)).lines  # what else was sent is not kept, for others would have to judge it
        size = signed.checkpoint.size
        if self.store.read(lambda tx: Tree(_Tiles(tx), _head(tx).built).root(size)) != signed.checkpoint.root:
            raise LogError(
                "The checkpoint is not of this log.", why="This coordinator has signed two histories, or its database was restored from an old copy."
            )

        def change(tx: Tx) -> None:
            here = (parties.c.name == site, parties.c.public_key == str(key), parties.c.revoked.is_(None))
            if tx.first(select(parties.c.name).where(*here).with_for_update()) is None:  # else the log would show a witness after its end
                raise Forbidden("This key is not enrolled any more.", fix="ask the coordinator's operator")
            known = tx.first(select(cosignatures.c.size).where(cosignatures.c.site == site))
            if known and known.size > size:
                raise Conflict("This site has cosigned a later checkpoint already.")
            tx.execute(delete(cosignatures).where(cosignatures.c.site == site))
            tx.execute(insert(cosignatures).values(site=site, size=size, line=line[1], checkpoint=Signed(signed.checkpoint, (bare,)).text()))

        self.store.write(change)


class _Tiles:
    """Tiles in the database."""

    def __init__(self, tx: Tx) -> None:
        self.tx = tx

    def get(self, level: int, index: int) -> bytes:
        row = self.tx.first(select(log_tiles.c.body).where(log_tiles.c.level == level, log_tiles.c.number == index))
        return bytes(row.body) if row else b""

    def put(self, level: int, index: int, tile: bytes) -> None:
        here = (log_tiles.c.level == level) & (log_tiles.c.number == index)
        if not self.tx.execute(update(log_tiles).where(here).values(body=tile)).rowcount:
            self.tx.execute(insert(log_tiles).values(level=level, number=index, body=tile))


def _head(tx: Tx) -> Any:
    return tx.first(select(log_head))
