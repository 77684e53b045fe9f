"""Against the singular value decomposition of the pooled, scaled genotypes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.simulate import simulate
from locum.study import Study
from locum.tasks import build_plan
from locum.tasks import genotype_pca as _genotype_pca  # noqa: F401
from locum.tasks import gwas as _gwas  # noqa: F401
from locum.tasks.prepare import prepared
from locum.testing.populations import populations

SITES = {"a": (90, 0), "b": (1, 1), "c": (60, 1), "d": (80, 2), "e": (33, 0)}


def made(**more):
    return populations(SITES, **{"variants": 800, "fst": 0.1, "means": (0.0, 0.5, 1.0), "seed": 2, **more})


def study(variables, *steps, **terms):
    return Study.parse({"name": "test", "data": {"variables": variables}, "terms": {"privacy": "none", **terms}, "plan": [*steps]})


def step(**more):
    return {"name": "pca", "task": "genotype_pca", "components": 2, **more}


def pooled(sites, every=1, min_frequency=0.05):
    g = np.vstack([s.arrays["genotypes"][:, ::every] for s in sites.values()]).astype(float)
    f = np.nanmean(g, axis=0) / 2
    used = np.minimum(f, 1 - f) >= min_frequency
    z = np.nan_to_num((g - 2 * f) / np.sqrt(2 * f * (1 - f)))[:, used]
    return np.linalg.svd(z, full_matrices=False), z


def scores(asked, state, sites, step_after):
    task = build_plan(asked)[step_after]
    return np.vstack([prepared(task, state, rows).matrix(["pc1", "pc2"]) for rows in sites.values()])


AFTER = {"name": "after", "task": "moments", "variables": ["pc1", "pc2"]}


@pytest.mark.parametrize(("missing", "every"), [(0.0, 1), (0.1, 3)])
def test_equals_the_pooled_decomposition(run_state, missing, every):
    sites, variables = made(missing=missing)
    asked = study(variables, step(every=every, tolerance=1e-9, rounds=100), AFTER)
    results, state = run_state(asked, list(sites.values()))
    (u, s, _), z = pooled(sites, every)
    got = results["pca"]
    assert got["converged"]
    assert (got["n"], got["variants"]) == (len(z), z.shape[1])
    print("rounds", got["iterations"])
    np.testing.assert_allclose([c["eigenvalue"] for c in got["components"]], s[:2] ** 2 / len(z), rtol=1e-10)
    np.testing.assert_allclose([c["share"] for c in got["components"]], s[:2] ** 2 / (s**2).sum(), rtol=1e-10)
    mine = scores(asked, state, sites, 1)
    reference = u[:, :2] * np.sqrt(len(z))
    np.testing.assert_allclose(np.abs(mine.T @ reference) / len(z), np.eye(2), atol=1e-7)
    np.testing.assert_allclose(np.abs(mine), np.abs(reference), atol=1e-6)


def test_close_components_converge_too(run_state):
    sites, variables = made(fst=0.02)
    got = run_state(study(variables, step(components=6, rounds=60), AFTER), list(sites.values()))[0]["pca"]
    (_, s, _), z = pooled(sites)
    print("rounds", got["iterations"], "of close components")
    assert got["converged"]
    np.testing.assert_allclose([c["eigenvalue"] for c in got["components"]], s[:6] ** 2 / len(z), rtol=1e-8)


def test_components_take_out_structure_within_a_site(run_state):
    sizes = {"mixed1": (200, 0), "mixed2": (200, 1)}
    sites, variables = populations(sizes, variants=3000, fst=0.02, means=(0.0, 0.6), seed=4)
    whole = np.random.default_rng(0).permutation(400)
    together = sites["mixed1"], sites["mixed2"]
    joined = replace(
        Rows.of({k: np.concatenate([r.columns[k] for r in together]) for k in together[0].columns}),
        arrays={"genotypes": np.vstack([r.arrays["genotypes"] for r in together])},
    )
    mixed = [joined.take(part) for part in np.split(whole, [150, 260])]
    lambdas = {}
    for features in (["age"], ["age", "pc1"]):
        null = {"name": "null", "task": "linear", "features": features, "outcome": "y", "site_intercepts": True}
        asked = study(variables, step(components=1, every=2), null, {"name": "gwas", "task": "gwas", "null": "null"})
        lambdas[len(features)] = run_state(asked, mixed)[0]["gwas"]["lambda_gc"]
    print(f"lambda by site alone {lambdas[1]:.3f}, with a component {lambdas[2]:.3f}")
    assert lambdas[1] > 1.3
    assert 0.9 < lambdas[2] < 1.1


def test_masked_and_through_the_engine(run_state):
    sites, variables = made()
    asked = study(variables, step(), AFTER)
    plain = run_state(asked, list(sites.values()))[0]["pca"]
    run = simulate(asked, sites)
    np.testing.assert_allclose(
        [c["eigenvalue"] for c in run.results["pca"]["components"]], [c["eigenvalue"] for c in plain["components"]], rtol=1e-9
    )  # fmt: skip


def test_too_few_rounds_are_said(run_state):
    sites, variables = made(fst=0.01)
    got = run_state(study(variables, step(components=5, rounds=3), AFTER), list(sites.values()))[0]["pca"]
    assert not got["converged"]
    assert "had not converged" in got["warnings"][0]


def test_bad_plans(build_study, run_state):
    sites, variables = made()
    for change, match in (({"genotypes": "age"}, "cannot read"), ({"components": 40, "every": 30}, "too few")):
        if match:
            with pytest.raises(ManifestError, match=match):
                build_plan(build_study(variables, [step(**change)]))
    with pytest.raises(ManifestError, match="a variable already"):
        build_plan(build_study({**variables, "pc1": {}}, [step()]))
    constant = list(sites.values())
    for r in constant:
        r.arrays["genotypes"][:] = 1.0
        r.arrays["genotypes"][:, :790] = 0.0
    got = build_plan(build_study(variables, [step(components=5)]))
    assert got
    with pytest.raises(TaskError, match="vary enough"):
        run_state(study(variables, step(components=5)), constant)
    with pytest.raises(TaskError, match="found no component"):
        run_state(study(variables, step(rounds=1)), list(made()[0].values()))


def test_more_components_than_patients(run_state):
    sites, variables = populations({"a": (3, 0), "b": (1, 1)}, variants=200, fst=0.1)
    with pytest.raises(TaskError, match="fewer than 5"):
        run_state(study(variables, step(components=5)), list(sites.values()))
    got = run_state(study(variables, step(components=2)), list(sites.values()))[0]["pca"]
    assert got["converged"]


def test_genotypes_that_are_no_dosage_or_twice(run_state):
    sites, variables = made()
    twice = [replace(rows, patient=np.asarray(["x"] * len(rows))) for rows in sites.values()]
    with pytest.raises(TaskError, match="more than one row"):
        run_state(study(variables, step()), twice)
    sites["a"].arrays["genotypes"][3, 3] = 5.0
    with pytest.raises(TaskError, match="no dosage"):
        run_state(study(variables, step()), list(sites.values()))
