"""pccp.json: what may change without new approvals, in the three parts of a predetermined change control plan, from the study's envelope.

FDA, Marketing Submission Recommendations for a Predetermined Change Control Plan for AI-Enabled Device Software Functions (August 2025): description
of modifications, modification protocol, impact assessment. A study is no marketing submission; the shape is the same.
"""

from __future__ import annotations

from typing import Any

from locum.governance.cards import sayings
from locum.governance.cards.escape import pretty
from locum.governance.cards.facts import Facts, Gaps
from locum.governance.cards.figures import figures

SCHEMA = "locum/pccp/1"
ABOUT = "The parts of a predetermined change control plan, filled from the study's governance.envelope and from the run. Nobody has reviewed it."


def render(facts: Facts, gaps: Gaps) -> bytes:
    return pretty(document(facts, gaps))


def document(facts: Facts, gaps: Gaps) -> dict[str, Any]:
    e, g = facts.governance["envelope"], facts.governance["gate"]
    if not e["may_change"]:
        gaps.say("modifications.may_change", "", "governance.envelope.may_change")
    return {
        "schema": SCHEMA,
        "about": ABOUT,
        "study": {"name": facts.study["name"], "sha256": facts.digest},
        "version": {"run": facts.run["id"], "model": facts.model},
        "modifications": {
            "may_change": [{"path": path, "now": _at(facts.study, path)} for path in e["may_change"]],
            "anything_else": "is another study, on which every site decides anew",
            "updates_at_most": e["updates"] if e["may_change"] else 0,
            "until": e["until"],
        },
        "protocol": {
            "data_management": sayings.data(facts),
            "retraining": [{"step": s["name"], "task": s["task"], "rounds_at_most": s["rounds"]} for s in facts.study["plan"]],
            "performance_evaluation": sayings.gate(facts) or [gaps.say("protocol.performance_evaluation", "", "governance.gate")],
            "gate": g,
            "update_procedure": gaps.say("protocol.update_procedure", e["protocol"], "governance.envelope.protocol"),
        },
        "impact": {
            "benefits_and_risks": gaps.say("impact.benefits_and_risks", e["impact"], "governance.envelope.impact"),
            "known_limits": sayings.limits(facts),
            "figures_of_this_version": [
                {"step": f.step, "figure": f.name, "of": f.group, "value": f.value, "low": f.low, "high": f.high} for f in figures(facts)
            ],
        },
    }


def _at(study: Any, path: str) -> Any:
    """What the manifest says at a dotted path today; steps of the plan go by their names. None where it says nothing."""
    here: Any = study
    for part in path.split("."):
        if isinstance(here, list | tuple):
            here = next((s for s in here if isinstance(s, dict) and s.get("name") == part), None)
        else:
            here = here.get(part) if isinstance(here, dict) else None
    return here
