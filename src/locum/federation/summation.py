"""The sum over a cohort. Both engines use it, so they agree to the last bit.

Clear: sequential, in roster order, in float64. Floating-point addition does not commute across orders, so the order is part
of the definition: sites sorted by name, starting from zero. Elements are independent, hence any chunking gives the same bits.

Masked: integers modulo 2^b, where order means nothing. In process the same integers are summed without their masks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import BinaryIO

import numpy as np

from locum.errors import TaskError
from locum.federation.wire import Assignment
from locum.secagg import masks
from locum.secagg.encoding import Encoding
from locum.secagg.kdf import digest
from locum.secagg.masks import Stream
from locum.secagg.ring import Ints
from locum.study.manifest import Terms
from locum.study.vector import Array, Field, Layout, Total

WEIGHT = "weight"
NOISY = "noisy."
"""How the name of a tensor of noisy integers begins; see `federation.budget`."""
MOST_WEIGHT = 2.0**40
"""No cohort weighs more; a mask that was left on the sum does, but for one time in eight million."""
CHUNK = 1 << 18
"""Scalars added at a time: 2 MiB of float64, which stays in cache."""


def wire_layout(layout: Layout) -> Layout:
    """What travels: the layout with the site's weight appended, for weights are summed like everything else."""
    if any(f.name == WEIGHT for f in layout.fields):
        raise TaskError(f"A task's layout may not use the name '{WEIGHT}'.")
    return Layout((*layout.fields, Field(WEIGHT, ())))


def encoding_of(layout: Layout, assignment: Assignment, terms: Terms) -> Encoding | None:
    """How vectors of wire layout `layout` become integers in this round; None where they travel in clear text."""
    if terms.aggregation == "clear":
        return None
    a = assignment
    return Encoding(layout, len(a.roster), terms.masking, digest("rotation", a.study, a.seed, a.seq))


def rounding_key(assignment: Assignment, site: str) -> bytes:
    """Whose keystream rounds this site's numbers: the same in every engine (ADR 4)."""
    a = assignment
    return digest("rounding", a.study, a.seed, a.seq, site)


def sum_elements(
    encoding: Encoding, elements: Iterable[dict[str, Ints]], *, streams: Sequence[Stream] = (), transcript: bytes = b"", threads: int = 1
) -> Total:
    """The sum of encoded vectors, less what `streams` take. Raises `TaskError` if its norm is not that of clipped updates."""
    acc, sites = encoding.zeros(), 0
    for one in elements:
        encoding.add(acc, one)
        sites += 1
    return _unmasked(encoding, acc, sites, streams, transcript, threads)


def sum_masked_files(encoding: Encoding, files: Sequence[BinaryIO], *, streams: Sequence[Stream], transcript: bytes, threads: int = 1) -> Total:
    """The same from open wire files: memory is one vector and one chunk, whatever the number of files."""
    wire, acc = encoding.wire, encoding.zeros()
    _skip_headers(wire, files)
    for name, array in acc.items():
        ring, field = encoding.rings[name], wire.fields[list(acc).index(name)]
        per = field.nbytes // max(1, len(array)) if ring.exact else 0
        step = CHUNK if per else len(array)  # a packed ring is read whole: its chunks need not end at a byte
        for start in range(0, len(array), max(1, step)):
            part = array[start : start + step]
            nbytes = len(part) * per or field.nbytes
            for f in files:
                raw = np.frombuffer(_exactly(f, nbytes), ring.dtype if per else np.uint8)
                ring.add(part, ring.unpack(raw.reshape(ring.shape(len(part))) if per else raw, len(part)))
                ring.reduce(part)
    return _unmasked(encoding, acc, len(files), streams, transcript, threads)


def _unmasked(encoding: Encoding, acc: dict[str, Ints], sites: int, streams: Sequence[Stream], transcript: bytes, threads: int) -> Total:
    if streams:
        masks.apply(acc, encoding.rings, streams, transcript, threads=threads)
    decoded = encoding.decode(acc)
    weight = float(decoded[WEIGHT])
    if encoding.excess(decoded, weight) > 1.0 or not 0 <= weight <= MOST_WEIGHT:
        raise TaskError(
            "The sum is larger than clipped updates can make it, so it was not used.",
            why="A site did not clip, or a mask was not removed: somebody sent something else than the protocol says.",
            fix="run again; if it repeats, leave sites out one after another: every upload is signed",
        )
    return Total({name: a for name, a in decoded.items() if name != WEIGHT}, weight, sites)


def trimmed_mean(totals: Sequence[Total], trim: int) -> Total:
    """What several buckets' sums say together, robustly: per number, the `trim` largest and smallest bucket means are cut
    off, the rest are averaged, and the result is scaled to the whole weight (Yin et al., "Byzantine-Robust Distributed
    Learning", ICML 2018, on buckets: Karimireddy et al., ICLR 2022). Integer tensors are summed, unless they are noisy numbers.
    """
    weight, sites = sum(t.weight for t in totals), sum(t.sites for t in totals)
    good = [t for t in totals if t.weight > 0]
    out: dict[str, Array] = {}
    for name, first in totals[0].vector.items():
        noisy = name.startswith(NOISY)
        if first.dtype.kind != "f" and not noisy:
            out[name] = sum((t.vector[name] for t in totals[1:]), start=first)
            continue
        if len(good) < 2 * trim + 1:
            raise TaskError(f"Only {len(good)} buckets have any weight; trimming needs {2 * trim + 1}.", fix="fewer buckets, or more sites")
        means = np.sort(np.stack([t.vector[name].astype(np.float64) / t.weight for t in good]), axis=0)
        robust = means[trim : len(means) - trim].mean(axis=0) * weight
        out[name] = (np.rint(robust) if noisy else robust).astype(first.dtype)
    return Total(out, weight, sites)


def sum_vectors(layout: Layout, vectors: Iterable[dict[str, Array]]) -> Total:
    """The sum of vectors of wire layout `layout`, given in roster order."""
    acc = {f.name: np.zeros(f.shape, _wide(f)) for f in layout.fields}
    sites = 0
    for vector in vectors:
        for name, a in acc.items():
            np.add(a, vector[name], out=a)
        sites += 1
    return _total(layout, acc, sites)


def sum_files(layout: Layout, files: Sequence[BinaryIO]) -> Total:
    """The same sum from open wire files in roster order; memory is one vector and one chunk, whatever the number of files.

    Raises `TaskError` if a file is not of this layout.
    """
    _skip_headers(layout, files)
    out: dict[str, Array] = {}
    for field in layout.fields:
        wire = np.dtype(field.dtype).newbyteorder("<")
        flat = np.empty(field.size, field.dtype)
        acc = np.empty(min(CHUNK, field.size), _wide(field))
        for start in range(0, field.size, CHUNK):
            n = min(CHUNK, field.size - start)
            acc[:n] = 0
            for f in files:
                np.add(acc[:n], np.frombuffer(_exactly(f, n * wire.itemsize), wire), out=acc[:n])
            flat[start : start + n] = acc[:n]
        out[field.name] = flat.reshape(field.shape)
    return _total(layout, out, len(files))


def _skip_headers(layout: Layout, files: Sequence[BinaryIO]) -> None:
    for f in files:
        if f.read(len(layout.header)) != layout.header:
            raise TaskError("An update is not of the round's layout.")


def _exactly(f: BinaryIO, nbytes: int) -> bytes:
    raw = f.read(nbytes)
    if len(raw) != nbytes:
        raise TaskError("An update is shorter than the round's layout.")
    return raw


def _wide(field: Field) -> str:
    return "int64" if field.dtype in ("int64", "int32") else "float64"


def _total(layout: Layout, acc: dict[str, Array], sites: int) -> Total:
    vector = {f.name: acc[f.name].astype(f.dtype, copy=False) for f in layout.fields if f.name != WEIGHT}
    return Total(vector, float(acc[WEIGHT]), sites)
