"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "parties",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("public_key", sa.String(64), nullable=False),
        sa.Column("enrolled", sa.Float, nullable=False),
        sa.Column("revoked", sa.Float),
        sa.PrimaryKeyConstraint("name", name="pk_parties"),
        sa.UniqueConstraint("public_key", name="uq_parties_public_key"),
    )
    op.create_table(
        "invitations",
        sa.Column("token_sha256", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
        sa.Column("used", sa.Float),
        sa.Column("used_key", sa.String(64)),
        sa.PrimaryKeyConstraint("token_sha256", name="pk_invitations"),
    )
    op.create_table(
        "studies",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("manifest", sa.Text, nullable=False),
        sa.Column("envelope", sa.Text, nullable=False),
        sa.Column("requester", sa.String(64), nullable=False),
        sa.Column("requester_key", sa.String(64), nullable=False),
        sa.Column("submitted", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_studies"),
        sa.ForeignKeyConstraint(["requester"], ["parties.name"], name="fk_studies_requester"),
    )
    op.create_table(
        "decisions",
        sa.Column("study", sa.String(64), nullable=False),
        sa.Column("site", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("envelope", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("study", "site", name="pk_decisions"),
        sa.ForeignKeyConstraint(["study"], ["studies.digest"], name="fk_decisions_study"),
        sa.ForeignKeyConstraint(["site"], ["parties.name"], name="fk_decisions_site"),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("study", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("lease_owner", sa.String(128)),
        sa.Column("lease_until", sa.Float),
        sa.Column("cursor", sa.Text, nullable=False),
        sa.Column("state", sa.String(64)),
        sa.Column("needed", sa.Integer, nullable=False),
        sa.Column("asked", sa.Integer, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("started", sa.Float),
        sa.Column("ended", sa.Float),
        sa.Column("error", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.ForeignKeyConstraint(["study"], ["studies.digest"], name="fk_runs_study"),
    )
    op.create_index("ix_runs_study", "runs", ["study"])
    op.create_index("ix_runs_status", "runs", ["status"])
    op.create_table(
        "rounds",
        sa.Column("run", sa.String(32), nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("envelope", sa.Text, nullable=False),
        sa.Column("header", sa.LargeBinary, nullable=False),
        sa.Column("needed", sa.Integer, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("opened", sa.Float, nullable=False),
        sa.Column("closed", sa.Float),
        sa.PrimaryKeyConstraint("run", "seq", name="pk_rounds"),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="fk_rounds_run"),
    )
    op.create_index("ix_rounds_status", "rounds", ["status"])
    op.create_table(
        "messages",
        sa.Column("run", sa.String(32), nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("sender", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("code", sa.String(32), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary),
        sa.Column("envelope", sa.Text, nullable=False),
        sa.Column("received", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("run", "seq", "phase", "sender", name="pk_messages"),
        sa.ForeignKeyConstraint(["sender"], ["parties.name"], name="fk_messages_sender"),
        sa.ForeignKeyConstraint(["run", "seq"], ["rounds.run", "rounds.seq"], name="fk_messages_run"),
    )
    op.create_table(
        "models",
        sa.Column("run", sa.String(32), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("study", sa.String(64), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("run", name="pk_models"),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="fk_models_run"),
        sa.ForeignKeyConstraint(["study"], ["studies.digest"], name="fk_models_study"),
    )
    op.create_index("ix_models_id", "models", ["id"])


def downgrade() -> None:
    for name in ("models", "messages", "rounds", "runs", "decisions", "studies", "invitations", "parties"):
        op.drop_table(name)
