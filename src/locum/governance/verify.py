"""Verify an audit bundle, offline. It needs Python and `cryptography`, and of Locum only the two files beside it:
`locum audit verifier verify.py` writes all three as one file, which anybody can read and run: `python verify.py bundle.zip`.

A bundle says how a model was made: the study, who approved it, which rounds were asked and answered, and where the transparency log says
so. Every check says what it compared; one that fails names what does not hold, and the exit status is then 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from locum.governance.verify_checks import CHECKS, Bundle
from locum.governance.verify_formats import Bad, read

MOST_NAMED = 8
NOT_PROVED = (
    "that the sites' data were what the sites say, or that a site ran the task that it approved: its signature says that it answers for the vector",
    "that the coordinator added the answers up correctly, where it alone could see them: compare with a second run, or run the study in an enclave",
    "that other entries were kept out of the log itself: an event that was never recorded leaves no trace in it",
    "that everybody was shown this same log, beyond the sites that cosigned this checkpoint",
)
"""What no check here can show."""


@dataclass
class Check:
    """name: stable, for programs. compared: what was compared. problems: empty if it holds."""

    name: str
    compared: str = ""
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        more = [f"and {len(self.problems) - MOST_NAMED} more"] if len(self.problems) > MOST_NAMED else []
        return f"{'PASS' if self.ok else 'FAIL'}  {self.name:12} " + ("\n" + " " * 19).join(
            [self.compared] if self.ok else [*self.problems[:MOST_NAMED], *more]
        )


@dataclass
class Report:
    checks: list[Check] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return bool(self.checks) and all(c.ok for c in self.checks)

    def to_json(self) -> dict[str, Any]:
        listed = [{"check": c.name, "ok": c.ok, "compared": c.compared, "problems": c.problems} for c in self.checks]
        return {"ok": self.ok, **self.about, "checks": listed, "not_proved": list(NOT_PROVED)}

    def text(self) -> str:
        end = "Every check holds." if self.ok else "THIS BUNDLE DOES NOT HOLD: " + ", ".join(c.name for c in self.checks if not c.ok)
        head = [f"{k:9} {v}" for k, v in self.about.items()]
        text = "\n".join([*head, *map(str, self.checks), "", "What this cannot prove:", *(f"- {x}" for x in NOT_PROVED), "", end])
        return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)  # names are other people's text, and a terminal obeys what is not printable


def verify(path: str | Path, *, coordinator: str = "", consortium: str = "", witnesses: int = 0, seen: str = "") -> Report:
    """Every check over the bundle at `path`. coordinator, consortium: fingerprint or key. witnesses: how many sites must have cosigned. seen:
    the text of a checkpoint of the same log."""
    report = Report()
    try:
        files, model = read(str(path))
    except (Bad, KeyError, TypeError, ValueError, AttributeError) as error:
        report.checks.append(Check("files", problems=[str(error) if isinstance(error, Bad) else "index.json is not in its one form"]))
        return report
    report.checks.append(Check("files", f"{len(files) + bool(model)} files, as the index lists them"))
    b = Bundle(files, model, {"coordinator": coordinator.strip(), "consortium": consortium.strip()}, witnesses, seen)
    for work in CHECKS:
        check = Check(work.__name__)
        try:
            check.compared = work(b, check.problems)
        except Bad as error:
            check.problems.append(str(error))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError):
            check.problems.append("what it needs is missing, or not in the form that this version knows")
        report.checks.append(check)
    if "study.json" in files:
        report.about = _about(b)
    return report


def _about(b: Bundle) -> dict[str, str]:
    try:
        return {k: b.study[k] for k in ("study", "run", "model", "requester")} | {"log": f"{b.note.origin}, {b.note.size} entries"}
    except (Bad, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def main(words: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Verify an audit bundle, offline.")
    parser.add_argument("bundle")
    parser.add_argument("--coordinator", default="", help="the coordinator's key, or its fingerprint, as you know it from elsewhere")
    parser.add_argument("--consortium", default="", help="the consortium's key, or its fingerprint")
    parser.add_argument("--witnesses", type=int, default=0, metavar="N", help="how many sites must have cosigned the checkpoint")
    parser.add_argument("--seen", type=Path, metavar="FILE", help="a checkpoint of the same log that you were shown")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(None if words is None else list(words))
    seen = args.seen.read_text(encoding="utf-8") if args.seen else ""
    report = verify(args.bundle, coordinator=args.coordinator, consortium=args.consortium, witnesses=args.witnesses, seen=seen)
    print(json.dumps(report.to_json(), indent=2) if args.json else report.text())
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
