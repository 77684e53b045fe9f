"""`locum site`: the hospital's commands. All of them work on one folder of this machine."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import typer

from locum.cli import data_check, ledger, policy, waiver
from locum.cli.output import Json, console, emit, secret, size, table, when
from locum.errors import counted

app = typer.Typer(no_args_is_help=True)
data_app = typer.Typer(no_args_is_help=True)
app.add_typer(data_app, name="data", help="The tables that studies may be approved on.")
app.add_typer(waiver.app, name="waiver", help="Refusals of the gates that you let pass, signed and on record.")
app.add_typer(policy.app, name="policy", help="The site's own rules: who may ask what of which table, when, and on what terms.")
app.add_typer(ledger.app, name="ledger", help="What studies have spent of a table's privacy budget, and what is left.")

Folder = Annotated[Path, typer.Option(envvar="LOCUM_SITE", help="The site's folder.")]
FOLDER = Path("locum-site")
Digest = Annotated[str, typer.Argument(help="A study's digest, or its first digits.")]
Table = Annotated[str | None, typer.Option("--data", help="Which of your tables, where there are several.")]


@app.command()
def enroll(
    invitation: Annotated[str, typer.Argument(help="The text that starts with 'locum1:'; without it you are asked, or it is read from a pipe.")] = "-",
    folder: Folder = FOLDER,
    ca: Annotated[Path | None, typer.Option(help="PEM file of a proxy's authority, where one intercepts TLS.")] = None,
    as_json: Json = False,
) -> None:
    """Join a federation: makes this site's key, and uses up the invitation."""
    from locum.site.folder import enroll as join
    from locum.site.folder import load_identity

    member = join(folder, secret(invitation, "the invitation"), ca=ca)
    own = load_identity(folder).public.fingerprint
    consortium = member.consortium.fingerprint if member.consortium else ""
    if as_json:
        where = {"name": member.name, "url": member.url, "federation": member.federation, "folder": folder}
        emit({**where, "coordinator": member.coordinator.fingerprint, "consortium": consortium, "fingerprint": own})
        return
    out = console()
    out.print(f"Enrolled as '{member.name}' with {member.url}.", markup=False)
    out.print(f"Your key's fingerprint: {own}. Read it to the consortium's office, over the telephone: they sign it into the roster.", markup=False)
    out.print(f"Coordinator's key fingerprint: {member.coordinator.fingerprint}. Compare it with the operator, over the telephone.", markup=False)
    if consortium:
        out.print(f"Consortium's key fingerprint: {consortium}. Compare it with the consortium's office: it says who the other sites are.", markup=False)
    out.print("Next: locum site data add TABLE --mapping FILE, then locum site serve", markup=False)


@data_app.command()
def add(
    source: Annotated[Path | None, typer.Argument(help="Your table: a file or a folder. Nothing where the mapping names it, or a database.")] = None,
    mapping: Annotated[Path | None, typer.Option(help="Which column is which variable.")] = None,
    name: Annotated[str, typer.Option(help="What the table is called here.")] = "default",
    folder: Folder = FOLDER,
    as_json: Json = False,
) -> None:
    """Name a table of this site. It is read where it lies, and only for studies that you approve."""
    from locum.site.folder import add_data

    added = add_data(folder, name, source, mapping)
    if as_json:
        emit(added)
    else:
        said, more = console(), f" and {len(added.columns) - 30} more" if len(added.columns) > 30 else ""
        columns = f"{counted(len(added.columns), 'column')}: {', '.join(added.columns[:30])}{more}"
        said.print(f"'{added.name}' is {added.source or 'what the mapping asks for'}, {columns}", markup=False)
        for other in added.same_as:
            said.print(f"Note: '{other}' is the same table. Its patients have one privacy ledger: private studies go on under one name.", markup=False)


@data_app.command("list")
def list_(folder: Folder = FOLDER, as_json: Json = False) -> None:
    """The tables of this site."""
    from locum.site.folder import list_data

    found = list_data(folder)
    if as_json:
        emit(found)
    else:
        table(["name", "table", "mapping"], [(d.name, d.source, d.mapping or "-") for d in found])


@app.command()
def studies(folder: Folder = FOLDER, as_json: Json = False) -> None:
    """Studies that this site has been asked to take part in, and what it said."""
    from locum.site.review import list_studies

    found = list_studies(folder)
    if as_json:
        emit(found)
    else:
        table(["digest", "study", "asked by", "your decision"], [(s.digest[:12], s.name, s.requester, s.decision or "none yet") for s in found])


@app.command()
def review(study: Digest, data: Table = None, folder: Folder = FOLDER, as_json: Json = False) -> None:
    """What a study would run here, on which columns, and what would leave, in plain words."""
    from locum.site.review import review as look

    found = look(folder, study, data=data)
    if as_json:
        emit(found.to_json())
    else:
        console().print(found.text(), markup=False)


@app.command()
def check(
    study: Digest,
    data: Table = None,
    page: Annotated[Path | None, typer.Option(help="Also write an HTML page with histograms, for your eyes only.")] = None,
    examples: Annotated[bool, typer.Option(help="Show a few cells that led to a finding. They stay on this machine.")] = True,
    folder: Folder = FOLDER,
    as_json: Json = False,
) -> None:
    """Run the gates of a study's contract on one of your tables, waivers counted. Nothing leaves this machine."""
    from locum.site.checks import check as run

    with data_check.progress_bar(as_json) as progress:
        found = run(folder, study, data, progress=progress)
    data_check.tell(found.report, found.study.title or found.study.name, found.data, page=page, examples=examples, as_json=as_json)


@app.command()
def approve(
    study: Digest,
    data: Table = None,
    exact: Annotated[bool, typer.Option("--exact", help="Accept that this study's sums leave without noise.")] = False,
    until: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The last day on which the approval counts.")] = None,
    folder: Folder = FOLDER,
    as_json: Json = False,
) -> None:
    """Allow exactly this study (its digest) on one of your tables. A private study's cost is set aside in the table's ledger."""
    _decide(study, folder, as_json, approve=True, data=data, exact=exact, until=until.replace(tzinfo=UTC).date() if until else None)


@app.command()
def deny(study: Digest, folder: Folder = FOLDER, as_json: Json = False) -> None:
    """Refuse a study, or withdraw an approval: it takes effect at the next round."""
    _decide(study, folder, as_json, approve=False)


def _decide(study: str, folder: Path, as_json: bool, *, approve: bool, data: str | None = None, exact: bool = False, until: date | None = None) -> None:
    from locum.site.review import decide

    told = decide(folder, study, approve=approve, data=data, exact=exact, until=until)
    word = "approved" if approve else "denied"
    if as_json:
        emit({"study": study, "decision": word, "coordinator_told": told})
    else:
        later = "" if told else " The coordinator cannot be reached now; the agent (locum site serve) will tell it."
        kept = "" if approve else " What it set aside in a ledger stays so until 'locum site ledger settle' frees it."
        console().print(f"{word.capitalize()}: {study}.{later}{kept}", markup=False)


@app.command()
def serve(folder: Folder = FOLDER) -> None:
    """Stay connected and answer the rounds of approved studies. Only calls out; needs no inbound port."""
    from locum.site.serve import serve as run

    run(folder)


@app.command("log")
def log_(
    settle: Annotated[str | None, typer.Option(help="Go on, although two histories were shown: why, in a sentence. The evidence stays.")] = None,
    folder: Folder = FOLDER,
    as_json: Json = False,
) -> None:
    """What this site has cosigned of the federation's log, and any evidence that it was rewritten."""
    from locum.errors import Conflict
    from locum.governance.log import Signed
    from locum.site.folder import open_store

    with open_store(folder) as store:
        if settle is not None:
            if all(fork.settled for fork in store.log_forks()):
                raise Conflict("There is nothing to settle: no other history was shown to this site.")
            store.settle_log(settle.strip() or "no reason given")
        text, forks = store.log_head(), store.log_forks()
    head = Signed.parse(text).checkpoint if text else None
    if as_json:
        emit({"size": head.size if head else 0, "root": head.root.hex() if head else None, "forks": [f._asdict() for f in forks]})
        return
    out = console()
    out.print(f"Cosigned: {head.size} entries, root {head.root.hex()}" if head else "Nothing cosigned yet: 'locum site serve' does it.", markup=False)
    for fork in forks:
        out.print(f"{when(fork.time)} UTC: {fork.what}\nThis site had cosigned:\n{fork.seen}\nIt was shown:\n{fork.shown}", style="red", markup=False)
        out.print(f"Settled: {fork.settled}" if fork.settled else "This site answers nothing until: locum site log --settle 'WHY'", markup=False)


@app.command()
def releases(folder: Folder = FOLDER, as_json: Json = False) -> None:
    """Every vector that ever left this site, from its own log, after checking the log's chain of hashes."""
    from locum.site.folder import releases as log

    lines = log(folder)
    if as_json:
        emit(lines)
        return
    rows = [(x.n, when(x.time), x.entry.step, x.entry.purpose, x.entry.scalars, size(x.entry.nbytes), x.entry.cohort, x.entry.protection) for x in lines]
    table(["line", "when (UTC)", "step", "what", "numbers", "size", "sites in sum", "protection"], rows, right=["line", "numbers", "size"])
    console().print(f"{counted(len(lines), 'release')}; the chain of hashes holds.", markup=False)
