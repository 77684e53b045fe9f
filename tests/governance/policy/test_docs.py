"""docs/governance.md: its rules load, and its tables are those of the code."""

import re
import tomllib
from pathlib import Path

from locum.governance.policy import Permissions, Policy, preset
from locum.governance.policy.duo import ADMITS, MODIFIERS

PAGE = (Path(__file__).parents[3] / "docs" / "governance.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_rules_of_the_page_load() -> None:
    for block in blocks("cedar"):
        assert Policy.load(preset("default") + block).rules


def test_the_examples_in_the_default_policy_load() -> None:
    commented = preset("default").split("Examples, to be taken out of their comments:")[1]
    text = "\n".join(line.removeprefix("//").strip() for line in commented.splitlines())
    assert len(Policy.load(preset("default") + text).rules) == 6


def test_the_terms_of_the_page_are_read() -> None:
    for block in blocks("toml"):
        assert Permissions.parse(tomllib.loads(block)["data"]["stroke"]).codes == ("IRB", "NPU", "GS")


def test_every_term_is_on_the_page() -> None:
    for code in (*ADMITS, *MODIFIERS):
        assert re.search(rf"^\|[^|]*\b{code}\b", PAGE, re.MULTILINE), code
