"""A waiver: a person takes responsibility for one finding of one study, up to a number of rows and a day.

What can be waived is what a person can know better than a limit: why values are missing, extreme, alike, or unlike the federation's.
Nothing waives conformance, because a cell that is no value would have to be guessed or dropped; correct it, or leave its row out of the
export where everyone sees that. Nor the source's lost records (accept_refused in the mapping is for them), nor too few patients, who are protected by
their number, nor a patient in both parts, with whom no evaluation means anything.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from locum.data.gates.report import Finding, Gate
from locum.errors import counted
from locum.study.document import Document
from locum.study.manifest import Name, VariableName

WAIVABLE: tuple[Gate, ...] = ("completeness", "plausibility", "variation", "drift")


class Waiver(Document):
    """study: its digest. data: the site's name for the table. at_most: rows that it covers; a table in which more rows led to the finding is
    refused again. by: who answers for it. until: the last day on which it holds."""

    study: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    data: Name
    variable: VariableName | Literal[""]
    gate: Gate
    at_most: Annotated[int, Field(ge=1)]
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=10, max_length=2000)]
    by: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
    until: date | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.gate not in WAIVABLE:
            raise ValueError(f"the gate '{self.gate}' cannot be waived: {_WHY[self.gate]}")
        return self

    @property
    def told(self) -> str:
        """For the finding that it covers."""
        until = f", until {self.until.isoformat()}" if self.until else ""
        return f"waived by {self.by} for up to {counted(self.at_most, 'row')}{until}: {self.reason}"

    def in_force(self, study: str, data: str, today: date) -> bool:
        """Whether it counts for this study (its digest) on this table and this day."""
        return (self.study, self.data) == (study, data) and (self.until is None or today <= self.until)

    def covers(self, finding: Finding) -> bool:
        """Whether it is about this finding, and about as many rows."""
        return (self.variable, self.gate) == (finding.variable, finding.gate) and finding.count <= self.at_most


_WHY: dict[Gate, str] = {
    "source": "accept_refused in the mapping says how many records may be unreadable",
    "conformance": "a cell that is no value would have to be guessed or dropped; correct it, or leave its row out of the export",
    "rows": "patients are protected by their number",
    "split": "a model would be tested on patients whom it has seen",
}
