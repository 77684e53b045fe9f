"""Differential privacy that a hospital can hold someone to: the patient is the unit, the site owns the budget, what ran is what was accounted.

Everything private that leaves a site is one mechanism: a sum over units of vectors clipped to L2 norm 1, rounded to integers, with the site's
share of integer noise, masked, summed. There is one adjacency, add or remove one unit, so that the sensitivity of the sum is the clip.

One file, one idea: `adjacency` (who is protected), `sampler` (who takes part, drawn and accounted by one object), `accountant` (what a plan
costs), `filters` (costs that add across studies), `quote` (what a plan promises, in words). Nothing here imports dp-accounting before a
sampled plan must be priced.
"""

from locum.privacy.adjacency import Adjacency, Unit
from locum.privacy.errors import BudgetExhausted, LedgerError, PrivacyError

__all__ = ["Adjacency", "BudgetExhausted", "LedgerError", "PrivacyError", "Unit"]
