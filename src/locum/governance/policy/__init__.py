"""A site's own policy: rules in Cedar, purposes after the GA4GH Data Use Ontology, and what exactly was approved.

Policy.load(text)                 parsed, validated against `schema.cedar`, tried on probe studies
judge(policy, permissions, q)     purposes, dates and rules together -> Ruling, which names what held
"""

from locum.governance.policy.approval import Approval
from locum.governance.policy.duo import Mismatch, Permissions, mismatches
from locum.governance.policy.facts import ACTIONS, Action, Question
from locum.governance.policy.presets import PRESETS, preset
from locum.governance.policy.rules import Policy
from locum.governance.policy.ruling import Ruling, judge
from locum.governance.policy.source import PolicyError, Rule

__all__ = [
    "ACTIONS", "PRESETS", "Action", "Approval", "Mismatch", "Permissions", "Policy", "PolicyError", "Question", "Rule", "Ruling", "judge", "mismatches",
    "preset",
]  # fmt: skip
