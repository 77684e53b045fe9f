"""Networks by federated averaging, against gradient descent and plain PyTorch loops over the pooled rows."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import numpy as np
import pytest

from locum.data.rows import Rows
from locum.errors import LocumError, ManifestError, TaskError
from locum.simulate import simulate
from locum.study import Study, Total
from locum.tasks import build

torch = pytest.importorskip("torch", reason="needs the extra torch")
from locum.tasks.network import Network  # noqa: E402
from locum.tasks.networks import register_network  # noqa: E402

IMAGE = {"type": "array", "shape": [4, 4]}
KINDS = {"type": "category", "role": "outcome", "categories": ["a", "b", "c"]}
SIZES = (1, 17, 40, 62)


def study(step: dict[str, Any], variables: dict[str, Any] | None = None, aggregation: str = "clear", **more: Any) -> Study:
    variables = variables or {"image": IMAGE, "age": {"minimum": 0, "maximum": 100}, "kind": KINDS}
    plan = [{"name": "net", "task": "network", "rounds": 3, "outcome": "kind", **step}]
    return Study.parse(
        {
            "name": "t",
            "seed": 7,
            "data": {"variables": variables},
            "terms": {"privacy": "none", "min_cohort": 3, "aggregation": aggregation},
            "plan": plan,
            **more,
        }
    )


def sites(sizes: tuple[int, ...] = SIZES, seed: int = 0) -> dict[str, Rows]:
    rng, out = np.random.default_rng(seed), {}
    for k, n in enumerate(sizes):
        kind = rng.integers(3, size=n)
        image = rng.normal(size=(n, 4, 4)) * 0.5
        image[np.arange(n), kind, :] += 1.5
        columns = {"age": rng.uniform(0, 100, n), "kind": kind.astype(float), "yes": (kind == 1).astype(float), "dose": kind * 2.0 + rng.normal(size=n)}
        out[f"site-{k}"] = Rows(columns, np.arange(n).astype(str), {"image": image.astype(np.float32)})
    return out


def joined(parts: dict[str, Rows]) -> Rows:
    columns = {n: np.concatenate([p.columns[n] for p in parts.values()]) for n in next(iter(parts.values())).columns}
    return Rows(columns, np.arange(sum(map(len, parts.values()))).astype(str), {"image": np.concatenate([p.arrays["image"] for p in parts.values()])})


def accuracy(s: Study, state: Any, rows: Rows, outcome: str = "kind") -> float:
    return float((build(s.plan[0], s).probabilities(state, rows).argmax(1) == rows.columns[outcome]).mean())


WHOLE = {"arrays": ["image"], "features": ["age"], "local_epochs": 1, "batch": 1000, "rate": 0.5, "rounds": 6}


@pytest.mark.parametrize("network", ["logistic", {"kind": "mlp", "hidden": [5]}, {"kind": "cnn2d", "channels": [4], "norm": "group"}])
def test_one_whole_batch_a_round_is_gradient_descent_on_the_pooled_rows(network: Any) -> None:
    s = study({"network": network, **WHOLE})
    task = build(s.plan[0], s)
    got = simulate(s, sites())
    pooled = joined(sites())
    module = task.params.network.build(task.reader.inputs, 3)
    for (name, p), (n, a) in zip(module.named_parameters(), task.engine.split(task.engine.initial(task._seed())).items(), strict=True):
        assert name == n
        p.data = torch.from_numpy(a.copy())
    x = [torch.from_numpy(pooled.arrays["image"][:, None] if network != "logistic" and network["kind"] == "cnn2d" else pooled.arrays["image"])]
    x.append(torch.from_numpy(((pooled.columns["age"] - 50) / (50 / 3)).astype(np.float32))[:, None])
    descent = torch.optim.SGD(module.parameters(), lr=0.5)
    for _ in range(6):
        descent.zero_grad()
        torch.nn.functional.cross_entropy(module(*x), torch.from_numpy(pooled.columns["kind"].astype(np.int64))).backward()
        descent.step()
    for n, p in module.named_parameters():
        np.testing.assert_allclose(got.state[f"net.net.{n}"], p.detach().numpy(), atol=2e-5)


def test_a_site_descends_as_torch_does() -> None:
    """Momentum, weight decay of weights alone, ragged last batch: against torch.optim.SGD in the same order."""
    s = study({"network": {"kind": "mlp", "hidden": [6]}, "arrays": ["image"], "local_epochs": 2, "batch": 7, "rate": 0.1, "momentum": 0.9, "l2": 0.01})
    task, rows = build(s.plan[0], s), sites()["site-2"]
    got = task.visit({}, rows, {}, np.random.default_rng(5)).vector
    module = task.params.network.build(task.reader.inputs, 3)
    start = task.engine.split(task.theta({}))
    for n, p in module.named_parameters():
        p.data = torch.from_numpy(start[n].copy())
    groups = [{"params": [p for p in module.parameters() if (p.ndim > 1) == shrunk], "weight_decay": 0.01 * shrunk} for shrunk in (True, False)]
    descent, rng = torch.optim.SGD(groups, lr=0.1, momentum=0.9), np.random.default_rng(5)
    rng.integers(2**31)
    x, y = torch.from_numpy(rows.arrays["image"]), torch.from_numpy(rows.columns["kind"].astype(np.int64))
    for _ in range(2):
        order = torch.from_numpy(rng.permutation(len(y)))
        for i in range(0, len(y), 7):
            descent.zero_grad()
            torch.nn.functional.cross_entropy(module(x[order[i : i + 7]]), y[order[i : i + 7]]).backward()
            descent.step()
    for n, p in module.named_parameters():
        np.testing.assert_allclose(got[f"update.{n}"] / 40, p.detach().numpy() - start[n], atol=1e-5)


def test_the_same_study_gives_the_same_bits_and_masks_change_nothing_but_the_order() -> None:
    step = {"network": {"kind": "cnn2d", "channels": [4], "dropout": 0.2, "hidden": [8]}, "arrays": ["image"], "batch": 8}
    threads = torch.get_num_threads()
    first, second = (simulate(study(step, aggregation="masked"), sites()) for _ in range(2))
    assert first.model_sha256 == second.model_sha256
    assert torch.get_num_threads() == threads
    whole = {"network": "logistic", **WHOLE}
    clear, masked = (simulate(study(whole, aggregation=a), sites()) for a in ("clear", "masked"))
    for name in (n for n in clear.state if n.startswith("net.net.")):
        np.testing.assert_allclose(clear.state[name], masked.state[name], atol=1e-6)


@pytest.mark.parametrize("kind", ["fedavg", "fedprox", "fedavgm", "fedadagrad", "fedadam", "fedyogi"])
def test_every_strategy_learns(kind: str) -> None:
    rates = {"fedadagrad": 0.1, "fedadam": 0.05, "fedyogi": 0.05}
    strategy = {"kind": kind, **({"server_rate": rates[kind]} if kind in rates else {})}
    s = study({"network": {"kind": "mlp", "hidden": [8]}, "arrays": ["image"], "batch": 8, "rate": 0.1, "rounds": 12, "strategy": strategy})
    got = simulate(s, sites())
    assert accuracy(s, got.state, joined(sites(seed=1))) > 0.9
    assert got.results["net"]["strategy"]["kind"] == kind
    assert got.results["net"]["warnings"] == []
    assert got.results["net"]["n"] == 120


def test_a_boolean_gives_log_odds_and_a_number_its_own_scale() -> None:
    variables = {"image": IMAGE, "yes": {"type": "boolean", "role": "outcome"}, "dose": {"minimum": -4, "maximum": 8}}
    s = study({"network": "logistic", "arrays": ["image"], "outcome": "yes", "batch": 8, "rate": 0.2, "rounds": 15}, variables)
    state, rows = simulate(s, sites()).state, joined(sites(seed=1))
    task: Network = build(s.plan[0], s)  # type: ignore[assignment]
    p, eta = task.probabilities(state, rows), task.scores(state, rows)
    assert task.binary
    assert task.categories == ("no", "yes")
    np.testing.assert_allclose(p[:, 1], 1 / (1 + np.exp(-eta)), rtol=1e-9)
    assert ((eta > 0) == (rows.columns["yes"] == 1)).mean() > 0.9
    s = study({"network": {"kind": "mlp"}, "arrays": ["image"], "outcome": "dose", "batch": 8, "rate": 0.1, "rounds": 15}, variables)
    task = build(s.plan[0], s)  # type: ignore[assignment]
    said = task.scores(simulate(s, sites()).state, rows)
    assert np.corrcoef(said, rows.columns["dose"])[0, 1] > 0.7
    with pytest.raises(TaskError, match="no probabilities"):
        task.probabilities({"net.round": np.asarray(1)}, rows)


def test_a_site_with_one_row_one_class_or_none_takes_part() -> None:
    s = study({"network": {"kind": "cnn2d", "channels": [4]}, "arrays": ["image"], "batch": 8})
    few = sites((1, 30, 5))
    few["site-2"].columns["kind"][:] = 0.0  # type: ignore[index]
    few["site-3"] = few["site-1"].take(np.zeros(30, dtype=bool))
    got = simulate(s, few)
    assert got.declined == {} or set(got.declined) == {"site-3"}
    assert all(np.isfinite(a).all() for a in got.state.values())
    task = build(s.plan[0], s)
    empty = task.visit({}, few["site-3"], {}, np.random.default_rng(0))
    assert empty.rows == 0
    assert all(not a.any() for a in empty.vector.values())
    with pytest.raises(TaskError, match="No site has a usable row"):
        task.combine({}, Total(empty.vector, 1.0, 1))


def test_by_sites_each_counts_the_same() -> None:
    rows = sites((10, 50))
    for by, shares in (("patients", (10, 50)), ("rows", (10, 50)), ("sites", (1, 1))):
        task = build((s := study({"network": "logistic", "arrays": ["image"], "by": by})).plan[0], s)
        assert tuple(float(task.visit({}, r, {}, np.random.default_rng(0)).vector["share"]) for r in rows.values()) == shares


def test_local_steps_and_longer_cohorts() -> None:
    s = study({"network": "logistic", "arrays": ["image"], "local_steps": 3, "batch": 4})
    seen = [float(build(s.plan[0], s).visit({}, r, {}, np.random.default_rng(0)).vector["seen"]) for r in sites((1, 5, 30)).values()]
    assert seen == [3.0, 4 + 1 + 4, 12.0]


def test_divergence_is_a_clean_error_and_leaves_the_state_as_it_was() -> None:
    s = study({"network": {"kind": "mlp"}, "arrays": ["image"], "rate": 1000.0, "momentum": 0.9, "local_epochs": 40, "batch": 2})
    task, state = build(s.plan[0], s), {}
    with pytest.raises(TaskError, match="diverged here") as caught:
        task.visit(state, sites()["site-3"], {}, np.random.default_rng(0))
    assert "lower rate" in caught.value.fix
    assert state == {}
    s = study({"network": "logistic", "arrays": ["image"], "strategy": {"kind": "fedavg", "server_rate": 1e3}})
    task = build(s.plan[0], s)
    vector = {n: np.full_like(a, 1e36) for n, a in task.layout({}).zeros().items()} | {"share": np.asarray(1.0)}
    with pytest.raises(TaskError, match=r"diverged\."):
        task.combine({}, Total(vector, 1.0, 1))


def test_frozen_parameters_stay_and_only_trained_ones_travel() -> None:
    def builder(inputs: Any, outputs: int, options: Any) -> Any:
        net = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(inputs.flat, options["width"]), torch.nn.ReLU(), torch.nn.Linear(options["width"], outputs)
        )
        net[1].requires_grad_(False)
        return net

    register_network("mine", builder)
    s = study({"network": {"kind": "mine", "width": 6}, "arrays": ["image"], "rounds": 4})
    task = build(s.plan[0], s)
    assert [f.name for f in task.layout({}).fields if f.name.startswith("update")] == ["update.3.weight", "update.3.bias"]
    got = simulate(s, sites())
    assert accuracy(s, got.state, joined(sites())) > 0.4
    register_network("batchy", lambda inputs, outputs, options: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(16), torch.nn.Linear(16, outputs)))
    with pytest.raises(ManifestError, match="BatchNorm1d"):
        build((b := study({"network": "batchy", "arrays": ["image"]})).plan[0], b)
    with pytest.raises(ManifestError, match="built-in"):
        register_network("mlp", builder)


def test_saliency_points_at_what_matters() -> None:
    s = study({"network": {"kind": "cnn2d", "channels": [8]}, "arrays": ["image"], "batch": 8, "rate": 0.1, "rounds": 10})
    state, rows = simulate(s, sites()).state, joined(sites(seed=1))
    task: Network = build(s.plan[0], s)  # type: ignore[assignment]
    maps = task.saliency(state, rows, rows.columns["kind"].astype(np.int64))
    assert maps.shape == (120, 1, 4, 4)
    by_row = np.maximum(maps, 0).sum(axis=(1, 3))
    assert (by_row[:, :3].argmax(1) == rows.columns["kind"]).mean() > 0.8


def test_integrated_gradients_add_up_to_the_difference_of_the_outputs() -> None:
    s = study({"network": {"kind": "mlp", "activation": "tanh"}, "arrays": ["image"], "batch": 8, "rate": 0.1})
    state, rows = simulate(s, sites()).state, joined(sites(seed=1))
    task: Network = build(s.plan[0], s)  # type: ignore[assignment]
    said = task._said(state, rows)
    black = Rows(rows.columns, rows.patient, {"image": np.zeros_like(rows.arrays["image"])})
    difference = said - task._said(state, black)
    np.testing.assert_allclose(task.saliency(state, rows, np.zeros(120, dtype=np.int64), steps=64).sum(axis=(1, 2)), difference[:, 0], atol=2e-3)


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"network": "resnet", "arrays": ["image"]}, "no network 'resnet'", "mlp"),
    ({"network": {"kind": "cnn2d", "chanels": [3]}, "arrays": ["image"]}, "chanels", "channels"),
    ({"network": {"kind": "cnn2d", "norm": "batch"}, "arrays": ["image"]}, "do not average", ""),
    ({"network": {"kind": "cnn2d", "kernel": 4}, "arrays": ["image"]}, "odd", ""),
    ({"network": {"kind": "cnn2d"}, "features": ["age"]}, "needs an array", "mlp"),
    ({"network": "mlp"}, "name arrays, features, or both", ""),
    ({"network": "mlp", "arrays": ["age"]}, "not an array", "features"),
    ({"network": "mlp", "features": ["image"]}, "is an array", "arrays"),
    ({"network": "mlp", "arrays": ["imagee"]}, "does not list", "image"),
    ({"network": "mlp", "arrays": ["image"], "features": ["kind"]}, "both a feature and the outcome", ""),
    ({"network": "mlp", "arrays": ["image"], "strategy": "fedavgg"}, "no strategy", "fedavg"),
    ({"network": "mlp", "arrays": ["image"], "strategy": {"kind": "fedprox", "nu": 1}}, "nu", "mu"),
    ({"network": "mlp", "arrays": ["image"], "local_epochs": 1, "local_steps": 2}, "not both", ""),
    ({"network": "mlp", "arrays": ["image"], "standardise": "x"}, "standardise scales features", ""),
    ({"network": 3, "arrays": ["image"]}, "a name, or a table", ""),
    ({"network": {"kind": "mlp", "hidden": [4096] * 16}, "arrays": ["image"]}, "weights; at most", "narrower"),
]


@pytest.mark.parametrize(("step", "what", "fix"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_manifests_are_refused_before_work_starts(step: dict[str, Any], what: str, fix: str) -> None:
    s = study(step)
    with pytest.raises(ManifestError) as caught:
        build(s.plan[0], s)
    assert what in str(caught.value)
    assert fix in caught.value.fix


def test_bad_rows_are_clean_errors() -> None:
    s = study({"network": "logistic", "arrays": ["image"]})
    task, rows, rng = build(s.plan[0], s), sites()["site-1"], np.random.default_rng(0)
    broken = rows.arrays["image"].copy()
    broken[3, 0, 0] = np.nan
    for bad, what in (
        (Rows(rows.columns, rows.patient, {}), "not an array of shape"),
        (Rows(rows.columns, rows.patient, {"image": broken}), "NaN or infinity"),
        (Rows({**rows.columns, "kind": rows.columns["kind"] + 0.5}, rows.patient, rows.arrays), "no category"),
    ):
        with pytest.raises(TaskError, match=what):
            task.visit({}, bad, {}, rng)
    with pytest.raises(TaskError, match="has not run"):
        task.probabilities({}, rows)  # type: ignore[attr-defined]
    missing = rows.columns["kind"].copy()
    missing[:3] = np.nan
    vector = task.visit({}, Rows({**rows.columns, "kind": missing}, rows.patient, rows.arrays), {}, rng).vector
    assert (float(vector["left_out"]), float(vector["rows"])) == (3.0, 14.0)


def test_privacy_is_refused() -> None:
    s = study({"network": "logistic", "arrays": ["image"]})
    private = Study.parse({**s.model_dump(by_alias=True), "terms": {"privacy": {"eps": 3.0, "delta": 1e-6, "patients": 1000}}})
    with pytest.raises(LocumError, match="no form that protects"):
        build(private.plan[0], private)


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return real(name, *args, **kwargs)

    for name in ("engine", "modules"):
        monkeypatch.delitem(sys.modules, f"locum.tasks.networks.{name}", raising=False)
    monkeypatch.setattr(builtins, "__import__", absent)
    s = study({"network": "logistic", "arrays": ["image"]})
    with pytest.raises(ManifestError, match="not installed") as caught:
        build(s.plan[0], s)
    assert "locum[torch]" in caught.value.fix
