"""This site's policy in force: where its parts lie, and what they say of a study on one of the data sets now.

policy.cedar           the rules; without it the default that ships, unless this site has had rules of its own
site.toml, [data.X]    the DUO terms of data set X, and tags; [policy] stays in force beside the rules: the stricter of both holds
site.db                every text of rules that was in force here, and of each study what exactly was approved

Both files are looked at before every decision, so that an edit counts from the next round on. If one cannot be relied on, nothing runs.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import NamedTuple

from locum.errors import LocumError, NotFound
from locum.federation.identity import PublicKey
from locum.federation.wire import StudyView
from locum.governance.code import code_digest
from locum.governance.policy import Action, Approval, Permissions, Policy, PolicyError, Question, Ruling, judge, preset
from locum.governance.policy.facts import NO_CELL
from locum.governance.policy.source import MAX_BYTES
from locum.site.folder import CONFIG, SiteConfig, load_config
from locum.site.inbox import open_study
from locum.site.ledgers import SiteLedgers
from locum.site.store import KnownStudy, Store
from locum.study.document import nearest
from locum.study.manifest import Study
from locum.tasks import build_plan

RULES = "policy.cedar"


class Party(NamedTuple):
    """Who has signed a study: the name that the coordinator knows, and the fingerprint of the key."""

    name: str
    fingerprint: str

    @classmethod
    def of(cls, view: StudyView) -> Party:
        return cls(view.requester, PublicKey.parse(view.requester_key).fingerprint)


@dataclass(frozen=True)
class InForce:
    """source: where the rules come from, for people."""

    policy: Policy
    config: SiteConfig
    source: str


class SiteRules:
    """What a door asks (`Door(rules=...)`). May be used from several threads. zone: the site's; by default that of the machine."""

    def __init__(self, store: Store, site: str, *, zone: tzinfo | None = None) -> None:
        self.store, self.zone = store, zone
        self._ledgers = SiteLedgers(store, site)
        self._lock = threading.Lock()
        self._kept: tuple[object, InForce | LocumError] | None = None
        self._studies: dict[str, tuple[Study, int, int]] = {}

    def __call__(self, action: Action, digest: str) -> Ruling:
        """What counts for a study that was decided on. Raises `LocumError` where that cannot be said."""
        known = self.store.study(digest)
        if known is None:
            raise NotFound("This site has not seen that study.", fix="list them: locum site studies")
        return self.ask(action, known, data=known.data, patients=known.patients)

    def ask(self, action: Action, known: KnownStudy, *, data: str, patients: int, at: datetime | None = None) -> Ruling:
        """data: the data set; patients: as counted, 0 where not known; at: in place of now."""
        digest = known.view.digest
        if digest not in self._studies:
            if len(self._studies) > 64:
                self._studies.clear()
            study = open_study(known.view, digest)
            self._studies[digest] = (study, *shape(study))
        study, cell, parameters = self._studies[digest]
        approval = Approval.decode(known.approval) if known.approval else None
        return self.judge(action, study, Party.of(known.view), data, patients, cell, parameters, approval=approval, at=at)

    def judge(
        self,
        action: Action,
        study: Study,
        party: Party,
        data: str,
        patients: int,
        cell: int,
        parameters: int,
        *,
        approval: Approval | None = None,
        at: datetime | None = None,
    ) -> Ruling:
        """The decision itself."""
        rules = self.in_force()
        own, (spent, remaining) = rules.config.policy, self._budget(data, rules.config)
        now = (at or datetime.fromtimestamp(self.store.clock(), UTC)).astimezone(self.zone)
        question = Question(
            study=study, requester=party.name, key=party.fingerprint, data=data, now=now, code=code_digest(),
            permissions=rules.config.data.get(data, Permissions()), approval=approval, patients=patients, cell=cell, parameters=parameters,
            min_cohort=own.min_cohort, min_rows=own.min_rows, spent=spent, remaining=remaining,
        )  # fmt: skip
        return judge(rules.policy, action, question)

    def in_force(self) -> InForce:
        """Read again where a file has changed. Raises `PolicyError` or `ManifestError`: then nothing runs."""
        with self._lock:
            names = [d.name for d in self.store.data()]
            now = (_stamp(self.store.folder / RULES), _stamp(self.store.folder / CONFIG), names)
            if self._kept is None or self._kept[0] != now:
                try:
                    self._kept = (now, load(self.store, names))
                except LocumError as error:  # kept too: to find a contradiction takes seconds
                    self._kept = (now, error)
            found = self._kept[1]
            if isinstance(found, LocumError):
                raise found.with_traceback(None)
            return found

    def close(self) -> None:
        self._ledgers.close()

    def _budget(self, data: str, config: SiteConfig) -> tuple[float, float]:
        """eps spent and left in the data set's ledger; of one that is not open yet, what it would begin with."""
        found = next((d for d in self.store.data() if d.name == data), None)
        if found is None or not self._ledgers.exists(found):
            return 0.0, config.privacy.eps
        balance = self._ledgers.open(found, check=False).balance()
        return balance.eps_spent, balance.eps_left


def load(store: Store, names: list[str]) -> InForce:
    """The rules and the terms of this site's data sets, as they are now. names: the data sets that there are."""
    config = load_config(store.folder)
    for name in config.data:
        if name not in names:
            hint = nearest(name, names) if names else "add it: locum site data add"
            raise PolicyError(f"{CONFIG} has [data.{name}], and this site has no data set '{name}'.", why="Terms under a wrong name protect nothing.", fix=hint)
    text = read_rules(store.folder / RULES)
    if text is not None:
        policy = Policy.load(text, RULES)
        store.put_policy(policy.digest, text)
        return InForce(policy, config, RULES)
    if store.policies():
        raise PolicyError(f"{RULES} is gone.", why="This site had rules of its own.", fix="put it back, or choose: locum site policy preset default")
    return InForce(Policy.load(preset("default")), config, "the default that ships")


def read_rules(path: Path) -> str | None:
    """The text of a file of rules; None where there is no file. Raises `PolicyError`."""
    try:
        if path.exists() and not path.is_file():  # a pipe or a device may never end
            raise PolicyError(f"{path.name} is no file.", fix="name a text file")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        return raw.decode().replace("\r\n", "\n")
    except FileNotFoundError:
        if path.is_symlink():
            raise PolicyError(f"{path.name} is a link to a file that is not there.", fix="put the file back, or delete the link") from None
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise PolicyError(f"{path.name} cannot be read: {reason}.", fix="put it right, or choose: locum site policy preset default") from None


def install(store: Store, text: str, where: str) -> Policy:
    """Put rules in force, from the next decision on. Raises `PolicyError`; then the old ones stay."""
    policy, path = Policy.load(text, where), store.folder / RULES
    draft = path.with_suffix(".new")
    draft.write_bytes(text.encode())
    os.replace(draft, path)
    store.put_policy(policy.digest, text)
    return policy


def shape(study: Study) -> tuple[int, int]:
    """The smallest cell that a task of the plan shows, and the parameters of its largest regression; the worst of both where it cannot be built."""
    try:
        tasks = build_plan(study)
    except LocumError:
        return 0, NO_CELL
    cells = [getattr(task.params, "threshold", NO_CELL) for task in tasks if hasattr(task, "params")]
    sizes = [task.design.size for task in tasks if hasattr(task, "design")]
    return min([*cells, NO_CELL]), max([*sizes, 0])


@dataclass(frozen=True)
class Seen:
    """The policy's part of a review. line: what permits the study, or that it is refused; problems: why it is."""

    line: str
    problems: tuple[str, ...]


def look(store: Store, site: str, known: KnownStudy, data: str, patients: int) -> Seen:
    """Whether a person may approve a study on a data set."""
    rules = SiteRules(store, site)
    try:
        source = rules.in_force()
        said = [rules.ask(action, known, data=data, patients=patients) for action in ("review", "approve")]
    except LocumError as error:
        return Seen("cannot be relied on, so nothing runs", (str(error),))
    finally:
        rules.close()
    problems = tuple(dict.fromkeys(sentence for ruling in said for sentence in ruling.refusals))
    names = ", ".join(f"'{rule.id}'" for rule in said[-1].permits)
    return Seen(f"{source.source}, {source.policy.digest[:12]}: " + ("refused" if problems else f"permitted by {names}"), problems)


def _stamp(path: Path) -> object:
    try:
        s = path.stat()
    except OSError:
        return None
    return s.st_mtime_ns, s.st_ctime_ns, s.st_size, s.st_ino, s.st_dev  # a copy may keep the first, and nobody can set the second
