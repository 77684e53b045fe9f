"""The federation's log: entries, tiles, the signed head, and the sites' cosignatures."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "log_entries",
        sa.Column("n", sa.BigInteger, nullable=False),
        sa.Column("event", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("n", name="pk_log_entries"),
    )
    op.create_index("ix_log_entries_subject", "log_entries", ["subject"])
    head = op.create_table(
        "log_head",
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("built", sa.BigInteger, nullable=False),
        sa.Column("checkpoint", sa.Text, nullable=False),
    )
    op.bulk_insert(head, [{"size": 0, "built": 0, "checkpoint": ""}])
    op.create_table(
        "log_tiles",
        sa.Column("level", sa.Integer, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("level", "number", name="pk_log_tiles"),
    )
    op.create_table(
        "cosignatures",
        sa.Column("site", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("line", sa.LargeBinary, nullable=False),
        sa.Column("checkpoint", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("site", name="pk_cosignatures"),
        sa.ForeignKeyConstraint(["site"], ["parties.name"], name="fk_cosignatures_site"),
    )
    op.create_index("ix_cosignatures_size", "cosignatures", ["size"])


def downgrade() -> None:
    for table in ("cosignatures", "log_tiles", "log_head", "log_entries"):
        op.drop_table(table)
