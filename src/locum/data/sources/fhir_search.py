"""Resources from a FHIR server's search API (FHIR R4, "Search" and "Bundle paging"), page by page, through views of SQL on FHIR v2 (`fhir_views`).

Pages, bytes and waits are bounded. Only the server that the mapping names is asked: a link to another one, or a redirect, is refused.
"""

from __future__ import annotations

import os
import re
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import SplitResult, urljoin, urlsplit

import httpx
import msgspec
from pydantic import Field, model_validator

from locum.data.fhir.definition import SqlName
from locum.data.sources.base import Tally
from locum.data.sources.fhir import BROKEN_ENTRY, BUNDLE, Bundle, entries
from locum.data.sources.fhir_views import Decoder, JoinedSource, Viewed, ViewSource, open_views
from locum.data.sources.http_retry import Asked, ask
from locum.errors import DataError, ManifestError, TooLarge

MAX_SECRET_BYTES = 1 << 14
REPEATED = "resource that an earlier page had already"
SERVER_SAYS = "OperationOutcome among the results: the server's own remark"
_SEARCH = re.compile(r"[A-Z][A-Za-z]{1,63}(/_search)?(\?[^\s#]*)?", re.ASCII)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


Search = Annotated[str, Field(max_length=8000)]


class Spec(Viewed):
    """server: the base address, such as https://fhir.hospital.example/r4, or server_env: the environment variable that holds it.

    search: what is asked for, such as "Observation?code=http://loinc.org|2093-3&_count=500". With views either one search for all of them, such as
    "Observation?code=2093-3&_include=Observation:subject", or a table with one for each view, whose resources only that view sees.
    token_env, token_file: where the access token is; never the token itself. ca_file: a certificate authority (PEM) besides the public ones.
    timeout_s: for one answer. max_pages, max_gib: of one search.
    """

    type: Literal["fhir_search"] = "fhir_search"
    search: Search | dict[SqlName, Search]
    server: str | None = None
    server_env: str | None = None
    token_env: str | None = None
    token_file: str | None = None
    ca_file: str | None = None
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 60.0
    max_pages: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    max_page_mib: Annotated[int, Field(ge=1, le=1024)] = 128
    max_gib: Annotated[float, Field(gt=0, le=1024)] = 16.0

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if (self.server is None) == (self.server_env is None):
            raise ValueError("name the server with server or with server_env, one of them")
        if self.token_env is not None and self.token_file is not None:
            raise ValueError("name token_env or token_file, not both")
        searches = self.search if isinstance(self.search, dict) else {"": self.search}
        if not all(_SEARCH.fullmatch(s) for s in searches.values()):
            raise ValueError('a search is a resource type and its parameters, such as "Observation?code=2093-3&_count=500"')
        if isinstance(self.search, dict) and self.search.keys() != self.views.keys():
            raise ValueError("search is one search, or a table with one for each of the views, by their names")
        return self


@dataclass
class Searches:
    """The results of one search, or of one for each view. first_refused: reason -> where it was met first; for this machine only."""

    spec: Spec
    base: SplitResult
    tally: Tally = field(default_factory=Tally)
    first_refused: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"the FHIR server {self.base.hostname}"

    @property
    def _server(self) -> str:
        return f"The FHIR server {self.base.hostname}"

    def restart(self) -> None:
        self.tally, self.first_refused = Tally(), {}

    def batches(self, decoder: Decoder, view: str | None = None) -> Iterator[list[dict[str, Any]]]:
        search = self.spec.search if isinstance(self.spec.search, str) else self.spec.search[view or ""]
        seen: set[tuple[str, str]] = set()
        for page, bundle in enumerate(self._pages(search), 1):
            for batch in entries(bundle, decoder, self.tally, lambda at, error, page=page: self._refuse(at, page, error)):
                yield [r for r in batch if self._is_new(r, seen)]

    def _is_new(self, resource: dict[str, Any], seen: set[tuple[str, str]]) -> bool:
        """False for a resource that came before: what _include brings comes with many pages, and where records change meanwhile, one may move."""
        kind, key = resource.get("resourceType"), resource.get("id")
        if kind == "OperationOutcome":
            self.tally.notes[SERVER_SAYS] += 1
        if type(kind) is not str or type(key) is not str:
            return True
        if (kind, key) in seen:
            self.tally.left_out[REPEATED] += 1
            return False
        seen.add((kind, key))
        return True

    def _refuse(self, at: int, page: int, error: Exception) -> None:
        self.tally.refused[BROKEN_ENTRY] += 1
        self.first_refused.setdefault(BROKEN_ENTRY, f"entry {at} of page {page}: {error}")

    def _pages(self, search: str) -> Iterator[Bundle]:
        """Every page of a search, as the server links them."""
        spec = self.spec
        url: str | None = f"{self.base.geturl().rstrip('/')}/{search}"
        asked: set[str] = set()
        left = int(spec.max_gib * (1 << 30))
        headers = {"Accept": "application/fhir+json", **_authorization(spec)}
        with httpx.Client(headers=headers, timeout=spec.timeout_s, verify=_trust(spec.ca_file), follow_redirects=False) as client:
            while url is not None:
                if url in asked or len(asked) >= spec.max_pages:
                    what = "links to a page that it sent before" if url in asked else f"has more than {spec.max_pages:,} pages for this search"
                    raise DataError(f"{self._server} {what}.", fix="narrow the search, raise _count or max_pages, or report it to whoever runs it")
                asked.add(url)
                answer = ask(Asked(client, url, self.name, min(spec.max_page_mib << 20, left), time.sleep))
                left -= len(answer)
                if left <= 0:
                    raise TooLarge(f"The search gave more than {spec.max_gib:g} GiB.", fix="narrow the search, or raise max_gib")
                bundle = self._bundle(answer)
                yield bundle
                following = next((link.url for link in bundle.link if link.relation == "next"), None)
                url = None if following is None else self._same_server(url, following)

    def _bundle(self, answer: bytes) -> Bundle:
        try:
            bundle = BUNDLE.decode(answer)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise DataError(
                f"{self._server} answered with something other than a FHIR Bundle in JSON.",
                fix="check the server's address: it ends in what its documentation calls the FHIR base",
                local=str(error),
            ) from None
        if bundle.resourceType != "Bundle":
            raise DataError(
                f"{self._server} answered with a resource that is no Bundle.",
                why="A search gives a Bundle."
                if bundle.resourceType != "OperationOutcome"
                else "It sent an OperationOutcome: it does not carry the search out.",
                fix="try the search in the server's own tools",
                local=answer[:2000].decode("utf-8", "replace"),
            )
        return bundle

    def _same_server(self, page: str, following: str) -> str:
        """The address that a page links to as the next one, if it is one of the same server."""
        try:
            url = urljoin(page, following)
            there = urlsplit(url)
        except ValueError:
            url, there = following, urlsplit("")
        if _origin(there) != _origin(self.base) or there.username or there.password:
            raise DataError(
                f"{self._server} links its next page to another server, which is not asked.",
                why="The access token would go to a server that the mapping does not name.",
                fix="have the server's public base address set right, or name the address that its links use as server",
                local=url,
            )
        return url


def _origin(url: SplitResult) -> tuple[str, str, int | None]:
    try:
        return url.scheme.lower(), (url.hostname or "").lower(), url.port or {"https": 443, "http": 80}.get(url.scheme.lower())
    except ValueError:
        return "", "", None


def _base(spec: Spec) -> SplitResult:
    """The server's address; raises `ManifestError` for one that is not safe to ask."""
    where = "server" if spec.server_env is None else f"the environment variable {spec.server_env}"
    text = spec.server if spec.server_env is None else os.environ.get(spec.server_env)
    if not text:
        raise ManifestError(f"There is no FHIR server's address in {where}.", fix="set it to the FHIR base, such as https://fhir.hospital.example/r4")
    try:
        url = urlsplit(text.strip())
        port_is_valid = url.port is None or url.port > 0
    except ValueError:
        port_is_valid = False
    if not port_is_valid or not url.hostname or url.query or url.fragment:
        raise ManifestError(f"The FHIR server's address in {where} is not one.", fix="write it like https://fhir.hospital.example/r4")
    if url.username is not None or url.password is not None:
        raise ManifestError(f"The FHIR server's address in {where} holds a password.", fix="leave it out, and use token_env or token_file")
    if url.scheme != "https" and not (url.scheme == "http" and url.hostname in _LOOPBACK):
        raise ManifestError("A FHIR server is asked over https only.", why="Patients' data and the token would cross the network readable.", fix="use https://")
    return url


def _authorization(spec: Spec) -> dict[str, str]:
    """The header with the access token, which is read anew for each search."""
    if spec.token_env is None and spec.token_file is None:
        return {}
    try:
        if spec.token_env is not None:
            where, token = f"the environment variable {spec.token_env}", os.environ.get(spec.token_env, "")
        else:
            file = Path(spec.token_file or "")
            where, token = file.name, file.read_bytes()[:MAX_SECRET_BYTES].decode("ascii", "replace")
    except OSError as error:
        raise ManifestError(f"The access token cannot be read from {Path(spec.token_file or '').name}: {error.strerror}.", fix="check token_file") from None
    token = token.strip().removeprefix("Bearer ")
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise ManifestError(f"There is no access token in {where}.", fix="put the token there, on one line")
    return {"Authorization": f"Bearer {token}"}


def _trust(ca_file: str | None) -> ssl.SSLContext:
    context = httpx.create_ssl_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError):
            raise ManifestError(f"{Path(ca_file).name} holds no certificates.", fix="ca_file is a PEM file of the hospital's certificate authority") from None
    return context


def open_source(spec: Spec, path: Path | None) -> ViewSource | JoinedSource:
    """The searches that `spec` describes; nothing is asked until the chunks are read."""
    if path is not None:
        raise ManifestError("A FHIR search reads no file.", fix="leave path out, or set type to fhir")
    return open_views(spec, Searches(spec, _base(spec)), apart=isinstance(spec.search, dict))
