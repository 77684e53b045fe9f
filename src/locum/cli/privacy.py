"""`locum privacy`: what a study promises and costs before it runs, and attacks on the implementation itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from locum.cli.output import Json, console, emit

app = typer.Typer(no_args_is_help=True)


@app.command()
def quote(file: Annotated[Path, typer.Argument(help="The study file.")], as_json: Json = False) -> None:
    """What a study promises to each patient (eps, delta, and in words), how much noise that is, and what would lower it most."""
    import json

    from locum.federation.budget import caveats, quote_of
    from locum.study import Study

    study = Study.load(file)
    found, warned = quote_of(study), caveats(study)
    if as_json:
        emit({**json.loads(found.to_json()), "caveats": list(warned)})
        return
    console().print(found.text(), markup=False)
    for text in warned:
        console().print(f"Note: {text}", markup=False, style="yellow")


@app.command()
def audit(full: Annotated[bool, typer.Option("--full", help="More canaries, runs and steps.")] = False, as_json: Json = False) -> None:
    """Attack this installation: attacks that succeed without protection must fail with it, and broken mechanisms must be caught."""
    from locum.errors import LocumError
    from locum.privacy.attacks.audit import run

    err = console(stderr=True)
    with err.status("attacking") as status:
        report = run(full=full, progress=lambda what: status.update(what))
    if as_json:
        emit(report.to_json())
    else:
        console().print(report.text(), markup=False)
    if not report.passed:
        raise LocumError("An attack succeeded, or a broken mechanism went unnoticed.", why="See the table above.", fix="release nothing from this installation")
