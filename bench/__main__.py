"""Run one benchmark and print its table, or write it as JSON."""

import argparse
import importlib
import json
import sys
from pathlib import Path

from bench.report import Report

NAMES = ["data", "governance", "privacy", "rounds", "scenarios", "secagg"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--json", type=Path, help="write the rows to this file as JSON")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, to see that it runs; its figures mean nothing")
    parser.add_argument("--only", help="one part of the benchmark")
    args = parser.parse_args()
    report = Report(args.name)
    importlib.import_module(f"bench.{args.name}").run(report, quick=args.quick, only=args.only)
    report.print(sys.stdout)
    if args.json:
        args.json.write_text(json.dumps(report.to_json(), indent=2) + "\n")


if __name__ == "__main__":
    main()
