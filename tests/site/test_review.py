"""What a data manager reads, and what cannot be approved whoever asks for it."""

import json
from typing import Any

import msgspec
import pytest

from locum.errors import LocumError, NotFound, Refused
from locum.site import folder as site_folder
from locum.site.review import NOT_ALLOWED, decide, list_studies, review
from locum.site.store import Store


def test_a_review_says_what_would_run_on_which_columns_and_what_would_leave(federation: Any, study: Any) -> None:
    site = federation.site("reader")
    asked = study("readable", plan=[{"name": "m", "task": "moments", "variables": ["x"]}, {"name": "w", "task": "test_site_walk", "rounds": 4}])
    federation.client.submit(asked)
    seen = review(site, asked.digest[:10])
    assert seen.digest == asked.digest
    assert seen.fingerprint == federation.client.api.connection.identity.public.fingerprint
    assert [(s.name, s.reads, s.scalars) for s in seen.steps] == [("m", ("x",), 5), ("w", ("x",), 4)]
    assert seen.problems == ()
    assert seen.report
    assert seen.report.patients == 4
    text = seen.text()
    for words in ("Does it walk?", "To test.", seen.fingerprint, "a sum of x with noise", "clear text, visible to the coordinator", "4 rows of 4 patients"):
        assert words in text
    assert "none yet, so nothing runs" in text
    for line in NOT_ALLOWED:
        assert line[:40] in text
    assert json.loads(json.dumps(seen.to_json()))["steps"][1]["leaves"] == "a sum of x with noise"


def test_approve_then_deny(federation: Any, study: Any) -> None:
    site = federation.site("mind")
    asked = study("mind")
    federation.client.submit(asked)
    assert decide(site, asked.digest, approve=True)
    assert site.name in federation.client.study(asked.digest).approvals
    assert next(s for s in list_studies(site) if s.digest == asked.digest).decision == "approved"
    assert decide(site, asked.digest, approve=False)
    assert site.name in federation.client.study(asked.digest).denials
    assert "denied" in review(site, asked.digest).text()


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("", "no data set"),
        ("y\n1\n", "'x', which is neither mapped nor a column"),
        ("x\n1\n2\n-50\n", "lies outside"),
        ("x\nabc\n", "not a number"),
        ("x\n", "no rows"),
    ],
)
def test_data_that_will_not_do_cannot_be_approved_but_denied(federation: Any, study: Any, rows: str, says: str) -> None:
    site = federation.site("unfit", rows)
    asked = study("strict", variables={"x": {"minimum": 0, "maximum": 10}})
    federation.client.submit(asked)
    assert says in review(site, asked.digest).text().replace("\n    ", " ")
    with pytest.raises(Refused, match="cannot be approved here") as error:
        decide(site, asked.digest, approve=True)
    assert says in str(error.value)
    assert "abc" not in str(error.value)
    assert site.name not in federation.client.study(asked.digest).approvals
    assert decide(site, asked.digest, approve=False)


def test_several_data_sets_need_a_choice(federation: Any, study: Any) -> None:
    site = federation.site("many")
    (site / "other.csv").write_text("x\n1\n2\n")
    site_folder.add_data(site, "other", site / "other.csv")
    asked = study("choice")
    federation.client.submit(asked)
    with pytest.raises(Refused, match="several data sets"):
        decide(site, asked.digest, approve=True)
    with pytest.raises(Refused, match="no data set 'otter'"):
        decide(site, asked.digest, approve=True, data="otter")
    assert decide(site, asked.digest, approve=True, data="other")
    assert review(site, asked.digest).data == "other"


def test_a_policy_that_forbids_clear_text(federation: Any, study: Any) -> None:
    site = federation.site("shy")
    (site / "site.toml").write_text("[policy]\nallow_clear = false\n")
    asked = study("clear")
    federation.client.submit(asked)
    with pytest.raises(Refused, match="clear text"):
        decide(site, asked.digest, approve=True)


def test_too_few_patients_for_the_terms(federation: Any, study: Any) -> None:
    site = federation.site("small")
    asked = study("crowd", terms={"min_rows": 50})
    federation.client.submit(asked)
    with pytest.raises(Refused, match="50 are needed"):
        decide(site, asked.digest, approve=True)


def test_a_manifest_that_does_not_build_here(rogue: Any, study: Any) -> None:
    asked = study("unknown", plan=[{"name": "x", "task": "not_a_task"}])
    rogue.learn(asked, approve=False)
    assert "does not exist" in review(rogue.site, asked.digest).problems[0]
    with pytest.raises(Refused, match="does not exist"):
        decide(rogue.site, asked.digest, approve=True)


def test_a_digest_that_nobody_knows(federation: Any, study: Any) -> None:
    site = federation.site("lost")
    with pytest.raises(NotFound, match="No study starts with"):
        review(site, "f" * 64)
    for name in ("a", "b"):
        federation.client.submit(study(name))
    list_studies(site)
    with pytest.raises(LocumError, match="studies start with ''"):
        review(site, "")


def test_a_study_that_this_release_cannot_read_hides_no_other(federation: Any, study: Any) -> None:
    site = federation.site("older")
    asked = study("readable-still")
    federation.client.submit(asked)
    assert asked.digest in [s.digest for s in list_studies(site)]
    with Store(site) as store:
        view = store.study(asked.digest).view
        store.put_study(msgspec.structs.replace(view, digest="f" * 64, manifest='{"schema": "locum/study/0"}'))
    found = [s.digest for s in list_studies(site)]
    assert asked.digest in found
    assert "f" * 64 not in found
