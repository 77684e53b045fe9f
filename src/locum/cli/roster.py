"""`locum roster`: which sites there are. Whoever holds the consortium's key decides, and best keeps it away from the coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from locum.cli.output import Json, console, emit, table, when

if TYPE_CHECKING:
    from locum.federation.roster import Roster

app = typer.Typer(no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(help="The coordinator's folder.")]


@app.command()
def sign(
    target: Annotated[Path, typer.Argument(help="The coordinator's folder; or a draft, where the key is elsewhere.")],
    key: Annotated[Path | None, typer.Option(help="The consortium's private key; default consortium.key in the folder.")] = None,
    previous: Annotated[Path | None, typer.Option(help="For a draft: the signed roster before it, to show what changes.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: the fingerprints were compared already.")] = False,
    as_json: Json = False,
) -> None:
    """Sign the roster of the sites that are enrolled now: masked studies run among these, and nobody else."""
    from locum.coordinator import office
    from locum.errors import ManifestError

    folder = target if target.is_dir() else None
    drafted, old = office.draft(target) if folder else (office.read_draft(target), office.read_roster(previous) if previous else None)
    if as_json and not yes:
        raise ManifestError("With --json nobody is asked, so the signature needs --yes.", fix="compare the fingerprints with the sites, then add --yes")
    if not as_json:
        _show(drafted, old)
    if not yes and not typer.confirm("Were these fingerprints compared with the sites, over the telephone? Sign?"):
        raise typer.Exit(1)
    signed = office.sign(drafted, key or ((folder or target.parent) / office.KEY))
    where = office.install(folder, signed) if folder else office.write_signed(target, signed)
    if as_json:
        emit({"version": drafted.version, "sites": sorted(drafted.sites), "digest": signed.digest, "installed": folder is not None, "file": where})
    elif folder:
        console().print(f"Roster {drafted.version} is in force: {len(drafted.sites)} sites.", markup=False)
    else:
        console().print(f"Wrote {where}. Next, at the coordinator: locum roster install FOLDER {where}", markup=False)


@app.command()
def key(file: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")], as_json: Json = False) -> None:
    """Make the consortium's key, where it is to stay; give its public half to 'locum init --consortium'."""
    from locum.errors import Conflict
    from locum.federation.identity import Identity

    made = Identity.generate()
    try:
        made.save(file)
    except FileExistsError:
        raise Conflict(f"{file} exists already.", fix="choose another name") from None
    if as_json:
        emit({"file": file, "public_key": str(made.public), "fingerprint": made.public.fingerprint})
    else:
        console().print(f"Wrote {file}. Public key: {made.public}\nFingerprint: {made.public.fingerprint} (sites compare it over the telephone).", markup=False)
        console().print(f"Next, at the coordinator: locum init FOLDER --consortium {made.public}", markup=False)


@app.command()
def draft(folder: Folder, file: Annotated[Path, typer.Argument(help="The file to write.")], as_json: Json = False) -> None:
    """Write the roster of the enrolled sites to a file, to be signed where the consortium's key is."""
    from locum.coordinator import office

    drafted, old = office.draft(folder)
    file.write_text(drafted.encode(), encoding="utf-8")
    if as_json:
        emit({"file": file, "version": drafted.version, "sites": sorted(drafted.sites)})
        return
    _show(drafted, old)
    console().print(f"Wrote {file}. Next, where the key is: locum roster sign {file} --key consortium.key", markup=False)


@app.command()
def install(folder: Folder, file: Annotated[Path, typer.Argument(help="The signed roster.")], as_json: Json = False) -> None:
    """Put a signed roster in force."""
    from locum.coordinator import office

    signed = office.read_signed(file)
    office.install(folder, signed)
    if as_json:
        emit({"digest": signed.digest, "installed": True})
    else:
        console().print("The roster is in force.", markup=False)


@app.command()
def show(folder: Folder, as_json: Json = False) -> None:
    """The roster in force, and which enrolled sites are not in it."""
    from locum.coordinator import office

    drafted, old = office.draft(folder)
    if as_json:
        emit({"in_force": old, "enrolled": sorted(drafted.sites)})
    elif old is None:
        console().print("No roster is signed yet. Next: locum roster sign FOLDER", markup=False)
    else:
        console().print(f"Roster {old.version}, signed {when(old.issued)} (UTC), {len(old.sites)} sites.", markup=False)
        _show(drafted, old)


def _show(new: Roster, old: Roster | None) -> None:
    from locum.federation.roster import changes

    what = changes(old, new.sites)
    word = {**dict.fromkeys(what["added"], "new"), **dict.fromkeys(what["changed"], "NEW KEY")}
    table(["site", "key fingerprint", ""], [(name, new.keys[name].fingerprint, word.get(name, "")) for name in sorted(new.sites)])
    if what["removed"]:
        console().print(f"No longer enrolled: {', '.join(what['removed'])}", markup=False)
