"""Against score tests of the pooled rows (statsmodels, and the formula written out), and against what genotypes get wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import chi2 as chi_square

from locum.data.genotypes import Genotypes, list_hash
from locum.data.load import load_rows
from locum.data.rows import Rows
from locum.data.sources.plink import PlinkSource, Spec
from locum.errors import ManifestError, TaskError
from locum.report.gwas import manhattan
from locum.simulate import simulate
from locum.study import Study, Total
from locum.tasks import build_plan, gwas_lists
from locum.tasks import gwas as _gwas  # noqa: F401
from locum.tasks.gwas import STATUS, table
from locum.tasks.gwas_sums import Null, block_sums, hardy_weinberg, inflation, minus_log10_p, p_values, site_sums
from locum.testing.populations import populations, three_populations

SITES = {"a": (90, 0), "b": (1, 0), "c": (60, 1), "d": (120, 1), "e": (33, 0)}
OUTCOME = {"linear": "y", "logistic": "case"}


def plan(kind, stratified=False, **more):
    null = {"name": "null", "task": kind, "features": ["age"], "outcome": OUTCOME[kind], "site_intercepts": stratified}
    return [null, {"name": "gwas", "task": "gwas", "null": "null", "min_count": 11, **more}]


def study(variables, steps, **terms):
    return Study.parse({"name": "test", "data": {"variables": variables}, "terms": {"privacy": "none", **terms}, "plan": steps})


def imputed(parts, stratified):
    """Dosages of all sites; what is missing is the mean of the site, or of everybody."""
    if stratified:
        means = [np.nansum(g, axis=0, dtype=float) / np.maximum(1, (~np.isnan(g)).sum(axis=0)) for g in parts]
        return np.vstack([np.where(np.isnan(g), m, g) for g, m in zip(parts, means, strict=True)])
    g = np.vstack(parts).astype(float)
    return np.where(np.isnan(g), np.nanmean(g, axis=0), g)


def pooled(sites, kind, stratified):
    """chi2, effect and standard error of each variant by the formula on the pooled rows."""
    names = [s for s in sites if not (stratified and kind == "logistic" and np.ptp(sites[s].columns["case"]) == 0)]
    y = np.concatenate([sites[s].columns[OUTCOME[kind]] for s in names])
    age = np.concatenate([sites[s].columns["age"] for s in names])
    where = np.repeat(np.arange(len(names)), [len(sites[s]) for s in names])
    dummies = [where == k for k in range(len(names))] if stratified else [np.ones(len(y))]
    x = np.column_stack([*dummies, age - 60.0]).astype(float)
    g = imputed([sites[s].arrays["genotypes"] for s in names], stratified)
    family = sm.families.Gaussian() if kind == "linear" else sm.families.Binomial()
    fit = sm.GLM(y, x, family=family).fit(tol=1e-15, maxiter=100)
    w = np.ones(len(y)) if kind == "linear" else fit.mu * (1 - fit.mu)
    r = y - fit.mu
    phi = r @ r / (len(y) - x.shape[1]) if kind == "linear" else 1.0
    h = np.linalg.inv(x.T @ (x * w[:, None]))
    gx = (g * w[:, None]).T @ x
    u, v = g.T @ r, (g**2 * w[:, None]).sum(0) - np.einsum("vp,pq,vq->v", gx, h, gx)
    return u**2 / (phi * v), u / v, np.sqrt(phi / v), fit, g


def close(got, want, tolerance=1e-8):
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * 1e-2)


@pytest.mark.parametrize("missing", [0.0, 0.1])
@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("kind", ["linear", "logistic"])
def test_equals_the_pooled_score_test(run_state, kind, stratified, missing):
    sites, variables = populations(SITES, variants=300, fst=0.05, missing=missing, seed=3)
    results, state = run_state(study(variables, plan(kind, stratified)), list(sites.values()))
    got, frame = results["gwas"], table(state)
    chi2, effect, se, _, _ = pooled(sites, kind, stratified)
    column = frame["column"].to_numpy()
    assert len(column) == got["tested"] > 200
    close(frame["chi2"], chi2[column])
    close(frame["effect"], effect[column])
    close(frame["se"], se[column])
    close(frame["p"], chi_square.sf(chi2[column], 1))
    close(got["lambda_gc"], np.median(chi2[column]) / chi_square.ppf(0.5, 1))
    g = np.vstack([s.arrays["genotypes"] for s in sites.values() if not (stratified and kind == "logistic" and len(s) == 1)]).astype(float)
    close(frame["frequency"], np.nanmean(g, axis=0)[column] / 2)
    close(frame["call_rate"], (~np.isnan(g)).mean(axis=0)[column])
    assert got["n"] == len(g)
    assert got["rows_without_information"] == (1 if stratified and kind == "logistic" else 0)
    assert (got["hits"][0]["chi2"], got["hits"][0]["column"]) == (chi2[column].max(), column[chi2[column].argmax()]) or got["hits"][0]["chi2"] > 0
    assert [h["p"] for h in got["hits"]] == sorted(h["p"] for h in got["hits"])


@pytest.mark.parametrize("kind", ["linear", "logistic"])
def test_equals_statsmodels_score_test(run_state, kind):
    sites, variables = populations(SITES, variants=40, seed=4)
    _, state = run_state(study(variables, plan(kind)), list(sites.values()))
    frame = table(state)
    *_, fit, g = pooled(sites, kind, False)
    for column, chi2, p in frame.select("column", "chi2", "p").iter_rows():
        statistic, reference = fit.score_test(exog_extra=g[:, [column]])[:2]
        np.testing.assert_allclose((chi2, p), (np.squeeze(statistic), np.squeeze(reference)), rtol=1e-8)


def test_linear_effect_is_least_squares(run_state):
    sites, variables = populations(SITES, variants=40, seed=4, causal={7: 0.5})
    _, state = run_state(study(variables, plan("linear", True)), list(sites.values()))
    where = np.repeat(np.arange(5), [len(s) for s in sites.values()])
    x = np.column_stack([np.concatenate([s.columns["age"] for s in sites.values()]), *(where == k for k in range(5))])
    y, g = (np.concatenate([get(s) for s in sites.values()]) for get in (lambda s: s.columns["y"], lambda s: s.arrays["genotypes"][:, 7]))
    row = table(state).row(by_predicate=pl.col("column") == 7, named=True)
    np.testing.assert_allclose(row["effect"], sm.OLS(y, np.column_stack([g, x])).fit().params[0], rtol=1e-8)


def test_through_the_engine_and_masked(run_state):
    sites, variables = populations(SITES, variants=60, seed=5, missing=0.02)
    steps = plan("logistic", True)
    plain = table(run_state(study(variables, steps), list(sites.values()))[1])
    for terms in ({"aggregation": "clear"}, {"aggregation": "masked"}):
        run = simulate(study(variables, steps, **terms), sites)
        assert run.rounds > 1
        close(table(run.state)["chi2"], plain["chi2"])
        assert run.results["gwas"]["sites"] == 5


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 150), max_size=6), kind=st.sampled_from(["linear", "logistic"]))
def test_any_partition_gives_the_same(run_state, cuts, kind):
    sites, variables = populations({"a": (150, 0)}, variants=60, missing=0.1, means=(0.0,), seed=6)
    whole = sites["a"]
    one, many = ([whole], [whole.take(p) for p in np.split(np.arange(150), sorted(cuts))])
    a, b = (table(run_state(study(variables, plan(kind)), s)[1]) for s in (one, many))
    for name in ("chi2", "effect", "se", "frequency", "hwe_p"):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-9, atol=1e-9)


def test_population_structure_inflates_the_naive_study_and_cancels_in_strata(run_state):
    sites, variables = three_populations(5000)
    lambdas = {}
    for stratified in (False, True):
        got = run_state(study(variables, plan("linear", stratified)), list(sites.values()))[0]["gwas"]
        lambdas[stratified] = got["lambda_gc"]
        assert any("lambda_GC" in w for w in got["warnings"]) == (not stratified)
    print(f"lambda: naive {lambdas[False]:.3f} (reference 1.708), stratified {lambdas[True]:.3f} (reference 1.003)")
    assert lambdas[False] > 1.4
    assert 0.93 < lambdas[True] < 1.07


def test_a_true_effect_is_found_and_named(run_state):
    sites, variables = populations(SITES, variants=50, causal={13: 1.0}, seed=8)
    names = [f"rs{j}" for j in range(50)]
    got = run_state(study(variables, plan("linear", True, variants=names)), list(sites.values()))[0]["gwas"]
    assert got["hits"][0]["variant"] == "rs13"
    assert got["genome_wide_significant"] >= 1
    assert got["hits"][0]["ci95"][0] < 1.0 < got["hits"][0]["ci95"][1]
    assert "odds_ratio" not in got["hits"][0]


def test_variants_that_are_not_shown_are_counted_and_leave_no_trace(run_state):
    sites, variables = populations(SITES, variants=30, seed=9)
    for k, rows in enumerate(sites.values()):
        g = rows.arrays["genotypes"]
        g[:, 0], g[:, 1], g[:, 2] = 0.0, 2.0, np.nan
        g[:, 3] = 0.0
        g[:1, 3] = 1.0  # one carrier a site
        g[:, 4] = k % 3  # varies between sites only
        g[:, 5] = 1.0  # everybody heterozygous
        g[: len(g) // 2, 6] = np.nan
        g[:, 7] = 2.0 * (np.arange(len(g)) % 2)  # no heterozygote
    more = {"min_call_rate": 0.9, "min_hwe_p": 1e-6}
    results, state = run_state(study(variables, plan("linear", True)), list(sites.values()))
    got = results["gwas"]
    assert got["not_shown"] == {"no variation": 3, "rare": 1, STATUS[2]: 0, STATUS[3]: 0, STATUS[4]: 2}
    strict = run_state(study(variables, plan("linear", True, **more)), list(sites.values()))[0]["gwas"]
    assert strict["not_shown"][STATUS[2]] == 1
    assert strict["not_shown"][STATUS[3]] >= 2
    assert got["tested"] + sum(got["not_shown"].values()) == 30
    every = table(state, shown=False)
    assert every["status"][:6].to_list() == [1, 1, 1, 1, 4, 4]
    assert every["chi2"][:6].null_count() == every["called"][:6].null_count() == every["frequency"][:6].null_count() == 6
    assert all(not state[f"gwas.{name}"][:6].any() for name in ("chi2", "effect", "se", "frequency", "called", "hwe_chi2"))
    assert all(np.isfinite(a).all() for a in state.values())


def test_hardy_weinberg_moments_are_those_of_all_pairings():
    r = np.random.default_rng(0)
    alleles = np.array([1] * 9 + [0] * 15)
    het = []
    for _ in range(60_000):
        pairs = r.permutation(alleles).reshape(-1, 2).sum(1)
        het.append((pairs == 1).sum())
    excess, variance = hardy_weinberg(np.array([12.0]), np.array([5.0]), np.array([2.0]))
    np.testing.assert_allclose(5.0 - excess, np.mean(het), rtol=0.01)
    np.testing.assert_allclose(variance, np.var(het), rtol=0.03)


def test_hardy_weinberg_holds_within_sites_where_populations_differ(run_state):
    sites, variables = populations(SITES, variants=400, fst=0.3, seed=10)
    medians = {}
    for stratified in (False, True):
        _, state = run_state(study(variables, plan("linear", stratified)), list(sites.values()))
        medians[stratified] = inflation(state["gwas.hwe_chi2"][state["gwas.status"] == 0])
    assert medians[False] > 2.0 > 1.3 > medians[True]


def test_whole_numbers_and_dosages_give_the_same_sums():
    r = np.random.default_rng(1)
    whole = r.integers(-1, 3, (50, 20)).astype(np.int8)
    numbers = np.where(whole < 0, np.nan, whole).astype(np.float32)
    null = Null.of(r.normal(size=(50, 2)), r.normal(size=50), r.uniform(0.1, 1, 50), centre=False)
    a, b = block_sums(whole, null), block_sums(numbers, null)
    near = block_sums(np.clip(numbers + np.float32(0.05) * (numbers == 1), 0, 2), null)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    for name in ("hard", "het", "hom"):
        np.testing.assert_array_equal(near[name], a[name])


def test_blocks_of_any_size_give_the_same_sums():
    r = np.random.default_rng(1)
    g = r.integers(-1, 3, (50, 23)).astype(np.int8)
    null = Null.of(r.normal(size=(50, 2)), r.normal(size=50), r.uniform(0.1, 1, 50), centre=True)
    one = site_sums([g], null, 23)
    many = site_sums([g[:, :7], g[:, 7:8], g[:, 8:]], null, 23)
    for name in one:
        np.testing.assert_allclose(one[name], many[name], rtol=1e-12, atol=1e-12)
    with pytest.raises(TaskError, match="end after 7 of 23"):
        site_sums([g[:, :7]], null, 23)
    with pytest.raises(TaskError, match="not of the data"):
        site_sums([g, g], null, 23)


def test_a_plink_file_streams_into_the_same_sums(tmp_path):
    bed_reader = pytest.importorskip("bed_reader")
    r = np.random.default_rng(1)
    g = r.integers(-1, 3, (41, 30)).astype(np.int8)
    bed_reader.to_bed(tmp_path / "x.bed", np.where(g < 0, -127, g).astype(np.int8))
    null = Null.of(r.normal(size=(41, 2)), r.normal(size=41), r.uniform(0.1, 1, 41), centre=True)
    streamed = site_sums((block for _, block in PlinkSource(tmp_path / "x.bed", Spec()).blocks(8)), null, 30)
    for name, values in site_sums([g], null, 30).items():
        np.testing.assert_allclose(streamed[name], values, rtol=1e-12, atol=1e-12)


def test_rows_without_a_covariate_or_in_the_other_part_are_left_out(run_state):
    sites, variables = populations(SITES, variants=30, seed=11)
    for rows in sites.values():
        rows.columns["age"][:10] = np.nan
    whole = run_state(study(variables, plan("linear")), list(sites.values()))[0]["gwas"]
    assert (whole["n"], whole["left_out"]) == (304 - 41, 41)
    steps = plan("linear")
    steps[0]["part"] = "train"
    part = run_state(study(variables, steps), list(sites.values()))[0]["gwas"]
    assert 100 < part["n"] < whole["n"]


def test_other_sites_than_those_of_the_null_model(run_state):
    sites, variables = populations(SITES, variants=30, seed=12)
    asked = study(variables, plan("linear", True))
    _, everybody = run_state(asked, list(sites.values()))
    null, gwas = build_plan(asked)
    fewer = [sites[s] for s in ("a", "c", "d")]
    vectors = [gwas.visit(everybody, rows, {}, np.random.default_rng(0)).vector for rows in fewer]
    state = gwas.combine(everybody, Total({k: sum(v[k] for v in vectors) for k in vectors[0]}, 3.0, 3))
    _, alone = run_state(asked, fewer)
    close(table(state)["chi2"], table(alone)["chi2"])
    assert any("moved on by one Newton step" in w for w in gwas.result(state)["warnings"])
    assert not any("Newton" in w for w in gwas.result(alone)["warnings"])
    assert null.done(state)


def test_tails():
    x = np.array([0.0, 1.0, 30.0, 1000.0, 1e5])
    np.testing.assert_allclose(p_values(x[:3]), chi_square.sf(x[:3], 1), rtol=1e-12)
    np.testing.assert_allclose(minus_log10_p(x[:4]), -chi_square.logsf(x[:4], 1) / np.log(10), rtol=1e-10, atol=1e-12)
    assert inflation(np.zeros(0)) is None


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"null": "nul"}, "no earlier step|not an earlier step"),
        ({"null": "other"}, "must be"),
        ({"genotypes": "age"}, "no array"),
        ({"genotypes": "image"}, "no array"),
        ({"genotypes": "gentypes"}, "does not list"),
        ({"variants": ["rs1"]}, "names 1 variants"),
        ({"min_count": 5}, "min_count"),
    ],
)
def test_bad_plans(build_study, change, match):
    variables = populations({"a": (5, 0)}, variants=10)[1] | {"image": {"type": "array", "shape": [4, 4]}}
    steps = [{"name": "other", "task": "moments", "variables": ["age"]}, *plan("linear")]
    steps[-1] |= change
    with pytest.raises(ManifestError, match=match):
        build_plan(build_study(variables, steps))


@pytest.mark.parametrize(("change", "match"), [({"ridge": 1.0}, "ridge"), ({"intercept": False}, "no intercept")])
def test_bad_null_models(build_study, change, match):
    steps = plan("linear")
    steps[0] |= change
    with pytest.raises(ManifestError, match=match):
        build_plan(build_study(populations({"a": (5, 0)}, variants=10)[1], steps))


def test_private_studies_are_refused():
    private = {"privacy": {"eps": 3.0, "delta": 1e-6, "patients": 1000}}
    steps = plan("linear")[1:]
    with pytest.raises(ManifestError, match="no form that protects"):
        build_plan(Study.parse({"name": "t", "data": {"variables": populations({"a": (5, 0)}, variants=10)[1]}, "terms": private, "plan": steps}))


def broken(change):
    sites, variables = populations(SITES, variants=20, seed=13)
    return [change(name, rows) for name, rows in sites.items()], variables


@pytest.mark.parametrize("value", [3.0, -1.0, np.inf])
def test_what_is_no_dosage(run_state, value):
    def change(name, rows):
        rows.arrays["genotypes"][0, 3] = value
        return rows

    sites, variables = broken(change)
    with pytest.raises(TaskError, match="no dosage"):
        run_state(study(variables, plan("linear")), sites)


def test_bad_sites(run_state):
    sites, variables = broken(lambda name, rows: replace(rows, patient=np.asarray(["one"] * len(rows))))
    with pytest.raises(TaskError, match="more than one row"):
        run_state(study(variables, plan("linear")), sites)
    sites, variables = broken(lambda name, rows: replace(rows, arrays={}))
    with pytest.raises(TaskError, match="do not have"):
        run_state(study(variables, plan("linear")), sites)
    sites, variables = broken(lambda name, rows: replace(rows, arrays={"genotypes": rows.arrays["genotypes"][:, :9]}))
    with pytest.raises(TaskError, match="end after 9 of 20"):
        run_state(study(variables, plan("linear")), sites)


def test_a_null_model_that_has_not_converged(run_state):
    sites, variables = populations(SITES, variants=20, seed=13)
    steps = plan("logistic")
    steps[0]["rounds"] = 1
    with pytest.raises(TaskError, match="not converged"):
        run_state(study(variables, steps), list(sites.values()))


def test_a_phenotype_that_the_covariates_determine(run_state):
    sites, variables = broken(lambda name, rows: replace(rows, columns={**rows.columns, "y": 2.0 * rows.columns["age"]}))
    with pytest.raises(TaskError, match="determine the phenotype"):
        run_state(study(variables, plan("linear")), sites)


def test_no_variant_can_be_shown(run_state):
    sites, variables = broken(lambda name, rows: replace(rows, arrays={"genotypes": np.zeros_like(rows.arrays["genotypes"])}))
    got, state = run_state(study(variables, plan("logistic")), sites)
    assert (got["gwas"]["tested"], got["gwas"]["lambda_gc"], got["gwas"]["hits"], got["gwas"]["qq"]) == (0, None, [], [])
    assert got["gwas"]["not_shown"]["no variation"] == 20
    assert len(table(state)) == 0
    assert len(table(state, shown=False)) == 20


def test_table_with_the_variants_described(run_state):
    sites, variables = populations(SITES, variants=20, seed=13)
    _, state = run_state(study(variables, plan("linear")), list(sites.values()))
    known = pl.DataFrame({"name": [f"rs{k}" for k in range(20)], "chrom": ["1"] * 20, "pos": range(20)})
    frame = table(state, variants=known)
    assert frame.columns[:4] == ["name", "chrom", "pos", "column"]
    assert (frame["name"] == pl.Series([f"rs{k}" for k in frame["column"]])).all()
    with pytest.raises(TaskError, match="19 variants are described"):
        table(state, variants=known[:19])


def test_a_warning_where_few_are_ill(run_state):
    sites, variables = populations({f"s{k}": (200, 0) for k in range(5)}, variants=50, means=(-4.0,), seed=3)
    got = run_state(study(variables, plan("logistic")), list(sites.values()))[0]["gwas"]
    assert any("rarer outcome" in w for w in got["warnings"])


def test_a_site_that_holds_nobody(run_state):
    sites, variables = populations(SITES, variants=20, seed=13)
    nobody = next(iter(sites.values())).take(np.zeros(0, dtype=np.intp))
    assert isinstance(nobody, Rows)
    a, b = (table(run_state(study(variables, plan("linear", True)), s)[1]) for s in (list(sites.values()), [nobody, *sites.values()]))
    np.testing.assert_array_equal(a["chi2"], b["chi2"])


def test_a_plink_fileset_from_file_to_hits(tmp_path):
    """500 people and 10,000 variants of five chromosomes that bed-reader ships (simulated, without an effect)."""
    folder = Path(pytest.importorskip("bed_reader").__file__).parent / "tests" / "data"
    bed = folder / "toydata.5chrom.bed"
    if not bed.exists():
        pytest.skip("this release of bed-reader ships no sample")
    r = np.random.default_rng(0)
    pl.DataFrame({"sample": [f"per{k}" for k in range(500)], "age": r.normal(60, 10, 500).round(1)}).write_csv(tmp_path / "labels.csv")
    mapping = tmp_path / "map.toml"
    mapping.write_text(f'[source]\ntype = "plink"\nlabels_file = "{tmp_path / "labels.csv"}"\n')
    variables = {
        "sample": {"role": "patient", "type": "text"},
        "genotypes": {"type": "array", "shape": [10_000]},
        "phenotype": {"role": "outcome"},
        "age": {"minimum": 0, "maximum": 120},
    }
    steps = plan("linear", True)
    steps[0]["outcome"] = "phenotype"
    asked = study(variables, steps)
    rows = load_rows(asked, mapping, bed)
    sites = {f"s{k}": rows.take(part) for k, part in enumerate(np.split(r.permutation(500), [1, 80, 200, 350]))}
    run = simulate(asked, sites)
    known = PlinkSource(bed, Spec())
    variants = pl.concat([block for block, _ in known.blocks()])
    frame = table(run.state, variants=variants)
    got = run.results["gwas"]
    parts = [s.arrays["genotypes"] for s in sites.values()]
    y, age = (np.concatenate([s.columns[k] for s in sites.values()]) for k in ("phenotype", "age"))
    where = np.repeat(np.arange(5), [len(s) for s in sites.values()])
    x = np.column_stack([age, *(where == k for k in range(5))]).astype(float)
    project = np.eye(500) - x @ np.linalg.pinv(x)
    g, residual = project @ imputed(parts, True), project @ y
    v = (g**2).sum(0)
    chi2 = np.divide((g.T @ residual) ** 2, v * (residual @ residual) / (500 - 6), out=np.zeros(10_000), where=v > 1e-9)
    close(frame["chi2"], chi2[frame["column"]])
    print(f"lambda {got['lambda_gc']:.3f}, tested {got['tested']}, first hits {frame.sort('p')['name'][:8].to_list()}")
    assert got["n"] == 500
    assert got["not_shown"]["rare"] + got["tested"] + got["not_shown"]["no variation"] == 10_000
    svg = manhattan(frame)
    assert svg.count("<path") == 5


def test_covariates_of_every_kind_scaled_and_filled_in(run_state):
    sites, variables = populations(SITES, variants=60, fst=0.05, missing=0.05, seed=14)
    r = np.random.default_rng(0)
    for rows in sites.values():
        rows.columns["arm"] = r.integers(0, 3, len(rows)).astype(float)
        rows.columns["bmi"] = np.where(r.uniform(size=len(rows)) < 0.1, np.nan, r.normal(27, 4, len(rows)))
    variables |= {"arm": {"type": "category", "categories": ["a", "b", "c"]}, "bmi": {}}
    null, gwas = plan("logistic")
    null |= {"features": ["age", "arm", "bmi"], "standardise": "scale"}
    before = [
        {"name": "fill", "task": "impute", "variables": ["bmi"]},
        {"name": "scale", "task": "standardise", "variables": ["age", "bmi"]},
    ]
    _, state = run_state(study(variables, [*before, null, gwas]), list(sites.values()))
    frame = table(state)
    get = lambda k: np.concatenate([s.columns[k] for s in sites.values()])  # noqa: E731
    arm, bmi = get("arm"), get("bmi")
    x = np.column_stack([np.ones(len(arm)), get("age"), arm == 1, arm == 2, np.where(np.isnan(bmi), np.nanmean(bmi), bmi)]).astype(float)
    fit = sm.GLM(get("case"), x, family=sm.families.Binomial()).fit(tol=1e-15, maxiter=100)
    g = imputed([s.arrays["genotypes"] for s in sites.values()], False)
    w = fit.mu * (1 - fit.mu)
    gx = (g * w[:, None]).T @ x
    v = (g**2 * w[:, None]).sum(0) - np.einsum("vp,pq,vq->v", gx, np.linalg.inv(x.T @ (x * w[:, None])), gx)
    chi2 = (g.T @ (get("case") - fit.mu)) ** 2 / v
    close(frame["chi2"], chi2[frame["column"]])


def test_a_logistic_null_model_that_other_sites_answer_is_moved_on(run_state):
    sites, variables = populations(SITES, variants=60, seed=12)
    asked = study(variables, plan("logistic"))
    _, everybody = run_state(asked, list(sites.values()))
    gwas = build_plan(asked)[1]
    fewer = [sites[s] for s in ("a", "c", "d")]
    vectors = [gwas.visit(everybody, rows, {}, np.random.default_rng(0)).vector for rows in fewer]
    state = gwas.combine(everybody, Total({k: sum(v[k] for v in vectors) for k in vectors[0]}, 3.0, 3))
    alone = table(run_state(asked, fewer)[1])
    np.testing.assert_allclose(table(state)["chi2"], alone["chi2"], rtol=0.05, atol=0.05)


def packed(sites, alleles=None):
    """The same rows with their genotypes as two bits each, and what each site's file says of the variants."""
    out = {}
    for name, rows in sites.items():
        named = list_hash([(f"rs{j}", (alleles or {}).get((name, j), "A")) for j in range(rows.arrays["genotypes"].shape[1])])
        out[name] = replace(rows, arrays={"genotypes": Genotypes.of(rows.arrays["genotypes"], named)})
    return out


@pytest.mark.parametrize("stratified", [False, True])
def test_packed_genotypes_give_the_same_bits(run_state, stratified):
    sites, variables = populations(SITES, variants=80, missing=0.05, seed=14)
    steps = [{"name": "pcs", "task": "genotype_pca", "components": 2, "rounds": 9}, *plan("linear", stratified)]
    steps[1]["features"] = ["age", "pc1"]
    _, numbers = run_state(study(variables, steps), list(sites.values()))
    results, state = run_state(study(variables, steps), list(packed(sites).values()))
    np.testing.assert_array_equal(state["pcs.loadings"], numbers["pcs.loadings"])
    for name in ("chi2", "effect", "se", "frequency", "called", "hwe_chi2", "status"):
        np.testing.assert_array_equal(state[f"gwas.{name}"], numbers[f"gwas.{name}"])
    assert not any("did not say which variants" in w for w in results["gwas"]["warnings"])


def test_sites_that_count_other_alleles_are_noticed_from_the_sum(run_state):
    sites, variables = populations(SITES, variants=30, seed=15)
    steps = plan("linear", True)
    mixed = packed(sites, {("d", 17): "G"})
    with pytest.raises(TaskError, match="not of the same variants") as caught:
        run_state(study(variables, steps), list(mixed.values()))
    assert "variants_file" in caught.value.fix
    with pytest.raises(TaskError, match="not of the same variants"):
        run_state(study(variables, [{"name": "pcs", "task": "genotype_pca", "components": 2}, *steps]), list(mixed.values()))
    with pytest.raises(TaskError, match="not of the same variants"):
        simulate(study(variables, steps), mixed)
    partly = {**packed(sites), "a": sites["a"]}
    got = run_state(study(variables, steps), list(partly.values()))[0]["gwas"]
    assert any("1 of 5 sites did not say which variants" in w for w in got["warnings"])


@given(hashes=st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=6))
def test_lists_that_differ_are_told_apart_from_sums(hashes):
    each = [gwas_lists.facts(Genotypes.of(np.zeros((1, 1), np.int8), h)) for h in hashes]
    total = Total({k: sum(np.asarray(f.get(k, 0.0)) for f in each) for k in gwas_lists.FIELDS}, 1.0, len(each))
    if len({*hashes}) == 1:
        gwas_lists.check(total, "gwas")
    else:
        with pytest.raises(TaskError, match="not of the same variants"):
            gwas_lists.check(total, "gwas")
