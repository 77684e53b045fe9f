"""What the demonstration prints: the answer, beside pooling, beside what each site could do alone."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text


def _table(title: str, *columns: str) -> Table:
    from rich import box

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i == 0 else "right")
    return table


def summary(console: Console, s: dict[str, Any]) -> None:
    """Print the summary that `locum demo --json` emits, for people."""
    fit = _table("Cox model: federated beside pooled", "variable", "coef", "SE", "HR (95 % CI)", "p", "pooled", "apart")
    for r in s["coefficients"]:
        low, high = r["ci95"]
        ratio = f"{r['hazard_ratio']:.2f} ({low:.2f}-{high:.2f})"
        fit.add_row(r["name"], f"{r['coef']:+.5f}", f"{r['se']:.5f}", ratio, f"{r['p']:.2g}", f"{r['pooled']:+.5f}", f"{r['difference']:.0e}")
    console.print(fit)
    good = s["max_abs_diff_vs_pooled"] <= 1e-6
    console.print(f"Largest difference from the pooled fit: [{'green' if good else 'red'}]{s['max_abs_diff_vs_pooled']:.1e}[/]\n")

    c = _table(f"Concordance on {s['concordance']['test_patients']} held-out patients", "model", "pairs within a site", "all pairs")
    for r in s["concordance"]["rows"]:
        c.add_row(r["name"], r["within"], r["all"])
    console.print(c)
    for r in s["concordance"]["rows"]:
        console.print(f"{r['name']}: {r['note']}", style="dim")
    console.print()

    traffic = Table.grid(padding=(0, 2))
    traffic.add_row("rounds", str(s["rounds"]))
    traffic.add_row("seconds per round (median, longest)", f"{s['seconds_per_round']['median']:.2f}, {s['seconds_per_round']['max']:.2f}")
    traffic.add_row("bytes sent per site, whole run", f"{s['bytes_sent_per_site']:,}")
    traffic.add_row("bytes that a number travelled in", f"{s['bytes_per_number']:.2f}")
    traffic.add_row("bytes received per site, whole run", f"{s['bytes_received_per_site']:,}")
    traffic.add_row("seconds: run / everything", f"{s['seconds']['run']:.1f} / {s['seconds']['total']:.1f}")
    console.print(traffic)
    console.print()
    if s["fault"]:
        console.print(f"[yellow]Fault:[/] {s['fault']['what']}\n")
    console.print(
        Panel(
            Group(Text(s["aggregation"], style="bold yellow"), Text(f"privacy: {s['privacy']}")),
            title="How updates were protected",
            title_align="left",
            expand=False,
        )
    )
    where = Table.grid(padding=(0, 2))
    where.add_column()
    where.add_column(overflow="fold")
    for label, key in (("model", "model"), ("report", "report"), ("log of the coordinator", "log"), ("release log of a site", "release_log")):
        where.add_row(label, s["files"][key])
    where.add_row("model SHA-256", s["model_sha256"])
    where.add_row("", "the in-process engine gives the same bytes" if s["same_model_in_process"] else "[red]the in-process engine gives other bytes[/]")
    console.print(where)
