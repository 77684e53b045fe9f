"""`locum run cards`: the cards and papers of a finished run, from what the coordinator recorded and what is installed here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from locum.cli.output import Json, console, emit, table
from locum.cli.run_ import Audit, Run, privacy_card
from locum.cli.study import HOME, Home, client, find_run

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.metadata import Distribution

    from locum.client import Client
    from locum.governance.cards import Facts, Gap, Package
    from locum.study import Study

NO_KEY = "no key: for a person to write"


def cards(
    run: Run,
    folder: Annotated[Path, typer.Argument(help="The folder to write; it is made where there is none.")],
    replace: Annotated[bool, typer.Option("--replace", help="Write over files of the same names in FOLDER.")] = False,
    audit: Audit = None,
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """Write a finished run's model cards, provenance, bill of materials, data set card and data protection papers, and list what nobody stated."""
    from locum.governance.cards import cards as made_of
    from locum.governance.cards import missing

    with client(home) as connection:
        facts = gather(connection, find_run(connection, run).id, audit)
    files, gaps = made_of(facts), missing(facts)
    write(folder, files, replace=replace)
    if as_json:
        emit({"folder": folder, "files": sorted(files), "not_stated": [{"file": g.file, "field": g.field, "key": g.key or None} for g in gaps]})
        return
    console().print(f"Wrote {len(files)} files in {folder}: {', '.join(files)}", markup=False)
    _list(gaps)


def _list(gaps: Iterable[Gap]) -> None:
    """What nobody stated, by the key that would fill it."""
    by: dict[str, list[str]] = {}
    for gap in gaps:
        by.setdefault(gap.key or NO_KEY, []).append(f"{gap.file}: {gap.field}")
    if by:
        rows = [(key, "; ".join(by[key])) for key in sorted(by, key=lambda k: (k == NO_KEY, k))]
        table(["manifest key", "not stated in"], rows, title="Not stated")


def gather(connection: Client, run: str, audit: Path | None) -> Facts:
    """The facts of a finished run. Raises `Conflict` for one that has no model."""
    import platform

    import msgspec

    from locum import __version__
    from locum.errors import Conflict
    from locum.governance.cards import Facts
    from locum.governance.code import code_digest
    from locum.study import Study

    view = connection.run(run)
    if view.status != "finished" or view.model is None:
        raise Conflict(f"Run {view.id} {view.status}: it has no model.", why="Cards describe a model that exists.", fix=f"locum study watch {view.id}")
    rounds, found = connection.rounds(view.id), connection.study(view.study)
    study = Study.from_json(found.manifest.encode())
    return Facts(
        study=study.model_dump(mode="json", by_alias=True),
        digest=study.digest,
        run=msgspec.to_builtins(view),
        rounds=msgspec.to_builtins(rounds),
        privacy=privacy_card(connection, view, rounds, audit),
        model_bytes=connection.model(view.model).bytes,
        approved=found.approvals,
        leaves=_leaves(study),
        rosters=[r.digest for r in connection(connection.api.run_record(view.id)).rosters],
        code=code_digest(),
        version=__version__,
        python=platform.python_version(),
        packages=installed(),
    )


def _leaves(study: Study) -> dict[str, str]:
    from locum.tasks import build_plan

    return {step.name: task.leaves() for step, task in zip(study.plan, build_plan(study), strict=True)}


_REQUIREMENT = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[([^\]]*)\])?([^;]*)(?:;(.*))?$")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")


def installed(root: str = "locum") -> list[Package]:
    """The distributions that `root` needs and that are there, with those that they need (of its own extras, all but 'test')."""
    from importlib.metadata import PackageNotFoundError, distribution

    from locum.governance.cards import Package

    wanted: dict[str, set[str]] = {}
    found: dict[str, Distribution] = {}
    try:
        queue = [(root, {e for e in distribution(root).metadata.get_all("Provides-Extra") or () if e != "test"})]
    except PackageNotFoundError:
        return []
    while queue:
        name, extras = queue.pop()
        if name in found and extras <= wanted[name]:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue
        wanted[name] = wanted.get(name, set()) | extras
        queue += _needs(found[name], wanted[name])
    return [
        Package(name, d.version, _licence(d), tuple(sorted({n for n, _ in _needs(d, wanted[name]) if n in found and n != name}))) for name, d in found.items()
    ]


def _needs(package: Distribution, extras: set[str]) -> list[tuple[str, set[str]]]:
    """Name and extras of what it requires with these extras. Other markers (the system, Python's version) are not judged: what is absent drops out."""
    out = []
    for text in package.requires or ():
        match = _REQUIREMENT.match(text)
        needed = set(_EXTRA.findall(match[4] or "")) if match else set()
        if match and (not needed or needed & extras):
            out.append((re.sub(r"[-_.]+", "-", match[1]).lower(), {e.strip() for e in (match[2] or "").split(",") if e.strip()}))
    return out


def _licence(package: Distribution) -> str:
    """The licence in a package's own words: its expression, its classifiers, or one line of its licence field."""
    said = {key: package.metadata.get_all(key) or [] for key in ("License-Expression", "Classifier", "License")}
    classified = "; ".join(c.rsplit(" :: ", 1)[-1] for c in said["Classifier"] if c.startswith("License ::"))
    text: str = next(iter(said["License-Expression"]), "") or classified or next(iter(said["License"]), "")
    return text if len(text) <= 200 and "\n" not in text else ""


def write(folder: Path, files: dict[str, bytes], *, replace: bool) -> None:
    """Write the files, or none of them. Raises `Conflict` where one is there already, or cannot be written."""
    from locum.errors import Conflict

    there = [name for name in files if (folder / name).exists()]
    if there and not replace:
        raise Conflict(f"{folder} holds {there[0]} already.", fix="choose another folder, or say --replace")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        parts = {name: folder / f".{name}.part" for name in files}
        for name, body in files.items():
            parts[name].write_bytes(body)
        for name, part in parts.items():
            part.replace(folder / name)
    except OSError as error:
        raise Conflict(f"{folder} cannot be written: {error.strerror}.", fix="choose another place") from None
