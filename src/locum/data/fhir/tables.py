"""Several views over the same resources, in one pass, with every resource accounted for once.

A resource that one view refuses is in the rows of none: else it would be both used and refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from locum.data.fhir.definition import ViewDefinition
from locum.data.fhir.table import NO_ROW, OTHER_TYPE, SOUND, USED, Table, count, decoder_of
from locum.data.sources.base import Tally

NO_VIEW = "resource that no view selects"


class Tables:
    """Some columns of some views. columns: view -> the columns to make. decoder: bytes of one resource -> the members that any of them reads."""

    def __init__(self, views: Mapping[str, ViewDefinition], columns: Mapping[str, Sequence[str]]) -> None:
        tables = {name: Table(view, columns[name]) for name, view in views.items()}
        self._by_type: dict[str, dict[str, Table]] = {}
        for name, view in views.items():
            self._by_type.setdefault(view.resource, {})[name] = tables[name]
        members = frozenset[str]().union(*(t.members for t in tables.values()))
        self.decoder = decoder_of(members, precise=any(t.precise for t in tables.values()))

    def frames(self, resources: Sequence[dict[str, Any]], tally: Tally) -> Iterator[tuple[str, pl.DataFrame]]:
        """(view, its rows) for each view that makes some; what becomes of each resource is added to `tally`."""
        others = len(resources)
        for kind, tables in self._by_type.items():
            ours = [r for r in resources if r.get("resourceType") == kind]
            others -= len(ours)
            yield from _made(tables, ours, tally)
        count(tally.left_out, OTHER_TYPE, others)


def _made(tables: Mapping[str, Table], ours: Sequence[dict[str, Any]], tally: Tally) -> Iterator[tuple[str, pl.DataFrame]]:
    """The rows that resources of one type make in the views of that type."""
    made = {name: table.evaluate(ours) for name, table in tables.items()}
    refused: dict[int, str] = {}
    for name, (_, fates) in made.items():
        if not SOUND.issuperset(fates):
            refused = {i: f"view {name}: {fate}" for i, fate in enumerate(fates) if fate not in SOUND} | refused
    if refused:
        tally.refused.update(refused.values())
        sound = [r for i, r in enumerate(ours) if i not in refused]
        made = {name: table.evaluate(sound) for name, table in tables.items()}
    for of_views, n in Counter(zip(*(fates for _, fates in made.values()), strict=True)).items():
        if USED in of_views:
            tally.used += n
        else:
            tally.left_out[NO_ROW if NO_ROW in of_views else NO_VIEW] += n
    yield from ((name, frame) for name, (frame, _) in made.items() if len(frame))
