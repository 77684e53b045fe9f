"""provenance.intoto.jsonl: one in-toto Statement v1 with a SLSA provenance v1 predicate (https://slsa.dev/spec/v1.0/provenance).

Subject: the model's file. Dependencies: the study, its data contract, the rosters, and the program. It is not signed: the signatures are in the
run's audit bundle. The program's digest is of the installation that wrote this file; the sites and the coordinator each have their own.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from locum.governance.cards.facts import Facts, Gaps, stamp
from locum.study.canonical import canonical, sha256

STATEMENT, PREDICATE = "https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"
BUILD, BUILDER = "urn:locum:federated-run:1", "urn:locum:federation"


def render(facts: Facts, gaps: Gaps) -> bytes:
    return canonical(statement(facts, gaps)) + b"\n"


def statement(facts: Facts, gaps: Gaps) -> dict[str, Any]:
    run = facts.run
    return {
        "_type": STATEMENT,
        "subject": [_resource("model.safetensors", facts.model)],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD,
                "externalParameters": {
                    "study": {"name": facts.study["name"], "sha256": facts.digest},
                    "requester": gaps.say("predicate.buildDefinition.externalParameters.requester", facts.study["requester"], "requester"),
                },
                "internalParameters": {
                    "protection": run["protection"],
                    "rounds": dict(Counter(r["status"] for r in facts.rounds)),
                    "sitesApproved": len(facts.approved),
                    "sitesInSum": list(facts.in_sums or ()),
                },
                "resolvedDependencies": _dependencies(facts, gaps),
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"locum": facts.version, "python": facts.python}},
                "metadata": {k: v for k, v in _metadata(facts).items() if v},
                "byproducts": [
                    _resource("results.json", sha256(canonical(dict(run["results"])))),
                    _resource("privacy.json", sha256(canonical(dict(facts.privacy)))),
                ],
            },
        },
    }


def _metadata(facts: Facts) -> dict[str, str | None]:
    return {"invocationId": facts.run["id"], "startedOn": stamp(facts.run["started"]), "finishedOn": stamp(facts.run["ended"])}


def _dependencies(facts: Facts, gaps: Gaps) -> list[dict[str, Any]]:
    out = [_resource("study", facts.digest), _resource("data contract", facts.contract)]
    out += [_resource("roster", digest) for digest in facts.rosters]
    if facts.code:
        out.append({**_resource("locum package of the installation that wrote this", facts.code), "annotations": {"format": "locum/code/1"}})
    else:
        gaps.say("predicate.buildDefinition.resolvedDependencies: code digest", "")
    return out


def _resource(name: str, digest: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": digest}}
