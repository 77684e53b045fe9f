"""What the consortium's office does with the roster: draft it from the enrolments, sign it, put it in force."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from locum.coordinator import rosters
from locum.coordinator.config import CONSORTIUM_KEY, Folder
from locum.coordinator.server import open_store
from locum.errors import LocumError, ManifestError
from locum.federation.identity import Identity
from locum.federation.roster import Roster, SignedRoster

KEY = CONSORTIUM_KEY
MAX_FILE_BYTES = 2 << 20


def draft(folder: Path) -> tuple[Roster, Roster | None]:
    """The roster of the sites that are enrolled now, and the one in force."""
    opened = Folder.open(folder)
    with open_store(opened, time.time) as store:
        return rosters.draft(store, opened.federation)


def sign(drafted: Roster, key: Path) -> SignedRoster:
    """Raises `LocumError` where the key is not there."""
    if not drafted.sites:
        raise LocumError("No site is enrolled yet, so there is no roster to sign.", fix="invite sites, and sign when they have enrolled")
    if not key.exists():
        raise LocumError(f"The consortium's key is not at {key}.", fix="give its place with --key, or draft the roster and sign it where the key is")
    return SignedRoster.of(drafted, Identity.load(key))


def install(folder: Path, signed: SignedRoster) -> Path:
    """Put a signed roster in force. Raises `EnvelopeError` if it is not signed by this coordinator's consortium."""
    opened = Folder.open(folder)
    with open_store(opened, time.time) as store:
        rosters.install(store, signed, opened.consortium, opened.federation)
    return folder


def read_draft(file: Path) -> Roster:
    return Roster.decode(_text(file))


def read_signed(file: Path) -> SignedRoster:
    """Raises `ManifestError`."""
    try:
        return msgspec.json.decode(_text(file), type=SignedRoster)
    except msgspec.DecodeError:
        raise ManifestError(f"{file} is not a signed roster.", fix="give the file that 'locum roster sign' wrote") from None


def read_roster(file: Path) -> Roster:
    """The roster in a signed file; its signature is not looked at."""
    return Roster.decode(read_signed(file).body)


def write_signed(drafted: Path, signed: SignedRoster) -> Path:
    """Beside the draft."""
    target = drafted.with_suffix(".signed.json")
    target.write_bytes(msgspec.json.encode(signed))
    return target


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ManifestError(f"{file} is larger than a roster may be.")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ManifestError(f"{file} cannot be read as a roster.", fix="check the path") from None
