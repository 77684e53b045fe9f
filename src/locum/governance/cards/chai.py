"""model-card.chai.xml: an Applied Model Card in the elements of the schema v0.2 of the Coalition for Health AI (https://mc.chai.org/v0.2/schema.xsd).

Its text fields are Markdown, so text that others wrote is escaped twice: as Markdown, then as XML.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape

from locum.governance.cards import sayings
from locum.governance.cards.escape import line, markdown
from locum.governance.cards.facts import NOT_STATED, Facts, Gaps
from locum.governance.cards.figures import Figure, calibration, figures, gaps

NAMESPACE = "https://mc.chai.org/v0.2/schema.xsd"
Element = tuple[str, "str | Sequence[Element]"]
"""A name, and its text or its elements."""


def render(facts: Facts, found: Gaps) -> bytes:
    card = ("AppliedModelCard", _card(facts, found))
    return ('<?xml version="1.0" encoding="UTF-8"?>\n' + "\n".join(_xml(card, 0, f' xmlns="{NAMESPACE}"')) + "\n").encode()


def _xml(element: Element, depth: int, attributes: str = "") -> Iterable[str]:
    name, content = element
    pad = "  " * depth
    if isinstance(content, str):
        yield f"{pad}<{name}{attributes}>{escape(content)}</{name}>"
        return
    yield f"{pad}<{name}{attributes}>"
    for child in content:
        yield from _xml(child, depth + 1)
    yield f"{pad}</{name}>"


def _card(facts: Facts, found: Gaps) -> list[Element]:
    say = found.say
    return [
        ("BasicInfo", [
            ("ModelName", markdown(facts.title)),
            ("ModelDeveloper", markdown(say("ModelDeveloper", facts.study["requester"], "requester"))),
            ("DeveloperContact", say("DeveloperContact", "")),
        ]),
        ("ReleaseInfo", [
            ("ReleaseStage", say("ReleaseStage", "")),
            ("ReleaseDate", sayings.ended(facts) or NOT_STATED),
            ("ReleaseVersion", f"SHA-256 {facts.model}"),
            ("GlobalAvailability", ", ".join(facts.governance["region"]) or say("GlobalAvailability", "", "governance.region")),
            ("RegulatoryApproval", say("RegulatoryApproval", "")),
        ]),
        ("ModelSummary", [
            ("Summary", markdown(f"{facts.title}. Model: {sayings.model(facts)}. {sayings.data(facts)}")),
            ("Keywords", [("Keyword", k) for k in ("federated learning", *sorted({task for _, task in facts.fitted}))]),
        ]),
        ("UsesAndDirections", [
            ("IntendedUseAndWorkflow", markdown(sayings.use(facts, found, "IntendedUseAndWorkflow"))),
            ("PrimaryIntendedUsers", say("PrimaryIntendedUsers", "")),
            ("HowToUse", say("HowToUse", "")),
            ("TargetedPatientPopulation", markdown(f"{say('TargetedPatientPopulation', '')}; the study's own cohort was: {sayings.population(facts)}")),
            ("CautionedOutOfScopeSettings", say("CautionedOutOfScopeSettings", "")),
        ]),
        ("Warnings", [
            ("KnownRisksAndLimitations", _list(sayings.limits(facts))),
            ("KnownBiasesOrEthicalConsiderations", _list(_differences(facts)) or say("KnownBiasesOrEthicalConsiderations", "", "a step of task subgroups")),
            ("ClinicalRiskLevel", say("ClinicalRiskLevel", "")),
        ]),
        ("TrustIngredients", [
            ("AISystemFacts", _system(facts, found)),
            ("TransparencyInformation", [
                ("FundingSource", say("FundingSource", "")),
                ("StakeholdersConsulted", f"{len(facts.approved)} sites approved the study"),
            ]),
        ]),
        ("KeyMetrics", _metrics(facts, found)),
        ("Resources", [
            ("PeerReviewedPublications", say("PeerReviewedPublications", "")),
            ("PatientConsentOrDisclosure", markdown(say("PatientConsentOrDisclosure", facts.governance["basis"], "governance.basis"))),
        ]),
        ("Bibliography", ""),
    ]  # fmt: skip


def _system(facts: Facts, found: Gaps) -> list[Element]:
    change = facts.governance["envelope"]
    upkeep = f"May change without new approval: {', '.join(change['may_change'])}; at most {change['updates']} updates." if change["may_change"] else ""
    tested = {s["task"] for s in facts.study["plan"]} & {"subgroups", "leave_one_out"}
    return [
        ("OutcomesAndOutputs", markdown(sayings.described(sayings.outcomes(facts)))),
        ("ModelType", markdown(sayings.model(facts))),
        ("InputDataSource", markdown(sayings.data(facts))),
        ("OutputAndInputDataTypes", markdown(f"Input: {sayings.described(sayings.inputs(facts))}. Output: {sayings.described(sayings.outcomes(facts))}.")),
        ("DevelopmentDataCharacterization", markdown(sayings.data(facts) + " " + sayings.population(facts))),
        ("BiasMitigationApproaches", say_tested(tested) or found.say("BiasMitigationApproaches", "", "a step of task subgroups")),
        ("OngoingMaintenance", markdown(found.say("OngoingMaintenance", upkeep, "governance.envelope"))),
        ("Security", _list(sayings.protection(facts))),
        ("Transparency", f"Study SHA-256 {facts.digest}; run {facts.run['id']}; data contract SHA-256 {facts.contract}."),
    ]


def say_tested(tasks: set[str]) -> str:
    """What was measured, which is no approach against bias but the least that one needs."""
    return f"Measured, not mitigated: steps of task {', '.join(sorted(tasks))}." if tasks else ""


def _metrics(facts: Facts, found: Gaps) -> list[Element]:
    every = figures(facts)
    usefulness = [f for f in every if f.kind in ("all", "alone") and f not in calibration(every)]
    fairness = [f for f in every if f.kind in ("group", "held out")] + gaps(facts)
    judged = sayings.gate(facts)
    goal = markdown("; ".join(judged)) if judged else ""
    of_sites = _list([s for s in sayings.limits(facts) if "site" in s.lower()][:3])
    shared = {"goal": goal, "kind": "Retrospective, on rows that the sites put aside by a hash or by the contract.", "data": markdown(sayings.data(facts))}
    return [
        ("UsefulnessUsabilityEfficacy", _metric("UsefulnessUsabilityEfficacy", usefulness, found, "a step of task evaluate_*", of_sites, **shared)),
        ("FairnessEquity", _metric("FairnessEquity", fairness, found, "a step of task subgroups", of_sites, **shared)),
        ("SafetyReliability", _metric("SafetyReliability", calibration(every), found, "a step of task evaluate_binary or subgroups", of_sites, **shared)),
    ]


def _metric(name: str, rows: list[Figure], found: Gaps, key: str, read: str, *, goal: str, kind: str, data: str) -> list[Element]:
    if not rows:
        found.say(f"{name}.Results", "", key)
    results: list[Element] = [("MetricResult", [("Label", markdown(_label(f))), ("ValueJson", _json(f))]) for f in rows]
    none: Element = ("MetricResult", [("Label", "Not measured in this run"), ("ValueJson", '{"kind":"single","value":"not stated"}')])
    return [
        ("MetricGoal", goal or found.say(f"{name}.MetricGoal", "", "governance.gate")),
        ("Results", results or [none]),
        ("Interpretation", read or found.say(f"{name}.Interpretation", "")),
        ("TestType", kind if rows else NOT_STATED),
        ("TestingDataDescription", data if rows else NOT_STATED),
        ("ValidationProcessAndJustification", "Counted at every site by the run's own steps and summed; no site's rows were moved." if rows else NOT_STATED),
    ]


def _label(f: Figure) -> str:
    return f"{f.name} of {f.group}" + (f", n = {f.n}" if f.n is not None else "") + f" (step {f.step})" + (f"; {f.note}" if f.note else "")


def _json(f: Figure) -> str:
    value = {"kind": "single", "value": f.value}
    if f.low is not None and f.high is not None:
        value = {"kind": "estimate_ci", "estimate": f.value, "lower": f.low, "upper": f.high, "level": 95, "unit": ""}
    return json.dumps(value, separators=(",", ":"))


def _differences(facts: Facts) -> list[str]:
    return [f"{line(f.group)}: {f.name} differs by {f.words}" for f in gaps(facts)]


def _list(items: Sequence[str]) -> str:
    return "\n".join(f"- {markdown(i)}" for i in items)
