"""BCF 2.1 and 2.2, the binary form of VCF (hts-specs VCFv4.5, section 6): the header's samples, and GT and DS of each record."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from locum.data.sources.base import Unusable
from locum.data.sources.genotypes import ABSENT, BAD
from locum.errors import DataError, TooLarge

MAX_HEADER_BYTES = 1 << 26
MAX_RECORD_BYTES = 1 << 28
_DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<i1"), 2: np.dtype("<i2"), 3: np.dtype("<i4"), 5: np.dtype("<f4"), 7: np.dtype("S1")}
_FLOAT_MISSING, _FLOAT_END = 0x7F800001, 0x7F800002
_ENTRY = re.compile(r"^##(contig|FILTER|INFO|FORMAT)=<(.*)>\s*$")


@dataclass
class Header:
    """samples, and the two dictionaries that records point into: contigs by number, keys of FILTER, INFO and FORMAT by number."""

    samples: list[str]
    contigs: dict[int, str]
    keys: dict[int, str]

    @classmethod
    def read(cls, file: BinaryIO) -> Header:
        """From the start of a file; raises `DataError` or `TooLarge`."""
        magic, size = file.read(5), file.read(4)
        if magic[:4] != b"BCF\x02" or len(size) < 4:
            raise DataError("The file does not begin as BCF 2 does.", fix="check that it is a BCF file; a text VCF ends in .vcf or .vcf.gz")
        (length,) = struct.unpack("<I", size)
        if length > MAX_HEADER_BYTES:
            raise TooLarge(f"The header of the BCF file is longer than {MAX_HEADER_BYTES:,} bytes.", fix="check how the file was made")
        text = file.read(length)
        lines = text.rstrip(b"\0").decode().splitlines()
        columns = lines[-1].split("\t") if lines else []
        if len(text) < length or columns[:1] != ["#CHROM"]:
            raise DataError("The header of the BCF file is cut off.", fix="copy or export the file again")
        contigs, keys, named = dict[int, str](), {0: "PASS"}, {(False, "PASS")}
        for line in lines:
            if entry := _ENTRY.match(line):
                name, number = re.search(r"(?:^|,)ID=([^,]*)", entry[2]), re.search(r",IDX=(\d{1,9})$", entry[2])
                into = contigs if entry[1] == "contig" else keys
                if name and (entry[1] == "contig", name[1]) not in named:
                    into[int(number[1]) if number else len(into)] = name[1]
                    named.add((entry[1] == "contig", name[1]))
        return cls(columns[9:], contigs, keys)


class Cut(Exception):
    """A record that ends too early or holds a type that is none."""


class _Cursor:
    """Reads the typed values of a record's bytes."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        part = self.data[self.at : self.at + size]
        if len(part) < size:
            raise Cut
        self.at += size
        return part

    def kind(self) -> tuple[int, int]:
        """The type and the length of the value that follows."""
        byte = self.take(1)[0]
        length = byte >> 4
        if length == 15:
            length = self.integer()
        if (byte & 15 not in _DTYPES and not (byte & 15 == 0 and length == 0)) or length < 0:
            raise Cut
        return byte & 15, length

    def values(self, kind: int, count: int) -> NDArray[Any]:
        dtype = _DTYPES[kind]
        return np.frombuffer(self.take(dtype.itemsize * count), dtype)

    def integer(self) -> int:
        kind, length = self.kind()
        if kind not in (1, 2, 3) or length != 1:
            raise Cut
        return int(self.values(kind, 1)[0])

    def text(self) -> str:
        kind, length = self.kind()
        if kind not in (0, 7):
            raise Cut
        return self.take(length).rstrip(b"\0").decode()

    def skip(self) -> None:
        kind, length = self.kind()
        self.take(_DTYPES[kind].itemsize * length if length else 0)


@dataclass
class Record:
    """One variant, as in a text VCF; the genotypes are decoded when they are asked for."""

    chrom: str
    pos: int
    id: str
    ref: str
    alts: list[str]
    n: int
    fields: int
    keys: dict[int, str]
    cells: bytes

    def calls(self, n: int) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
        """The two alleles of each sample: -1 missing, -2 where there is no second."""
        values = self._field("GT")
        if values is None or values.dtype.kind != "i" or not 1 <= values.shape[1] <= 2:
            raise Unusable("a record without GT" if values is None else "a record with a genotype that is not one of at most two alleles")
        end = np.iinfo(values.dtype).min + 1
        allele = np.clip((values.astype(np.int32) >> 1) - 1, BAD, 127)
        allele[values == end] = ABSENT
        if values.shape[1] == 1:
            allele = np.column_stack([allele, np.full(n, ABSENT)])
        return allele[:, 0].astype(np.int8), allele[:, 1].astype(np.int8)

    def numbers(self, key: bytes, n: int) -> NDArray[np.float32]:
        """A number for each sample, NaN where missing."""
        values = self._field(key.decode())
        if values is None or values.shape[1] != 1 or values.dtype.kind not in "fi":
            raise Unusable("a record without DS" if values is None else "a record with a dosage that is not a number")
        if values.dtype.kind == "i":
            low = np.iinfo(values.dtype).min
            return np.where(values[:, 0] <= low + 1, np.nan, values[:, 0]).astype(np.float32)
        bits = values.view("<u4")[:, 0]
        return np.where((bits == _FLOAT_MISSING) | (bits == _FLOAT_END), np.nan, values[:, 0]).astype(np.float32)

    def _field(self, key: str) -> NDArray[Any] | None:
        """The values of one FORMAT key, shape (samples, values of each), None without that key."""
        cursor = _Cursor(self.cells)
        try:
            for _ in range(self.fields):
                number = cursor.integer()
                kind, length = cursor.kind()
                values = cursor.values(kind, length * self.n) if length else np.empty(0, np.int8)
                if self.keys.get(number) == key:
                    return values.reshape(self.n, length)
        except Cut:
            raise Unusable("a record whose genotypes are cut off") from None
        return None


def records(file: BinaryIO, where: str, n: int) -> Iterator[Record | str]:
    """The records after the header, or why one is none; raises `DataError` or `TooLarge`."""
    header = Header.read(file)
    while sizes := file.read(8):
        shared, individual = struct.unpack("<II", sizes) if len(sizes) == 8 else (0, 0)
        if shared + individual > MAX_RECORD_BYTES:
            raise TooLarge(f"A record of {where} is longer than {MAX_RECORD_BYTES:,} bytes.", fix="check how the file was made")
        data, cells = file.read(shared), file.read(individual)
        if len(sizes) < 8 or len(data) < shared or len(cells) < individual:
            raise DataError(f"{where} is cut off.", fix="copy or export it again")
        try:
            yield _record(data, cells, header, n)
        except (Cut, UnicodeError, KeyError):
            yield "a record that is damaged"


def _record(data: bytes, cells: bytes, header: Header, n: int) -> Record:
    cursor = _Cursor(data)
    contig, pos, _, _, alleles_info, samples_format = struct.unpack("<iiifII", cursor.take(24))
    if samples_format & 0xFFFFFF != n or pos < 0:
        raise Cut
    name = cursor.text()
    alleles = [cursor.text() for _ in range(alleles_info >> 16)]
    if not alleles or not all(alleles):
        raise Cut
    alts = [] if alleles[1:] == ["."] else alleles[1:]
    return Record(header.contigs[contig], pos + 1, name or ".", alleles[0], alts, n, samples_format >> 24, header.keys, cells)
