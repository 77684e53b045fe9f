"""A study's title, question or requester may hold anything: the files stay what they are, and show it as text."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
import yaml as pyyaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from locum.governance.cards import Facts, cards
from locum.governance.cards.escape import line, markdown, table, yaml

HOSTILE = [
    "---\nlicense: mit\n---\n# New",
    "</ModelName><Injected/>",
    "]]><!ENTITY x SYSTEM 'file:///etc/passwd'>&x;",
    "[click](javascript:alert(1)) <script>alert(1)</script> ![i](http://evil/x.png)",
    "| a | b |\n|---|---|\n| c | d |",
    "1. one\n- two\n> three\n    code",
    "www.evil.example http://evil.example mailto:a@evil.example a@evil.example",
    '": {"$ref": "x"}, "a\\": !!python/object/apply:os.system',
    "\u202egnp.exe \x00\x1b[31m \ufeff \uffff \u2028",
    "*bold* _it_ `code` ~~gone~~ <b> &lt; \\",
    "= = =",
    "-",
    "12) x",
]
MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
ALLOWED = {
    "heading_open", "heading_close", "paragraph_open", "paragraph_close", "inline", "text", "code_inline", "softbreak", "bullet_list_open",
    "bullet_list_close", "list_item_open", "list_item_close", "table_open", "table_close", "thead_open", "thead_close", "tbody_open", "tbody_close",
    "tr_open", "tr_close", "th_open", "th_close", "td_open", "td_close", "text_special",
}  # fmt: skip
texts = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=60), st.text(alphabet="-=#|`*_<>[]()!&\\:.\n 1a", max_size=30))


def kinds(text: str) -> set[str]:
    tokens = MARKDOWN.parse(text)
    return {t.type for t in tokens} | {c.type for t in tokens for c in t.children or ()}


@given(texts)
def test_markdown_shows_the_text_and_nothing_else(text: str) -> None:
    wanted = line(text)
    shown = MARKDOWN.render(markdown(text))
    assert html.unescape(shown) == (f"<p>{wanted}</p>\n" if wanted else "")
    assert kinds(markdown(text)) <= {"paragraph_open", "inline", "text", "text_special", "paragraph_close"}


@given(texts)
def test_in_a_list_a_heading_and_a_table_it_stays_inside(text: str) -> None:
    assert kinds(f"# {markdown(text)}\n\n- {markdown(text)}\n\n{table(('a', 'b'), [[text, 'x']])}\n") <= ALLOWED
    cells = [t.content for t in MARKDOWN.parse(table(("a", "b"), [[text, "x"]])) if t.type == "inline"]
    assert len(cells) == 4
    assert cells[3] == "x"


@given(texts)
def test_yaml_reads_back_the_line(text: str) -> None:
    assert pyyaml.safe_load(f"a: {yaml(text)}\nb: {yaml([text, {text: 1}])}\n") == {"a": line(text), "b": [line(text), {line(text): 1}]}


@settings(max_examples=25, deadline=None)
@given(title=texts, question=texts, requester=texts)
def test_no_text_changes_the_shape_of_any_file(say: Callable[..., Facts], exact: Facts, title: str, question: str, requester: str) -> None:
    facts = say(title=title, question=question, requester=requester, **{"governance.envelope.protocol": title, "governance.basis": question})
    plain, made = cards(exact), cards(facts)
    for name in ("sbom.cdx.json", "datasets.croissant.json", "dpia.json", "ropa.json", "pccp.json", "hti1.json", "provenance.intoto.jsonl"):
        assert _shape(json.loads(made[name])) == _shape(json.loads(plain[name])), name
    tree = ElementTree.fromstring(made["model-card.chai.xml"].decode())
    assert [e.tag for e in tree.iter()] == [e.tag for e in ElementTree.fromstring(plain["model-card.chai.xml"].decode()).iter()]
    readme = made["README.md"].decode()
    _, front, body = readme.split("---\n", 2)
    assert set(pyyaml.safe_load(front)) == {"license", "library_name", "tags", "pipeline_tag", "model-index"}
    for text in (body, made["dpia.md"].decode()):
        assert kinds(text) <= ALLOWED


def _shape(value: object) -> object:
    if isinstance(value, dict):
        return {k: _shape(v) for k, v in value.items()}
    return [_shape(v) for v in value] if isinstance(value, list) else type(value).__name__


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_invisible_is_left(say: Callable[..., Facts], text: str) -> None:
    for body in cards(say(title=text)).values():
        shown = body.decode()
        assert not {"\u202e", "\x00", "\x1b", "\u2028"} & set(shown)
