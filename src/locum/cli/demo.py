"""`locum demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from locum.cli.output import Json, console, emit


def demo(
    fault: Annotated[str | None, typer.Option(help="Inject a fault: kill-coordinator, kill-site or cut-upload.")] = None,
    folder: Annotated[Path, typer.Option(help="Where to put everything; a number is added if it exists.")] = Path("locum-demo"),
    as_json: Json = False,
) -> None:
    """Run a real federation on this machine: 18 hospitals as processes, one Cox model, beside the pooled answer."""
    import importlib.util

    from locum.errors import LocumError, ManifestError
    from locum.study.document import nearest

    if fault is not None and fault not in ("kill-coordinator", "kill-site", "cut-upload"):
        raise ManifestError(f"There is no fault '{fault}'.", fix=nearest(fault, ["kill-coordinator", "kill-site", "cut-upload"]))
    if importlib.util.find_spec("lifelines") is None:
        raise LocumError("The demonstration's data and reference come with lifelines, which is not installed.", fix="pip install 'locum[demo]'")

    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from locum.cli.study import describe
    from locum.demo.run import demo as run
    from locum.demo.run import new_folder
    from locum.demo.show import summary as show
    from locum.federation.wire import RunView
    from locum.scenarios import studies

    place = next(p for p in new_folder(folder) if not p.exists()).resolve()
    place.mkdir(parents=True)
    study = studies.study("lung")
    out = console()
    if not as_json:
        out.print(f"[bold]{study.title}[/]\n{study.question}\nEverything goes to {place}")
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console(stderr=True), disable=as_json
    ) as progress:
        line = progress.add_task("preparing", total=len(study.plan))

        def watch(view: RunView) -> None:
            progress.update(line, description=describe(view), completed=view.step)

        answer = run(place, study, fault, lambda text: progress.update(line, description=text), watch)
        progress.update(line, description="done", completed=len(study.plan))
    if as_json:
        emit(answer)
    else:
        show(out, answer)
