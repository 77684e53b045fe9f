"""The registry of algorithms: a session names its suite, and a site takes part only in one that it has not retired.

Both key encapsulations are hybrids: they hold while either half holds, so a wire recorded today does not open to a
quantum computer later. HPKE is RFC 9180; MLKEM768-X25519 is X-Wing (draft-connolly-cfrg-xwing-kem) as HPKE uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from locum.secagg.errors import MaskingRefused, ProtocolError
from locum.secagg.kdf import label


@dataclass(frozen=True)
class Suite:
    """One way to seal a secret to a session key. Keys are bytes; `seal` and the opener raise `ProtocolError` for bad ones."""

    name: str
    generate: Callable[[], bytes]
    public: Callable[[bytes], bytes]
    _hpke: hpke.Suite
    _load_private: Callable[[bytes], Any]
    _load_public: Callable[[bytes], Any]

    def seal(self, public: bytes, secret: bytes, info: bytes) -> bytes:
        """`secret` for the holder of `public`, bound to `info`. Raises `ProtocolError` for bytes that are no public key."""
        try:
            return self._hpke.encrypt(secret, self._load_public(public), label("seal") + b"\0" + info)
        except (ValueError, IndexError):
            raise ProtocolError("A session key is not one of its suite.") from None

    def opener(self, private: bytes) -> Callable[[bytes, bytes], bytes]:
        """(sealed, info) -> secret; expanding the private key costs more than using it."""
        key = self._load_private(private)
        return lambda sealed, info: self._open(key, sealed, info)

    def _open(self, key: Any, sealed: bytes, info: bytes) -> bytes:
        try:
            return self._hpke.decrypt(sealed, key, label("seal") + b"\0" + info)
        except (ValueError, InvalidTag):
            raise ProtocolError("A sealed secret does not open.", why="It was made for another session, another site, or altered.") from None


_XWING_X = 32
_ML768, _ML1024 = 1184, 1568


def _xwing() -> bytes:
    return x25519.X25519PrivateKey.generate().private_bytes_raw() + mlkem.MLKEM768PrivateKey.generate().private_bytes_raw()


def _xwing_private(raw: bytes) -> hpke.MLKEM768X25519PrivateKey:
    return hpke.MLKEM768X25519PrivateKey(mlkem.MLKEM768PrivateKey.from_seed_bytes(raw[_XWING_X:]), x25519.X25519PrivateKey.from_private_bytes(raw[:_XWING_X]))


def _xwing_public(raw: bytes) -> hpke.MLKEM768X25519PublicKey:
    if len(raw) != _ML768 + _XWING_X:
        raise ValueError("length")
    return hpke.MLKEM768X25519PublicKey(mlkem.MLKEM768PublicKey.from_public_bytes(raw[:_ML768]), x25519.X25519PublicKey.from_public_bytes(raw[_ML768:]))


def _xwing_export(raw: bytes) -> bytes:
    """The public key in X-Wing's order: ML-KEM, then X25519."""
    pq = mlkem.MLKEM768PrivateKey.from_seed_bytes(raw[_XWING_X:]).public_key().public_bytes_raw()
    return pq + x25519.X25519PrivateKey.from_private_bytes(raw[:_XWING_X]).public_key().public_bytes_raw()


def _p384() -> bytes:
    der = ec.generate_private_key(ec.SECP384R1()).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return mlkem.MLKEM1024PrivateKey.generate().private_bytes_raw() + der


def _p384_parts(raw: bytes) -> tuple[mlkem.MLKEM1024PrivateKey, ec.EllipticCurvePrivateKey]:
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    key = load_der_private_key(raw[64:], None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("key")
    return mlkem.MLKEM1024PrivateKey.from_seed_bytes(raw[:64]), key


def _p384_public(raw: bytes) -> hpke.MLKEM1024P384PublicKey:
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), raw[_ML1024:])
    return hpke.MLKEM1024P384PublicKey(mlkem.MLKEM1024PublicKey.from_public_bytes(raw[:_ML1024]), point)


def _p384_export(raw: bytes) -> bytes:
    pq, key = _p384_parts(raw)
    return pq.public_key().public_bytes_raw() + key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


DEFAULT = "mlkem768-x25519"
SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            DEFAULT,
            _xwing,
            _xwing_export,
            hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM),
            _xwing_private,
            _xwing_public,
        ),
        Suite(
            "mlkem1024-p384",
            _p384,
            _p384_export,
            hpke.Suite(hpke.KEM.MLKEM1024_P384, hpke.KDF.HKDF_SHA384, hpke.AEAD.AES_256_GCM),
            lambda raw: hpke.MLKEM1024P384PrivateKey(*_p384_parts(raw)),
            _p384_public,
        ),
    )
}


def choose(name: str, retired: Collection[str] = ()) -> Suite:
    """The suite of that name. Raises `MaskingRefused` for one that is unknown, or that this site has retired."""
    if name not in SUITES:
        raise MaskingRefused(f"The key agreement '{name}' is not known here.", fix=f"use one of: {', '.join(SUITES)}")
    if name in retired:
        raise MaskingRefused(f"The key agreement '{name}' is retired at this site.", fix="ask for a study that names another")
    return SUITES[name]
