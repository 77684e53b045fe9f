"""A convolutional network across sites whose images differ in kind: real scans at hand, the same from DICOM, and maps that stay at the site.

Sites are made up: ten kinds of image are dealt to 8 sites by a Dirichlet law with alpha 0.5 (Hsu, Qi and Brown, 2019), so that most sites lack some kinds.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.data import Rows
from locum.scenarios.base import Line, Outcome, Scenario
from locum.scenarios.lab import Lab, Ran
from locum.study import Study

DATA, PARTITION = "digits", "dirichlet:alpha=0.5,sites=8,label=digit"
STRATEGIES: dict[str, Any] = {"FedAvg": "fedavg", "FedProx": {"kind": "fedprox", "mu": 0.1}}
"""Beside the study's own, FedAdam. Nothing but the strategy differs; each one's setting was chosen on training images: see `imaging_choice`."""
QUICK, DICOM_SITES = 4, 2
Ints = NDArray[np.int64]


def answer(lab: Lab) -> Outcome:
    """Pooled, federated by three strategies, each site alone, the most frequent kind; then DICOM and saliency maps."""
    study = lab.study("imaging")
    study = changed(study, rounds=QUICK) if lab.quick else study
    main = lab.run(study, DATA, partition=PARTITION)
    study, sites = main.study, main.sites
    train, test = (pooled(sites, study, part) for part in ("train", "test"))
    others = {name: lab.simulate(changed(study, strategy=s), sites) for name, s in STRATEGIES.items()}
    lab.say("the pooled network in plain PyTorch, and each site's own")
    right = (plain(study, train, test) == label(test)).sum()
    own, everywhere, n_own = alone(study, sites, test)
    n, k = len(test), np.bincount(label(train), minlength=10)
    lines = [
        share("pooled", right, n, f"the same network in plain PyTorch on {len(train):,} images; n = {n} test images"),
        federated("federated", main, f"FedAdam, {len(sites)} sites, n = {n}"),
        *(federated(f"federated, {name}", ran, f"n = {n}") for name, ran in others.items()),
        share("each site alone", own, n_own, f"each network on its own site's test images, n = {n_own}"),
        share("each site alone, on the images of all sites", everywhere, n * len(sites), f"mean over {len(sites)} networks, n = {n}", effective=n),
        share("majority class", (label(test) == k.argmax()).sum(), n, f"always '{k.argmax()}'"),
    ]
    same, difference = from_dicom(lab, study, main)
    maps = kept_maps(study, main)
    lines.append(
        Line(
            "federated, images read from DICOM",
            "accuracy",
            accuracy(same),
            interval_of(same),
            note=f"at some of the sites; model {told(difference)}",
        )
    )
    return Outcome(
        tuple(lines),
        figures(main, others),
        (
            "The images are scans of handwriting and the sites are made up; nothing here is a claim about medicine. The code path is the one of DICOM images.",
            f"{maps} saliency maps of single images were drawn in the sites' own folders, readable by their owner alone, and are not part of this report.",
            "The order of mini-batches hangs on the study's digest, so runs with other terms or strategies differ by the luck of descent too.",
            *notes(sites),
        ),
        {"imaging_accuracy_federated": accuracy(main), "imaging_accuracy_pooled": float(right) / n},
    )


def changed(study: Study, **params: Any) -> Study:
    """The study with other parameters of its network step."""
    value = study.model_dump(mode="json", by_alias=True)
    value["plan"][0] |= params
    return Study.parse(value)


def pooled(sites: Mapping[str, Rows], study: Study, part: Any) -> Rows:
    """The rows of all sites' part, for references alone."""
    parts = [sites[name].part(part, study.data.split) for name in sorted(sites)]
    columns = {n: np.concatenate([p.columns[n] for p in parts]) for n in parts[0].columns}
    arrays = {n: np.concatenate([p.arrays[n] for p in parts]) for n in parts[0].arrays}
    return Rows(columns, np.arange(sum(map(len, parts))).astype(np.str_), arrays)


def label(rows: Rows) -> Ints:
    """What each image shows."""
    return rows.columns["digit"].astype(np.int64)


def plain(study: Study, train: Rows, test: Rows, seed: int = 0) -> Ints:
    """What the study's network says of the test images when plain PyTorch trains it on these rows: as many passes, the same batches' size and rate."""
    import torch
    from torch import nn

    from locum.tasks.networks.engine import exactly

    step = study.plan[0].params
    with exactly(seed):
        layers: list[nn.Module] = []
        channels = [1, *step["network"]["channels"]]
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(4, after), nn.ReLU(), nn.MaxPool2d(2)]
        net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * channels[-1], 10))
        x, t = (torch.from_numpy((r.arrays["pixels"][:, None] - step["centre"]) / step["scale"]).float() for r in (train, test))
        y, batch = torch.from_numpy(label(train)), step["batch"]
        descent = torch.optim.SGD(net.parameters(), lr=step["rate"], momentum=step["momentum"], weight_decay=step["l2"])
        for _ in range(study.plan[0].rounds * step["local_epochs"]):
            order = torch.randperm(len(y))
            for index in (order[i : i + batch] for i in range(0, len(y), batch)):
                descent.zero_grad()
                nn.functional.cross_entropy(net(x[index]), y[index]).backward()  # type: ignore[no-untyped-call]
                descent.step()
        with torch.no_grad():
            return np.asarray(net(t).argmax(1).numpy(), dtype=np.int64)


def alone(study: Study, sites: Mapping[str, Rows], test: Rows) -> tuple[int, int, int]:
    """Images that the sites' own networks see rightly: of their own test images, of all sites' (summed over networks), and how many own ones there are."""
    own = everywhere = n = 0
    for name in sorted(sites):
        train, here = (sites[name].part(part, study.data.split) for part in ("train", "test"))
        both = plain(study, train, pooled({"a": here, "b": test}, study, "all")) if len(train) else np.full(len(here) + len(test), -1)
        own, everywhere, n = own + int((both[: len(here)] == label(here)).sum()), everywhere + int((both[len(here) :] == label(test)).sum()), n + len(here)
    return own, everywhere, n


def from_dicom(lab: Lab, study: Study, main: Ran) -> tuple[Ran, float]:
    """The study where some sites' images were written as DICOM files and read back through the data room; the largest difference of a weight."""
    from locum.scenarios.imaging_dicom import read_dicom, write_dicom

    lab.say("the same images as DICOM files, read back at two sites")
    with tempfile.TemporaryDirectory(prefix="locum-imaging-") as folder:
        chosen = sorted(main.sites)[: 1 if lab.quick else DICOM_SITES]
        read = {name: read_dicom(study, write_dicom(Path(folder) / name, main.sites[name])) for name in chosen}
    ran = lab.simulate(study, {**main.sites, **read})
    weights = [n for n in main.state if n.startswith(f"{study.plan[0].name}.net.")]
    return ran, max(float(np.abs(np.asarray(main.state[n], float) - np.asarray(ran.state[n], float)).max()) for n in weights)


def kept_maps(study: Study, main: Ran) -> int:
    """How many saliency maps the sites drew, each in a folder of its own, which goes with this demonstration."""
    from locum.scenarios.imaging_saliency import keep_maps

    with tempfile.TemporaryDirectory(prefix="locum-imaging-") as folder:
        return sum(len(keep_maps(study, study.plan[0].name, main.state, rows, Path(folder) / name, count=2)) for name, rows in main.sites.items())


def accuracy(ran: Ran) -> float:
    return float(ran.results["evaluation"]["accuracy"]["value"])


def interval_of(ran: Ran) -> tuple[float, float]:
    low, high = ran.results["evaluation"]["accuracy"]["ci95"]
    return low, high


def federated(who: str, ran: Ran, note: str) -> Line:
    return Line(who, "accuracy", accuracy(ran), interval_of(ran), note=note)


def share(who: str, right: Any, n: int, note: str, effective: int | None = None) -> Line:
    """A share with Wilson's interval; effective: the images that it rests on, where each was counted several times."""
    a, m, z = float(right) / n, float(effective or n), 1.959964**2
    middle, half = a + z / (2 * m), math.sqrt(z) * math.sqrt(a * (1 - a) / m + z / (4 * m * m))
    return Line(who, "accuracy", a, ((middle - half) / (1 + z / m), (middle + half) / (1 + z / m)), note=note)


def told(difference: float) -> str:
    return "the same, bit for bit" if difference == 0.0 else f"differs by at most {difference:.1e} in a weight"


def notes(sites: Mapping[str, Rows]) -> list[str]:
    """How uneven the sites are."""
    kinds = [len(np.unique(label(rows))) for rows in sites.values()]
    most = [np.bincount(label(rows)).max() / len(rows) for rows in sites.values()]
    return [f"Sites have images of {min(kinds)} to {max(kinds)} of the ten kinds, and {min(most):.0%} to {max(most):.0%} of a site's images are of one kind."]


def figures(main: Ran, others: Mapping[str, Ran]) -> dict[str, str]:
    from locum.report.plots import confusion, lines

    found = main.results["evaluation"]
    losses = {name: ran.results[main.study.plan[0].name]["loss"] for name, ran in {"FedAdam": main, **others}.items()}
    curves = {name: [(i + 1, v) for i, v in enumerate(loss)] for name, loss in losses.items()}
    return {
        "confusion": confusion(found["confusion"], found["categories"], title="What the federated network takes each kind for"),
        "curves": lines(curves, title="Loss of the sites' own mini-batches", x="round", y="mean loss"),
    }


SCENARIO = Scenario(
    name="imaging",
    title="A network over images of 8 sites, from DICOM to a saliency map that stays",
    question="How well does a network see what an image shows, when each site has mostly a few of the kinds?",
    data=(DATA,),
    studies=("imaging", "imaging-ultrasound"),
    needs=("torch", "pydicom"),
    answer=answer,
    modes=("clear", "masked", "network"),
    without={"private": "networks have no form with patient-level noise yet; tasks 'sgd' and 'fedavg' have one for small models"},
)
