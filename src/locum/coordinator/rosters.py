"""The consortium's signed rosters, and who may be in a cohort."""

from __future__ import annotations

from sqlalchemy import insert, select

from locum.coordinator.journal import record
from locum.coordinator.store import Store, Tx
from locum.coordinator.studies import approvals, parse_study
from locum.coordinator.tables import parties, rosters
from locum.errors import Conflict, NotFound
from locum.federation.identity import PublicKey
from locum.federation.roster import Roster, SignedRoster
from locum.governance.events import Event
from locum.study.manifest import Study


def latest(tx: Tx) -> SignedRoster | None:
    row = tx.first(select(rosters).order_by(rosters.c.version.desc()).limit(1))
    return SignedRoster(body=row.body, signature=row.signature) if row else None


def by_digest(tx: Tx, digest: str) -> Roster:
    """The roster that a round names. Raises `NotFound`."""
    row = tx.first(select(rosters).where(rosters.c.digest == digest))
    if row is None:
        raise NotFound("There is no such roster.")
    return Roster.decode(row.body)


def current(store: Store) -> SignedRoster:
    """Raises `NotFound` before the first signature."""
    found = store.read(latest)
    if found is None:
        raise NotFound("The consortium has signed no roster yet.", fix="the operator runs 'locum roster sign'")
    return found


def draft(store: Store, federation: str) -> tuple[Roster, Roster | None]:
    """The roster of the sites that are enrolled now, and the one in force."""

    def query(tx: Tx) -> tuple[Roster, Roster | None]:
        signed = latest(tx)
        old = Roster.decode(signed.body) if signed else None
        rows = tx.rows(select(parties.c.name, parties.c.public_key).where(parties.c.role == "site", parties.c.revoked.is_(None)).order_by(parties.c.name))
        version = old.version + 1 if old else 1
        return Roster(federation=federation, version=version, issued=tx.now(), sites={r.name: r.public_key for r in rows}), old

    return store.read(query)


def install(store: Store, signed: SignedRoster, consortium: PublicKey, federation: str) -> Roster:
    """Put a signed roster in force. Installing the same again changes nothing. Raises `EnvelopeError` or `Conflict`."""
    roster = signed.open(consortium, federation)

    def change(tx: Tx) -> None:
        known = latest(tx)
        if known and known.digest == signed.digest:
            return
        if known and Roster.decode(known.body).version >= roster.version:
            raise Conflict("A roster of this version, or a later one, is in force already.", fix="draft it again, then sign that")
        tx.execute(insert(rosters).values(version=roster.version, digest=signed.digest, body=signed.body, signature=signed.signature, installed=tx.now()))
        tx.wake("runs", "work")
        record(tx, Event.ROSTER_INSTALLED, signed.digest, by="consortium", version=roster.version, sites=len(roster.sites))

    store.write(change)
    return roster


def eligible(tx: Tx, study: Study) -> list[str]:
    """The sites that approve `study` and may be asked, sorted: for a masked study those in the roster, with the key that it names."""
    approving = [row.site for row in tx.rows(approvals(study.digest))]
    if study.terms.aggregation == "clear":
        return approving
    signed = latest(tx)
    if signed is None:
        return []
    listed = Roster.decode(signed.body).sites
    keys = {r.name: r.public_key for r in tx.rows(select(parties.c.name, parties.c.public_key).where(parties.c.name.in_(approving)))}
    return [name for name in approving if listed.get(name) == keys[name]]


def obstacle(tx: Tx, manifest: str) -> str:
    """What somebody must do before a waiting run of this study can start; empty if only approvals are missing."""
    study = parse_study(manifest)
    approving = len(tx.rows(approvals(study.digest)))
    may = len(eligible(tx, study))
    if may == approving:
        return ""
    return f"{approving - may} of the approving sites are not in the roster that the consortium has signed: 'locum roster sign' puts them there"
