"""`locum data contract` and `locum data map`: first drafts of a contract and of a site's mapping, for people to correct."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from locum.cli.output import Json, coloured, console, emit, table
from locum.errors import Conflict, ManifestError, agree, counted

if TYPE_CHECKING:
    from locum.data.propose import Proposed
    from locum.study.contract import ContractFile, DataSpec, Variable

contract_app = typer.Typer(no_args_is_help=True)
Out = Annotated[Path | None, typer.Option(help="The file to write; without it the text is printed.")]


@contract_app.command("new")
def contract_new(
    source: Annotated[Path | None, typer.Argument(metavar="TABLE", help="The table to draft from; without it the one that the mapping names.")] = None,
    mapping: Annotated[Path | None, typer.Option(help="A mapping file whose [source] says how the table is written.")] = None,
    name: Annotated[str, typer.Option(help="The contract's name; by default the table's.")] = "",
    title: Annotated[str, typer.Option(help="What the contract is of.")] = "",
    patient: Annotated[str | None, typer.Option(help="The column that says whose row it is.")] = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Draft a data contract from one table. It holds nothing that fewer than 11 patients share."""
    from locum.data.draft import draft_contract, parse
    from locum.data.mapping import SiteMapping
    from locum.data.sources import open_source

    _free(out)
    site = SiteMapping.load(mapping) if mapping is not None else SiteMapping()
    draft = draft_contract(open_source(site.source, source), spec=site.source, name=name, title=title, patient=patient)
    found = parse(draft.text)
    if out is not None:
        _write(out, draft.text)
    if as_json:
        emit({"contract": draft.text, "columns": draft.columns, "left_out": draft.left_out, "rows": draft.rows, "file": out, "digest": found.digest})
        return
    if out is None:
        print(draft.text, end="")
        return
    said = console()
    made, left = counted(len(draft.columns), "variable"), counted(len(draft.left_out), "column")
    said.print(f"{out}: {made} drafted from {counted(draft.rows, 'row')}, {left} left out.", markup=False)
    checks = draft.text.count("CHECK: ")
    said.print(f"{counted(checks, 'line')} with CHECK {agree(checks, 'needs', 'need')} a decision of yours.", markup=False)
    said.print(f"Now: correct {out}, then see it with: locum data contract show {out}", markup=False)


@contract_app.command("schema")
def contract_schema(which: Annotated[str, typer.Argument(help="contract, or mapping")] = "contract") -> None:
    """Print the JSON Schema of contract files, or of mapping files."""
    from locum.data import schemas
    from locum.study.document import nearest

    if which not in schemas.NAMES:
        raise ManifestError(f"There is no schema '{which}'.", fix=nearest(which, [*schemas.NAMES]))
    print(json.dumps(schemas.load(which), indent=2, ensure_ascii=False))


@contract_app.command("show")
def contract_show(file: Annotated[Path, typer.Argument(help="The contract file.")], as_json: Json = False) -> None:
    """What a contract asks for, and its digest: what a study writes down to name it."""
    from locum.study.contract import ContractFile

    found = ContractFile.load(file)
    odd = _odd_units(found)
    if as_json:
        emit({**json.loads(found.canonical), "digest": found.digest, "odd_units": odd})
        return
    out = console()
    out.print(found.title or found.name, markup=False)
    rows = [_row(n, v) for n, v in found.variables.items()]
    table(["variable", "type", "unit", "possible", "plausible", "missing", "what"], rows)
    for line in _terms(found):
        out.print(line, markup=False)
    for name, advice in odd.items():
        out.print(f"{name}: {advice}", style="yellow", markup=False)
    out.print(f"digest {found.digest}", markup=False)
    out.print(f'Now, in a study: [data] contract = {{ file = "{file.name}", sha256 = "{found.digest}" }}', markup=False)


def map_(
    study: Annotated[Path, typer.Argument(metavar="STUDY_OR_CONTRACT", help="The study file, or a contract file.")],
    source: Annotated[Path | None, typer.Option("--data", help="Your table; without it the one that --mapping names.")] = None,
    mapping: Annotated[Path | None, typer.Option(help="A mapping file whose [source] says how your table is written.")] = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Propose which column of your table is which variable, for you to correct. Nothing leaves this machine."""
    from locum.data.mapping import SiteMapping
    from locum.data.propose import propose_mapping
    from locum.data.sources import open_source

    _free(out)
    data, option = _asked(study)
    site = SiteMapping.load(mapping) if mapping is not None else SiteMapping()
    opened = open_source(site.source, source)
    folder = out.parent if out is not None else Path()
    spec = site.source.model_copy(update=_paths(site.source, source, folder))
    proposed = propose_mapping(data, opened, spec)
    text = proposed.to_toml()
    if out is not None:
        _write(out, text, private=True)
    if as_json:
        emit({"mapping": text, "rows": proposed.rows, "unused": proposed.unused, "file": out, "proposals": [_plain(p) for p in proposed.proposals]})
    elif out is None:
        print(text, end="")
    else:
        _report(proposed, out, f"{option}{study}")


def _report(proposed: Proposed, out: Path, study: str) -> None:
    colours = {"sure": "green", "likely": "yellow", "doubtful": "yellow", "none": "red"}
    rows = [(p.variable, p.column or "-", coloured(p.sure, colours[p.sure]), "; ".join(p.reasons), " ".join(p.ask)) for p in proposed.proposals]
    table(["variable", "column", "how sure", "why", "to answer"], rows)
    done, unsure = (sum(p.entry is not None and (p.sure == "sure") == sure for p in proposed.proposals) for sure in (True, False))
    said = console()
    of = f"{done} of {counted(len(proposed.proposals), 'variable')} mapped, {unsure} more to uncomment where right"
    said.print(f"{out}: {of}. It may quote codes of your table, so it stays here.", markup=False)
    said.print(f"Now: correct {out}, then check it with: locum data check {study} --mapping {out}", markup=False)


def _asked(path: Path) -> tuple[DataSpec, str]:
    """What a study or a contract file asks for, and the option by which `locum data check` takes such a file."""
    from locum.study import Study
    from locum.study.contract import ContractFile
    from locum.study.document import read_toml

    if "plan" in read_toml(path):
        return Study.load(path).data, ""
    return ContractFile.load(path).data, "--contract "


def _paths(spec: Any, source: Path | None, folder: Path) -> dict[str, str]:
    """The paths of a [source], from the folder in which the mapping is to lie."""
    keys = [k for k in type(spec).model_fields if k == "path" or k.endswith(("_file", "_path"))]
    named: dict[str, str] = {k: getattr(spec, k) for k in keys if isinstance(getattr(spec, k), str)}
    if source is not None:
        named["path"] = str(source)
    return {k: os.path.relpath(v, str(folder)) for k, v in named.items()}


def _free(path: Path | None) -> None:
    if path is not None and os.path.lexists(path):
        raise Conflict(f"{path} exists already.", fix="choose another name, or remove it first")


def _write(path: Path, text: str, *, private: bool = False) -> None:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ManifestError(f"{path} cannot be written: {error.strerror}.", fix="choose another folder") from None


def _plain(proposal: Any) -> dict[str, Any]:
    keys = ("variable", "column", "score", "sure", "reasons", "entry", "ask")
    return {k: getattr(proposal, k) for k in keys}


def _row(name: str, v: Variable) -> tuple[str, ...]:
    return name, _kind(v), v.unit or "", _range(v, v.minimum, v.maximum), _range(v, *(v.plausible or (None, None))), _missing(v), v.label


def _kind(v: Variable) -> str:
    kind = f"{v.type} {list(v.shape)}" if v.shape else v.type
    kind = f"{kind}: {', '.join(v.categories[:8])}{', ...' if len(v.categories) > 8 else ''}" if v.categories else kind
    return kind if v.role == "feature" else f"{kind} ({v.role})"


def _range(v: Variable, low: float | None, high: float | None) -> str:
    ends = ["" if limit is None else v.written(limit) for limit in (low, high)]
    return f"{ends[0]} to {ends[1]}" if all(ends) else f"from {ends[0]}" if ends[0] else f"up to {ends[1]}" if ends[1] else ""


def _missing(v: Variable) -> str:
    if v.role == "patient":
        return "none"
    codes = f"; {', '.join(f'{c:g}' for c in v.missing_codes)} mean no value" if v.missing_codes else ""
    return (f"up to {100 * v.max_missing:.4g}%" if v.max_missing else "none") + codes


def _terms(found: ContractFile) -> Iterator[str]:
    """Who belongs to the cohort, what each site needs, and how patients are split, in words."""
    from locum.data.cohort import says

    for name, rule in found.cohort.include.items():
        out = says(name, rule, found.variables[name])
        yield f"Left out: rows in which {out}" + ("" if out.endswith("is missing") else ", or is missing") + "."
    events = f" and {counted(found.cohort.min_events, 'event')}" if found.cohort.min_events else ""
    yield f"Each site needs at least {counted(found.cohort.min_patients, 'patient')}{events}."
    split = found.of_role("split")
    drawn = f"{found.split.test_share:.0%} of the patients, drawn by a hash with the salt '{found.split.salt}'"
    yield f"For tests: {drawn}." if split is None else f"For tests: the patients for whom '{split}' says so."


def _odd_units(found: ContractFile) -> dict[str, str]:
    """Variable -> what is odd about its unit."""
    from locum.data import units

    odd = {}
    for name, v in found.variables.items():
        if v.unit is not None and (not units.valid(v.unit) or units.advise(v.unit)):
            advice = units.advise(v.unit)
            odd[name] = f"'{v.unit}' is {'hardly meant' if units.valid(v.unit) else 'no unit of UCUM'}" + (f'; write "{advice}"' if advice else "")
    return odd
