"""Cedar rules: what loads, what is refused when it is loaded and why, and how they decide."""

import json
import threading
from typing import Any

import cedarpy
import pytest

from locum.governance.policy import ACTIONS, PRESETS, Policy, PolicyError, preset
from locum.governance.policy.probes import HARMLESS
from locum.governance.policy.rules import schema
from locum.governance.policy.source import MAX_BYTES, statements

DEFAULT = preset("default")
PERMIT = '@id("any")\npermit (principal, action, resource);\n'


def forbid(condition: str, scope: str = "principal, action, resource") -> str:
    return f'{DEFAULT}\n@id("extra")\n@reason("A reason.")\nforbid ({scope})\nwhen {{ {condition} }};\n'


LINE = DEFAULT.count("\n") + 2


@pytest.mark.parametrize("name", PRESETS)
def test_presets_load_and_are_in_cedars_own_format(name: str) -> None:
    policy = Policy.load(preset(name))
    assert all(r.reason for r in policy.rules if r.effect == "forbid")
    assert cedarpy.format_policies(policy.text, line_width=160)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (forbid('context.use = "x"'), f"line {LINE} does not parse"),
        (forbid('context.use == "x'), f"line {LINE + 3}: a string has no end"),
        (forbid("true").rstrip().rstrip(";"), f"line {LINE}: this rule has no end"),
        (forbid("context.min_cohorts < 3"), f"line {LINE}: 'extra' does not fit the schema: attribute `min_cohorts`"),
        (forbid("context.min_cohort < true"), "does not fit the schema"),
        (forbid('context.valid_until < datetime("2030-01-01")'), "optional attribute `valid_until`"),
        (forbid("true", 'principal, action == Action::"peek", resource'), "does not fit the schema"),
        (forbid("true", 'principal == Site::"a", action, resource'), "does not fit the schema"),
        (forbid('context.eps.lessThan(decimal("1.23456"))'), "does not fit the schema"),
        ("", "permits nothing at all"),
        ("// nothing\n", "permits nothing at all"),
        ('@id("a") @reason("b") forbid (principal, action, resource) when { context.exact };', "permits nothing at all"),
        (forbid("true"), f"'extra' .line {LINE}. holds whatever is asked"),
        (forbid("true", 'principal, action == Action::"release", resource'), "none of the studies that were tried passes release"),
        (forbid("context.hour < 12 || context.hour >= 12"), "contradicts itself"),
        ('@id("a")\npermit (principal, action, resource) when { context.use == "HMB" && context.use == "DS" };', "nothing permits review"),
        ('@id("a")\npermit (principal, action == Action::"round", resource);', "nothing permits review"),
        ("permit (principal, action, resource);", "line 1: the rule has no name"),
        (PERMIT + '@id("b") forbid (principal, action, resource) when { context.exact };', "line 3: 'b' gives no reason"),
        (PERMIT + '@id("b") @reason(" ") forbid (principal, action, resource) when { context.exact };', "gives no reason"),
        (PERMIT + PERMIT, "line 3: 'any' is the name of the rule in line 1 too"),
        ('@id("a") permit (principal == ?principal, action, resource);', "template"),
        ('@id("a") permit (principal, action, resource) when { ' + "(" * 100_000 + "true" + ")" * 100_000 + "};", "brackets within brackets"),
        ('@id("a") permit (principal, action, resource) when { 0 < 1' + " + 1" * 10_000 + "};", "operators"),
        ('@id("a") permit (principal, action, resource) when { 0 < ' + "- " * 10_000 + "1};", "operators"),
        ('@id("a") permit (principal, action, resource) when { ' + "if true then " * 5_000 + "true" + " else true" * 5_000 + "};", "operators"),
        ("x" * (MAX_BYTES + 1), "larger than"),
        (PERMIT * 501, "more than 500 rules"),
        ('"', "a string has no end"),
        ("\x00;", "a character that is not seen"),
    ],
)
def test_rules_that_are_refused(text: str, says: str) -> None:
    with pytest.raises(PolicyError, match=says) as error:
        Policy.load(text)
    assert error.value.fix


def test_a_deep_rule_is_refused_in_a_small_thread_too() -> None:
    """The parser's recursion may not reach the end of a thread's stack, which would end the process."""
    said: list[str] = []

    def load(body: str) -> None:
        try:
            Policy.load('@id("a") permit (principal, action, resource) when { ' + body + " };")
        except PolicyError as error:
            said.append(error.what)

    bodies = ["(" * 24 + "true" + ")" * 24, "0 < 1" + " + 1" * 190, "true" + " || true" * 190, "context" + ".a" * 190, "[" * 24 + "1" + "]" * 24 + ".isEmpty()"]
    before = threading.stack_size(2 << 20)
    try:
        threads = [threading.Thread(target=load, args=(body,)) for body in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        threading.stack_size(before)
    assert len(said) >= 3


@pytest.mark.parametrize(
    "text",
    [
        ('@id("a") permit (principal == Requester::"ida", action, resource == DataSet::"main")'
        ' when { context.permit == "FDP-1" && context.ethics like "*Bern*" && context.min_cohort >= 50 };'),
        ('@id("a") permit (principal, action, resource) when { resource.tags.contains("research") };'
        '@id("b") @reason("Nights.") forbid (principal, action, resource) unless { context.hour >= 2 && context.hour <= 4 && context.weekday > 5 };'),
        '@id("a") permit (principal, action, resource) when { principal.key == "abc" && context.now > datetime("2030-01-01") };',
        PERMIT + '@id("b") @reason("Few.") forbid (principal, action, resource) unless {'
        ' context.permit == "X" && context.eps.greaterThan(decimal("7.0")) && ["gwas"].containsAll(context.tasks) };',
        ('@id("a") permit (principal, action, resource) when {'
        ' resource.n > 200000 && context has valid_until && context.valid_until < datetime("2026-12-01") && resource.use == "NRES" };'),
        PERMIT + '@id("b") @reason("New.") forbid (principal, action in [Action::"round", Action::"release"], resource) when { context.code_changed };',
        '@id("a") permit (principal is Requester, action, resource is DataSet) when { if context.exact then context.min_rows > 5000 else true };',
    ],
)  # fmt: skip
def test_narrow_rules_are_no_contradiction(text: str) -> None:
    assert Policy.load(text).rules


def test_the_probes_are_what_the_schema_says() -> None:
    """Each attribute of the schema is tried, and nothing else."""
    held = Policy.load(PERMIT)
    data = {"use": "", **{k: HARMLESS[k] for k in ("diseases", "modifiers", "tags", "n")}}
    ids = {"principal": {"type": "Requester", "id": "r"}, "resource": {"type": "DataSet", "id": "d"}}
    entities = [{"uid": ids["principal"], "attrs": {"key": ""}, "parents": []}, {"uid": ids["resource"], "attrs": data, "parents": []}]
    context = {k: v for k, v in HARMLESS.items() if k not in ("principal", "resource", "key", "resource.use", "diseases", "modifiers", "tags", "n")}
    cedarpy.Entities.from_json_str(json.dumps(entities), schema())
    for action in ACTIONS:
        assert held.evaluate(action, entities, context).allowed
    for name in context:
        if name not in ("valid_from", "valid_until"):
            result = held.evaluate("round", entities, {k: v for k, v in context.items() if k != name})
            assert not result.allowed
            assert name in result.failed[0]


def test_a_rule_that_cannot_be_evaluated_refuses(question: Any) -> None:
    """Cedar leaves such a rule out: a forbid would then let everything pass."""
    policy = Policy.load(PERMIT + '@id("b") @reason("Large.") forbid (principal, action, resource) when { resource.n * 9223372036854775 > 9223372036854775 };')
    q = question(patients=5000)
    held = policy.evaluate("round", q.entities(), q.context(policy.digest, "round"))
    assert not held.allowed
    assert "overflow" in held.failed[0]


def test_lines_and_statements() -> None:
    text = '// a; "b\n\n@id("x;y") permit (principal, action, resource); // c;\n\n// d\nforbid\n(principal, action, resource);\n// end'
    assert [(s.line, s.text.split()[0]) for s in statements(text, "f")] == [(3, '@id("x;y")'), (6, "forbid")]


def test_the_digest_is_of_the_text() -> None:
    one, two = Policy.load(DEFAULT), Policy.load(DEFAULT + "// more\n")
    assert one.digest != two.digest
    assert Policy.load(DEFAULT).digest == one.digest


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(PolicyError, match="did you mean 'cms'"):
        preset("cmss")


@pytest.mark.parametrize("hidden", ["\r", "\u200b", "\u202e", "\x0b"])
def test_a_rule_cannot_hide_behind_what_only_one_reader_takes_for_a_line_end(hidden: str) -> None:
    """A lone CR ends a comment for Cedar; it must not be able to hold a rule that people do not see."""
    text = '@id("all") permit (principal, action, resource);\n// a comment' + hidden + '@id("more") permit (principal, action, resource);\n'
    with pytest.raises(PolicyError):
        Policy.load(text)
