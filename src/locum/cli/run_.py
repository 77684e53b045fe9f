"""`locum run`: what happened, and again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from locum.cli.output import Json, console, emit, size, table, when
from locum.cli.study import HOME, Home, client, describe, find_run

app = typer.Typer(no_args_is_help=True)
Run = Annotated[str, typer.Argument(help="A run's id, or a study's name or digest.")]


@app.command("list")
def list_(home: Home = HOME, as_json: Json = False) -> None:
    """Runs of your studies."""
    runs = client(home).runs()
    if as_json:
        emit(runs)
    else:
        rows = [(r.id, r.name, r.status, when(r.created), describe(r) if r.status in ("waiting", "running") else (r.model or "")[:12] or r.error) for r in runs]
        table(["run", "study", "status", "created (UTC)", ""], rows)


@app.command()
def show(run: Run, rounds: Annotated[bool, typer.Option("--rounds", help="Also every round.")] = False, home: Home = HOME, as_json: Json = False) -> None:
    """A run's state and results."""
    connection = client(home)
    view = connection.run(find_run(connection, run).id)
    every = connection.rounds(view.id) if rounds else None
    if as_json:
        import msgspec

        emit({**msgspec.to_builtins(view), **({"rounds": every} if rounds else {})})
        return
    out = console()
    out.print(f"{view.name}: {view.status}. {describe(view) if view.status in ('waiting', 'running') else view.error}", markup=False)
    out.print(view.protection, style="yellow", markup=False)
    for step, result in view.results.items():
        coefficients = result.get("coefficients")
        if coefficients:
            ratio = next((k for k in ("hazard_ratio", "odds_ratio", "rate_ratio") if k in coefficients[0]), None)
            rows = [(c["name"], f"{c['coef']:+.5f}", f"{c['se']:.5f}", f"{c['p']:.3g}", f"{c[ratio]:.3f}" if ratio else "") for c in coefficients]
            table(
                ["variable", "coef", "SE", "p", (ratio or "").replace("_", " ")], rows, title=step, right=["coef", "SE", "p", (ratio or "").replace("_", " ")]
            )
        brief = {k: v for k, v in result.items() if isinstance(v, int | float | str | bool)}
        out.print(
            f"{step}: " + ", ".join(f"{k.replace('_', ' ')} {v:.6g}" if isinstance(v, float) else f"{k.replace('_', ' ')} {v}" for k, v in brief.items()),
            markup=False,
        )
    if every:
        lines = [
            (
                r.seq,
                r.step,
                r.iteration + 1,
                r.status,
                f"{(r.closed or r.opened) - r.opened:.2f}",
                f"{r.answered}/{r.asked}",
                r.summed,
                size(r.bytes_in),
                size(r.bytes_out),
                f"{r.vector_bytes / r.scalars:.2f}" if r.scalars else "",
            )
            for r in every
        ]
        columns = ["round", "step", "iteration", "status", "seconds", "answered", "in sum", "in", "out", "bytes/number"]
        table(columns, lines, right=["seconds", "in sum", "in", "out", "bytes/number"])


@app.command()
def report(run: Run, file: Annotated[Path, typer.Argument(help="The HTML file to write.")], home: Home = HOME, as_json: Json = False) -> None:
    """Write a run as one self-contained HTML page."""
    import json

    import msgspec

    from locum.report import page

    connection = client(home)
    view = connection.run(find_run(connection, run).id)
    study = json.loads(connection.study(view.study).manifest)
    file.write_text(page(study=study, run=msgspec.to_builtins(view), rounds=msgspec.to_builtins(connection.rounds(view.id))), encoding="utf-8")
    if as_json:
        emit({"file": file})
    else:
        console().print(f"Wrote {file}", markup=False)


@app.command()
def start(study: Annotated[str, typer.Argument(help="A study's name or digest.")], home: Home = HOME, as_json: Json = False) -> None:
    """Run a submitted study again."""
    connection = client(home)
    view = connection.start_run(find_run(connection, study).study)
    if as_json:
        emit(view)
    else:
        console().print(f"Run {view.id} {view.status}. Next: locum study watch {view.id}", markup=False)


@app.command()
def cancel(run: Run, home: Home = HOME, as_json: Json = False) -> None:
    """Stop a run for good."""
    connection = client(home)
    view = connection.cancel(find_run(connection, run).id)
    if as_json:
        emit(view)
    else:
        console().print(f"Run {view.id} {view.status}.", markup=False)
