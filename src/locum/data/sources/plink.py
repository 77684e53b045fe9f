"""PLINK 1.9 binary filesets: .bed with its .bim and .fam (www.cog-genomics.org/plink/1.9/formats).

Two bits a genotype (`locum.data.genotypes`), unpacked by a table of 256 bytes: four times as fast as bed-reader, which the tests compare it with.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from locum.data.genotypes import turned, unpack
from locum.data.sources.base import Source, existing
from locum.data.sources.bgzf import reading_genotypes
from locum.data.sources.genotypes import BLOCK, Dosages, GenotypeSource, GenotypeSpec, Info, Variant, VariantTally, check_samples, info
from locum.errors import DataError, TooLarge

MAGIC = b"\x6c\x1b"
MAX_LINE_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 27
_NOTHING = {"na", "nan", "n/a", "."}


class Spec(GenotypeSpec):
    """sample: how samples are named, by the individual's id (IID) alone or with its family's (FID_IID). The counted allele is A1 of the
    .bim (as plink --recode A counts)."""

    type: Literal["plink"] | None = None
    sample: Literal["IID", "FID_IID"] = "IID"


def open_source(spec: Spec, path: Path | None) -> Source:
    return PlinkSource(existing(path), spec)


@dataclass
class PlinkSource(GenotypeSource):
    """One .bed with the .bim and .fam beside it; any of the three may be named."""

    spec: Spec

    def __post_init__(self) -> None:
        self.path = self.path.with_suffix(".bed")
        for suffix in (".bed", ".bim", ".fam"):
            existing(self.path.with_suffix(suffix))

    @cached_property
    def samples(self) -> list[str]:
        return self.known_of_samples()["sample"].to_list()

    def known_of_samples(self) -> pl.DataFrame:
        """sample, family, father, mother, sex (1 male, 2 female, null unknown) and phenotype (-9, and 0 of a case-control phenotype, are null)."""
        where = self.path.with_suffix(".fam").name
        lines = list(self._lines(".fam", 6))
        family, own, father, mother, sex, phenotype = (list(c) for c in zip(*lines, strict=True)) if lines else ([],) * 6
        names = check_samples(own if self.spec.sample == "IID" else [f"{f}_{i}" for f, i in zip(family, own, strict=True)], where)
        return pl.DataFrame(
            {
                "sample": names,
                "family": [None if f == "0" else f for f in family],
                "father": [None if f == "0" else f for f in father],
                "mother": [None if m == "0" else m for m in mother],
                "sex": pl.Series([int(s) if s in ("1", "2") else None for s in sex], dtype=pl.Int8),
                "phenotype": pl.Series(_phenotype(phenotype, where), dtype=pl.Float64),
            }
        )

    def blocks(self, size: int = BLOCK, names: Collection[str] | None = None) -> Iterator[tuple[Info, Dosages]]:
        n = len(self.samples)
        for variants, packed in self._packed(size, names):
            yield info(variants), unpack(packed)[:, :n].T

    def packed_blocks(self, names: Collection[str]) -> Iterator[tuple[Sequence[str], Sequence[str], NDArray[np.uint8]]]:
        for variants, packed in self._packed(BLOCK, names):
            yield [v.name for v in variants], [v.alt for v in variants], packed

    def _packed(self, size: int, names: Collection[str] | None) -> Iterator[tuple[list[Variant], NDArray[np.uint8]]]:
        """The chosen variants, at most `size` at a time, and their rows of the .bed, turned round where the other allele is to be counted."""
        self.tally = tally = VariantTally()
        row = self._checked()
        size = max(1, min(size, _BLOCK_BYTES // row))
        with reading_genotypes(self.name), self.path.open("rb") as file:
            file.seek(3)
            lines = self._lines(".bim", 6)
            while some := list(islice(lines, size)):
                packed = np.frombuffer(file.read(row * len(some)), np.uint8)
                if len(packed) < row * len(some):
                    raise DataError(f"{self.name} became shorter while it was read.", fix="read a file that nobody writes to")
                variants, places, other = list[Variant](), list[int](), list[bool]()
                for at, variant in enumerate(self._kept(some, names)):
                    found = (variant, False) if variant is None or not self.asked else self.orientation(variant)
                    if isinstance(found, str):
                        tally.refused[found] += 1
                    elif found[0] is not None:
                        variants.append(found[0])
                        places.append(at)
                        other.append(found[1])
                tally.used += len(variants)
                if variants:
                    chosen = packed.reshape(-1, row)[places]
                    if any(other):
                        chosen[other] = turned(chosen[other])
                    yield variants, chosen

    def _scan_names(self) -> list[str]:
        """From the .bim alone."""
        self.tally = tally = VariantTally()
        self._checked()
        names: dict[str, None] = {}
        for variant in self._kept(self._lines(".bim", 6), None):
            if variant is not None:
                tally.used += 1
                names[variant.name] = None
                if len(names) > self.spec.max_variants:
                    raise self._too_many()
        return [*names]

    def _kept(self, lines: Iterable[list[str]], names: Collection[str] | None) -> Iterator[Variant | None]:
        """The variant of each line of the .bim, None for one that is left out."""
        for line in lines:
            self.tally.read += 1
            variant = self._variant(line, self.tally.read)
            reason = self.wanted(variant, names)
            if reason is not None:
                self.tally.left_out[reason] += 1
            yield None if reason else variant

    def _variant(self, line: list[str], number: int) -> Variant:
        chrom, name, _, pos, counted, other = line
        if not pos.isascii() or not pos.removeprefix("-").isdigit() or len(pos) > 10:
            raise DataError(f"Line {number} of {self.path.with_suffix('.bim').name} has no position in its fourth column.", fix="export the fileset again")
        return Variant(name if name != "." else f"{chrom}:{pos}:{other}:{counted}", chrom, int(pos), other, counted)

    @cached_property
    def _variants(self) -> int:
        """Lines of the .bim."""
        return sum(1 for _ in self._lines(".bim", 6))

    def _checked(self) -> int:
        """Bytes of one variant in the .bed, once its magic and its size are found to be right."""
        with reading_genotypes(self.name):
            size = self.path.stat().st_size
            with self.path.open("rb") as file:
                head = file.read(3)
        if head[:2] != MAGIC or len(head) < 3 or head[2] > 1:
            raise DataError(
                f"{self.name} does not begin as a PLINK 1.9 .bed file does.", fix="check that it is one; a BED file of genome intervals is another thing"
            )
        if head[2] == 0:
            raise DataError(f"{self.name} is stored sample by sample.", fix="run: plink --bfile IN --make-bed --out OUT")
        row = (len(self.samples) + 3) // 4
        expected = 3 + row * self._variants
        if size != expected:
            raise DataError(
                f"{self.name} has {size:,} bytes, and {expected:,} are needed for {len(self.samples):,} samples and {self._variants:,} variants.",
                fix="check that .bed, .bim and .fam belong together, and that none was cut off",
            )
        return row

    def _lines(self, suffix: str, columns: int) -> Iterator[list[str]]:
        """The lines of a file beside the .bed, in columns."""
        path = self.path.with_suffix(suffix)
        with reading_genotypes(path.name), path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                if len(line) == MAX_LINE_BYTES:
                    raise TooLarge(f"Line {number} of {path.name} is longer than {MAX_LINE_BYTES:,} bytes.", fix="check how the file was made")
                parts = line.decode().split()
                if len(parts) != columns:
                    raise DataError(f"Line {number} of {path.name} has {len(parts)} columns, and {columns} are needed.", fix="export the fileset again")
                yield parts


def _phenotype(cells: list[str], where: str) -> list[float | None]:
    """The sixth column: 1 control, 2 case and 0 unknown, or any number with -9 for unknown."""
    values, bad = list[float | None](), 0
    for cell in cells:
        try:
            values.append(None if cell.lower() in _NOTHING else float(cell))
        except ValueError:
            bad += 1
    if bad or any(v is not None and not np.isfinite(v) for v in values):
        raise DataError(f"{max(bad, 1)} phenotypes of {where} are no numbers.", fix="write -9 or NA where none is known, or put phenotypes in labels_file")
    cases = {v for v in values if v is not None} <= {-9.0, 0.0, 1.0, 2.0}
    return [None if v == -9 or (cases and v == 0) else v for v in values]
