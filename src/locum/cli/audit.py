"""`locum audit`: bundles that say how a model was made, and what verifies them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from locum.cli.output import Json, console, emit, size
from locum.cli.study import HOME, Home, client, find_run

app = typer.Typer(no_args_is_help=True)


@app.command()
def bundle(
    run: Annotated[str, typer.Argument(help="A finished run's id, or its study's name or digest.")],
    file: Annotated[Path, typer.Argument(help="The zip file to write.")],
    model: Annotated[bool, typer.Option("--model/--no-model", help="Whether the model's file goes in; its SHA-256 always does.")] = True,
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """Write how a run's model was made as one file that anybody can verify: study, approvals, rounds, results, and the log's proofs."""
    from locum.client.bundle import fetch
    from locum.client.membership import Membership
    from locum.errors import LocumError
    from locum.governance.verify import verify

    connection, member = client(home), Membership.load(home.expanduser())
    view = find_run(connection, run)
    connection(fetch(connection.api, member, view.id, file, with_model=model))
    report = verify(file, coordinator=member.coordinator_key, consortium=member.consortium_key)
    if not report.ok:
        raise LocumError(
            "What the coordinator serves of this run does not hold.",
            why=report.text(),
            fix=f"keep {file} as evidence, and ask the coordinator's operator",
        )
    cosigned = next((c.compared for c in report.checks if c.name == "witnesses"), "")
    if as_json:
        emit({"file": file, "bytes": file.stat().st_size, "run": view.id, "model": view.model, "witnesses": cosigned})
    else:
        console().print(f"Wrote {file} ({size(file.stat().st_size)}); {cosigned}. Next: locum audit verify {file}", markup=False)


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="The zip file that 'locum audit bundle' wrote.")],
    coordinator: Annotated[str, typer.Option(help="The coordinator's key, or its fingerprint, as you know it from elsewhere.")] = "",
    consortium: Annotated[str, typer.Option(help="The consortium's key, or its fingerprint.")] = "",
    witnesses: Annotated[int, typer.Option(min=0, help="How many sites must have cosigned the log's checkpoint.")] = 0,
    seen: Annotated[Path | None, typer.Option(help="A checkpoint of the same log that you were shown: is it the same log?")] = None,
    as_json: Json = False,
) -> None:
    """Verify a bundle, offline: prints each check, and exits with 1 if any fails."""
    from locum.governance import verify as verifier

    report = verifier.verify(bundle, coordinator=coordinator, consortium=consortium, witnesses=witnesses, seen=_read(seen) if seen else "")
    if as_json:
        emit(report.to_json())
    else:
        print(report.text())
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def page(file: Annotated[Path, typer.Argument(help="The HTML file to write.")], as_json: Json = False) -> None:
    """Write the verifier as one HTML page that works offline in a browser."""
    from locum.governance.page import page as make

    _write(file, make(), as_json)


@app.command()
def verifier(file: Annotated[Path, typer.Argument(help="The Python file to write.")], as_json: Json = False) -> None:
    """Write the verifier as one Python file, which needs 'cryptography' and nothing of Locum: python FILE bundle.zip."""
    from locum.governance.page import script

    _write(file, script(), as_json)


def _write(file: Path, text: str, as_json: bool) -> None:
    from locum.errors import Conflict

    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Conflict(f"{file} cannot be written: {error.strerror}.", fix="choose another place") from None
    if as_json:
        emit({"file": file})
    else:
        console().print(f"Wrote {file} ({size(file.stat().st_size)})", markup=False)


def _read(file: Path) -> str:
    from locum.errors import NotFound

    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise NotFound(f"{file} cannot be read as a checkpoint.", fix="give the text that 'locum log show --checkpoint' printed") from None
