"""`locum data`: public data sets, and a table of one's own against a study's contract."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from locum.cli.output import Json, console, emit, size, table

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Public multi-site data sets, with licence and whether they are on this machine."""
    from locum.data import registry

    entries = registry.listing()
    if as_json:
        emit(entries)
        return
    rows = [(d["name"], d["title"], d["licence"], ", ".join(d["sites"]), size(d["bytes"]), "yes" if d["here"] else "no") for d in entries]
    table(["name", "what", "licence", "sites by", "size", "here"], rows, right=["size"])


@app.command()
def get(
    name: str, to: Annotated[Path | None, typer.Option(help="Also write one CSV per site and a mapping into this folder.")] = None, as_json: Json = False
) -> None:
    """Download a data set (or find it in LOCUM_DATA_DIR), verify its SHA-256, and show its licence and citation."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    from locum.data import registry

    with Progress(
        "{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=console(stderr=True), disable=as_json, transient=True
    ) as bar:
        tasks: dict[str, object] = {}

        def progress(file: str, done: int, total: int) -> None:
            if file not in tasks:
                tasks[file] = bar.add_task(file, total=total)
            bar.update(tasks[file], completed=done)  # type: ignore[arg-type]

        receipt = registry.fetch(name, progress)
        if to is not None:
            receipt = {**receipt, "exported": {site: str(path) for site, path in registry.export(name, to, progress=progress).items()}}
    if as_json:
        emit(receipt)
        return
    out = console()
    out.print(f"{receipt['name']}: verified. Licence: {receipt['licence']}. Please cite: {receipt['citation']}.", markup=False)
    for file, path in receipt["files"].items():
        out.print(f"  {file}  {path}", markup=False)
    if to is not None:
        out.print(f"{len(receipt['exported'])} sites written to {to}", markup=False)


@app.command()
def check(
    study: Annotated[Path, typer.Argument(help="The study file.")],
    source: Annotated[Path | None, typer.Option("--data", help="Your table (CSV or Parquet).")] = None,
    mapping: Annotated[Path | None, typer.Option(help="Your mapping file.")] = None,
    as_json: Json = False,
) -> None:
    """Check your own table against a study's data contract. Nothing leaves this machine."""
    from locum.data import check as gates
    from locum.data import load_rows
    from locum.study import Study

    question = Study.load(study)
    report = gates(question.data, load_rows(question, mapping, source), min_patients=question.terms.min_rows)
    if as_json:
        emit(report.to_json())
    else:
        colour = {"PASS": "green", "WARN": "yellow", "REFUSE": "red"}
        rows = [(f.variable or "table", f.gate, f"[{colour[f.result]}]{f.result}[/]", f.count, f.what, f.fix) for f in report.findings if f.result != "PASS"]
        out = console()
        out.print(f"{report.result}: {report.rows} rows, {report.patients} patients, {len(report.findings)} gates. Counts stay on this machine.")
        if rows:
            table(["variable", "gate", "result", "rows", "what", "to fix it"], rows, right=["rows"])
    if report.result == "REFUSE":
        raise typer.Exit(2)
