"""The privacy card of a run."""

from locum.federation.card import card_of, colluding

__all__ = ["card_of", "colluding"]
