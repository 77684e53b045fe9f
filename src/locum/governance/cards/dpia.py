"""dpia.json and dpia.md: the fields of article 35(7) of the GDPR, Regulation (EU) 2016/679, filled from the run.

It is material for an assessment and not one: how likely and how severe a risk is, a person decides; those fields say 'not stated'.
"""

from __future__ import annotations

from typing import Any

from locum.governance.cards import sayings
from locum.governance.cards.escape import markdown, pretty, table
from locum.governance.cards.facts import Facts, Gaps, Plain, stamp

SCHEMA = "locum/dpia/1"
ABOUT = "Fields of article 35(7) of Regulation (EU) 2016/679, filled from the run. Not an assessment: a person weighs them, and answers for it."


def render(facts: Facts, gaps: Gaps) -> bytes:
    return pretty(document(facts, gaps))


def document(facts: Facts, gaps: Gaps) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "about": ABOUT,
        "study": {"name": facts.study["name"], "title": facts.title, "sha256": facts.digest},
        "run": {"id": facts.run["id"], "started": stamp(facts.run["started"]), "ended": stamp(facts.run["ended"]), "model": facts.model},
        "a_description": _description(facts, gaps),
        "b_necessity": _necessity(facts, gaps),
        "c_risks": _risks(facts, gaps),
        "d_measures": _measures(facts, gaps),
        "views_of_data_subjects": gaps.say("views_of_data_subjects (article 35(9))", ""),
        "advice_of_data_protection_officer": gaps.say("advice_of_data_protection_officer (article 35(2))", ""),
    }


def _description(facts: Facts, gaps: Gaps) -> dict[str, Any]:
    g = facts.governance
    return {
        "question": gaps.say("a_description.question", facts.study["question"], "question"),
        "purpose": gaps.say("a_description.purpose", facts.study["purpose"], "purpose"),
        "use": gaps.say("a_description.use", sayings.USES.get(g["use"] or "", ""), "governance.use"),
        "legal_basis": gaps.say("a_description.legal_basis", g["basis"], "governance.basis"),
        "requester": gaps.say("a_description.requester", facts.study["requester"], "requester"),
        "data_subjects": sayings.population(facts),
        "scale": sayings.data(facts),
        "variables": [_variable(n, v) for n, v in facts.variables.items()],
        "operations": [
            {"step": s["name"], "task": s["task"], "rounds": _closed(facts, s["name"]),
             "leaves_a_site": gaps.say(f"a_description.operations.{s['name']}.leaves_a_site", facts.leaves.get(s["name"]))}
            for s in facts.study["plan"]
        ],
        "recipients": {
            "model": ["the requester", *(["the public"] if g["publishes"] else [])],
            "countries": list(g["region"]) or [gaps.say("a_description.recipients.countries", "", "governance.region")],
            "commercial": g["commercial"],
        },
    }  # fmt: skip


def _variable(name: str, v: Plain) -> dict[str, Any]:
    return {"name": name, "label": v.get("label") or "", "type": v["type"], "role": v["role"], "unit": v.get("unit")}


def _closed(facts: Facts, step: str) -> int:
    return sum(r["step"] == step and r["status"] == "closed" for r in facts.rounds)


def _necessity(facts: Facts, gaps: Gaps) -> dict[str, Any]:
    return {
        "variables_that_no_step_names": sayings.unused(facts),
        "rows_leave_a_site": False,
        "sites": {"approved": len(facts.approved), "least_in_a_sum": facts.terms["min_cohort"], "rows_at_least": facts.terms["min_rows"]},
        "ethics": gaps.say("b_necessity.ethics", facts.governance["ethics"], "governance.ethics"),
        "data_permit": gaps.say("b_necessity.data_permit", facts.governance["permit"], "governance.permit"),
        "may_run": gaps.say("b_necessity.may_run", sayings.period(facts), "governance.valid_from, governance.valid_until"),
        "why_fewer_data_would_not_do": gaps.say("b_necessity.why_fewer_data_would_not_do", ""),
        "rights_of_data_subjects": gaps.say("b_necessity.rights_of_data_subjects (articles 12 to 22)", ""),
    }


def _risks(facts: Facts, gaps: Gaps) -> list[dict[str, Any]]:
    """Each from something that this run says of itself."""
    found = [("privacy card: not protected", text) for text in facts.privacy["trust"]["not_protected"]]
    found.append(("privacy card: trust", f"The protection rests on this, and fails with it: {facts.privacy['trust']['sentence']}"))
    noted = [c for c in facts.privacy["checks"] if c["status"] != "PASS" and c["id"] != "not_protected"]
    found += [(f"privacy card: {c['id']} {c['status']}", f"{c['title']}: {c['value']}. {c['sentence']}") for c in noted]
    found += [("results", text) for text in sayings.limits(facts) if not text.startswith("Not protected:")]
    for name in ("likelihood", "severity"):
        gaps.say(f"c_risks[].{name}", "")
    return [{"source": source, "risk": text, "likelihood": "not stated", "severity": "not stated"} for source, text in found]


def _measures(facts: Facts, gaps: Gaps) -> dict[str, Any]:
    p = facts.terms["privacy"]
    return {
        "in_force": sayings.protection(facts),
        "aggregation": facts.terms["aggregation"],
        "noise": {"unit": p["unit"], "eps": p["eps"], "delta": p["delta"]} if p["unit"] != "none" else None,
        "approval": f"Each site decided on the study's SHA-256; {len(facts.approved)} approved. A changed study has another one.",
        "checks": [{"id": c["id"], "status": c["status"], "value": c["value"]} for c in facts.privacy["checks"]],
        "gate": sayings.gate(facts) or [gaps.say("d_measures.gate", "", "governance.gate")],
        "measures_outside_locum": gaps.say("d_measures.measures_outside_locum", ""),
    }


def render_text(facts: Facts, gaps: Gaps) -> bytes:
    """The same as Markdown. Its gaps are those of the JSON file, which lists them."""
    d = document(facts, Gaps(gaps.file))
    a, b, m = d["a_description"], d["b_necessity"], d["d_measures"]
    said = {
        "Question": a["question"], "Purpose": a["purpose"], "Use": a["use"], "Legal basis": a["legal_basis"], "Requester": a["requester"],
        "Whose data": a["data_subjects"], "How much": a["scale"], "The model goes to": ", ".join(a["recipients"]["model"]),
        "Countries": ", ".join(a["recipients"]["countries"]), "Sold": "yes" if a["recipients"]["commercial"] else "no",
    }  # fmt: skip
    need = {
        "Variables that no step names": ", ".join(b["variables_that_no_step_names"]) or "none",
        "Sites": f"{b['sites']['approved']} approved; no sum of fewer than {b['sites']['least_in_a_sum']}",
        "Ethics committee": b["ethics"], "Data permit": b["data_permit"], "May run": b["may_run"],
        "Why fewer data would not do": b["why_fewer_data_would_not_do"], "Rights of data subjects (articles 12 to 22)": b["rights_of_data_subjects"],
    }  # fmt: skip
    parts = [
        f"# Data protection: {markdown(facts.title)}",
        markdown(ABOUT),
        f"Study {markdown(facts.digest)}; run {markdown(facts.run['id'])}, ended {markdown(d['run']['ended'])}.",
        "## (a) The processing and its purposes",
        _points(said),
        "Variables:",
        table(("name", "label", "type", "role", "unit"), [[v["name"], v["label"], v["type"], v["role"], v["unit"] or ""] for v in a["variables"]]),
        "What left each site:",
        table(("step", "task", "rounds", "what left"), [[o["step"], o["task"], o["rounds"], o["leaves_a_site"]] for o in a["operations"]]),
        "## (b) Necessity and proportionality",
        _points(need),
        "## (c) Risks to data subjects",
        table(("risk", "where it is said", "likelihood", "severity"), [[r["risk"], r["source"], r["likelihood"], r["severity"]] for r in d["c_risks"]]),
        "## (d) Measures",
        "\n".join(f"- {markdown(s)}" for s in (*m["in_force"], m["approval"], *(f"Gate: {g}" for g in m["gate"]))),
        _points({
            "Measures outside Locum": m["measures_outside_locum"],
            "Views of data subjects (article 35(9))": d["views_of_data_subjects"],
            "Advice of the data protection officer (article 35(2))": d["advice_of_data_protection_officer"],
        }),
    ]  # fmt: skip
    return ("\n\n".join(parts) + "\n").encode()


def _points(said: dict[str, str]) -> str:
    return "\n".join(f"- {head}: {markdown(text)}" for head, text in said.items())
