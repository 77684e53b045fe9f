"""The console blocks of docs/governance.md, command by command, against a coordinator and five sites that are processes of their own.

An expected line is compared without regard to spaces; it may end early, and '...' stands for anything. A comment is what
somebody does outside the program.
"""

import contextlib
import io
import json
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from locum.cli import main
from locum.study import Study
from locum.testing.federation import LocalFederation, populate

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "governance"
PAGE = (ROOT / "docs" / "governance.md").read_text(encoding="utf-8")
BLOCKS = [m[1] for m in re.finditer(r"^```console\n((?:.*\n)*?)```$", PAGE, re.MULTILINE)]
SITES = ("ash", "birch", "elm", "oak", "pine")


def run(folder: Path, words: list[str]) -> str:
    """What a command prints, on both streams. In this process, because starting forty takes longer than all that they do."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["locum", *words])
        with contextlib.suppress(SystemExit):
            main()
    return out.getvalue()


def plain(text: str) -> str:
    return " ".join(text.split())


def follows(expected: list[str], printed: str) -> None:
    """Every expected line is printed, in order."""
    there, at = plain(printed), 0
    for line in expected:
        pattern = ".*?".join(re.escape(plain(part)) for part in line.split("..."))
        found = re.compile(pattern).search(there, at) if pattern else None
        assert found or not pattern, f"not printed after what comes before it: {line!r}\n{printed}"
        at = found.end() if found else at


def commands(block: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of a block, with the lines that are to follow."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        first, *rest = part.rstrip("\n").split("\n")
        yield first, rest


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    folder = tmp_path_factory.mktemp("walk")
    for file in EXAMPLES.iterdir():
        shutil.copy(file, folder)
    rng, data = np.random.default_rng(4), dict[str, tuple[Path, Path | None]]()
    for name in SITES:
        lactate, age, sex = rng.gamma(2.0, 1.6, 260).clip(0, 30), rng.uniform(20, 95, 260), rng.integers(0, 2, 260)
        died = rng.random(260) < 1 / (1 + np.exp(3.4 - 0.5 * lactate - 0.03 * (age - 60)))
        rows = [f"{a:.2f},{b:.0f},{'FM'[s]},{int(d)}" for a, b, s, d in zip(lactate, age, sex, died, strict=True)]
        (folder / f"{name}.csv").write_text("lactate,age,sex,died\n" + "\n".join(rows) + "\n")
        data[name] = folder / f"{name}.csv", folder / "mapping.toml"
    with LocalFederation(folder) as made:
        made.init()
        made.start_coordinator()
        populate(made, data)
        for who, role in (("ada", "investigator"), ("eve", "approver")):
            made.enrol(who, role=role, folder=folder / who)
        yield made


def acted(federation: LocalFederation, words: str) -> str:
    """What a comment in a block says that somebody does."""
    if match := re.fullmatch(r"# the five sites approve (\w+) with --exact", words):
        return "".join(run(federation.folder, ["site", "approve", match[1], "--exact", "--folder", f"sites/{name}"]) for name in SITES)
    if words == "# pine is switched off":
        federation.kill("pine")
    elif words == "# its first round is open":
        end = time.monotonic() + 30
        while not any(r["status"] == "running" for r in json.loads(run(federation.folder, ["run", "list", "--home", "ada", "--json"]))):
            assert time.monotonic() < end, "the run has not started"
            time.sleep(0.05)
    else:
        assert words == "# pine is switched on"
        federation.start("pine")
    return ""


def test_the_walk(federation: LocalFederation) -> None:
    began, done = time.monotonic(), 0
    for command, expected in (pair for block in BLOCKS for pair in commands(block)):
        words = shlex.split(command) if command.startswith("locum ") else []
        follows(expected, run(federation.folder, words[1:]) if words else acted(federation, command))
        done += 1
    assert done >= 30
    assert time.monotonic() - began < 60


def test_the_table_names_tests_that_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) >= 10
    for path, name in named:
        assert re.search(rf"^(?:async )?def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), (path, name)
    assert "compliant" not in PAGE.lower()


def test_the_digest_on_the_page() -> None:
    assert Study.load(EXAMPLES / "study.toml").digest in PAGE
