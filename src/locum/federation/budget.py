"""What a private study's plan costs, and the mechanism of each of its steps: from the manifest alone, at every site and at the
coordinator alike.

The multipliers are calibrated once for the whole plan, so that everything that the study releases together stays within its eps and
delta, the rounds that may fail and be asked again (`spare`) included.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, log10, sqrt

import numpy as np

from locum.errors import LocumError, ManifestError
from locum.federation.summation import NOISY
from locum.privacy import matrix
from locum.privacy.accountant import Plan, Release, Request, calibrate
from locum.privacy.mechanism import Mechanism
from locum.privacy.quote import Quote
from locum.privacy.quote import quote as quoted
from locum.privacy.sampler import FixedOrder
from locum.study.manifest import Study, Terms
from locum.study.vector import Array, Field, Layout, Total
from locum.tasks import Task, build_plan
from locum.tasks.private.base import Private

MOST_SITES = 10_000
"""Of a cohort whose noise fits into 32 bits beyond doubt."""
_KEPT = 64
_known: OrderedDict[str, Budget] = OrderedDict()


@dataclass(frozen=True)
class Budget:
    """The calibrated plan of a private study: one release for each step, in the study's order."""

    plan: Plan
    terms: Terms

    @property
    def priced(self) -> Plan:
        """The plan as a ledger of patients has to price it: under a promise to sites a patient may turn the site's clipped vector round,
        which moves the sum by two clips instead of one.
        """
        if self.terms.privacy.unit == "patient":
            return self.plan
        return Plan(tuple(replace(r, multiplier=r.multiplier / 2.0) for r in self.plan.releases))

    def release(self, step: int) -> Release:
        return self.plan.releases[step]

    def mechanism(self, step: int, layout: Layout) -> Mechanism:
        """The mechanism for vectors of a step's layout; raises `ManifestError` if the layout holds other than float64 tensors."""
        other = [f.name for f in layout.fields if f.dtype != "float64"]
        if other:
            raise ManifestError(f"Tensor '{other[0]}' is not float64, so it cannot be released with noise.", fix="this is a fault of the task; report it")
        release = self.release(step)
        spread = matrix.spread(release.sampler.band) if isinstance(release.sampler, FixedOrder) else 1.0
        return Mechanism(release.multiplier, self.terms.honest, layout.size, self.terms.privacy.noise, spread=spread)

    def layout(self, step: int, layout: Layout) -> Layout:
        """How a vector of the task's layout leaves: one tensor of integers, whose name says the steps of the grid per clip, so that
        both ends must mean the same. 32 bits where the sum fits eight times over by public figures, else 64.
        """
        m, privacy = self.mechanism(step, layout), self.terms.privacy
        units = (privacy.patients or 1) if privacy.unit == "patient" else MOST_SITES
        reach = 8 * units * m.grid + 16 * sqrt(MOST_SITES) * m.share
        return Layout((Field(f"{NOISY}{m.grid}", (m.dimension,), "int32" if reach < 2**31 else "int64"),))

    def add_noise(self, step: int, layout: Layout, vector: Mapping[str, Array], key: bytes) -> dict[str, Array]:
        """A site's addend with its share of the noise, as integers. key: 32 random bytes, used for nothing else ever."""
        flat = np.concatenate([vector[f.name].reshape(-1) for f in layout.fields])
        (field,) = self.layout(step, layout).fields
        return {field.name: self.mechanism(step, layout).protect(flat, key).astype(field.dtype)}

    def reveal(self, step: int, layout: Layout, total: Total) -> Total:
        """The noisy sum as the task's own tensors, in clip units."""
        mechanism, (noisy,) = self.mechanism(step, layout), self.layout(step, layout).fields
        flat, at, out = mechanism.reveal(np.asarray(total[noisy.name]).astype(np.int64)), 0, {}
        for f in layout.fields:
            out[f.name] = flat[at : at + f.size].reshape(f.shape)
            at += f.size
        return Total(out, total.weight, total.sites, noise=mechanism.std(total.sites))


def budget_of(study: Study, tasks: Sequence[Task] | None = None) -> Budget | None:
    """The budget of a study, None where its sums are exact. Raises `ManifestError`, or what the calibration refuses."""
    privacy = study.terms.privacy
    if not privacy.on:
        return None
    if study.digest in _known:
        _known.move_to_end(study.digest)
        return _known[study.digest]
    tasks = tasks or build_plan(study)
    requests = [replace(_request(task), noise=privacy.noise) for task in tasks]
    try:
        plan = calibrate(requests, privacy.eps, privacy.delta, spare=privacy.spare)
        budget = Budget(Plan(tuple(replace(r, multiplier=_rounded_up(r.multiplier)) for r in plan.releases)), study.terms)
        for step, task in enumerate(tasks):
            budget.mechanism(step, task.layout({}))
    except (LocumError, ArithmeticError) as error:
        known = error if isinstance(error, LocumError) else LocumError("the numbers are out of all proportion.")
        fix = known.fix or "ask for another eps, fewer rounds, or shares of one size"
        raise ManifestError(f"The study's privacy cannot be had: {known.what}", why=known.why, fix=fix) from error
    _known[study.digest] = budget
    while len(_known) > _KEPT:
        _known.popitem(last=False)
    return budget


def quote_of(study: Study) -> Quote:
    """What a private study promises and costs, before anything runs. Raises `ManifestError` for a study whose sums are exact."""
    tasks, terms = build_plan(study), study.terms
    budget = budget_of(study, tasks)
    if budget is None:
        raise ManifestError("This study's sums are exact: it promises nothing about a single patient.", fix="give eps, delta and patients under terms.privacy")
    return quoted(
        budget.plan,
        terms.privacy.delta,
        honest=terms.honest,
        cohort=max(terms.honest, terms.start_when or terms.min_cohort),
        patients=terms.privacy.patients or 1,
        dimensions={step.name: task.layout({}).size for step, task in zip(study.plan, tasks, strict=True)},
        unit="site" if terms.privacy.unit == "site" else "patient",
        spare=terms.privacy.spare,
    )


def caveats(study: Study) -> tuple[str, ...]:
    """What somebody should know before relying on the promise, in sentences; empty if there is nothing."""
    terms, out = study.terms, []
    usual = terms.model_copy(update={"privacy": terms.privacy.model_copy(update={"honest": None})}).honest
    if terms.privacy.unit == "patient" and all(v.role != "patient" for v in study.data.variables.values()):
        out.append("The contract names no patient variable: each row counts as a patient, so that one with m records is protected m times less.")
    if terms.honest > usual:
        out.append(f"The noise is calibrated to {terms.honest} honest sites of {terms.min_cohort}, not to {usual} as is usual: fewer may collude.")
    return tuple(out)


def _request(task: Task) -> Request:
    if not isinstance(task, Private):
        raise ManifestError(f"The task '{task.kind}' has no private form.", fix="this is a fault of the task; report it")
    return task.request()


def _rounded_up(multiplier: float) -> float:
    """To six digits: so that machines whose arithmetic differs in the last bit calibrate alike."""
    unit = 10.0 ** (floor(log10(multiplier)) - 5)
    return ceil(multiplier / unit) * unit
