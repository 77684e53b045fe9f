"""Bundles that one reader could take for something else than another: with a text beside its one form, or an archive with two directories."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from locum.governance.events import Event
from locum.testing.record import World, digest_of, edited

Double = Callable[[Path], tuple[Path, str]]
"""Writes a bundle; the words that a verifier must say of it."""
_FORM, _NOTE = "not in the form that this version knows", "the checkpoint is not in its one form"


def _edit(name: str, change: Callable[[Any], Any], words: str = _FORM) -> Double:
    def make(target: Path) -> tuple[Path, str]:
        world = World()
        return world.bundle(target, files=edited(world.files(), name, change)), words

    return make


def _note(old: bytes, new: bytes, words: str = _NOTE) -> Double:
    def make(target: Path) -> tuple[Path, str]:
        world = World()
        files = world.files()
        return world.bundle(target, files={**files, "checkpoint.txt": files["checkpoint.txt"].replace(old, new)}), words

    return make


def _manifest(old: bytes, new: bytes, words: str) -> Double:
    def make(target: Path) -> tuple[Path, str]:
        world = World()
        files = world.files()
        return world.bundle(target, files={**files, "manifest.json": files["manifest.json"].replace(old, new, 1)}), words

    return make


def _two_directories(target: Path) -> tuple[Path, str]:
    """The end record names one directory, a 64-bit one before it another, with the same files."""
    raw = World().bundle(target).read_bytes()
    end = raw[-22:]
    entries, size, start = struct.unpack("<HLL", end[10:20])
    there = struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, size, start)
    target.write_bytes(raw[:-22] + there + struct.pack("<4sLQL", b"PK\6\7", 0, len(raw) - 22, 1) + end)
    return target, "two directories"


def _link(target: Path) -> tuple[Path, str]:
    with zipfile.ZipFile(World().bundle(target)) as archive:
        files = {i.filename: archive.read(i) for i in archive.infolist()}
    with zipfile.ZipFile(target, "w") as archive:
        for name, body in files.items():
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, (0o120777 if name == "keys.json" else 0o100644) << 16
            archive.writestr(info, body)
    return target, "is a link"


def _zero_in_a_name(target: Path) -> tuple[Path, str]:
    raw = World().bundle(target).read_bytes()
    target.write_bytes(raw.replace(b"rounds/000000.json", b"keys.json\0x.json\0y"))
    return target, "'"


def _twice(target: Path) -> tuple[Path, str]:
    world = World()
    given = {"answers": digest_of("other"), "seq": 0, "sites": 3, "state": digest_of("other")}
    world.add(Event.ROUND_COMBINED, world.run, "coordinator", **given)
    return world.bundle(target), "a round was summed twice"


def _late_roster(target: Path) -> tuple[Path, str]:
    """The consortium signs a roster after the rounds that were masked under it."""
    world = World()
    at = next(i for i, e in enumerate(world.entries) if e.event is Event.ROSTER_INSTALLED)
    entry = world.entries.pop(at)
    world.entries.append(entry)
    return world.bundle(target), "a roster that was not in force then"


DOUBLES: dict[str, Double] = {
    "a number as text": _edit("entries.json", lambda es: [e | {"n": str(e["n"])} for e in es]),
    "a number as truth": _edit("entries.json", lambda es: [e | {"n": e["n"] == 1} for e in es]),
    "a proof in capitals": _edit("entries.json", lambda es: [e | {"proof": [h.upper() for h in e["proof"]]} for e in es]),
    "a proof with spaces": _edit("entries.json", lambda es: [e | {"proof": [h[:2] + " " + h[2:] for h in e["proof"]]} for e in es]),
    "a key in another alphabet": _edit("keys.json", lambda k: k | {"coordinator": "+/" + k["coordinator"][2:]}),
    "a key with padding": _edit("keys.json", lambda k: k | {"coordinator": k["coordinator"] + "="}),
    "a manifest with a key twice": _manifest(b'"name"', b'"name":"x","name"', "gives a key twice"),
    "a manifest with a number that is none": _manifest(b'"min_cohort":3', b'"min_cohort":NaN', "is not valid JSON"),
    "a size in other digits": _note(b"\n", "\n\u0661".encode(), ""),
    "lines ended otherwise": _note(b"\n\xe2\x80\x94", b"\r\n\xe2\x80\x94", ""),
    "a line separator of Unicode": _note(b"\n\xe2\x80\x94 s001", "\u2028— s001".encode(), _NOTE),
    "two directories": _two_directories,
    "a link": _link,
    "a zero in a name": _zero_in_a_name,
    "a round that was summed twice": _twice,
    "a roster that came late": _late_roster,
}
