"""Control messages: one encoding of each, and whatever else arrives is a `ProtocolError`, never another exception."""

import contextlib
from datetime import UTC
from typing import Any

import cbor2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.errors import LocumError
from locum.secagg import messages
from locum.secagg.errors import ProtocolError
from locum.secagg.messages import Column, Confirm, Join, KeyList, Keys, Request, Roster, Seal, Seals, Survivors, Unmask, decode, encode

key = st.binary(min_size=32, max_size=32)
signature = st.binary(min_size=64, max_size=64)
blob = st.binary(max_size=100)
number = st.integers(0, messages.MAX_SITES - 1)
numbers = st.lists(number, max_size=6).map(tuple)
name = st.text(max_size=64)
keys = st.builds(Keys, blob, key, signature)
seal = st.builds(Seal, blob, signature)


def by(k: st.SearchStrategy, v: st.SearchStrategy) -> st.SearchStrategy:
    return st.dictionaries(k, v, max_size=5)


MESSAGES = st.one_of(
    keys,
    st.builds(KeyList, by(name, keys)),
    seal,
    st.builds(Seals, key, by(name, seal)),
    st.builds(Column, by(name, key), by(name, seal)),
    st.builds(Join, numbers, key, key, st.lists(blob, max_size=4).map(tuple), blob, signature),
    st.builds(Roster, by(number, st.tuples(key, signature)), by(number, blob)),
    st.builds(Survivors, numbers),
    st.builds(Confirm, signature),
    st.builds(Request, numbers, by(number, signature)),
    st.builds(Unmask, key, by(number, blob), by(number, blob)),
)
KINDS = (Keys, KeyList, Seal, Seals, Column, Join, Roster, Survivors, Confirm, Request, Unmask)
JOIN = Join((1, 2), bytes(32), bytes(32), (b"a", b"b"), b"escrow", bytes(64))
UNMASK = Unmask(bytes(32), {3: b"share"}, {700: b"other"})


@given(MESSAGES)
def test_round_trip(message: msgspec.Struct) -> None:
    raw = encode(message)
    assert decode(raw, type(message)) == message
    assert encode(decode(raw, type(message))) == raw


@given(MESSAGES)
def test_the_order_in_which_a_map_was_filled_does_not_matter(message: msgspec.Struct) -> None:
    turned = msgspec.structs.replace(message)
    for f in message.__struct_fields__:
        value = getattr(message, f)
        if isinstance(value, dict):
            turned = msgspec.structs.replace(turned, **{f: dict(reversed(value.items()))})
    assert encode(turned) == encode(message)


@given(MESSAGES)
def test_each_kind_is_read_as_itself_alone(message: msgspec.Struct) -> None:
    raw = encode(message)
    for kind in KINDS:
        if kind is not type(message):
            with pytest.raises(ProtocolError):
                decode(raw, kind)


@given(MESSAGES, st.data())
def test_a_truncated_message_is_refused(message: msgspec.Struct, data: st.DataObject) -> None:
    raw = encode(message)
    with pytest.raises(ProtocolError):
        decode(raw[: data.draw(st.integers(0, len(raw) - 1))], type(message))


@given(MESSAGES, st.binary(min_size=1, max_size=3))
def test_bytes_after_the_message_are_refused(message: msgspec.Struct, more: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(encode(message) + more, type(message))


@given(st.binary(max_size=200), st.sampled_from(KINDS))
def test_garbage_is_a_protocol_error(raw: bytes, kind: type[msgspec.Struct]) -> None:
    with pytest.raises(ProtocolError):
        decode(raw, kind)


anything = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.binary(max_size=70),
        st.text(max_size=70),
        st.datetimes(timezones=st.just(UTC)),
        st.decimals(allow_nan=False),
        st.fractions(),
        st.uuids(),
        st.ip_addresses(),
        st.integers(0, 19).map(cbor2.CBORSimpleValue),
        st.just(cbor2.undefined),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.text(max_size=9), st.integers(0, 9), st.binary(max_size=9)), inner, max_size=4),
        st.builds(cbor2.CBORTag, st.integers(0, 70000), inner),
    ),
    max_leaves=8,
)


@given(st.data(), st.sampled_from(KINDS))
def test_well_formed_cbor_of_the_wrong_content_is_a_protocol_error(data: st.DataObject, kind: type[msgspec.Struct]) -> None:
    """Right field names, and anything at all in them."""
    value = {f: data.draw(anything) for f in kind.__struct_fields__}
    raw = cbor2.dumps(value, canonical=True)
    try:
        message = decode(raw, kind)
    except ProtocolError:
        return
    assert encode(message) == raw


@given(st.integers(0, 10**9), st.integers(1, 255), st.sampled_from([JOIN, UNMASK]))
def test_an_altered_byte_is_refused_or_is_another_message(at: int, flip: int, message: msgspec.Struct) -> None:
    raw = bytearray(encode(message))
    raw[at % len(raw)] ^= flip
    try:
        other = decode(bytes(raw), type(message))
    except ProtocolError:
        return
    assert other != message
    assert encode(other) == raw


# --- a folder of bad inputs ---------------------------------------------------------------------------------------------

S = b"survivors".hex()
SURVIVORS = "69" + S  # as CBOR

BAD_SURVIVORS = {
    "empty": "",
    "not a map": "8101",
    "null": "f6",
    "break alone": "ff",
    "reserved additional information": "1c",
    "an empty map": "a0",
    "no such field": "a1" + "6161" + "80",
    "one field too many": "a2" + "6161" + "00" + SURVIVORS + "80",
    "a number for a list": "a1" + SURVIVORS + "01",
    "text in the list": "a1" + SURVIVORS + "81" + "6130",
    "true in the list": "a1" + SURVIVORS + "81" + "f5",
    "null in the list": "a1" + SURVIVORS + "81" + "f6",
    "a negative number": "a1" + SURVIVORS + "81" + "20",
    "a number above the most sites": "a1" + SURVIVORS + "81" + "1907d0",
    "the largest number of 64 bits": "a1" + SURVIVORS + "81" + "1b" + "ff" * 8,
    "the least number of 65 bits": "a1" + SURVIVORS + "81" + "3b" + "ff" * 8,
    "a bignum": "a1" + SURVIVORS + "81" + "c24101",
    "a float that is whole": "a1" + SURVIVORS + "81" + "f93c00",
    "a NaN": "a1" + SURVIVORS + "81" + "f97e00",
    "a number in two bytes that fits in one": "a1" + SURVIVORS + "81" + "1801",
    "a number in nine bytes": "a1" + SURVIVORS + "81" + "1b" + "00" * 7 + "01",
    "a length in two bytes that fits in one": "a1" + SURVIVORS + "9800",
    "a key whose length is written longer": "a1" + "7809" + S + "80",
    "an indefinite map": "bf" + SURVIVORS + "80" + "ff",
    "an indefinite list": "a1" + SURVIVORS + "9f" + "01" + "ff",
    "an indefinite key": "a1" + "7f" + SURVIVORS + "ff" + "80",
    "a key as bytes": "a1" + "49" + S + "80",
    "the same key twice": "a2" + SURVIVORS + "80" + SURVIVORS + "80",
    "a map of two that holds one": "a2" + SURVIVORS + "80",
    "a list longer than the message": "a1" + SURVIVORS + "9a" + "ffffffff",
    "bytes longer than the message": "a1" + SURVIVORS + "5b" + "7f" + "ff" * 7,
    "a key that is no UTF-8": "a1" + "69" + S[:-2] + "ff" + "80",
    "a lone surrogate": "a1" + "63eda080" + "80",
    "tagged: self-described CBOR": "d9d9f7" + "a1" + SURVIVORS + "80",
    "tagged: date": "a1" + SURVIVORS + "c0" + "6a323031332d39392d3939",
    "tagged: bignum that is no bytes": "a1" + SURVIVORS + "c2" + "01",
    "tagged: decimal with a huge exponent": "a1" + SURVIVORS + "c4" + "82" + "1b" + "7f" + "ff" * 7 + "01",
    "tagged: bigfloat": "a1" + SURVIVORS + "c5" + "82" + "01" + "01",
    "tagged: shared reference to nothing": "a1" + SURVIVORS + "d81d" + "05",
    "tagged: a list that holds itself": "a1" + SURVIVORS + "d81c" + "81" + "d81d" + "00",
    "tagged: string reference": "a1" + SURVIVORS + "d819" + "05",
    "tagged: rational by zero": "a1" + SURVIVORS + "d81e" + "82" + "01" + "00",
    "tagged: regular expression": "a1" + SURVIVORS + "d823" + "6128",
    "tagged: MIME": "a1" + SURVIVORS + "d824" + "60",
    "tagged: UUID": "a1" + SURVIVORS + "d825" + "4100",
    "tagged: set": "a1" + SURVIVORS + "d90102" + "8101",
    "tagged: network address": "a1" + SURVIVORS + "d90104" + "4101",
    "tagged: not registered": "a1" + SURVIVORS + "da7fffffff" + "80",
    "a map as a key": "a1" + "a0" + "00",
    "a list as a key": "a1" + "8101" + "00",
    "undefined": "a1" + SURVIVORS + "f7",
    "a simple value": "a1" + SURVIVORS + "81" + "e0",
    "deep lists": "a1" + SURVIVORS + "81" * 100_000 + "80",
    "deep maps": "a101" * 100_000 + "00",
    "deep tags": "c1" * 100_000 + "00",
}


def test_the_good_one_that_the_bad_ones_are_made_from() -> None:
    assert decode(bytes.fromhex("a1" + SURVIVORS + "820102"), Survivors) == Survivors((1, 2))


@pytest.mark.parametrize("raw", BAD_SURVIVORS.values(), ids=list(BAD_SURVIVORS))
def test_a_bad_message_is_refused(raw: str) -> None:
    with pytest.raises(ProtocolError):
        decode(bytes.fromhex(raw), Survivors)


@pytest.mark.parametrize("tag", [*range(64), 100, 256, 258, 260, 261, 262, 1004, 43000, 55799, 2**32, 2**64 - 1])
def test_every_tag_is_refused_on_whatever_it_stands(tag: int) -> None:
    for inside in ([], [1], 1, b"\1", "1", {}, [1, 2], None):
        for value in (cbor2.CBORTag(tag, {"survivors": [1]}), {"survivors": cbor2.CBORTag(tag, inside)}, {"survivors": [cbor2.CBORTag(tag, inside)]}):
            with pytest.raises(ProtocolError):
                decode(cbor2.dumps(value), Survivors)


def test_what_a_tag_stands_for_is_not_even_made(recwarn: pytest.WarningsRecorder) -> None:
    """A regular expression is compiled by cbor2's own decoder of tag 35, and this one would warn: so that decoder has not run."""
    expression = cbor2.CBORTag(35, "[[never compiled")
    with pytest.raises(ProtocolError):
        decode(cbor2.dumps({"survivors": expression}), Survivors)
    assert not recwarn.list
    with pytest.warns(FutureWarning), contextlib.suppress(cbor2.CBORDecodeError):
        cbor2.loads(cbor2.dumps(expression))


def with_field(message: msgspec.Struct, **changes: Any) -> bytes:
    return cbor2.dumps(msgspec.to_builtins(message, builtin_types=(bytes,), str_keys=False) | changes, canonical=True)


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        (JOIN, {"commit_b": bytes(31)}),
        (JOIN, {"commit_k": bytes(33)}),
        (JOIN, {"signature": bytes(63)}),
        (JOIN, {"signature": "s" * 64}),
        (JOIN, {"shares": [bytes(4097)]}),
        (JOIN, {"shares": [[b"a"]]}),
        (JOIN, {"neighbours": [2000]}),
        (JOIN, {"neighbours": {1: 2}}),
        (JOIN, {"escrow": None}),
        (JOIN, {"extra": 1}),
        (UNMASK, {"shares_b": {-1: b""}}),
        (UNMASK, {"shares_b": {"1": b""}}),
        (UNMASK, {"shares_b": {2000: b""}}),
        (UNMASK, {"shares_b": [b""]}),
        (UNMASK, {"shares_k": {1: "text"}}),
        (Column({"a": bytes(32)}, {}), {"nonces": {"a" * 65: bytes(32)}}),
        (Column({"a": bytes(32)}, {}), {"nonces": {b"a": bytes(32)}}),
        (Column({"a": bytes(32)}, {}), {"nonces": {1: bytes(32)}}),
        (Roster({1: (bytes(32), bytes(64))}, {}), {"joined": {1: [bytes(32)]}}),
        (Roster({1: (bytes(32), bytes(64))}, {}), {"joined": {1: [bytes(32), bytes(64), b""]}}),
    ],
)
def test_a_field_of_the_wrong_type_or_size_is_refused(message: msgspec.Struct, changes: dict[str, Any]) -> None:
    assert with_field(message) == encode(message)
    with pytest.raises(ProtocolError):
        decode(with_field(message, **changes), type(message))


@pytest.mark.parametrize("field", JOIN.__struct_fields__)
def test_a_missing_field_is_refused(field: str) -> None:
    value = msgspec.to_builtins(JOIN, builtin_types=(bytes,), str_keys=False)
    del value[field]
    with pytest.raises(ProtocolError):
        decode(cbor2.dumps(value, canonical=True), Join)


def test_map_keys_in_another_order_are_refused() -> None:
    canonical, other = "a2" + "0a40" + "186440", "a2" + "186440" + "0a40"
    raw = encode(Unmask(bytes(32), {10: b"", 100: b""}, {})).hex()
    assert canonical in raw
    with pytest.raises(ProtocolError):
        decode(bytes.fromhex(raw.replace(canonical, other)), Unmask)


def test_the_longest_message_is_read_and_a_longer_one_is_not() -> None:
    empty = len(encode(msgspec.structs.replace(JOIN, escrow=bytes(2**20))))
    longest = msgspec.structs.replace(JOIN, escrow=bytes(messages.MAX_BYTES - empty + 2**20))
    assert len(encode(longest)) == messages.MAX_BYTES
    assert decode(encode(longest), Join) == longest
    with pytest.raises(ProtocolError, match="at most"):
        decode(encode(msgspec.structs.replace(longest, escrow=longest.escrow + b"\0")), Join)


def test_the_error_is_of_the_family_says_which_message_and_holds_none_of_it() -> None:
    with pytest.raises(LocumError) as caught:
        decode(with_field(UNMASK, b=b"a patient's secret"), Unmask)
    assert "Unmask" in str(caught.value)
    assert "patient" not in str(caught.value)
    assert caught.value.__cause__ is None
