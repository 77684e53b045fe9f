"""Every weakened version of the protocol in `mutants.py` makes a test fail. By default only the core; all of them with

LOCUM_MUTANTS=all python -m pytest tests/secagg/test_mutants.py
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import locum

if "mutation" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("mutation", Path(__file__).parents[1] / "mutation.py")
    assert _spec
    assert _spec.loader
    sys.modules["mutation"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["mutation"])
mutation = sys.modules["mutation"]

PACKAGE = Path(locum.__file__).parent
LISTED = mutation.load(Path(__file__).with_name("mutants.py"))
CHOSEN = LISTED.chosen()


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mutation.Laboratory]:
    if not hasattr(os, "fork"):
        pytest.skip("the laboratory forks")
    folder = tmp_path_factory.mktemp("mutants")
    shutil.copytree(PACKAGE, folder / "locum")
    made = mutation.Laboratory(LISTED, folder)
    yield made
    made.close()


def test_the_unchanged_copy_passes_all_the_tests_that_the_mutants_are_tried_with(laboratory: mutation.Laboratory) -> None:
    status, text = laboratory.ask(CHOSEN)
    assert status == 0, text


@pytest.mark.parametrize("which", CHOSEN, ids=LISTED.name)
def test_a_weakened_protocol_is_noticed(laboratory: mutation.Laboratory, which: int) -> None:
    status, text = laboratory.ask(which)
    assert status == 1, f"{LISTED.mutants[which].why}\n{text}"


@pytest.mark.parametrize("which", range(len(LISTED.mutants)), ids=lambda i: f"{LISTED.mutants[i].file}-{i}")
def test_every_mutant_changes_one_place_of_the_source_as_it_is(which: int) -> None:
    mutant = LISTED.mutants[which]
    assert LISTED.path(PACKAGE, which).read_text().count(mutant.old) == 1
    assert mutant.old != mutant.new
