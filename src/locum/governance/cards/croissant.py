"""datasets.croissant.json: the data contract as a Croissant 1.0 data set with the fields of Croissant RAI 1.0. It holds no data, and names no file.

https://docs.mlcommons.org/croissant/docs/croissant-spec.html, and croissant-rai-spec.html there.
"""

from __future__ import annotations

from typing import Any

from locum.governance.cards import sayings
from locum.governance.cards.escape import line, pretty
from locum.governance.cards.facts import NOT_STATED, Facts, Gaps, Plain

CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
TYPES = {"number": "sc:Float", "integer": "sc:Integer", "boolean": "sc:Boolean", "date": "sc:Date", "array": "sc:Float"}
"""A contract's type -> schema.org's; everything else is text."""
ROWS = "rows-at-the-sites"


def render(facts: Facts, gaps: Gaps) -> bytes:
    origin = facts.study["data"].get("origin") or {}
    return pretty({
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": line(origin.get("title") or origin.get("name") or facts.study["name"]),
        "description": line(f"What the study '{facts.title}' asks of every site's rows. The rows stay at the sites; no file of data exists to fetch. "
                            f"{sayings.data(facts)}"),
        "license": line(gaps.say("license of the contract or the data", origin.get("licence"), "the contract file's licence")),
        "url": f"urn:sha256:{facts.contract}",
        "version": "1.0.0",
        "datePublished": sayings.ended(facts) or "1970-01-01",
        "creator": {"@type": "sc:Organization", "name": line(gaps.say("creator", facts.study["requester"], "requester"))},
        "rai:dataCollection": gaps.say("rai:dataCollection", ""),
        "rai:dataCollectionMissingData": line(_missing(facts)),
        "rai:dataPreprocessingProtocol": [line(f"Step '{s['name']}' (task {s['task']})") for s in facts.study["plan"] if s["task"] in PREPARES] or [NOT_STATED],
        "rai:dataUseCases": [line(sayings.use(facts, gaps, "rai:dataUseCases"))],
        "rai:dataBiases": [gaps.say("rai:dataBiases", "")],
        "rai:dataLimitations": [line(s) for s in sayings.limits(facts)],
        "rai:dataSocialImpact": gaps.say("rai:dataSocialImpact", ""),
        "rai:personalSensitiveInformation": _personal(facts),
        "rai:dataReleaseMaintenancePlan": "The rows are not released. Each site keeps, corrects and deletes its own.",
        "distribution": [{
            "@type": "cr:FileSet",
            "@id": ROWS,
            "name": ROWS,
            "description": "Every site's own table, mapped to the contract by that site. It stays there; no file of it is distributed.",
            "encodingFormat": "application/octet-stream",
            "includes": "*",
        }],
        "recordSet": [{
            "@type": "cr:RecordSet",
            "@id": "rows",
            "name": "rows",
            "description": "One site's rows in the contract's names, units and codings.",
            "field": [_field(name, v) for name, v in facts.variables.items()],
        }],
    })  # fmt: skip


PREPARES = ("standardise", "impute", "combat", "quantiles", "data_check")


def _field(name: str, v: Plain) -> dict[str, Any]:
    said = [v.get("label") or "", f"role: {v['role']}", f"unit (UCUM): {v['unit']}" if v.get("unit") else "", _ends(v)]
    if v.get("categories"):
        said.append("categories: " + ", ".join(v["categories"][:100]))
    if v.get("code"):
        said.append(f"code: {v['code']}")
    shape = f"shape: {' x '.join(map(str, v['shape']))}" if v.get("shape") else ""
    return {
        "@type": "cr:Field",
        "@id": f"rows/{name}",
        "name": name,
        "description": line("; ".join(s for s in (*said, shape) if s)),
        "dataType": TYPES.get(v["type"], "sc:Text"),
        "source": {"fileSet": {"@id": ROWS}, "extract": {"column": name}},
        **({"repeated": True} if v["type"] == "array" else {}),
    }


def _ends(v: Plain) -> str:
    low, high = (sayings.limit(v, v.get(k)) for k in ("minimum", "maximum"))
    return "" if low is None and high is None else f"allowed: {low if low is not None else 'any'} to {high if high is not None else 'any'}"


def _missing(facts: Facts) -> str:
    for _, _, result in facts.steps("data_check"):
        parts = [f"{n}: {'withheld' if c.get('missing') is None else c['missing']}" for n, c in (result.get("variables") or {}).items() if isinstance(c, dict)]
        return f"Missing values of {result.get('rows', 'an unknown number of')} rows, by variable: " + "; ".join(parts) + "."
    return NOT_STATED


def _personal(facts: Facts) -> list[str]:
    seen = sayings.demographic(facts)
    out = ["Health data of patients (special category, GDPR article 9), which stay at the sites and are not part of this file."]
    return out + ([line("Variables that by their names describe who somebody is: " + ", ".join(seen) + ".")] if seen else [])
