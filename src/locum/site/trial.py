"""A study put to the site's rules to see what they say: one that has arrived, or a file that has not."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from locum.client import A_WHILE, Membership, Patience
from locum.errors import LocumError
from locum.governance.code import code_digest
from locum.governance.policy import ACTIONS, Approval, Ruling
from locum.governance.policy.ruling import explained
from locum.site.folder import load_identity, open_store
from locum.site.policy import Party, SiteRules, shape
from locum.site.review import choose, find
from locum.site.store import Store
from locum.site.tables import judged
from locum.study.manifest import Study


@dataclass(frozen=True)
class Trial:
    """rulings: at review, approval, a round and the door."""

    digest: str
    name: str
    data: str
    source: str
    rulings: tuple[Ruling, ...]


def trial(
    folder: Path,
    study: str,
    *,
    data: str | None = None,
    at: datetime | None = None,
    requester: str = "somebody",
    patients: int | None = None,
    patience: Patience = A_WHILE,
) -> Trial:
    """study: a digest or its start, or a path. at: in place of now. patients: in place of a count. Raises `LocumError`."""
    with open_store(folder) as store:
        rules = SiteRules(store, Membership.load(folder).name)
        try:
            loaded, party, approval, counted, known_data = _asked(folder, store, study, requester, patience)
            name = choose(store, data or known_data)
            n = patients if patients is not None else counted or _count(folder, store, loaded, name)
            cell, parameters = shape(loaded)
            source = rules.in_force()
            approval = approval or Approval(loaded.digest, source.policy.digest, code_digest(), name)  # as if it were approved now
            said = [rules.judge(a, loaded, party, name, n, cell, parameters, approval=approval, at=at) for a in ACTIONS]
            return Trial(loaded.digest, loaded.name, name, source.source, tuple(explained(source.policy, r) for r in said))
        finally:
            rules.close()


def _asked(folder: Path, store: Store, study: str, requester: str, patience: Patience) -> tuple[Study, Party, Approval | None, int, str]:
    if study.endswith(".toml") or Path(study).is_file():
        return Study.load(study), Party(requester, ""), None, 0, ""
    known, loaded = find(folder, store, study, patience)
    party = Party.of(known.view)
    return loaded, party, Approval.decode(known.approval) if known.approval else None, known.patients, known.data


def _count(folder: Path, store: Store, study: Study, name: str) -> int:
    """Patients of the table, as the data check counts them; 0 where it cannot be read."""
    try:
        return judged(store, load_identity(folder).public, study, name, 0).patients
    except LocumError:
        return 0
