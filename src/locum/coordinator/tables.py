"""The tables. Times are Unix seconds; digests are hexadecimal SHA-256. Every change here needs a migration."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, ForeignKey, ForeignKeyConstraint, Index, Integer, LargeBinary, MetaData, String, Table, Text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

parties = Table(
    "parties",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("public_key", String(64), nullable=False, unique=True),
    Column("enrolled", Float, nullable=False),
    Column("revoked", Float),
)

invitations = Table(  # the token itself is never stored
    "invitations",
    metadata,
    Column("token_sha256", String(64), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("role", String(16), nullable=False),
    Column("expires", Float, nullable=False),
    Column("used", Float),
    Column("used_key", String(64)),
)

studies = Table(
    "studies",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("manifest", Text, nullable=False),
    Column("envelope", Text, nullable=False),
    Column("requester", String(64), ForeignKey("parties.name"), nullable=False),
    Column("requester_key", String(64), nullable=False),
    Column("submitted", Float, nullable=False),
)

decisions = Table(  # the latest of each site; at: the time in the site's signed request
    "decisions",
    metadata,
    Column("study", String(64), ForeignKey("studies.digest"), primary_key=True),
    Column("site", String(64), ForeignKey("parties.name"), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("envelope", Text, nullable=False),
    Column("at", Float, nullable=False),
)

runs = Table(  # fence: grows whenever the run changes hands; whoever writes names the fence it holds
    "runs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("study", String(64), ForeignKey("studies.digest"), nullable=False, index=True),
    Column("status", String(16), nullable=False, index=True),
    Column("version", BigInteger, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("lease_owner", String(128)),
    Column("lease_until", Float),
    Column("cursor", Text, nullable=False),
    Column("state", String(64)),
    Column("needed", Integer, nullable=False),
    Column("asked", Integer, nullable=False),
    Column("created", Float, nullable=False),
    Column("started", Float),
    Column("ended", Float),
    Column("error", Text, nullable=False),
)

rounds = Table(
    "rounds",
    metadata,
    Column("run", String(32), ForeignKey("runs.id"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("body", Text, nullable=False),
    Column("envelope", Text, nullable=False),
    Column("header", LargeBinary, nullable=False),
    Column("scalars", BigInteger, nullable=False),
    Column("phase", String(16), nullable=False),
    Column("deadline", Float, nullable=False),
    Column("needed", Integer, nullable=False),
    Column("status", String(16), nullable=False, index=True),
    Column("opened", Float, nullable=False),
    Column("closed", Float),
)

messages = Table(
    "messages",
    metadata,
    Column("run", String(32), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("phase", String(16), primary_key=True),
    Column("sender", String(64), ForeignKey("parties.name"), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("code", String(32), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("body", LargeBinary),
    Column("envelope", Text, nullable=False),
    Column("received", Float, nullable=False),
    ForeignKeyConstraint(["run", "seq"], ["rounds.run", "rounds.seq"]),
)

inbox = Table(  # what each site is asked to answer in a later phase of a masked round; gone when the round's sum is durable
    "inbox",
    metadata,
    Column("run", String(32), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("phase", String(16), primary_key=True),
    Column("site", String(64), primary_key=True),
    Column("notice", Text, nullable=False),
    Column("envelope", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    ForeignKeyConstraint(["run", "seq"], ["rounds.run", "rounds.seq"]),
)

sessions = Table(  # which sites share pairwise secrets, since which round of a run; body: public, see federation.masking
    "sessions",
    metadata,
    Column("run", String(32), ForeignKey("runs.id"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("roster", String(64), nullable=False),
    Column("body", LargeBinary, nullable=False),
)

rosters = Table(  # every roster that the consortium has signed; the latest version holds
    "rosters",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("body", Text, nullable=False),
    Column("signature", Text, nullable=False),
    Column("installed", Float, nullable=False),
)

ledgers = Table(  # how far each site's privacy ledgers have got, as the site has signed it; body: federation.witness
    "ledgers",
    metadata,
    Column("site", String(64), ForeignKey("parties.name"), primary_key=True),
    Column("data", String(64), primary_key=True),
    Column("n", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
    Column("envelope", Text, nullable=False),
)

log_entries = Table(  # the federation's log, in order; body: governance.events
    "log_entries",
    metadata,
    Column("n", BigInteger, primary_key=True, autoincrement=False),
    Column("event", String(64), nullable=False),
    Column("subject", String(64), nullable=False, index=True),
    Column("body", LargeBinary, nullable=False),
)

log_head = Table(  # one row. size: entries; built: how many of them the tiles and the checkpoint are over
    "log_head",
    metadata,
    Column("size", BigInteger, nullable=False),
    Column("built", BigInteger, nullable=False),
    Column("checkpoint", Text, nullable=False),
)

log_tiles = Table(
    "log_tiles",
    metadata,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("body", LargeBinary, nullable=False),
)

cosignatures = Table(  # the latest of each site, over the checkpoint that it saw
    "cosignatures",
    metadata,
    Column("site", String(64), ForeignKey("parties.name"), primary_key=True),
    Column("size", BigInteger, nullable=False, index=True),
    Column("line", LargeBinary, nullable=False),
    Column("checkpoint", Text, nullable=False),
)

models = Table(
    "models",
    metadata,
    Column("run", String(32), ForeignKey("runs.id"), primary_key=True),
    Column("id", String(64), nullable=False),
    Column("study", String(64), ForeignKey("studies.digest"), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created", Float, nullable=False),
    Index("ix_models_id", "id"),
)

lines = Table(  # named models. state: SHA-256 over all decisions; current: the version in use
    "lines",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("owner", String(64), ForeignKey("parties.name"), nullable=False),
    Column("state", String(64), nullable=False),
    Column("current", Integer),
    Column("created", Float, nullable=False),
)

line_decisions = Table(  # what was signed, in order; body: federation.lines
    "line_decisions",
    metadata,
    Column("line", String(64), ForeignKey("lines.name"), primary_key=True),
    Column("n", Integer, primary_key=True, autoincrement=False),
    Column("by", String(64), ForeignKey("parties.name"), nullable=False),
    Column("key", String(64), nullable=False),
    Column("body", Text, nullable=False),
    Column("envelope", Text, nullable=False),
    Column("at", Float, nullable=False),
)

versions = Table(  # basis: the version whose study was approved, and this one's envelope; previous: what it took the place of
    "versions",
    metadata,
    Column("line", String(64), ForeignKey("lines.name"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("run", String(32), ForeignKey("runs.id"), nullable=False, index=True),
    Column("model", String(64), nullable=False),
    Column("study", String(64), ForeignKey("studies.digest"), nullable=False),
    Column("status", String(16), nullable=False),
    Column("basis", Integer, nullable=False),
    Column("previous", Integer),
    Column("requester", String(64), ForeignKey("parties.name"), nullable=False),
    Column("requester_key", String(64), nullable=False),
    Column("requested", Float, nullable=False),
    Column("approver", String(64), ForeignKey("parties.name")),
    Column("decided", Float),
    Column("verdict", Text, nullable=False),
    Column("audit", Text, nullable=False),
)
