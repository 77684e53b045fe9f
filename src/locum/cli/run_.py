"""`locum run`: what happened, and again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from locum.cli.output import Json, console, emit, size, table, when
from locum.cli.study import HOME, Home, client, describe, find_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from locum.client import Client
    from locum.federation.wire import RoundView, RunView

app = typer.Typer(no_args_is_help=True)
Run = Annotated[str, typer.Argument(help="A run's id, or a study's name or digest.")]
Audit = Annotated[Path | None, typer.Option(help="What 'locum privacy audit --json' printed, to go on the privacy card.")]


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
            from locum.report.figures import ratio_of
            from locum.report.page import columns as of

            heads, of_model = of(coefficients)
            ratio = ratio_of(coefficients)
            if ratio:
                heads.append(ratio.replace("_", " "))
                for (_, cells), c in zip(of_model, coefficients, strict=True):
                    cells.append("" if c[ratio] is None else f"{c[ratio]:.3f}")
            table(["variable", *heads], [(name, *cells) for name, cells in of_model], title=step, right=heads)
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
def report(
    run: Run,
    file: Annotated[Path, typer.Argument(help="The HTML file to write.")],
    card: Annotated[Path | None, typer.Option(help="Where the privacy card goes; by default privacy.json beside FILE, which is overwritten.")] = None,
    figures: Annotated[Path | None, typer.Option(help="A folder that gets every figure of the page as an SVG file.")] = None,
    audit: Audit = None,
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """Write a run as one self-contained HTML page, and its privacy card as JSON beside it."""
    import json

    import msgspec

    from locum.report import page

    connection = client(home)
    view = connection.run(find_run(connection, run).id)
    rounds = connection.rounds(view.id)
    made = privacy_card(connection, view, rounds, audit)
    study = json.loads(connection.study(view.study).manifest)
    beside = card or file.parent / "privacy.json"
    _write(file, page(study=study, run=msgspec.to_builtins(view), rounds=msgspec.to_builtins(rounds), card=made))
    _write(beside, json.dumps(made, indent=2) + "\n")
    pictures = _figures(figures, view.results, study) if figures else []
    if as_json:
        emit({"file": file, "card": beside, **({"figures": pictures} if figures else {})})
    else:
        console().print(f"Wrote {file} and {beside}" + (f", and {len(pictures)} figures in {figures}" if figures else ""), markup=False)


@app.command()
def card(
    run: Run,
    file: Annotated[Path | None, typer.Argument(help="The JSON file to write; without it the card is printed.")] = None,
    audit: Audit = None,
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """A run's privacy card: what was promised, whether what ran kept it, and what nobody promised."""
    import json

    from locum.privacy.card import text

    connection = client(home)
    view = connection.run(find_run(connection, run).id)
    made = privacy_card(connection, view, connection.rounds(view.id), audit)
    if file:
        _write(file, json.dumps(made, indent=2) + "\n")
    if as_json:
        emit(made)
    else:
        console().print(f"Wrote {file}" if file else text(made), markup=False)


def privacy_card(connection: Client, view: RunView, rounds: Sequence[RoundView], audit: Path | None) -> dict[str, Any]:
    """The card of a run; the study's other runs count against the same budget."""
    from locum.report import card_of
    from locum.study import Study

    report = _audit(audit) if audit else None
    study = Study.from_json(connection.study(view.study).manifest.encode())
    others = [r for other in connection.runs() if other.study == view.study and other.id != view.id for r in connection.rounds(other.id)]
    return card_of(study, view, rounds, others=others, audit=report)


def _figures(folder: Path, results: dict[str, Any], study: dict[str, Any]) -> list[Path]:
    """The files written. Raises `Conflict` where the folder cannot be."""
    from locum.errors import Conflict
    from locum.report.figures import figures_of, files_of

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Conflict(f"{folder} cannot be made: {error.strerror}.", fix="choose another place") from None
    made = files_of(figures_of(results, study))
    for name, svg in made.items():
        _write(folder / name, svg)
    return [folder / name for name in made]


def _audit(file: Path) -> Any:
    """Raises `NotFound`, or `ManifestError` for a file that is no JSON object."""
    import json

    from locum.errors import ManifestError, NotFound

    fix = "locum privacy audit --json > FILE"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise NotFound(f"{file} cannot be read: {error.strerror}.", fix=fix) from None
    except (ValueError, RecursionError):
        raise ManifestError(f"{file} is not valid JSON.", fix=fix) from None
    if not isinstance(found, dict):
        raise ManifestError(f"{file} is not an audit report.", fix=fix)
    return found


def _write(file: Path, content: str) -> None:
    from locum.errors import Conflict

    try:
        file.write_text(content, encoding="utf-8")
    except OSError as error:
        raise Conflict(f"{file} cannot be written: {error.strerror}.", fix="choose another place") from None


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
