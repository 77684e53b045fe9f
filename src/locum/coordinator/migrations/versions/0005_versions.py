"""Lines of models: their versions, and what was signed about them."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "lines",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("state", sa.String(64), nullable=False),
        sa.Column("current", sa.Integer),
        sa.Column("created", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_lines"),
        sa.ForeignKeyConstraint(["owner"], ["parties.name"], name="fk_lines_owner"),
    )
    op.create_table(
        "line_decisions",
        sa.Column("line", sa.String(64), nullable=False),
        sa.Column("n", sa.Integer, nullable=False),
        sa.Column("by", sa.String(64), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("envelope", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("line", "n", name="pk_line_decisions"),
        sa.ForeignKeyConstraint(["line"], ["lines.name"], name="fk_line_decisions_line"),
        sa.ForeignKeyConstraint(["by"], ["parties.name"], name="fk_line_decisions_by"),
    )
    op.create_table(
        "versions",
        sa.Column("line", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("run", sa.String(32), nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("study", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("basis", sa.Integer, nullable=False),
        sa.Column("previous", sa.Integer),
        sa.Column("requester", sa.String(64), nullable=False),
        sa.Column("requester_key", sa.String(64), nullable=False),
        sa.Column("requested", sa.Float, nullable=False),
        sa.Column("approver", sa.String(64)),
        sa.Column("decided", sa.Float),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("audit", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("line", "version", name="pk_versions"),
        sa.ForeignKeyConstraint(["line"], ["lines.name"], name="fk_versions_line"),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="fk_versions_run"),
        sa.ForeignKeyConstraint(["study"], ["studies.digest"], name="fk_versions_study"),
        sa.ForeignKeyConstraint(["requester"], ["parties.name"], name="fk_versions_requester"),
        sa.ForeignKeyConstraint(["approver"], ["parties.name"], name="fk_versions_approver"),
    )
    op.create_index("ix_versions_run", "versions", ["run"])


def downgrade() -> None:
    for table in ("versions", "line_decisions", "lines"):
        op.drop_table(table)
