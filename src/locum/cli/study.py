"""`locum study`: the investigator's commands, and `locum connect`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from locum.cli.output import Json, console, emit, secret, table, when

if TYPE_CHECKING:
    from locum.client import Client
    from locum.federation.wire import RunView

app = typer.Typer(no_args_is_help=True)
Home = Annotated[Path, typer.Option(envvar="LOCUM_HOME", help="Folder of your key and membership.")]
Key = Annotated[str | None, typer.Option(help="Your key: a PEM file, or keyring:NAME (the operating system's keyring); by default key.pem in --home.")]
HOME = Path("~/.locum")


def client(home: Path, *, patient: bool = False, key: str | None = None) -> Client:
    """The investigator's client; `patient` waits out any outage, with a line about it. Raises `NotEnrolled` before `locum connect`."""
    from locum.client import A_WHILE, FOR_EVER, Client

    def notice(event: str, details: object) -> None:
        console(stderr=True).print(f"{event}: {details}", markup=False, style="yellow")

    folder, patience = home.expanduser(), FOR_EVER if patient else A_WHILE
    if key is None:
        return Client.open(folder, patience=patience, notice=notice)
    from locum.client.keys import load_key
    from locum.client.membership import Membership

    return Client(Membership.load(folder).connect(load_key(key, folder), patience=patience, notice=notice))


def connect(
    invitation: Annotated[str, typer.Argument(help="The text that starts with 'locum1:'; without it you are asked, or it is read from a pipe.")] = "-",
    home: Home = HOME,
    ca: Annotated[Path | None, typer.Option(help="PEM file of a proxy's authority, where one intercepts TLS.")] = None,
    as_json: Json = False,
) -> None:
    """Join a federation as an investigator, or as an approver: makes your key, and uses up the invitation."""
    from locum.client import join
    from locum.federation.wire import Invitation

    text = secret(invitation, "the invitation")
    role = "approver" if Invitation.parse(text).role == "approver" else "investigator"
    member = join(home.expanduser(), text, role=role, ca=pem(ca))  # type: ignore[arg-type]
    if as_json:
        emit({"name": member.name, "url": member.url, "federation": member.federation, "coordinator": member.coordinator.fingerprint})
    else:
        console().print(f"Connected to {member.url} as '{member.name}'. Coordinator's key fingerprint: {member.coordinator.fingerprint}", markup=False)


def pem(file: Path | None) -> str:
    """The text of a PEM file; raises `NotFound`."""
    from locum.errors import NotFound

    try:
        return file.read_text(encoding="ascii") if file else ""
    except (OSError, UnicodeDecodeError):
        raise NotFound(f"{file} cannot be read as a PEM file.", fix="give the authority's certificate in PEM form") from None


@app.command()
def new(
    file: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")],
    source: Annotated[str, typer.Option("--from", help="Start from the study of a scenario (locum scenario list), or from 'blank'.")] = "blank",
    as_json: Json = False,
) -> None:
    """Write a commented study to start from."""
    from locum.errors import Conflict
    from locum.scenarios import studies
    from locum.tasks import kinds

    name = re.sub(r"[^a-z0-9_.-]+", "-", file.stem.lower()).strip("-._") or "study"
    tasks = [k for k in kinds() if not k.startswith("test_")]
    text = studies.text(source).replace("@NAME@", name[:64]).replace("@TASKS@", ", ".join(tasks))
    try:
        with file.open("x", encoding="utf-8") as f:
            f.write(text)
    except FileExistsError:
        raise Conflict(f"{file} exists already.", fix="choose another name") from None
    except OSError as error:
        raise Conflict(f"{file} cannot be written: {error.strerror}.", fix="choose another place") from None
    if as_json:
        emit({"file": file, "from": source})
    else:
        console().print(f"Wrote {file}. Next: edit it, then locum study check {file}", markup=False)


@app.command()
def check(file: Annotated[Path, typer.Argument(help="The study file.")], as_json: Json = False) -> None:
    """Check a study: keys, names, units, the plan. Prints its digest, which is what sites approve."""
    from locum.federation.budget import budget_of
    from locum.study import Study
    from locum.tasks import build_plan

    study = Study.load(file)
    budget_of(study)
    steps = [{"step": t.step.name, "task": t.kind, "reads": list(t.reads()), "leaves": t.leaves()} for t in build_plan(study)]  # type: ignore[attr-defined]
    if as_json:
        emit({"name": study.name, "digest": study.digest, "protection": study.terms.protection(), "steps": steps})
        return
    console().print(f"'{study.name}' is a valid study.\ndigest {study.digest}\n{study.terms.protection()}", markup=False)
    table(["step", "task", "reads", "what leaves a site"], [(s["step"], s["task"], ", ".join(s["reads"]), s["leaves"]) for s in steps])


@app.command()
def sign(
    file: Annotated[Path, typer.Argument(help="The study file.")],
    key: Key = None,
    out: Annotated[Path | None, typer.Option(help="The file to write; by default FILE with the ending .signed.json.")] = None,
    name: Annotated[str, typer.Option("--as", help="Your name in the federation, where --home holds no membership.")] = "",
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """Sign a study without sending it, where your key is; 'locum study submit' sends the file later."""
    from locum.client.keys import load_key
    from locum.client.membership import Membership
    from locum.client.signed import SignedStudy
    from locum.errors import Conflict
    from locum.federation.budget import budget_of
    from locum.study import Study

    folder, study = home.expanduser(), Study.load(file)
    budget_of(study)
    identity = load_key(key, folder)
    sender = name or Membership.load(folder).name
    where = out or file.with_suffix(".signed.json")
    try:
        with where.open("xb") as f:
            f.write(SignedStudy.sign(study, sender, identity).encode())
    except FileExistsError:
        raise Conflict(f"{where} exists already.", fix="remove it, or choose another place with --out") from None
    except OSError as error:
        raise Conflict(f"{where} cannot be written: {error.strerror}.", fix="choose another place with --out") from None
    if as_json:
        emit({"file": where, "study": study.digest, "by": sender, "key": identity.public.fingerprint})
        return
    said = console()
    said.print(f"Signed '{study.name}' as '{sender}' with the key {identity.public.fingerprint}.\ndigest {study.digest}", markup=False)
    said.print(f"Wrote {where}. Next: locum study submit {where}", markup=False)


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(help="The study file, or what 'locum study sign' wrote.")],
    key: Key = None,
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """Sign a study, unless it is signed, and send it to the coordinator; its first run starts when enough sites have approved."""
    from locum.client import signed
    from locum.study import Study

    connection = client(home, key=key)
    own, found = connection.api.connection, signed.read(file)
    study = connection.submit(signed.handed_in(found, own.name, own.identity.public), found.envelope) if found else connection.submit(Study.load(file))
    run = find_run(connection, study.digest)
    if as_json:
        emit({"study": study.digest, "run": run.id, "status": run.status})
    else:
        console().print(f"Submitted '{run.name}'. Run {run.id} waits for {run.needed} approvals.\nNext: locum study watch {run.id}", markup=False)


@app.command("list")
def list_(home: Home = HOME, as_json: Json = False) -> None:
    """Studies that you submitted, with the sites' decisions."""
    studies = client(home).studies()
    if as_json:
        emit(studies)
    else:
        from locum.study import Study

        rows = [(Study.from_json(s.manifest.encode()).name, s.digest[:12], when(s.submitted), len(s.approvals), len(s.denials)) for s in studies]
        table(["study", "digest", "submitted (UTC)", "approved", "denied"], rows, right=["approved", "denied"])


@app.command()
def watch(run: Annotated[str, typer.Argument(help="A run's id, or a study's name or digest.")], home: Home = HOME, as_json: Json = False) -> None:
    """Follow a run to its end. Ctrl-C stops watching, not the run."""
    from locum.errors import RunFailed

    connection = client(home, patient=True)
    view = find_run(connection, run)
    final = follow(connection, view, quiet=as_json)
    if as_json:
        emit(final)
    elif final.status == "finished":
        console().print(
            f"Finished. Model {final.model}\n{final.protection}\nNext: locum run show {final.id}    locum model export {(final.model or '')[:12]} FILE",
            markup=False,
        )
    if final.status != "finished":
        raise RunFailed(f"The run {final.status}: {final.error or 'no reason was given'}")


def find_run(connection: Client, text: str) -> RunView:
    """The newest run whose id, study digest or study name begins with `text`; raises `NotFound`."""
    from locum.errors import NotFound

    runs = sorted(connection.runs(), key=lambda r: r.created, reverse=True)
    named = [r for r in runs if r.name == text]
    for run in (*named, *(r for r in runs if r.id.startswith(text) or r.study.startswith(text))):
        return run
    raise NotFound(f"There is no run '{text}' here.", fix="locum run list shows them")


def follow(connection: Client, view: RunView, *, quiet: bool = False) -> RunView:
    """Long-poll a run until it ends, with a progress line for people; the final view."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns: Any = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} steps"),
        TextColumn("{task.fields[now]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console(stderr=True), disable=quiet) as progress:
        line = progress.add_task(view.name, total=len(view.steps), now="")
        last = view
        for last in connection.watch(view.id):
            progress.update(line, completed=last.step, now=describe(last))
    return last


def describe(view: RunView) -> str:
    """Where a run is, in a few words."""
    if view.status not in ("waiting", "running"):
        return view.status
    if view.status == "waiting":
        return f"waiting: {view.approvals} of {view.needed} approvals" + (f"; {view.note}" if view.note else "")
    step = view.steps[view.step] if view.step < len(view.steps) else "end"
    return f"{step}, round {view.iteration + 1}: {view.answered} of {view.asked} sites answered"
