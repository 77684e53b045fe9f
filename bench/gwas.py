"""A genome-wide study of 1,000 patients and a million variants at four hospitals, each of which reads its own PLINK fileset as a site does.

It runs in a process of its own, so that its peak memory is its own; writing the simulated files is not counted.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.report import Report

PATIENTS, SITES = 250, 4
VARIANTS, QUICK_VARIANTS = 1_000_000, 20_000
_CODES = np.array([3, 2, 0], np.uint8)
"""Copies of allele 1 as the two bits of a .bed file."""


def measure(report: Report, *, quick: bool = False) -> None:
    """gwas_1m_s, gwas_genotypes_per_s, gwas_peak_gb."""
    variants = QUICK_VARIANTS if quick else VARIANTS
    with tempfile.TemporaryDirectory() as folder:
        for k in range(SITES):
            write(Path(folder), k, variants)
        done = subprocess.run([sys.executable, "-m", "bench.gwas", folder, str(variants)], check=True, capture_output=True, text=True)
        got = json.loads(done.stdout)
    size = f"{PATIENTS * SITES:,} patients at {SITES} hospitals, {variants:,} variants, stratified by hospital, 1 run"
    report.add("gwas_1m_s", got["seconds"], "s", note=f"from PLINK files through the mapping, the door and the masks' integers to lambda; {size}")
    report.add("gwas_genotypes_per_s", PATIENTS * SITES * variants / got["seconds"], "1/s", note=f"reading alone: {got['read']:.1f} s")
    report.add("gwas_peak_gb", got["gb"], "GB", note=f"largest resident set of the process that is all four sites; genotypes {got['held']:.2f} GB")
    report.add("gwas_tested", got["tested"], "variants", note=f"lambda_GC {got['lambda_gc']:.3f}")


def write(folder: Path, site: int, variants: int) -> None:
    """One hospital's .bed, .bim and .fam: frequencies that drifted apart by F = 0.01, 2 % not called."""
    common, own = np.random.default_rng(0), np.random.default_rng(site + 1)
    width = (PATIENTS + 3) // 4
    with (folder / f"site{site}.bed").open("wb") as file:
        file.write(b"\x6c\x1b\x01")
        for start in range(0, variants, 20_000):
            n = min(20_000, variants - start)
            ancestral = common.uniform(0.05, 0.95, n)
            f = own.beta(99 * ancestral, 99 * (1 - ancestral))
            level = np.clip(np.rint(256 * f), 2, 254).astype(np.uint8)[:, None]
            drawn = np.frombuffer(own.bytes(3 * n * PATIENTS), np.uint8).reshape(3, n, PATIENTS)
            g = (drawn[0] < level).astype(np.uint8) + (drawn[1] < level)
            codes = np.zeros((n, 4 * width), np.uint8)
            codes[:, :PATIENTS] = np.where(drawn[2] < 5, np.uint8(1), _CODES[g])
            file.write((codes[:, 0::4] | codes[:, 1::4] << 2 | codes[:, 2::4] << 4 | codes[:, 3::4] << 6).tobytes())
    with (folder / f"site{site}.bim").open("w") as file:
        file.writelines(f"{1 + 22 * j // variants}\trs{j}\t0\t{1000 + 100 * j}\tA\tG\n" for j in range(variants))
    age, noise = own.normal(60.0, 10.0, PATIENTS).clip(0, 120), own.normal(size=PATIENTS)
    y = 0.03 * (age - 60.0) + site + noise
    (folder / f"site{site}.fam").write_text("".join(f"s{site} p{i} 0 0 0 {y[i]:.4f}\n" for i in range(PATIENTS)))
    (folder / f"site{site}.csv").write_text("sample,age\n" + "".join(f"p{i},{age[i]:.1f}\n" for i in range(PATIENTS)))
    (folder / f"site{site}.toml").write_text(f'[source]\ntype = "plink"\nmax_variants = {variants}\nlabels_file = "site{site}.csv"\n')


def work(folder: Path, variants: int) -> dict[str, float]:
    """As hospitals would: each reads its fileset under the study's contract, and the study runs masked over their rows."""
    from locum.data import load_rows
    from locum.simulate import simulate
    from locum.study import Study

    start = time.perf_counter()
    study = Study.parse(
        {
            "name": "genome-wide",
            "data": {
                "variables": {
                    "sample": {"role": "patient", "type": "text"},
                    "genotypes": {"type": "array", "shape": [variants]},
                    "phenotype": {"role": "outcome"},
                    "age": {"minimum": 0, "maximum": 120},
                }
            },
            "terms": {"privacy": "none", "min_cohort": SITES},
            "plan": [
                {"name": "null", "task": "linear", "features": ["age"], "outcome": "phenotype", "site_intercepts": True},
                {"name": "gwas", "task": "gwas", "null": "null"},
            ],
        }
    )
    sites = {f"hospital-{k}": load_rows(study, folder / f"site{k}.toml", folder / f"site{k}.bed") for k in range(SITES)}
    read = time.perf_counter() - start
    held = sum(rows.arrays["genotypes"].nbytes for rows in sites.values())
    got = simulate(study, sites).results["gwas"]
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "read": read, "held": held / 1e9, "tested": got["tested"], "lambda_gc": got["lambda_gc"]}


if __name__ == "__main__":
    from bench.data import _peak

    got = work(Path(sys.argv[1]), int(sys.argv[2]))
    print(json.dumps({**got, "gb": _peak() / 1e9}))
