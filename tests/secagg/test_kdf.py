"""Labels, the encoding of lists, hashes and keys: against the definitions, written once more with the standard library."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.secagg import kdf

parts = st.lists(st.one_of(st.binary(max_size=40), st.text(max_size=20), st.integers(0, 2**64 - 1)), max_size=6)


def as_bytes(part: bytes | str | int) -> bytes:
    return part.to_bytes(8, "little") if isinstance(part, int) else part.encode() if isinstance(part, str) else part


def split(raw: bytes) -> list[bytes]:
    """Reads back what `join` wrote."""
    out = []
    while raw:
        size = int.from_bytes(raw[:8], "little")
        assert len(raw) >= 8 + size
        out.append(raw[8 : 8 + size])
        raw = raw[8 + size :]
    return out


@given(parts)
def test_a_joined_list_can_be_split_again_so_no_two_lists_are_the_same(given_parts: list) -> None:
    assert split(kdf.join(*given_parts)) == [as_bytes(p) for p in given_parts]


def test_the_encoding_of_a_list_is_the_documented_one() -> None:
    assert kdf.join() == b""
    assert kdf.join("é", 258, b"") == b"\x02" + bytes(7) + "é".encode() + b"\x08" + bytes(7) + b"\x02\x01" + bytes(6) + bytes(8)


@pytest.mark.parametrize(("one", "other"), [(("ab", "c"), ("a", "bc")), ((b"",), ()), ((b"", b""), (b"",)), ((1, 0), (1,))])
def test_where_a_part_ends_matters(one: tuple, other: tuple) -> None:
    assert kdf.digest("x", *one) != kdf.digest("x", *other)
    assert kdf.hkdf(bytes(32), b"", "x", *one) != kdf.hkdf(bytes(32), b"", "x", *other)


@pytest.mark.parametrize("number", [-1, 2**64])
def test_a_number_that_does_not_fit_in_8_bytes_is_never_cut(number: int) -> None:
    with pytest.raises(OverflowError):
        kdf.join(number)


@given(st.text("abcdefghijklmnopqrstuvwxyz ", max_size=12), parts)
def test_a_digest_is_sha256_of_label_zero_byte_and_parts(name: str, given_parts: list) -> None:
    assert kdf.digest(name, *given_parts) == hashlib.sha256(b"locum/fsa-1/" + name.encode() + b"\0" + kdf.join(*given_parts)).digest()


@given(st.binary(min_size=1, max_size=64), st.binary(max_size=64), st.text("abc", max_size=5), parts)
def test_a_key_is_rfc_5869_extract_and_expand_written_out(secret: bytes, salt: bytes, name: str, info: list) -> None:
    prk = hmac.digest(salt or bytes(32), secret, "sha256")
    okm = hmac.digest(prk, b"locum/fsa-1/" + name.encode() + b"\0" + kdf.join(*info) + b"\x01", "sha256")
    assert kdf.hkdf(secret, salt, name, *info) == okm


def test_another_name_secret_or_salt_gives_another_key() -> None:
    keys = {
        kdf.hkdf(secret, salt, name, "part")
        for secret in (bytes(32), b"\1" * 32)
        for salt in (b"", b"salt")
        for name in ("mask", "pair", "ratchet", "channel", "root")
    }
    assert len(keys) == 20


def test_labels_are_of_this_protocol_and_version_and_plain_ascii() -> None:
    assert kdf.label("mask") == b"locum/fsa-1/mask"
    with pytest.raises(UnicodeEncodeError):
        kdf.label("maské")
