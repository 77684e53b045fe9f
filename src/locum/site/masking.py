"""This site's part in a masked round: the machines of `locum.secagg`, with what they must not forget in the site's store.

Each step loads, checks, computes, and returns the message with the state that goes with it; the agent makes both durable in
one transaction before the message leaves. So a site that was killed anywhere sends the same bytes again, or takes the step
for the first time: never a second, different one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from locum.errors import Conflict, LocumError
from locum.federation.door import Masks, ReleaseDeclined, SitePolicy
from locum.federation.identity import Identity, PublicKey
from locum.federation.masking import manifest_of, setup_of
from locum.federation.roster import Roster, SignedRoster
from locum.federation.wire import Assignment
from locum.secagg import session, site
from locum.secagg.errors import MaskingRefused, ProtocolError, SessionLost
from locum.secagg.messages import Request as UnmaskRequest
from locum.secagg.messages import Survivors, decode
from locum.secagg.session import Pending, Session
from locum.secagg.site import Secrets
from locum.secagg.topology import Topology
from locum.site.store import Masking, Store
from locum.study.manifest import Terms


class _State(msgspec.Struct):
    """A round in progress: of a set-up, then of the round itself."""

    pending: Pending | None = None
    secrets: Secrets | None = None


class MaskedRound:
    """One site, one round. Every step raises `ReleaseDeclined`; then nothing has changed."""

    def __init__(
        self, store: Store, identity: Identity, me: str, a: Assignment, raw: bytes, keys: dict[str, PublicKey], terms: Terms, policy: SitePolicy
    ) -> None:
        self.identity, self.me, self.a, self.terms = identity, me, a, terms
        try:
            self.manifest = manifest_of(a, raw, keys, terms, own_min=policy.min_cohort)
            self.setup = setup_of(a, self.manifest.keys, terms, self.manifest.minimum)  # type: ignore[arg-type]
        except MaskingRefused as error:
            raise _declined(error) from error
        kept, state = store.masking(a.run, a.seq)
        self._session = msgspec.msgpack.decode(kept, type=Session) if kept else None
        self._state = msgspec.msgpack.decode(state, type=_State) if state else _State()
        self._changed = False

    # --- the steps ------------------------------------------------------------------------------------------------

    def answer(self, phase: str, asked: bytes) -> bytes:
        """The message of a phase other than `masked`."""
        steps = {"keys": self._keys, "seals": self._seals, "join": self._join, "confirm": self._confirm, "unmask": self._unmask}
        try:
            return steps[phase](asked)
        except (MaskingRefused, ProtocolError) as error:
            raise _declined(error) from error

    def mask(self, asked: bytes) -> Masks:
        """What covers this site's vector."""
        secrets = self._secrets
        try:
            streams = site.mask(self.manifest, secrets, self.me, asked)
        except (MaskingRefused, ProtocolError) as error:
            raise _declined(error) from error
        return Masks(streams, secrets.j, len(secrets.joined))

    def survivors(self, phase: str, asked: bytes) -> tuple[str, ...]:
        """Whose sum would be read together with this site's numbers (its own bucket's), of a `confirm` or an `unmask`."""
        secrets, number = self._secrets, self.manifest.number(self.me)
        try:
            numbers = decode(asked, Survivors).survivors if phase == "confirm" else decode(asked, UnmaskRequest).survivors
            mine = next(b for b in Topology.of(self.manifest, secrets.members, secrets.seed).buckets if number in b)
            return tuple(self.manifest.roster[i] for i in numbers if i in mine)
        except (ProtocolError, MaskingRefused) as error:
            raise ReleaseDeclined("masking", "The survivors are not a list of sites of this round.") from error

    @property
    def transcript(self) -> bytes:
        return self._state.secrets.j if self._state.secrets else b""

    def saved(self, summed: Sequence[str] = ()) -> Masking:
        """What to make durable with the message."""
        kept = msgspec.msgpack.encode(self._session) if self._changed else None
        cohort = (self.a.study, self.a.step, self.a.state, tuple(sorted(summed))) if summed else None
        return Masking(session=kept, round=msgspec.msgpack.encode(self._state), summed=cohort)

    def _keys(self, asked: bytes) -> bytes:
        self._state.pending, body = session.announce(self.setup, self.me, self.identity.sign, os.urandom)
        return body

    def _seals(self, asked: bytes) -> bytes:
        return session.seal(self.setup, self.me, self._pending, asked, self.identity.sign, os.urandom)

    def open(self, asked: bytes) -> None:
        """Take part in the session that was set up in this round, whether or not this site then joins the round."""
        try:
            self._session = session.open_column(self.setup, self.me, self._pending, asked, self.a.seq)
        except (MaskingRefused, ProtocolError) as error:
            raise _declined(error) from error
        self._state.pending, self._changed = None, True

    def _join(self, asked: bytes) -> bytes:
        if self._session is None or self._session.id != self.setup.id:
            raise SessionLost("This site does not share the session's secrets.", fix="nothing to do: the next round sets up a new session")
        self._changed = True
        self._state.secrets, body = site.join(self.manifest, self._session, self.me, self.identity.sign, os.urandom)
        return body

    def _confirm(self, asked: bytes) -> bytes:
        return site.confirm(self.manifest, self._secrets, self.me, asked, self.identity.sign)

    def _unmask(self, asked: bytes) -> bytes:
        return site.unmask(self.manifest, self._secrets, self.me, asked)

    @property
    def _pending(self) -> Pending:
        if self._state.pending is None:
            raise SessionLost("This site is in no set-up of a session.")
        return self._state.pending

    @property
    def _secrets(self) -> Secrets:
        if self._state.secrets is None:
            raise ReleaseDeclined("session", "This site has not joined this round, or has lost its secrets.")
        return self._state.secrets


def check_roster(store: Store, signed: SignedRoster, digest: str, consortium: PublicKey | None, federation: str) -> Roster:
    """The roster that a round names, if the consortium has signed it and it is not older than what this site knows.

    Raises `ReleaseDeclined`.
    """
    if consortium is None:
        raise ReleaseDeclined("roster", "This site has pinned no consortium key.", fix="enrol again, with an invitation that names the consortium")
    try:
        roster = signed.open(consortium, federation)
        if signed.digest != digest:
            raise Conflict("The round names another roster than the coordinator shows.", why="It is older, or not the consortium's.")
        store.put_roster(roster.version, signed)
    except LocumError as error:
        raise ReleaseDeclined("roster", error.what, why=error.why, fix=error.fix) from error
    return roster


def _declined(error: LocumError) -> ReleaseDeclined:
    return ReleaseDeclined("session" if isinstance(error, SessionLost) else "masking", error.what, why=error.why, fix=error.fix)
