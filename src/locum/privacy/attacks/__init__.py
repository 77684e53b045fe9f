"""Attacks on Locum's own protection: `run` gives an `AuditReport`. See `audit`."""

from locum.privacy.attacks.audit import AuditReport, run

__all__ = ["AuditReport", "run"]
