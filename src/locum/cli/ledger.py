"""`locum site ledger`: what studies have spent of a table's privacy budget, and what is left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from locum.cli.output import Json, console, emit, table, when

app = typer.Typer()
Folder = Annotated[Path, typer.Option(envvar="LOCUM_SITE", help="The site's folder.")]
Data = Annotated[str | None, typer.Option("--data", help="Which table, where the site has several.")]
FOLDER = Path("locum-site")


@app.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    data: Data = None,
    what_if: Annotated[Path | None, typer.Option("--what-if", help="A study file: what it would cost here, and whether there is room.")] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Every line of the ledger.")] = False,
    folder: Folder = FOLDER,
    as_json: Json = False,
) -> None:
    """What is spent, by whom, what is left, and what a further study would cost."""
    if context.invoked_subcommand:
        return
    from locum.site.statement import statement
    from locum.study import Study

    found = statement(folder, data, Study.load(what_if) if what_if else None)
    if as_json:
        emit(found.to_json())
        return
    console().print(found.text(), markup=False)
    rows = [
        (s.requester, s.study[:12], f"{s.eps_charged:.3g}", f"{s.eps_reserved:.3g}", f"{s.rounds_charged}/{s.rounds_planned}+{s.rounds_spare}", s.state)
        for s in found.studies
    ]
    table(["asked by", "study", "eps charged", "eps reserved", "rounds", ""], rows, right=["eps charged", "eps reserved", "rounds"])
    if lines:
        table(["line", "when (UTC)", "what", "details"], [(x.n, when(x.time), x.kind, x.details) for x in found.lines])


@app.command()
def accept(data: Data = None, folder: Folder = FOLDER, as_json: Json = False) -> None:
    """The table's file has changed and is of the same patients: go on with it. What was spent on them stays spent."""
    from locum.site.statement import accept_table

    sha256 = accept_table(folder, data)
    if as_json:
        emit({"data_sha256": sha256})
    else:
        console().print(
            f"The ledger now stands for the table and its mapping as they are (fingerprint {sha256[:16]}). What was spent stays spent.", markup=False
        )


@app.command()
def settle(
    study: Annotated[str, typer.Argument(help="A study's digest, or the start of it.")], data: Data = None, folder: Folder = FOLDER, as_json: Json = False
) -> None:
    """A study is over here: what it set aside and did not use is free again. It can never be charged again."""
    from locum.site.statement import settle_study

    left = settle_study(folder, data, study)
    if as_json:
        emit(left)
    else:
        console().print(f"Settled: {left.study[:12]}; eps {left.eps_charged:.3g} stays spent.", markup=False)
