"""The laboratory of the mutants: code that is weakened in one place must make a test fail.

It loads what does not change, and for each number on its standard input alters one file of a copy of the package, forks, and lets the
child run the tests that should fail. The working tree is never touched.

    python tests/mutation.py LIST FOLDER         LIST: a file with MUTANTS, for example tests/secagg/mutants.py
                                                 FOLDER holds the copy, as FOLDER/locum
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).parent
SECONDS = 100
EXTRA = ["-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=line", "--hypothesis-profile=mutants", "--hypothesis-seed=0"]


@dataclass(frozen=True)
class Mutant:
    """`old` occurs once in `file` and becomes `new`. tests: (file, expression for -k), chosen to be quick. core: run by default."""

    file: str
    old: str
    new: str
    why: str
    tests: tuple[str, str]
    core: bool = False

    def apply(self, path: Path) -> None:
        text = path.read_text()
        if text.count(self.old) != 1:
            raise LookupError(f"{self.file} holds this {text.count(self.old)} times: {self.old}")
        path.write_text(text.replace(self.old, self.new))


@dataclass(frozen=True)
class Mutants:
    """What a list says. script: the list; source: the folder in the package that `Mutant.file` is in; tests: in tests/, that of `Mutant.tests`."""

    script: Path
    source: str
    tests: str
    mutants: Sequence[Mutant]

    def path(self, package: Path, which: int) -> Path:
        return package / self.source / self.mutants[which].file

    def chosen(self) -> list[int]:
        """The core; all of them with LOCUM_MUTANTS=all."""
        return [i for i, m in enumerate(self.mutants) if m.core or os.environ.get("LOCUM_MUTANTS") == "all"]

    def name(self, which: int) -> str:
        return f"{self.mutants[which].file}-{which}-{self.mutants[which].why}".replace(" ", "-").replace("/", "-")

    def command(self, tests: tuple[str, str]) -> list[str]:
        return [str(HERE / self.tests / tests[0]), "-k", tests[1], *EXTRA]


def load(script: Path) -> Mutants:
    """The list of a file that sets SOURCE, TESTS and MUTANTS."""
    sys.modules.setdefault("mutation", sys.modules[__name__])
    spec = importlib.util.spec_from_file_location(f"mutants_of_{script.parent.name}", script)
    assert spec
    assert spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Mutants(script, module.SOURCE, module.TESTS, module.MUTANTS)


class Laboratory:
    """The process that tries mutants, over a copy of the package in `folder`."""

    def __init__(self, mutants: Mutants, folder: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(folder), "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis")}
        command = [sys.executable, str(Path(__file__)), str(mutants.script), str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def ask(self, which: int | list[int]) -> tuple[int, str]:
        """Number of a mutant (a list: their tests on the unchanged copy) -> pytest's exit status, and the end of what it printed."""
        print(json.dumps(which), file=_open(self._process.stdin), flush=True)
        status, text = json.loads(_open(self._process.stdout).readline())
        return status, text

    def close(self) -> None:
        _open(self._process.stdin).close()
        self._process.wait()
        _open(self._process.stdout).close()


def _open(stream: IO[str] | None) -> IO[str]:
    assert stream
    return stream


def child(folder: Path, arguments: list[list[str]], log: int) -> int:
    """pytest's exit status: 0 all passed, 1 some failed, others are faults of the laboratory."""
    import hypothesis
    import pytest

    signal.alarm(SECONDS)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.path.insert(0, str(folder))
    shrinkless: Any = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutants", deadline=None, phases=shrinkless)
    for each in arguments:
        if status := int(pytest.main(each)):
            return status
    import locum

    return 0 if Path(locum.__file__).is_relative_to(folder) else 99


def experiment(folder: Path, arguments: list[list[str]]) -> tuple[int, str]:
    with tempfile.TemporaryFile() as log:
        pid = os.fork()
        if not pid:
            status = 98
            try:
                status = child(folder, arguments, log.fileno())
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        log.seek(0)
        return status, log.read().decode(errors="replace")[-2000:]


def main(listed: Mutants, folder: Path) -> None:
    import cbor2  # noqa: F401
    import cryptography.hazmat.primitives.hpke  # noqa: F401
    import dp_accounting.pld
    import dp_accounting.rdp  # noqa: F401
    import hypothesis.extra.numpy  # noqa: F401
    import msgspec  # noqa: F401
    import numpy  # noqa: F401
    import pydantic  # noqa: F401
    import pytest  # noqa: F401
    import scipy.stats  # noqa: F401
    import sqlalchemy  # noqa: F401

    assert "locum" not in sys.modules, "each child imports the copy as it then is"
    for line in sys.stdin:
        which = json.loads(line)
        if isinstance(which, list):  # the copy as it is, and all tests that these mutants are tried with
            wanted: dict[str, list[str]] = {}
            for mutant in (listed.mutants[i] for i in which):
                wanted.setdefault(mutant.tests[0], []).append(mutant.tests[1])
            answer = experiment(folder, [listed.command((file, " or ".join(f"({k})" for k in dict.fromkeys(ks)))) for file, ks in wanted.items()])
        else:
            path = listed.path(folder / "locum", which)
            original = path.read_bytes()
            listed.mutants[which].apply(path)
            _forget(path)
            answer = experiment(folder, [listed.command(listed.mutants[which].tests)])
            path.write_bytes(original)
            _forget(path)
        print(json.dumps(answer), flush=True)


def _forget(path: Path) -> None:
    """Delete what Python compiled of a file: in the same second it would be taken for current."""
    for stale in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
        stale.unlink()


if __name__ == "__main__":
    main(load(Path(sys.argv[1]).resolve()), Path(sys.argv[2]).resolve())
