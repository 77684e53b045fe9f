"""The verifier on good bundles and on every forgery that we know of; as a module, as one copied file, and from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from locum.governance import bundle, page
from locum.governance.verify import verify
from locum.governance.verify_formats import canonical
from locum.study import canonical as rfc8785
from locum.testing.forgery import FORGERIES
from locum.testing.record import World


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Path]:
    world = World()
    return world, world.bundle(tmp_path_factory.mktemp("good") / "good.zip")


def test_a_good_bundle_holds(good: Any) -> None:
    world, path = good
    report = verify(path, coordinator=world.coordinator.public.fingerprint, consortium=str(world.consortium.public), witnesses=3)
    assert report.ok, report.text()
    assert "NOT PINNED" not in report.text()
    assert report.about["run"] == world.run
    alone = verify(path)
    assert alone.ok
    assert "NOT PINNED" in alone.text()
    assert "What this cannot prove" in alone.text()


def test_without_the_model_it_says_so(tmp_path: Path) -> None:
    report = verify(World().bundle(tmp_path / "b.zip", model=None))
    assert report.ok
    assert "the file is not in the bundle" in report.text()


@pytest.mark.parametrize("name", sorted(FORGERIES))
def test_a_forgery_is_detected_and_named(name: str, tmp_path: Path) -> None:
    made = FORGERIES[name](tmp_path / "forged.zip")
    report = verify(made.path, **made.options)
    assert not report.ok
    said = {c.name: " ".join(c.problems) for c in report.checks if not c.ok}
    assert made.words in said.get(made.check, ""), said


def test_the_same_content_gives_the_same_bytes(good: Any, tmp_path: Path) -> None:
    world, _ = good
    files = world.files()
    one, two = world.bundle(tmp_path / "1.zip", files=files), world.bundle(tmp_path / "2.zip", files=dict(reversed(files.items())))
    assert one.read_bytes() == two.read_bytes()
    with zipfile.ZipFile(one) as archive:
        assert archive.namelist() == ["index.json", *sorted(files), "model.safetensors"]
        assert {i.date_time for i in archive.infolist()} == {bundle.EPOCH}


def test_one_copied_file_verifies_without_locum(good: Any, tmp_path: Path) -> None:
    """-I hides the checkout and the user's packages; the import hook proves that nothing of Locum is used."""
    world, path = good
    copied = tmp_path / "verify.py"
    copied.write_text(page.script())
    blocked = "import sys; sys.modules['locum'] = None; import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-I", "-c", blocked, str(copied), *words], capture_output=True, text=True, cwd=tmp_path, timeout=60)

    done = run(str(path), "--json", "--coordinator", str(world.coordinator.public), "--witnesses", "3")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == verify(path, coordinator=str(world.coordinator.public), witnesses=3).to_json()
    done = run(str(path), "--witnesses", "4")
    assert done.returncode == 1
    assert "FAIL  witnesses" in done.stdout
    seen = tmp_path / "seen.txt"
    with zipfile.ZipFile(path) as archive:
        seen.write_bytes(archive.read("checkpoint.txt"))
    assert run(str(path), "--seen", str(seen)).returncode == 0
    assert run(str(tmp_path / "nothing.zip")).returncode == 1


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_byte_that_is_changed_anywhere_is_noticed_or_means_nothing(good: Any, tmp_path: Path, data: st.DataObject) -> None:
    """Whatever file it is in; and never an exception."""
    world, _ = good
    files = world.files()
    name = data.draw(st.sampled_from(sorted(files)))
    at = data.draw(st.integers(0, len(files[name]) - 1))
    body = bytearray(files[name])
    body[at] ^= data.draw(st.integers(1, 255))
    report = verify(world.bundle(tmp_path / "b.zip", files={**files, name: bytes(body)}), coordinator=str(world.coordinator.public), witnesses=3)
    assert not report.ok, (name, at)


@pytest.mark.parametrize("name", ["entries.json", "complete.json", "keys.json", "study.json", "rosters.json", "rounds/000000.json", "checkpoint.txt"])
@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b"[{}]", b'{"a":1,"a":2}', b"\xff", b"[" * 100_000, b"1e999", b'"x"'])
def test_files_of_another_form_are_refused(good: Any, tmp_path: Path, name: str, body: bytes) -> None:
    world, _ = good
    report = verify(world.bundle(tmp_path / "b.zip", files={**world.files(), name: body}))
    assert not report.ok


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**53) + 1, 2**53 - 1)
        | st.floats(1e-4, 1e15).filter(lambda x: x != int(x))
        | st.text(st.characters(max_codepoint=0xD7FF)),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(max_codepoint=0xD7FF), max_size=5), inner, max_size=4),
        max_leaves=12,
    )
)
def test_canonical_json_written_again_is_the_same(value: Any) -> None:
    assert canonical(value) == rfc8785.canonical(value)
