"""The HTML verifier in headless Chromium: it says what the Python verifier says, of good bundles and of every forgery."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from locum.governance.page import page
from locum.governance.verify import verify
from locum.testing.doubles import DOUBLES
from locum.testing.forgery import FORGERIES
from locum.testing.record import World


@pytest.fixture(scope="module")
def opened(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = tmp_path_factory.mktemp("page") / "verify.html"
    file.write_text(page(), encoding="utf-8")
    browser.open(file)
    return browser


def report(browser: Any, path: Path, *, witnesses: int = 0, **options: str) -> Any:
    """Both verifiers' checks; the page names a problem in the same words."""
    shown = browser.give(path, **options, **({"least": str(witnesses)} if witnesses else {}))
    told = verify(path, witnesses=witnesses, **options)
    assert shown["ok"] == told.ok
    return shown["checks"], told.to_json()["checks"]


def test_a_good_bundle_holds(opened: Any, tmp_path: Path) -> None:
    world = World()
    options = {"coordinator": world.coordinator.public.fingerprint, "consortium": str(world.consortium.public)}
    shown, told = report(opened, world.bundle(tmp_path / "good.zip"), witnesses=3, **options)
    assert shown == told
    assert opened.value("document.getElementById('verdict').textContent") == "Every check holds."
    assert opened.value("document.querySelectorAll('#checks tr.pass').length") == len(told)
    shown, told = report(opened, world.bundle(tmp_path / "small.zip", model=None))
    assert shown == told


@pytest.mark.parametrize("name", sorted(FORGERIES))
def test_a_forgery_is_detected_and_named(opened: Any, tmp_path: Path, name: str) -> None:
    made = FORGERIES[name](tmp_path / "forged.zip")
    shown, told = report(opened, made.path, **made.options)
    assert [c["check"] for c in shown if not c["ok"]] == [c["check"] for c in told if not c["ok"]]
    assert made.words in " ".join(next(c["problems"] for c in shown if c["check"] == made.check))
    if made.check != "files":  # how an archive is broken, each reader says in its own way
        assert shown == told
    assert opened.value("document.getElementById('verdict').textContent").startswith("THIS BUNDLE DOES NOT HOLD")


@pytest.mark.parametrize("name", sorted(DOUBLES))
def test_what_could_be_read_in_two_ways_is_refused_by_both(opened: Any, tmp_path: Path, name: str) -> None:
    path, words = DOUBLES[name](tmp_path / "b.zip")
    shown, told = report(opened, path)
    assert [c["check"] for c in shown if not c["ok"]] == [c["check"] for c in told if not c["ok"]]
    assert any(words in " ".join(c["problems"]) for c in shown)


def test_the_page_opens_no_connection_and_runs_nothing_else(opened: Any, tmp_path: Path) -> None:
    opened.events.clear()
    opened.value("fetch('http://127.0.0.1:9/x').then(() => 1, () => 0)")
    assert opened.value("fetch('http://127.0.0.1:9/x').then(() => 1, () => 0)") == 0
    opened.value("document.body.appendChild(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))  && 0")
    assert opened.value("window.ran") is None
    image = "const i = new Image(); i.onload = () => done(1); i.onerror = () => done(0); i.src = 'http://127.0.0.1:9/i.png';"
    assert opened.value(f"new Promise(done => {{ {image} }})") == 0
    blocked = [e["params"]["entry"]["text"] for e in opened.events if e.get("method") == "Log.entryAdded"]
    assert sum("Content Security Policy" in text for text in blocked) >= 3, blocked


def test_a_name_is_shown_as_text(opened: Any, tmp_path: Path) -> None:
    world = World()
    files = {**world.files(), "checkpoint.txt": world.files()["checkpoint.txt"].replace(b"s000", b"<img/src=x>")}
    checks, _ = report(opened, world.bundle(tmp_path / "b.zip", files=files))
    assert "<img/src=x>" in str(checks)
    assert opened.value("document.querySelectorAll('img').length") == opened.value("document.querySelectorAll('body > img').length")
