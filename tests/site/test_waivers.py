"""A refusal that a data manager lets pass: signed, bounded, on record, and looked at again at every run."""

import sqlite3
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import psycopg
import pytest

from locum.errors import LocumError, ManifestError, Refused
from locum.site.checks import check, list_waivers, unwaive, waive
from locum.site.folder import load_identity, releases
from locum.site.review import decide, review
from locum.site.rows import SiteRows
from locum.site.store import Store

RANGE = {"x": {"minimum": 0, "maximum": 10}}
REASON = "measured on the old scale, agreed with the investigator"


@pytest.fixture
def asked(federation: Any, study: Any) -> Any:
    made = study("waived", variables=RANGE)
    federation.client.submit(made)
    return made


def test_a_waiver_lets_the_study_be_approved_and_its_rows_be_read(federation: Any, asked: Any) -> None:
    site = federation.site("waiver", "x\n1\n2\n-50\n3\n")
    with pytest.raises(Refused, match="lies outside"):
        decide(site, asked.digest, approve=True)
    made = waive(site, asked.digest, "plausibility", "x", reason=REASON, by="Dr. Data, manager")
    assert (made.at_most, made.study) == (1, asked.digest)
    found = check(site, asked.digest)
    assert found.report.result == "WARN"
    assert "waived by Dr. Data" in next(f.what for f in found.report.of("WARN") if f.variable == "x")
    assert "waived by Dr. Data" in review(site, asked.digest).text().replace("\n    ", " ")
    assert decide(site, asked.digest, approve=True)
    with Store(site) as store:
        known = store.study(asked.digest)
        rows = SiteRows(store, load_identity(site).public)
        assert rows(asked, known, "run").columns["x"].tolist() == [1, 2, -50, 3]
        unwaive(site, asked.digest, 1, by="Dr. Data")
        with pytest.raises(LocumError, match="lies outside"):
            rows(asked, known, "run")
    assert [(w.n, w.withdrawn) for w in list_waivers(site, asked.digest)] == [(1, 2)]
    with pytest.raises(ManifestError, match=f"no waiver 1 in force.*locum site waiver list {asked.digest[:12]}"):
        unwaive(site, asked.digest, 1, by="Dr. Data")


def test_more_rows_than_it_is_about_are_refused_again(federation: Any, asked: Any) -> None:
    site = federation.site("grown", "x\n1\n-50\n")
    waive(site, asked.digest, "plausibility", "x", reason=REASON, by="Dr. Data")
    (site / "table.csv").write_text("x\n1\n-50\n-51\n")
    assert check(site, asked.digest).report.result == "REFUSE"


def test_it_is_for_one_study_and_until_a_day(federation: Any, asked: Any, study: Any) -> None:
    site = federation.site("days", "x\n1\n-50\n")
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    waive(site, asked.digest, "plausibility", "x", reason=REASON, by="Dr. Data", until=yesterday)
    assert check(site, asked.digest).report.result == "REFUSE"
    waive(site, asked.digest, "plausibility", "x", reason=REASON, by="Dr. Data", until=date(2999, 1, 1))
    assert check(site, asked.digest).report.result == "WARN"
    other = study("other", variables=RANGE)
    federation.client.submit(other)
    assert check(site, other.digest).report.result == "REFUSE"


@pytest.mark.parametrize(
    ("rows", "gate", "variable", "edit", "says"),
    [
        ("x\n1\nabc\n", "conformance", "x", {}, "cannot be waived"),
        ("x\n1\n-50\n", "plausibility", "y", {}, "does not refuse 'y'"),
        ("x\n1\n-50\n", "completeness", "x", {}, "does not refuse 'x'"),
        ("x\n1\n-50\n", "plausibility", "x", {"reason": "ok"}, "reason"),
        ("x\n1\n-50\n-50\n", "plausibility", "x", {"at_most": 1}, "about 2 rows, and the waiver covers 1"),
    ],
)
def test_what_cannot_be_waived(federation: Any, asked: Any, rows: str, gate: Any, variable: str, edit: dict[str, Any], says: str) -> None:
    site = federation.site("cannot", rows)
    with pytest.raises(ManifestError, match=says):
        waive(site, asked.digest, gate, variable, **({"reason": REASON, "by": "Dr. Data"} | edit))
    assert list_waivers(site, asked.digest) == []


@pytest.mark.parametrize("column", ["line", "signature", "study"])
def test_an_edited_line_is_found(federation: Any, asked: Any, study: Any, column: str) -> None:
    site = federation.site("edited", "x\n1\n-50\n")
    waive(site, asked.digest, "plausibility", "x", reason=REASON, by="Dr. Data")
    other = study("victim", variables=RANGE)
    federation.client.submit(other)
    with Store(site) as store:
        (_, _, line, signature), *_ = store.waivers(asked.digest)
    db = sqlite3.connect(site / "site.db")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        db.execute("UPDATE waiver SET line = '{}'")
    db.execute("DROP TRIGGER waiver_is_not_edited")
    edits = {"line": line.replace('"at_most":1', '"at_most":9'), "signature": "A" + signature[1:] if signature[0] != "A" else "B" + signature[1:]}
    db.execute(f"UPDATE waiver SET {column} = ?", (edits.get(column, other.digest),))
    db.commit()
    db.close()
    with pytest.raises(LocumError, match="not what was signed"):
        check(site, other.digest if column == "study" else asked.digest)


def test_a_database_without_a_file_is_a_data_set_too(federation: Any, postgres_url: str, monkeypatch: Any, study: Any) -> None:
    """A live source has no path: it is read anew for each run, and what its ledger stands for is its mapping."""
    from locum.site.folder import add_data
    from locum.site.tables import fingerprint, live, stamp

    site = federation.site("live", "")
    db = psycopg.connect(postgres_url, autocommit=True)
    db.execute("CREATE TABLE lab (x float8)")
    db.execute("INSERT INTO lab VALUES (1), (2)")
    monkeypatch.setenv("LAB", postgres_url)
    (site / "lab.toml").write_text('[source]\ntype = "sql"\nurl_env = "LAB"\ntable = "lab"\n')
    added = add_data(site, "lab", mapping=site / "lab.toml")
    assert (added.source, added.columns) == ("", ("x",))
    asked = study("live", variables={"x": {}})
    federation.client.submit(asked)
    assert decide(site, asked.digest, approve=True)
    with Store(site) as store:
        known = store.study(asked.digest)
        data = store.data_for(known)
        assert live(data)
        before = (stamp(data), fingerprint(data))
        rows = SiteRows(store, load_identity(site).public)
        assert rows(asked, known, "run1").columns["x"].tolist() == [1, 2]
        db.execute("INSERT INTO lab VALUES (3)")
        db.close()
        assert rows(asked, known, "run1").columns["x"].tolist() == [1, 2], "one run sees one table"
        assert rows(asked, known, "run2").columns["x"].tolist() == [1, 2, 3]
        assert (stamp(data), fingerprint(data)) == before
    assert msgspec.json.encode(added)


def test_a_folder_is_told_by_the_names_and_bytes_of_its_files(tmp_path: Any) -> None:
    from locum.site.store import DataSet
    from locum.site.tables import fingerprint, same_table, stamp

    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "a.ndjson").write_text("{}\n")
        (tmp_path / name / "sub" / "b.ndjson").write_text("{}\n")
    one, two = (DataSet(name, str(tmp_path / name), "") for name in ("one", "two"))
    assert same_table(one, two)
    before = stamp(two)
    (tmp_path / "two" / "sub" / "b.ndjson").rename(tmp_path / "two" / "c.ndjson")
    assert not same_table(one, two)
    assert stamp(two) != before
    assert fingerprint(one) != fingerprint(two)


def test_a_site_that_drifts_declines_what_follows_until_somebody_answers_for_it(federation: Any, study: Any) -> None:
    """The federation's counts come in round 1 of the step; what the site found in round 2 is a gate for the steps after it, here alone."""
    import numpy as np

    plan = [{"name": "drift", "task": "drift", "variables": ["x"]}, {"name": "m", "task": "moments", "variables": ["x"]}]
    asked = study("drifting", plan=plan, variables={"x": {"minimum": 0, "maximum": 100}}, terms={"min_cohort": 3, "start_when": 4, "quorum": 3})
    draw = np.random.default_rng(0)
    tables = ["x\n" + "".join(f"{v}\n" for v in draw.normal(80 if i == 3 else 30, 5, 400).clip(0, 100)) for i in range(4)]
    sites = [federation.site(f"d{i}", rows) for i, rows in enumerate(tables)]
    with federation.serve(sites):
        view = federation.finish(federation.submit(asked, sites))
        assert view.status == "finished", view.error
    found = {path.name: check(path, asked.digest).report for path in sites}
    assert [next(f.result for f in r.findings if f.gate == "drift") for r in found.values()] == ["PASS", "PASS", "PASS", "REFUSE"]
    assert [r.entry.step for r in releases(sites[3])] == ["drift", "drift"]
    assert [r.entry.step for r in releases(sites[0])] == ["drift", "drift", "m"]
    waive(sites[3], asked.digest, "drift", "x", reason="this hospital treats the oldest patients", by="Dr. Data")
    assert check(sites[3], asked.digest).report.result == "WARN"


def test_under_privacy_a_table_that_fails_its_gates_later_is_not_declined_but_said_here(federation: Any, study: Any) -> None:
    """One patient may decide what a gate says; a decline would tell the coordinator so, without noise."""
    site = federation.site("later", "x\n1\n2\n3\n")
    terms = {"privacy": {"eps": 1.0, "delta": 1e-7, "patients": 100}, "min_cohort": 5, "aggregation": "masked"}
    asked = study("private", variables=RANGE, plan=[{"name": "m", "task": "moments", "variables": ["x"]}], terms=terms)
    federation.client.submit(asked)
    said: list[tuple[str, Any]] = []
    with Store(site) as store:
        check(site, asked.digest)
        store.decide(asked.digest, approve=True, data="main")
        known = store.study(asked.digest)
        rows = SiteRows(store, load_identity(site).public, notice=lambda event, details: said.append((event, details)))
        assert rows(asked, known, "run").patients == 3
        assert said == []
        (site / "table.csv").write_text("x\n1\n2\n-50\n")
        assert rows(asked, known, "run").columns["x"].tolist() == [1, 2, -50]
    assert said == [("the table does not pass its gates any more", {"study": asked.digest, "gates": ["x plausibility"]})]
