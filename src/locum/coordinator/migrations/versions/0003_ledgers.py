"""What each site says of its privacy ledgers: how far they have got, signed by the site."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ledgers",
        sa.Column("site", sa.String(64), nullable=False),
        sa.Column("data", sa.String(64), nullable=False),
        sa.Column("n", sa.BigInteger, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("envelope", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("site", "data", name="pk_ledgers"),
        sa.ForeignKeyConstraint(["site"], ["parties.name"], name="fk_ledgers_site"),
    )


def downgrade() -> None:
    op.drop_table("ledgers")
