"""What the consortium can prove: approvals, the transparency log, site policy, release gates, cards."""
