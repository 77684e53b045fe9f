"""What a study says for those who govern it: what it is for, on whose permission, what its model must show before it is used, and how it may change."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from locum.study.contract import Line, Name
from locum.study.document import Document

Use = Literal["GRU", "HMB", "DS", "POA", "CC"]
"""Purposes of the Data Use Ontology: any research (DUO:0000042), health and medicine (0000006), one disease (0000007), population origins
(0000011), clinical care (0000043)."""
Share = Annotated[float, Field(ge=0, le=1)]
Metrics = dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")], Annotated[float, Field(ge=0, le=1e6)]]


class Gate(Document):
    """What a model must show before it is promoted. A figure that is absent blocks.

    evaluation: the step whose figures are judged. at_least, at_most: metric -> bound on the figure. margin: metric -> by how much the new
    version may be worse than the current one, compared with the end of its interval. slope, ratio: where the calibration slope and
    observed over expected must lie. subgroups: the step with figures by subgroup. gap: metric -> the largest difference between two
    subgroups. least: patients below which a subgroup is not judged. attacks: whether the report of 'locum privacy audit' is asked for.
    """

    evaluation: Name
    at_least: Metrics = Field(default_factory=dict)
    at_most: Metrics = Field(default_factory=dict)
    margin: Metrics = Field(default_factory=dict)
    slope: tuple[float, float] | None = None
    ratio: tuple[float, float] | None = None
    subgroups: Name | None = None
    gap: Metrics = Field(default_factory=dict)
    least: Annotated[int, Field(ge=5, le=10**9)] = 20
    attacks: bool = False

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.gap and self.subgroups is None:
            raise ValueError("gap needs subgroups: the step that gives figures by subgroup")
        for name, ends in (("slope", self.slope), ("ratio", self.ratio)):
            if ends is not None and not 0 <= ends[0] < ends[1]:
                raise ValueError(f"{name} is a range: the first number must lie below the second")
        return self


class Envelope(Document):
    """What may change without new approvals, in the shape of a predetermined change control plan: modifications, protocol, impact.

    may_change: paths in the manifest, such as 'seed' or 'plan.train.rounds'. protocol, impact: the sentences that people approve. updates: how
    many. until: the last day.
    """

    may_change: tuple[Annotated[str, Field(pattern=r"^[a-z_]+(\.[A-Za-z0-9_-]+)*$", max_length=200)], ...] = ()
    protocol: str = ""
    impact: str = ""
    updates: Annotated[int, Field(ge=1, le=10_000)] = 12
    until: date | None = None


class Governance(Document):
    """use: what the study is for, None where it does not say. disease: for use DS, as a MONDO identifier. methods: it develops methods only.

    commercial, profit: whether its result is sold, and whether the requester is a company. basis: the legal basis. permit: the number of a
    data permit. ethics: of an ethics committee's decision. region: ISO 3166 codes of the countries to which the result goes. publishes:
    whether the result will be public. collaborates: whether the requester works with the people behind the data sets, where they ask for
    that. returns: whether derived data go back to them. valid_from, valid_until: the first and last day on which it may run.
    """

    use: Use | None = None
    disease: Annotated[str, Field(pattern=r"^(MONDO:\d{7})?$")] = ""
    methods: bool = False
    commercial: bool = False
    profit: bool = False
    basis: Line = ""
    permit: Line = ""
    ethics: Line = ""
    region: tuple[Annotated[str, Field(pattern=r"^[A-Z]{2}$")], ...] = ()
    publishes: bool = True
    collaborates: bool = False
    returns: bool = False
    valid_from: date | None = None
    valid_until: date | None = None
    gate: Gate | None = None
    envelope: Envelope = Envelope()

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (self.use == "DS") != bool(self.disease):
            raise ValueError("disease is given for use = 'DS', and only for it: for example disease = 'MONDO:0005098'")
        if self.valid_from and self.valid_until and self.valid_from > self.valid_until:
            raise ValueError("valid_from lies after valid_until")
        return self
