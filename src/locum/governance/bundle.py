"""An audit bundle as a zip file: the same content gives the same bytes.

index.json         every other file with its length and SHA-256
manifest.json      the study, RFC 8785; its SHA-256 is the study's digest
study.json         study, run, model, requester, and the requester's signed envelope
rounds/000000.json the assignment, the coordinator's envelope over it, and each site's envelope over its answer
rosters.json       the rosters that the consortium signed, as far as rounds were masked under them
results.json       what the run found, RFC 8785
model.safetensors  the model, unless it was left out
entries.json       the log's entries about all of these, each with its inclusion proof; a site's decision holds the envelope that it signed
complete.json      the coordinator's signature on which entries these are
checkpoint.txt     one signed checkpoint with its cosignatures
keys.json          the coordinator's and the consortium's keys; a site's and the requester's are in their enrolment entries
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from locum.errors import Conflict
from locum.study.canonical import canonical

SCHEMA = "locum/audit-bundle/1"
INDEX, MODEL = "index.json", "model.safetensors"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The first time that a zip file can name: every file of every bundle has it."""
CHUNK = 1 << 20


def round_name(seq: int) -> str:
    return f"rounds/{seq:06d}.json"


def write(target: Path, files: Mapping[str, bytes], model: Path | None = None) -> Path:
    """Write a bundle, whole or not at all. files: all but the index and the model. Raises `Conflict` where the file cannot be written."""
    listed: dict[str, Any] = {name: {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()} for name, body in files.items()}
    try:
        if model:
            with model.open("rb") as f:
                listed[MODEL] = {"bytes": model.stat().st_size, "sha256": hashlib.file_digest(f, "sha256").hexdigest()}
        index = canonical({"files": listed, "schema": SCHEMA})
        handle, part = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.")
        try:
            with os.fdopen(handle, "wb") as out, zipfile.ZipFile(out, "w") as archive:
                _put(archive, INDEX, index)
                for name in sorted(files):
                    _put(archive, name, files[name])
                if model:
                    _copy(archive, model)
            os.chmod(part, 0o644)
            os.replace(part, target)
        except BaseException:
            os.unlink(part)
            raise
    except OSError as error:
        raise Conflict(f"{target} cannot be written: {error.strerror}.", fix="choose another place") from None
    return target


def _info(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, EPOCH)
    info.compress_type, info.create_system, info.external_attr = kind, 3, 0o644 << 16
    return info


def _put(archive: zipfile.ZipFile, name: str, body: bytes) -> None:
    archive.writestr(_info(name, zipfile.ZIP_DEFLATED), body, compresslevel=6)


def _copy(archive: zipfile.ZipFile, model: Path) -> None:
    """The model is stored as it is: its bytes do not shrink."""
    info = _info(MODEL, zipfile.ZIP_STORED)
    info.file_size = model.stat().st_size
    with model.open("rb") as source, archive.open(info, "w") as out:
        while piece := source.read(CHUNK):
            out.write(piece)
