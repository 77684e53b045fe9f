"""What a benchmark returns: rows of metric, value, unit, reference and ratio, and the machine they were measured on."""

import os
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO


@dataclass
class Row:
    metric: str
    value: float
    unit: str
    reference: float | None = None
    ratio: float | None = None
    note: str = ""


@dataclass
class Report:
    name: str
    rows: list[Row] = field(default_factory=list)

    def add(self, metric: str, value: float, unit: str, *, reference: float | None = None, note: str = "") -> None:
        self.rows.append(Row(metric, value, unit, reference, value / reference if reference else None, note))

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "machine": machine(), "commit": commit(), "rows": [asdict(r) for r in self.rows]}

    def print(self, out: TextIO) -> None:
        print(f"{self.name} on {machine()} at {commit()}", file=out)
        print(f"{'metric':32} {'value':>12} {'unit':10} {'reference':>12} {'ratio':>8}  note", file=out)
        for r in self.rows:
            reference = f"{r.reference:12.4g}" if r.reference is not None else " " * 12
            ratio = f"{r.ratio:8.3g}" if r.ratio is not None else " " * 8
            print(f"{r.metric:32} {r.value:12.4g} {r.unit:10} {reference} {ratio}  {r.note}", file=out)


def machine() -> str:
    cpu = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as f:
            cpu = next(line.split(":", 1)[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{cpu}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"


def commit() -> str:
    try:
        return subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
