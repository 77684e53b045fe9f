"""Forged, altered, replayed and late signatures are refused, each with its own error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.errors import ClockError, EnvelopeError, LocumError, NotEnrolled
from locum.federation.envelope import Caller, Envelope, sign_request
from locum.federation.identity import Identity, PublicKey, b64

KEY, OTHER = Identity.generate(), Identity.generate()
ENVELOPE = Envelope(kind="release", study="s", run="r", seq=3, phase="release", sender="a", digest="d")


def test_round_trip() -> None:
    assert Envelope.open(ENVELOPE.seal(KEY), KEY.public, run="r", seq=3) == ENVELOPE


@given(st.integers(0, 200), st.integers(1, 255))
def test_every_altered_byte_is_noticed(position: int, flip: int) -> None:
    import base64

    text = ENVELOPE.seal(KEY)
    raw = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    raw[position % len(raw)] ^= flip
    with pytest.raises(EnvelopeError):
        Envelope.open(b64(bytes(raw)), KEY.public)


@pytest.mark.parametrize("expected", [{"run": "r2"}, {"seq": 4}, {"phase": "mask"}, {"sender": "b"}, {"kind": "decline"}, {"digest": "e"}, {"study": "t"}])
def test_replay_into_another_place(expected: dict) -> None:
    with pytest.raises(EnvelopeError, match="another"):
        Envelope.open(ENVELOPE.seal(KEY), KEY.public, **expected)


@given(st.text(max_size=300))
def test_garbage(text: str) -> None:
    with pytest.raises(LocumError):
        Envelope.open(text, KEY.public)


def test_another_key() -> None:
    with pytest.raises(EnvelopeError, match="signature"):
        Envelope.open(ENVELOPE.seal(OTHER), KEY.public)


REQUEST = {"federation": "f", "method": "GET", "target": "/v1/work?wait=1"}


def header(identity: Identity = KEY, now: float = 1000.0) -> str:
    return sign_request(identity, sender="a", digest="d", now=now, **REQUEST)


def test_request() -> None:
    Caller.parse(header()).verify(KEY.public, now=1100.0, **REQUEST)


@pytest.mark.parametrize("change", [{"federation": "g"}, {"method": "PUT"}, {"target": "/v1/work"}])
def test_request_for_something_else(change: dict) -> None:
    with pytest.raises(NotEnrolled):
        Caller.parse(header()).verify(KEY.public, now=1000.0, **{**REQUEST, **change})


@pytest.mark.parametrize(("now", "says"), [(2000.0, "1000 s behind"), (100.0, "900 s ahead"), (float("nan"), "")])
def test_clock(now: float, says: str) -> None:
    with pytest.raises(ClockError, match=says or "clock"):
        Caller.parse(header()).verify(KEY.public, now=now, **REQUEST)


@pytest.mark.parametrize("text", [None, "", "Bearer x", "Locum ", "Locum sender=a", "Locum " + "x" * 5000])
def test_no_caller(text: str | None) -> None:
    with pytest.raises(NotEnrolled):
        Caller.parse(text)


def test_key_file_is_private(tmp_path) -> None:
    path = tmp_path / "k" / "site.key"
    KEY.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert str(Identity.load(path).public) == str(KEY.public)
    path.chmod(0o644)
    with pytest.raises(LocumError, match="chmod 600"):
        Identity.load(path)
    assert "PRIVATE" not in repr(KEY)


@pytest.mark.parametrize("text", ["", "abc", "é" * 43, "A" * 44, "A" * 100])
def test_bad_public_key(text: str) -> None:
    with pytest.raises(NotEnrolled):
        PublicKey.parse(text)
