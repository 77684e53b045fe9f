"""`locum site policy`: the site's own rules, in Cedar, and what they say of a study."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from locum.cli.output import Json, console, emit, table
from locum.errors import LocumError, counted

if TYPE_CHECKING:
    from locum.governance.policy import Rule, Ruling

app = typer.Typer(no_args_is_help=True)
Folder = Annotated[Path, typer.Option(envvar="LOCUM_SITE", help="The site's folder.")]
FOLDER = Path("locum-site")


@app.command()
def show(
    schema: Annotated[bool, typer.Option("--schema", help="Instead, what a rule may speak of.")] = False,
    preset: Annotated[str, typer.Option(help="Instead, a preset: default, cms or datashield.")] = "",
    folder: Folder = FOLDER,
    as_json: Json = False,
) -> None:
    """The rules in force, as Cedar's text."""
    from locum.governance import policy as site_policy
    from locum.governance.policy.rules import schema_text

    if schema or preset:
        text = schema_text() if schema else site_policy.preset(preset)
        emit({"text": text}) if as_json else console().print(text, markup=False, end="")
        return
    found = _in_force(folder)
    if as_json:
        emit(_summary(found.source, found.policy))
    else:
        console().print(f"// {found.source}, SHA-256 {found.policy.digest}\n\n{found.policy.text}", markup=False, end="")


@app.command()
def check(
    file: Annotated[Path | None, typer.Argument(help="A file of rules; without it, those in force and the data sets' terms in site.toml.")] = None,
    folder: Folder = FOLDER,
    as_json: Json = False,
) -> None:
    """Whether rules parse, fit the schema, and let at least one study through. Changes nothing."""
    from locum.governance.policy import Policy

    source, policy = (str(file), Policy.load(_text(file), file.name)) if file else (lambda f: (f.source, f.policy))(_in_force(folder))
    if as_json:
        emit(_summary(source, policy))
        return
    table(["line", "effect", "rule", "reason"], [(r.line, r.effect, r.id, r.reason or "-") for r in policy.rules], right=["line"])
    console().print(f"{source}: {counted(len(policy.rules), 'rule')}; they parse, fit the schema, and let studies through.", markup=False)


@app.command("set")
def set_(file: Annotated[Path, typer.Argument(help="A file of Cedar rules.")], folder: Folder = FOLDER, as_json: Json = False) -> None:
    """Put a file of rules in force, from the next decision on. One that does not hold together is refused, and the old rules stay."""
    _install(folder, _text(file), file.name, as_json)


@app.command()
def preset(name: Annotated[str, typer.Argument(help="default, cms or datashield.")], folder: Folder = FOLDER, as_json: Json = False) -> None:
    """Put rules that ship in force: a sensible default, or the smallest cells of CMS (11) or DataSHIELD (3)."""
    from locum.governance.policy import preset as text_of

    _install(folder, text_of(name), name, as_json)


@app.command("test")
def try_out(
    study: Annotated[str, typer.Argument(help="A study's digest, or its first digits, or the file of a study that has not arrived.")],
    data: Annotated[str | None, typer.Option("--data", help="Which of your tables, where there are several.")] = None,
    at: Annotated[datetime | None, typer.Option(help="At another time than now, in this site's time zone.", formats=["%Y-%m-%dT%H:%M", "%Y-%m-%d"])] = None,
    requester: Annotated[str, typer.Option(help="Of a file: by whom it would be signed.")] = "somebody",
    patients: Annotated[int | None, typer.Option(min=0, help="How many patients to assume, in place of a count.")] = None,
    folder: Folder = FOLDER,
    as_json: Json = False,
) -> None:
    """What the rules say of a study at review, approval, each round and the door: which held, and what they were told."""
    from locum.site.trial import trial

    when = at.astimezone() if at else None
    found = trial(folder, study, data=data, at=when, requester=requester, patients=patients)
    if as_json:
        emit({"study": found.digest, "name": found.name, "data": found.data, "source": found.source, "rulings": [r.to_json() for r in found.rulings]})
        return
    out = console()
    out.print(f"Study {found.name} ({found.digest[:12]}) on '{found.data}', {found.source} {found.rulings[0].policy[:12]}", markup=False)
    table(["at", "", "permits that held", "forbids that held"], [_row(r) for r in found.rulings])
    sentences = dict.fromkeys(sentence for r in found.rulings for sentence in r.refusals)
    for sentence in sentences:
        out.print(f"- {sentence}", markup=False)
    told = {**found.rulings[0].context, **{f"resource.{k}": v for k, v in found.rulings[0].entities[1]["attrs"].items()}}
    told["principal"], told["principal.key"] = found.rulings[0].entities[0]["uid"]["id"], found.rulings[0].entities[0]["attrs"]["key"]
    table(["what the rules were told", ""], [(k, _value(v)) for k, v in told.items()])


def _row(ruling: Ruling) -> tuple[str, str, str, str]:
    return ruling.action, "allowed" if ruling.allowed else f"REFUSED ({ruling.code})", _names(ruling.permits), _names(ruling.forbids)


def _names(rules: tuple[Rule, ...]) -> str:
    return ", ".join(f"{rule.id} (line {rule.line})" for rule in rules) or "-"


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) or "(none)" if isinstance(value, list) else str(value)


def _in_force(folder: Path) -> Any:
    from locum.site.folder import open_store
    from locum.site.policy import load

    with open_store(folder) as store:
        return load(store, [d.name for d in store.data()])


def _install(folder: Path, text: str, where: str, as_json: bool) -> None:
    from locum.site.folder import load_config, open_store
    from locum.site.policy import RULES, install

    with open_store(folder) as store:
        policy = install(store, text, where)
    if as_json:
        emit(_summary(RULES, policy))
        return
    out = console()
    out.print(f"In force from the next decision on: {folder / RULES}, {counted(len(policy.rules), 'rule')}, SHA-256 {policy.digest}", markup=False)
    try:
        own = load_config(folder).policy
    except LocumError as error:
        out.print(f"Note: nothing runs until site.toml is put right: {error}", markup=False)
        return
    least = {"cms": 11, "datashield": 3}.get(where, 0)
    if own.min_rows < least:
        out.print(f"Next: set min_rows = {least} under [policy] in site.toml, or studies without noise must ask for it themselves.", markup=False)


def _text(file: Path) -> str:
    from locum.governance.policy import PolicyError
    from locum.site.policy import read_rules

    text = read_rules(file)
    if text is None:
        raise PolicyError(f"There is no file {file}.", fix="check the path")
    return text


def _summary(source: str, policy: Any) -> dict[str, Any]:
    rules = [{"id": r.id, "effect": r.effect, "line": r.line, "reason": r.reason} for r in policy.rules]
    return {"source": source, "digest": policy.digest, "rules": rules, "text": policy.text}
