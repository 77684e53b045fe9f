"""What a data manager sees before anything runs: who asks, what would run, on which columns, and what would leave."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from locum.client import A_WHILE, Api, Membership, Patience
from locum.client.membership import open_connection
from locum.data.gates import Report
from locum.errors import DataError, LocumError, NotFound, Refused, Unavailable, counted
from locum.federation.budget import budget_of
from locum.federation.identity import PublicKey
from locum.federation.summation import wire_layout
from locum.federation.witness import LedgerHead
from locum.governance.code import code_digest
from locum.governance.policy import Approval
from locum.privacy.accountant import largest_delta
from locum.site.cost import Cost, cost_of
from locum.site.folder import SiteConfig, load_config, load_identity, open_store
from locum.site.inbox import open_study
from locum.site.ledgers import SiteLedgers
from locum.site.policy import SiteRules, look
from locum.site.statement import stated_heads
from locum.site.store import Decision, KnownStudy, Store
from locum.site.tables import judged
from locum.study.manifest import Study
from locum.tasks import Task, build_plan
from locum.tasks.private.base import Private

FEW = 20
"""Below so many patients a reader is warned that sums hide little. A habit, not a theorem."""
NOT_ALLOWED = (
    "Rows, identifiers and dates of patients never leave; only the numbers listed above do, once per round.",
    "Nothing else runs: an approval holds for this text alone, byte for byte; a changed study needs a new decision.",
    "The coordinator sends no code, and cannot name another column, another step or more rounds.",
)


@dataclass(frozen=True)
class StepReview:
    """One step of the plan. scalars: how many numbers leave per round, where that is known before the run."""

    name: str
    task: str
    rounds: int
    reads: tuple[str, ...]
    leaves: str
    scalars: int | None


@dataclass(frozen=True)
class Review:
    """A study as this site sees it. problems: why it cannot be approved here; empty if it can.

    exact: whether sums leave without noise; cost: if not, what the data set's ledger says.
    rules: what the site's own rules say. report: what the data check says of this site's own rows; it stays here.
    """

    digest: str
    name: str
    title: str
    question: str
    purpose: str
    requester: str
    signed_by: str
    fingerprint: str
    steps: tuple[StepReview, ...]
    min_cohort: int
    min_rows: int
    override: str
    protection: str
    clear: bool
    exact: bool
    cost: Cost | None
    data: str
    rules: str
    report: Report | None
    problems: tuple[str, ...]
    decision: Decision

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {**asdict(self), "report": self.report.to_json() if self.report else None, "not_allowed": list(NOT_ALLOWED)}

    def text(self) -> str:
        """The same in plain words."""
        parts = [
            _head(self),
            *(_step(i, s) for i, s in enumerate(self.steps, 1)),
            _terms(self),
            _data(self),
            _lines("This site's policy", (self.rules,)),
            _lines("What is not allowed", NOT_ALLOWED),
        ]
        if self.problems:
            parts.append(_lines("Why this site cannot approve it", self.problems))
        parts.append(f"Decision here: {self.decision or 'none yet, so nothing runs'}.")
        return "\n\n".join(parts) + "\n"


@dataclass(frozen=True)
class Pending:
    """A study in a list. told: whether the coordinator knows the decision."""

    digest: str
    name: str
    title: str
    requester: str
    decision: Decision
    told: bool


def list_studies(folder: Path, *, patience: Patience = A_WHILE) -> list[Pending]:
    """Every study of the federation and this site's decision on it, after a look at the coordinator if it can be reached.

    A study whose text and signature do not match, or that this release cannot read, is left out.
    """
    with open_store(folder) as store:
        try:
            asyncio.run(_look(folder, store, patience))
        except Unavailable:
            if not store.studies():
                raise
        return [p for known in store.studies() if (p := _pending(known)) is not None]


def review(folder: Path, digest: str, *, data: str | None = None, patience: Patience = A_WHILE) -> Review:
    """What `digest` (or the start of it) would do here. data: the data set, where the site has several.

    Raises `NotFound` or `Unavailable`; what else is wrong is in `problems`.
    """
    with open_store(folder) as store:
        known, _ = find(folder, store, digest, patience)
        return _look_up(folder, store, known, data)


def decide(
    folder: Path, digest: str, *, approve: bool, data: str | None = None, exact: bool = False, until: date | None = None, patience: Patience = A_WHILE
) -> bool:
    """Approve or deny a study by its digest; whether the coordinator has been told (else the agent tells it later).

    exact: that sums without noise may leave, which a study without differential privacy needs said. Approving a private study sets its
    cost aside in the data set's ledger, which the first one opens. until: the last day on which the approval counts. What exactly was
    approved is kept beside the decision: the digests of the study, of the policy and of the program.
    Raises `Refused` for an approval that the study, the site's policy, its ledger or its data do not allow.
    """
    with open_store(folder) as store:
        known, _ = find(folder, store, digest, patience)
        chosen, approved, patients = known.data, "", 0
        if approve:
            seen = _look_up(folder, store, known, data)
            if seen.problems:
                what = "This study cannot be approved here: " + "; ".join(seen.problems)
                raise Refused(what, fix="correct what is named (locum site check shows all of the table's findings), or deny the study")
            if seen.exact and not exact and load_config(folder).policy.exact != "allow":
                raise Refused(
                    "This study's sums leave without noise, so they may say something about a single patient to someone who knows the others.",
                    why="Differential privacy is the rule here; an exact study is an exception that somebody has to have decided on.",
                    fix="approve it with --exact if that is accepted, or ask the investigator for eps and delta",
                )
            chosen = seen.data
            approved, patients = _approval(folder, store, known, chosen, until), seen.report.patients if seen.report else 0
            _set_aside(folder, store, known, chosen)
        store.decide(known.view.digest, approve=approve, data=chosen, approval=approved, patients=patients)
        try:
            asyncio.run(_tell(folder, known.view.digest, approve, patience))
        except Unavailable:
            return False
        store.told(known.view.digest, "approved" if approve else "denied")
        return True


async def _look(folder: Path, store: Store, patience: Patience) -> None:
    async with Api(open_connection(folder, patience=patience)) as api:
        for view in await api.studies():
            if store.study(view.digest) is None:
                try:
                    open_study(view, view.digest)
                except LocumError:
                    continue
                store.put_study(view)


async def _tell(folder: Path, digest: str, approve: bool, patience: Patience) -> None:
    async with Api(open_connection(folder, patience=patience)) as api:
        await api.decide(digest, approve=approve)


def find(folder: Path, store: Store, digest: str, patience: Patience) -> tuple[KnownStudy, Study]:
    """The study whose digest starts so, after a look at the coordinator if it is not known yet. Raises `NotFound`."""
    found = [s for s in store.studies() if s.view.digest.startswith(digest)]
    if not found:
        asyncio.run(_look(folder, store, patience))
        found = [s for s in store.studies() if s.view.digest.startswith(digest)]
    if len(found) == 1:
        return found[0], open_study(found[0].view, found[0].view.digest)
    if found:
        raise LocumError(f"{len(found)} studies start with '{digest}'.", fix="give more of the digest")
    raise NotFound(f"No study starts with '{digest}'.", fix="list them: locum site studies; a digest is 64 hexadecimal digits")


def _pending(known: KnownStudy) -> Pending | None:
    try:
        study = Study.from_json(known.view.manifest.encode())
    except LocumError:  # kept by a release that was less strict: it must not hide the others
        return None
    return Pending(known.view.digest, study.name, study.title, known.view.requester, known.decision, known.told)


def _look_up(folder: Path, store: Store, known: KnownStudy, data: str | None) -> Review:
    member, config = Membership.load(folder), load_config(folder)
    study = open_study(known.view, known.view.digest)
    heads = (stated_heads(folder) or {}) if study.terms.privacy.on else {}
    key = load_identity(folder).public
    return _review(store, known, config, data, member.name, key, heads, masks=member.consortium is not None)


def _set_aside(folder: Path, store: Store, known: KnownStudy, data: str) -> None:
    """For a private study: its cost, in the data set's ledger, which is opened if there is none. Raises `BudgetExhausted`."""
    study = open_study(known.view, known.view.digest)
    budget = budget_of(study)
    if budget is None:
        return
    chosen = next(d for d in store.data() if d.name == data)
    with SiteLedgers(store, Membership.load(folder).name) as ledgers:
        ledger = ledgers.open(chosen) if ledgers.exists(chosen) else ledgers.create(chosen, load_config(folder).privacy, stated_heads(folder) or {})
        ledger.reserve(study.digest, budget.priced, study.terms.privacy.spare, requester=known.view.requester)


def _approval(folder: Path, store: Store, known: KnownStudy, data: str, until: date | None) -> str:
    """What is approved, as it is kept. Raises `Refused`."""
    if until and until < datetime.fromtimestamp(store.clock(), UTC).astimezone().date():
        raise Refused(f"{until} is over.", fix="give a last day that is still to come, or none")
    policy = SiteRules(store, Membership.load(folder).name).in_force().policy
    return Approval(known.view.digest, policy.digest, code_digest(), data, until).encode()


def _review(
    store: Store, known: KnownStudy, config: SiteConfig, data: str | None, site: str, key: PublicKey, heads: Mapping[str, LedgerHead], *, masks: bool
) -> Review:
    view, policy = known.view, config.policy
    study = open_study(view, view.digest)
    problems: list[str] = []
    steps: tuple[StepReview, ...] = ()
    try:
        steps = tuple(_look_at(study, i, task) for i, task in enumerate(build_plan(study)))
    except LocumError as error:
        problems.append(str(error))
    if study.terms.aggregation == "clear" and not policy.allow_clear:
        problems.append("This site's policy lets no update leave in clear text.")
    if study.terms.aggregation == "masked" and study.terms.masking.suite in policy.retired:
        problems.append(f"This site has retired the key agreement '{study.terms.masking.suite}'.")
    if study.terms.aggregation == "masked" and not masks:
        problems.append("This site has pinned no consortium key, so it cannot tell who the other sites are.")
    if not study.terms.privacy.on and policy.exact == "never":
        problems.append("This site's policy lets no sums leave without noise.")
    name, report, cost = "", None, None
    try:
        name = choose(store, data or known.data)
        cost = cost_of(store, study, name, site, config.privacy, heads) if study.terms.privacy.on else None
        problems += [cost.problem] if cost and cost.problem else []
        report = judged(store, key, study, name, max(policy.min_rows, study.terms.min_rows))
        report.raise_if_refused()
        problems += _delta_problem(study, report.patients)
        if cost and cost.new and config.privacy.delta > largest_delta(max(1, report.patients)):
            problems.append(
                f"[privacy] delta in site.toml is too large for {report.patients} patients: set it to at most {largest_delta(report.patients):.1g}."
            )
    except LocumError as error:
        problems.append(str(error))
    rules = look(store, site, known, name, report.patients if report else 0)
    problems += rules.problems
    return Review(
        digest=view.digest,
        name=study.name,
        title=study.title,
        question=study.question,
        purpose=study.purpose,
        requester=study.requester,
        signed_by=view.requester,
        fingerprint=PublicKey.parse(view.requester_key).fingerprint,
        steps=steps,
        min_cohort=max(policy.min_cohort, study.terms.min_cohort),
        min_rows=max(policy.min_rows, study.terms.min_rows),
        override=study.terms.privacy.override if study.terms.privacy.on else "",
        protection=study.terms.protection(),
        clear=study.terms.aggregation == "clear",
        exact=not study.terms.privacy.on,
        cost=cost,
        data=name,
        rules=rules.line,
        report=report,
        problems=tuple(problems),
        decision=known.decision,
    )


def _delta_problem(study: Study, patients: int) -> list[str]:
    """delta against this site's own patients, of whom the study's public figure may know nothing."""
    privacy = study.terms.privacy
    if not privacy.on or not patients or privacy.delta <= largest_delta(patients):
        return []
    return [f"delta {privacy.delta:g} is too large for this site's {patients} patients: at most {largest_delta(patients):.1g}."]


def _look_at(study: Study, index: int, task: Task) -> StepReview:
    step = study.plan[index]
    try:
        scalars: int | None = wire_layout(task.layout({})).size
    except (LocumError, LookupError):  # the shape depends on an earlier step's answer
        scalars = None
    rounds = task.request().rounds if isinstance(task, Private) and study.terms.privacy.on else step.rounds
    return StepReview(step.name, step.task, rounds, tuple(task.reads()), task.leaves(), scalars)


def choose(store: Store, wanted: str) -> str:
    """The name of the data set, which may be left out where there is one. Raises `DataError`."""
    names = [d.name for d in store.data()]
    if wanted in names:
        return wanted
    if wanted:
        raise DataError(f"This site has no data set '{wanted}'.", fix=f"choose one of: {', '.join(names)}" if names else "add the data set first")
    if len(names) != 1:
        raise DataError(
            "This site has no data set." if not names else "This site has several data sets.",
            fix="add one first" if not names else f"choose one of: {', '.join(names)}",
        )
    return names[0]


# --- plain words ------------------------------------------------------------------------------------------------------


def _head(r: Review) -> str:
    return "\n".join(
        [
            f"Study {r.name}{': ' + r.title if r.title else ''}",
            f"  digest      {r.digest}",
            f"  asked by    {r.requester or r.signed_by}, signed by '{r.signed_by}' with key {r.fingerprint}",
            *_wrapped("question", r.question),
            *_wrapped("purpose", r.purpose),
        ]
    )


def _step(number: int, s: StepReview) -> str:
    count = f"{s.scalars} numbers, the site's weight among them" if s.scalars is not None else "as many numbers as an earlier step's answer says"
    return "\n".join(
        [
            f"Step {number}: {s.name} (task {s.task}, at most {counted(s.rounds, 'round')})",
            *_wrapped("reads", ", ".join(s.reads) or "no column"),
            *_wrapped("leaves", s.leaves),
            f"  per round   {count}",
        ]
    )


def _terms(r: Review) -> str:
    few = f"no sum over fewer than {r.min_cohort} sites" + (f"; no answer from fewer than {r.min_rows} patients" if r.exact else "")
    lines = [r.protection, few, *((f"why more than usual: {r.override}",) if r.override else ())]
    if r.exact:
        lines.append("WARN: the sums are exact. Someone who knows the other patients' data can work a single patient out; approving needs --exact")
    return _lines("Terms", tuple(lines)) + (f"\n\n{_lines('Privacy', r.cost.lines())}" if r.cost else "")


def _data(r: Review) -> str:
    if r.report is None:
        return _lines("This site's data", ("not checked",))
    counts = f"data set '{r.data}': {counted(r.report.rows, 'row')} of {counted(r.report.patients, 'patient')}, check says {r.report.result}"
    what = "the released numbers" if r.clear else f"the sum, if the other sites in it are known or collude with its reader (at least {r.min_cohort} sites),"
    few = () if r.report.patients >= FEW or not r.exact else (f"WARN: from {counted(r.report.patients, 'patient')} {what} can give single values away",)
    return _lines("This site's data (this stays here)", (counts, *few, *(f"{f.result}: {f.what}" for f in r.report.findings if f.result != "PASS")))


def _lines(title: str, lines: tuple[str, ...]) -> str:
    return "\n".join([f"{title}:", *(textwrap.fill(line, 110, initial_indent="  - ", subsequent_indent="    ") for line in lines)])


def _wrapped(label: str, text: str) -> list[str]:
    return [textwrap.fill(text, 110, initial_indent=f"  {label:<12}", subsequent_indent=" " * 14)] if text else []
