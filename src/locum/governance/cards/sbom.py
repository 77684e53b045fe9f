"""sbom.cdx.json: a CycloneDX 1.6 bill of materials (ECMA-424) of the model as a machine-learning-model component, and of the Python packages.

The packages are those of the installation that wrote the file; sites and coordinator may run others. Licences are as packages state them.
"""

from __future__ import annotations

import re
import uuid
from typing import Any

from locum.governance.cards import sayings
from locum.governance.cards.escape import line, pretty
from locum.governance.cards.facts import Facts, Gaps, Package, stamp
from locum.governance.cards.figures import EVERYBODY, Figure, figures, number

SUPERVISED = {"logistic", "linear", "poisson", "cox", "elastic_net", "boosted_trees", "sgd", "network", "multinomial", "ordinal"}


def render(facts: Facts, gaps: Gaps) -> bytes:
    model, run = f"model:{facts.model}", facts.run["id"]
    packages = sorted(facts.packages, key=lambda p: p.name)
    refs = {p.name: ref(p) for p in packages}
    listed = [_package(p) for p in packages]
    return pretty({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'urn:locum:sbom:{run}:{facts.model}')}",
        "version": 1,
        "metadata": {
            **({"timestamp": ended} if (ended := stamp(facts.run["ended"])) else {}),
            "component": _model(facts, gaps, model),
            "properties": [{"name": "locum:packages-of", "value": "the installation that wrote this file"}, {"name": "locum:python", "value": facts.python}],
        },
        "components": listed,
        "dependencies": [
            {"ref": model, "dependsOn": [refs["locum"]] if "locum" in refs else []},
            *({"ref": refs[p.name], "dependsOn": sorted({refs[n] for n in p.needs if n in refs} - {refs[p.name]})} for p in packages),
        ],
    })  # fmt: skip


def ref(package: Package) -> str:
    """The package URL: pkg:pypi/name@version."""
    return f"pkg:pypi/{re.sub(r'[-_.]+', '-', package.name).lower()}@{re.sub(r'[^A-Za-z0-9.!_-]', lambda m: f'%{ord(m[0]):02X}', package.version)}"


def _package(p: Package) -> dict[str, Any]:
    licence = {"licenses": [{"license": {"name": line(p.licence)}}]} if p.licence else {}
    return {"type": "library", "bom-ref": ref(p), "name": p.name, "version": p.version, "purl": ref(p), **licence}


def _model(facts: Facts, gaps: Gaps, ref_: str) -> dict[str, Any]:
    tasks = {task for _, task in facts.fitted}
    approach = {"approach": {"type": "supervised"}} if tasks & SUPERVISED else {}
    return {
        "type": "machine-learning-model",
        "bom-ref": ref_,
        "name": facts.study["name"],
        "version": facts.model[:12],
        "description": line(facts.title),
        "hashes": [{"alg": "SHA-256", "content": facts.model}],
        "modelCard": {
            "modelParameters": {
                **approach,
                "task": line(", ".join(sorted(tasks)) or "not known"),
                "inputs": [{"format": line(f"{n}: {v['type']}" + (f" [{v['unit']}]" if v.get("unit") else ""))} for n, v in sayings.inputs(facts).items()],
                "outputs": [{"format": line(f"{n}: {v['type']}")} for n, v in sayings.outcomes(facts).items()],
                "datasets": [{
                    "type": "dataset",
                    "name": "rows at the sites, which are not distributed",
                    "classification": "health data",
                    "governance": {"custodians": [{"organization": {"name": f"{len(facts.approved)} sites that approved the study"}}]},
                }],
            },
            "quantitativeAnalysis": {"performanceMetrics": [_metric(f) for f in figures(facts)]},
            "considerations": {
                "users": [gaps.say("modelCard.considerations.users", "")],
                "useCases": [line(sayings.use(facts, gaps, "modelCard.considerations.useCases"))],
                "technicalLimitations": [line(s) for s in sayings.limits(facts)],
                "ethicalConsiderations": [{"name": line(s)} for s in sayings.protection(facts)],
            },
        },
        "properties": [{"name": "locum:study-sha256", "value": facts.digest}, {"name": "locum:run", "value": facts.run["id"]}],
    }  # fmt: skip


def _metric(f: Figure) -> dict[str, Any]:
    interval = {} if f.low is None or f.high is None else {"confidenceInterval": {"lowerBound": number(f.low), "upperBound": number(f.high)}}
    group = f"step {f.step}" if f.group == EVERYBODY else f"step {f.step}, {f.group}"
    return {"type": f.name, "value": number(f.value), "slice": line(group), **interval}
