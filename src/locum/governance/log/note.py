"""Signed notes, checkpoints and cosignatures, in the formats that transparency logs share.

    origin <newline> size <newline> base64(root) <newline>
    <newline>
    — name base64(key id || signature) <newline>                   one line for the log, one for each witness

A log's signature is Ed25519 over the text; a witness signs 'cosignature/v1', the time and the text. The key id is the first four bytes of
SHA-256(name || 0x0A || type || public key), with type 0x01 for a log and 0x04 for a witness.

Source: C2SP signed-note, tlog-checkpoint, tlog-cosignature.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from locum.governance.log.merkle import LogError

LOG, WITNESS = 1, 4
MAX_NOTE_BYTES = 1 << 17
MOST_ENTRIES = (1 << 53) - 1
"""The largest size that every reader has as a whole number: JSON and JavaScript end there."""
_LINES = {LOG: 68, WITNESS: 76}
"""Bytes of a signature line: key id and signature, and between them a witness's time."""
Sign = Callable[[bytes], bytes]
"""Ed25519 over exactly these bytes."""


@dataclass(frozen=True)
class NoteKey:
    """A named verification key. kind: `LOG` or `WITNESS`. raw: 32 bytes."""

    name: str
    raw: bytes
    kind: int = LOG

    @property
    def id(self) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.raw).digest()[:4]

    def __str__(self) -> str:
        """The one-line form: name+id+base64(kind || key)."""
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(bytes([self.kind]) + self.raw).decode()}"

    @classmethod
    def parse(cls, text: str) -> NoteKey:
        """Raises `LogError`."""
        try:
            name, ident, body = text.strip().rsplit("+", 2) if text.count("+") == 2 else text.strip().split("+", 2)
            raw = base64.b64decode(body, validate=True)
            key = cls(name, raw[1:], raw[0])
        except (ValueError, IndexError, binascii.Error):
            raise LogError("A log's or witness's key is not in the form name+id+key.") from None
        if len(key.raw) != 32 or key.id.hex() != ident or key.kind not in (LOG, WITNESS) or not _named(name):
            raise LogError("A log's or witness's key does not fit its own name and id.", why="It was mistyped or altered.")
        return key

    def verify(self, signature: bytes, message: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return self.raw not in SMALL_ORDER


@dataclass(frozen=True)
class Checkpoint:
    """What a log says of itself: its name, how many entries it has, and their root."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Raises `LogError`."""
        lines = text.split("\n")
        try:
            if len(lines) != 4 or lines[3] or not _named(lines[0]) or not _SIZE.match(lines[1]) or int(lines[1]) > MOST_ENTRIES:
                raise ValueError
            checkpoint = cls(lines[0], int(lines[1]), base64.b64decode(lines[2], validate=True))
        except (ValueError, binascii.Error):
            raise LogError("A checkpoint is not in its one form.", fix="update both sides to the same release") from None
        if len(checkpoint.root) != 32 or checkpoint.text() != text:
            raise LogError("A checkpoint is not in its one form.", fix="update both sides to the same release")
        return checkpoint


@dataclass(frozen=True)
class Signed:
    """A checkpoint with its signature lines: (name, key id || signature)."""

    checkpoint: Checkpoint
    lines: tuple[tuple[str, bytes], ...] = ()

    def text(self) -> str:
        return self.checkpoint.text() + "\n" + "".join(f"— {name} {base64.b64encode(sig).decode()}\n" for name, sig in self.lines)

    @classmethod
    def parse(cls, text: str) -> Signed:
        """Raises `LogError`."""
        body, _, rest = text.partition("\n\n") if len(text) <= MAX_NOTE_BYTES else ("", "", "")
        if not rest.endswith("\n"):
            raise LogError("A checkpoint has no signatures.")
        lines = []
        for line in rest[:-1].split("\n"):  # a line ends with this character and no other that Unicode knows
            parts = line.split(" ")
            try:
                if len(parts) != 3 or parts[0] != "—" or not _named(parts[1]):
                    raise ValueError
                signature = base64.b64decode(parts[2], validate=True)
            except (ValueError, binascii.Error):
                raise LogError("A signature line of a checkpoint cannot be read.") from None
            lines.append((parts[1], signature))
        return cls(Checkpoint.parse(body + "\n"), tuple(lines))

    @classmethod
    def by(cls, checkpoint: Checkpoint, key: NoteKey, sign: Sign) -> Signed:
        """The log's own signature."""
        return cls(checkpoint, ((key.name, key.id + sign(checkpoint.text().encode())),))

    def cosigned(self, key: NoteKey, sign: Sign, now: int) -> Signed:
        """With a witness's line, which replaces an older one of the same key. now: Unix seconds."""
        line = (key.name, key.id + now.to_bytes(8, "big") + sign(_cosigned(now, self.checkpoint)))
        return Signed(self.checkpoint, (*(x for x in self.lines if (x[0], x[1][:4]) != (key.name, key.id)), line))

    def verify(self, key: NoteKey) -> None:
        """The log's signature; raises `LogError`."""
        if key.name != self.checkpoint.origin:
            raise LogError(f"The checkpoint is of the log '{self.checkpoint.origin}', not of '{key.name}'.")
        message = self.checkpoint.text().encode()
        if not any(name == key.name and sig[:4] == key.id and key.verify(sig[4:], message) for name, sig in self.lines):
            raise LogError(
                "The checkpoint is not signed by the log's key.", why="It was forged or altered.", fix="compare the log's key with the one you pinned"
            )

    def own(self, key: NoteKey, *others: NoteKey) -> Signed:
        """With the one line of each of these keys, verified, and no other. Raises `LogError` unless there is just one."""
        kept = []
        for k in (key, *others):
            mine = [x for x in self.lines if x[0] == k.name and x[1][:4] == k.id]
            if len(mine) != 1 or len(mine[0][1]) != _LINES[k.kind]:
                raise LogError(f"The checkpoint has {len(mine)} signature lines of '{k.name}', not one in its one form.")
            kept += mine
        signed = Signed(self.checkpoint, tuple(kept))
        signed.verify(key)
        signed.witnesses(others)
        return signed

    def witnesses(self, keys: Iterable[NoteKey]) -> dict[str, int]:
        """Which of these witnesses have cosigned, and when (Unix seconds). Raises `LogError` for a line in one's name that is not its own."""
        out = {}
        for key in keys:
            for name, sig in self.lines:
                if name != key.name or sig[:4] != key.id:
                    continue
                when = int.from_bytes(sig[4:12], "big")
                if len(sig) != 76 or not key.verify(sig[12:], _cosigned(when, self.checkpoint)):
                    raise LogError(f"The signature of the witness '{key.name}' is not its own.", why="It was forged, or belongs to another checkpoint.")
                out[key.name] = when
        return out


def _cosigned(when: int, checkpoint: Checkpoint) -> bytes:
    return f"cosignature/v1\ntime {when}\n{checkpoint.text()}".encode()


_SIZE = re.compile(r"(?:0|[1-9][0-9]{0,15})\Z")
_P = (1 << 255) - 19
_EIGHT = (0, 1, _P - 1, *(int(y, 16) for y in (
    "05fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826",
    "7a03ac9277fdc74ec6cc392cfa53202a0f67100d760b3cba4fd84d3d706a17c7",
)))  # fmt: skip
SMALL_ORDER = frozenset((y + again | sign << 255).to_bytes(32, "little") for y in _EIGHT for again in (0, _P) for sign in (0, 1) if y + again < 1 << 255)
"""Keys under which one signature is good for many texts, for their point has an order of at most 8 (RFC 8032, section 8.4 and 8.9)."""


def _named(name: str) -> bool:
    return 0 < len(name) <= 256 and not any(c.isspace() or c == "+" for c in name) and name.isprintable()
