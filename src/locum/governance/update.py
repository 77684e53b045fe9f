"""What may change in a study without new approvals, in the shape of the FDA's predetermined change control plan (guidance of August 2025).

The envelope that counts is that of the study which was approved, and a new study is compared with that one and not with the last update: many
small steps lead no farther than one. What judges an update is never part of one, whatever the envelope says.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

from locum.governance.gate_verdict import Check
from locum.study.manifest import Study

NEVER = ("schema", "requester", "governance.envelope", "governance.gate")
_MOST_QUOTED = 120


@dataclass(frozen=True)
class Change:
    """One value that differs. path: as in `may_change`; before, after: JSON text, '' where there was or is nothing."""

    path: str
    before: str
    after: str


@dataclass(frozen=True)
class Update:
    """outside: changed paths that the envelope does not list. reason: why it is no update within the envelope, '' where it is."""

    changes: tuple[Change, ...]
    outside: tuple[str, ...]
    reason: str

    @property
    def within(self) -> bool:
        return not self.reason


def changes(old: Study, new: Study) -> tuple[Change, ...]:
    """Every value in which two studies differ, sorted by path. A step of the plan is named by its name; 'plan' itself where their order differs."""
    return tuple(sorted(_compare("", _plain(old), _plain(new)), key=lambda c: c.path))


def judged(approved: Study, new: Study, *, used: int, today: date) -> Update:
    """Whether `new` is an update of the `approved` study within its envelope. used: updates that were promoted under it before."""
    envelope = approved.governance.envelope
    found = changes(approved, new)
    outside = tuple(c.path for c in found if not _allowed(c.path, envelope.may_change))
    if outside:
        reason = f"outside the update envelope: {_some(outside)}"
    elif used >= envelope.updates:
        reason = f"the envelope is for {envelope.updates} updates, and {used} were made"
    elif envelope.until is not None and today > envelope.until:
        reason = f"the envelope ended on {envelope.until.isoformat()}"
    else:
        reason = ""
    return Update(found, outside, reason)


def check(update: Update, *, renewed: bool, missing: int = 0) -> Check:
    """As a line of a verdict. renewed: the sites that had approved the former study have approved this very one. missing: how many have not."""
    title, asked = "Update", "within the envelope that was approved, or approved anew"
    if update.within:
        said = f"within the envelope; changed: {_some([c.path for c in update.changes])}" if update.changes else "the study is the one that was approved"
        return Check("update", title, "PASS", said, bound=asked)
    if renewed:
        return Check("update", title, "PASS", f"{update.reason}; the sites that had approved the former study have approved this one", bound=asked)
    more = f"; {missing} of the sites that had approved the former study have not approved this one" if missing else "; a new study has to be approved"
    return Check("update", title, "BLOCK", update.reason + more, bound=asked)


def continued(approved: Study, new: Study, *, used: int, today: date, before: Collection[str], now: Collection[str]) -> tuple[Check, bool]:
    """The line of a verdict, and whether the new version rests on the old approvals. before, now: the sites that approve the two studies."""
    found, missing = judged(approved, new, used=used, today=today), set(before) - set(now)
    renewed = new.digest != approved.digest and bool(before) and not missing
    return check(found, renewed=renewed, missing=len(missing)), found.within or not renewed


def _allowed(path: str, may: tuple[str, ...]) -> bool:
    if any(_below(path, n) or _below(n, path) for n in NEVER):  # a change of all of 'governance' changes the gate too
        return False
    return any(_below(path, m) for m in may)


def _below(path: str, top: str) -> bool:
    return path == top or path.startswith(top + ".")


def _plain(study: Study) -> dict[str, Any]:
    """The study as it is signed, its plan by name of step."""
    value: dict[str, Any] = json.loads(study.canonical)
    value["plan"] = {"": [s["name"] for s in value["plan"]], **{s["name"]: s for s in value["plan"]}}
    return value


def _compare(path: str, old: Any, new: Any) -> Iterator[Change]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            here = _join(path, key)
            if key not in old or key not in new:
                yield Change(here, _text(old.get(key)) if key in old else "", _text(new.get(key)) if key in new else "")
            else:
                yield from _compare(here, old[key], new[key])
    elif old != new or type(old) is not type(new):
        yield Change(path, _text(old), _text(new))


def _join(path: str, key: str) -> str:
    """A name with a dot in it is quoted, so that no path of an envelope can mean it by accident: it counts as outside."""
    key = json.dumps(key) if "." in key else key
    return f"{path}.{key}" if path and key else path or key


def _text(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= _MOST_QUOTED else text[:_MOST_QUOTED] + "..."


def _some(paths: list[str] | tuple[str, ...]) -> str:
    return ", ".join(paths[:8]) + (f" and {len(paths) - 8} more" if len(paths) > 8 else "")
