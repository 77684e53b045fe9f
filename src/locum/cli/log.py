"""`locum log`: the federation's transparency log, verified as it is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from locum.cli.output import Json, console, emit, table, when
from locum.cli.study import HOME, Home, client
from locum.errors import counted

if TYPE_CHECKING:
    from locum.client.log import LogView

app = typer.Typer(no_args_is_help=True)
About = Annotated[list[str] | None, typer.Option("--about", help="A study's digest, a run, a model or a party's name; may be given again.")]


@app.command()
def show(
    about: About = None,
    last: Annotated[int, typer.Option(min=1, help="How many entries are printed; all of them are verified.")] = 100,
    checkpoint: Annotated[bool, typer.Option("--checkpoint", help="Print the signed head alone: keep it, and hold others to it.")] = False,
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """Entries of the log, verified under its signed head; and which sites have cosigned it."""
    if checkpoint:
        view = _read(home, ["log"])
        if as_json:
            emit({"checkpoint": view.head.text()})
        else:
            print(view.head.text(), end="")
        return
    view = _read(home, about)
    head = view.head.checkpoint
    shown = view.entries[-last:]
    if as_json:
        listed = [{"n": n, "at": e.at, "event": str(e.event), "by": e.by, "subject": e.subject, "details": e.details} for n, e in shown]
        log = {"origin": head.origin, "size": head.size, "root": head.root.hex()}
        emit({"log": log, "cosigned": {"size": view.cosigned_size, "sites": view.cosigned}, "entries": listed})
        return
    table(["n", "time (UTC)", "event", "by", "about"], [(n, when(e.at), e.event, e.by, e.subject[:24]) for n, e in shown], right=["n"])
    out = console()
    out.print(f"{len(view.entries)} entries, verified under the head of {head.size} entries, root {head.root.hex()[:16]}", markup=False)
    out.print(_cosigned(view), markup=False)


def _cosigned(view: LogView) -> str:
    """Who vouches for the log, in words."""
    times = sorted(view.cosigned.values())
    if not times:
        return "No site has cosigned the log yet."
    return f"{counted(len(times), 'site')} cosigned its first {view.cosigned_size} entries, from {when(times[0])} to {when(times[-1])} UTC"


@app.command()
def export(
    fhir: Annotated[Path, typer.Option("--fhir", help="The file to write: one FHIR R4 AuditEvent a line (ndjson).")],
    about: About = None,
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """Write the log's entries for an audit repository."""
    from locum.client.membership import Membership
    from locum.errors import Conflict
    from locum.governance.fhir_audit import ndjson

    view, federation = _read(home, about), Membership.load(home.expanduser()).federation
    try:
        with fhir.open("w", encoding="utf-8") as f:
            f.writelines(ndjson(view.entries, federation))
    except OSError as error:
        raise Conflict(f"{fhir} cannot be written: {error.strerror}.", fix="choose another place") from None
    if as_json:
        emit({"file": fhir, "entries": len(view.entries)})
    else:
        console().print(f"Wrote {len(view.entries)} entries to {fhir}", markup=False)


def _read(home: Path, about: list[str] | None) -> LogView:
    from locum.client.log import read
    from locum.client.membership import Membership

    folder, connection = home.expanduser(), client(home)
    return connection(read(connection.api, Membership.load(folder), *(about or []), folder=folder))
