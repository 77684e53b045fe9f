"""The signed question: manifest, digest, terms, and the vocabulary of what may leave a site."""

from locum.study.manifest import DataSpec, Split, Step, Study, Terms, Variable
from locum.study.vector import Bound, Contribution, Field, Layout, Total

__all__ = ["Bound", "Contribution", "DataSpec", "Field", "Layout", "Split", "Step", "Study", "Terms", "Total", "Variable"]
