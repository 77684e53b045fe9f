"""`locum site waiver`: what a data manager lets pass although a gate refuses it, signed and on record."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, cast

import typer

from locum.cli.output import Json, console, emit, table, when
from locum.errors import counted

app = typer.Typer(no_args_is_help=True)
Folder = Annotated[Path, typer.Option(envvar="LOCUM_SITE", help="The site's folder.")]
Digest = Annotated[str, typer.Argument(help="A study's digest, or its first digits.")]
Data = Annotated[str | None, typer.Option("--data", help="Which of your tables, where there are several.")]
By = Annotated[str, typer.Option("--by", help="Who decides: a name and a post.")]
FOLDER = Path("locum-site")


@app.command()
def grant(
    study: Digest,
    gate: Annotated[str, typer.Argument(help="The gate that refuses, as `locum site check` prints it.")],
    reason: Annotated[str, typer.Option(help="Why it may pass. It is kept for the auditor.")],
    by: By,
    variable: Annotated[str, typer.Argument(help="The variable that it refuses; nothing for the table as a whole.")] = "",
    at_most: Annotated[int | None, typer.Option(help="For so many rows at most; by default as many as it is about now.")] = None,
    until: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The last day on which it counts.")] = None,
    data: Data = None,
    folder: Folder = FOLDER,
    as_json: Json = False,
) -> None:
    """Let one refusal pass, for this study only. It is signed with the site's key, and looked at again at every run."""
    from locum.data.gates import Gate
    from locum.site.checks import waive

    last = until.replace(tzinfo=UTC).date() if until else None
    made = waive(folder, study, cast(Gate, gate), variable, reason=reason, by=by, at_most=at_most, until=last, data=data)
    if as_json:
        emit(made.model_dump(mode="json"))
    else:
        what = f"'{made.variable}'" if made.variable else "the table"
        console().print(f"Waived: gate {made.gate} on {what}, for at most {counted(made.at_most, 'row')}. Next: locum site review {study[:12]}", markup=False)


@app.command("list")
def list_(study: Digest, folder: Folder = FOLDER, as_json: Json = False) -> None:
    """All waivers for a study, also those that were withdrawn, after checking this site's signature on each."""
    from locum.site.checks import list_waivers

    found = list_waivers(folder, study)
    if as_json:
        emit([w.to_json() for w in found])
        return
    rows = [
        (
            w.n,
            when(w.time),
            w.waiver.gate,
            w.waiver.variable or "table",
            w.waiver.at_most,
            w.waiver.until or "-",
            w.waiver.by,
            w.waiver.reason,
            _state(w.withdrawn),
        )
        for w in found
    ]
    table(["n", "when (UTC)", "gate", "variable", "rows", "until", "by", "reason", ""], rows, right=["n", "rows"])


@app.command()
def withdraw(study: Digest, n: Annotated[int, typer.Argument(help="The waiver's number.")], by: By, folder: Folder = FOLDER, as_json: Json = False) -> None:
    """Take a waiver back: the next run is refused again where it was needed. It stays on record."""
    from locum.site.checks import unwaive

    unwaive(folder, study, n, by=by)
    if as_json:
        emit({"withdrawn": n})
    else:
        console().print(f"Waiver {n} is withdrawn.", markup=False)


def _state(withdrawn: int | None) -> str:
    return f"withdrawn ({withdrawn})" if withdrawn is not None else ""
