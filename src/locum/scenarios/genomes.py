"""Simulated hospitals for the scenario `gwas`: five PLINK filesets as hospitals have them, and the files that a study sends out with it.

Nothing here is of a person: no set of individual genomes is free to ship. Three populations live at five hospitals; their environments differ,
and so does the trait. Two variants have an effect: 'hidden', whose allele is commoner where the trait is higher although it lowers it, and
'plain', which is as common everywhere. Each hospital's .bim lists the allele that is rarer there first, as PLINK 1.9 writes it, names an
allele that nobody has 0, and has variants that no other hospital has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from locum.data import Rows
from locum.data.genotypes import pack
from locum.testing.populations import frequencies, populations

Floats = NDArray[np.float64]
SIZES = {"north": (250, 0), "south": (250, 1), "east": (200, 0), "west": (200, 1), "islands": (100, 2)}
"""Hospital -> patients, population."""
MEANS = (0.0, 0.4, 0.2)
"""Of the trait, by population, its variance about them being 1."""
FST, MISSING, EFFECT = 0.02, 0.01, 0.3
COUNTED, OTHER, UNSEEN = "A", "G", "0"


@dataclass(frozen=True)
class Genomes:
    """variants: name, chrom, pos, ref, alt of the study's, in its order. planted: name -> place and effect of each copy on the trait."""

    sites: Mapping[str, Rows]
    variants: pl.DataFrame
    planted: Mapping[str, tuple[int, float]]


def simulated(variants: int, seed: int) -> Genomes:
    """One in a hundred variants has no variation."""
    f = frequencies(np.random.default_rng(seed), len(MEANS), variants, FST)  # those that `populations` draws first
    constant = np.arange(99, variants, 100)
    middle = np.asarray(((f > 0.25) & (f < 0.75)).all(axis=0))
    middle[constant] = False
    hidden = int(np.argmax(np.where(middle, f[1] - f[0], -np.inf)))
    plain = int(np.argmin(np.where(middle, np.ptp(f, axis=0), np.inf)))
    planted = {"hidden": (hidden, -EFFECT), "plain": (plain, EFFECT)}
    causal = dict(planted.values())
    environment = np.array(MEANS) - sum(effect * 2.0 * f[:, at] for at, effect in causal.items())
    sites, _ = populations(SIZES, variants=variants, fst=FST, means=environment.tolist(), causal=causal, missing=MISSING, seed=seed)
    for rows in sites.values():
        g = rows.arrays["genotypes"]
        g[:, constant] = np.where(np.isnan(g[:, constant]), np.nan, 0.0)
    at = np.arange(variants)
    known = {"name": [f"rs{j}" for j in at], "chrom": (1 + 22 * at // variants).astype(str), "pos": 1000 + 100 * at}
    table = pl.DataFrame(known).with_columns(pl.lit(OTHER).alias("ref"), pl.lit(COUNTED).alias("alt"))
    return Genomes(sites, table, planted)


def write(genomes: Genomes, folder: Path, *, alleles: bool = True) -> dict[str, tuple[Path, Path]]:
    """Hospital -> its .bed and its mapping, with the study's variants.txt beside them. alleles: whether that says which allele to count."""
    folder.mkdir(parents=True, exist_ok=True)
    names = genomes.variants["name"].to_list()
    (folder / "variants.txt").write_text("".join(f"{name} {COUNTED}\n" if alleles else f"{name}\n" for name in names))
    return {site: _fileset(folder, k, site, rows, genomes.variants) for k, (site, rows) in enumerate(genomes.sites.items())}


def _fileset(folder: Path, k: int, site: str, rows: Rows, variants: pl.DataFrame) -> tuple[Path, Path]:
    rng = np.random.default_rng([7, k])
    own = len(variants) // 100
    g = np.asarray(rows.arrays["genotypes"])
    calls = np.where(np.isnan(g), -1, g).astype(np.int8)
    calls = np.hstack([calls, rng.binomial(2, 0.3, (len(rows), own)).astype(np.int8)])
    known = variants.select("name", "chrom", pl.col("pos").cast(pl.String)).rows() + [(f"{site}-{j}", "22", str(10**8 + j)) for j in range(own)]
    copies, called = np.where(calls > 0, calls, 0).sum(axis=0), (calls >= 0).sum(axis=0)
    common = copies > called  # the counted allele is the commoner one here, so the .bim lists the other first
    turned = np.where(common & (calls >= 0), 2 - calls, calls)
    unseen = np.where(turned > 0, turned, 0).sum(axis=0) == 0
    bed = folder / f"{site}.bed"
    bed.write_bytes(b"\x6c\x1b\x01" + pack(turned).tobytes())
    lines = []
    for (name, chrom, pos), other_way, nobody in zip(known, common, unseen, strict=True):
        first, second = (OTHER, COUNTED) if other_way else (COUNTED, OTHER)
        lines.append(f"{chrom}\t{name}\t0\t{pos}\t{UNSEEN if nobody else first}\t{second}\n")
    bed.with_suffix(".bim").write_text("".join(lines))
    bed.with_suffix(".fam").write_text("".join(f"0 {p} 0 0 0 -9\n" for p in rows.patient))
    labels = {"sample": rows.patient, "age": rows.columns["age"], "trait": rows.columns["y"], "case": rows.columns["case"]}
    pl.DataFrame(labels).write_csv(folder / f"{site}.csv")
    mapping = folder / f"{site}.toml"
    mapping.write_text(f'[source]\ntype = "plink"\nvariants_file = "variants.txt"\nlabels_file = "{site}.csv"\n')
    return bed, mapping
