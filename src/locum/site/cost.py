"""What a private study would cost a data set's patients, and whether its ledger has room for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from locum.errors import LocumError
from locum.federation.budget import budget_of, caveats, quote_of
from locum.federation.witness import LedgerHead
from locum.privacy.ledger import Ledger, WhatIf
from locum.privacy.quote import Quote, up
from locum.site.ledgers import LedgerTerms, SiteLedgers
from locum.site.store import Store
from locum.study.manifest import Study


@dataclass(frozen=True)
class Cost:
    """A study beside the ledger of the data set that it would read. ledger: what it would do to it; known: whether it is in it already.

    problem: why it cannot run; empty if it can.
    """

    quote: Quote
    caveats: tuple[str, ...]
    ledger: WhatIf | None
    known: bool
    new: bool
    problem: str

    def lines(self) -> tuple[str, ...]:
        q = self.quote
        out = [f"eps {up(q.epsilon)}, delta {q.delta:g} for each {q.unit}, over the whole study; at the coordinator and wherever its model goes", q.sentence]
        out += [f"WARN: {text}" for text in self.caveats]
        if self.known:
            out.append("the ledger of this data set holds the study already: nothing more is set aside")
        elif self.ledger:
            where, w = "a ledger that approving opens" if self.new else "the ledger of this data set", self.ledger
            out.append(f"{where}: with this study (alone eps {w.eps_alone:.3g}) eps {w.eps_after:.3g} of {w.eps:g} is spent or set aside, at delta {w.delta:g}")
        return (*out, *((f"WARN: {self.problem}",) if self.problem else ()))


def cost_of(store: Store, study: Study, name: str, site: str, terms: LedgerTerms, heads: Mapping[str, LedgerHead]) -> Cost:
    """The cost of a private study on the data set `name`. terms: of the ledger that approving would open. heads: what this site has
    stated about its ledgers. Raises `LocumError`.
    """
    data = next(d for d in store.data() if d.name == name)
    shown, budget, warned = quote_of(study), budget_of(study), caveats(study)
    if budget is None:
        raise LocumError("The study's sums are exact: they cost no budget, and protect nobody.")
    with SiteLedgers(store, site) as ledgers:
        new = not ledgers.exists(data)
        try:
            ledgers.check_new(data, heads)
            ledger = _fresh(site, name, terms) if new else ledgers.open(data)
            if not new and name in heads:
                ledger.check_witness(heads[name].n, heads[name].hash)
            mine = next((s for s in ledger.studies() if s.study == study.digest), None)
            if mine and mine.settled:
                return Cost(shown, warned, None, True, new, "The study is settled in the ledger: it can be charged nothing more. Ask for a new study.")
            known = mine is not None
            what = None if known else ledger.what_if(budget.priced, study.terms.privacy.spare)
        except LocumError as error:
            return Cost(shown, warned, None, False, new, f"{error.what} {error.fix}".strip())
        problem = ""
        if what and not what.fits:
            left = ledger.balance()
            held = f"eps {left.eps_held:.3g} of {left.eps:g} is spent or set aside"
            problem = f"The budget of '{name}' does not cover it: {held}; with the study it would be {what.eps_after:.3g}."
        return Cost(shown, warned, what, known, new, problem)


def _fresh(site: str, name: str, terms: LedgerTerms) -> Ledger:
    return Ledger.in_memory(site=site, dataset=name, data_sha256="0" * 64, eps=terms.eps, delta=terms.delta, filter=terms.law)
