"""Saliency maps at a site: where in single images of its own the network looks. They are files in the site's folder, and never leave it.

A map is of one patient's image, so it is not in a run's results, and no task releases it. The site makes it from the global model, which it has
anyway, and its own rows:

    keep_maps(study, "cnn", state, rows, Path("site-folder/saliency"))
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from locum.data import Rows
from locum.errors import ManifestError
from locum.report.plots import heat
from locum.study import Study
from locum.tasks import State, build
from locum.tasks.network import Network


def keep_maps(study: Study, step: str, state: State, rows: Rows, folder: Path, *, count: int = 6, steps: int = 32) -> list[Path]:
    """Write one SVG for each of up to `count` test images, those of which the network is least sure first; returns the files.

    The maps are integrated gradients for the predicted category; only what speaks for it is drawn. Files are readable by their owner
    alone. Raises `ManifestError` unless `step` trains a network over images.
    """
    found = next((s for s in study.plan if s.name == step), None)
    task = build(found, study) if found is not None else None
    if not isinstance(task, Network):
        raise ManifestError(f"'{step}' is no step of the study that trains a network.", fix="name a step of task 'network'")
    test = rows.part("test", study.data.split)
    p = task.probabilities(state, test)
    first = np.argsort(p.max(axis=1), kind="stable")[:count]
    chosen, p = test.take(first), p[first]
    maps = task.saliency(state, chosen, p.argmax(axis=1) if len(task.categories) > 2 else None, steps)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    out = []
    for k, (image, one) in enumerate(zip(chosen.arrays[task.params.arrays[0]], maps, strict=True)):
        says = f"taken for {task.categories[int(p[k].argmax())]}, at {p[k].max():.0%}"
        grey, red = (a.reshape(-1, *a.shape[-2:]).sum(axis=0) for a in (image, np.maximum(one, 0.0)))
        path = folder / f"map-{k + 1:02d}.svg"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(heat(grey, red, title=says))
        out.append(path)
    return out
