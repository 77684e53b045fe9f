"""What one reader of a bundle could take for something else than another: both refuse it. `browser/test_page.py` gives the same to the page."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from locum.governance.log import NoteKey
from locum.governance.log.note import SMALL_ORDER
from locum.governance.verify import verify
from locum.governance.verify_formats import SMALL_ORDER as AGAIN
from locum.governance.verify_formats import signed
from locum.testing.doubles import DOUBLES


@pytest.mark.parametrize("name", sorted(DOUBLES))
def test_what_could_be_read_in_two_ways_is_refused(tmp_path: Path, name: str) -> None:
    path, words = DOUBLES[name](tmp_path / "b.zip")
    report = verify(path)
    assert not report.ok
    assert any(words in " ".join(c.problems) for c in report.checks), report.text()


def test_a_key_of_small_order_signs_nothing() -> None:
    identity = b"\x01" + bytes(31)
    Ed25519PublicKey.from_public_bytes(identity).verify(identity + bytes(32), b"any text")  # the library takes it
    assert not signed(identity, identity + bytes(32), b"any text")
    assert not NoteKey("log", identity).verify(identity + bytes(32), b"any text")
    assert SMALL_ORDER == AGAIN
    assert len(SMALL_ORDER) == 14
