"""A real federation of real processes on this machine: for the demonstration, benchmarks and fault tests."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from locum.errors import Unavailable

Processes = dict[str, "subprocess.Popen[bytes]"]


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


class LocalFederation:
    """A coordinator and sites as processes of their own, each in its own folder below `folder`.

    `kill(name)` is SIGKILL; `start(name)` starts it again from what it had made durable. Use as a context manager.
    """

    def __init__(self, folder: Path, *, tls: bool = True) -> None:
        self.folder, self.tls = folder, tls
        self.coordinator = folder / "coordinator"
        self.port = free_port()
        self.processes: Processes = {}
        self._commands: dict[str, Sequence[str]] = {}
        self._logs: dict[str, IO[bytes]] = {}

    def __enter__(self) -> LocalFederation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def site(self, name: str) -> Path:
        """The site's folder."""
        return self.folder / "sites" / name

    def init(self, **options: object) -> None:
        """Make the coordinator's folder: key, certificate, configuration."""
        from locum.coordinator import init_folder

        init_folder(self.coordinator, url=self.url, host="127.0.0.1", port=self.port, **options)  # type: ignore[arg-type]

    def sign_roster(self) -> None:
        """As the consortium's office would, when it has compared the fingerprints."""
        from locum.coordinator import office

        drafted, _ = office.draft(self.coordinator)
        office.install(self.coordinator, office.sign(drafted, self.coordinator / office.KEY))

    def start_coordinator(self, timeout: float = 60.0) -> None:
        self._commands["coordinator"] = ["serve", str(self.coordinator)]
        self.start("coordinator")
        self.wait_ready(timeout)

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Until the coordinator answers; raises `Unavailable` with the place of its log."""
        import ssl

        context = ssl.create_default_context(cafile=str(self.coordinator / "ca.crt")) if self.tls else None
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                urllib.request.urlopen(f"{self.url}/v1/ready", timeout=2, context=context).close()  # noqa: S310 - our own loopback URL
                return
            if self.processes["coordinator"].poll() is not None:
                break
            time.sleep(0.05)
        raise Unavailable("The coordinator did not start.", fix=f"look into {self.log('coordinator')}")

    def enrol(self, name: str, *, role: str = "site", folder: Path | None = None, via_port: int | None = None) -> Path:
        """Invite and enrol one party; `via_port` sends it through a proxy on that port."""
        from locum.client import join
        from locum.coordinator import invite
        from locum.federation.wire import Invitation
        from locum.site.folder import enroll

        text = invite(self.coordinator, name, role=role)  # type: ignore[arg-type]
        if via_port is not None:
            import msgspec

            invitation = Invitation.parse(text)
            text = msgspec.structs.replace(invitation, url=f"https://127.0.0.1:{via_port}").text()
        where = folder or self.site(name)
        if role == "site":
            enroll(where, text)
        else:
            join(where, text)
        return where

    def start_site(self, name: str) -> None:
        self._commands[name] = ["site", "serve", "--folder", str(self.site(name))]
        self.start(name)

    def start(self, name: str) -> None:
        """Start (again) what was started before under this name."""
        self.log(name).parent.mkdir(parents=True, exist_ok=True)
        if name not in self._logs:
            self._logs[name] = self.log(name).open("ab")
        # One thread a process: nineteen numpy processes with a thread pool each would fight over the cores.
        env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-m", "locum", *self._commands[name]], stdout=self._logs[name], stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env
        )

    def kill(self, name: str) -> None:
        """SIGKILL, now."""
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()

    def close(self) -> None:
        """Stop everything: politely, then not."""
        running = [p for p in self.processes.values() if p.poll() is None]
        for process in running:
            process.terminate()
        end = time.monotonic() + 5
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
            if process.poll() is None:
                process.kill()
                process.wait()
        for log in self._logs.values():
            log.close()
        self._logs.clear()


def populate(
    federation: LocalFederation, data: Mapping[str, tuple[Path, Path | None]], *, via: Mapping[str, int] | None = None, config: str | None = None
) -> None:
    """Enrol and start one site per entry of `data`: name -> (table, mapping or None), and sign the roster. `via`: name -> a proxy's port.
    config: the text of every site.toml."""
    from locum.site.folder import CONFIG, add_data

    for name, (source, mapping) in data.items():
        folder = federation.enrol(name, via_port=(via or {}).get(name))
        if config is not None:
            (folder / CONFIG).write_text(config, encoding="utf-8")
        add_data(folder, "default", source, mapping)
        federation.start_site(name)
    federation.sign_roster()
