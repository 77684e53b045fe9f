"""A study signed where the key is, and handed in later: by file, by keyring, and refused where it is not what was signed."""

import json
from pathlib import Path
from typing import Any

import keyring
import pytest
from keyring.backend import KeyringBackend
from typer.testing import CliRunner

from locum.cli.app import app
from locum.client.signed import SignedStudy, handed_in, read
from locum.errors import EnvelopeError, LocumError, ManifestError
from locum.federation.identity import Identity
from locum.study import Study

STUDY = Path(__file__).parents[2] / "examples" / "governance" / "study.toml"


class Memory(KeyringBackend):
    """A keyring that lasts as long as the test."""

    priority = 1  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.held.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.held[service, username] = password


def sign(folder: Path, *more: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["study", "sign", str(STUDY), "--out", str(folder / "s.json"), "--as", "ada", "--home", str(folder), *more])
    assert isinstance(done.exception, LocumError) if code else done.exit_code == 0, (done.output, done.exception)
    return str(done.exception) if code else done.output


@pytest.fixture
def own(tmp_path: Path) -> Identity:
    return Identity.load_or_create(tmp_path / "key.pem")


def test_signed_and_opened(tmp_path: Path, own: Identity) -> None:
    assert own.public.fingerprint in sign(tmp_path)
    found = read(tmp_path / "s.json")
    assert found
    assert handed_in(found, "ada", own.public).digest == Study.load(STUDY).digest
    assert "exists already" in sign(tmp_path, code=1)


def test_a_key_in_the_keyring(tmp_path: Path, own: Identity) -> None:
    before, memory = keyring.get_keyring(), Memory()
    keyring.set_keyring(memory)
    try:
        assert "holds no key 'ada'" in sign(tmp_path, "--key", "keyring:ada", code=1)
        memory.set_password("locum", "ada", "no PEM")
        assert "not an Ed25519 key" in sign(tmp_path, "--key", "keyring:ada", code=1)
        memory.set_password("locum", "ada", (tmp_path / "key.pem").read_text())
        (tmp_path / "key.pem").unlink()
        assert own.public.fingerprint in sign(tmp_path, "--key", "keyring:ada")
    finally:
        keyring.set_keyring(before)


def test_one_edit_voids_it(tmp_path: Path, own: Identity) -> None:
    sign(tmp_path)
    value: dict[str, Any] = json.loads((tmp_path / "s.json").read_text())
    for field, wrong in (("manifest", value["manifest"].replace('"seed":0', '"seed":1')), ("key", str(Identity.generate().public))):
        (tmp_path / "e.json").write_text(json.dumps({**value, field: wrong}))
        found = read(tmp_path / "e.json")
        assert found
        with pytest.raises(EnvelopeError):
            found.open()


def test_another_requesters(own: Identity) -> None:
    signed = SignedStudy.sign(Study.load(STUDY), "ada", Identity.generate())
    with pytest.raises(EnvelopeError, match="another key than yours"):
        handed_in(signed, "ada", own.public)
    with pytest.raises(EnvelopeError, match="signed by 'ada', and you are 'lee'"):
        handed_in(signed, "lee", own.public)


@pytest.mark.parametrize("text", ["{}", '{"schema":"locum/study/1"}', "{" * 10_000, '{"a":1'])
def test_no_signed_study(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ManifestError, match="no signed study"):
        read(tmp_path / "x.json")
