"""How a scenario's answer looks in a terminal: lines grouped by measure, and notes that wrap below what they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from locum.cli.output import coloured, console, table

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from locum.scenarios import Line, Outcome

ROOM = 44
"""Characters that a note needs beside the figures; where there are fewer, it goes below them."""
LONGEST = 0.3
"""Of the width: who a line is of, before it wraps."""


def print_lines(lines: Sequence[Line]) -> None:
    """The table: a heading for each measure, and below it who reached what."""
    from rich.padding import Padding
    from rich.text import Text

    from locum.report.scenario import by_measure

    groups = by_measure([vars(x) for x in lines])
    referenced = any(x.reference is not None for x in lines)
    rows = [row for _, rows in groups for row in rows]
    out = console()
    widths = [min(int(LONGEST * out.width), max(len(r["who"]) for r in rows) + 2)]
    widths += [max(len(head), *(len(r[key]) for r in rows)) for key, head in (("value", "value"), ("interval", "95 % interval"), ("reference", "reference"))]
    if not referenced:
        widths.pop()
    beside = out.width - sum(widths) - 2 * len(widths) >= ROOM
    heads = ["", "value", "95 % interval", *(["reference"] if referenced else []), *(["note"] if beside else [])]
    _row(out, [Text(h, style="bold") for h in heads], widths)
    for measure, of in groups:
        out.print(Text(measure, style="bold cyan"))
        for r in of:
            own = "bold" if r["who"] == "federated" else ""
            cells: list[RenderableType] = [Padding(Text(r["who"], style=own), (0, 0, 0, 2)), Text(r["value"], style=own), Text(r["interval"])]
            cells += [Text(r["reference"])] if referenced else []
            _row(out, [*cells, *([Text(r["note"], style="dim")] if beside else [])], widths)
            if r["note"] and not beside:
                _below(out, Text(r["note"], style="dim"), 6)


def print_notes(outcome: Outcome) -> None:
    """What the answer does not show, a line each, wrapped under its own beginning."""
    from rich.table import Table
    from rich.text import Text

    if not outcome.notes:
        return
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column(overflow="fold")
    for note in outcome.notes:
        grid.add_row(Text("-"), Text(note))
    console().print(grid)


def print_costs(costs: Sequence[dict[str, object]]) -> None:
    """What each mode costs; a column that would be empty is left out, and a word says whether the network gave one process's model."""
    from locum.report.scenario import cost_row

    rows = [cost_row(c) for c in costs]
    keys = [
        ("mode", "mode"),
        ("value", "federated"),
        ("sites", "sites"),
        ("difference", "difference"),
        ("eps", "eps, delta"),
        ("rounds", "rounds"),
        ("sent", "sent by a site"),
        ("seconds", "seconds"),
        ("same", "model as in one process"),
    ]
    shown = [(k, head) for k, head in keys if any(r[k] not in ("-", "") for r in rows)]
    right = [head for k, head in shown if k in ("value", "sites", "difference", "eps", "rounds", "sent", "seconds")]
    colour = {"yes, bit for bit": "green", "no": "red"}
    cells = [[coloured(r[k], colour[r[k]]) if r[k] in colour else r[k] for k, _ in shown] for r in rows]
    table([head for _, head in shown], cells, title=f"What each mode costs: {rows[0]['metric']}", right=right)
    if len({r["sites"] for r in rows}) > 1:
        console().print("Where a mode has other sites, the difference is mostly that of another cohort, and not a cost.", markup=False)


def _row(out: Console, cells: Sequence[RenderableType], widths: Sequence[int]) -> None:
    from rich.table import Table

    grid = Table.grid(padding=(0, 2, 0, 0))
    for at, width in enumerate(widths):
        grid.add_column(width=width, justify="right" if at in (1, 3) else "left", overflow="fold")
    for _ in cells[len(widths) :]:
        grid.add_column(overflow="fold")
    grid.add_row(*cells)
    out.print(grid)


def _below(out: Console, text: Text, indent: int) -> None:
    from rich.padding import Padding

    out.print(Padding(text, (0, 0, 0, indent)))
