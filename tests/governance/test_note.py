"""Signed checkpoints and cosignatures: what is accepted, and every way in which they may be wrong."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from locum.governance.log import Checkpoint, NoteKey, Signed
from locum.governance.log.merkle import LogError
from locum.governance.log.note import LOG, WITNESS


def key(name: str, seed: int, kind: int = LOG) -> tuple[NoteKey, Ed25519PrivateKey]:
    private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    raw = private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return NoteKey(name, raw, kind), private


LOG_KEY, LOG_PRIVATE = key("locum.test/log", 1)
SITE, SITE_PRIVATE = key("site-a", 2, WITNESS)
POINT = Checkpoint("locum.test/log", 42, bytes(range(32)))


def test_the_example_of_the_note_format() -> None:
    """PeterNeumann's key and note, as golang.org/x/mod/sumdb/note publishes them."""
    published = NoteKey.parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    text = b"If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    signature = base64.b64decode("x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=")
    assert signature[:4] == published.id
    assert published.verify(signature[4:], text)
    assert str(published) == "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"


def test_signed_and_cosigned() -> None:
    signed = Signed.by(POINT, LOG_KEY, LOG_PRIVATE.sign).cosigned(SITE, SITE_PRIVATE.sign, 1_800_000_000)
    again = Signed.parse(signed.text())
    assert again == signed
    again.verify(LOG_KEY)
    assert again.witnesses([SITE]) == {"site-a": 1_800_000_000}
    assert again.cosigned(SITE, SITE_PRIVATE.sign, 1_800_000_001).witnesses([SITE]) == {"site-a": 1_800_000_001}
    assert again.witnesses([key("site-b", 3, WITNESS)[0]]) == {}


def test_another_size_or_root_is_not_signed() -> None:
    signed = Signed.by(POINT, LOG_KEY, LOG_PRIVATE.sign).cosigned(SITE, SITE_PRIVATE.sign, 1)
    for other in (Checkpoint(POINT.origin, 43, POINT.root), Checkpoint(POINT.origin, 42, bytes(32))):
        altered = Signed(other, signed.lines)
        with pytest.raises(LogError, match="not signed"):
            altered.verify(LOG_KEY)
        with pytest.raises(LogError, match="not its own"):
            altered.witnesses([SITE])


def test_keys_are_not_interchangeable() -> None:
    signed = Signed.by(POINT, LOG_KEY, LOG_PRIVATE.sign)
    with pytest.raises(LogError):
        signed.verify(key("locum.test/log", 9)[0])
    with pytest.raises(LogError, match="not of"):
        signed.verify(key("another", 1)[0])
    as_witness = NoteKey(LOG_KEY.name, LOG_KEY.raw, WITNESS)
    assert signed.witnesses([as_witness]) == {}  # a log's signature is not a witness's


@pytest.mark.parametrize(
    "text",
    [
        "", "a\n1\n", "a\n1\nAAAA\n\n", "a\n-1\n" + base64.b64encode(bytes(32)).decode() + "\n\n",
        "a\n01\n" + base64.b64encode(bytes(32)).decode() + "\n\n", "a b\n1\n" + base64.b64encode(bytes(32)).decode() + "\n\n",
        "a\n1\n" + base64.b64encode(bytes(31)).decode() + "\n\n", "a\n1\n" + base64.b64encode(bytes(32)).decode() + "\n\n- x AAAA\n",
        "a\n1\n" + base64.b64encode(bytes(32)).decode() + "\n\n— x !!!!\n", "a\n²\n" + base64.b64encode(bytes(32)).decode() + "\n\n",
        "a\n1\n" + base64.b64encode(bytes(32)).decode() + "\nextra\n\n",
    ],
)  # fmt: skip
def test_bad_notes(text: str) -> None:
    with pytest.raises(LogError):
        Signed.parse(text)


@pytest.mark.parametrize("text", ["", "a+b+c", "x+00000000+" + base64.b64encode(bytes(33)).decode(), str(LOG_KEY)[:-4], "site a+" + str(SITE).split("+", 1)[1]])
def test_bad_keys(text: str) -> None:
    with pytest.raises(LogError):
        NoteKey.parse(text)


@pytest.mark.parametrize("end", ["\u2028", "\x0b", "\x85", "\r"])
def test_a_line_ends_with_a_line_feed_alone(end: str) -> None:
    good = Signed.by(POINT, LOG_KEY, LOG_PRIVATE.sign).text()
    with pytest.raises(LogError):
        Signed.parse(good[:-1] + end)


def test_a_size_that_not_every_reader_can_hold() -> None:
    root = base64.b64encode(bytes(32)).decode()
    assert Checkpoint.parse(f"a\n{2**53 - 1}\n{root}\n").size == 2**53 - 1
    with pytest.raises(LogError):
        Checkpoint.parse(f"a\n{2**53}\n{root}\n")


def test_own_keeps_one_verified_line_of_each_key() -> None:
    signed = Signed.by(POINT, LOG_KEY, LOG_PRIVATE.sign).cosigned(SITE, SITE_PRIVATE.sign, 5)
    junk = (SITE.name, b"\x00" * 4 + bytes(72))  # another key's id under the same name
    assert Signed(POINT, (junk, *signed.lines)).own(LOG_KEY, SITE) == signed
    for lines in (
        signed.lines[:1],
        (*signed.lines, signed.lines[1]),
        ((SITE.name, SITE.id + bytes(72)), *signed.lines),
        ((LOG_KEY.name, LOG_KEY.id + bytes(64)), *signed.lines),
    ):
        with pytest.raises(LogError):
            Signed(POINT, lines).own(LOG_KEY, SITE)


def test_a_key_of_small_order_signs_nothing() -> None:
    weak = NoteKey("weak", bytes([1]) + bytes(31))
    assert not weak.verify(bytes([1]) + bytes(63), b"any text at all")
