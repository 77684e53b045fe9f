"""What a study says for those who govern it: what it is for, on whose permission, what its model must show before it is used, and how it may change."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from locum.study.contract import Line, Name
from locum.study.document import Document, nearest

Use = Literal["GRU", "HMB", "DS", "POA", "CC"]
"""Purposes of the Data Use Ontology: any research (DUO:0000042), health and medicine (0000006), one disease (0000007), population origins
(0000011), clinical care (0000043)."""
Share = Annotated[float, Field(ge=0, le=1)]
Metrics = dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")], Annotated[float, Field(ge=0, le=1e6)]]


BETTER = {
    "auc": 1, "auc_within_sites": 1, "accuracy": 1, "sensitivity": 1, "specificity": 1, "brier": -1, "log_loss": -1, "macro_auc": 1,
    "macro_sensitivity": 1, "concordance": 1, "concordance_within_sites": 1, "concordance_mean_of_sites": 1,
}  # fmt: skip
"""Figures of which more (1) or less (-1) is better."""
_OF_GROUPS = ("auc", "accuracy", "sensitivity", "specificity", "brier", "observed_over_expected", "calibration_slope", "calibration_intercept")
GIVES: dict[str, tuple[str, ...]] = {
    "evaluate_binary": ("auc", "auc_within_sites", "accuracy", "brier", "observed_over_expected", "calibration_slope", "calibration_intercept"),
    "subgroups": _OF_GROUPS,
    "evaluate_survival": ("concordance", "concordance_within_sites", "concordance_mean_of_sites"),
    "evaluate_categories": ("accuracy", "macro_auc", "macro_sensitivity", "log_loss", "brier"),
}
"""Task -> the figures that a gate can judge. What other tasks give is known only when they have run."""


class Gate(Document):
    """What a model must show before it is promoted. A figure that is absent or withheld blocks.

    evaluation: the step whose figures are judged. at_least, at_most: metric -> bound on the figure. margin: metric -> by how much the new
    version may be worse than the current one, compared with the end of the difference's interval. slope, ratio: where the calibration slope
    and observed over expected must lie. subgroups: the step of task 'subgroups'. gap: metric -> the largest difference between two subgroups.
    subgroup_at_least, subgroup_margin: as above, of every subgroup. least: patients below which a subgroup is not judged. worst_site: metric ->
    what the worst site must reach for certain. sites_missing: the largest share of sites that may miss the floor which the subgroups' step
    states. attacks: whether the report of 'locum privacy audit' is asked for.
    """

    evaluation: Name
    at_least: Metrics = Field(default_factory=dict)
    at_most: Metrics = Field(default_factory=dict)
    margin: Metrics = Field(default_factory=dict)
    slope: tuple[float, float] | None = None
    ratio: tuple[float, float] | None = None
    subgroups: Name | None = None
    gap: Metrics = Field(default_factory=dict)
    subgroup_at_least: Metrics = Field(default_factory=dict)
    subgroup_margin: Metrics = Field(default_factory=dict)
    worst_site: Metrics = Field(default_factory=dict)
    sites_missing: Share | None = None
    least: Annotated[int, Field(ge=5, le=10**9)] = 20
    attacks: bool = False

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        for asked in ("gap", "subgroup_at_least", "subgroup_margin", "worst_site", "sites_missing"):
            if getattr(self, asked) not in ({}, None) and self.subgroups is None:
                raise ValueError(f"{asked} needs subgroups: the step that gives figures by subgroup")
        for name in (*self.margin, *self.subgroup_margin):
            if name not in BETTER:
                raise ValueError(f"margin: nobody can say whether more or less of '{name}' is better; {nearest(name, list(BETTER))}")
        for name, ends in (("slope", self.slope), ("ratio", self.ratio)):
            if ends is not None and not 0 <= ends[0] < ends[1]:
                raise ValueError(f"{name} is a range: the first number must lie below the second")
        return self

    def problem(self, tasks: Mapping[str, str]) -> str:
        """What is wrong with it for a plan of these steps (name -> task), or ''."""
        for step in (self.evaluation, self.subgroups):
            if step is not None and step not in tasks:
                return f"the gate judges step '{step}', which the plan does not have; {nearest(step, list(tasks))}"
        if self.subgroups is not None and tasks[self.subgroups] != "subgroups":
            fit = [name for name, task in tasks.items() if task == "subgroups"]
            return f"gate.subgroups names '{self.subgroups}', a '{tasks[self.subgroups]}' step; " + (
                nearest(self.subgroups, fit) if fit else "add one of task 'subgroups'"
            )
        of_sites = ("auc", "accuracy", "brier")
        asked = [(self.evaluation, GIVES.get(tasks[self.evaluation]), name) for name in (*self.at_least, *self.at_most, *self.margin)]
        asked += [(self.subgroups or "", GIVES["subgroups"], name) for name in (*self.gap, *self.subgroup_at_least, *self.subgroup_margin)]
        asked += [(self.subgroups or "", of_sites, name) for name in self.worst_site]
        for step, known, name in asked:
            if known is not None and name not in known:
                return f"the gate judges '{name}', which step '{step}' does not give; {nearest(name, list(known))}"
        return ""


class Envelope(Document):
    """What may change without new approvals, in the shape of a predetermined change control plan: modifications, protocol, impact.

    may_change: paths in the manifest, such as 'seed' or 'plan.train.rounds', each with all that is below it. protocol, impact: the sentences
    that people approve. updates: how many. until: the last day.
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
