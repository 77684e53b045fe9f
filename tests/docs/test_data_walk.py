"""The console blocks of docs/data.md, command by command: what the page prints is what a data manager sees.

A block's first line may name what it needs: `site` an enrolled site to which the study was submitted, `omop` the synthetic CDM. An
expected line is compared without regard to spaces; it may end early, and '...' stands for anything.
"""

import contextlib
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from locum.cli import main
from locum.data import registry
from locum.errors import LocumError
from locum.study import Study
from locum.study.contract import ContractFile
from locum.testing.federation import free_port

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "data"
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
BLOCKS = [(m[1].split(), m[2]) for m in re.finditer(r"^```console(.*)\n((?:.*\n)*?)```$", PAGE, re.MULTILINE)]
ZIP = Path(os.environ.get("LOCUM_DATA_DIR", "/nowhere")) / "omop_synthea27nj" / "Synthea27Nj_5.4.zip"


def run(folder: Path, words: list[str], site: Path | None = None) -> str:
    """What a command prints, on both streams. In this process, because starting twenty takes longer than all that they do."""
    out, code = io.StringIO(), None
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["locum", *words])
        patch.setenv("LOCUM_SITE", str(site or folder / "no-site"))
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    assert (code == 2) == out.getvalue().startswith("REFUSE"), out.getvalue()
    return out.getvalue()


def plain(text: str) -> str:
    return " ".join(text.split())


def follows(expected: list[str], printed: str) -> None:
    """Every expected line is printed, in order; '...' within one stands for anything."""
    there, at = plain(printed), 0
    for line in expected:
        pattern = ".*?".join(re.escape(plain(part)) for part in line.split("..."))
        found = re.compile(pattern).search(there, at) if pattern else None
        assert found or not pattern, f"not printed after what comes before it: {line!r}\n{printed}"
        at = found.end() if found else at


def commands(block: str) -> Iterator[tuple[list[str], list[str]]]:
    """Each command of a block as words, with the lines that are to follow."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        first, *rest = part.rstrip("\n").split("\n")
        words = shlex.split(first)
        assert words[0] == "locum"
        yield words[1:], rest


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the walks, as it lies in the repository."""
    folder = tmp_path_factory.mktemp("walk") / "data"
    shutil.copytree(EXAMPLES, folder)
    if ZIP.exists():
        shutil.copy(ZIP, folder)
    return folder


@pytest.fixture(scope="module")
def site(walk: Path) -> Iterator[Path]:
    """An enrolled site, to which the walk's study was submitted."""

    def json_of(*words: str) -> Any:
        return json.loads(run(walk, [*words, "--json"]))

    json_of("init", "coordinator", "--url", f"https://localhost:{free_port()}")
    serving = subprocess.Popen([sys.executable, "-m", "locum", "serve", "coordinator"], cwd=walk, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert serving.stdout
        assert "ready" in serving.stdout.readline()
        json_of("site", "enroll", json_of("invite", "coordinator", "elm")["invitation"], "--folder", "elm")
        json_of("connect", json_of("invite", "coordinator", "lee", "--role", "investigator")["invitation"], "--home", "lee")
        json_of("study", "submit", "study.toml", "--home", "lee")
        yield walk / "elm"
    finally:
        serving.terminate()
        serving.wait()


def test_the_page_has_its_walks() -> None:
    assert sum(len([*commands(block)]) for _, block in BLOCKS) >= 18
    assert {word for needs, _ in BLOCKS for word in needs} == {"site", "omop"}


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block(number: int, walk: Path, request: pytest.FixtureRequest) -> None:
    needs, block = BLOCKS[number]
    if "omop" in needs and not ZIP.exists():
        pytest.skip("the data set omop_synthea27nj is not in LOCUM_DATA_DIR")
    folder = request.getfixturevalue("site") if "site" in needs else None
    for words, expected in commands(block):
        follows(expected, run(walk, words, folder))


QUOTED = ["first.toml", "mapping.toml", "source.toml", "omop.toml", "omop-sql.toml"]
QUOTED += ["fhir.toml", "view.json", "fhir-join.toml", "view-measured.json", "join.sql"]


@pytest.mark.parametrize("name", QUOTED)
def test_the_page_shows_the_files_as_they_are(name: str) -> None:
    """Every file that the page quotes is quoted word for word, but for comments."""
    text = "\n".join(line for line in (EXAMPLES / name).read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    if name == "first.toml":
        text = text[text.index("[columns]") :]
    if name == "mapping.toml":  # shown as a table of changes
        assert all(part in text and part in PAGE for part in ('format = "%d.%m.%Y"', 'missing = ["u"]', "missing = [999]", 'missing = ["n.b."]', "/ 100"))
    else:
        assert text.strip() in PAGE


def test_the_extracts_are_what_the_script_makes(tmp_path: Path) -> None:
    runpy.run_path(str(EXAMPLES / "make.py"))["write"](tmp_path)
    for name in ("extract.csv", "again.csv", "export.ndjson"):
        assert (tmp_path / name).read_bytes() == (EXAMPLES / name).read_bytes()


def test_the_digests_on_the_page() -> None:
    assert ContractFile.load(EXAMPLES / "cardio.toml").digest in PAGE
    assert Study.load(EXAMPLES / "study.toml").digest[:8] in PAGE


def test_the_harmonising_steps_give_what_the_page_says() -> None:
    try:
        registry.verify("heart_disease")
    except LocumError as error:
        pytest.skip(error.what)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        runpy.run_path(str(EXAMPLES / "harmonise.py"), run_name="__main__")
    printed = plain(said.getvalue())
    for told in ("'chol' differs from the federation at 1 of 4 sites", "'mean': 246.83", "'median': 54.0", "'iqr': 12.99", "'age': -1.018"):
        assert told in printed
