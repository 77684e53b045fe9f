"""A policy in force: Cedar rules that were parsed, validated against the schema, and found to let something through.

Cedar (docs.cedarpolicy.com) denies by default, and a forbid overrules every permit. Cedar leaves a rule out whose evaluation fails; here that is a
refusal instead, for a forbid that cannot be evaluated must not let anything pass.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import cedarpy

from locum.governance.policy import probes
from locum.governance.policy.source import PolicyError, Rule, Statement, statements

EFFECTS = ("permit", "forbid")
MAX_RULES = 500


def schema_text() -> str:
    """What a rule may speak of, in Cedar: it ships beside this file."""
    return (files(__package__) / "schema.cedar").read_text(encoding="utf-8")


@cache
def schema() -> cedarpy.Schema:
    return cedarpy.Schema.from_str(schema_text())


@dataclass(frozen=True)
class Held:
    """Which rules held for one request. forbids: all that did. permits: likewise. failed: what could not be evaluated."""

    allowed: bool
    permits: tuple[Rule, ...]
    forbids: tuple[Rule, ...]
    failed: tuple[str, ...]


class Policy:
    """Immutable, and safe to use from several threads. text, digest: SHA-256 over it. rules: in the order of the text."""

    def __init__(self, text: str, rules: tuple[Rule, ...]) -> None:
        self.text, self.rules = text, rules
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        self._all = cedarpy.PolicySet.from_str(text)
        if len(self._all.to_pst().static_policies) != len(rules):  # the ids below would be those of other rules
            raise PolicyError("Cedar reads other rules in the policy than are shown.", fix="write one rule after another, each ended by ';'")
        self._by_id = {f"policy{i}": rule for i, rule in enumerate(rules)}  # Cedar names them so, in the order of the text

    @classmethod
    def load(cls, text: str, where: str = "policy.cedar") -> Policy:
        """Raises `PolicyError` with the line, for what does not parse, does not fit the schema, or lets nothing through."""
        found = statements(text, where)
        if len(found) > MAX_RULES:
            raise PolicyError(f"{where} has more than {MAX_RULES} rules.", fix="join rules with ||")
        rules = tuple(_rule(s, where) for s in found)
        _named(rules, where)
        for rule, statement in zip(rules, found, strict=True):
            _validate(rule, statement, where)
        if not any(rule.effect == "permit" for rule in rules):
            raise PolicyError(f"{where} has no permit, so it permits nothing at all.", fix="add one, or start from a preset: locum site policy preset default")
        policy = cls(text, rules)
        problem = probes.find_contradiction(policy, cedarpy.policies_to_json_str(text))
        if problem:
            raise PolicyError(f"{where} contradicts itself: {problem}", why="No study could pass review, approval, a round and the door under it.",
                              fix="correct that rule; to stop everything, stop 'locum site serve', or deny the studies")  # fmt: skip
        return policy

    def evaluate(self, action: str, entities: list[dict[str, Any]], context: dict[str, Any]) -> Held:
        """One request, as `facts.Question` gives it."""
        return self.evaluate_all([(action, entities[0]["uid"], entities[1]["uid"], context)], entities)[0]

    def evaluate_all(self, requests: list[tuple[str, dict[str, str], dict[str, str], dict[str, Any]]], entities: list[dict[str, Any]]) -> list[Held]:
        """Several requests about the same requester and data set."""
        asked = [{"principal": p, "action": {"type": "Action", "id": a}, "resource": r, "context": c} for a, p, r, c in requests]
        return [self._held(result) for result in cedarpy.is_authorized_batch(asked, self._all, entities, schema())]

    def only_permits(self) -> Policy:
        """The same without its forbids: to ask what they overrule."""
        kept = [(rule, s.text) for rule, s in zip(self.rules, statements(self.text, ""), strict=True) if rule.effect == "permit"]
        return Policy("\n".join(text for _, text in kept), tuple(rule for rule, _ in kept))

    def _held(self, result: cedarpy.AuthzResult) -> Held:
        held = [self._by_id[i] for i in sorted(result.diagnostics.reasons, key=lambda i: int(i.removeprefix("policy")))]
        permits, forbids = (tuple(rule for rule in held if rule.effect == effect) for effect in EFFECTS)
        failed = tuple(result.diagnostics.errors)
        return Held(result.allowed and not failed, permits, forbids, failed)


def _rule(s: Statement, where: str) -> Rule:
    try:
        (node,) = cedarpy.PolicySet.from_str(s.text).to_pst().static_policies.values()
    except ValueError as error:
        if "?principal" in s.text or "?resource" in s.text:
            raise PolicyError(f"{where}, line {s.line}: this is a template.", why="A template decides nothing.", fix="write the rule out") from None
        problem = f"{where}: the rule that begins in line {s.line} does not parse: {_short(str(error))}."
        raise PolicyError(problem, fix="correct it, then: locum site policy check") from None
    a = node.annotations
    return Rule(str(a.get("id") or ""), node.effect, str(a.get("reason") or ""), s.line)


def _named(rules: tuple[Rule, ...], where: str) -> None:
    seen: dict[str, Rule] = {}
    for rule in rules:
        if not rule.id:
            raise PolicyError(f"{where}, line {rule.line}: the rule has no name.", why="A refusal names its rule.", fix='begin it with @id("...")')
        if rule.effect == "forbid" and not rule.reason.strip():
            raise PolicyError(f"{where}, line {rule.line}: '{rule.id}' gives no reason.", why="A refusal says why.", fix='add @reason("...") before forbid')
        if rule.id in seen:
            raise PolicyError(f"{where}, line {rule.line}: '{rule.id}' is the name of the rule in line {seen[rule.id].line} too.", fix="give each its own")
        seen[rule.id] = rule


def _validate(rule: Rule, s: Statement, where: str) -> None:
    result = cedarpy.validate_policies(s.text, schema())
    if not result.validation_passed:
        problem = "; ".join(dict.fromkeys(_short(e.error.partition("policy `policy0`, ")[2] or e.error) for e in result.errors[:3]))
        what = f"{where}, line {rule.line}: '{rule.id}' does not fit the schema: {problem}."
        raise PolicyError(what, fix="see what a rule may speak of: locum site policy show --schema")


def _short(text: str) -> str:
    return text if len(text) <= 300 else text[:300] + "..."
