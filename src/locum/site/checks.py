"""The gates of a study's contract on one of this site's tables, with the waivers that its data manager has signed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from locum.client import A_WHILE, Patience
from locum.data.gates import Gate, Progress, Report
from locum.data.gates.waiver import WAIVABLE, Waiver
from locum.errors import ManifestError, counted
from locum.site.folder import load_config, load_identity, open_store
from locum.site.review import choose, find
from locum.site.tables import judged
from locum.site.waivers import KeptWaiver, grant, waivers, withdraw
from locum.study.document import nearest
from locum.study.manifest import Study


@dataclass(frozen=True)
class Checked:
    """What the gates say of a table that a study would read here."""

    study: Study
    data: str
    report: Report


def check(folder: Path, digest: str, data: str | None = None, *, progress: Progress | None = None, patience: Patience = A_WHILE) -> Checked:
    """Run the gates of a study (its digest, or the start of it). Raises `NotFound`, `DataError`, `Unavailable`."""
    with open_store(folder) as store:
        known, study = find(folder, store, digest, patience)
        name = choose(store, data or known.data)
        least = max(load_config(folder).policy.min_rows, study.terms.min_rows)
        return Checked(study, name, judged(store, load_identity(folder).public, study, name, least, progress))


def waive(
    folder: Path,
    digest: str,
    gate: Gate,
    variable: str,
    *,
    reason: str,
    by: str,
    at_most: int | None = None,
    until: date | None = None,
    data: str | None = None,
    patience: Patience = A_WHILE,
) -> Waiver:
    """Sign that a refusal of this gate is let pass for this study. at_most: by default as many rows as it is about now.

    Raises `ManifestError` where the gate refuses nothing that can be waived.
    """
    if gate not in WAIVABLE:
        raise ManifestError(f"The gate '{gate}' cannot be waived.", fix=f"these can: {', '.join(WAIVABLE)}")
    found = check(folder, digest, data, patience=patience)
    refused = [f for f in found.report.of("REFUSE") if f.gate == gate and f.variable == variable]
    if not refused:
        there = [f"{f.gate} {f.variable}".strip() for f in found.report.of("REFUSE")]
        raise ManifestError(f"The gate '{gate}' does not refuse '{variable or 'the table'}' here.", fix=nearest(f"{gate} {variable}", there) if there else "")
    said = {"variable": variable, "gate": gate, "at_most": at_most or max(1, refused[0].count), "reason": reason, "by": by, "until": until}
    waiver = Waiver.parse({"study": found.study.digest, "data": found.data, **said}, where="the waiver")
    if not waiver.covers(refused[0]):
        raise ManifestError(
            f"This refusal is about {counted(refused[0].count, 'row')}, and the waiver covers {waiver.at_most:,}.", fix="raise --at-most, or correct the data"
        )
    with open_store(folder) as store:
        grant(store, load_identity(folder), waiver)
    return waiver


def list_waivers(folder: Path, digest: str, *, patience: Patience = A_WHILE) -> list[KeptWaiver]:
    """All waivers for a study, also those that were withdrawn or are over."""
    with open_store(folder) as store:
        known, _ = find(folder, store, digest, patience)
        return waivers(store, load_identity(folder).public, known.view.digest)


def unwaive(folder: Path, digest: str, n: int, *, by: str, patience: Patience = A_WHILE) -> None:
    """Withdraw a waiver: the next run is refused again where it was needed."""
    with open_store(folder) as store:
        known, _ = find(folder, store, digest, patience)
        withdraw(store, load_identity(folder), known.view.digest, n, by)
