"""`locum model`: what the runs made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from locum.cli.output import Json, console, emit, size, table, when
from locum.cli.study import HOME, Home, client

if TYPE_CHECKING:
    from locum.client import Client
    from locum.federation.wire import ModelView

app = typer.Typer(no_args_is_help=True)
Model = Annotated[str, typer.Argument(help="The first digits of a model's SHA-256, or its study's name (the newest).")]


def find(connection: Client, text: str) -> ModelView:
    """The newest model of that name, or whose id begins with `text`; raises `NotFound`."""
    from locum.errors import NotFound

    found = [m for m in sorted(connection.models(), key=lambda m: m.created, reverse=True) if m.name == text or m.id.startswith(text)]
    if not found:
        raise NotFound(f"There is no model '{text}' here.", fix="locum model list shows them")
    return found[0]


@app.command("list")
def list_(home: Home = HOME, as_json: Json = False) -> None:
    """Models of your studies."""
    models = client(home).models()
    if as_json:
        emit(models)
    else:
        table(["model", "study", "run", "size", "created (UTC)"], [(m.id[:12], m.name, m.run, size(m.bytes), when(m.created)) for m in models], right=["size"])


@app.command()
def show(model: Model, home: Home = HOME, as_json: Json = False) -> None:
    """A model: where it comes from, and its tensors."""
    connection = client(home)
    view = find(connection, model)
    if as_json:
        emit(view)
        return
    for label, value in (
        ("model", view.id),
        ("study", f"{view.name} ({view.study})"),
        ("run", view.run),
        ("size", size(view.bytes)),
        ("created (UTC)", when(view.created)),
    ):
        console().print(f"{label:14} {value}", markup=False)


@app.command()
def export(model: Model, file: Annotated[Path, typer.Argument(help="The safetensors file to write.")], home: Home = HOME, as_json: Json = False) -> None:
    """Download a model as safetensors, checked against its SHA-256."""
    connection = client(home)
    view = find(connection, model)
    connection.model_file(view, file)
    if as_json:
        emit({"file": file, "sha256": view.id, "bytes": view.bytes})
    else:
        console().print(f"Wrote {file} ({size(view.bytes)}), SHA-256 {view.id}", markup=False)
