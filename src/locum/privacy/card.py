"""The privacy card of a run: what was promised, whether what ran kept it, and what nobody promised; for a person and for a program.

Precondition   the quote is of the study's own plan. The rounds are the coordinator's record of this run, and `others` of the study's other
               runs; `summed` counts the vectors that arrived, so that a round that failed afterwards counts as one that may have been read.
Pseudocode     released_s = rounds of step s that closed, or failed after a vector had arrived
               over       = sum over steps of max(0, released_s - planned_s);  the plan was kept iff over <= spare
               the card's status is the worst of its checks'
Postcondition  valid under `schema()`. PASS: so by construction, or counted in this run. NOTE: something to know that this run cannot settle.
               FAIL: the promise does not hold as printed, and the first line says so.

The card goes by the coordinator's record. What each site paid is in that site's own ledger, which refuses a round that was not planned.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from math import exp, isfinite
from typing import Any, Literal

from locum.privacy.accountant import largest_delta
from locum.privacy.errors import PrivacyError
from locum.privacy.quote import Quote, percent, up
from locum.study.manifest import MOST_EPS, Study, Terms

SCHEMA = "locum/privacy-card/1"
Status = Literal["PASS", "NOTE", "FAIL"]
_TOLERANCE = 1e-3
"""Of epsilon: by how much two upper bounds of one accountant may differ."""
_TABLES = 1e-3
"""The share of delta that rounded noise tables may add without a word."""


@dataclass(frozen=True)
class Item:
    """One line of the card."""

    id: str
    title: str
    status: Status
    value: str
    sentence: str


@dataclass(frozen=True)
class Facts:
    """What a card is made of. run, rounds, others: `RunView` and `RoundView`s as plain data, others of the study's other runs.

    quote: None where the sums are exact. colluding: how many sites may collude with the coordinator, None for any number. table_error: the
    noise's distance from its law over the whole plan, in total variation. audit: `AuditReport.to_json()`.
    """

    study: Study
    quote: Quote | None
    run: Mapping[str, Any]
    rounds: Sequence[Mapping[str, Any]]
    others: Sequence[Mapping[str, Any]] = ()
    colluding: int | None = None
    table_error: float = 0.0
    audit: Mapping[str, Any] | None = None

    @property
    def terms(self) -> Terms:
        return self.study.terms

    @property
    def unit(self) -> str:
        return self.terms.privacy.unit

    @property
    def ended(self) -> bool:
        return self.run["status"] in ("finished", "failed", "cancelled")

    @property
    def linked(self) -> bool:
        """Whether the data contract says whose row each row is."""
        return any(variable.role == "patient" for variable in self.study.data.variables.values())

    @cached_property
    def released(self) -> Counter[str]:
        """By step, in all runs: rounds that were summed or may have been read."""
        return Counter(r["step"] for r in (*self.rounds, *self.others) if r["status"] == "closed" or r["summed"] > 0)

    @cached_property
    def planned(self) -> dict[str, int]:
        """By step, the rounds that were paid for (where sums are exact, the most that the plan allows)."""
        return {row.step: row.rounds for row in self.quote.rows} if self.quote else {step.name: step.rounds for step in self.study.plan}

    @property
    def over(self) -> int:
        """Rounds beyond the plan, which only spare ones cover."""
        return sum(max(0, count - self.planned.get(step, 0)) for step, count in self.released.items())

    @cached_property
    def smallest(self) -> int | None:
        """The fewest sites in a sum that was read (in buckets, at least so many), None where none was."""
        sums = [r["summed"] for r in self.rounds if r["status"] == "closed"]
        return min(_bucket(n, self.terms) for n in sums) if sums else None

    @cached_property
    def subgroups(self) -> list[dict[str, Any]]:
        """The rows of every result's list `subgroups`: a name, and figures."""
        out = []
        for step, result in self.run["results"].items():
            for row in result.get("subgroups") or () if isinstance(result, Mapping) else ():
                figures = {k: v for k, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool) and isfinite(v)}
                out.append({"step": step, "subgroup": str(row["name"]), "figures": figures})
        return out


def card(facts: Facts) -> dict[str, Any]:
    """The card as plain JSON data, valid under `schema()`. Raises `PrivacyError` for an audit report that is not one."""
    checks = [item for check in _CHECKS if (item := check(facts)) is not None]
    worst: Status = "FAIL" if any(i.status == "FAIL" for i in checks) else "NOTE" if any(i.status == "NOTE" for i in checks) else "PASS"
    return {
        "schema": SCHEMA,
        "study": {"name": facts.study.name, "digest": facts.study.digest},
        "run": {key: facts.run[key] for key in ("id", "status", "model")},
        "headline": _headline(facts, [i for i in checks if i.status == "FAIL"]),
        "status": worst,
        "promise": _promise(facts),
        "trust": {
            "aggregation": facts.terms.aggregation,
            "min_cohort": facts.terms.min_cohort,
            "honest": facts.quote.honest if facts.quote else None,
            "colluding": facts.colluding,
            "sentence": _trusted(facts),
            "not_protected": _open(facts),
        },
        "steps": _steps(facts),
        "checks": [vars(i) for i in checks],
        "subgroups": facts.subgroups,
        "audit": _audit(facts.audit) if facts.audit is not None else None,
    }


def schema() -> dict[str, Any]:
    """The published JSON Schema (2020-12) of a card."""
    found: dict[str, Any] = json.loads((resources.files("locum.privacy") / "schemas" / "privacy.schema.json").read_text(encoding="utf-8"))
    return found


def text(found: Mapping[str, Any]) -> str:
    """A card for a terminal: the first lines, then a line for each check."""
    lines = [*found["headline"], ""]
    for item in found["checks"]:
        lines += [f"{item['status']}  {item['title']}: {item['value']}", f"      {item['sentence']}"]
    return "\n".join(lines)


# --- its parts ---


def _headline(facts: Facts, failed: Sequence[Item]) -> list[str]:
    lines = []
    if failed:
        lines.append(f"What follows does not hold as it stands: {', '.join(item.title.lower() for item in failed)}.")
    if not facts.ended:
        lines.append("The run has not ended: this counts what was released so far.")
    if facts.quote:
        lines.append(facts.quote.sentence)
        if facts.unit == "patient" and not facts.linked:
            lines.append("The study names no patient identifier, so this holds for patients with one record each.")
        return lines
    lines.append("Nothing protects a single patient beyond the cohort: the sums are exact, and no noise was added.")
    if facts.terms.aggregation == "clear":
        lines.append("Not even the cohort protects from the coordinator, which could read each site's vector.")
    lines.append("Whoever knows much of the other data may learn about a patient from what is published.")
    return lines


def _promise(facts: Facts) -> dict[str, Any] | None:
    quote, privacy = facts.quote, facts.terms.privacy
    if quote is None:
        return None
    both = quote.elsewhere
    return {
        "unit": quote.unit,
        "adjacency": "add_or_remove_one",
        "eps": _finite(quote.epsilon),
        "eps_asked": privacy.eps,
        "delta": quote.delta,
        "mu": quote.mu,
        "tpr_at_1pct_fpr": quote.tpr,
        "noise": privacy.noise,
        "patients": privacy.patients,
        "spare": quote.spare,
        "coordinators_view": quote.sentence,
        "released_model": replace(quote, view="the released model").sentence,
        "two_hospitals": {"eps_one_sum": _finite(both.shared), "eps_separate_sums": _finite(both.independent)} if both else None,
    }


def _steps(facts: Facts) -> list[dict[str, Any]]:
    rows = {row.step: row for row in facts.quote.rows} if facts.quote else {}
    out = []
    for step in facts.study.plan:
        row = rows.get(step.name)
        line: dict[str, Any] = {"step": step.name, "task": step.task, "planned": facts.planned.get(step.name, 0), "released": facts.released[step.name]}
        names = ("sampler", "share", "multiplier", "dimension", "noise", "signal")
        out.append({**line, **{name: getattr(row, name) if row else None for name in names}})
    return out


def _audit(report: Mapping[str, Any]) -> dict[str, Any]:
    try:
        findings, mutants = list(report["findings"]), list(report["mutants"])
        within, caught = sum(f["passed"] is True for f in findings), sum(m["caught"] is True for m in mutants)
        bounds = [(float(f["protected"]), float(f["limit"].removeprefix("<= ").split(",")[0])) for f in findings if f["check"].startswith("canaries")]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise PrivacyError("The audit report is not one.", why="a field is missing or is not what it should be", fix="give the output of an audit") from None
    worst = max(bounds, key=lambda pair: pair[0] / pair[1], default=None)
    return {
        "passed": 0 < len(findings) == within and 0 < len(mutants) == caught,
        "figures": len(findings),
        "figures_within": within,
        "broken_copies": len(mutants),
        "caught": caught,
        "eps_found": worst[0] if worst else None,
        "eps_claimed": worst[1] if worst else None,
    }


def _trusted(facts: Facts) -> str:
    terms, noise = facts.terms, facts.quote is not None
    if terms.aggregation == "clear":
        if not noise:
            return "The coordinator can read each site's vector, so it must be trusted with them."
        return (
            "The coordinator, curious or malicious, sees each site's vector with that site's own noise, which suffices whoever else colludes. "
            "The patient's own site and its software are honest."
        )
    most = facts.colluding or 0
    what = ("the noise of the others suffices" if noise else "what it learns is the sum over the others") if most else "it learns the sum over the cohort"
    sites = f"at most {most} of {terms.min_cohort} sites" if most else "no site"
    return (
        f"The coordinator may be curious or malicious, and {sites} may collude with it: {what}. "
        "The other sites, their software, and the holder of the consortium's key, who says which sites there are, are honest."
    )


def _open(facts: Facts) -> list[str]:
    site = facts.unit == "site"
    out = ["facts about the population", "harm from a correct inference"]
    if facts.quote is None:
        out.append("a single patient, from whoever knows much of the other data")
    elif not site:
        out.append("a patient who is at several hospitals as much as one who is at a single one")
    out.append("which sites were asked and when each answered, or with which code it declined" if site else "that a site took part, and when it answered")
    return [*out, "a patient's data from the staff and the machines of their own hospital"]


# --- the checks ---


def _unit(facts: Facts) -> Item:
    words: dict[str, tuple[Status, str]] = {
        "patient": ("PASS", "The promise is for each patient at a site, with all their records there."),
        "site": ("PASS", "The promise is for each site, with all its patients."),
        "none": ("NOTE", "Nobody is protected by noise: the sums are exact."),
    }
    status, sentence = words[facts.unit]
    return Item("unit", "Who is protected", status, facts.unit, sentence)


def _adjacency(facts: Facts) -> Item | None:
    if facts.quote is None:
        return None
    value = f"add or remove one {facts.unit}"
    return Item("adjacency", "Adjacency", "PASS", value, f"What is hidden is whether one {facts.unit} more is there; to replace one counts as two.")


def _trust(facts: Facts) -> Item:
    if facts.terms.aggregation == "masked":
        value = f"a malicious coordinator and {facts.colluding or 0} of {facts.terms.min_cohort} sites"
    else:
        value = "a malicious coordinator and any other sites" if facts.quote else "none: the coordinator is trusted"
    named: Status = "PASS" if facts.quote or facts.terms.aggregation == "masked" else "NOTE"
    return Item("trust", "Against whom", named, value, _trusted(facts))


def _not_protected(facts: Facts) -> Item:
    return Item("not_protected", "What is not protected", "NOTE", f"{len(_open(facts))} things", f"Not hidden: {'; '.join(_open(facts))}.")


def _epsilon(facts: Facts) -> Item | None:
    quote, asked = facts.quote, facts.terms.privacy.eps
    if quote is None:
        return None
    gaussian = f", mu {quote.mu:.3g}" if quote.mu is not None else ""
    value = f"eps {up(quote.epsilon)}, delta {quote.delta:g}{gaussian}"
    spare = f", {quote.spare} spare round{'s' * (quote.spare > 1)} included" if quote.spare else ""
    sentence = f"All that the study may release, over all its runs{spare}, keeps the eps {asked:g} that was approved."
    status: Status = "PASS"
    if not quote.epsilon <= asked * (1 + _TOLERANCE):
        status, sentence = "FAIL", f"The plan costs more than the eps {asked:g} that was approved."
    elif asked > MOST_EPS:
        status, sentence = "NOTE", f"{sentence} It is above {MOST_EPS:g}; the study gives a reason, which each site saw."
    return Item("epsilon", "Epsilon", status, value, sentence)


def _detection(facts: Facts) -> Item | None:
    quote = facts.quote
    if quote is None:
        return None
    sentence = (
        f"Whoever knows everyone else's data and accuses 1 of 100 who did not take part can detect one {quote.unit} who did at most {percent(quote.tpr)} "
        "of the time; a guess would reach 1 %. From the coordinator's view; from the released model not more."
    )
    return Item("detection", "Detection at 1 % false positives", "PASS", f"at most {percent(quote.tpr)}", sentence)


def _delta(facts: Facts) -> Item | None:
    quote = facts.quote
    if quote is None:
        return None
    units = quote.patients if quote.unit == "patient" else quote.cohort
    status: Status = "PASS" if quote.delta <= largest_delta(units) * (1 + 1e-9) else "FAIL"
    whose = "the study's public figure for the cohort's patients" if quote.unit == "patient" else "the number of sites in the cohort"
    value = f"{quote.delta:g} against {largest_delta(units):.3g}"
    return Item("delta", "Delta at most 0.1 / N", status, value, f"N is {whose}, {units}; delta is the chance with which the promise may fail outright.")


def _sampler(facts: Facts) -> Item | None:
    if facts.quote is None:
        return None
    value = "; ".join(f"{row.step}: {row.sampler}" for row in facts.quote.rows)
    return Item("sampler", "Sampled as accounted", "PASS", value, "One object draws who takes part in a round and is priced by the accountant.")


def _records(facts: Facts) -> Item | None:
    if facts.quote is None:
        return None
    title = "Records of a patient bounded"
    if facts.unit == "patient" and not facts.linked:
        sentence = "The study names no patient identifier: each record counts as a patient, and one with m records is protected m times less (mu times m)."
        return Item("records", title, "NOTE", "not linked at a site", sentence)
    return Item("records", title, "PASS", "clipped together", f"All records of a {facts.unit} are summed and clipped once, so their number does not matter.")


def _hospitals(facts: Facts) -> Item | None:
    quote = facts.quote
    if quote is None:
        return None
    title, why = "Sites of a patient bounded", "Records are not linked across hospitals."
    if quote.unit == "site":
        return Item("hospitals", title, "NOTE", "not linked", f"{why} A patient who is at m sites is protected as a group of m sites is.")
    both = quote.elsewhere
    if both is None:
        return Item("hospitals", title, "NOTE", "not linked", f"{why} A patient at several is protected less; by how much was not computed for this plan.")
    value = f"two hospitals: eps {up(both.shared)} or {up(both.independent)}"
    sentence = f"{why} For a patient at two, eps is {up(both.shared)} where both add to one sum, {up(both.independent)} where each sum has noise of its own."
    return Item("hospitals", title, "NOTE", value, sentence)


def _sensitivity(facts: Facts) -> Item | None:
    if facts.quote is None:
        return None
    sentence = f"One {facts.unit} more moves a sum by at most one clip in L2 norm; what rounding to the integer grid adds is in the noise."
    return Item("sensitivity", "Sensitivity", "PASS", "one clip (L2)", sentence)


def _normalisers(facts: Facts) -> Item | None:
    if facts.quote is None:
        return None
    patients = facts.terms.privacy.patients
    public = f"the public figure of {patients} patients" if patients else "the number of sites"
    sentence = f"Normalisers, rates and the number of rounds come from the study, from {public}, or from sums that were paid for."
    return Item("normalisers", "Nothing depends on a private count", "PASS", public, sentence)


def _weights(facts: Facts) -> Item | None:
    if facts.quote is None:
        return None
    return Item("weights", "Weights public", "PASS", "1 for each site", "The door refuses any other weight, so none says how many patients a site has.")


def _releases(facts: Facts) -> Item:
    released = sum(facts.released.values())
    runs = " in all the study's runs" if facts.others else ""
    if facts.quote is None:
        return Item("releases", "Every release charged", "NOTE", f"{released} exact sums", f"Exact sums{runs} have no price: no ledger counted them.")
    planned, spare, over = sum(facts.planned.values()), facts.quote.spare, facts.over
    value = f"{released} of {planned} rounds, {over} of {spare} spare"
    if over > spare:
        sentence = f"More was released than the plan paid for: {over} rounds beyond it, and {spare} may be repeated."
        return Item("releases", "Every release charged", "FAIL", value, sentence)
    lost = sum(r["status"] != "closed" and r["summed"] > 0 for r in (*facts.rounds, *facts.others))
    sentence = f"Rounds that were summed{runs} are within what each site reserved before it read a row"
    sentence += f"; {lost} that did not close, but may have been read, count too." if lost else "."
    return Item("releases", "Every release charged", "PASS", value, sentence)


def _charged(facts: Facts) -> Item | None:
    if facts.quote is None:
        return None
    free = [step.name for step in facts.study.plan if step.name not in facts.planned]
    value = f"{len(facts.study.plan) - len(free)} of {len(facts.study.plan)} steps"
    if free:
        return Item("steps", "Preprocessing and evaluation charged", "FAIL", value, f"Step '{free[0]}' has no price.")
    return Item("steps", "Preprocessing and evaluation charged", "PASS", value, "Every step of the plan, of whatever kind, has its share of the budget.")


def _tuning(facts: Facts) -> Item | None:
    if facts.quote is None:
        return None
    sentence = "What was tried in other studies to find this one's settings is charged there, by each site's ledger, and is not on this card."
    return Item("tuning", "Tuning charged", "NOTE", "within this study", sentence)


def _randomness(facts: Facts) -> Item | None:
    if facts.quote is None:
        return None
    sentence = "Each vector's noise comes from a fresh key of the operating system's entropy at its site, which is used once and kept nowhere."
    return Item("randomness", "Cryptographic randomness, never reused", "PASS", "AES-256 in counter mode", sentence)


def _integers(facts: Facts) -> Item | None:
    quote = facts.quote
    if quote is None:
        return None
    law = {"gaussian": "discrete Gaussian", "skellam": "Skellam"}[facts.terms.privacy.noise]
    added = (1 + exp(min(700.0, quote.epsilon))) * facts.table_error
    status: Status = "PASS" if added <= _TABLES * quote.delta else "NOTE" if added <= quote.delta else "FAIL"
    sentence = f"Noise is drawn and added in whole numbers; that its tables are rounded adds at most {added:.1g} to delta."
    return Item("integers", "No floating-point noise", status, f"{law}, integers", sentence)


def _margin(facts: Facts) -> Item:
    title, terms, n = "Dropout and collusion margin", facts.terms, facts.smallest
    if n is None:
        return Item("margin", title, "NOTE", "no sum was read", f"No sum is read over fewer than {terms.min_cohort} sites.")
    noisy = facts.quote is not None and terms.aggregation == "masked"
    value = f"{n} sites, at least {terms.min_cohort}" + (f", {terms.honest} honest" if noisy else "")
    if n < max(terms.min_cohort, terms.honest if noisy else 0):
        return Item("margin", title, "FAIL", value, f"A sum over {n} sites was read; the study promises at least {terms.min_cohort}.")
    sentence = f"The smallest sum of this run was over {'at least ' if terms.masking.buckets > 1 else ''}{n} sites"
    if noisy:
        sentence += f": the noise of {terms.honest} suffices, so {n - terms.honest} could have failed to add theirs"
    elif facts.quote:
        sentence += "; each vector carries the whole noise by itself"
    return Item("margin", title, "PASS", value, f"{sentence}.")


def _ledger(facts: Facts) -> Item:
    if facts.quote is None:
        return Item("ledger", "Ledger", "NOTE", "not charged", "A site's ledger counts what leaves with noise; exact sums are approved study by study.")
    sentence = "What is spent and left is each site's own knowledge: 'locum site ledger' shows it there."
    return Item("ledger", "Ledger", "NOTE", "held by each site", sentence)


def _audited(facts: Facts) -> Item | None:
    if facts.quote is None:
        return None
    title = "Audit bound at most the claim"
    if facts.audit is None:
        return Item("audit", title, "NOTE", "not audited in this run", "'locum privacy audit' attacks an installation; give its report with --audit.")
    found = _audit(facts.audit)
    value = f"{found['figures_within']} of {found['figures']} figures within limits, {found['caught']} of {found['broken_copies']} broken copies caught"
    if not found["passed"]:
        return Item("audit", title, "FAIL", value, "An attack succeeded, a broken copy went unnoticed, or nothing was tried.")
    most = f" The largest lower bound on eps was {found['eps_found']:.2f}, of {found['eps_claimed']:.2f} claimed." if found["eps_claimed"] else ""
    return Item("audit", title, "PASS", value, f"The attacks in the report that was given found no violation; passing never proves that there is none.{most}")


def _utility(facts: Facts) -> Item:
    title, steps = "Utility by subgroup", sorted({row["step"] for row in facts.subgroups})
    if not steps:
        return Item("subgroups", title, "NOTE", "not measured", "No step says how well small groups are served; noise and clipping cost them most.")
    return Item("subgroups", title, "PASS", f"{len(facts.subgroups)} subgroups", f"Measured by {', '.join(steps)}; the table is part of this card.")


def _clip_bit(facts: Facts) -> Item | None:
    if facts.quote is None or not any(step.task == "fedavg" for step in facts.study.plan):
        return None
    sentence = "Whether a site's update was longer than the clip is a coordinate of the same clipped vector, under the same noise."
    return Item("clip_bit", "Adaptive clip charged", "PASS", "in the same release", sentence)


_CHECKS: tuple[Callable[[Facts], Item | None], ...] = (
    _unit, _adjacency, _trust, _not_protected, _epsilon, _detection, _delta, _sampler, _records, _hospitals, _sensitivity, _normalisers, _weights,
    _releases, _charged, _tuning, _randomness, _integers, _margin, _ledger, _audited, _utility, _clip_bit,
)  # fmt: skip


def _bucket(n: int, terms: Terms) -> int:
    """At least how many of a round's n sites were summed together: of buckets it is known that the sites let none fall below the minimum."""
    return min(n, terms.min_cohort) if terms.aggregation == "masked" and terms.masking.buckets > 1 else n


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
