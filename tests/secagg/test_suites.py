"""Sealing to a session key, in every suite of the registry; which suites a site takes part in."""

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from locum.secagg.errors import MaskingRefused, ProtocolError
from locum.secagg.suites import DEFAULT, SUITES, Suite, choose

SECRET, INFO = bytes(range(32)), b"session, i, j"
KEYS = {name: (suite.generate(), suite.generate()) for name, suite in SUITES.items()}
PUBLIC_BYTES = {"mlkem768-x25519": 1184 + 32, "mlkem1024-p384": 1568 + 97}


@pytest.fixture(params=sorted(SUITES))
def suite(request: pytest.FixtureRequest) -> Suite:
    return SUITES[request.param]


@pytest.fixture
def sealed(suite: Suite) -> bytes:
    return suite.seal(suite.public(KEYS[suite.name][0]), SECRET, INFO)


@pytest.fixture
def opener(suite: Suite) -> Callable[[bytes, bytes], bytes]:
    return suite.opener(KEYS[suite.name][0])


def test_both_suites_are_here_and_the_default_is_one_of_them() -> None:
    assert sorted(SUITES) == sorted(PUBLIC_BYTES)
    assert DEFAULT == "mlkem768-x25519"
    assert all(name == suite.name for name, suite in SUITES.items())


def test_what_is_sealed_opens_with_the_private_key_and_the_same_info(suite: Suite, sealed: bytes, opener: Callable) -> None:
    assert opener(sealed, INFO) == SECRET
    assert suite.opener(KEYS[suite.name][0])(sealed, INFO) == SECRET
    assert SECRET not in sealed


def test_sealing_twice_gives_different_bytes_of_one_length(suite: Suite, sealed: bytes, opener: Callable) -> None:
    again = suite.seal(suite.public(KEYS[suite.name][0]), SECRET, INFO)
    assert again != sealed
    assert len(again) == len(sealed)
    assert opener(again, INFO) == SECRET


def test_keys_are_fresh_and_public_keys_have_the_published_length(suite: Suite) -> None:
    one, other = KEYS[suite.name]
    assert one != other
    assert suite.public(one) != suite.public(other)
    assert suite.public(one) == suite.public(one)
    assert len(suite.public(one)) == PUBLIC_BYTES[suite.name]


def test_another_key_does_not_open(suite: Suite, sealed: bytes) -> None:
    with pytest.raises(ProtocolError, match="does not open"):
        suite.opener(KEYS[suite.name][1])(sealed, INFO)


@pytest.mark.parametrize("info", [b"", INFO + b"\0", INFO[:-1], b"another session"])
def test_other_info_does_not_open(sealed: bytes, opener: Callable, info: bytes) -> None:
    with pytest.raises(ProtocolError, match="does not open"):
        opener(sealed, info)


def test_no_truncation_opens(sealed: bytes, opener: Callable) -> None:
    for length in {0, 1, 31, 32, 33, 48, *range(len(sealed) - 50, len(sealed)), *range(0, len(sealed), 97)}:
        with pytest.raises(ProtocolError):
            opener(sealed[:length], INFO)
    with pytest.raises(ProtocolError):
        opener(sealed + b"\0", INFO)


def test_no_altered_byte_opens(sealed: bytes, opener: Callable) -> None:
    """Every 23rd byte, and all of the last part: the encapsulation of either half, the ciphertext and its tag."""
    for at in {*range(0, len(sealed), 23), *range(len(sealed) - 150, len(sealed))}:
        altered = bytearray(sealed)
        altered[at] ^= 0x80
        with pytest.raises(ProtocolError):
            opener(bytes(altered), INFO)


def test_the_classical_half_alone_does_not_open(suite: Suite, sealed: bytes) -> None:
    """A key that shares one half with the right one: the secret hangs on both halves."""
    right, wrong = KEYS[suite.name]
    cut = 32 if suite.name == "mlkem768-x25519" else 64
    for mixed in (right[:cut] + wrong[cut:], wrong[:cut] + right[cut:]):
        with pytest.raises(ProtocolError, match="does not open"):
            suite.opener(mixed)(sealed, INFO)


def test_a_seal_of_one_suite_is_nothing_to_the_other(sealed: bytes, suite: Suite) -> None:
    other = next(s for s in SUITES.values() if s is not suite)
    with pytest.raises(ProtocolError):
        other.opener(KEYS[other.name][0])(sealed, INFO)
    with pytest.raises(ProtocolError, match="not one of its suite"):
        other.seal(suite.public(KEYS[suite.name][0]), SECRET, INFO)


def test_bytes_that_are_no_public_key_are_refused(suite: Suite) -> None:
    good = suite.public(KEYS[suite.name][0])
    for bad in (b"", b"\0", good[:-1], good + b"\0", good[1:], bytes(32), bytes(len(good)), b"\xff" * len(good), good[:100]):
        with pytest.raises(ProtocolError, match="not one of its suite"):
            suite.seal(bad, SECRET, INFO)


def test_a_classical_half_of_small_order_is_refused() -> None:
    """RFC 7748, section 6.1: with the point 0 the shared secret would be 0 for everybody."""
    suite = SUITES["mlkem768-x25519"]
    public = suite.public(KEYS[suite.name][0])
    for point in (bytes(32), b"\1" + bytes(31)):
        with pytest.raises(ProtocolError):
            suite.seal(public[:-32] + point, SECRET, INFO)


def test_a_point_off_the_curve_or_at_infinity_is_refused() -> None:
    suite = SUITES["mlkem1024-p384"]
    public = suite.public(KEYS[suite.name][0])
    elsewhere = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    off = bytearray(public[-97:])
    off[-1] ^= 1
    for point in (b"\0", bytes(off), elsewhere, b"\4" + bytes(96)):
        with pytest.raises(ProtocolError):
            suite.seal(public[:-97] + point, SECRET, INFO)


def test_a_seal_with_a_bad_classical_half_does_not_open() -> None:
    suite = SUITES["mlkem768-x25519"]
    sealed = suite.seal(suite.public(KEYS[suite.name][0]), SECRET, INFO)
    enc = 1088
    other = x25519.X25519PrivateKey.generate().public_key().public_bytes_raw()
    for point in (bytes(32), other):
        with pytest.raises(ProtocolError):
            suite.opener(KEYS[suite.name][0])(sealed[:enc] + point + sealed[enc + 32 :], INFO)


def test_a_suite_is_chosen_by_name(suite: Suite) -> None:
    assert choose(suite.name) is suite
    assert choose(suite.name, retired=[n for n in SUITES if n != suite.name]) is suite


def test_a_retired_suite_is_refused(suite: Suite) -> None:
    with pytest.raises(MaskingRefused, match="retired"):
        choose(suite.name, retired=[suite.name])


@pytest.mark.parametrize("name", ["", "x25519", "MLKEM768-X25519", "mlkem768-x25519 "])
def test_an_unknown_suite_is_refused_and_the_known_ones_are_named(name: str) -> None:
    with pytest.raises(MaskingRefused, match="not known") as caught:
        choose(name)
    assert DEFAULT in str(caught.value)


def test_a_private_key_is_not_printed(suite: Suite) -> None:
    private = KEYS[suite.name][0]
    assert repr(private)[2:-1] not in repr(suite)
    assert private.hex() not in repr(suite)
