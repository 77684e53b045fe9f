"""A party's folder: its key, and what it learned at enrolment. The coordinator's key is pinned there for good.

key.pem           Ed25519, mode 0600
membership.json   where the coordinator is, who this party is to it, and the key that its messages must bear
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec

from locum.client.api import Api
from locum.client.connection import Connection
from locum.client.patience import A_WHILE, Patience
from locum.errors import Conflict, LocumError, NotEnrolled
from locum.federation.identity import Identity, PublicKey
from locum.federation.wire import Invitation, Role, federation_id

KEY, FILE = "key.pem", "membership.json"


class Membership(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a party knows of its federation. ca: PEM text of an authority to trust besides the system's. consortium_key: whose
    signature says which sites there are; without it a site takes part in no masked round.
    """

    url: str
    name: str
    role: Role
    federation: str
    coordinator_key: str
    ca: str = ""
    plain: bool = False
    consortium_key: str = ""

    @classmethod
    def load(cls, folder: Path) -> Membership:
        """Raises `NotEnrolled` where no enrolment was finished."""
        try:
            return msgspec.json.decode((folder / FILE).read_bytes(), type=cls)
        except FileNotFoundError:
            raise NotEnrolled(f"{folder} is not enrolled in a federation.", fix="enrol with the invitation from the coordinator's operator") from None
        except msgspec.DecodeError:
            raise LocumError(f"{folder / FILE} is damaged.", fix="restore it from a copy, or enrol again with a new invitation") from None

    def save(self, folder: Path) -> None:
        """Whole or not at all, whenever the machine stops."""
        part = folder / f".{FILE}"
        with part.open("wb") as f:
            f.write(msgspec.json.encode(self))
            f.flush()
            os.fsync(f.fileno())
        part.replace(folder / FILE)

    @property
    def coordinator(self) -> PublicKey:
        return PublicKey.parse(self.coordinator_key)

    @property
    def consortium(self) -> PublicKey | None:
        return PublicKey.parse(self.consortium_key) if self.consortium_key else None

    def connect(self, identity: Identity, *, patience: Patience = A_WHILE, **options: Any) -> Connection:
        """A connection in this party's name; `options` as for `Connection`."""
        return Connection(self.url, self.federation, self.name, identity, ca=self.ca, plain=self.plain, patience=patience, **options)


def open_connection(folder: Path, *, patience: Patience = A_WHILE, **options: Any) -> Connection:
    """The connection of the party whose folder this is. Raises `NotEnrolled`."""
    return Membership.load(folder).connect(Identity.load(folder / KEY), patience=patience, **options)


def join(folder: Path, invitation: str, *, ca: str = "", plain: bool = False, role: Role | None = None, patience: Patience = A_WHILE) -> Membership:
    """Enrol the party of `folder` with an invitation's text; blocking. May be repeated after a crash, with the same key.

    ca: PEM text, for instance of a proxy that inspects TLS. role: what the invitation must be for. Raises `NotEnrolled`
    for an invitation that is damaged, expired or used, `Conflict` if the folder belongs to another federation.
    """
    asked = Invitation.parse(invitation)
    if role and asked.role != role:
        raise NotEnrolled(f"This invitation is for {_a(asked.role)}, not for {_a(role)}.", fix=f"ask the coordinator's operator for one for {_a(role)}")
    key = PublicKey.parse(asked.coordinator_key)
    member = Membership(
        url=asked.url,
        name=asked.name,
        role=asked.role,
        federation=federation_id(key),
        coordinator_key=asked.coordinator_key,
        ca="\n".join(part for part in (asked.ca, ca) if part),
        plain=plain,
        consortium_key=asked.consortium_key,
    )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (folder / FILE).exists():
        old = Membership.load(folder)
        if (old.federation, old.name) != (member.federation, member.name):
            raise Conflict(f"{folder} is already enrolled as '{old.name}' elsewhere.", fix="use another folder: a party has one federation")
    identity = Identity.load_or_create(folder / KEY)
    enrolled = asyncio.run(_enroll(member, identity, asked.token, key, patience))
    if (enrolled.federation, enrolled.role) != (member.federation, member.role):
        raise NotEnrolled("The coordinator that answered is not the one of the invitation.", fix="ask for a new invitation")
    member = msgspec.structs.replace(member, name=enrolled.name)
    member.save(folder)
    return member


async def _enroll(member: Membership, identity: Identity, token: str, key: PublicKey, patience: Patience) -> Any:
    async with Api(member.connect(identity, patience=patience)) as api:
        return await api.enroll(token, key)


def _a(role: Role) -> str:
    return {"site": "a site", "investigator": "an investigator", "approver": "an approver"}[role]
