"""A study's rows at this site: read once, checked against the contract, and kept while the files stay as they are."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Protocol

from locum.data.gates import Report, check
from locum.data.gates.drift import with_drift
from locum.data.load import to_rows
from locum.data.patients import load_key
from locum.data.rows import Rows
from locum.federation.identity import PublicKey
from locum.site.store import KnownStudy, Store
from locum.site.tables import drift_found, live, open_table, stamp
from locum.site.waivers import in_force
from locum.study.manifest import Study

Notice = Callable[[str, Mapping[str, object]], None]
"""Called with an event for the site's own log, and its details."""


def silent(event: str, details: Mapping[str, object]) -> None:
    """No log."""


class RowSource(Protocol):
    """Where an agent's rows come from."""

    def __call__(self, study: Study, known: KnownStudy, run: str) -> Rows:
        """Raises `LocumError` where this site's data are not what the study needs."""


class SiteRows:
    """The rows of the data set that each study was approved on. A few studies' rows stay in memory.

    The gates judge every time: a waiver may have been withdrawn, or be over. Where sums are exact, a table that does not pass any more is
    declined. Under privacy it is not, for one patient may decide that, and a decline tells it without noise: then the people here are told
    (`notice`), and what a private task cannot use adds nothing. key: the site's own, which has signed the waivers.
    """

    def __init__(self, store: Store, key: PublicKey, *, keep: int = 4, notice: Notice = silent) -> None:
        self.store, self.key, self.keep, self.notice = store, key, keep, notice
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[object, Rows, Report]] = OrderedDict()

    def __call__(self, study: Study, known: KnownStudy, run: str) -> Rows:
        data = self.store.data_for(known)
        with self._lock:
            now = (stamp(data), run if live(data) else "")
            kept = self._kept.get(study.digest)
            if kept is None or kept[0] != now or now[0] is None:
                secret = load_key(self.store.folder)
                mapping, source = open_table(data, secret)
                rows = to_rows(study.data, source, mapping, secret)
                self._kept[study.digest] = kept = (now, rows, check(study.data, rows))
            self._kept.move_to_end(study.digest)
            while len(self._kept) > self.keep:
                self._kept.popitem(last=False)
        _, rows, report = kept
        report = with_drift(report, drift_found(self.store, study)).waived(in_force(self.store, self.key, study.digest, data.name))
        if not study.terms.privacy.on:
            report.raise_if_refused()
        elif refused := report.of("REFUSE"):
            self.notice("the table does not pass its gates any more", {"study": study.digest, "gates": [f"{f.variable} {f.gate}".strip() for f in refused]})
        return rows
