"""`locum data`: public data sets, and a table of one's own against a study's contract."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from locum.cli import data_author, data_check
from locum.cli.output import Json, console, emit, size, table
from locum.errors import ManifestError, counted

if TYPE_CHECKING:
    from locum.data.fetch import Progress
    from locum.study.manifest import Variable

app = typer.Typer(no_args_is_help=True)
app.add_typer(data_author.contract_app, name="contract", help="Data contracts: draft one from a table, look at one.")
app.command("map")(data_author.map_)
app.command("check")(data_check.check)
MOST_BARS = 40
_BAR = 40

By = Annotated[str | None, typer.Option(help="How sites are formed; `locum data list` says by what.")]
Made = Annotated[str | None, typer.Option("--partition", help="Made-up sites instead, such as dirichlet:alpha=0.3,sites=20,label=malignant.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="An option of the data set, as name=value.")]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Public data sets, with licence, citation and whether they are on this machine."""
    from locum.data import registry

    entries = registry.listing()
    if as_json:
        emit(entries)
        return
    for kind, title in (("sites", "Data sets with sites"), ("fixture", "Files to try a source on: they have no sites")):
        by = ["sites by"] if kind == "sites" else []
        rows = [
            (d["name"], d["title"], *[", ".join(d["sites"]) for _ in by], d["licence"], d["citation"], size(d["bytes"]), "yes" if d["here"] else "no")
            for d in entries
            if d["kind"] == kind
        ]
        table(["name", "what", *by, "licence", "please cite", "size", "here"], rows, title=title, right=["size"])


@app.command()
def get(
    name: str,
    to: Annotated[Path | None, typer.Option(help="Also write one file per site and a mapping into this folder.")] = None,
    by: By = None,
    partition: Made = None,
    options: Set = None,
    as_json: Json = False,
) -> None:
    """Download a data set (or find it in LOCUM_DATA_DIR), verify its SHA-256, and show its licence and citation."""
    from locum.data import registry

    if to is None and (by or partition or options):
        raise ManifestError("Sites are formed only where they are written.", fix="name a folder with --to, or look at them with: locum data show")
    with _progress(as_json) as progress:
        receipt = registry.fetch(name, progress)
        if to is not None:
            sites = registry.export(name, to, by=by, partition=partition, progress=progress, **_options(options))
            receipt = {**receipt, "exported": {site: str(path) for site, path in sites.items()}}
    if as_json:
        emit(receipt)
        return
    _say(receipt)
    if to is not None:
        console().print(f"{counted(len(receipt['exported']), 'site')} written to {to}", markup=False)


@app.command()
def verify(name: str, as_json: Json = False) -> None:
    """Check the files of a data set on this machine against the registry's SHA-256, without any download."""
    from locum.data import registry

    receipt = registry.verify(name)
    if as_json:
        emit(receipt)
    else:
        _say(receipt)


@app.command()
def show(name: str, by: By = None, partition: Made = None, options: Set = None, as_json: Json = False) -> None:
    """What a data set is: its contract, its sites and their sizes, its licence and citation."""
    from locum.data import registry

    known = registry.entry(name)
    about = next((d for d in registry.listing() if d["name"] == known.name), {})
    if known.kind == "fixture":
        if as_json:
            emit(about)
        else:
            _head(about)
            table(["file", "size", "SHA-256"], [(f.name, size(f.size), f.sha256) for f in known.files], right=["size"])
        return
    dataset = registry.get(name)
    with _progress(as_json) as progress:
        sizes = registry.sizes(dataset, by=by, partition=partition, progress=progress, **_options(options))
    if as_json:
        emit({**about, "variables": {n: v.model_dump(exclude_defaults=True) for n, v in dataset.data.variables.items()}, "rows": sizes})
        return
    _head(about)
    rows = [(n, v.type, v.role, v.unit or "", _range(v), v.label) for n, v in dataset.data.variables.items()]
    table(["variable", "type", "role", "unit", "range or categories", "what"], rows, title="Contract")
    _bars(sizes)


def _say(receipt: Mapping[str, Any]) -> None:
    out = console()
    out.print(f"{receipt['name']}: verified. Licence: {receipt['licence']}. Please cite: {receipt['citation']}.", markup=False)
    for file in receipt["files"]:
        out.print(f"  {file['name']}  {size(file['bytes'])}  {file['path']}", markup=False)


def _head(about: Mapping[str, Any]) -> None:
    out = console()
    out.print(f"{about['name']}: {about['title']}", markup=False)
    lines = {"Licence": about["licence"], "Please cite": about["citation"], "Published": about["published"], "Note": about["note"]}
    lines |= {"Sites by": ", ".join(about["sites"])} | {f"--set {k}=...": v for k, v in about["options"].items()}
    for label, text in lines.items():
        if text:
            out.print(f"{label}: {text}", markup=False)


def _range(variable: Variable) -> str:
    if variable.categories:
        return ", ".join(variable.categories)
    if variable.shape:
        return " x ".join(map(str, variable.shape))
    low, high = ("" if x is None else variable.written(x) for x in (variable.minimum, variable.maximum))
    return f"{low} to {high}" if low and high else f"from {low}" if low else f"up to {high}" if high else ""


def _bars(sizes: Mapping[str, int]) -> None:
    """One bar a site; of many sites, one bar for all of about the same size."""
    total = sum(sizes.values())
    each = f": {min(sizes.values()):,} to {max(sizes.values()):,} a site" if len(sizes) > 1 else ""
    title = f"{counted(len(sizes), 'site')}, {counted(total, 'row')}{each}"
    if len(sizes) <= MOST_BARS:
        most = max(sizes.values())
        table(["site", "rows", ""], [(s, n, _bar(n, most)) for s, n in sizes.items()], title=title, right=["rows"])
        return
    groups: dict[int, int] = {}
    for n in sizes.values():
        groups[n.bit_length()] = groups.get(n.bit_length(), 0) + 1
    most = max(groups.values())
    rows = [
        (f"{1 << (b - 1)} to {(1 << b) - 1}" if b > 1 else str(b), groups.get(b, 0), _bar(groups.get(b, 0), most)) for b in range(min(groups), max(groups) + 1)
    ]
    table(["rows a site", "sites", ""], rows, title=title, right=["rows a site", "sites"])


def _bar(count: int, most: int) -> str:
    return "█" * max(int(count > 0), round(_BAR * count / max(1, most)))


def _options(given: list[str] | None) -> dict[str, str]:
    out: dict[str, str] = {}
    for item in given or []:
        key, equals, value = item.partition("=")
        if not equals or not key.isidentifier() or key in ("name", "data", "by", "partition", "progress", "folder") or key in out:
            raise ManifestError("--set takes an option of the data set as name=value, once each.", fix="see: locum data show NAME")
        out[key] = value
    return out


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress]:
    from rich.progress import BarColumn, DownloadColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bar(*columns, console=console(stderr=True), disable=quiet, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def progress(file: str, done: int, total: int) -> None:
            if file not in tasks:
                tasks[file] = bar.add_task(file, total=total)
            bar.update(tasks[file], completed=done)

        yield progress
