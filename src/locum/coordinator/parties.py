"""Who belongs to the federation: invitations, enrolment, revocation, and the public keys that every request needs."""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import cast

from sqlalchemy import delete, func, insert, select, update

from locum.coordinator.journal import record
from locum.coordinator.store import Store, Tx
from locum.coordinator.tables import decisions, invitations, parties
from locum.errors import Conflict, Forbidden, LocumError, NotEnrolled, NotFound
from locum.federation.identity import PublicKey, unb64
from locum.federation.wire import Enrolled, Enrolment, Role
from locum.governance.events import Event
from locum.study.manifest import NAME

ENROLL = b"locum/enroll/1"
CACHE_S = 1.0


@dataclass(frozen=True)
class Party:
    """An enrolled party whose key is good."""

    name: str
    role: Role
    key: PublicKey


def enrolment_message(token: str, public_key: str, federation: str) -> bytes:
    """What a newcomer signs, under the label `ENROLL`, to prove that it holds the private key."""
    return f"{token}\n{public_key}\n{federation}".encode()


def create_invitation(store: Store, name: str, role: Role, valid_s: float) -> tuple[str, float]:
    """A token that enrols `name` once, and when it expires (Unix seconds). Only its digest is kept."""
    if not NAME.match(name):
        raise LocumError(f"'{name}' is not a name.", fix="use at most 64 lower-case letters, digits, '-', '_' and '.'")
    token, expires = secrets.token_urlsafe(32), store.now() + valid_s

    def change(tx: Tx) -> None:
        known = tx.first(select(parties.c.revoked).where(parties.c.name == name))
        if known and known.revoked is None:
            raise Conflict(f"'{name}' is enrolled already.", fix="revoke it first if it has lost its key")
        tx.execute(insert(invitations).values(token_sha256=_hash(token), name=name, role=role, expires=expires))
        record(tx, Event.PARTY_INVITED, name, by="operator", role=role, expires=round(expires, 3))

    store.write(change)
    return token, expires


def enroll(store: Store, request: Enrolment, federation: str) -> Enrolled:
    """Take in the holder of a good invitation; the same key may repeat it after a lost answer. Raises `NotEnrolled` or `Conflict`."""
    key = PublicKey.parse(request.public_key)
    if not key.verify(ENROLL, unb64(request.proof, limit=128), enrolment_message(request.token, request.public_key, federation)):
        raise NotEnrolled("The enrolment's proof is not a signature by the key that it names.", fix="use the invitation with the coordinator that made it")

    def change(tx: Tx) -> Enrolled:
        query = select(invitations).where(invitations.c.token_sha256 == _hash(request.token))
        row = tx.first(query.with_for_update())
        if row is None:
            raise NotEnrolled("This invitation is not one of ours.", fix="ask the coordinator's operator for a new one")
        if row.used is None and row.expires < store.now():
            raise NotEnrolled("This invitation has expired.", fix="ask the coordinator's operator for a new one")
        if row.used is not None and row.used_key != str(key):
            raise NotEnrolled("This invitation was used already.", fix="if it was not by you, tell the coordinator's operator; ask for a new one")
        if row.used is None:
            _admit(tx, row.name, row.role, key)
            tx.execute(update(invitations).where(invitations.c.token_sha256 == row.token_sha256).values(used=store.now(), used_key=str(key)))
            tx.wake("parties", "work")
            record(tx, Event.PARTY_ENROLLED, row.name, by=row.name, role=row.role, key=key.fingerprint, public_key=str(key))
        return Enrolled(name=row.name, role=row.role, federation=federation)

    return store.write(change)


def _admit(tx: Tx, name: str, role: str, key: PublicKey) -> None:
    if tx.first(select(parties.c.name).where(parties.c.public_key == str(key), parties.c.name != name)):
        raise Conflict("This key is enrolled under another name.", fix="make a new key for each party")
    known = tx.first(select(parties).where(parties.c.name == name))
    values = {"role": role, "public_key": str(key), "enrolled": tx.now(), "revoked": None}
    if known is None:
        tx.execute(insert(parties).values(name=name, **values))
    elif known.revoked is None:
        raise Conflict(f"'{name}' is enrolled already.", fix="ask the coordinator's operator")
    else:  # a new key: what the old one approved is no longer approved
        tx.execute(delete(decisions).where(decisions.c.site == name))
        tx.execute(update(parties).where(parties.c.name == name).values(**values))


def revoke(store: Store, name: str) -> None:
    """Shut a party out: its requests fail within about a second, and no new round asks it. Raises `NotFound`."""

    def change(tx: Tx) -> None:
        done = tx.execute(update(parties).where(parties.c.name == name, parties.c.revoked.is_(None)).values(revoked=store.now()))
        if not done.rowcount:
            raise NotFound(f"No enrolled party is called '{name}'.")
        tx.wake("parties")
        record(tx, Event.PARTY_REVOKED, name, by="operator")

    store.write(change)


def still_enrolled(tx: Tx, party: Party) -> None:
    """Raise `Forbidden` where this very key was shut out meanwhile: a replica may know it for `CACHE_S` longer, and the log must not."""
    here = (parties.c.name == party.name, parties.c.public_key == str(party.key), parties.c.revoked.is_(None))
    if tx.first(select(parties.c.name).where(*here).with_for_update()) is None:
        raise Forbidden("This key is not enrolled any more.", fix="ask the coordinator's operator")


class Registry:
    """Parties by name. A cache of at most `CACHE_S`, after which one small query says whether anything has changed."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._known: dict[str, Party] = {}
        self._stamp: object = None
        self._checked = -CACHE_S
        store.wakeups.on("parties", self.forget)

    def forget(self) -> None:
        self._checked = -CACHE_S

    def cached(self, name: str) -> Party | None:
        """The party if a fresh answer is at hand; None means ask `find`."""
        return self._known.get(name) if time.monotonic() - self._checked < CACHE_S else None

    def find(self, name: str) -> Party:
        """Raises `NotEnrolled`. Looks at the database when the cache is older than `CACHE_S`."""
        if time.monotonic() - self._checked >= CACHE_S:
            started = time.monotonic()
            stamp = self.store.read(lambda tx: tuple(tx.first(select(func.count(), func.max(parties.c.enrolled), func.max(parties.c.revoked)))))
            if stamp != self._stamp:
                self._known, self._stamp = {}, stamp
            self._checked = started
        party = self._known.get(name) or self._load(name)
        if party is None:
            raise NotEnrolled("The sender is not enrolled here.", fix="enrol with an invitation from the coordinator's operator")
        self._known[name] = party
        return party

    def _load(self, name: str) -> Party | None:
        if not NAME.match(name):
            return None
        row = self.store.read(lambda tx: tx.first(select(parties).where(parties.c.name == name, parties.c.revoked.is_(None))))
        return Party(row.name, cast(Role, row.role), PublicKey.parse(row.public_key)) if row else None


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
