"""`locum model`: what the runs made, and which version of it is in use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from locum.cli.output import Json, coloured, console, emit, size, table, when
from locum.cli.study import HOME, Home, client

if TYPE_CHECKING:
    from locum.client import Client
    from locum.client.models import Registry
    from locum.federation.lines import VersionView
    from locum.federation.wire import ModelView

app = typer.Typer(no_args_is_help=True)
Model = Annotated[str, typer.Argument(help="The first digits of a model's SHA-256, its study's name (the newest), a line's name, or LINE@VERSION.")]
Version = Annotated[str, typer.Argument(help="LINE@VERSION, for example heart@2.")]
Reason = Annotated[str, typer.Option(help="Why; it is signed with the decision.")]


def find(connection: Client, text: str) -> ModelView:
    """The newest model of that name, or whose id begins with `text`; raises `NotFound`."""
    from locum.errors import NotFound

    found = [m for m in sorted(connection.models(), key=lambda m: m.created, reverse=True) if m.name == text or m.id.startswith(text)]
    if not found:
        raise NotFound(f"There is no model '{text}' here.", fix="locum model list shows them")
    return found[0]


def registry(connection: Client) -> Registry:
    from locum.client.models import Registry

    return Registry(connection)


def version_of(connection: Client, text: str) -> VersionView | None:
    """The version that 'line@2' names; of a line's bare name the one in use, else the newest; None where it is no line. Raises `NotFound`."""
    from locum.errors import NotFound

    name, at, number = text.partition("@")
    if at and not (number.isascii() and number.isdigit() and len(number) < 10):
        raise NotFound(f"'{text}' names no version.", fix="write LINE@VERSION, for example heart@2")
    line = next((x for x in registry(connection).lines() if x.name == name), None)
    if line is None:
        if at:
            raise NotFound(f"There is no line '{name}' here.", fix="locum model list shows them")
        return None
    return registry(connection).version(name, int(number) if at else line.current or max(v.version for v in line.versions))


def _named(connection: Client, text: str) -> VersionView:
    from locum.errors import NotFound

    found = version_of(connection, text) if "@" in text else None
    if found is None:
        raise NotFound(f"'{text}' names no version.", fix="write LINE@VERSION, for example heart@2; locum model list shows them")
    return found


@app.command("list")
def list_(home: Home = HOME, as_json: Json = False) -> None:
    """Models that you may see, and the lines in which they are versions."""
    import msgspec

    connection = client(home)
    models, every = connection.models(), [v for line in registry(connection).lines() for v in line.versions]
    if as_json:
        named = {m.run: [{"line": v.line, "version": v.version, "status": v.status} for v in every if v.run == m.run] for m in models}
        emit([{**msgspec.to_builtins(m), "versions": named[m.run]} for m in models])
        return
    table(["model", "study", "run", "size", "created (UTC)"], [(m.id[:12], m.name, m.run, size(m.bytes), when(m.created)) for m in models], right=["size"])
    if every:
        rows = [
            (v.line, v.version, v.status, "PASS" if v.passes else "BLOCK", v.model[:12], v.requester, v.approver or "", when(v.decided or v.requested))
            for v in every
        ]
        table(["line", "version", "status", "gate", "model", "asked for by", "decided by", "when (UTC)"], rows, right=["version"])


@app.command()
def show(model: Model, home: Home = HOME, as_json: Json = False) -> None:
    """A model: where it comes from; of a version also what the gate says, and what was signed."""
    connection = client(home)
    version = version_of(connection, model)
    if version is not None:
        _show_version(connection, version, as_json=as_json)
        return
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


def _show_version(connection: Client, v: VersionView, *, as_json: bool) -> None:
    from locum.federation.identity import PublicKey
    from locum.governance.gate_verdict import Verdict

    line, verdict = registry(connection).line(v.line), Verdict.decode(v.verdict.encode())
    signed = [
        {"decision": d.action, "by": s.by, "key": PublicKey.parse(s.key).fingerprint, "at": s.at, "reason": d.reason}
        for d, s in zip(line.check(), line.decisions, strict=True)
        if d.version == v.version
    ]
    if as_json:
        import msgspec

        emit({**msgspec.to_builtins(v), "verdict": verdict.to_json(), "signed": signed})
        return
    for label, value in (
        ("version", f"{v.line} {v.version}, {v.status}"),
        ("model", v.model),
        ("study", v.study),
        ("run", v.run),
        ("took over", f"version {v.previous}" if v.previous else "from none"),
        ("rests on", f"the approvals of version {v.basis}'s study"),
    ):
        console().print(f"{label:14} {value}", markup=False)
    table(["decision", "by", "key", "when (UTC)", "why"], [(s["decision"], s["by"], s["key"], when(float(str(s["at"]))), s["reason"]) for s in signed])
    console().print(verdict.text(), markup=False)


@app.command()
def diff(a: Model, b: Model, home: Home = HOME, as_json: Json = False) -> None:
    """What differs between two models: studies, coefficients, figures."""
    from locum.cli.model_diff import difference
    from locum.study import Study

    connection = client(home)
    sides = []
    for text in (a, b):
        found: Any = version_of(connection, text) or find(connection, text)
        sides.append((Study.from_json(connection.study(found.study).manifest.encode()), connection.run(found.run).results))
    made = difference(sides[0], sides[1])
    if as_json:
        emit(made)
        return
    table(["study", a, b], [(c["path"], c["before"], c["after"]) for c in made["studies"]])
    for kind in ("coefficients", "figures"):
        rows = [(r["figure"], *("" if r[k] is None else f"{r[k]:.6g}" for k in ("a", "b", "change"))) for r in made[kind]]
        table([kind, a, b, "change"], rows, right=[a, b, "change"])


@app.command()
def propose(
    line: Annotated[str, typer.Argument(help="The line's name; the first version makes it.")],
    run: Annotated[str, typer.Argument(help="A finished run's id, or a study's name or digest.")],
    audit: Annotated[Path | None, typer.Option(help="What 'locum privacy audit --json' printed, where the study's gate asks for it.")] = None,
    reason: Reason = "",
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """Ask that a run's model becomes the next version of a line. The gate judges it at once."""
    from locum.cli.study import find_run
    from locum.errors import NotFound

    connection = client(home)
    try:
        report = audit.read_text(encoding="utf-8") if audit else ""
    except (OSError, UnicodeDecodeError):
        raise NotFound(f"{audit} cannot be read.", fix="locum privacy audit --json > FILE") from None
    view = registry(connection).propose(line, find_run(connection, run).id, audit=report, reason=reason)
    named = f"{view.line}@{view.version}"
    then = f"Next: an approver's 'locum model promote {named}'" if view.passes else "The gate blocks it, so nobody can promote it as things stand."
    _told(view, as_json, f"Proposed as {named}. {then}")


@app.command()
def promote(
    version: Version,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    reason: Reason = "",
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """Put a candidate in use, as an approver: judges it against the version in use, shows the verdict, and signs it."""
    from locum.governance.gate_verdict import Verdict

    connection = client(home)
    seen = _named(connection, version)
    seen = registry(connection).judge(seen.line, seen.version)
    if not as_json:
        console().print(Verdict.decode(seen.verdict.encode()).text(), markup=False)
    if seen.passes and not yes and not as_json:
        typer.confirm(f"Promote {seen.line}@{seen.version}?", abort=True)
    view = registry(connection).promote(seen, reason=reason)
    _told(view, as_json, f"{view.line}@{view.version} is in use.", verdict=False)


@app.command()
def rollback(version: Version, reason: Annotated[str, typer.Option(help="Why; it is signed.")], home: Home = HOME, as_json: Json = False) -> None:
    """Put an earlier version in use again, as an approver."""
    connection = client(home)
    seen = _named(connection, version)
    view = registry(connection).roll_back(seen.line, seen.version, reason=reason)
    _told(view, as_json, f"{view.line}@{view.version} is in use again.", verdict=False)


@app.command()
def withdraw(version: Version, reason: Annotated[str, typer.Option(help="Why; it is signed.")], home: Home = HOME, as_json: Json = False) -> None:
    """Take a version out of use for good: an approver any, an investigator its own candidates."""
    connection = client(home)
    seen = _named(connection, version)
    view = registry(connection).withdraw(seen.line, seen.version, reason=reason)
    _told(view, as_json, f"{view.line}@{view.version} is withdrawn.", verdict=False)


def _told(view: VersionView, as_json: bool, text: str, *, verdict: bool = True) -> None:
    from locum.governance.gate_verdict import Verdict

    if as_json:
        emit(view)
        return
    if verdict:
        console().print(Verdict.decode(view.verdict.encode()).text(), markup=False)
    console().print(coloured(text, "green" if view.passes else "yellow"))


@app.command()
def export(model: Model, file: Annotated[Path, typer.Argument(help="The safetensors file to write.")], home: Home = HOME, as_json: Json = False) -> None:
    """Download a model as safetensors, checked against its SHA-256."""
    connection = client(home)
    version = version_of(connection, model)
    view = connection.model(version.model) if version else find(connection, model)
    connection.model_file(view, file)
    if as_json:
        emit({"file": file, "sha256": view.id, "bytes": view.bytes})
    else:
        console().print(f"Wrote {file} ({size(view.bytes)}), SHA-256 {view.id}", markup=False)
