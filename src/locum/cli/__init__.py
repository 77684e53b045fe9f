"""The commands. Heavy imports happen inside them, so that `locum --help` is quick."""

from __future__ import annotations


def main() -> None:
    """The console script."""
    from locum.cli.app import run

    run()
