"""What the verifier of audit bundles reads: the archive, canonical JSON, signed envelopes, checkpoints, and the log's entries.

The formats are written again here from their specifications, in the standard library and `cryptography` alone, so that a bundle is not judged by
the code that made it.

Source: RFC 8032 (Ed25519), RFC 8785 (canonical JSON), RFC 9162 section 2.1 (Merkle proofs), C2SP signed-note and tlog-cosignature.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SCHEMA = "locum/audit-bundle/1"
INDEX, MODEL = "index.json", "model.safetensors"
FIXED = ("complete.json", "entries.json", "checkpoint.txt", "keys.json", "manifest.json", "results.json", "rosters.json", "study.json")
MOST_FILES, MOST_BYTES, MOST_MODEL_BYTES = 100_002, 256 << 20, 8 << 30


class Bad(Exception):
    """What does not hold, in one sentence."""


# --- the formats, written again from their specifications --------------------------------------------------------------


def canonical(value: Any) -> bytes:
    """RFC 8785, for strings, booleans, null, integers and numbers of ordinary size."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def parse(raw: bytes, what: str, *, one_form: bool = True) -> Any:
    """JSON without a key given twice; with `one_form` its bytes are the canonical ones."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({k for k, _ in pairs}) < len(pairs):
            raise Bad(f"{what} gives a key twice")
        return dict(pairs)

    try:
        value = json.loads(raw, object_pairs_hook=once, parse_constant=_no_number)
        if one_form and canonical(value) != raw:
            raise Bad(f"{what} is not in canonical form")
    except (ValueError, RecursionError):
        raise Bad(f"{what} is not valid JSON") from None
    return value


def _no_number(_: str) -> None:
    raise ValueError


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def unb64(text: str) -> bytes:
    if not re.fullmatch(r"[A-Za-z0-9_-]*", text):
        raise ValueError
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_")


def unhex(text: str) -> bytes:
    if not re.fullmatch(r"([0-9a-f]{2})*", text):
        raise ValueError
    return bytes.fromhex(text)


def number(value: Any) -> int:
    """A whole number that every reader has as the same one."""
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise ValueError
    return value


def fingerprint(raw: bytes) -> str:
    digest = sha256(b"locum/key/1\0", raw).hex()[:16]
    return "-".join(digest[i : i + 4] for i in range(0, 16, 4))


_P = (1 << 255) - 19
_EIGHT = (0, 1, _P - 1, *(int(y, 16) for y in (
    "05fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826",
    "7a03ac9277fdc74ec6cc392cfa53202a0f67100d760b3cba4fd84d3d706a17c7",
)))  # fmt: skip
SMALL_ORDER = frozenset((y + again | sign << 255).to_bytes(32, "little") for y in _EIGHT for again in (0, _P) for sign in (0, 1) if y + again < 1 << 255)
"""Keys under which one signature is good for many texts: their point has an order of at most 8. Not every library refuses them."""
_KEYS: dict[bytes, Ed25519PublicKey] = {}


def signed(key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        if key not in _KEYS:
            _KEYS[key] = Ed25519PublicKey.from_public_bytes(key)
        _KEYS[key].verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return key not in SMALL_ORDER


def included(n: int, size: int, entry: bytes, proof: Sequence[bytes], root: bytes) -> bool:
    """RFC 9162, section 2.1.3.2."""
    position, last, here = n, size - 1, sha256(b"\x00", entry)
    for sibling in proof:
        if last == 0 or len(sibling) != 32:
            return False
        if position & 1 or position == last:
            here = sha256(b"\x01", sibling, here)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            here = sha256(b"\x01", here, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and hmac.compare_digest(here, root)


@dataclass(frozen=True)
class Note:
    """A signed checkpoint: the text that is signed, what it says, and the signature lines."""

    text: str
    origin: str
    size: int
    root: bytes
    lines: list[tuple[str, bytes]]

    @classmethod
    def parse(cls, note: str) -> Note:
        text, _, rest = note.partition("\n\n")
        origin, size, root = text.split("\n")
        lines = [line.split(" ") for line in rest[:-1].split("\n")] if rest != "\n" else []
        good = rest.endswith("\n") and re.fullmatch(r"0|[1-9][0-9]{0,15}", size) and int(size) < 1 << 53 and len(unb64root(root)) == 32
        if not good or any(len(x) != 3 or x[0] != "—" for x in lines):
            raise Bad("the checkpoint is not in its one form")
        return cls(text + "\n", origin, int(size), unb64root(root), [(x[1], unb64root(x[2])) for x in lines])

    @staticmethod
    def id(name: str, kind: int, key: bytes) -> bytes:
        return sha256(name.encode(), b"\n", bytes([kind]), key)[:4]


def unb64root(text: str) -> bytes:
    if not re.fullmatch(r"[A-Za-z0-9+/]*={0,2}", text) or len(text) % 4:
        raise ValueError
    return base64.b64decode(text)


def open_envelope(text: str, sender: str, keys: Sequence[bytes], **expected: object) -> dict[str, Any]:
    """What an envelope says, if one of these keys signed it for just this."""
    raw = unb64(text) if len(text) <= 8192 else b""
    if not any(signed(key, raw[:64], b"locum/envelope/1\0" + raw[64:]) for key in keys):
        raise Bad(f"it is not signed by {sender}'s key")
    value = parse(raw[64:], "an envelope", one_form=False)
    for name, wanted in {"sender": sender, **expected}.items():
        found = value.get(name, {"run": "", "seq": -1}.get(name))
        if type(found) is not type(wanted) or found != wanted:
            raise Bad(f"it was made for another {name}: it is replayed or stale")
    return dict(value)


# --- the bundle --------------------------------------------------------------------------------------------------------


def read(path: str) -> tuple[dict[str, bytes], str]:
    """Every file but the model, and the model's SHA-256 ('' if it is not here). Raises `Bad`."""
    try:
        with zipfile.ZipFile(path) as archive:
            _one_directory(archive)
            return _read(archive)
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise Bad(f"the bundle cannot be read as a zip file ({type(error).__name__})") from None


def _one_directory(archive: zipfile.ZipFile) -> None:
    """That no second directory, of the 64-bit kind, stands beside one that says all: readers would differ in which they believe."""
    file = archive.fp
    if file is None or file.seek(0, 2) < 42:
        return
    file.seek(-42, 2)
    locator, end = file.read(20), file.read(22)
    if locator[:4] == b"PK\x06\x07" and end[8:12] != b"\xff" * 4 and end[12:16] != b"\xff" * 4 and end[16:20] != b"\xff" * 4:
        raise Bad("it has two directories, and readers would differ in which they believe")


def _read(archive: zipfile.ZipFile) -> tuple[dict[str, bytes], str]:
    members = archive.infolist()
    names = [m.filename for m in members]
    if len(names) > MOST_FILES:
        raise Bad("it has more files than a bundle may have")
    found: set[str] = set()
    for name in names:
        if name in found:
            raise Bad(f"'{name[:80]}' is there twice")
        found.add(name)
    if archive.comment or not members or min(m.header_offset for m in members):
        raise Bad("there is more in the file than the archive")
    for m in members:
        if m.filename != INDEX and not _known(m.filename):
            raise Bad(f"'{m.filename[:80]}' is an extra file, or its name leads out of the bundle")
        if m.flag_bits & 1 or m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Bad(f"'{m.filename}' is encrypted, or packed in a way that is not read here")
        if m.orig_filename != m.filename or m.external_attr >> 28 == 0xA:
            raise Bad(f"'{m.filename}' is a link, or goes by another name as well")
    if INDEX not in names:
        raise Bad(f"{INDEX} is missing")
    left = [MOST_BYTES]
    index = parse(b"".join(_pieces(archive, INDEX, MOST_BYTES, left)), INDEX)
    if index["schema"] != SCHEMA:
        raise Bad("it is a bundle of another version")
    listed = index["files"]
    for name in sorted({*FIXED, *listed} - set(names)):
        raise Bad(f"'{name}' is missing")
    for name in sorted(set(names) - set(listed) - {INDEX}):
        raise Bad(f"'{name}' is an extra file: the index does not list it")
    files: dict[str, bytes] = {}
    model = ""
    for name in sorted(listed):
        limit, digest, kept = number(listed[name]["bytes"]), hashlib.sha256(), []
        budget = [MOST_MODEL_BYTES] if name == MODEL else left
        for piece in _pieces(archive, name, limit, budget):
            digest.update(piece)
            if name != MODEL:
                kept.append(piece)
        if digest.hexdigest() != listed[name]["sha256"]:
            raise Bad(f"'{name}' is not the file that the index lists: it was altered")
        if name == MODEL:
            model = digest.hexdigest()
        else:
            files[name] = b"".join(kept)
    return files, model


def _known(name: str) -> bool:
    number = name.removeprefix("rounds/").removesuffix(".json")
    return name in FIXED or name == MODEL or (name == f"rounds/{number}.json" and len(number) == 6 and number.isascii() and number.isdecimal())


def _pieces(archive: zipfile.ZipFile, name: str, limit: int, left: list[int]) -> Iterator[bytes]:
    """A file's content, never more than the index says of it, nor more than is left for all."""
    with archive.open(name) as f:
        while piece := f.read(1 << 20):
            limit, left[0] = limit - len(piece), left[0] - len(piece)
            if limit < 0 or left[0] < 0:
                raise Bad(f"'{name}' is longer than the index says, or than a bundle may be")
            yield piece


@dataclass(frozen=True)
class Entry:
    n: int
    body: bytes
    proof: list[bytes]
    at: float
    by: str
    event: str
    subject: str
    details: dict[str, Any]

    def __str__(self) -> str:
        return f"entry {self.n} ({self.event} by {self.by})"


class Log:
    """The entries of a bundle in their order: who had which key, and who approved, at any entry."""

    def __init__(self, listed: list[dict[str, Any]]) -> None:
        self.entries: list[Entry] = []
        for given in listed:
            value = parse(given["body"].encode(), f"entry {given['n']}")
            self.entries.append(Entry(number(given["n"]), given["body"].encode(), [unhex(h) for h in given["proof"]], **value))
        self.entries.sort(key=lambda e: e.n)
        self.spans: dict[str, list[tuple[bytes, int, float]]] = {}
        self._about: dict[str, list[Entry]] = {}
        self._said: dict[tuple[str, str], list[Entry]] = {}
        for e in self.entries:
            self._about.setdefault(e.subject, []).append(e)
            if e.event.startswith("site:study:"):
                self._said.setdefault((e.subject, e.by), []).append(e)
            self._key(e)

    def _key(self, e: Entry) -> None:
        spans = self.spans.setdefault(e.subject, [])
        if e.event in ("party:party:enrolled", "operator:party:revoked") and spans and spans[-1][2] == math.inf:
            spans[-1] = (*spans[-1][:2], e.n)
        if e.event == "party:party:enrolled":
            spans.append((unb64(e.details["public_key"]), e.n, math.inf))

    def about(self, subject: str, *events: str) -> list[Entry]:
        return [e for e in self._about.get(subject, []) if not events or e.event in events]

    def one(self, subject: str, event: str, **details: object) -> Entry:
        found = [e for e in self.about(subject, event) if all(e.details.get(k) == v for k, v in details.items())]
        if len(found) != 1:
            raise Bad(f"the log has {len(found)} entries '{event}' about {subject[:20]}, not one")
        return found[0]

    def keys(self, party: str, first: float, last: float) -> list[bytes]:
        """The keys that were in force between two entries. Raises `Bad` where there was none."""
        spans = self.spans.get(party, [])
        found = [key for key, start, end in spans if start < last and end > first]
        if not found:
            gone = [end for _, _, end in spans if end <= first]
            raise Bad(f"the key of {party} was revoked by entry {int(max(gone))}, before" if gone else f"{party} was not enrolled, by the log")
        return found

    def decisions(self, study: str) -> list[Entry]:
        return [e for e in self.about(study) if e.event.startswith("site:study:")]

    def approved(self, study: str, site: str, first: int, last: int) -> bool:
        """Whether a site's approval was in force at some time between two entries."""
        said = [e for e in self._said.get((study, site), []) if e.n < last]
        before = [e for e in said if e.n <= first]
        return any(e.event == "site:study:approved" for e in [*before[-1:], *(e for e in said if e.n > first)])
