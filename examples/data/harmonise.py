"""What each harmonisation task does, on the four hospitals of the UCI heart disease data: `python harmonise.py`."""

from __future__ import annotations

from typing import Any

import locum
from locum.data import registry

PLAN: list[dict[str, Any]] = [
    {"name": "alike", "task": "drift", "variables": ["chol", "thalach"]},
    {"name": "fill", "task": "impute", "variables": ["trestbps", "chol"], "method": "regression", "predictors": ["age", "sex"], "indicators": True},
    {"name": "scale", "task": "robust_scale", "variables": ["age", "oldpeak"]},
    {"name": "labs", "task": "combat", "variables": ["trestbps", "thalach"], "covariates": ["age", "sex"]},
    {"name": "model", "task": "logistic", "features": ["age", "oldpeak"], "outcome": "num", "standardise": "scale"},
]


def study() -> locum.Study:
    """The plan above on the data set's own contract, with exact sums, for four hospitals."""
    data = registry.get("heart_disease").data.model_dump(mode="json")
    terms = {"min_cohort": 3, "privacy": "none"}
    return locum.Study.parse({"schema": "locum/study/1", "name": "harmonise", "data": data, "terms": terms, "plan": PLAN})


if __name__ == "__main__":
    result = locum.simulate(study(), registry.load("heart_disease"))
    for step in result.results:
        print(step, result.results[step])
