"""The gates over ten million rows of thirty columns, beside reading the same file once and beside a plain description of it; FHIR resources
through a view; and what the published data sets say through the gates and through the sums of 466 hospitals.

Every measure of the first part is a process of its own, so that its peak memory is its own; the three take turns.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.report import Report

ROWS, QUICK_ROWS = 10_000_000, 200_000
RUNS = 5
GROUP = 1 << 19
SMOKING = ["never", "former", "current", "unknown"]


def run(report: Report, *, quick: bool = False, only: str | None = None) -> None:
    """check_10m_rows_s and check_peak_gb; then what `bench.data_fhir` and `bench.data_sets` measure. only: 'check', 'fhir' or 'sets'."""
    if only in (None, "check"):
        _check(report, QUICK_ROWS if quick else ROWS, 1 if quick else RUNS)
    if only in (None, "fhir"):
        from bench import data_fhir

        data_fhir.measure(report, quick=quick)
    if only in (None, "sets"):
        from bench import data_sets

        data_sets.measure(report)


def _check(report: Report, rows: int, runs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "table.parquet"
        make(file, rows)
        took: dict[str, list[dict[str, float]]] = {name: [] for name in WORKS}
        for _ in range(runs):
            for name, results in took.items():
                results.append(_apart(name, file))
    for results in took.values():
        if any(r["rows"] != rows for r in results):
            raise RuntimeError("a measure did not see every row")
    seconds = {name: statistics.median(r["seconds"] for r in results) for name, results in took.items()}
    peak = {name: max(r["gb"] for r in results) for name, results in took.items()}
    spread = [r["seconds"] for r in took["check"]]
    size = f"{rows:,} rows, 30 columns, {runs} runs of {min(spread):.1f} to {max(spread):.1f} s"
    report.add("check_10m_rows_s", seconds["check"], "s", reference=seconds["scan"], note=f"reference: polars reads all columns once; {size}")
    report.add("check_peak_gb", peak["check"], "GB", reference=peak["scan"], note="largest resident set of the process; reference: polars reads once")
    note = "polars describe(): counts, mean, SD, quantiles; no contract, no patients, no cohort"
    report.add("describe_10m_rows_s", seconds["describe"], "s", reference=seconds["scan"], note=note)
    report.add("describe_peak_gb", peak["describe"], "GB", note="the same")


def _apart(name: str, file: Path) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-m", "bench.data", name, str(file)], check=True, capture_output=True, text=True)
    out: dict[str, float] = json.loads(done.stdout)
    return out


def make(file: Path, rows: int) -> None:
    """A patient identifier, 14 measurements of which 5 % are missing, 6 whole numbers, 4 booleans, 4 categories and a date."""
    import polars as pl
    import pyarrow.parquet as pq

    rng = np.random.default_rng(1)
    writer = None
    for start in range(0, rows, GROUP):
        n = min(GROUP, rows - start)
        columns = {"pid": pl.Series(rng.integers(0, max(1, rows // 3), n)).cast(pl.String).str.zfill(9)}
        for i in range(14):
            value = pl.Series(rng.normal(100, 15, n).round(2))
            columns[f"lab{i}"] = value.set(pl.Series(rng.random(n) < 0.05), None)
        columns |= {f"count{i}": pl.Series(rng.integers(0, 100, n)) for i in range(6)}
        columns |= {f"yes{i}": pl.Series(rng.random(n) < 0.2) for i in range(4)}
        columns |= {f"smoking{i}": pl.Series(SMOKING).gather(rng.integers(0, 4, n)) for i in range(4)}
        columns["seen"] = pl.Series(rng.integers(18_000, 19_800, n).astype(np.int32)).cast(pl.Date)
        table = pl.DataFrame(columns).to_arrow(compat_level=pl.CompatLevel.oldest())
        writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
        writer.write_table(table)
    if writer is not None:
        writer.close()


def contract() -> dict[str, dict[str, object]]:
    """Every gate has work to do: hard and plausible ranges, shares of missing values, variation."""
    lab = {"unit": "mg/dL", "minimum": 0, "maximum": 300, "plausible": [40, 160], "max_missing": 0.1}
    out: dict[str, dict[str, object]] = {"pid": {"role": "patient"}, **{f"lab{i}": lab for i in range(14)}}
    out |= {f"count{i}": {"type": "integer", "minimum": 0, "maximum": 120} for i in range(6)}
    out |= {f"yes{i}": {"type": "boolean", "role": "event" if i == 0 else "feature"} for i in range(4)}
    out |= {f"smoking{i}": {"type": "category", "categories": SMOKING} for i in range(4)}
    return out | {"seen": {"type": "date", "minimum": "2000-01-01", "maximum": "2030-01-01"}}


def check(file: Path) -> int:
    from locum.data.gates import check_source
    from locum.data.mapping import SiteMapping
    from locum.data.sources import open_source
    from locum.study.manifest import DataSpec

    report = check_source(DataSpec.parse({"variables": contract()}), open_source(SiteMapping().source, file))
    if report.result != "PASS":
        raise RuntimeError("the table of the benchmark must pass")
    return report.rows


def scan(file: Path) -> int:
    import polars as pl

    return sum(len(batch) for batch in pl.scan_parquet(file).collect_batches(chunk_size=1 << 17))


def describe(file: Path) -> int:
    import polars as pl

    table = pl.read_parquet(file)
    table.describe()
    return len(table)


WORKS: dict[str, Callable[[Path], int]] = {"check": check, "scan": scan, "describe": describe}


def _peak() -> int:
    """The largest resident set of this process, in bytes. Linux counts that of the parent before exec into ru_maxrss, but not into VmHWM."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """One measure, in this process: seconds with all imports but without the start of Python, and the peak of the whole process."""
    name, file = sys.argv[1:]
    start = time.perf_counter()
    rows = WORKS[name](Path(file))
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "gb": _peak() / 1e9, "rows": rows}))


if __name__ == "__main__":
    main()
