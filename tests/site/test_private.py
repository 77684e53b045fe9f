"""Private studies over the network, with real processes, masks and ledgers: what left is what was paid for, whatever was killed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from locum.errors import LocumError, Refused
from locum.federation.witness import LedgerHead
from locum.privacy.ledger import Charged, Ledger, Reserved
from locum.site.folder import load_config
from locum.site.ledgers import SiteLedgers
from locum.site.review import decide, review
from locum.site.statement import accept_table, settle_study, statement
from locum.site.store import Store
from locum.study import Study

VARIABLES = {"x": {"minimum": -8, "maximum": 8}}
PLAN = [{"name": "h", "task": "histogram", "variable": "x", "bins": 4, "threshold": 0}, {"name": "m", "task": "moments", "variables": ["x"]}]
KILLER = """
import os, signal
from locum.federation.door import Door
protect = Door.protect
def die(self, *given, **named):
    if given[2].seq == {seq}:
        os.kill(os.getpid(), signal.SIGKILL)
    return protect(self, *given, **named)
Door.protect = die
"""
READER = """
import os, signal
from locum.site.agent import Agent
begin = Agent.__init__
def watched(self, *given, **named):
    begin(self, *given, **named)
    self.rows = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
Agent.__init__ = watched
"""
ROWS = "x\n" + "".join(f"{v!r}\n" for v in np.random.default_rng(1).normal(size=300).tolist())


def private(study: Any, name: str = "private", *, eps: float = 2.0, **terms: Any) -> Study:
    privacy = {"eps": eps, "delta": 1e-6, "patients": 1500}
    made: Study = study(name, variables=VARIABLES, plan=PLAN, terms={"aggregation": "masked", "start_when": 5, "privacy": privacy, **terms})
    return made


def ledger(site: Path) -> Ledger:
    return Ledger.open(site / "ledgers", site=site.name, dataset="main")


def charged(site: Path) -> list[tuple[str, int, str]]:
    with ledger(site) as kept:
        return [(c.run, c.seq, c.step) for c in (line.entry for line in kept.lines()) if isinstance(c, Charged)]


def vectors(site: Path) -> list[tuple[str, int, str]]:
    """What left this site and was computed from rows, by its release log."""
    with Store(site) as store:
        return [(line.entry.run, line.entry.seq, line.entry.step) for line in store.releases() if line.entry.scalars]


@pytest.fixture
def sites(federation: Any) -> list[Path]:
    made: list[Path] = federation.sites(5, rows=ROWS)
    federation.sign_roster()
    return made


def test_every_vector_that_left_was_paid_for(federation: Any, study: Any, sites: list[Path]) -> None:
    asked = private(study)
    run = federation.submit(asked, sites)
    for site in sites:
        with ledger(site) as kept:  # approving has set the cost aside, before any row was read
            assert isinstance(kept.lines()[-1].entry, Reserved)
            assert kept.balance().eps_spent == 0
    with federation.serve(sites):
        view = federation.finish(run)
    assert (view.status, view.error) == ("finished", "")
    assert "eps 2, delta 1e-06 for each patient" in view.protection
    counts = view.results["h"]
    assert counts["noise_sd"] > 0
    assert sum(c or 0 for c in counts["counts"]) == pytest.approx(1500, abs=150)
    for site in sites:
        assert vectors(site) == charged(site) == [(run, 0, "h"), (run, 1, "m")]
        with ledger(site) as kept:
            assert 0 < kept.balance().eps_spent <= 2.0
    again = federation.client.start_run(asked.digest).id  # eps is of the study, and it is used up
    with federation.serve(sites):
        view = federation.finish(again)
    assert view.status == "failed"
    assert "budget" in view.error
    assert sum(r.summed > 0 for r in federation.client.rounds(again)) <= 1, "the spare round, and not one more"


def test_a_site_killed_after_it_paid_pays_once_and_goes_on(federation: Any, study: Any, sites: list[Path], tmp_path: Path) -> None:
    """It dies between the charge and the noise, and comes back before the deadline."""
    killer = tmp_path / "killer.py"
    killer.write_text(KILLER.format(seq=0))
    run = federation.submit(private(study, "killed", deadline_s=30.0), sites)
    with federation.serve(sites[1:]):
        with federation.process_of(sites[0], killer) as victim:
            assert victim.process.wait(30) == -9
        assert charged(sites[0]) == [(run, 0, "h")]
        assert vectors(sites[0]) == []
        with federation.serve(sites[:1]):
            view = federation.finish(run, 90)
    assert view.status == "finished"
    assert vectors(sites[0]) == charged(sites[0])
    assert len(set(charged(sites[0]))) == len(charged(sites[0]))
    assert [r.summed for r in federation.client.rounds(run) if r.status == "closed"] == [5, 5]


def test_a_round_is_paid_for_before_a_row_is_read(federation: Any, study: Any, sites: list[Path], tmp_path: Path) -> None:
    """The site dies in the very moment in which it would read its table."""
    reader = tmp_path / "reader.py"
    reader.write_text(READER)
    run = federation.submit(private(study, "read", deadline_s=30.0), sites)
    with federation.serve(sites[1:]), federation.process_of(sites[0], reader) as victim:
        assert victim.process.wait(30) == -9
    assert charged(sites[0]) == [(run, 0, "h")]
    assert vectors(sites[0]) == []


def test_a_study_that_would_overspend_is_refused_at_review(federation: Any, study: Any, sites: list[Path]) -> None:
    for n in range(5):
        one = private(study, f"eps-3-{n}", eps=3.0)
        federation.client.submit(one)
        assert decide(sites[0], one.digest, approve=True)
    sixth = private(study, "one-too-many", eps=3.0)
    federation.client.submit(sixth)
    seen = review(sites[0], sixth.digest)
    assert any("does not cover it" in p for p in seen.problems)
    with pytest.raises(Refused, match="does not cover it"):
        decide(sites[0], sixth.digest, approve=True)
    said = statement(sites[0], None, sixth)
    assert 7.0 < said.balance.eps_held <= 8.0, "five studies of eps 3 fit into eps 8"
    assert said.what_if
    assert not said.what_if.fits
    settle_study(sites[0], None, said.studies[0].study)
    assert statement(sites[0], None, sixth).what_if.fits  # type: ignore[union-attr]
    assert decide(sites[0], sixth.digest, approve=True)


def test_another_table_is_refused_before_a_row_is_read(federation: Any, study: Any, sites: list[Path]) -> None:
    asked = private(study, "swapped", deadline_s=4.0, attempts=1, min_cohort=5)
    run = federation.submit(asked, sites)
    (sites[0] / "table.csv").write_text(ROWS + "0.5\n")
    with federation.serve(sites):
        view = federation.finish(run, 60)
    assert view.status == "failed"
    assert "budget" in view.error
    assert charged(sites[0]) == []
    problems = review(sites[0], asked.digest).problems
    assert problems
    assert accept_table(sites[0], None)
    assert review(sites[0], asked.digest).problems == ()
    assert statement(sites[0], None).balance.eps_held > 0, "what was set aside stays so"


def test_a_ledger_that_was_put_back_runs_nothing(federation: Any, study: Any, sites: list[Path]) -> None:
    first = private(study, "first")
    run = federation.submit(first, sites)
    home = sites[0] / "ledgers" / "main"
    with ledger(sites[0]):
        shutil.copy(home / "ledger.db", home.parent / "old.db")
    with federation.serve(sites):
        assert federation.finish(run).status == "finished"
    for stale in home.glob("ledger.db*"):
        stale.unlink()
    shutil.copy(home.parent / "old.db", home / "ledger.db")
    with pytest.raises(LocumError):
        statement(sites[0], None)
    second = private(study, "second")
    federation.client.submit(second)
    with pytest.raises(Refused):
        decide(sites[0], second.digest, approve=True)


def test_a_ledger_put_back_together_with_its_anchor_is_known_by_the_sites_own_statement(federation: Any, study: Any, sites: list[Path]) -> None:
    first = private(study, "first-of-two")
    run = federation.submit(first, sites)
    home, old = sites[0] / "ledgers" / "main", sites[0] / "old"
    shutil.copytree(home, old)
    with federation.serve(sites):
        assert federation.finish(run).status == "finished"
    assert "it is in the ledger" in statement(sites[0], None).witness
    second = private(study, "second-of-two", attempts=1, deadline_s=4.0, min_cohort=5)
    run = federation.submit(second, sites)
    shutil.rmtree(home)
    shutil.copytree(old, home)  # nothing on this machine tells that the ledger is an old one
    third = private(study, "third")
    federation.client.submit(third)
    with pytest.raises(Refused, match="a witness knows"):
        decide(sites[0], third.digest, approve=True)
    with federation.serve(sites):
        view = federation.finish(run)
    assert view.status == "failed"
    assert "budget" in view.error
    assert charged(sites[0]) == []
    with pytest.raises(LocumError):
        statement(sites[0], None)


def test_a_ledger_that_is_gone_is_not_begun_anew(federation: Any, study: Any, sites: list[Path]) -> None:
    run = federation.submit(private(study, "before"), sites)
    with federation.serve(sites):
        assert federation.finish(run).status == "finished"
    shutil.rmtree(sites[0] / "ledgers")
    after = private(study, "after")
    federation.client.submit(after)
    assert any("is gone" in p for p in review(sites[0], after.digest).problems)
    with pytest.raises(Refused, match="is gone"):
        decide(sites[0], after.digest, approve=True)


def test_no_ledger_is_created_where_this_site_has_stated_one(sites: list[Path]) -> None:
    head = LedgerHead(site=sites[0].name, data="main", n=5, hash="a" * 64)
    with Store(sites[0]) as store, SiteLedgers(store, sites[0].name) as ledgers:
        (data,) = store.data()
        with pytest.raises(LocumError, match="is gone"):
            ledgers.create(data, load_config(sites[0]).privacy, {"main": head})
        assert not ledgers.exists(data)


def test_the_same_table_under_two_names_has_one_ledger(federation: Any, study: Any, sites: list[Path]) -> None:
    from locum.site.folder import add_data

    asked = private(study, "named")
    federation.submit(asked, sites[:1])
    shutil.copy(sites[0] / "table.csv", sites[0] / "copy.csv")
    add_data(sites[0], "copy", sites[0] / "copy.csv")
    other = private(study, "other")
    federation.client.submit(other)
    with pytest.raises(LocumError, match="is the table that 'main' is"):
        decide(sites[0], other.digest, approve=True, data="copy")
    (sites[0] / "map.toml").write_text('[columns]\nx = "x"\n')  # another mapping makes no other patients of them
    add_data(sites[0], "mapped", sites[0] / "copy.csv", sites[0] / "map.toml")
    with pytest.raises(LocumError, match="is the table that 'main' is"):
        decide(sites[0], other.digest, approve=True, data="mapped")


def test_a_table_that_has_had_a_ledger_and_its_newer_extract_have_no_second_one(federation: Any, study: Any, sites: list[Path]) -> None:
    from locum.site.folder import add_data

    federation.submit(private(study, "extracts"), sites[:1])
    shutil.copy(sites[0] / "table.csv", sites[0] / "old.csv")
    for extract, more in (("middle", "0.5\n"), ("new", "0.5\n0.25\n")):
        (sites[0] / "table.csv").write_text(ROWS + more)
        assert accept_table(sites[0], None)
        shutil.copy(sites[0] / "table.csv", sites[0] / f"{extract}.csv")
    other = private(study, "extracts-again")
    federation.client.submit(other)
    for name in ("old", "middle", "new"):
        add_data(sites[0], name, sites[0] / f"{name}.csv")
        with pytest.raises(LocumError, match="is the table that 'main' is"):
            decide(sites[0], other.digest, approve=True, data=name)


def test_a_table_that_was_changed_while_its_ledger_is_open_is_refused(federation: Any, study: Any, sites: list[Path]) -> None:
    federation.submit(private(study, "open"), sites[:1])
    with Store(sites[0]) as store, SiteLedgers(store, sites[0].name) as ledgers:
        (data,) = store.data()
        assert ledgers.open(data).balance().eps_held > 0
        (sites[0] / "table.csv").write_text(ROWS + "0.5\n")
        with pytest.raises(LocumError, match="hash is not the one"):
            ledgers.open(data)


def test_delta_is_judged_against_the_sites_own_patients(federation: Any, study: Any, sites: list[Path]) -> None:
    loose = study("loose", variables=VARIABLES, plan=PLAN, terms={"aggregation": "masked", "privacy": {"eps": 1.0, "delta": 1e-3, "patients": 100}})
    federation.client.submit(loose)
    assert any("too large for this site's 300 patients" in p for p in review(sites[0], loose.digest).problems)


def test_an_exact_study_needs_that_said(federation: Any, study: Any, sites: list[Path]) -> None:
    exact = study("exact", variables=VARIABLES, plan=PLAN, terms={"aggregation": "masked"})
    federation.client.submit(exact)
    toml = sites[0] / "site.toml"
    toml.write_text("[policy]\nmin_cohort = 3\n")
    with pytest.raises(Refused, match="without noise"):
        decide(sites[0], exact.digest, approve=True)
    assert "approving needs --exact" in review(sites[0], exact.digest).text()
    assert decide(sites[0], exact.digest, approve=True, exact=True)
    toml.write_text('[policy]\nmin_cohort = 3\nexact = "never"\n')
    with pytest.raises(Refused, match="lets no sums leave without noise"):
        decide(sites[0], exact.digest, approve=True, exact=True)


def test_site_toml_fixes_a_new_ledgers_terms(federation: Any, study: Any, sites: list[Path]) -> None:
    (sites[0] / "site.toml").write_text('[policy]\nmin_cohort = 3\n[privacy]\neps = 4.0\ndelta = 1e-7\nfilter = "rdp"\norder = 6\n')
    asked = private(study, "own-terms", eps=1.0)
    federation.submit(asked, sites[:1])
    with Store(sites[0]) as store, SiteLedgers(store, sites[0].name) as ledgers:
        created = ledgers.open(store.data()[0]).created
    assert (created.eps, created.delta, created.filter.kind, created.filter.order) == (4.0, 1e-7, "rdp", 6)
    assert load_config(sites[0]).privacy.order == 6
