"""The tree of commands, and what happens when one fails."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from locum.cli import audit, cards, coordinator, data, demo, log, model, privacy, roster, run_, scenario, site, study
from locum.errors import LocumError

app = typer.Typer(
    name="locum",
    help="Federated learning and statistics for medicine: the model travels, the patients' data stays.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(study.app, name="study", help="Write, check, submit and watch a study.")
app.add_typer(run_.app, name="run", help="See runs, start them again, cancel them.")
app.add_typer(model.app, name="model", help="Models, their versions, and which one is in use.")
app.add_typer(data.app, name="data", help="Public data sets, and checking your own table against a study.")
app.add_typer(scenario.app, name="scenario", help="Medical questions on real data, run on this machine.")
app.add_typer(site.app, name="site", help="At a hospital: enrol, connect data, review, decide, serve.")
app.add_typer(privacy.app, name="privacy", help="What a study promises to each patient, and attacks on the implementation.")
app.add_typer(roster.app, name="roster", help="At the consortium: which sites there are, signed.")
app.add_typer(audit.app, name="audit", help="How a model was made, as one file, and what verifies it offline.")
app.add_typer(log.app, name="log", help="The federation's log: what happened, verified under its signed head.")
run_.app.command("cards")(cards.cards)
app.command("demo")(demo.demo)
app.command("init")(coordinator.init)
app.command("serve")(coordinator.serve)
app.command("invite")(coordinator.invite)
app.command("openapi")(coordinator.openapi)
app.command("connect")(study.connect)


def _version(value: bool) -> None:
    if value:
        from locum import __version__

        print(f"locum {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks here; they may hold data, so do not share them.")] = False,
) -> None:
    if debug:
        os.environ["LOCUM_DEBUG"] = "1"


def run() -> None:
    """Run a command; an error becomes three sentences and exit status 1, Ctrl-C status 130."""
    try:
        app()
    except LocumError as error:
        if os.environ.get("LOCUM_DEBUG"):
            raise
        from locum.cli.output import fail

        fail(error, as_json="--json" in sys.argv)
    except KeyboardInterrupt:
        print("\nInterrupted. What was durable stays; start the command again to go on.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
    except Exception as error:  # its text may quote cells, so it is shown with --debug only
        if os.environ.get("LOCUM_DEBUG"):
            raise
        from locum.cli.output import fail

        fault = f"This is a fault of Locum's own ({type(error).__name__}), for which we are sorry."
        fail(LocumError(fault, fix="run it again as 'locum --debug ...', and report what it prints"), as_json="--json" in sys.argv)
