"""What VCF and PLINK share: choosing variants, a bounded matrix of samples by variants, and the table that a study sees of it.

A row is a sample. Its columns are `sample`, whatever else is known of it, every chosen variant by name as the number of copies of the
counted allele (0, 1, 2; null = missing), and `genotypes`, all chosen variants as one array (NaN = missing). The records that the tally
counts are the file's variants. `packed` gives that array without ever unpacking it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from locum.data.genotypes import Genotypes, as_float32, list_hash, pack
from locum.data.sources.base import CHUNK, SourceSpec, Tally, known, open_source, read
from locum.errors import DataError, ManifestError, TooLarge

MAX_MATRIX_BYTES = 1 << 31
MAX_SAMPLES = 5_000_000
BLOCK = 1024
"""Variants of a block."""
GENOTYPES = "genotypes"
UNSEEN = "0"
"""How a .bim writes an allele that nobody in the file has."""
MISSING, ABSENT, BAD = -1, -2, -3
"""Codes of an allele beside its number: not called; not there (a haploid call has one allele); not an allele at all."""
_CHUNK_CELLS = 1 << 24
_REGION = re.compile(r"^(?P<chrom>[^:\s]{1,64})(?::(?P<first>[\d,]{1,14})(?:-(?P<last>[\d,]{0,14}))?)?$")


class GenotypeSpec(SourceSpec):
    """Which variants, and what else is known of the samples.

    region: "chr1:1000-2000", 1-based and inclusive, the chromosome as the file writes it. variants: names (the file's id, or
    chrom:pos:ref:alt), each alone or followed by a blank and the allele to count, so that two sites which code a variant the other way
    round agree (a file that saw one allele only writes 0 for the other, which is then taken for the one asked for). variants_file: the
    same, one a line. max_variants: more are refused rather than read. labels_file: a table (CSV or Parquet) of phenotypes and covariates, one
    row a sample, whose column labels_key holds the sample's name.
    """

    region: str | None = None
    variants: tuple[str, ...] = ()
    variants_file: str | None = None
    max_variants: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    labels_file: str | None = None
    labels_key: str = "sample"

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.variants and self.variants_file:
            raise ValueError("give variants or variants_file, not both")
        if self.region is not None and not _REGION.match(self.region):
            raise ValueError("a region is written chr1:1000-2000, or chr1 for a whole chromosome")
        return self


class Variant(NamedTuple):
    """A variant and which of its two alleles is counted. pos: 1-based."""

    name: str
    chrom: str
    pos: int
    ref: str
    alt: str


class Region(NamedTuple):
    """A stretch of one chromosome; both ends are in it."""

    chrom: str
    first: int = 0
    last: int = 1 << 62

    @classmethod
    def parse(cls, text: str) -> Region:
        chrom, _, rest = text.partition(":")
        first, dash, last = rest.replace(",", "").partition("-")
        return cls(chrom, int(first or 0), int(last or 1 << 62) if dash or not first else int(first))


Info = pl.DataFrame
Dosages = NDArray[Any]
"""int8 with -1 for missing, or float32 with NaN."""


def info(variants: Sequence[Variant]) -> Info:
    """Variants as a table with the columns name, chrom, pos, ref, alt."""
    return pl.DataFrame(variants, schema={"name": pl.String, "chrom": pl.String, "pos": pl.Int64, "ref": pl.String, "alt": pl.String}, orient="row")


class VariantTally(Tally):
    """A tally whose records are variants: their number is not that of the table's rows."""

    rows: ClassVar[bool] = False


@dataclass
class GenotypeSource(ABC):
    """Samples by variants of one file. Subclasses read the samples and stream the blocks."""

    path: Path
    spec: GenotypeSpec
    tally: Tally = field(default_factory=Tally)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    @abstractmethod
    def samples(self) -> list[str]:
        """The samples' names, in the order of the file."""

    @abstractmethod
    def blocks(self, size: int = BLOCK, names: Collection[str] | None = None) -> Iterator[tuple[Info, Dosages]]:
        """The chosen variants in the order of the file, at most `size` at a time, without ever holding more than that.

        Each block is a table (name, chrom, pos, ref, alt: alt is the counted allele) and the counts, shape (samples, variants): int8
        with -1 for missing, or float32 with NaN where the file holds dosages. names: only these. The tally is complete at the end.
        """

    def known_of_samples(self) -> pl.DataFrame:
        """What the file itself says of each sample, first of all `sample`."""
        return pl.DataFrame({"sample": self.samples})

    @cached_property
    def region(self) -> Region | None:
        return Region.parse(self.spec.region) if self.spec.region else None

    @cached_property
    def asked(self) -> dict[str, str | None]:
        """The variants that the mapping names, in its order -> the allele to count, None for the file's own choice."""
        entries = self.spec.variants
        if self.spec.variants_file:
            try:
                with Path(self.spec.variants_file).open(encoding="utf-8") as file:
                    entries = tuple(line for line in file.read(1 << 28).splitlines() if line.strip())
            except (OSError, UnicodeError) as error:
                raise DataError("The file of variants cannot be read.", fix="check variants_file: UTF-8 text, one variant a line", local=str(error)) from None
        asked: dict[str, str | None] = {}
        for entry in entries:
            name, *allele = entry.split()
            if len(allele) > 1 or name in asked:
                raise ManifestError(
                    f"Entry {len(asked) + 1} of the variants {'has more than a name and an allele' if len(allele) > 1 else 'is there twice'}.",
                    fix='write each variant once, as "rs429358" or "rs429358 C"',
                )
            asked[name] = allele[0] if allele else None
        if len(asked) > self.spec.max_variants:
            raise self._too_many()
        return asked

    @cached_property
    def labels(self) -> pl.DataFrame:
        """One row a sample, in the file's order: what the file and the table of labels know of it."""
        frame = self.known_of_samples()
        if self.spec.labels_file is None:
            return frame
        table = open_source(SourceSpec(path=self.spec.labels_file))
        labels = read(table, table.columns())
        key = self.spec.labels_key
        known([key], labels.columns, table.name)
        twice = len(labels) - labels[key].n_unique()
        if twice:
            raise DataError(f"{twice} rows of {table.name} name a sample that another row names.", fix="keep one row for each sample")
        if key != "sample":
            labels = labels.rename({key: "sample"}) if "sample" not in labels.columns else labels.drop("sample").rename({key: "sample"})
        labels = labels.with_columns(pl.col("sample").cast(pl.String))
        clash = sorted(({*frame.columns, GENOTYPES} - {"sample"}) & {*labels.columns})
        if clash:
            raise DataError(f"The column '{clash[0]}' of {table.name} is one that {self.name} has too.", fix="rename it in the table of labels")
        return frame.join(labels, on="sample", how="left", maintain_order="left")

    @cached_property
    def variant_names(self) -> list[str]:
        """The chosen variants: as the mapping lists them, else as the file does."""
        return [*self.asked] if self.asked else self._scan_names()

    def _scan_names(self) -> list[str]:
        names: dict[str, None] = {}
        for table, _ in self.blocks():
            names.update(dict.fromkeys(table["name"]))
            if len(names) > self.spec.max_variants:
                raise self._too_many()
        return [*names]

    def columns(self) -> list[str]:
        """`sample`, the labels, `genotypes`, and every chosen variant. Without a list of variants this reads the file once."""
        return [*self.labels.columns, GENOTYPES, *self.variant_names]

    def chunks(self, names: Sequence[str], size: int = CHUNK) -> Iterator[pl.DataFrame]:
        labels = self.labels
        others = [n for n in dict.fromkeys(names) if n not in labels.columns and n != GENOTYPES]
        chosen = self.variant_names if GENOTYPES in names else others
        index, values = self._matrix(chosen) if chosen else ({}, np.empty((len(labels), 0), np.int8))
        if not chosen:  # nothing but the samples was asked for
            self.tally = Tally(read=len(labels), used=len(labels))
        rows = max(1, min(size, _CHUNK_CELLS // max(1, len(chosen))))
        for first in range(0, len(labels), rows):
            part, cells = labels[first : first + rows], values[first : first + rows]
            yield pl.DataFrame([self._column(n, part, cells, index, chosen) for n in names])

    def _column(self, name: str, labels: pl.DataFrame, cells: Dosages, index: dict[str, int], chosen: Sequence[str]) -> pl.Series:
        if name in labels.columns:
            return labels[name]
        if name == GENOTYPES:
            array = cells[:, [index[n] for n in chosen]]
            array = as_float32(array) if array.dtype == np.int8 else array
            return pl.Series(name, array, dtype=pl.Array(pl.Float32, len(chosen)))
        values = np.ascontiguousarray(cells[:, index[name]])
        series = pl.Series(name, values)
        return series.set(pl.Series(values < 0), None) if values.dtype == np.int8 else series.fill_nan(None)

    def _matrix(self, chosen: Sequence[str]) -> tuple[dict[str, int], Dosages]:
        """The chosen variants' places, and the matrix (samples, chosen), filled in one pass over the file."""
        self._bounded(len(self.samples) * len(chosen) * np.dtype(self.dtype).itemsize, len(chosen))
        values: NDArray[Any] = np.empty((len(self.samples), len(chosen)), self.dtype, order="F")
        places, index = {n: i for i, n in enumerate(chosen)}, {}
        for table, block in self.blocks(names=places):
            for at, name in enumerate(table["name"]):
                if name in index:
                    self._refuse_twice()
                    continue
                index[name] = places[name]
                values[:, places[name]] = block[:, at]
        self._all_found(len(index), len(chosen))
        return index, values

    @property
    def called(self) -> bool:
        """Whether it holds called genotypes, which can be packed; else dosages."""
        return self.dtype is np.int8

    def packed(self) -> Genotypes:
        """All chosen variants of a file that is `called`, as the column `genotypes` has them, two bits each. It reads the file once, in
        blocks, and the tally is then complete. Raises `DataError` or `TooLarge`."""
        places = {name: at for at, name in enumerate(self.variant_names)}
        width = (len(self.samples) + 3) // 4
        self._bounded(width * len(places), len(places))
        values, alleles = np.zeros((len(places), width), np.uint8), [""] * len(places)
        found = np.zeros(len(places), dtype=bool)
        for names, counted, block in self.packed_blocks(places):
            for row, (name, allele) in enumerate(zip(names, counted, strict=True)):
                at = places[name]
                if found[at]:
                    self._refuse_twice()
                    continue
                found[at], alleles[at], values[at] = True, allele, block[row]
        self._all_found(int(found.sum()), len(places))
        return Genotypes(values, np.arange(len(self.samples)), list_hash(zip(places, alleles, strict=True)))

    def packed_blocks(self, names: Collection[str]) -> Iterator[tuple[Sequence[str], Sequence[str], NDArray[np.uint8]]]:
        """As `blocks`: names, counted alleles, and the genotypes as two bits each."""
        for table, block in self.blocks(names=names):
            yield table["name"].to_list(), table["alt"].to_list(), pack(block)

    def _refuse_twice(self) -> None:
        self.tally.used -= 1
        self.tally.refused["a variant whose name an earlier one has"] += 1

    def _all_found(self, found: int, chosen: int) -> None:
        if found < chosen:
            refused = sum(self.tally.refused.values())
            raise DataError(
                f"{chosen - found} of the {chosen} variants asked for are not in {self.name}, or not in the region.",
                why=f"{refused} records were refused: {'; '.join(self.tally.refused)}." if refused else "",
                fix="check how the file names variants and chromosomes (rs1 or 1:1000:A:G, 1 or chr1), and leave out those that it lacks",
            )

    def _bounded(self, nbytes: int, variants: int) -> None:
        if nbytes > MAX_MATRIX_BYTES or variants > self.spec.max_variants:
            raise self._too_many()

    @property
    def dtype(self) -> type[np.generic]:
        """Of the matrix: int8 for counts."""
        return np.int8

    def wanted(self, variant: Variant, names: Collection[str] | None) -> str | None:
        """Why a variant is left out, or None: it is wanted."""
        region = self.region
        if region is not None and (variant.chrom != region.chrom or not region.first <= variant.pos <= region.last):
            return "a variant outside the region"
        if (names is not None and variant.name not in names) or (self.asked and variant.name not in self.asked):
            return "a variant that was not asked for"
        return None

    def orientation(self, variant: Variant) -> tuple[Variant, bool] | str:
        """The variant so that the allele which the mapping names is the counted one, and whether its counts are to be turned round; or the
        reason for refusing it."""
        allele = self.asked.get(variant.name)
        if allele is None or allele == variant.alt:
            return variant, False
        if allele == variant.ref:
            return variant._replace(ref=variant.alt, alt=variant.ref), True
        if UNSEEN in (variant.alt, variant.ref):  # nobody in the file has the allele
            turned = variant.alt != UNSEEN
            return variant._replace(ref=variant.alt if turned else variant.ref, alt=allele), turned
        return "a variant that has not the allele asked for"

    def oriented(self, variant: Variant, values: Dosages) -> tuple[Variant, Dosages] | str:
        """The same, and its counts."""
        found = self.orientation(variant)
        if isinstance(found, str):
            return found
        if not found[1]:
            return found[0], values
        flipped = np.where(values < 0, values, 2 - values) if values.dtype == np.int8 else 2 - values
        return found[0], flipped.astype(values.dtype)

    def _too_many(self) -> TooLarge:
        return TooLarge(
            f"More than {self.spec.max_variants:,} variants, or more than {MAX_MATRIX_BYTES >> 30} GiB of genotypes, are chosen from {self.name}.",
            fix='choose some with region = "chr1:1000-2000", variants or variants_file under [source], or raise max_variants; genome-wide studies read blocks',
        )


def check_samples(samples: Sequence[str], where: str) -> list[str]:
    """The samples' names, which must be there and must differ; raises `DataError` or `TooLarge`."""
    if not samples:
        raise DataError(f"{where} has no samples.", fix="export the genotypes too, not the sites alone")
    if len(samples) > MAX_SAMPLES:
        raise TooLarge(f"{where} has more than {MAX_SAMPLES:,} samples.", fix="split the file by sample")
    bad = len(samples) - len({*samples}) + sum(not s.strip() for s in samples)
    if bad:
        raise DataError(f"{bad} of {len(samples)} samples of {where} have no name or one that another has.", fix="give every sample its own name")
    return [*samples]
