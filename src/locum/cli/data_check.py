"""`locum data check`: a site's own table against a study's data contract, gate by gate. Nothing leaves this machine."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from locum.cli.output import Json, coloured, console, emit, table
from locum.errors import ManifestError, counted

if TYPE_CHECKING:
    from locum.data.gates import Finding, Progress, Report
    from locum.study.manifest import DataSpec

COLOURS = {"PASS": "green", "WARN": "yellow", "REFUSE": "red"}


def check(
    study: Annotated[Path | None, typer.Argument(help="The study file.")] = None,
    source: Annotated[Path | None, typer.Option("--data", help="Your table; without it the one that the mapping names.")] = None,
    mapping: Annotated[Path | None, typer.Option(help="Your mapping file.")] = None,
    contract: Annotated[Path | None, typer.Option(help="A contract file, in place of a study.")] = None,
    page: Annotated[Path | None, typer.Option(help="Also write an HTML page with histograms, for your eyes only.")] = None,
    examples: Annotated[bool, typer.Option(help="Show a few cells that led to a finding. They stay on this machine.")] = True,
    as_json: Json = False,
) -> None:
    """Check your own table against a study's data contract: PASS, WARN or REFUSE for every variable. Nothing leaves this machine."""
    from locum.data.gates import check_source
    from locum.data.mapping import SiteMapping
    from locum.data.sources import open_source

    data, title, least = _asked(study, contract)
    site = SiteMapping.load(mapping) if mapping is not None else SiteMapping()
    opened = open_source(site.source, source)
    with progress_bar(as_json) as progress:
        report = check_source(data, opened, site, min_patients=least, examples=examples, progress=progress)
    tell(report, title, opened.name, page=page, examples=examples, as_json=as_json)


def tell(report: Report, title: str, source: str, *, page: Path | None, examples: bool, as_json: bool) -> None:
    """Print what the gates say, write the page if one is wanted, and exit with 2 where they refuse."""
    if page is not None:
        _write(page, report, title, source, examples=examples)
    if as_json:
        emit(report.to_json(examples=examples))
    else:
        _print(report, source)
        if page is not None:
            console().print(f"Histograms: {page} (for this site only)", markup=False)
    if report.result == "REFUSE":
        raise typer.Exit(2)


def _asked(study: Path | None, contract: Path | None) -> tuple[DataSpec, str, int]:
    """The contract, what it is called, and how many patients are asked for."""
    from locum.study import Study
    from locum.study.contract import ContractFile

    if contract is not None and study is None:
        found = ContractFile.load(contract)
        return found.data, found.title or found.name, 1
    if study is not None and contract is None:
        question = Study.load(study)
        return question.data, question.title or question.name, question.terms.min_rows
    raise ManifestError("Name a study file, or a contract with --contract.", fix="for example: locum data check study.toml --data table.csv")


def _write(path: Path, report: Report, title: str, source: str, *, examples: bool) -> None:
    from locum.data.gates.page import page, write_page
    from locum.data.gates.summary import outgoing
    from locum.privacy.disclosure import THRESHOLD

    write_page(path, page(report, title=title, source=source, examples=examples, seen=outgoing(report, THRESHOLD)))


def _print(report: Report, source: str) -> None:
    out = console()
    colour = COLOURS[report.result]
    out.print(f"[bold {colour}]{report.result}[/] ", end="")
    out.print(f"{source}: {counted(report.rows, 'row')}, {counted(report.patients, 'patient')}. All of this stays on this machine.", markup=False)
    for line in _counts(report):
        out.print(line, markup=False)
    for finding in report.about(""):
        if finding.result != "PASS":
            _say(finding)
    names = list(dict.fromkeys(f.variable for f in report.findings if f.variable))
    rows = [_row(report, name) for name in _in_order(report, names)]
    table(["variable", "result", "values", "missing", "median (quartiles)", "gates that do not pass"], rows, right=["values", "missing"])
    for name in _in_order(report, names):
        for finding in report.about(name):
            if finding.result != "PASS":
                _say(finding, report)


def _in_order(report: Report, names: list[str]) -> list[str]:
    """In the contract's order; those that the table does not have at the end."""
    return [n for n in report.variables if n in names] + [n for n in names if n not in report.variables]


def _counts(report: Report) -> Iterator[str]:
    """Counts in = counts out + counts refused."""
    from locum.data.gates.words import reasons

    if report.source is not None:
        kinds = {word: Counter(report.source[kind]) for word, kind in (("refused", "refused"), ("left out", "left_out"))}
        parts = [f"; {found.total():,} {word}: {reasons(found, most=None)}" for word, found in kinds.items() if found]
        yield f"Records: {report.source['read']:,} read, {report.source['used']:,} used{''.join(parts) or ', none refused'}."
        for note, n in report.source["notes"].items():
            yield f"Note: {note}: {n:,}."
    if report.cohort:
        yield "Not of the cohort: " + "; ".join(f"{n:,} because {reason}" for reason, n in report.cohort.items()) + "."
    if report.repeated:
        yield f"{counted(report.repeated, 'row is', 'rows are')} of a patient who has another row."
    if report.events is not None:
        yield f"Events: {report.events:,}."


def _row(report: Report, name: str) -> tuple[object, ...]:
    from locum.data.gates.report import worst
    from locum.data.gates.words import number

    findings = report.about(name)
    result = worst(findings)
    gates = ", ".join(f.gate for f in findings if f.result != "PASS")
    found = report.variables.get(name)
    if found is None:
        return name, coloured(result, COLOURS[result]), "", "", "", gates
    q = [number(x, found.variable) for x in found.quantiles]
    middle = f"{q[2]} ({q[1]} to {q[3]})" if q else ""
    return name, coloured(result, COLOURS[result]), f"{found.values:,}", f"{found.missing:,}", middle, gates


def _say(finding: Finding, report: Report | None = None) -> None:
    from locum.data.gates.report import told

    out = console()
    out.print(f"[{COLOURS[finding.result]}]{finding.result}[/] ", end="")
    out.print(f"{finding.variable or 'table'}, {finding.gate}: {finding.what}.", markup=False)
    if finding.fix:
        out.print(f"       To fix it: {finding.fix}{'' if finding.fix.endswith('?') else '.'}", markup=False)
    if finding.examples:
        out.print(f"       Here only: {told(finding.examples)}.", markup=False)
    unknown = report.variables[finding.variable].unknown if report and finding.variable in report.variables and finding.gate == "conformance" else {}
    if unknown:
        out.print("       Here only, codes: " + ", ".join(f"{code!r} {n:,}" for code, n in [*unknown.items()][:10]) + ".", markup=False)


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress]:
    """Rows on standard error, for as long as it takes."""
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns: tuple[Any, ...] = (SpinnerColumn(), TextColumn("{task.completed:,.0f} rows checked"), TimeElapsedColumn())
    with Bar(*columns, console=console(stderr=True), disable=quiet or not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("rows", total=None)
        yield lambda rows: bar.update(task, completed=rows)
