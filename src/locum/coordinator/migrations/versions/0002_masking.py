"""Masked rounds: phases, what sites are asked in each, sessions, and the consortium's signed rosters."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("rounds") as rounds:
        rounds.add_column(sa.Column("scalars", sa.BigInteger, nullable=False, server_default="0"))
        rounds.add_column(sa.Column("phase", sa.String(16), nullable=False, server_default="release"))
        rounds.add_column(sa.Column("deadline", sa.Float, nullable=False, server_default="0"))
    op.create_table(
        "inbox",
        sa.Column("run", sa.String(32), nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("site", sa.String(64), nullable=False),
        sa.Column("notice", sa.Text, nullable=False),
        sa.Column("envelope", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("run", "seq", "phase", "site", name="pk_inbox"),
        sa.ForeignKeyConstraint(["run", "seq"], ["rounds.run", "rounds.seq"], name="fk_inbox_run"),
    )
    op.create_table(
        "sessions",
        sa.Column("run", sa.String(32), nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("roster", sa.String(64), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("run", "seq", name="pk_sessions"),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="fk_sessions_run"),
    )
    op.create_table(
        "rosters",
        sa.Column("version", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("signature", sa.Text, nullable=False),
        sa.Column("installed", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("version", name="pk_rosters"),
        sa.UniqueConstraint("digest", name="uq_rosters_digest"),
    )


def downgrade() -> None:
    for name in ("rosters", "sessions", "inbox"):
        op.drop_table(name)
    with op.batch_alter_table("rounds") as rounds:
        for column in ("deadline", "phase", "scalars"):
            rounds.drop_column(column)
