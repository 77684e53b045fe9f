"""Categories found under noise: what is frequent is found, what one patient has never is, and one patient moves a sum by at most 1."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locum import Rows, Study, simulate
from locum.data import registry
from locum.errors import LocumError, ManifestError
from locum.tasks import build_plan
from locum.tasks.private.vocabulary import normal

VARIABLES = {"text": {"type": "text"}, "id": {"role": "patient"}}
FIND = {"name": "v", "task": "vocabulary", "variable": "text", "length": 8}


def study(change=None, privacy=None):
    terms = {"privacy": {"eps": 3.0, "delta": 1e-6, "patients": 20_000, **(privacy or {})}, "min_cohort": 5}
    return Study.parse({"name": "v", "data": {"variables": VARIABLES}, "terms": terms, "plan": [{**FIND, **(change or {})}]})


def rows(texts, patient=None):
    made = Rows.of({}, patient=patient or range(len(texts)))
    return replace(made, texts={"text": np.asarray(texts, dtype=np.str_)})


def deal(texts, sites=5, seed=0):
    order = np.array_split(np.random.default_rng(seed).permutation(len(texts)), sites)
    return {f"h{i}": rows(np.asarray(texts)[o], patient=[f"{i}/{j}" for j in range(len(o))]) for i, o in enumerate(order)}


def find(texts, change=None, **privacy):
    return simulate(study(change, privacy), deal(texts)).results["v"]


def test_frequent_texts_are_found_and_counted():
    found = find(["Aspirin"] * 4000 + ["aspirin "] * 1000 + ["Heparin"] * 3000 + ["asp"] * 2500 + ["", "  "] * 1000 + ["rare one"] * 3)
    got = {c["category"]: c for c in found["categories"]}
    assert set(got) == {"aspirin", "heparin", "asp"}
    for name, n in (("aspirin", 5000), ("heparin", 3000), ("asp", 2500)):
        assert abs(got[name]["patients"] - n) < 5 * got[name]["noise_sd"]
    assert found["line"] == 'categories = ["aspirin", "heparin", "asp"]'
    assert found["threshold"] > 4 * got["asp"]["noise_sd"]


def test_the_line_is_a_contract():
    line = find(["b"] * 4000 + ['a"c'] * 3000)["line"]
    contract = f'[data.variables.x]\ntype = "category"\n{line}\n'
    import tomllib

    assert tomllib.loads(contract)["data"]["variables"]["x"]["categories"] == ["b", "a_c"]


@pytest.mark.parametrize("eps", [3.0, 100.0])
def test_a_canary_with_one_patient_is_never_found(eps):
    """Even where there is next to no noise: fewer than 11 patients are no category."""
    for seed in range(20 if eps == 100.0 else 5):
        texts = ["common"] * 2000 + ["canary"]
        s = study({"length": 6}, {"eps": eps, "patients": 2000, "override": "a test without noise"})
        found = simulate(s, deal(texts, seed=seed)).results["v"]
        assert "canary" not in [c["category"] for c in found["categories"]]
        assert not any(p.startswith("can") for p in found["longer"])


def test_ten_patients_are_too_few_and_a_hundred_enough_where_noise_is_small():
    found = find(["x"] * 100 + ["y"] * 10, {"length": 1}, eps=100.0, patients=100, override="a test without noise")
    assert [c["category"] for c in found["categories"]] == ["x"]


def test_no_noise_finds_nothing_that_is_not_there(private_state):
    texts = [f"{a}{b}" for a in "abc" for b in "xyz" for _ in range(20)]
    found, _ = private_state(study({"width": 3}), [rows(texts)])
    assert len(found["v"]["categories"]) == 9 or found["v"]["warnings"]
    assert {c["category"] for c in found["v"]["categories"]} <= set(texts)
    wide, _ = private_state(study(), [rows(texts)])
    assert [c["patients"] for c in wide["v"]["categories"]] == [20] * 9


def test_texts_longer_than_the_length_are_named_by_how_they_begin(private_state):
    found, _ = private_state(study({"length": 3}), [rows(["abcdef"] * 50 + ["abc"] * 40)])
    assert [c["category"] for c in found["v"]["categories"]] == ["abc"]
    assert found["v"]["longer"] == ["abcd"]
    assert "go on after 4 characters" in found["v"]["warnings"][0]


def test_rounds_end_when_no_prefix_is_left(private_state):
    _, state = private_state(study({"length": 20}), [rows(["ab"] * 50)])
    assert int(state["v.depth"]) == 3


def test_characters_outside_the_alphabet(private_state):
    found, _ = private_state(study(), [rows(["caf\u00e9"] * 50)])
    assert [c["category"] for c in found["v"]["categories"]] == ["caf_"]
    assert "outside the alphabet" in found["v"]["warnings"][0]


def test_rounds_and_noise_are_what_the_budget_was_told():
    task = build_plan(study({"length": 8}))[0]
    assert task.request().rounds == 9
    assert build_plan(study({"length": 8, "rounds": 4}))[0].request().rounds == 4


@pytest.mark.parametrize("per_patient", [1, 3])
def test_a_patient_counts_with_so_many_texts_and_a_norm_of_one(per_patient):
    task = build_plan(study({"per_patient": per_patient, "width": 4}))[0]
    records = rows(["c", "a", "b", "d", "a", "zz"], patient=["p"] * 6)
    vector = task.visit({}, records, {}, np.random.default_rng(0)).vector["counts"]
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
    assert np.linalg.norm(vector) <= 1.0
    assert sorted(np.flatnonzero(vector).tolist()) == [0, 1, 2][:per_patient], "the first ones in the alphabet"
    same = task.visit({}, rows(["aa", "ab", "ac"], patient=["p"] * 3), {}, np.random.default_rng(0)).vector["counts"]
    assert np.linalg.norm(same) <= 1.0


@settings(max_examples=100, deadline=None)
@given(
    texts=st.lists(st.text(alphabet="ab\u00e9 Z", max_size=6), min_size=2, max_size=12),
    owners=st.lists(st.integers(0, 3), min_size=12, max_size=12),
    prefixes=st.lists(st.lists(st.integers(-3, 60), min_size=5, max_size=5), max_size=6),
    depth=st.integers(-2, 9),
)
def test_whatever_prefixes_are_asked_for_one_patient_moves_at_most_one(texts, owners, prefixes, depth):
    task = build_plan(study({"length": 4, "width": 4, "per_patient": 2}))[0]
    given_ = np.asarray(prefixes, np.int64).reshape(-1, 5)
    state = {"v.depth": np.asarray(depth), "v.prefixes": given_, "v.found": given_[:0], "v.sizes": np.zeros(0), "v.cut": np.asarray(0)}
    everyone = rows(texts, patient=owners[: len(texts)])
    whole = task.visit(state, everyone, {}, np.random.default_rng(0)).vector["counts"]
    for one in range(everyone.patients):
        less = task.visit(state, everyone.take(everyone.codes != one), {}, np.random.default_rng(0)).vector["counts"]
        assert np.linalg.norm(whole - less) <= 1.0 + 1e-9


def test_texts_are_compared_without_case_and_spaces():
    assert normal("  Atrial\t FIBRILLATION ") == "atrial fibrillation"
    assert normal("\uff21\u2167") == "aviii"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alphabet": "AB"}, "in lower case"),
        ({"alphabet": "aab"}, "once"),
        ({"alphabet": "ab_"}, "without '_'"),
        ({"variable": "tex"}, "did you mean 'text'"),
        ({"variable": "id"}, "is of type 'number', which 'vocabulary' cannot read"),
    ],
)
def test_wrong_parameters(change, message):
    with pytest.raises(ManifestError, match=message):
        build_plan(study(change))


def test_there_is_no_form_without_noise():
    s = Study.parse({"name": "v", "data": {"variables": VARIABLES}, "terms": {"privacy": "none"}, "plan": [FIND]})
    with pytest.raises(ManifestError, match=r"'vocabulary' has no form without noise.*what single patients have"):
        build_plan(s)


def test_the_countries_of_the_stroke_trial():
    """19,435 patients of 36 countries, dealt over five hospitals: at eps 3 every country that is above the threshold by far is found."""
    try:
        parts = registry.load("ist", by="country")
    except LocumError as error:
        pytest.skip(f"ist: {error.what}")
    truth = {name: len(r) for name, r in parts.items()}
    found = find([name.upper() for name, n in truth.items() for _ in range(n)])
    got = {c["category"]: c["patients"] for c in found["categories"]}
    sd = found["categories"][0]["noise_sd"]
    right = set(got) & set(truth)
    print(f"threshold {found['threshold']:.0f} patients, sd {sd:.1f}; precision {len(right) / len(got):.2f}, recall {len(right) / len(truth):.2f}")
    print(found["line"])
    assert set(got) <= set(truth)
    assert {name for name, n in truth.items() if n > found["threshold"] + 6 * sd} <= set(got)
    assert all(abs(got[name] - truth[name]) < 6 * sd for name in right)
