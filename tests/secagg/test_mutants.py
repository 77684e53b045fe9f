"""Every weakened version of the protocol in `mutants.py` makes a test fail. By default only the core; all of them with

LOCUM_MUTANTS=all python -m pytest tests/secagg/test_mutants.py
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import locum

SCRIPT = Path(__file__).with_name("mutants.py")
_spec = importlib.util.spec_from_file_location("secagg_mutants", SCRIPT)
assert _spec
assert _spec.loader
mutants = sys.modules["secagg_mutants"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(mutants)

MUTANTS = mutants.MUTANTS
PACKAGE = Path(locum.__file__).parent
CHOSEN = [i for i, m in enumerate(MUTANTS) if m.core or os.environ.get("LOCUM_MUTANTS") == "all"]

Try = Callable[[int | list[int]], tuple[int, str]]


@pytest.fixture(scope="module")
def attempt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Try]:
    """The laboratory: number of a mutant (a list: their tests on the unchanged copy) -> pytest's exit status, and the end of what it printed."""
    if not hasattr(os, "fork"):
        pytest.skip("the laboratory forks")
    folder = tmp_path_factory.mktemp("mutants")
    shutil.copytree(PACKAGE, folder / "locum")
    process = subprocess.Popen([sys.executable, str(SCRIPT), str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin
    assert process.stdout

    def ask(which: int | list[int]) -> tuple[int, str]:
        print(json.dumps(which), file=process.stdin, flush=True)
        status, text = json.loads(process.stdout.readline())  # type: ignore[union-attr]
        return status, text

    yield ask
    process.stdin.close()
    process.wait()
    process.stdout.close()


def test_the_unchanged_copy_passes_all_the_tests_that_the_mutants_are_tried_with(attempt: Try) -> None:
    status, text = attempt(CHOSEN)
    assert status == 0, text


@pytest.mark.parametrize("which", CHOSEN, ids=lambda i: f"{MUTANTS[i].file}-{i}-{MUTANTS[i].why}".replace(" ", "-"))
def test_a_weakened_protocol_is_noticed(attempt: Try, which: int) -> None:
    status, text = attempt(which)
    assert status == 1, f"{MUTANTS[which].why}\n{text}"


@pytest.mark.parametrize("which", range(len(MUTANTS)), ids=lambda i: f"{MUTANTS[i].file}-{i}")
def test_every_mutant_changes_one_place_of_the_source_as_it_is(which: int) -> None:
    mutant = MUTANTS[which]
    assert (PACKAGE / "secagg" / mutant.file).read_text().count(mutant.old) == 1
    assert mutant.old != mutant.new
