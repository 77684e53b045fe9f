"""What each site has signed about its privacy ledgers: the furthest statement of each, given back when the site asks."""

from __future__ import annotations

from sqlalchemy import func, insert, select, update

from locum.coordinator.store import Store, Tx
from locum.coordinator.tables import ledgers
from locum.errors import TooLarge
from locum.federation.identity import PublicKey
from locum.federation.witness import MOST, SignedHead, SignedHeads


def keep(store: Store, site: str, key: PublicKey, signed: SignedHead) -> None:
    """Keep a statement if it is further than the one before. Raises `EnvelopeError` unless the site has signed it."""
    head = signed.open(site, key)

    def change(tx: Tx) -> None:
        here = (ledgers.c.site == site) & (ledgers.c.data == head.data)
        known = tx.first(select(ledgers.c.n).where(here))
        values = {"n": head.n, "body": signed.body, "envelope": signed.envelope}
        if known is None:
            count = tx.first(select(func.count()).select_from(ledgers).where(ledgers.c.site == site))
            if count and count[0] >= MOST:
                raise TooLarge(f"A site has at most {MOST} ledgers here.")
            tx.execute(insert(ledgers).values(site=site, data=head.data, **values))
        elif head.n > known.n:
            tx.execute(update(ledgers).where(here).values(**values))

    store.write(change)


def stated(store: Store, site: str) -> SignedHeads:
    """What a site has stated, one for each of its data sets."""
    query = select(ledgers.c.body, ledgers.c.envelope).where(ledgers.c.site == site).order_by(ledgers.c.data)
    return SignedHeads(store.read(lambda tx: [SignedHead(row.body, row.envelope) for row in tx.rows(query)]))
