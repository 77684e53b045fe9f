"""A site's own rules where they bite: at the review, before rows are read, and at the door. And what exactly was approved."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from locum import Study
from locum.cli.site import app
from locum.client import Patience
from locum.errors import LocumError, Refused
from locum.governance.code import code_digest
from locum.governance.policy import Approval, Policy, PolicyError, preset
from locum.site.folder import CONFIG, load_config, releases
from locum.site.policy import RULES, SiteRules, install, load, shape
from locum.site.review import decide, review
from locum.site.serve import open_agent
from locum.site.store import _MIGRATIONS, Store
from locum.site.trial import trial

QUICK = Patience(first_s=0.02, cap_s=0.2, connect_s=3.0, answer_s=5.0)
TOML = '[policy]\nmin_cohort = 3\nexact = "allow"\n'
ROUND = 'principal, action == Action::"round", resource'
DOOR = 'principal, action == Action::"release", resource'


def rules(name: str, scope: str, condition: str) -> str:
    return f'{preset("default")}\n@id("{name}")\n@reason("It is so.")\nforbid ({scope})\nwhen {{ {condition} }};\n'


class Log:
    """A logger that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def bind(self, **more: Any) -> "Log":
        return self

    def info(self, event: str, **details: Any) -> None:
        self.lines.append({"event": event, **details})

    warning = error = info


def live(rogue: Any, *steps: Callable[[], object]) -> list[str]:
    """One life of the agent: after each step one answer is awaited. The answers' bodies, where they are codes; else 'release'."""
    log = Log()

    async def main() -> None:
        async with open_agent(rogue.site, log=log, patience=QUICK, poll_s=1.0) as agent:  # type: ignore[arg-type]
            stop = asyncio.Event()
            job = asyncio.create_task(agent.run(stop))
            for n, step in enumerate(steps, 1):
                step()
                end = time.monotonic() + 10
                while len(rogue.answers) < n:
                    assert time.monotonic() < end, log.lines
                    await asyncio.sleep(0.01)
            stop.set()
            await job

    asyncio.run(main())
    return ["release" if envelope.kind == "release" else body.decode() for _, envelope, body in rogue.answers]


def ask(rogue: Any, asked: Study, run: str = "run1") -> Callable[[], object]:
    return lambda: rogue.offer(rogue.sign(rogue.assignment(asked, run=run)))


def approve(rogue: Any, asked: Study, **change: Any) -> None:
    """As the review does, without a coordinator to tell."""
    rogue.learn(asked)
    with Store(rogue.site) as store:
        policy = load(store, [d.name for d in store.data()]).policy
        text = replace(Approval(asked.digest, policy.digest, code_digest(), "main"), **change).encode()
        store.decide(asked.digest, approve=True, data="main", approval=text, patients=2)
        store.told(asked.digest, "approved")


# --- rounds and the door ------------------------------------------------------------------------------------------------


def test_a_round_that_a_rule_forbids_reads_no_row(rogue: Any, study: Any) -> None:
    asked = study("forbidden")
    approve(rogue, asked)
    (rogue.site / RULES).write_text(rules("walk", ROUND, 'context.tasks.contains("test_site_walk")'))
    (rogue.site / "table.csv").unlink()  # whoever read it would say 'data'
    assert live(rogue, ask(rogue, asked)) == ["policy"]
    assert not releases(rogue.site)


def test_what_a_rule_forbids_at_the_door_does_not_leave(rogue: Any, study: Any) -> None:
    asked = study("kept")
    approve(rogue, asked)
    (rogue.site / RULES).write_text(rules("walk", DOOR, 'context.tasks.contains("test_site_walk")'))
    assert live(rogue, ask(rogue, asked)) == ["policy"]
    assert not releases(rogue.site)


def test_an_edit_counts_from_the_next_round_on(rogue: Any, study: Any) -> None:
    asked = study("edited")
    approve(rogue, asked)
    path = rogue.site / RULES

    def after(edit: Callable[[], object], run: str) -> Callable[[], object]:
        return lambda: (edit(), ask(rogue, asked, run)())

    answers = live(
        rogue,
        ask(rogue, asked),
        after(lambda: path.write_text("permit (principal, action"), "run2"),
        after(lambda: path.write_bytes(b"\xff\xfe"), "run3"),
        after(lambda: path.write_text(preset("default")), "run4"),
        after(path.unlink, "run5"),  # a site that had rules of its own does not fall back to those that ship
        after(lambda: path.write_text(preset("default") + "// again\n"), "run6"),
        after(lambda: (rogue.site / CONFIG).write_text(TOML + '[data.main]\nuse = "HMB"\n'), "run7"),
        after(lambda: (rogue.site / CONFIG).write_text(TOML + '[data.mian]\nuse = "NRES"\n'), "run8"),
        after(lambda: (rogue.site / CONFIG).write_text(TOML + '[data.main]\nuse = "NRES"\n'), "run9"),
    )
    assert answers == ["release", "policy", "policy", "release", "policy", "release", "policy", "policy", "release"]
    assert len(releases(rogue.site)) == 4
    with Store(rogue.site) as store:
        assert [text for _, _, text in store.policies()] == [preset("default"), preset("default") + "// again\n"]


def test_an_approval_that_is_over(rogue: Any, study: Any) -> None:
    asked = study("over")
    today = datetime.now().astimezone().date()
    approve(rogue, asked, valid_until=today - timedelta(days=1))
    assert live(rogue, ask(rogue, asked)) == ["expired"]


def test_a_study_that_is_over(rogue: Any, study: Any) -> None:
    asked = Study.parse({**json.loads(study("late").canonical), "governance": {"valid_until": "2026-01-01"}})
    approve(rogue, asked)
    assert live(rogue, ask(rogue, asked)) == ["expired"]


def test_another_program(rogue: Any, study: Any) -> None:
    asked, path = study("program"), rogue.site / RULES
    approve(rogue, asked, code="0" * 64)
    wants_new = rules("new", ROUND, "context.code_changed")
    assert live(rogue, ask(rogue, asked), lambda: (path.write_text(wants_new), ask(rogue, asked, "run2")())) == ["release", "changed"]


def test_an_approval_that_was_edited(rogue: Any, study: Any) -> None:
    asked = study("forged")
    approve(rogue, asked)
    with Store(rogue.site) as store:
        text = store.study(asked.digest).approval
        store.decide(asked.digest, approve=True, data="main", approval=text.replace("null", '"2999-01-01" '))
        store.told(asked.digest, "approved")
    assert live(rogue, ask(rogue, asked)) == ["policy"]


# --- the review ---------------------------------------------------------------------------------------------------------


def test_a_review_says_what_the_rules_say_and_an_approval_names_what_it_is_for(federation: Any, study: Any) -> None:
    site = federation.site("named")
    asked = study("named")
    federation.client.submit(asked)
    assert "permitted by 'research'" in review(site, asked.digest).text()
    assert decide(site, asked.digest, approve=True, until=date(2999, 1, 1))
    with Store(site) as store:
        known = store.study(asked.digest)
        assert Approval.decode(known.approval) == Approval(
            asked.digest, Policy.load(preset("default")).digest, code_digest(), "main", valid_until=date(2999, 1, 1)
        )
        assert known.patients == 4
    assert decide(site, asked.digest, approve=False)
    with Store(site) as store:
        assert store.study(asked.digest).approval == ""


def test_what_the_rules_forbid_cannot_be_approved_but_denied(federation: Any, study: Any) -> None:
    site = federation.site("strict")
    asked = study("strict")
    federation.client.submit(asked)
    (site / RULES).write_text(rules("cohort", "principal, action, resource", "context.min_cohort < 50"))
    assert "It is so. (rule 'cohort'" in " ".join(review(site, asked.digest).text().split())
    with pytest.raises(Refused, match="rule 'cohort', line 37"):
        decide(site, asked.digest, approve=True)
    (site / RULES).write_text("permit (")
    with pytest.raises(Refused, match="line 1: this rule has no end"):
        decide(site, asked.digest, approve=True)
    assert "cannot be relied on, so nothing runs" in review(site, asked.digest).text()
    assert decide(site, asked.digest, approve=False)


def test_a_purpose_that_does_not_fit(federation: Any, study: Any) -> None:
    site = federation.site("purpose")
    asked = study("purpose")
    federation.client.submit(asked)
    (site / CONFIG).write_text(TOML + '[data.main]\nuse = "HMB"\nmodifiers = ["IRB"]\n')
    with pytest.raises(Refused, match=r"states no use.*DUO:0000006.*DUO:0000021"):
        decide(site, asked.digest, approve=True)
    (site / CONFIG).write_text(TOML + '[data.main]\nuse = "HBM"\n')
    with pytest.raises(LocumError, match="did you mean 'HMB'"):
        decide(site, asked.digest, approve=True)


def test_a_last_day_that_is_over(federation: Any, study: Any) -> None:
    site = federation.site("lastday")
    asked = study("lastday")
    federation.client.submit(asked)
    with pytest.raises(Refused, match="2020-01-01 is over"):
        decide(site, asked.digest, approve=True, until=date(2020, 1, 1))
    with Store(site) as store:
        assert store.study(asked.digest).decision == ""


# --- files and commands -------------------------------------------------------------------------------------------------


def test_rules_that_do_not_hold_together_leave_the_old_ones_in_force(rogue: Any) -> None:
    with Store(rogue.site) as store:
        install(store, preset("cms"), "cms")
        with pytest.raises(PolicyError):
            install(store, "permit (", "mine")
        assert load(store, ["main"]).policy.text == preset("cms")
        assert sorted(p.name for p in rogue.site.glob("policy*")) == [RULES]


def test_terms_of_a_data_set_that_is_not_there(rogue: Any) -> None:
    (rogue.site / CONFIG).write_text(TOML + '[data.mian]\nuse = "HMB"\n')
    with Store(rogue.site) as store, pytest.raises(PolicyError, match="did you mean 'main'"):
        load(store, ["main"])
    assert load_config(rogue.site).data["mian"].use == "HMB"


def test_rules_in_something_that_is_no_file(rogue: Any) -> None:
    (rogue.site / RULES).mkdir()
    with Store(rogue.site) as store, pytest.raises(PolicyError, match="is no file"):
        load(store, ["main"])


def test_the_hour_is_of_the_zone_that_is_passed_in(rogue: Any, study: Any) -> None:
    asked = study("hours")
    approve(rogue, asked)
    with Store(rogue.site) as store:
        for hours in (0, 9):
            own = SiteRules(store, "victim", zone=timezone(timedelta(hours=hours)))
            ruling = own.ask("round", store.study(asked.digest), data="main", patients=2, at=datetime(2026, 11, 24, 1, tzinfo=UTC))
            assert ruling.context["hour"] == 1 + hours
            own.close()


def test_the_shape_of_a_plan(study: Any) -> None:
    variables = {"x": {"type": "number", "minimum": 0, "maximum": 9}, "y": {"type": "boolean"}}
    histogram = {"name": "h", "task": "histogram", "variable": "x", "threshold": 7}
    glm = {"name": "g", "task": "logistic", "outcome": "y", "features": ["x"]}
    assert shape(study("shape", variables=variables, plan=[histogram, glm])) == (7, 2)
    assert shape(study("none")) == (1_000_000, 0)
    assert shape(study("unknown", plan=[{"name": "n", "task": "not_a_task"}])) == (0, 1_000_000)


def test_a_trial_tells_what_holds_at_each_point(rogue: Any, study: Any, tmp_path: Path) -> None:
    asked = study("tried", plan=[{"name": "m", "task": "moments", "variables": ["x"]}])
    rogue.learn(asked, approve=False)
    (rogue.site / RULES).write_text(rules("night", ROUND, "context.hour < 6"))
    found = trial(rogue.site, asked.digest[:12], at=datetime(2026, 11, 24, 3).astimezone())
    assert [(r.action, r.allowed) for r in found.rulings] == [("review", True), ("approve", True), ("round", False), ("release", True)]
    assert [r.id for r in found.rulings[2].permits] == ["research"]
    assert [r.id for r in found.rulings[2].forbids] == ["night"]
    assert found.rulings[0].entities[1]["attrs"]["n"] == 2
    assert found.rulings[0].entities[0]["uid"]["id"] == "eve"
    assert msgspec.json.encode([r.to_json() for r in found.rulings])


def test_the_commands(rogue: Any, study: Any, tmp_path: Path) -> None:
    def run(*words: str) -> Any:
        done = CliRunner().invoke(app, ["policy", *words, "--folder", str(rogue.site), "--json"])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return json.loads(done.stdout)

    assert run("show")["source"] == "the default that ships"
    assert "entity Requester" in run("show", "--schema")["text"]
    assert run("show", "--preset", "cms")["text"] == preset("cms")
    assert [r["id"] for r in run("preset", "datashield")["rules"]][-1] == "glm-0.33"
    assert run("check")["source"] == RULES
    mine, broken = tmp_path / "mine.cedar", tmp_path / "broken.cedar"
    mine.write_text(rules("cohort", "principal, action, resource", "context.min_cohort < 4"))
    broken.write_text("permit (principal")
    assert run("set", str(mine))["digest"] == run("show")["digest"]
    for words in (("set", str(broken)), ("check", str(broken)), ("set", str(tmp_path / "none")), ("preset", "cma"), ("show", "--preset", "x")):
        with pytest.raises(PolicyError):
            run(*words)
    asked = study("commands", plan=[{"name": "m", "task": "moments", "variables": ["x"]}])
    rogue.learn(asked, approve=False)
    found = run("test", asked.digest)
    assert [r["allowed"] for r in found["rulings"]] == [False] * 4
    assert [r["id"] for r in found["rulings"][0]["forbids"]] == ["cohort"]
    text = tmp_path / "new.toml"
    text.write_text(
        'schema = "locum/study/1"\nname = "new"\n[data.variables.x]\n[terms]\nmin_cohort = 5\nprivacy = "none"\n'
        '[[plan]]\nname = "m"\ntask = "moments"\nvariables = ["x"]\n'
    )
    found = run("test", str(text), "--requester", "ida", "--patients", "12", "--at", "2026-11-24T03:00")
    assert [r["allowed"] for r in found["rulings"]] == [True] * 4
    assert (found["rulings"][0]["context"]["hour"], found["rulings"][0]["entities"][0]["uid"]["id"]) == (3, "ida")
    shown = CliRunner().invoke(app, ["policy", "test", str(text), "--folder", str(rogue.site)])
    assert shown.exit_code == 0
    assert "what the rules were told" in shown.stdout


def test_a_store_of_the_release_before_keeps_its_decisions(rogue: Any, study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = study("before")
    rogue.learn(asked, approve=False)
    with Store(rogue.site) as store:
        view = store.study(asked.digest).view
    with monkeypatch.context() as patch:
        patch.setattr("locum.site.store._MIGRATIONS", _MIGRATIONS[: next(i for i, m in enumerate(_MIGRATIONS) if "ADD COLUMN approval" in m)])
        with Store(tmp_path / "old") as store:
            store.put_study(view)
            store.db.execute("UPDATE study SET decision = 'approved', data = 'main'")
    with Store(tmp_path / "old") as store:
        known = store.study(asked.digest)
        assert (known.decision, known.data, known.approval, known.patients) == ("approved", "main", "", 0)
        ruling = SiteRules(store, "victim").ask("round", known, data="main", patients=0)
        assert ruling.allowed
        assert ruling.context["code_changed"] is True  # whether that needs a new approval is for the rules to say


def test_a_link_to_rules_that_are_gone_is_no_missing_file(tmp_path: Path) -> None:
    """Without the file the default holds; a link that leads nowhere was meant to be something else."""
    from locum.governance.policy.source import PolicyError
    from locum.site.policy import read_rules

    path = tmp_path / "policy.cedar"
    assert read_rules(path) is None
    path.symlink_to(tmp_path / "gone.cedar")
    with pytest.raises(PolicyError, match="link"):
        read_rules(path)


def test_an_edit_that_keeps_size_and_time_is_noticed(tmp_path: Path) -> None:
    import os

    from locum.site.policy import _stamp

    path = tmp_path / "policy.cedar"
    path.write_text("permit-a")
    before, times = _stamp(path), path.stat()
    path.write_text("permit-b")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_mtime_ns == times.st_mtime_ns
    assert _stamp(path) != before
