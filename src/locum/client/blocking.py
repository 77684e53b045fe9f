"""The same calls for those who wait: the command line and scripts."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from locum.client.api import Api
from locum.client.connection import Connection
from locum.client.membership import open_connection
from locum.client.patience import A_WHILE, Patience
from locum.federation.wire import LONG_POLL_S, ModelView, RoundView, RunView, StudyView
from locum.study.manifest import Study

T = TypeVar("T")
OVER = ("finished", "failed", "cancelled")


class Client:
    """One party's calls, one after another: `with Client.open(folder) as client: client.submit(study)`.

    Each raises the `LocumError` that the coordinator sent, or `Unavailable` when patience ends.
    """

    def __init__(self, connection: Connection) -> None:
        self.api = Api(connection)
        self._runner = asyncio.Runner()

    @classmethod
    def open(cls, folder: Path, *, patience: Patience = A_WHILE, **options: Any) -> Client:
        """The client of the party whose folder this is. Raises `NotEnrolled`."""
        return cls(open_connection(folder, patience=patience, **options))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self(self.api.connection.close())
        self._runner.close()

    def __call__(self, call: Coroutine[Any, Any, T]) -> T:
        """Wait for any call of `api`."""
        return self._runner.run(call)

    def submit(self, study: Study, envelope: str = "") -> StudyView:
        return self(self.api.submit(study, envelope))

    def start_run(self, study: str) -> RunView:
        return self(self.api.start_run(study))

    def cancel(self, run: str) -> RunView:
        return self(self.api.cancel(run))

    def studies(self) -> Sequence[StudyView]:
        return self(self.api.studies())

    def study(self, digest: str) -> StudyView:
        return self(self.api.study(digest))

    def decide(self, study: str, *, approve: bool) -> None:
        self(self.api.decide(study, approve=approve))

    def runs(self) -> Sequence[RunView]:
        return self(self.api.runs())

    def run(self, run: str) -> RunView:
        return self(self.api.run(run))

    def rounds(self, run: str) -> Sequence[RoundView]:
        return self(self.api.rounds(run))

    def watch(self, run: str, *, wait: float = LONG_POLL_S) -> Iterator[RunView]:
        """Every new view of a run, until it is over."""
        view = self(self.api.run(run))
        yield view
        while view.status not in OVER:
            new = self(self.api.run(run, version=view.version, wait=wait))
            if new.version != view.version:
                yield new
            view = new

    def models(self) -> Sequence[ModelView]:
        return self(self.api.models())

    def model(self, model: str) -> ModelView:
        return self(self.api.model(model))

    def model_file(self, model: ModelView, to: Path) -> Path:
        return self(self.api.model_file(model, to))

    def sites(self) -> Sequence[dict[str, Any]]:
        return self(self.api.sites())
