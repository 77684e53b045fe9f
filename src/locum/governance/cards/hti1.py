"""hti1.json: the 31 source attributes of a predictive decision support intervention, 45 CFR 170.315(b)(11)(iv)(B) (ONC, HTI-1 final rule, 89 FR 1192).

Each has its value from the run or 'not stated'. They are a certified product's to show; this is the part of them that a training run can know.
"""

from __future__ import annotations

from typing import Any

from locum.governance.cards import sayings
from locum.governance.cards.escape import pretty
from locum.governance.cards.facts import Facts, Gaps
from locum.governance.cards.figures import Figure, figures, gaps

SCHEMA = "locum/hti1/1"
ABOUT = "Source attributes of 45 CFR 170.315(b)(11)(iv)(B), filled from the run. Their order and number are the rule's, their titles are shortened."
ATTRIBUTES = {
    "1.i": "Name and contact of the developer",
    "1.ii": "Funding of the technical implementation",
    "1.iii": "Value produced as output",
    "1.iv": "Kind of output",
    "2.i": "Intended use",
    "2.ii": "Intended patient population",
    "2.iii": "Intended users",
    "2.iv": "Intended decision-making role",
    "3.i": "Tasks, situations or populations cautioned against",
    "3.ii": "Known risks, inappropriate settings and uses, limitations",
    "4.i": "Inclusion and exclusion criteria of the training data",
    "4.ii": "Demographic variables used as input",
    "4.iii": "Demographic representativeness",
    "4.iv": "Relevance of the training data to the intended setting",
    "5.i": "Approach to fair output",
    "5.ii": "Approaches to manage bias",
    "6.i": "External data source and setting",
    "6.ii": "Party that tested externally",
    "6.iii": "Demographic representativeness of the external data",
    "6.iv": "External validation process",
    "7.i": "Validity in test data from the training data's source",
    "7.ii": "Fairness in test data from the training data's source",
    "7.iii": "Validity in data from another source",
    "7.iv": "Fairness in data from another source",
    "7.v": "Evaluations of use on outcomes",
    "8.i": "How validity is monitored over time",
    "8.ii": "Validity in local data",
    "8.iii": "How fairness is monitored over time",
    "8.iv": "Fairness in local data",
    "9.i": "How and how often it is updated",
    "9.ii": "How often performance is corrected",
}
_KEYS = {
    "2.i": "governance.use", "5.i": "governance.gate", "7.i": "a step of task evaluate_*", "7.ii": "a step of task subgroups",
    "7.iii": "a step of task leave_one_out", "9.i": "governance.envelope",
}  # fmt: skip


def render(facts: Facts, found: Gaps) -> bytes:
    values = _values(facts)
    said = []
    for n, title in ATTRIBUTES.items():
        part, point = n.split(".")
        value = found.say(f"{n} {title}", values.get(n), _KEYS.get(n, ""))
        said.append({"attribute": f"(b)(11)(iv)(B)({part})({point})", "title": title, "value": value})
    found.say("1.i contact of the developer", "")
    found.say("2.ii Intended patient population", "")
    if not facts.study["requester"]:
        found.say("1.i name of the developer", "", "requester")
    study = {"name": facts.study["name"], "sha256": facts.digest}
    return pretty({"schema": SCHEMA, "about": ABOUT, "study": study, "run": facts.run["id"], "model": facts.model, "attributes": said})


def _values(facts: Facts) -> dict[str, Any]:
    every, inputs = figures(facts), sayings.inputs(facts)
    seen = sayings.demographic(facts)
    e, requester = facts.governance["envelope"], facts.study["requester"] or "not stated"
    tested = [s for s in facts.study["plan"] if s["task"] == "leave_one_out"]
    return {
        "1.i": f"{requester}; contact not stated",
        "1.iii": sayings.described(sayings.outcomes(facts)),
        "1.iv": "prediction" if facts.fitted else "analysis",
        "2.i": sayings.use(facts, Gaps("")) if facts.governance["use"] or facts.study["question"] else "",
        "2.ii": f"not stated; the study's own cohort was: {sayings.population(facts)}",
        "3.ii": " ".join(sayings.limits(facts)),
        "4.i": sayings.population(facts),
        "4.ii": "Input variables that by their names describe who somebody is: " + (", ".join(n for n in seen if n in inputs) or "none") + ".",
        "4.iii": _counts(facts, seen),
        "5.i": "; ".join(f for f in sayings.gate(facts) if "subgroup" in f),
        "6.iv": "; ".join(f"step '{s['name']}' leaves out one value of {s.get('group')} after another and tests the model there" for s in tested),
        "7.i": _list([f for f in every if f.kind == "all"]),
        "7.ii": _list([f for f in every if f.kind == "group"] + gaps(facts)),
        "7.iii": _list([f for f in every if f.kind == "held out"]),
        "9.i": f"At most {e['updates']} updates that change only {', '.join(e['may_change'])}. {e['protocol']}" if e["may_change"] else "",
    }


def _counts(facts: Facts, seen: dict[str, Any]) -> str:
    """What the run measured of them: means of numbers and shares of yes."""
    out = []
    for step, _, result in facts.steps("standardise", "moments"):
        for name, row in (result.get("variables") or {}).items():
            if name in seen and isinstance(row, dict) and isinstance(row.get("mean"), int | float):
                mean = f"{row['mean']:.1%} yes" if seen[name]["type"] == "boolean" else f"mean {row['mean']:.4g}"
                out.append(f"{name}: {mean}, of {row.get('n')} rows (step '{step}')")
    return "; ".join(out)


def _list(found: list[Figure]) -> str:
    return "; ".join(f"{f.name} of {f.group}: {f.words} (step '{f.step}')" for f in found)
