"""The study: who asks, what visits, on which variables, and on what terms. Its digest is what people sign."""

from __future__ import annotations

import json
import math
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from locum.errors import ManifestError
from locum.study.canonical import canonical, sha256
from locum.study.contract import EPOCH, NAME, Cohort, ContractFile, DataSpec, Line, Name, Rule, Split, Variable, VariableName, in_order
from locum.study.document import MAX_DOCUMENT_BYTES, Document, expect, read_toml
from locum.study.governance import Envelope, Gate, Governance

__all__ = [
    "EPOCH", "NAME", "SCHEMA", "Cohort", "DataSpec", "Envelope", "Gate", "Governance", "Masking", "Name", "Privacy", "Rule", "Split", "Step", "Study",
    "Terms", "Variable", "VariableName",
]  # fmt: skip

SCHEMA = "locum/study/1"


class Masking(Document):
    """How updates are masked (secure aggregation FSA-1, docs/secagg.md). Approved with the study: nobody lowers it later.

    suite: the key agreement. bits, clip, max_weight: the encoding of float32 tensors; without a clip they travel exactly, at
    16 bytes a number. corrupt: the share of the cohort that may collude with the coordinator (up to 128 sites in one bucket it is
    always a third). dropout: the share that may fail between JOIN and MASKED, above 128 sites the share that may be missing in
    all. buckets: random parts of the cohort that are summed apart, each of at least min_cohort sites, whose
    trimmed mean is taken (trim: how many are cut off at either end).
    """

    suite: Literal["mlkem768-x25519", "mlkem1024-p384"] = "mlkem768-x25519"
    bits: Literal[8, 12, 16, 20, 24, 28, 32] = 32
    clip: Annotated[float, Field(gt=0)] | None = None
    max_weight: Annotated[float, Field(gt=0)] = 1.0
    corrupt: Annotated[float, Field(ge=0, lt=1 / 3)] = 0.1
    dropout: Annotated[float, Field(ge=0, lt=1 / 3)] = 0.1
    buckets: Annotated[int, Field(ge=1, le=1000)] = 1
    trim: Annotated[int, Field(ge=0, le=499)] = 0

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.buckets < 2 * self.trim + 1:
            raise ValueError(f"trim = {self.trim} needs at least {2 * self.trim + 1} buckets")
        if self.buckets > 1 and not self.trim:
            raise ValueError("buckets without trim show more and protect nothing: give trim, or one bucket")
        return self


class Privacy(Document):
    """How little one unit may change what is released (differential privacy, docs/privacy.md). Approved with the study.

    unit: 'patient' (all of a patient's records at a site together), 'site', or 'none' for exact sums without noise. eps, delta: of the
    whole study, everything that it releases together. patients: a public planning figure for the cohort's patients; normalisers
    are computed from it and never from private counts. honest: how many honest sites' noise every sum is guaranteed to hold.
    noise: of which law each site draws its share. spare: rounds that may fail and be asked again, in all, within eps.
    override: why more than eps 8 is asked for.
    """

    unit: Literal["patient", "site", "none"] = "patient"
    eps: Annotated[float, Field(gt=0, le=100)] = 3.0
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    patients: Annotated[int, Field(ge=1, le=10**9)] | None = None
    honest: Annotated[int, Field(ge=1)] | None = None
    noise: Literal["gaussian", "skellam"] = "gaussian"
    spare: Annotated[int, Field(ge=0, le=1000)] = 1
    override: str = ""

    @model_validator(mode="before")
    @classmethod
    def _stated(cls, value: Any) -> Any:
        """Whoever writes anything about privacy writes eps and delta; `privacy = "none"` is short for unit = "none"."""
        if value == "none":
            return {"unit": "none"}
        if isinstance(value, str):
            raise ValueError("write privacy = 'none' for exact sums, or a table [terms.privacy] with eps, delta and patients")
        if isinstance(value, dict) and value and value.get("unit") != "none":
            missing = [key for key in ("eps", "delta") if value.get(key) is None]
            if missing:
                raise ValueError(f"{' and '.join(missing)} must be given: for example eps = 3.0 and delta = 1e-6, or unit = 'none' for exact sums")
        return value

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if not self.on:
            return self
        if self.patients is not None and self.delta > DELTA_SHARE / self.patients:
            raise ValueError(
                f"delta = {self.delta:g} is above 0.1 / patients = {DELTA_SHARE / self.patients:.2g}: too likely that somebody is not protected at all"
            )
        if self.eps > MOST_EPS and not self.override.strip():
            raise ValueError(f"eps = {self.eps:g} is above {MOST_EPS:g}: lower it, or say in override why it is needed; sites see it")
        return self

    @property
    def on(self) -> bool:
        return self.unit != "none"


DELTA_SHARE = 0.1
"""delta times the number of patients is at most this."""
MOST_EPS = 8.0
LEAST_SITES = 50
"""Protecting whole sites needs at least so many: with fewer the noise drowns the answer, or delta means nothing."""


class Terms(Document):
    """On what terms a site takes part. A site's own policy may ask for more, never accept less."""

    aggregation: Literal["masked", "clear"] = "masked"
    masking: Masking = Masking()
    privacy: Privacy = Privacy()
    min_cohort: Annotated[int, Field(ge=2, le=100_000)] = 5
    min_rows: Annotated[int, Field(ge=1)] = 1
    start_when: Annotated[int, Field(ge=2, le=100_000)] | None = None
    quorum: Annotated[int, Field(ge=2, le=100_000)] | None = None
    deadline_s: Annotated[float, Field(gt=0, le=7 * 86400)] = 600.0
    attempts: Annotated[int, Field(ge=1, le=100)] = 3

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        for key in ("start_when", "quorum"):
            value = getattr(self, key)
            if value is not None and value < self.min_cohort:
                raise ValueError(f"{key} ({value}) is below min_cohort ({self.min_cohort})")
        if self.aggregation == "masked" and self.min_cohort < 3:
            raise ValueError("min_cohort is at least 3 where updates are masked: of two sites, each can subtract itself")
        honest = self.privacy.honest
        if honest is not None and honest > self.most_honest:
            where = f"min_cohort is {self.min_cohort}" if self.aggregation == "masked" else "in clear text each site's noise stands alone"
            raise ValueError(f"privacy.honest ({honest}) is more than any sum is guaranteed to hold: {where}")
        if self.privacy.unit == "site" and self.privacy.delta > DELTA_SHARE / self.min_cohort:
            raise ValueError(f"privacy.delta = {self.privacy.delta:g} is above 0.1 / min_cohort = {DELTA_SHARE / self.min_cohort:.2g}")
        if self.privacy.unit == "site" and self.min_cohort < LEAST_SITES:
            raise ValueError(f"privacy.unit = 'site' needs min_cohort of at least {LEAST_SITES}: a few sites cannot hide among each other")
        return self

    @property
    def most_honest(self) -> int:
        """The most sites whose noise a sum can be guaranteed to hold: the minimum cohort; in clear text every vector is seen alone."""
        return self.min_cohort if self.aggregation == "masked" else 1

    @property
    def honest(self) -> int:
        """To how many honest sites' noise each share is calibrated: unless the study says otherwise, the minimum cohort less those
        that may collude, as in docs/secagg.md."""
        n = self.most_honest
        colluding = n // 3 if n <= 128 else math.ceil(self.masking.corrupt * n)
        return self.privacy.honest or max(1, n - colluding)

    @property
    def needed(self) -> int:
        """How many answers a round needs before it may close at its deadline."""
        return self.quorum or self.min_cohort

    def protection(self) -> str:
        """What protects an update, in plain words: printed wherever a result is."""
        return f"{self._seen()}; {self._noise()}"

    def _noise(self) -> str:
        p = self.privacy
        if not p.on:
            return "no noise: the sums are exact"
        kept = f"with the noise of at least {self.honest} honest sites" if self.aggregation == "masked" else "with each site's own noise"
        return f"eps {p.eps:g}, delta {p.delta:g} for each {p.unit}, over the whole study, {kept}"

    def _seen(self) -> str:
        if self.aggregation == "clear":
            return "updates: clear text, visible to the coordinator"
        if self.masking.buckets > 1:
            return f"updates: masked; the coordinator sees the sums of random buckets of at least {self.min_cohort} sites each, and nothing smaller"
        return f"updates: masked; the coordinator sees only their sum over at least {self.min_cohort} sites"


class Step(Document):
    """One step of the plan: a task's name and its parameters, which that task validates. share: of the study's privacy, relative to
    the other steps'."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    name: Name
    task: Name
    rounds: Annotated[int, Field(ge=1, le=100_000)] = 50
    share: Annotated[float, Field(gt=0, le=1e6)] = 1.0

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Study(Document):
    """The signed question."""

    schema_: Annotated[Literal["locum/study/1"], Field(alias="schema")] = SCHEMA  # type: ignore[assignment]
    name: Name
    title: Line = ""
    question: str = ""
    requester: Line = ""
    purpose: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0
    data: DataSpec
    terms: Terms = Terms()
    governance: Governance = Governance()
    plan: tuple[Step, ...] = Field(min_length=1, max_length=1000)

    @model_validator(mode="before")
    @classmethod
    def _one_order(cls, value: Any) -> Any:
        """Equal digests mean equal studies, and the digest is of sorted JSON: so the order of keys must mean nothing."""
        return in_order(value)

    @model_validator(mode="after")
    def _unique(self) -> Self:
        names = [step.name for step in self.plan]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"two steps are called '{twice[0]}'; a step's name is unique")
        gate = self.governance.gate
        problem = gate.problem({step.name: step.task for step in self.plan}) if gate else ""
        if problem:
            raise ValueError(problem)
        return self

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a study from a TOML file, with the contract file that it may name; raises `ManifestError`."""
        path = Path(path)
        return cls.parse(_with_contract(expect("study", read_toml(path), path), path.parent), where=path.name)

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        """Read a study from the JSON bytes that a peer sent; raises `ManifestError`."""
        if len(raw) > MAX_DOCUMENT_BYTES:
            raise ManifestError("The study is larger than 1 MiB.", fix="shorten it")
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            raise ManifestError("The study is not valid JSON.") from None
        return cls.parse(value, where="study")

    @cached_property
    def canonical(self) -> bytes:
        """The bytes that are hashed and signed: RFC 8785 JSON with every default written out."""
        return canonical(self.model_dump(mode="json", by_alias=True))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `canonical`, in hexadecimal: what an approval names."""
        return sha256(self.canonical)


class _Named(Document):
    """`[data] contract = { file = "heart.toml", sha256 = "..." }` in a study's file."""

    file: str
    sha256: str = ""


def _with_contract(value: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The study with the contract file that its data names written out, if it is the one of that hash."""
    data = value.get("data")
    if not isinstance(data, dict) or "contract" not in data:
        return value
    if len(data) > 1:
        raise ManifestError("[data] names a contract file and says more beside it.", fix="write everything in the contract file, or nothing")
    named = _Named.parse(data["contract"], where="[data] contract")
    found = ContractFile.load(folder / named.file)
    if found.digest != named.sha256:
        raise ManifestError(
            f"{named.file} is not the contract that the study names." if named.sha256 else f"The study does not say which {named.file} it means.",
            why="A contract is named by its hash, so that nobody changes it under a study.",
            fix=f'if this one is meant, write sha256 = "{found.digest}"',
        )
    return {**value, "data": found.data.model_dump(mode="json", exclude_none=True)}
