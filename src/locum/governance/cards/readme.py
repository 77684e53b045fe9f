"""README.md: a model card (Mitchell et al., 2019, doi:10.1145/3287560.3287596) with the metadata that model hubs read (a YAML front matter)."""

from __future__ import annotations

from typing import Any

from locum.governance.cards import sayings
from locum.governance.cards.escape import code, markdown, table, yaml
from locum.governance.cards.facts import NOT_STATED, Facts, Gaps, stamp
from locum.governance.cards.figures import Figure, calibration, figures, gaps, number, withheld

PIPELINES = {"logistic": "tabular-classification", "multinomial": "tabular-classification", "linear": "tabular-regression"}
ABOUT = f"Made of what one run recorded; nobody wrote it. It states of no law that it is kept. Where nobody stated something, it says '{NOT_STATED}'."
HEADS = ("figure", "of", "value", "95 % interval", "n", "note")


def render(facts: Facts, found: Gaps) -> bytes:
    front = "\n".join(f"{key}: {yaml(value)}" for key, value in _metadata(facts, found).items())
    return (f"---\n{front}\n---\n\n" + "\n\n".join(_body(facts, found)) + "\n").encode()


def _metadata(facts: Facts, found: Gaps) -> dict[str, Any]:
    """Keys of the Hugging Face model card's metadata; `license: unknown` is its word for none that was stated."""
    found.say("license of the model", "")
    tasks = [task for _, task in facts.fitted]
    pipeline = next((PIPELINES[t] for t in tasks if t in PIPELINES), None)
    metrics = [{"type": f.name, "value": f.value, "name": _name(f)} for f in figures(facts) if f.kind == "all"]
    task = {"type": pipeline or "other", "name": ", ".join(tasks) or "statistics"}
    result = {"task": task, "dataset": {"type": f"sha256-{facts.contract}", "name": f"{facts.study['name']}: rows at the sites"}, "metrics": metrics}
    return {
        "license": "unknown",
        "library_name": "locum",
        **({"pipeline_tag": pipeline} if pipeline else {}),
        "tags": ["federated-learning", "health", *sorted(set(tasks))],
        **({"model-index": [{"name": facts.study["name"], "results": [result]}]} if metrics else {}),
    }


def _name(f: Figure) -> str:
    return f"{f.name} of {f.group}, step {f.step}"


def _body(facts: Facts, found: Gaps) -> list[str]:
    every = figures(facts)
    lines = calibration(every)
    judged = sayings.gate(facts)
    return [
        f"# {markdown(facts.title)}",
        ABOUT,
        "## Intended use",
        markdown(sayings.use(facts, found)),
        f"Whom the study asked about: {markdown(sayings.population(facts))}",
        f"Intended users: {found.say('intended users', '')}. Out of scope: {found.say('out-of-scope use', '')}.",
        "## Model",
        "\n".join([
            f"- Model: {markdown(sayings.model(facts))}; SHA-256 {code(facts.model)}, {facts.model_bytes:,} bytes of safetensors",
            f"- Input: {markdown(sayings.described(sayings.inputs(facts)))}",
            f"- Output: {markdown(sayings.described(sayings.outcomes(facts)))}",
            f"- Requested by: {markdown(found.say('requester', facts.study['requester'], 'requester'))}; contact: {found.say('contact', '')}",
            f"- Study {code(facts.study['name'])}, SHA-256 {code(facts.digest)}",
            f"- Run {code(facts.run['id'])}, {stamp(facts.run['started']) or NOT_STATED} to {stamp(facts.run['ended']) or NOT_STATED}",
        ]),
        "## Data",
        markdown(sayings.data(facts)),
        "## How well it predicts",
        _table([f for f in every if f.kind == "all" and f not in lines], found, "performance", "a step of task evaluate_binary, _survival or _categories"),
        "### Calibration",
        _table([f for f in lines if f.kind == "all"], found, "calibration", "a step of task evaluate_binary or subgroups"),
        "### By subgroup and by site",
        _table([f for f in every if f.kind in ("group", "held out")], found, "figures by subgroup", "a step of task subgroups"),
        *(["Largest differences between two subgroups of a variable:", _rows(gaps(facts))] if gaps(facts) else []),
        *["\n".join(f"- Withheld: {markdown(w)}" for w in withheld(facts))][: bool(withheld(facts))],
        "### Beside what each site could do alone",
        _table([f for f in every if f.kind == "alone"], found, "comparison with the sites alone", "a step of task local_baseline or local_categories"),
        "### What counts as good",
        "\n".join(f"- {markdown(g)}" for g in judged) or f"{found.say('gate', '', 'governance.gate').capitalize()}: no bound that a model must reach.",
        "## What protected the patients",
        "\n".join(f"- {markdown(s)}" for s in sayings.protection(facts)),
        "## What this does not show",
        "\n".join(f"- {markdown(s)}" for s in sayings.limits(facts)),
        "## On whose word",
        "\n".join([
            f"- {len(facts.approved)} sites approved exactly this study, by the coordinator's record",
            f"- Legal basis: {markdown(found.say('legal basis', facts.governance['basis'], 'governance.basis'))}",
            f"- Data permit: {markdown(found.say('data permit', facts.governance['permit'], 'governance.permit'))}",
            f"- Ethics committee: {markdown(found.say('ethics decision', facts.governance['ethics'], 'governance.ethics'))}",
            f"- May run: {found.say('period', sayings.period(facts), 'governance.valid_from, governance.valid_until')}",
        ]),
    ]  # fmt: skip


def _table(rows: list[Figure], found: Gaps, name: str, key: str) -> str:
    return _rows(rows) if rows else f"{found.say(name, '', key).capitalize()}: no step of this run measured it."


def _rows(rows: list[Figure]) -> str:
    cells = [
        (f"{f.name} ({f.step})", f.group, number(f.value), f"{number(f.low)} to {number(f.high)}" if f.low is not None else "", f.n or "", f.note) for f in rows
    ]
    return table(HEADS, cells)
