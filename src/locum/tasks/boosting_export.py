"""Boosted trees as files that other libraries load: xgboost's JSON (2.0 and later) and lightgbm's text model (version 4).

Both predict what `BoostedTrees.scores` gives, as raw margin (xgboost: output_margin=True, to float32; lightgbm: raw_score=True). The columns are the
features in the step's order; a category is its index in the contract, a missing value NaN. xgboost takes them as DMatrix(x,
feature_names=task.params.features, feature_types=feature_types(task), enable_categorical=True).

What either side means: xgboost sends x < t left, and the categories that a node lists right; lightgbm sends x <= t and the listed categories left, and
a missing category always right. Where f starts is added to the leaves of the first tree, as lightgbm does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.tasks.base import State
from locum.tasks.boosting import BoostedTrees
from locum.tasks.tree import Trees

Floats = NDArray[np.float64]
NO_PARENT = 2147483647
BEYOND = 1e38
"""Larger than every value, and finite in 32 bits."""
XGBOOST = {"binary": ("binary:logistic", "5E-1"), "squared_error": ("reg:squarederror", "0E0"), "survival": ("survival:cox", "1E0")}
"""The objective, and the base score whose margin is 0."""
LIGHTGBM = {"binary": "binary sigmoid:1", "squared_error": "regression", "survival": "poisson"}


@dataclass(frozen=True)
class Node:
    """One inner node: x <= threshold goes left, or the categories `lefts`; a missing value goes left or right."""

    feature: int
    threshold: float
    lefts: tuple[int, ...] | None
    missing_left: bool


def feature_types(task: BoostedTrees) -> list[str]:
    """xgboost's types of the columns."""
    return ["c" if f.categorical else "q" for f in task.features]


def to_xgboost(task: BoostedTrees, state: State) -> dict[str, Any]:
    """The model as the JSON document that xgboost's `Booster.load_model` reads from a file."""
    trees, edges = task.trees(state), task.inner_edges(state)
    objective, base = XGBOOST[task.params.objective]
    made = [_xgboost_tree(task, trees, edges, t, task.start(state) if t == 0 else 0.0) for t in range(len(trees))]
    types = ["c" if f.categorical else "float" for f in task.features]
    model = {
        "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(len(trees))},
        "iteration_indptr": list(range(len(trees) + 1)),
        "tree_info": [0] * len(trees),
        "trees": made,
    }
    learner = {
        "attributes": {},
        "feature_names": list(task.params.features),
        "feature_types": types,
        "gradient_booster": {"model": model, "name": "gbtree"},
        "learner_model_param": {"base_score": base, "boost_from_average": "0", "num_class": "0", "num_feature": str(len(types)), "num_target": "1"},
        "objective": {"name": objective, **({"reg_loss_param": {"scale_pos_weight": "1"}} if objective != "survival:cox" else {})},
    }
    return {"learner": learner, "version": [2, 0, 0]}


def to_lightgbm(task: BoostedTrees, state: State) -> str:
    """The model as the text that `lightgbm.Booster(model_str=...)` reads."""
    trees, edges, features = task.trees(state), task.inner_edges(state), task.features
    blocks = [_lightgbm_tree(task, trees, edges, t, task.start(state) if t == 0 else 0.0) for t in range(len(trees))]
    infos = [":".join(str(k) for k in range(len(f.labels or ()))) if f.categorical else _span(f.middles(e)) for f, e in zip(features, edges, strict=True)]
    header = {
        "version": "v4",
        "num_class": "1",
        "num_tree_per_iteration": "1",
        "label_index": "0",
        "max_feature_idx": str(len(features) - 1),
        "objective": LIGHTGBM[task.params.objective],
        "feature_names": " ".join(task.params.features),
        "feature_infos": " ".join(infos),
        "tree_sizes": " ".join(str(len(f"Tree={t}\n{b}\n\n\n".encode())) for t, b in enumerate(blocks)),
    }
    text = "tree\n" + "".join(f"{k}={v}\n" for k, v in header.items()) + "\n"
    return text + "".join(f"Tree={t}\n{b}\n\n\n" for t, b in enumerate(blocks)) + "end of trees\n\npandas_categorical:null\n"


def _nodes(trees: Trees, t: int) -> NDArray[np.int64]:
    """The nodes of tree t, its root first."""
    ends = np.append(trees.roots, len(trees.child))
    return np.arange(ends[t], ends[t + 1])


def _node(task: BoostedTrees, trees: Trees, edges: list[Floats], i: int) -> Node:
    f, word = int(trees.feature[i]), int(trees.goes_left[i])
    lefts = tuple(k for k in range(len(edges[f]) + 1) if word >> k & 1)
    missing = bool(word >> (len(edges[f]) + 1) & 1)
    if task.features[f].categorical:
        return Node(f, float(len(edges[f])), lefts, missing)
    # every value left, none right: only missing values are told apart
    return Node(f, float(edges[f][len(lefts) - 1]) if len(lefts) <= len(edges[f]) else BEYOND, None, missing)


def _xgboost_tree(task: BoostedTrees, trees: Trees, edges: list[Floats], t: int, start: float) -> dict[str, Any]:
    nodes = _nodes(trees, t)
    root, n = int(nodes[0]), len(nodes)
    leaf, child = trees.leaf[nodes].tolist(), (trees.child[nodes] - root).tolist()
    parents, conditions, splits, types, default = [NO_PARENT] * n, [], [0] * n, [0] * n, [0] * n
    listed: dict[str, list[int]] = {"categories": [], "categories_nodes": [], "categories_segments": [], "categories_sizes": []}
    for i, k in enumerate(nodes.tolist()):
        if leaf[i]:
            conditions.append(float(trees.value[k]) + start)
            continue
        node = _node(task, trees, edges, k)
        parents[child[i]] = parents[child[i] + 1] = i
        splits[i], default[i] = node.feature, int(node.missing_left)
        conditions.append(float(np.nextafter(np.float32(node.threshold), np.float32(np.inf))) if node.lefts is None else 0.0)
        if node.lefts is not None:
            size = len(edges[node.feature]) + 1
            rights = [c for c in range(size) if c not in node.lefts] or [size]  # a list may not be empty; no row has that one
            types[i] = 1
            listed["categories_nodes"].append(i)
            listed["categories_segments"].append(len(listed["categories"]))
            listed["categories_sizes"].append(len(rights))
            listed["categories"] += rights
    return {
        "base_weights": (trees.value[nodes] + start).tolist(),
        **listed,
        "default_left": default,
        "id": t,
        "left_children": [-1 if is_leaf else c for is_leaf, c in zip(leaf, child, strict=True)],
        "right_children": [-1 if is_leaf else c + 1 for is_leaf, c in zip(leaf, child, strict=True)],
        "loss_changes": trees.gain[nodes].tolist(),
        "parents": parents,
        "split_conditions": conditions,
        "split_indices": splits,
        "split_type": types,
        "sum_hessian": trees.cover[nodes].tolist(),
        "tree_param": {"num_deleted": "0", "num_feature": str(len(edges)), "num_nodes": str(n), "size_leaf_vector": "1"},
    }


def _lightgbm_tree(task: BoostedTrees, trees: Trees, edges: list[Floats], t: int, start: float) -> str:
    nodes = _nodes(trees, t)
    inner, leaves = nodes[~trees.leaf[nodes]].tolist(), nodes[trees.leaf[nodes]].tolist()
    place = {**{k: i for i, k in enumerate(inner)}, **{k: ~i for i, k in enumerate(leaves)}}
    split: list[dict[str, Any]] = []
    words: list[int] = []
    bounds = [0]
    for k in inner:
        node, left = _node(task, trees, edges, k), int(trees.child[k])
        sides = [place[left], place[left + 1]]
        if node.lefts is None:
            split.append({"threshold": repr(node.threshold), "decision_type": 8 + 2 * node.missing_left, "sides": sides, "feature": node.feature})
            continue
        size = len(edges[node.feature]) + 1
        lefts = [c for c in range(size) if (c in node.lefts) != node.missing_left]  # a missing category goes right: turn the node around
        word = sum(1 << c for c in lefts)
        words += [word & 0xFFFFFFFF, word >> 32]
        split.append({"threshold": len(bounds) - 1, "decision_type": 9, "sides": sides[:: -1 if node.missing_left else 1], "feature": node.feature})
        bounds.append(len(words))
    fields: dict[str, list[Any]] = {
        "split_feature": [s["feature"] for s in split],
        "split_gain": [f"{g:.17g}" for g in trees.gain[inner]],
        "threshold": [s["threshold"] for s in split],
        "decision_type": [s["decision_type"] for s in split],
        "left_child": [s["sides"][0] for s in split],
        "right_child": [s["sides"][1] for s in split],
        "leaf_value": [f"{v + start:.17g}" for v in trees.value[leaves]],
        "leaf_weight": [f"{v:.17g}" for v in trees.cover[leaves]],
        "leaf_count": [round(float(c)) for c in trees.patients[leaves]],
        "internal_value": [f"{v + start:.17g}" for v in trees.value[inner]],
        "internal_weight": [f"{v:.17g}" for v in trees.cover[inner]],
        "internal_count": [round(float(c)) for c in trees.patients[inner]],
    }
    if words:
        fields |= {"cat_boundaries": bounds, "cat_threshold": words}
    lines = [f"num_leaves={len(leaves)}", f"num_cat={len(bounds) - 1}", *(f"{name}={' '.join(map(str, v))}" for name, v in fields.items())]
    return "\n".join([*lines, "is_linear=0", f"shrinkage={task.params.rate:g}"])


def _span(middles: list[float] | list[str]) -> str:
    return f"[{float(middles[0]):g}:{float(middles[-1]):g}]"
