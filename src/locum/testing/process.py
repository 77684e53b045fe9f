"""A real coordinator and real sites as child processes, to be killed with SIGKILL and started again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from locum.errors import Unavailable

_PRELOAD = """
import importlib.util, sys
for i, path in enumerate(sys.argv[3:]):
    spec = importlib.util.spec_from_file_location(f"preload_{i}", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
"""
_COORDINATOR = (
    _PRELOAD
    + """
from locum.coordinator.server import serve
serve(sys.argv[1], port=int(sys.argv[2]))
"""
)
_SITE = (
    _PRELOAD
    + """
from pathlib import Path
from locum.client import Patience
from locum.site.serve import serve
folder = Path(sys.argv[1])
serve(folder, log_file=folder / "site.log", poll_s=float(sys.argv[2]), patience=Patience(first_s=0.05, cap_s=0.5, connect_s=3.0, answer_s=5.0))
"""
)


@dataclass
class Child:
    """A process that can be killed at any moment. preload: Python files run first, such as one that registers a task."""

    folder: Path
    preload: tuple[Path, ...] = ()
    process: subprocess.Popen[str] | None = field(default=None, init=False)

    def kill(self) -> None:
        """SIGKILL; the process can do nothing about it."""
        if self.process:
            self.process.kill()
            self.process.wait(10)
            if self.process.stdout:
                self.process.stdout.close()
            self.process = None

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _spawn(self, code: str, argument: str, log: Path) -> subprocess.Popen[str]:
        with log.open("a") as errors:
            command = [sys.executable, "-c", code, str(self.folder), argument, *map(str, self.preload)]
            return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@dataclass
class CoordinatorProcess(Child):
    """`locum serve` for a coordinator's folder; the same port after every start."""

    port: int = 0

    def __enter__(self) -> CoordinatorProcess:
        self.start()
        return self

    def start(self) -> None:
        self.process = self._spawn(_COORDINATOR, str(self.port), self.folder / "serve.log")
        assert self.process.stdout  # noqa: S101 - it is a pipe
        line = self.process.stdout.readline()
        if " ready at " not in line:
            raise Unavailable("The coordinator's process did not start.", why=(self.folder / "serve.log").read_text()[-2000:])
        self.port = int(line.rsplit(":", 1)[1])


@dataclass
class SiteProcess(Child):
    """`locum site serve` for a site's folder, with short waits; its log is site.log there."""

    poll_s: float = 5.0

    def __enter__(self) -> SiteProcess:
        self.start()
        return self

    def start(self) -> None:
        self.process = self._spawn(_SITE, str(self.poll_s), self.folder / "stderr.log")

    def log(self) -> str:
        path = self.folder / "site.log"
        return path.read_text() if path.exists() else ""

    def wait_for(self, text: str, *, seconds: float = 20.0) -> None:
        """Until the log holds `text`; raises `Unavailable` with the log if it does not come."""
        until = time.monotonic() + seconds
        while text not in self.log():
            if time.monotonic() > until:
                raise Unavailable(f"'{text}' did not come.", why=self.log()[-3000:])
            time.sleep(0.02)
