"""This site as a witness of the federation's log: it cosigns a longer log only where that continues the one that it cosigned before.

A coordinator that showed two histories would need a witness for each. A site that is shown a log which is shorter, or another, keeps
both checkpoints as evidence and takes part in nothing more until a person has looked (`locum site log`).

Source: C2SP tlog-witness; RFC 9162, section 2.1.4.
"""

from __future__ import annotations

from collections.abc import Callable

from locum.client import Api
from locum.errors import LocumError
from locum.federation.identity import Identity, PublicKey
from locum.governance.events import log_origin
from locum.governance.log import NoteKey, Signed, verify_consistency
from locum.governance.log.merkle import EMPTY, LogError
from locum.governance.log.note import WITNESS
from locum.site.store import Store


class Witness:
    """coordinator: the key that was pinned at enrolment; it signs the log. clock: Unix seconds."""

    def __init__(self, store: Store, api: Api, identity: Identity, coordinator: PublicKey, clock: Callable[[], float]) -> None:
        self.store, self.api, self.identity, self.clock = store, api, identity, clock
        self.log = NoteKey(log_origin(api.connection.federation), coordinator.raw)
        self.me = NoteKey(api.connection.name, identity.public.raw, WITNESS)

    @property
    def forked(self) -> bool:
        """Whether this site has evidence against the log."""
        return any(not fork.settled for fork in self.store.log_forks())

    def _line(self, seen: Signed) -> tuple[str, bytes] | None:
        return next((line for line in seen.lines if line[0] == self.me.name and line[1][:4] == self.me.id), None)

    async def look(self) -> int | None:
        """Verify the log's head and cosign it if it has grown; the size that is cosigned now, None where there is evidence against it.

        Raises `LocumError` where the coordinator cannot be asked, or its answer is no signed checkpoint at all.
        """
        if self.forked:
            return None
        shown = await self.api.checkpoint()
        shown.verify(self.log)
        seen = Signed.parse(self.store.log_head()) if self.store.log_head() else None
        old, root = (seen.checkpoint.size, seen.checkpoint.root) if seen else (0, EMPTY)
        new = shown.checkpoint
        if seen and (old, root) == (new.size, new.root):
            if self._line(seen) not in shown.lines:  # it did not arrive, or was dropped
                await self.api.cosign(seen.text())
            return old
        try:
            proof = await self.api.consistency(old, new.size) if 0 < old < new.size else []
            verify_consistency(old, new.size, root, new.root, proof)
        except LocumError as error:  # a coordinator that refuses to prove it says the same
            if error.code != LogError.code:
                raise
            self.store.put_log_fork(str(error), seen.text() if seen else "", shown.text())
            return None
        signed = Signed(new, tuple(line for line in shown.lines if line[0] == self.log.name)).cosigned(self.me, self.identity.sign_note, int(self.clock()))
        self.store.put_log_head(new.size, signed.text())
        await self.api.cosign(signed.text())
        return new.size
