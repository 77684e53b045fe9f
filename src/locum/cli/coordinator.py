"""`locum init | serve | invite | openapi`: the consortium's side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from locum.cli.output import Json, console, emit

Folder = Annotated[Path, typer.Argument(help="The coordinator's folder.")]


def init(
    folder: Folder,
    url: Annotated[str, typer.Option(help="The address that sites will call.")] = "https://localhost:8443",
    name: Annotated[str, typer.Option(help="The consortium's short name.")] = "locum",
    host: Annotated[str | None, typer.Option(help="Where to listen; follows from --url.")] = None,
    port: Annotated[int | None, typer.Option(help="Where to listen; follows from --url.")] = None,
    database: Annotated[
        str, typer.Option(help="SQLAlchemy URL; default SQLite in the folder. Keep a password out of it: set LOCUM_DATABASE_URL instead.")
    ] = "",
    blobs: Annotated[str, typer.Option(help="'file', or s3://bucket/prefix.")] = "file",
    s3_endpoint: Annotated[str, typer.Option(help="For a store that is S3-compatible.")] = "",
    tls: Annotated[bool | None, typer.Option("--tls/--no-tls", help="--no-tls only behind a reverse proxy that terminates TLS.")] = None,
    consortium: Annotated[str, typer.Option(help="Public key of the consortium, which signs the roster; made if not given.")] = "",
    as_json: Json = False,
) -> None:
    """Make a coordinator's folder: settings, signing key, own certificate authority, server certificate."""
    from locum.coordinator import init_folder
    from locum.federation.identity import PublicKey

    signer = PublicKey.parse(consortium) if consortium else None
    options = {"database": database, "blobs": blobs, "s3_endpoint": s3_endpoint, "tls": tls, "consortium": signer}
    made = init_folder(folder, url=url, name=name, host=host, port=port, **options)  # type: ignore[arg-type]
    key = made.identity.public
    if as_json:
        prints = {"fingerprint": key.fingerprint, "consortium_fingerprint": made.consortium.fingerprint}
        emit({"folder": made.path, "url": made.settings.url, "federation": made.federation, **prints})
        return
    out = console()
    if not consortium:
        out.print(
            f"The consortium's key is {made.path / 'consortium.key'}: whoever has it says which sites there are. "
            "Move it to the consortium's office, away from this machine.",
            markup=False,
        )
    out.print(f"Coordinator made in {made.path}. Key fingerprint: {key.fingerprint} (sites compare it over the telephone).", markup=False)
    out.print(f"Next: locum serve {folder}\n      locum invite {folder} NAME\n      locum roster sign {folder}, once the sites have enrolled", markup=False)


def serve(
    folder: Folder,
    host: Annotated[str | None, typer.Option(help="Listen here instead of what the settings say.")] = None,
    port: Annotated[int | None, typer.Option(help="Listen here instead of what the settings say.")] = None,
) -> None:
    """Run the coordinator's service. Several may serve one PostgreSQL database; any may be killed at any time."""
    from locum.coordinator import serve as run

    run(folder, host=host, port=port)


def invite(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="The newcomer's short name in the federation.")],
    role: Annotated[str, typer.Option(help="site, investigator or approver")] = "site",
    valid_days: Annotated[float, typer.Option(help="How long the invitation is good.")] = 7.0,
    as_json: Json = False,
) -> None:
    """Make an invitation, good once. Hand it over as you would a password."""
    from locum.coordinator import invite as make
    from locum.errors import ManifestError

    if role not in ("site", "investigator", "approver"):
        raise ManifestError(f"There is no role '{role}'.", fix="use --role site, --role investigator or --role approver")
    text = make(folder, name, role=role, valid_days=valid_days)  # type: ignore[arg-type]
    if as_json:
        emit({"name": name, "role": role, "invitation": text})
    else:
        command = "locum site enroll" if role == "site" else "locum connect"
        console(stderr=True).print(f"Invitation for '{name}' ({role}), good once, for {valid_days:g} days. There: {command}, then paste it.", markup=False)
        print(text)


def openapi(url: Annotated[str, typer.Option(help="The address to name in it.")] = "https://localhost:8443") -> None:
    """Print the OpenAPI description of the coordinator's API as JSON."""
    from locum.coordinator.api import ENDPOINTS
    from locum.coordinator.openapi import document

    emit(document(ENDPOINTS, url))
