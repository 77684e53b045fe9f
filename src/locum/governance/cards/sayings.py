"""Sentences that several artefacts share, each made of facts: what it is for, of whom, how it was protected, what was left open."""

from __future__ import annotations

from datetime import date, timedelta

from locum.governance.cards.facts import Facts, Gaps, Plain, stamp
from locum.governance.cards.figures import calibration, figures, number, withheld

USES = {
    "GRU": "any research (DUO:0000042)",
    "HMB": "health, medical and biomedical research (DUO:0000006)",
    "DS": "research on one disease (DUO:0000007)",
    "POA": "research on the origins or ancestry of populations (DUO:0000011)",
    "CC": "clinical care (DUO:0000043)",
}
KINDS = {
    "logistic": "logistic regression", "linear": "linear regression", "poisson": "Poisson regression", "cox": "Cox proportional hazards regression",
    "elastic_net": "regression with an elastic net penalty", "boosted_trees": "gradient boosted trees", "sgd": "a model fitted by stochastic gradient descent",
    "network": "a neural network", "multinomial": "multinomial logistic regression", "ordinal": "ordinal logistic regression",
}  # fmt: skip
DEMOGRAPHIC = ("race", "ethnicity", "language", "sexual_orientation", "gender_identity", "sex", "female", "male", "age", "birth", "country")
"""Parts of variable names that point at those who are described, as in 45 CFR 170.315(b)(11)(iv)(A)(5) to (13)."""


def use(facts: Facts, gaps: Gaps, name: str = "intended use") -> str:
    """The stated use, disease and question; what is absent goes to the gaps."""
    g = facts.governance
    said = gaps.say(f"{name}: what the study is for", USES.get(g["use"] or "", ""), "governance.use")
    parts = [f"Use: {said}"]
    if g["use"] == "DS":
        parts.append(f"Disease: {g['disease']}")
    parts.append("Question: " + gaps.say(f"{name}: the question", facts.study["question"], "question"))
    parts.append("Purpose: " + gaps.say(f"{name}: the purpose in words", facts.study["purpose"], "purpose"))
    return " ".join(p if p.endswith((".", "?", "!")) else f"{p}." for p in parts)


def population(facts: Facts) -> str:
    """The cohort's rules, which are what the contract says about who is in it."""
    rules = [f"{name} {_rule(rule, facts.variables[name])}" for name, rule in facts.study["data"]["cohort"]["include"].items()]
    said = "Patients with " + "; ".join(rules) if rules else "The contract restricts no variable: every row that a site's data set holds"
    ranges = [f"{n} {_range(v)}" for n, v in facts.variables.items() if v.get("minimum") is not None or v.get("maximum") is not None]
    return said + "." + (f" Values that the contract allows: {'; '.join(ranges)}." if ranges else "")


def _rule(rule: Plain, v: Plain) -> str:
    parts = []
    if rule.get("at_least") is not None:
        parts.append(f"at least {limit(v, rule['at_least'])}")
    if rule.get("at_most") is not None:
        parts.append(f"at most {limit(v, rule['at_most'])}")
    if rule.get("among"):
        parts.append("among " + ", ".join(rule["among"]))
    return " and ".join(parts) or "recorded"


def _range(v: Plain) -> str:
    low, high = limit(v, v.get("minimum")), limit(v, v.get("maximum"))
    unit = f" {v['unit']}" if v.get("unit") else ""
    if low is not None and high is not None:
        return f"{low} to {high}{unit}"
    return f"from {low}{unit}" if low is not None else f"up to {high}{unit}"


def limit(v: Plain, value: float | None) -> str | None:
    """A limit of a variable as people write it: a date's is kept in days since 1970-01-01."""
    if value is None:
        return None
    try:
        return (date(1970, 1, 1) + timedelta(days=value)).isoformat() if v["type"] == "date" else f"{value:g}"
    except OverflowError:
        return f"{value:g} days since 1970-01-01"


def data(facts: Facts) -> str:
    """How many rows and sites, as far as the run counted them."""
    sums = facts.in_sums
    rows = f"{facts.rows:,} rows" if facts.rows is not None else "The number of rows was not counted (no step of task 'data_check')"
    sites = "" if sums is None else f" at {sums[1]} sites" if sums[0] == sums[1] else f"; between {sums[0]} and {sums[1]} sites in the sums of a round"
    share = facts.study["data"]["split"]["test_share"]
    of_role = [n for n, v in facts.variables.items() if v["role"] == "split"]
    part = f"the contract's variable {of_role[0]} says who is a test patient" if of_role else f"a hash of each patient puts {share:.0%} aside as test patients"
    return f"{rows}{sites}; {part}. Rows stayed at their sites; the data contract has SHA-256 {facts.contract}."


def protection(facts: Facts) -> list[str]:
    """What was in force in this run, from its privacy card."""
    card = facts.privacy
    out = [*card["headline"], str(facts.run["protection"]).rstrip(".") + ".", str(card["trust"]["sentence"])]
    out += [f"{c['title']}: {c['value']}. {c['sentence']}" for c in card["checks"] if c["status"] == "FAIL"]
    return [s[:1].upper() + s[1:] for s in out]


def model(facts: Facts) -> str:
    fitted = [f"{KINDS.get(task, f'task {task}')} (step '{step}')" for step, task in facts.fitted]
    judged = {step for step, _ in facts.fitted}
    beside = [s["name"] for s in facts.study["plan"] if s["task"] in KINDS and s["name"] not in judged]
    also = f". Also in the file, and judged by no step: {', '.join(beside)}" if beside else ""
    return ("; ".join(fitted) or "none that a step of the plan judges") + also


def inputs(facts: Facts) -> dict[str, Plain]:
    """The features that the judged models name; where none names any, the contract's."""
    judged = {step for step, _ in facts.fitted}
    named = {n for s in facts.study["plan"] if s["name"] in judged for n in _words(s.get("features"))}
    return {n: v for n, v in facts.variables.items() if (n in named if named else v["role"] == "feature")}


def outcomes(facts: Facts) -> dict[str, Plain]:
    return {n: v for n, v in facts.variables.items() if v["role"] in ("outcome", "time", "event")}


def described(variables: dict[str, Plain]) -> str:
    return "; ".join(f"{n} ({_what(v)})" for n, v in variables.items()) or "none"


def _what(v: Plain) -> str:
    parts = [v.get("label") or "", v["type"], f"in {v['unit']}" if v.get("unit") else ""]
    return ", ".join(p for p in parts if p)


def demographic(facts: Facts) -> dict[str, Plain]:
    """Variables whose names say that they describe who somebody is. A name may mislead: this is a list to look through, not a finding."""
    return {n: v for n, v in facts.variables.items() if any(part in n.lower() for part in DEMOGRAPHIC)}


def unused(facts: Facts) -> list[str]:
    """Variables that the contract asks for and that no step of the plan names."""
    named = {word for step in facts.study["plan"] for word in _words({k: v for k, v in step.items() if k not in ("name", "task")})}
    ruled = set(facts.study["data"]["cohort"]["include"])
    return [n for n, v in facts.variables.items() if n not in named | ruled and v["role"] not in ("patient", "split")]


def _words(value: object) -> set[str]:
    if isinstance(value, str):
        return {value}
    if isinstance(value, dict):
        return {w for k, v in value.items() for w in {str(k)} | _words(v)}
    return {w for v in value for w in _words(v)} if isinstance(value, list | tuple) else set()


def limits(facts: Facts) -> list[str]:
    """What the figures and the protection do not show, from what is absent in the run."""
    found, tasks = figures(facts), {task for _, task, _ in facts.steps()}
    out = []
    if not found:
        out.append("No step of the plan says how well a model predicts.")
    elif "leave_one_out" not in tasks:
        out.append("Every figure is of patients of the sites that trained the model. Nothing was measured at a site that had no part in it.")
    if found and not calibration(found):
        out.append("Calibration was not measured.")
    if "subgroups" not in tasks:
        out.append("Figures by subgroup were not measured: no step of task 'subgroups'.")
    if found and not any(f.low is not None for f in found):
        out.append("No figure has an interval: small differences mean nothing by themselves.")
    out += [f"{s[:1].upper()}{s[1:]}." for s in withheld(facts)]
    for step, _, result in facts.steps():
        if isinstance(result.get("left_out"), int) and result["left_out"]:
            out.append(f"Step '{step}' left out {result['left_out']} rows for which a value was missing.")
        out += [f"Step '{step}': {str(w).rstrip('.')}." for w in result.get("warnings") or ()]
        if result.get("converged") is False:
            out.append(f"Step '{step}' did not converge.")
    out += [f"Not protected: {s}." for s in facts.privacy["trust"]["not_protected"]]
    out.append("Coefficients and predictions describe associations in these data; no step of these cards checks that they are causes.")
    return out


def gate(facts: Facts) -> list[str]:
    """What the study says a model must show before it is promoted, in words; empty where it says nothing."""
    g = facts.governance["gate"]
    if not g:
        return []
    out = [f"Judged is step '{g['evaluation']}'" + (f", and by subgroup step '{g['subgroups']}'" if g.get("subgroups") else "")]
    for key, words in (
        ("at_least", "is at least"), ("at_most", "is at most"), ("margin", "is not worse than the current version's by more than"),
        ("gap", "differs between two subgroups by at most"), ("subgroup_at_least", "in every subgroup is at least"),
        ("subgroup_margin", "in every subgroup is not worse than the current version's by more than"), ("worst_site", "at the worst site is at least"),
    ):  # fmt: skip
        out += [f"{name} {words} {number(bound)}" for name, bound in (g.get(key) or {}).items()]
    for key, words in (("slope", "the calibration slope"), ("ratio", "observed over expected")):
        if g.get(key):
            out.append(f"{words} lies between {number(g[key][0])} and {number(g[key][1])}")
    if g.get("sites_missing") is not None:
        out.append(f"at most {g['sites_missing']:.0%} of the sites miss the floor of the subgroups' step")
    if g.get("attacks"):
        out.append("a report of attacks on the implementation is asked for")
    return out


def period(facts: Facts) -> str:
    g = facts.governance
    ends = [f"from {g['valid_from']}" if g["valid_from"] else "", f"until {g['valid_until']}" if g["valid_until"] else ""]
    return " ".join(e for e in ends if e)


def ended(facts: Facts) -> str | None:
    return stamp(facts.run["ended"])
