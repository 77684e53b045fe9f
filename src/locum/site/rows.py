"""A study's rows at this site: read once, checked against the contract, and kept while the files stay as they are."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import Protocol

from locum.data.contract import check, load_rows
from locum.data.rows import Rows
from locum.site.store import DataSet, KnownStudy, Store
from locum.study.manifest import Study


class RowSource(Protocol):
    """Where an agent's rows come from."""

    def __call__(self, study: Study, known: KnownStudy) -> Rows:
        """Raises `LocumError` where this site's data are not what the study needs."""


class SiteRows:
    """The rows of the data set that each study was approved on. A few studies' rows stay in memory."""

    def __init__(self, store: Store, *, keep: int = 4) -> None:
        self.store, self.keep = store, keep
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[object, Rows]] = OrderedDict()

    def __call__(self, study: Study, known: KnownStudy) -> Rows:
        data = self.store.data_for(known)
        with self._lock:
            now = stamp(data)
            kept = self._kept.get(study.digest)
            if kept is None or kept[0] != now or now is None:
                rows = load_rows(study, data.mapping or None, data.source)
                check(study.data, rows).raise_if_refused()
                self._kept[study.digest] = kept = (now, rows)
            self._kept.move_to_end(study.digest)
            while len(self._kept) > self.keep:
                self._kept.popitem(last=False)
            return kept[1]


def stamp(data: DataSet) -> object:
    """Changes whenever a file of the data set does; None if one is gone."""
    try:
        return [(p, s.st_mtime_ns, s.st_size, s.st_ino) for p in (data.source, data.mapping) if p for s in [os.stat(p)]]
    except OSError:
        return None
