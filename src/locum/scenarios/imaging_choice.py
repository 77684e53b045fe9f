"""How a strategy's settings were chosen: on a validation part of the training images, so that no test image had a say.

Every site's test images are put aside by the study's split; another hash then keeps a part of its training images back. Each setting trains
on the rest, and what it gets right of the images kept back decides. `python -m locum.scenarios.imaging_choice` prints the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from locum.data import Rows
from locum.simulate import simulate
from locum.study import Study

SETTINGS: dict[str, tuple[dict[str, Any], ...]] = {
    "fedadam": tuple({"kind": "fedadam", "server_rate": r} for r in (0.003, 0.01, 0.02, 0.05)),
    "fedavg": tuple({"kind": "fedavg", "server_rate": r} for r in (0.5, 1.0)),
    "fedprox": tuple({"kind": "fedprox", "mu": mu} for mu in (0.01, 0.1, 1.0)),
}
"""What is tried of each strategy; the rest of the study stays as it is."""
VALIDATION = {"test_share": 0.3, "salt": "imaging/validation"}


def validation(study: Study, sites: Mapping[str, Rows]) -> tuple[Study, dict[str, Rows]]:
    """The study whose 'test' part is the validation part, and the sites without their test images."""
    value = study.model_dump(mode="json", by_alias=True)
    value["data"]["split"] = VALIDATION
    kept = {name: rows.part("train", study.data.split) for name, rows in sites.items()}
    return Study.parse(value), {name: Rows(r.columns, r.patient, r.arrays) for name, r in kept.items()}


def tried(study: Study, sites: Mapping[str, Rows], settings: Mapping[str, tuple[dict[str, Any], ...]]) -> Iterator[tuple[dict[str, Any], float, int]]:
    """Each setting with its share of right answers on the validation images, and how many these are."""
    inner, kept = validation(study, sites)
    value = inner.model_dump(mode="json", by_alias=True)
    for setting in (s for of in settings.values() for s in of):
        value["plan"][0]["strategy"] = setting
        found = simulate(Study.parse(value), kept).results["evaluation"]
        yield setting, float(found["accuracy"]["value"]), int(found["n"])


def main() -> None:
    from locum.scenarios.imaging import DATA, PARTITION
    from locum.scenarios.lab import Lab

    lab = Lab("clear")
    study = lab.study("imaging")
    for setting, accuracy, n in tried(study, lab.rows(study, DATA, partition=PARTITION), SETTINGS):
        print(f"{accuracy:.4f} of {n} validation images: {setting}", flush=True)


if __name__ == "__main__":
    main()
