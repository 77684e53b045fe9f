"""A study's rows at this site: read once, checked against the contract, and kept while the files stay as they are."""

from __future__ import annotations

import threading
from collections import OrderedDict
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


class RowSource(Protocol):
    """Where an agent's rows come from."""

    def __call__(self, study: Study, known: KnownStudy, run: str) -> Rows:
        """Raises `LocumError` where this site's data are not what the study needs."""


class SiteRows:
    """The rows of the data set that each study was approved on. A few studies' rows stay in memory.

    The gates judge every time: a waiver may have been withdrawn, or be over. key: the site's own, which has signed the waivers.
    """

    def __init__(self, store: Store, key: PublicKey, *, keep: int = 4) -> None:
        self.store, self.key, self.keep = store, key, keep
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
        if not study.terms.privacy.on:  # otherwise declining in the middle of a run would say without noise what was found
            report = with_drift(report, drift_found(self.store, study))
        report.waived(in_force(self.store, self.key, study.digest)).raise_if_refused()
        return rows
