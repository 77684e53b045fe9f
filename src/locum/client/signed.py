"""A study with its requester's signature, as a file: signed where the key is, and handed in later.

It holds the canonical manifest (RFC 8785) and the very envelope that goes with it to the coordinator, so that the file adds nothing that could
say something else. The public key in it lets anybody verify the file; whose key that is, the log says (`party:party:enrolled`).
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from locum.errors import EnvelopeError, ManifestError
from locum.federation.envelope import Envelope
from locum.federation.identity import Identity, PublicKey
from locum.study.canonical import canonical, sha256
from locum.study.document import MAX_DOCUMENT_BYTES
from locum.study.manifest import Study

SCHEMA = "locum/signed-study/1"
MAX_BYTES = 2 * MAX_DOCUMENT_BYTES + 16384
"""A manifest within a JSON text has its quotation marks escaped."""
AGAIN = "sign the study again: locum study sign FILE"


class SignedStudy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """manifest: canonical JSON, as text. envelope: over its SHA-256, in the requester's name. key: the requester's public key."""

    schema: str
    manifest: str
    envelope: str
    key: str

    @classmethod
    def sign(cls, study: Study, name: str, identity: Identity) -> SignedStudy:
        """The study, signed by the party `name`."""
        envelope = Envelope(kind="study", study=study.digest, sender=name, digest=study.digest).seal(identity)
        return cls(schema=SCHEMA, manifest=study.canonical.decode(), envelope=envelope, key=str(identity.public))

    def encode(self) -> bytes:
        return canonical(msgspec.to_builtins(self)) + b"\n"

    @classmethod
    def decode(cls, raw: bytes, *, where: str) -> SignedStudy:
        """Raises `ManifestError` for what is no such file; nothing is verified yet."""
        try:
            found = msgspec.json.decode(raw, type=cls)
        except (msgspec.DecodeError, RecursionError):
            found = None
        if found is None or found.schema != SCHEMA:
            raise ManifestError(f"{where} is no signed study.", fix="give the file that 'locum study sign' wrote, or the study's own TOML file")
        return found

    def open(self) -> tuple[Study, str]:
        """The study and the name that it was signed in. Raises `EnvelopeError` where it is not what was signed."""
        envelope = Envelope.open(self.envelope, PublicKey.parse(self.key), kind="study")
        digest = sha256(self.manifest.encode())
        if not digest == envelope.digest == envelope.study:
            raise EnvelopeError(
                "The study was altered after it was signed.", why=f"Signed is {envelope.digest[:12]}, and the file holds {digest[:12]}.", fix=AGAIN
            )
        study = Study.from_json(self.manifest.encode())
        if study.digest != digest:
            raise ManifestError("The signed study is not in the canonical form of this version.", fix=f"use one release on both machines, and {AGAIN}")
        return study, envelope.sender


def read(file: Path) -> SignedStudy | None:
    """The signed study in a file; None where the file is no JSON object, and so perhaps a study in TOML. Raises `ManifestError`."""
    try:
        with file.open("rb") as f:
            raw = f.read(MAX_BYTES + 1) if file.is_file() else b""
    except OSError:
        return None  # whoever reads it as a study says why
    if not raw.lstrip().startswith(b"{"):
        return None
    if len(raw) > MAX_BYTES:
        raise ManifestError(f"{file.name} is larger than a signed study may be.", fix="give the file that 'locum study sign' wrote")
    return SignedStudy.decode(raw, where=file.name)


def handed_in(signed: SignedStudy, name: str, key: PublicKey) -> Study:
    """The study, if it is this party's to hand in. Raises `EnvelopeError`, also for one that another requester signed."""
    study, sender = signed.open()
    if sender != name:
        raise EnvelopeError(
            f"The study was signed by '{sender}', and you are '{name}'.",
            why="A study is handed in by whoever signed it.",
            fix=f"let '{sender}' submit it, or sign it yourself: locum study sign FILE",
        )
    if signed.key != str(key):
        raise EnvelopeError(
            "The study was signed with another key than yours.",
            why=f"It was signed with {PublicKey.parse(signed.key).fingerprint}; yours is {key.fingerprint}.",
            fix="sign it again with the key of your membership, or give --key the one that you enrolled with",
        )
    return study
