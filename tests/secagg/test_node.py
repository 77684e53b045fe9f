"""The same transcript, recomputed by another program in another language: node/mask_core.mjs, with Node's own crypto."""

import copy
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SCRIPT, FILE = HERE / "node" / "mask_core.mjs", HERE / "vectors" / "transcript-v1.json"
FROZEN = json.loads(FILE.read_text())


def node(file: Path) -> tuple[int, list[str]]:
    program = shutil.which("node")
    if not program:
        reason = "there is no `node` on PATH, so the mask core is not checked by its second implementation"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    done = subprocess.run([program, str(SCRIPT), str(file)], capture_output=True, text=True, timeout=60)
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout.splitlines()


def test_node_finds_the_transcript_right_and_says_so_case_by_case() -> None:
    code, lines = node(FILE)
    assert code == 0
    assert all(line.startswith("ok ") for line in lines)
    assert [line.split(maxsplit=1)[1] for line in lines][1 : 1 + len(FROZEN["cases"])] == [case["name"] for case in FROZEN["cases"]]


def leaves(value: Any, path: tuple = ()) -> Iterator[tuple]:
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    else:
        yield path


def kind(path: tuple) -> tuple:
    """A path without site numbers: what sort of value it leads to."""
    return tuple(key for key in path if not str(key).isdigit())


CHECKED = {"cases": FROZEN["cases"], "graphs": FROZEN["graphs"], "signs": FROZEN["signs"]}
KINDS = {kind(path): path for path in leaves(CHECKED) if kind(path) != ("cases", "name")}


def altered(path: tuple) -> dict[str, Any]:
    """The transcript with one byte changed: a hexadecimal digit in the middle, or a number by one."""
    out = copy.deepcopy(FROZEN)
    place = out
    for key in path[:-1]:
        place = place[key]
    old = place[path[-1]]
    if isinstance(old, str) and path[-1] != "secret":
        at = len(old) // 2
        place[path[-1]] = old[:at] + ("0" if old[at] != "0" else "1") + old[at + 1 :]
    else:
        place[path[-1]] = {"b": "k", "k": "b"}[old] if isinstance(old, str) else old + 1
    return out


def test_every_sort_of_value_is_altered_below() -> None:
    fields = {path[-1] if path[-1] not in ("wide", "narrow") else path[-2] for path in KINDS}
    assert {"x", "y", "j", "b", "k", "pairs", "join", "sum", "value", "shares", "unmask", "confirm", "sealed", "aad", "plain", "minus"} <= fields


@pytest.mark.parametrize("path", KINDS.values(), ids=[".".join(map(str, k)) for k in KINDS])
def test_one_changed_byte_is_noticed(path: tuple, tmp_path: Path) -> None:
    file = tmp_path / "altered.json"
    file.write_text(json.dumps(altered(path)))
    code, lines = node(file)
    assert code == 1
    assert sum(line.startswith("DIFFERS") for line in lines) == 1


def test_a_transcript_without_rounds_is_no_success(tmp_path: Path) -> None:
    file = tmp_path / "empty.json"
    file.write_text(json.dumps(FROZEN | {"cases": []}))
    assert node(file)[0] == 1


def test_where_ci_has_no_node_the_test_fails_and_elsewhere_it_is_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no `node`"):
        node(FILE)
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="no `node`"):
        node(FILE)
