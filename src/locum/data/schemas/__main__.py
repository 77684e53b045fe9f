"""Write the published schemas, or check that they are current (exit status 1 where they are not)."""

from __future__ import annotations

import sys
from pathlib import Path

from locum.data.schemas import generate


def main(words: list[str]) -> int:
    if words not in (["--check"], ["--write"]):
        print("usage: python -m locum.data.schemas --check | --write", file=sys.stderr)
        return 2
    folder, stale = Path(__file__).parent, []
    for name, text in generate().items():
        path = folder / f"{name}.schema.json"
        if words == ["--write"]:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
    if stale:
        print(f"out of date: {', '.join(stale)}; run: python -m locum.data.schemas --write", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
