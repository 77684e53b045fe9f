"""Where a person's key is kept: the PEM file of the membership, another PEM file, or the operating system's keyring.

In the keyring the PEM text is the password of the service 'locum', under a name that the person chooses: `keyring set locum ada < key.pem`
puts it there. A key in a hardware token (PKCS#11) is not supported.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from locum.client.membership import KEY
from locum.errors import LocumError, NotFound
from locum.federation.identity import Identity

SERVICE = "locum"
PREFIX = "keyring:"
MAX_PEM_CHARS = 4096


def load_key(where: str | None, folder: Path) -> Identity:
    """The key that `where` names: a PEM file, 'keyring:NAME', or None for the one in the membership's folder. Raises `LocumError`."""
    if where is None:
        return Identity.load(folder / KEY)
    if where.startswith(PREFIX):
        return _of_keyring(where.removeprefix(PREFIX))
    return Identity.load(Path(where).expanduser())


def _of_keyring(name: str) -> Identity:
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        raise LocumError("The keyring cannot be used: the package 'keyring' is not installed.", fix="pip install 'locum[keyring]'") from None
    put = f"keyring set {SERVICE} {name or 'NAME'} < key.pem"
    if not name:
        raise LocumError("'keyring:' names no key.", fix=f"write keyring:NAME, after: {put}")
    try:
        text = keyring.get_password(SERVICE, name)
    except KeyringError:  # its text is the backend's, and may quote what it holds
        raise LocumError(
            "The operating system's keyring cannot be read.", why="It is locked, or this machine has none.", fix="unlock it, or give --key a PEM file"
        ) from None
    if text is None:
        raise NotFound(f"The keyring holds no key '{name}' of the service '{SERVICE}'.", fix=put)
    try:
        key = load_pem_private_key(text[:MAX_PEM_CHARS].encode("ascii"), password=None)
    except (ValueError, TypeError, UnicodeEncodeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise LocumError(f"What the keyring holds as '{name}' is not an Ed25519 key as PEM text.", fix=put)
    return Identity(key)
