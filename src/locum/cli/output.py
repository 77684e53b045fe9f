"""How a command speaks: JSON for programs, tables for people, and errors in three sentences."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from locum.errors import LocumError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value instead of text.")]


_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys instead of showing it: escape sequences, and marks that turn the direction of writing."""


def console(*, stderr: bool = False) -> Console:
    """A rich console; plain and wide when the output is not a terminal.

    Studies, column names and cells are other people's text: what of it would steer the terminal is shown as a question mark.
    """
    from rich.console import Console

    class Plain(Console):
        def render(self, renderable: Any, options: Any = None) -> Iterator[Any]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else segment._replace(text=_CONTROLS.sub("?", segment.text))

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Plain(stderr=stderr, highlight=False, width=None if terminal else 160)


def emit(value: Any) -> None:
    """`value` as one JSON value on standard output; msgspec structs and paths are understood."""
    import msgspec

    sys.stdout.write(json.dumps(msgspec.to_builtins(value, enc_hook=_plain), indent=2) + "\n")


def _plain(value: Any) -> Any:
    """What msgspec does not know: a path is its text; anything else is a fault, lest a number become a string."""
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON data")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "", right: Sequence[str] = ()) -> None:
    """A table for people; `right` names the columns that are aligned right. A cell is shown as it is: brackets are no markup."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    out = Table(title=escape(title) or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        out.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        out.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    console().print(out)


def coloured(text: str, colour: str) -> Text:
    """A cell or a word in colour."""
    from rich.text import Text

    return Text(text, style=colour)


def when(seconds: float | None) -> str:
    """A time in UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S") if seconds else "-"


def size(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def secret(given: str, what: str) -> str:
    """`given`, or for '-' what is pasted at a prompt that does not echo, or piped in: a command line is visible to others."""
    if given != "-":
        return given
    return str(typer.prompt(f"Paste {what}", hide_input=True)) if sys.stdin.isatty() else sys.stdin.read(20_000)


def fail(error: LocumError, *, as_json: bool) -> NoReturn:
    """Print an error with its reason and remedy, and leave with status 1."""
    if as_json:
        print(json.dumps({"error": error.code, "what": error.what, "why": error.why, "fix": error.fix}), file=sys.stderr)
    else:
        err = console(stderr=True)
        err.print(error.what, style="bold red", markup=False)
        for label, text in (("Why", error.why), ("To fix it", error.fix), ("Here only", error.local)):
            if text:
                err.print(f"{label}: {text}", markup=False)
    sys.exit(1)
