"""Variant calls: VCF as text, plain or compressed, and BCF (hts-specs, VCFv4.5).

Both are read here and not by htslib: for the genotypes alone a strict reader is small, two to three times as fast as cyvcf2 (which the
tests compare it with), and a damaged file cannot crash the process or print to its streams. A region is found by reading up to its end,
without an index.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from locum.data.sources import bcf
from locum.data.sources.base import Source, Unusable, existing
from locum.data.sources.bgzf import open_bgzf, reading_genotypes
from locum.data.sources.genotypes import (
    ABSENT,
    BAD,
    BLOCK,
    MISSING,
    Dosages,
    GenotypeSource,
    GenotypeSpec,
    Info,
    Variant,
    VariantTally,
    check_samples,
    info,
)
from locum.errors import DataError, TooLarge

MAX_LINE_BYTES = 1 << 28
MAX_HEADER_BYTES = 1 << 26
_FIXED = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT"]
_CALL = re.compile(rb"[/|]?(\.|\d{1,4})(?:[/|](\.|\d{1,4}))?")
_ALLELES = re.compile(r"[^\s,]{1,1000000}")
_ALLELE = np.full(256, BAD, np.int8)
_ALLELE[ord(".")] = MISSING
_ALLELE[ord("0") : ord("9") + 1] = range(10)
_PHASE = np.isin(np.arange(256), [ord("/"), ord("|")])
_END = np.isin(np.arange(256), [ord("\t"), ord(":")])


class Spec(GenotypeSpec):
    """field: GT, the called genotypes, or DS, imputed dosages. multiallelic: a record with several alternative alleles is refused, left
    out, or split into a variant for each, named name:allele, which counts that allele (the others count as none).
    haploid: a single allele (a man's X) counts as two copies, as PLINK does, or as one. Phased and unphased are the same."""

    type: Literal["vcf"] | None = None
    field: Literal["GT", "DS"] = "GT"
    multiallelic: Literal["refuse", "leave_out", "split"] = "refuse"
    haploid: Literal["double", "single"] = "double"


def open_source(spec: Spec, path: Path | None) -> Source:
    return VcfSource(existing(path), spec)


@dataclass(slots=True)
class Record:
    """One line of a VCF: where it is, and its genotypes, still as bytes."""

    chrom: str
    pos: int
    id: str
    ref: str
    alts: list[str]
    keys: list[bytes]
    cells: bytes

    @classmethod
    def parse(cls, line: bytes) -> Record:
        parts = line.rstrip(b"\r\n").split(b"\t", 9)
        if len(parts) < 10:
            raise Unusable("a line with too few columns")
        try:
            chrom, pos, name, ref, alt = (p.decode() for p in parts[:5])
        except UnicodeError:
            raise Unusable("a line that is not UTF-8 text") from None
        if not pos.isascii() or not pos.isdigit() or len(pos) > 10 or not chrom or chrom.isspace():
            raise Unusable("a line without a position")
        alts = [] if alt == "." else alt.split(",")
        if not all(_ALLELES.fullmatch(a) for a in [ref, *alts]):
            raise Unusable("a line without alleles")
        return cls(chrom, int(pos), name, ref, alts, parts[8].split(b":"), parts[9])

    def calls(self, n: int) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
        """The two alleles of each of n samples."""
        if self.keys[0] != b"GT":
            raise Unusable("a record without GT as the first key of FORMAT")
        text = np.frombuffer(self.cells + b"\t\t\t\t", np.uint8)
        start = self._starts(text, n)
        first, then = _ALLELE[text[start]], text[start + 1]
        second = _ALLELE[text[start + 2]]
        diploid = _PHASE[then] & _END[text[start + 3]]
        haploid = _END[then]
        second = np.where(haploid, np.int8(ABSENT), second)
        for i in np.flatnonzero((first == BAD) | (second == BAD) | ~(diploid | haploid)):  # alleles from 10 on, and what is none
            cell = self.cells[start[i] : start[i] + 12].partition(b"\t")[0].partition(b":")[0]
            match = _CALL.fullmatch(cell)
            if match is None:
                raise Unusable("a record with a genotype that is not one of at most two alleles")
            first[i], second[i] = (ABSENT if a is None else MISSING if a == b"." else min(int(a), 127) for a in match.groups())
        return first, second

    def numbers(self, key: bytes, n: int) -> NDArray[np.float32]:
        """The number that each of n samples has under a key of FORMAT, NaN where missing."""
        if key not in self.keys:
            raise Unusable("a record without DS")
        at = self.keys.index(key)
        cells = [c.split(b":") for c in self.cells.split(b"\t")]
        if len(cells) != n:
            raise Unusable("a line with a wrong number of samples")
        try:
            return np.array([float(c[at]) if len(c) > at and c[at] != b"." else np.nan for c in cells], np.float32)
        except ValueError:
            raise Unusable("a record with a dosage that is not a number") from None

    def _starts(self, text: NDArray[np.uint8], n: int) -> NDArray[np.intp]:
        tabs = np.flatnonzero(text[:-4] == ord("\t"))
        if len(tabs) != n - 1:
            raise Unusable("a line with a wrong number of samples")
        return np.concatenate([np.zeros(1, np.intp), tabs + 1])


@dataclass
class VcfSource(GenotypeSource):
    """One VCF or BCF file."""

    spec: Spec

    @property
    def dtype(self) -> type[np.generic]:
        return np.int8 if self.spec.field == "GT" else np.float32

    @cached_property
    def samples(self) -> list[str]:
        with reading_genotypes(self.name), open_bgzf(self.path) as file:
            return check_samples(bcf.Header.read(file).samples if self._binary else _header(file, self.name), self.name)

    def blocks(self, size: int = BLOCK, names: Collection[str] | None = None) -> Iterator[tuple[Info, Dosages]]:
        self.tally = tally = VariantTally()
        variants: list[Variant] = []
        values: NDArray[Any] = np.empty((size, len(self.samples)), self.dtype)
        for variant, row in self._variants(tally, names):
            values[len(variants)] = row
            variants.append(variant)
            if len(variants) == size:
                yield info(variants), values.T
                variants, values = [], np.empty_like(values)
        if variants:
            yield info(variants), values[: len(variants)].T

    def _variants(self, tally: VariantTally, names: Collection[str] | None) -> Iterator[tuple[Variant, Dosages]]:
        region, past, place = self.region, set[str](), ("", 0)
        for record in self._records():
            tally.read += 1
            if isinstance(record, str):
                tally.refused[record] += 1
                continue
            if record.chrom != place[0]:
                past.add(place[0])
            if record.chrom in past or (record.chrom == place[0] and record.pos < place[1]):
                raise DataError(
                    f"{self.name} is not sorted by position.", why=f"Record number {tally.read} lies before an earlier one.", fix="sort it: bcftools sort"
                )
            place = record.chrom, record.pos
            if region is not None and record.chrom == region.chrom and record.pos > region.last:
                tally.left_out["a variant outside the region"] += 1
                return
            try:
                found = list(self._of(record, names))
            except Unusable as reason:
                tally.refused[str(reason)] += 1
                continue
            kept = [f for f in found if not isinstance(f, str)]
            if kept:
                tally.used += 1
                yield from kept
            else:
                tally.left_out[cast(str, found[0])] += 1

    def _of(self, record: Record | bcf.Record, names: Collection[str] | None) -> Iterator[tuple[Variant, Dosages] | str]:
        """The variants that a record gives, or why one is left out; raises `Unusable`."""
        name = record.id if record.id not in (".", "") else f"{record.chrom}:{record.pos}:{record.ref}:{','.join(record.alts) or '.'}"
        several = len(record.alts) > 1
        split = several and self.spec.multiallelic == "split"
        alleles: NDArray[Any] | None = None
        for number, alt in enumerate(record.alts if split else record.alts[:1] or ["."], 1):
            own = name if not split else f"{name}:{alt}" if record.id not in (".", "") else f"{record.chrom}:{record.pos}:{record.ref}:{alt}"
            variant = Variant(own, record.chrom, record.pos, record.ref, alt)
            reason = self.wanted(variant, names)
            if reason is None and several and not split:
                if self.spec.multiallelic == "refuse":
                    raise Unusable('a record with several alternative alleles (multiallelic = "split" or "leave_out" under [source])')
                reason = "a record with several alternative alleles"
            if reason is not None:
                yield reason
                continue
            if self.spec.field == "DS":
                row: Dosages = _dosage(record.numbers(b"DS", len(self.samples)), several)
            else:
                alleles = np.stack(record.calls(len(self.samples))) if alleles is None else alleles
                row = self._count(alleles, number, len(record.alts))
            oriented = self.oriented(variant, row)
            if isinstance(oriented, str):
                raise Unusable(oriented)
            yield oriented

    def _count(self, alleles: NDArray[Any], number: int, alts: int) -> NDArray[np.int8]:
        """Copies of one alternative allele, -1 where either allele is missing."""
        if (alleles > alts).any() or (alleles <= BAD).any() or (alleles[0] == ABSENT).any():
            raise Unusable("a record with a genotype of an allele that it does not list")
        first, second = alleles
        copies = (first == number).astype(np.int8) * np.where((second == ABSENT) & (self.spec.haploid == "double"), 2, 1) + (second == number)
        return np.where((first == MISSING) | (second == MISSING), -1, copies).astype(np.int8)

    @property
    def _binary(self) -> bool:
        return self.path.suffix.lower() == ".bcf"

    def _records(self) -> Iterator[Record | bcf.Record | str]:
        """Each record, or why it is none."""
        n = len(self.samples)
        with reading_genotypes(self.name), open_bgzf(self.path) as file:
            if self._binary:
                yield from bcf.records(file, self.name, n)
                return
            _header(file, self.name)
            while line := file.readline(MAX_LINE_BYTES):
                if len(line) == MAX_LINE_BYTES:
                    raise TooLarge(f"A line of {self.name} is longer than {MAX_LINE_BYTES:,} bytes.", fix="check how the file was made")
                if not line.strip():
                    continue
                try:
                    record: Record | str = Record.parse(line)
                except Unusable as reason:
                    record = str(reason)
                yield record


def _dosage(values: NDArray[np.float32], several: bool) -> NDArray[np.float32]:
    if several:
        raise Unusable("a dosage of a record with several alternative alleles")
    if ((values < 0) | (values > 2) | np.isinf(values)).any():
        raise Unusable("a record with a dosage outside 0 to 2")
    return values


def _header(file: BinaryIO, where: str) -> list[str]:
    """The samples that the header of a VCF names; the file then stands at its first record."""
    seen, first = 0, True
    while line := file.readline(MAX_HEADER_BYTES):
        seen += len(line)
        if seen >= MAX_HEADER_BYTES:
            raise TooLarge(f"The header of {where} is longer than {MAX_HEADER_BYTES:,} bytes.", fix="check how the file was made")
        if first and not re.match(rb"##fileformat=VCFv4\.\d", line):
            raise DataError(f"{where} does not begin as VCF 4 does.", fix="check that it is a VCF file whose first line is ##fileformat=VCFv4.x")
        first = False
        if not line.startswith(b"##"):
            names = line.decode().rstrip("\r\n").split("\t")
            if names[: len(_FIXED)] != _FIXED:
                raise DataError(
                    f"The header line of {where} does not have the nine columns of a VCF with genotypes.",
                    why="They are #CHROM POS ID REF ALT QUAL FILTER INFO FORMAT, separated by tabs.",
                    fix="export the file again with its genotypes",
                )
            return names[len(_FIXED) :]
    raise DataError(f"{where} ends before the line that names its samples.", fix="the file is cut off: copy it again")
