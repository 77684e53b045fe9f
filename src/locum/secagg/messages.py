"""The control messages: deterministic CBOR (RFC 8949, section 4.2.1), typed, bounded, and refused if anything is unknown.

Sites are named in the set-up, and numbered in a round: a number is a position in the round's roster (sorted by name).
"""

from __future__ import annotations

from typing import Annotated, Any, NoReturn, TypeVar

import cbor2
import msgspec

from locum.secagg.errors import ProtocolError

MAX_BYTES = 4 << 20
"""The longest control message: the seals of a site to 2,000 others are 2.6 MB."""
MAX_SITES = 2000
_MAX_DEPTH = 5

T = TypeVar("T", bound=msgspec.Struct)
Name = Annotated[str, msgspec.Meta(max_length=64)]
Key = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
Blob = Annotated[bytes, msgspec.Meta(max_length=4096)]
Number = Annotated[int, msgspec.Meta(ge=0, lt=MAX_SITES)]


class Keys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Set-up 1, from a site: its session key, a commitment to its nonce, and the signature over both."""

    public: Blob
    commitment: Key
    signature: Signature


class KeyList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Set-up 1, to all sites."""

    keys: dict[Name, Keys]


class Seal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """32 random bytes for one other site, under its session key, signed by the sender."""

    sealed: Blob
    signature: Signature


class Seals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Set-up 2, from a site: a seal for every other site, and its nonce."""

    nonce: Key
    seals: dict[Name, Seal]


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Set-up 2, to one site: the seals for it, and everybody's nonce. The senders are the session's members."""

    nonces: dict[Name, Key]
    seals: dict[Name, Seal]


class Join(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Round 1, from a site. neighbours: numbers in ascending order; shares: sealed, in that order.

    commit_b and commit_k let the coordinator see a corrupt share. escrow: the pair seeds under K, in the order of neighbours.
    """

    neighbours: tuple[Number, ...]
    commit_b: Key
    commit_k: Key
    shares: tuple[Blob, ...]
    escrow: bytes
    signature: Signature


class Roster(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Round 1, to one site: who joined (number -> digest and signature of the JOIN), and the shares for it."""

    joined: dict[Number, tuple[Key, Signature]]
    shares: dict[Number, Blob]


class Survivors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Round 2, to the sites whose masked vector arrived: U2."""

    survivors: tuple[Number, ...]


class Confirm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Round 3, from a site: its one signature over (Mh, J, H(U2))."""

    signature: Signature


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Round 3, to U2: the quorum's signatures on U2."""

    survivors: tuple[Number, ...]
    signatures: dict[Number, Signature]


class Unmask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Round 4, from a site: its own b, its shares of its surviving neighbours' b and of its dropped neighbours' K."""

    b: Key
    shares_b: dict[Number, Blob]
    shares_k: dict[Number, Blob]


def encode(message: msgspec.Struct) -> bytes:
    """The one encoding of a message."""
    return cbor2.dumps(msgspec.to_builtins(message, builtin_types=(bytes,), str_keys=False), canonical=True)


def decode(raw: bytes, kind: type[T]) -> T:
    """Raises `ProtocolError` for anything but the one encoding of a `kind`."""
    if len(raw) > MAX_BYTES:
        raise ProtocolError(f"A control message has {len(raw)} bytes; at most {MAX_BYTES} are read.")
    try:
        value = cbor2.loads(raw, tag_hook=_no_tag, semantic_decoders=_NO_TAGS, max_depth=_MAX_DEPTH, allow_indefinite=False, allow_duplicate_keys=False)
        message = msgspec.convert(value, kind, strict=True)
    except (cbor2.CBORDecodeError, msgspec.ValidationError, ValueError, TypeError, OverflowError, RecursionError, MemoryError):
        raise ProtocolError(f"A {kind.__name__} message is not what this version understands.", fix="update both sides to the same release") from None
    if encode(message) != raw:
        raise ProtocolError(f"A {kind.__name__} message is not in its one encoding.", why="Something else than Locum wrote it.")
    return message


def _no_tag(*_: Any) -> NoReturn:
    raise ValueError("tags are not used here")


_NO_TAGS = dict.fromkeys((0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799), _no_tag)
