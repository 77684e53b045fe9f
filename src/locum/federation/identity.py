"""Who a party is: an Ed25519 key (RFC 8032) in a file of its own, readable by its owner alone."""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from locum.errors import LocumError, NotEnrolled
from locum.study.canonical import sha256


class PublicKey:
    """A party's public key. Text form: unpadded URL-safe base64 of the 32 raw bytes."""

    def __init__(self, raw: bytes) -> None:
        if len(raw) != 32:
            raise NotEnrolled("A public key must be 32 bytes.")
        self.raw = raw
        self._key = Ed25519PublicKey.from_public_bytes(raw)

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """From text; raises `NotEnrolled`."""
        return cls(unb64(text, limit=64))

    def __str__(self) -> str:
        return b64(self.raw)

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits in groups, for people to compare over the telephone."""
        digest = sha256(b"locum/key/1\0", self.raw)[:16]
        return "-".join(digest[i : i + 4] for i in range(0, 16, 4))

    def verify(self, label: bytes, signature: bytes, message: bytes) -> bool:
        """Whether `signature` is this key's over label, a zero byte, and message."""
        try:
            self._key.verify(signature, label + b"\0" + message)
        except InvalidSignature:
            return False
        return True


class Identity:
    """A private key. It is never printed, logged, or put in an error."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw))

    def __repr__(self) -> str:
        return f"Identity({self.public.fingerprint})"

    @classmethod
    def generate(cls) -> Identity:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> Identity:
        """From a PEM file that only its owner may read; raises `LocumError`."""
        try:
            if os.name == "posix" and path.stat().st_mode & 0o077:
                raise LocumError(f"The key file {path} can be read by others.", fix=f"chmod 600 {path}")
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except FileNotFoundError:
            raise LocumError(f"There is no key file {path}.", fix="enrol first, or point to the right folder") from None
        except (ValueError, OSError):
            raise LocumError(f"The key file {path} cannot be read as a PEM private key.") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise LocumError(f"The key in {path} is not an Ed25519 key.")
        return cls(key)

    @classmethod
    def load_or_create(cls, path: Path) -> Identity:
        if path.exists():
            return cls.load(path)
        identity = cls.generate()
        identity.save(path)
        return identity

    def save(self, path: Path) -> None:
        """Write a new PEM file with mode 0600; never overwrites."""
        pem = self._key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as f:
            f.write(pem)
            f.flush()
            os.fsync(f.fileno())

    def sign(self, label: bytes, message: bytes) -> bytes:
        """64 bytes over label, a zero byte, and message; the label separates what the same key signs."""
        return self._key.sign(label + b"\0" + message)

    def sign_note(self, text: bytes) -> bytes:
        """64 bytes over the text alone, as checkpoints of a log are signed. Text holds no zero byte, and everything else that is signed does."""
        if b"\0" in text:
            raise ValueError("a note is text")
        return self._key.sign(text)


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64(text: str, *, limit: int) -> bytes:
    """Decode unpadded URL-safe base64 of at most `limit` characters; raises `NotEnrolled`."""
    if len(text) > limit:
        raise NotEnrolled("A key, a signature or an envelope is longer than it may be.")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise NotEnrolled("A key, a signature or an envelope is not valid base64.") from None
