"""A site's folder: everything that makes a machine a site, in one place that only its owner may read.

key.pem, membership.json   see `locum.client.membership`
site.toml                  the site's own policy; the stricter of it and a study's terms holds
policy.cedar               its rules, where it has any of its own; see `locum.site.policy`
site.db, outbox, incoming  see `locum.site.store`
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from pydantic import Field

from locum.client import A_WHILE, Membership, Patience, join
from locum.client.membership import KEY
from locum.data.mapping import SiteMapping
from locum.data.sources import open_source
from locum.errors import LocumError, ManifestError
from locum.federation.door import SitePolicy
from locum.federation.identity import Identity
from locum.governance.policy.duo import Permissions
from locum.site.ledgers import LedgerTerms
from locum.site.store import DataSet, LogLine, Store
from locum.site.tables import same_table
from locum.study.document import Document, read_toml
from locum.study.manifest import NAME

CONFIG = "site.toml"
_TEMPLATE = """# This site's own rules. The stricter of these and a study's terms holds.
[policy]
min_cohort = {min_cohort}      # smallest number of sites that one sum may be over
min_rows = {min_rows}        # fewest patients behind an answer without noise
allow_clear = {allow_clear}  # whether updates may leave in clear text, visible to the coordinator
exact = "{exact}"       # sums without noise: "ask" wants `approve --exact`, "never" refuses them, "allow" asks nothing

[privacy]               # what all studies together may cost a data set's patients; fixed when its ledger is opened
eps = {eps}
delta = {delta}
filter = "{filter}"          # "rdp" can also count random samples of patients

# What a data set's consent allows, in the terms of DUO (docs/governance.md). Rules beyond that: locum site policy show
# [data.default]
# use = "HMB"
# modifiers = ["IRB", "NPU", "GS:CH,DE"]
"""


class SiteConfig(Document):
    """The content of site.toml. data: the DUO terms of data sets, by name."""

    policy: SitePolicy = SitePolicy()
    privacy: LedgerTerms = LedgerTerms()
    data: dict[str, Permissions] = Field(default_factory=dict)


class AddedData(msgspec.Struct, frozen=True):
    """A data set that this site now has, and the columns that were found in it. same_as: its other data sets of the same table."""

    name: str
    source: str
    mapping: str
    columns: tuple[str, ...]
    same_as: tuple[str, ...] = ()


def enroll(folder: Path, invitation: str, *, ca: Path | None = None, plain: bool = False, patience: Patience = A_WHILE) -> Membership:
    """Make `folder` a site of the federation that invited it. ca: PEM file, for instance of a proxy that inspects TLS.

    Raises `NotEnrolled` for a bad invitation, `Unavailable` if the coordinator cannot be reached.
    """
    member = join(folder, invitation, ca=read_pem(ca), plain=plain, role="site", patience=patience)
    if not (folder / CONFIG).exists():
        policy, privacy = SitePolicy(), LedgerTerms()
        values = {**policy.model_dump(), **privacy.model_dump()}
        text = _TEMPLATE.format(**{**values, "allow_clear": str(policy.allow_clear).lower()})
        (folder / CONFIG).write_text(text, encoding="utf-8")
    Store(folder).close()
    return member


def load_config(folder: Path) -> SiteConfig:
    """The site's own rules; the defaults where there is no file. Raises `ManifestError`."""
    path = folder / CONFIG
    return SiteConfig.parse(read_toml(path), where=CONFIG) if path.exists() else SiteConfig()


def load_identity(folder: Path) -> Identity:
    return Identity.load(folder / KEY)


def add_data(folder: Path, name: str, source: str | Path | None = None, mapping: str | Path | None = None) -> AddedData:
    """Name a table of this site, after a look at its columns. source: the file or folder, unless the mapping names it, or a database.

    The same name again replaces it; studies approved on the name then read the new table. Raises `ManifestError`,
    `DataError` or `TooLarge`.
    """
    if not NAME.match(name):
        raise ManifestError(f"'{name}' is not a name for a data set.", fix="use lower-case letters, digits, '-', '_' and '.'")
    rules = _absolute(mapping) if mapping else ""
    spec = (SiteMapping.load(rules) if rules else SiteMapping()).source
    table = open_source(spec, source)
    where = source or spec.path
    file = _absolute(where) if where else ""
    columns = tuple(table.columns())
    added = DataSet(name, file, rules)
    with open_store(folder) as store:
        same = tuple(d.name for d in store.data() if d.name != name and same_table(d, added))
        store.put_data(added)
    return AddedData(name, file, rules, columns, same)


def _absolute(path: str | Path) -> str:
    try:
        return str(Path(path).resolve())
    except (OSError, RuntimeError):  # links that lead to each other
        raise ManifestError(f"{path} leads to no file.", fix="check the path and its links") from None


def list_data(folder: Path) -> list[DataSet]:
    """The tables that this site has named."""
    with open_store(folder) as store:
        return store.data()


def releases(folder: Path) -> list[LogLine]:
    """Everything that has left this site, oldest first, after the log was checked. Raises `LocumError` if it was edited."""
    with open_store(folder) as store:
        store.verify()
        return list(store.releases())


def open_store(folder: Path) -> Store:
    """The store of an enrolled site. Raises `NotEnrolled`."""
    Membership.load(folder)
    return Store(folder)


def read_pem(path: Path | None) -> str:
    """The text of a PEM file. Raises `LocumError`."""
    if path is None:
        return ""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        raise LocumError(f"{path} cannot be read as a PEM file.", fix="give the file that starts with -----BEGIN CERTIFICATE-----") from None
