"""What can go wrong between a privacy budget and the noise that it pays for."""

from __future__ import annotations

from typing import ClassVar

from locum.errors import LocumError


class PrivacyError(LocumError):
    """A privacy parameter, or a number to be protected, with which the promise would not hold."""

    code: ClassVar[str] = "privacy"


class BudgetExhausted(PrivacyError):
    """What is left in the ledger does not pay for what was asked."""

    code: ClassVar[str] = "budget_exhausted"


class LedgerError(PrivacyError):
    """The ledger is corrupt, was rolled back, or is not the one of this dataset."""

    code: ClassVar[str] = "ledger"
