"""The privacy card of a run, put together from what federation, masking and accountant know."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import floor
from typing import Any

import msgspec

from locum.errors import LocumError
from locum.federation.budget import Budget, budget_of, quote_of
from locum.federation.wire import RoundView, RunView
from locum.privacy import accountant
from locum.privacy.card import Facts, card
from locum.privacy.errors import PrivacyError
from locum.privacy.quote import Elsewhere, Quote
from locum.secagg import parameters
from locum.study.manifest import MOST_EPS, Study, Terms
from locum.tasks import build_plan


def card_of(
    study: Study, run: RunView, rounds: Sequence[RoundView], *, others: Sequence[RoundView] = (), audit: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The card of a run as plain JSON data. others: rounds of the study's other runs, for its budget is one. audit: a report as JSON.

    Takes seconds where patients are sampled. Raises `ManifestError` for a study that cannot be priced, `PrivacyError` for a bad audit report.
    """
    budget = budget_of(study)
    facts = Facts(
        study,
        _with_two_hospitals(quote_of(study), budget) if budget else None,
        msgspec.to_builtins(run),
        msgspec.to_builtins(rounds),
        msgspec.to_builtins(others),
        colluding=colluding(study.terms),
        table_error=_table_error(study, budget) if budget else 0.0,
        audit=audit,
    )
    return card(facts)


def card_or_none(study: Study, run: RunView, rounds: Mapping[str, Sequence[RoundView]]) -> dict[str, Any] | None:
    """The card for the release gate, None where the study cannot be priced any more. rounds: of every run of the study, by run."""
    try:
        made: dict[str, Any] = plain(card_of(study, run, rounds[run.id], others=[r for name, of in rounds.items() if name != run.id for r in of]))
    except LocumError:
        return None
    return made


def plain(value: Any) -> Any:
    """As it is in JSON, where a number that is not finite is none."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)


def colluding(terms: Terms) -> int | None:
    """How many sites of the smallest cohort may collude with the coordinator; None for any number.

    Neither may the masks come off (`secagg.parameters`) nor may fewer than the honest minimum be left with their noise.
    """
    if terms.aggregation == "clear":
        return None
    least, masking = terms.min_cohort, terms.masking
    whole = least * (2 * masking.trim + 1) if masking.buckets > 1 else least
    masks = floor(masking.corrupt * whole + 1e-9) if parameters.lot(whole, masking.buckets) else (whole - 1) // 3
    return min(masks, least - terms.honest) if terms.privacy.on else min(masks, least - 1)


def _with_two_hospitals(quote: Quote, budget: Budget) -> Quote:
    """The quote with epsilon for a patient at two hospitals where patients are sampled, too."""
    if quote.elsewhere is not None or quote.unit == "site" or quote.epsilon > MOST_EPS:  # above it a loss distribution grows too wide
        return quote
    plan = accountant.with_spare(budget.plan, quote.spare)
    try:
        shared, apart = (accountant.at_hospitals(plan, quote.delta, 2, shared=both) for both in (True, False))
    except PrivacyError:
        return quote
    return replace(quote, elsewhere=Elsewhere(2, shared, apart))


def _table_error(study: Study, budget: Budget) -> float:
    """How far all the noise of the plan is from its law together, in total variation: rounded tables."""
    error = 0.0
    for i, (task, release) in enumerate(zip(build_plan(study), budget.plan.releases, strict=True)):
        error += (release.rounds + study.terms.privacy.spare) * budget.mechanism(i, task.layout({})).delta
    return error
