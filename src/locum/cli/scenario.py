"""`locum scenario`: medical questions on real data, run on this machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from locum.cli.output import Json, console, emit, table
from locum.errors import LocumError

if TYPE_CHECKING:
    from locum.scenarios import Mode, Outcome, Ran, Scenario

app = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="A scenario's name; 'locum scenario list' shows them.")]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """The questions, and whether their data are on this machine."""
    from locum.scenarios import names, scenario

    found = [_about(scenario(name)) for name in names()]
    if as_json:
        emit(found)
        return
    here = [("yes" if s["data"] else "simulated") if s["here"] else "no: " + ", ".join(f"locum data get {d}" for d in s["missing"]) for s in found]
    rows = [(s["name"], s["title"], ", ".join(s["modes"]), h) for s, h in zip(found, here, strict=True)]
    table(["scenario", "question", "modes", "data here"], rows)
    console().print("Next: locum scenario show NAME    locum scenario run NAME", markup=False)


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """What a scenario asks, of which data, in which modes, and the study files to start from."""
    from locum.data import registry
    from locum.scenarios import scenario, studies
    from locum.scenarios.base import MEANING, MODES

    s = scenario(name)
    if as_json:
        emit(_about(s))
        return
    out = console()
    out.print(f"{s.title}\n{s.question}\n", markup=False)
    for d in s.data:
        entry = registry.entry(d)
        out.print(f"Data: {entry.title} ({entry.licence}; {entry.published})", markup=False)
    if not s.data:
        out.print("Data: simulated by the scenario; nothing to download.", markup=False)
    table(["mode", "what it is"], [(m, MEANING[m] if not s.reason(m) else f"not offered: {s.reason(m)}") for m in MODES])
    table(["study to start from", "title"], [(name, studies.study(name).title) for name in s.studies])
    missing = [f"locum data get {d}" for d in _about(s)["missing"]]
    out.print("Next: " + "\n      ".join([*missing, f"locum scenario run {s.name}", f"locum study new FILE --from {s.studies[0]}"]), markup=False)


@app.command("run")
def run_(
    name: Name,
    mode: Annotated[list[str] | None, typer.Option(help="clear, masked (the default), private or network; several, or 'all', show what each costs.")] = None,
    out: Annotated[Path | None, typer.Option(help="A folder for the page, the figures, the study files and the answer as JSON.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller sizes, to see that it runs; its figures mean little.")] = False,
    as_json: Json = False,
) -> None:
    """Answer the question on this machine, beside pooling the rows, beside each site alone, beside the simplest guess."""
    from locum.scenarios import Lab, plain, scenario

    s = scenario(name)
    modes = _modes(s, mode or ["masked"])
    _check_libraries(s)
    outcomes: list[tuple[Mode, Lab, Outcome, float]] = []
    with _progress(s.title, quiet=as_json) as say:
        for m in modes:
            lab = Lab(m, quick=quick, say=lambda text, m=m: say(f"{m}: {text}"))  # type: ignore[misc]
            outcomes.append((m, lab, *_timed(s, lab)))
    costs = [_cost(m, lab.ran, outcome, seconds, outcomes[0][2]) for m, lab, outcome, seconds in outcomes]
    answers = {m: {**plain(outcome), "seconds": seconds, "protection": _protection(lab.ran)} for m, lab, outcome, seconds in outcomes}
    answer = {"scenario": s.name, "quick": quick, "modes": answers, "costs": costs}
    files = _write(out, s, outcomes, costs, answer, quick=quick) if out else []
    if as_json:
        emit({**answer, "files": files})
        return
    for m, lab, outcome, _ in outcomes:
        _print(s, m, lab.ran, outcome)
    if len(costs) > 1 or costs[0]["same_model"] is not None:
        from locum.cli.scenario_table import print_costs

        print_costs(costs)
    if quick:
        console().print("Smaller sizes were used (--quick): the figures mean little.", style="yellow", markup=False)
    if files:
        console().print(f"Wrote {out}: " + ", ".join(files), markup=False)
    else:
        again = f"locum scenario run {s.name} --out FOLDER for the page and the figures"
        console().print(f"Next: {again}    locum study new FILE --from {s.studies[0]}", markup=False)


def _modes(s: Scenario, asked: Sequence[str]) -> list[Mode]:
    """The modes that were asked for; raises `ManifestError` for one that there is not, with the reason."""
    from locum.errors import ManifestError
    from locum.scenarios import MODES
    from locum.study.document import nearest

    if "all" in asked:
        return [m for m in MODES if m in s.modes]
    chosen: dict[Mode, None] = {}
    for text in asked:
        m = next((m for m in MODES if m == text), None)
        if m is None:
            raise ManifestError(f"There is no mode '{text}'.", fix=nearest(text, [*MODES, "all"]))
        if s.reason(m):
            raise ManifestError(f"'{s.name}' has no mode '{m}'.", why=s.reason(m), fix=f"choose among {', '.join(s.modes)}")
        chosen[m] = None
    return list(chosen)


@contextmanager
def _progress(title: str, *, quiet: bool) -> Iterator[Callable[[str], None]]:
    from rich.markup import escape
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console(stderr=True), disable=quiet, transient=True
    ) as progress:
        line = progress.add_task(escape(title), total=None)
        yield lambda text: progress.update(line, description=escape(text))


def _timed(s: Scenario, lab: Any) -> tuple[Outcome, float]:
    """The answer and its seconds; a library that is absent is named with the extra that has it."""
    import time

    began = time.monotonic()
    try:
        return s.answer(lab), time.monotonic() - began
    except KeyboardInterrupt:
        console(stderr=True).print("Interrupted: nothing was written.")
        raise typer.Exit(130) from None
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("locum"):
            raise
        raise _absent(missing.name or "a library") from None


def _absent(module: str) -> LocumError:
    extra = {"torch": "torch", "lifelines": "demo", "pydicom": "imaging"}.get(module, "scenarios")
    return LocumError(
        f"This scenario needs '{module}', which is not installed.",
        fix=f"pip install 'locum[{extra}]'" + ("" if extra == "scenarios" else "; 'locum[scenarios]' has all"),
    )


def _check_libraries(s: Scenario) -> None:
    """Before minutes of work: everything that the scenario imports is there."""
    for module in s.needs:
        try:
            there = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:
            there = False
        if not there:
            raise _absent(module)


def _protection(ran: Sequence[Ran]) -> list[str]:
    """What protected the updates of everything that was run, each once."""
    return list(dict.fromkeys(r.study.terms.protection() for r in ran))


def _cost(mode: Mode, ran: Sequence[Ran], outcome: Outcome, seconds: float, first: Outcome) -> dict[str, Any]:
    """What a mode costs, beside the first of the modes that were run. sites: of the first study that it ran, which is the scenario's own."""
    headline, reference = outcome.headline, first.headline
    value = headline.value if headline else None
    base = reference.value if reference else None
    privacy = next((r.study.terms.privacy for r in ran if r.study.terms.privacy.on), None)
    over = [r.same_model for r in ran if r.same_model is not None]
    return {
        "mode": mode,
        "metric": headline.metric if headline else "",
        "value": value,
        "difference": value - base if value is not None and base is not None else None,
        "eps": privacy.eps if privacy else None,
        "delta": privacy.delta if privacy else None,
        "sites": len(ran[0].sites) if ran else None,
        "studies": len(ran),
        "rounds": sum(r.rounds for r in ran),
        "sent_per_site": sum(r.sent for r in ran),
        "seconds": seconds,
        "same_model": all(over) if over else None,
    }


def _print(s: Scenario, mode: Mode, ran: Sequence[Ran], outcome: Outcome) -> None:
    from locum.cli.scenario_table import print_lines, print_notes
    from locum.scenarios.base import MEANING

    out = console()
    out.print(f"{s.title}\n{mode}: {MEANING[mode]}\n", markup=False)
    print_lines(outcome.lines)
    out.print()
    for protection in _protection(ran):
        out.print(protection, style="yellow", markup=False)
    print_notes(outcome)
    out.print()


def _write(
    folder: Path, s: Scenario, outcomes: Sequence[tuple[Mode, Any, Outcome, float]], costs: Sequence[dict[str, Any]], answer: Any, *, quick: bool
) -> list[str]:
    """The page, the figures, the study files and the answer; their names."""
    import json

    from locum.errors import Conflict
    from locum.report.scenario import scenario_page
    from locum.scenarios import plain, studies

    mode, lab, outcome, _ = next((o for o in outcomes if o[0] == "masked"), outcomes[0])
    texts = {f"{name}.toml": studies.text(name) for name in s.studies}
    page = scenario_page(
        scenario={"name": s.name, "title": s.title, "question": s.question, "mode": mode},
        outcome=plain(outcome),
        figures=outcome.figures,
        protection=_protection(lab.ran),
        others=[{"mode": m, **found} for m, found in answer["modes"].items() if m != mode],
        costs=costs,
        studies={f"{r.study.name}": r.study.digest for r in lab.ran[:20]},
        files=texts,
        quick=quick,
    )
    pictures = {f"{name}.svg": svg for name, svg in outcome.figures.items()}
    made = {"report.html": page, **pictures, **texts, "answer.json": json.dumps(answer, indent=2) + "\n"}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in made.items():
            (folder / name).write_text(content, encoding="utf-8")
    except OSError as error:
        raise Conflict(f"{folder} cannot be written: {error.strerror}.", fix="choose another place") from None
    return list(made)


def _about(s: Scenario) -> dict[str, Any]:
    from locum.data import registry
    from locum.scenarios import MODES

    missing = [d for d in s.data if not _here(registry, d)]
    without = {m: s.reason(m) for m in MODES if s.reason(m)}
    return {
        "name": s.name,
        "title": s.title,
        "question": s.question,
        "data": list(s.data),
        "missing": missing,
        "here": not missing,
        "studies": list(s.studies),
        "modes": list(s.modes),
        "without": without,
    }


def _here(registry: Any, name: str) -> bool:
    from locum.data.catalog.files import find

    dataset = registry.entry(name)
    return all(find(dataset, f) is not None for f in dataset.files)
