"""ropa.json: the points of article 30(1) of the GDPR, the record of processing activities, filled from the run. A site's own record holds more."""

from __future__ import annotations

from typing import Any

from locum.governance.cards import sayings
from locum.governance.cards.escape import pretty
from locum.governance.cards.facts import Facts, Gaps, stamp

SCHEMA = "locum/ropa/1"
ABOUT = "Points of article 30(1) of Regulation (EU) 2016/679, filled from the run. Who is a controller, the parties decide; this names who took part."


def render(facts: Facts, gaps: Gaps) -> bytes:
    return pretty(document(facts, gaps))


def document(facts: Facts, gaps: Gaps) -> dict[str, Any]:
    g = facts.governance
    return {
        "schema": SCHEMA,
        "about": ABOUT,
        "activity": {
            "study": facts.study["name"], "title": facts.title, "sha256": facts.digest, "run": facts.run["id"],
            "from": stamp(facts.run["started"]), "to": stamp(facts.run["ended"]),
        },
        "a_parties": {
            "requester": gaps.say("a_parties.requester", facts.study["requester"], "requester"),
            "sites": sorted(facts.approved),
            "contact": gaps.say("a_parties.contact", ""),
            "representative": gaps.say("a_parties.representative", ""),
            "data_protection_officer": gaps.say("a_parties.data_protection_officer", ""),
        },
        "b_purposes": {
            "purpose": gaps.say("b_purposes.purpose", facts.study["purpose"], "purpose"),
            "use": gaps.say("b_purposes.use", sayings.USES.get(g["use"] or "", ""), "governance.use"),
            "disease": g["disease"] or None,
        },
        "c_categories": {
            "data_subjects": sayings.population(facts),
            "personal_data": [{"name": n, "label": v.get("label") or "", "role": v["role"]} for n, v in facts.variables.items()],
            "special_categories": "data concerning health (article 9), unless somebody shows that these variables are none",
        },
        "d_recipients": {
            "coordinator": str(facts.run["protection"]),
            "model_and_results": ["the requester", *(["the public"] if g["publishes"] else [])],
        },
        "e_transfers": {
            "countries": list(g["region"]) or [gaps.say("e_transfers.countries", "", "governance.region")],
            "safeguards": gaps.say("e_transfers.safeguards", ""),
        },
        "f_erasure": {
            "rows": "They stay at the sites, under each site's own time limits.",
            "model_and_results": gaps.say("f_erasure.model_and_results", ""),
            "study_may_run": gaps.say("f_erasure.study_may_run", sayings.period(facts), "governance.valid_from, governance.valid_until"),
        },
        "g_measures": sayings.protection(facts),
    }  # fmt: skip
