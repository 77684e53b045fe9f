"""Does a policy let anything through? Made-up studies are put to it, and those parts are changed that its own rules speak of.

Pseudocode     start from a harmless study for each use, with exact sums and with noise, and from one for each permit that has what it asks for
               while a study is refused somewhere: of all changes of one attribute to a value that a rule names, take the one that helps most
Postcondition  None where one study passes all four actions. Else a sentence that names the rules that held against every study, or the
               action that nothing permits.

It is a search, not a proof: a policy under which it finds nothing may still let through a study that nobody thought of. Then it is refused
although it need not be, which stops work but lets nothing out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice, product
from typing import TYPE_CHECKING, Any

from locum.errors import agree
from locum.governance.policy.facts import ACTIONS, NO_CELL

if TYPE_CHECKING:
    from locum.governance.policy.rules import Held, Policy

Probe = dict[str, Any]
"""Attributes by name; 'principal' and 'resource' are the names of the two entities, and 'resource.use' stands for the data set's."""
Values = dict[str, list[Any]]

HARMLESS: Probe = {
    "principal": "a requester", "resource": "a data set", "key": "0" * 16, "resource.use": "", "diseases": [], "modifiers": [], "tags": [], "n": 100_000,
    "study": "probe", "use": "HMB", "disease": "", "methods": False, "commercial": False, "profit": False, "ethics": "a committee's decision",
    "permit": "a permit", "basis": "a basis", "region": [], "publishes": True, "collaborates": True, "returns": True, "tasks": ["moments"], "steps": 1,
    "rounds": 1, "cell": NO_CELL, "parameters": 1, "variables": ["x"], "aggregation": "masked", "exact": False, "unit": "patient", "eps": "0.1",
    "delta_ppb": 1, "min_cohort": 1000, "min_rows": 1000, "now": "2026-11-24T12:00:00Z", "hour": 12, "weekday": 2, "spent": "0.0", "remaining": "100.0",
    "code": "0" * 64, "code_changed": False, "policy_changed": False, "valid_from": "2026-01-01", "valid_until": "2027-12-31",
}  # fmt: skip
EXACT: Probe = {"exact": True, "unit": "none", "eps": "922337203685477.0", "delta_ppb": 10**9}
_DATA = {"use": "resource.use"}
_SETS = ("diseases", "modifiers", "tags", "region", "tasks", "variables")
_DECIMALS, _TIMES = ("eps", "spent", "remaining"), ("now", "valid_from", "valid_until")
_FLAGS = ("methods", "commercial", "profit", "publishes", "collaborates", "returns", "exact", "code_changed", "policy_changed")
_LOGIC = ("&&", "||", "!", "if-then-else")
MOST_OPTIONS, MOST_CHANGES, MOST_STARTS, MOST_STEPS = 3, 128, 20, 25


def find_contradiction(policy: Policy, policy_json: str) -> str | None:
    """policy_json: the same rules in Cedar's JSON, in which literals are found."""
    parts = json.loads(policy_json)["staticPolicies"]
    named = [_literals(parts[key]) for key in sorted(parts, key=lambda k: int(k.removeprefix("policy")))]
    every = _candidates(_joined(named))
    if not _try(policy, HARMLESS)[0]:
        return None
    best, held = None, None
    starts = sorted(((*_try(policy, start), start) for start in _starts(policy, named)), key=lambda s: s[0])
    for _, _, start in starts[:MOST_STARTS]:
        score, found = _climb(policy, start, every)
        if not score:
            return None
        if best is None or score < best:
            best, held = score, found
    return _sentence(policy, held or [])


def _sentence(policy: Policy, held: list[Held]) -> str:
    """Of the study that came furthest."""
    for action, result in zip(ACTIONS, held, strict=True):
        if result.forbids:
            rules = " and ".join(f"'{r.id}' (line {r.line})" for r in result.forbids)
            return f"none of the studies that were tried passes {action}: {rules} {agree(len(result.forbids), 'holds', 'hold')} whatever is asked."
        if not result.allowed:
            lines = ", ".join(f"'{r.id}' (line {r.line})" for r in policy.rules if r.effect == "permit")
            return f"nothing permits {action}: no study that was tried meets one of {lines}."
    return "the study that came furthest could not be evaluated."


def _starts(policy: Policy, named: list[Values]) -> Iterator[Probe]:
    bases = [{**HARMLESS, "use": use, **exact} for use, exact in product(("HMB", "", "GRU", "DS", "POA", "CC"), ({}, EXACT))]
    bases += [{**base, "resource.use": base["use"]} for base in bases if base["use"]]
    yield bases[0]
    for values in named:
        options = {name: found for name, found in _candidates(values).items() if found}
        changes = islice(product(*([(name, v) for v in found[:MOST_OPTIONS]] for name, found in options.items())), MOST_CHANGES)
        yield from ({**base, **dict(change)} for change in changes for base in bases[:2])
    yield from bases[1:]


def _climb(policy: Policy, probe: Probe, values: Values) -> tuple[int, list[Held]]:
    """The score and the answers of the best study within reach; a score of 0 is a study that passes everywhere."""
    score, held = _try(policy, probe)
    for _ in range(MOST_STEPS):
        better = [(*_try(policy, changed), changed) for name, options in values.items() for v in options if (changed := {**probe, name: v}) != probe]
        best = min(better, key=lambda b: b[0], default=None)
        if not score or best is None or best[0] >= score:
            break
        score, held, probe = best
    return score, held


def _try(policy: Policy, probe: Probe) -> tuple[int, list[Held]]:
    """How many forbids hold over all actions, twice, and where no permit does; nothing else refuses."""
    principal, resource = {"type": "Requester", "id": probe["principal"]}, {"type": "DataSet", "id": probe["resource"]}
    data = {"use": probe["resource.use"], **{name: probe[name] for name in ("diseases", "modifiers", "tags", "n")}}
    entities = [{"uid": principal, "attrs": {"key": probe["key"]}, "parents": []}, {"uid": resource, "attrs": data, "parents": []}]
    context = {k: v for k, v in probe.items() if k not in ("principal", "resource", "key", "resource.use", "diseases", "modifiers", "tags", "n")}
    held = policy.evaluate_all([(action, principal, resource, context) for action in ACTIONS], entities)
    return sum(2 * len(h.forbids) + (not h.allowed and not h.forbids) for h in held), held


# --- what the rules speak of --------------------------------------------------------------------------------------------


def _literals(rule: Any) -> Values:
    """attribute -> the values that a rule compares it with."""
    found: Values = {}
    for side in ("principal", "resource"):
        scope = rule.get(side, {})
        for entity in [scope.get("entity"), *scope.get("entities", [])]:
            if entity:
                found.setdefault(side, []).append(entity["id"])
    for condition in rule.get("conditions", []):
        _walk(condition.get("body"), found)
    return found


def _walk(node: Any, found: Values) -> None:
    if isinstance(node, list):
        for item in node:
            _walk(item, found)
    elif isinstance(node, dict):
        for operator, arguments in node.items():
            if operator not in _LOGIC:
                names, values = set[str](), list[Any]()
                _compared(arguments, names, values)
                for name in names:
                    found.setdefault(name, []).extend(v for v in values if v not in found.get(name, []))
            _walk(arguments, found)


def _compared(node: Any, names: set[str], values: list[Any]) -> None:
    """Attributes and literals below a comparison."""
    if isinstance(node, list):
        for item in node:
            _compared(item, names, values)
    elif isinstance(node, dict):
        if set(node) == {"."}:
            base, name = node["."]["left"], node["."]["attr"]
            names.add(_DATA.get(name, name) if base == {"Var": "resource"} else name)
        elif set(node) == {"Var"} and node["Var"] in ("principal", "resource"):
            names.add(node["Var"])
        elif set(node) == {"left", "pattern"}:  # like: what its stars stand for may be nothing
            _compared(node["left"], names, values)
            values.append("".join(part["Literal"] for part in node["pattern"] if isinstance(part, dict)))
        elif set(node) == {"Value"}:
            value = node["Value"]
            values.append(value["__entity"]["id"] if isinstance(value, dict) and "__entity" in value else value)
        else:
            for item in node.values():
                _compared(item, names, values)


def _joined(named: list[Values]) -> Values:
    out: Values = {}
    for values in named:
        for name, found in values.items():
            out.setdefault(name, []).extend(v for v in found if v not in out.get(name, []))
    return out


def _candidates(literals: Values) -> Values:
    """What each attribute may be changed to: of its own type, and to either side of a number that a rule names."""
    out: Values = {name: [True, False] for name in _FLAGS if name in literals}
    for name, values in literals.items():
        if name not in HARMLESS or name in _FLAGS:
            continue
        texts = [v for v in values if isinstance(v, str)]
        numbers = [v for v in values if isinstance(v, int) and not isinstance(v, bool)]
        if name in _SETS:
            out[name] = [[v] for v in texts[:1]] + [texts, [], *([v] for v in texts[1:])]
        elif name in _DECIMALS:
            out[name] = ["0.0001", *texts[:1], "100000.0", *texts[1:], "0.0"]
        elif name in _TIMES:
            out[name] = ["1971-01-01", *texts[:1], "2199-12-31", *texts[1:]]
        elif name in ("hour", "weekday"):
            first = [n + d for n in numbers[:1] for d in (1, 0, -1)]
            out[name] = [n for n in dict.fromkeys([*first, *range(24)]) if (0 <= n < 24 if name == "hour" else 1 <= n <= 7)]
        elif isinstance(HARMLESS[name], int):
            out[name] = [max(0, n + d) for n in numbers for d in (1, 0, -1)] + [0]
        else:
            out[name] = [*texts, "", HARMLESS[name]]
    return out
