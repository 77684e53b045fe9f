"""A headless Chromium, driven through the DevTools protocol over a pipe: no driver, no port, no package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """One page. Messages are JSON, each ended by a zero byte: file descriptor 3 of the browser takes them, 4 gives them."""

    def __init__(self, program: str, folder: Path) -> None:
        (theirs_in, self._out), (self._in, theirs_out) = os.pipe(), os.pipe()
        os.set_inheritable(theirs_in, True)
        os.set_inheritable(theirs_out, True)
        words = [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
        script = f'exec 3<&{theirs_in} 4>&{theirs_out}; exec "$@"'
        log = (folder.parent / "browser.log").open("wb")
        self.process = subprocess.Popen(["bash", "-c", script, "bash", *words], pass_fds=(theirs_in, theirs_out), stdout=log, stderr=log)
        for fd in (theirs_in, theirs_out):
            os.close(fd)
        self._buffer, self._count, self.events = b"", 0, []  # type: ignore[var-annotated]
        page = next(t for t in self.send("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self.send("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "DOM", "Network", "Log"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        return self.send(method, self._session, **params)

    def send(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            piece = os.read(self._in, 1 << 16)
            assert piece, f"the browser ended with {self.process.wait()}"
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))

    def value(self, expression: str) -> Any:
        """What an expression (perhaps a promise) comes to, in the page."""
        answer = self("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def state(self, *wanted: str) -> str:
        """Wait until the page's state is one of these."""
        look = f"{list(wanted)}.includes(document.body?.dataset.state) ? done(document.body.dataset.state) : setTimeout(look, 5)"
        wait = f"new Promise(done => {{ const look = () => {look}; look(); }})"
        return str(self.value(wait))

    def open(self, file: Path) -> None:
        self.events.clear()
        self("Page.navigate", url=file.as_uri())
        assert self.state("ready", "unable") == "ready"

    def give(self, file: Path, **fields: str) -> dict[str, Any]:
        """Fill the page's fields, choose a bundle, and wait for the report."""
        for name in ("coordinator", "consortium", "least", "seen"):
            self.value(f"document.getElementById('{name}').value = {json.dumps(fields.get(name, ''))}")
        self.value("document.getElementById('file').value = ''; document.body.dataset.state = 'ready'")
        root = self("DOM.getDocument")["root"]["nodeId"]
        node = self("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        self("DOM.setFileInputFiles", nodeId=node, files=[str(file)])
        self.state("good", "bad")
        return dict(json.loads(self.value("document.body.dataset.report")))

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        os.close(self._in)
        os.close(self._out)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("there is no Chromium on this machine")
    opened = Browser(program, tmp_path_factory.mktemp("browser") / "profile")
    yield opened
    opened.close()
