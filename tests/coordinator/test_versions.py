"""The registry at a real coordinator: who may put a model in use, what is signed and logged, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from locum import Study
from locum.federation.lines import Decision, LineView, Proposal, SignedDecision, VersionView, decision_of, first_state
from locum.federation.wire import LogEntries, ModelView, RunView
from locum.governance.events import Entry, Event
from locum.governance.gate import digest_of
from locum.governance.gate_verdict import Verdict
from locum.study.canonical import sha256

REPORT = json.dumps({"passed": True, "findings": [{"check": "canaries", "passed": True}], "mutants": [{"mutant": "a", "caught": True}]})


class World:
    """A federation with runs that pass the gate, and one that does not."""

    def __init__(self, federation: Any, rows: Any, walk: Any) -> None:
        self.f, self.walk = federation, walk
        federation.serve()
        federation.add_sites(rows)
        self.ada, self.site = federation.investigator, federation.sites["s0"]
        self.eve, self.bob = federation.party("eve", "approver"), federation.party("bob", "investigator")
        self.runs: dict[str, RunView] = {}

    def study(self, name: str, *, gate: dict[str, Any] | None = None, envelope: dict[str, Any] | None = None, **more: Any) -> Study:
        value = json.loads(self.walk(name, rounds=1).canonical)
        value["governance"]["gate"] = {"evaluation": "walk", "at_most": {"first": 1e6}, **(gate or {})}
        value["governance"]["envelope"] = envelope or {}
        return Study.parse({**value, **more})

    def run(self, name: str, **options: Any) -> RunView:
        if name not in self.runs:
            view = self.ada.ended(self.ada.submit(self.study(name, **options)))
            assert view.status == "finished", view.error
            self.runs[name] = view
        return self.runs[name]

    def line(self, name: str, who: Any = None) -> LineView:
        return (who or self.eve).get(f"/v1/lines/{name}", LineView)  # type: ignore[no-any-return]

    def proposal(self, line: str, made: RunView, *, audit: str = "", who: Any = None, **changes: Any) -> bytes:
        who = who or self.ada
        known = who.send("GET", f"/v1/lines/{line}")
        view = msgspec.json.decode(known.content, type=LineView) if known.status_code == 200 else None
        fields = {"version": len(view.versions) + 1 if view else 1, "state": view.state if view else first_state(line), "run": made.id, "model": made.model}
        decision = Decision(action="propose", line=line, study=made.study, audit=sha256(audit.encode()) if audit else "", **(fields | changes))
        return msgspec.json.encode(Proposal(decision=decision.seal(who.name, who.identity), audit=audit))

    def propose(self, line: str, run: RunView, **options: Any) -> VersionView:
        who = options.get("who") or self.ada
        return msgspec.json.decode(who.call("POST", f"/v1/lines/{line}/versions", self.proposal(line, run, **options)).content, type=VersionView)

    def signed(self, line: str, version: int, action: str, /, *, who: Any = None, **changes: Any) -> SignedDecision:
        who = who or self.eve
        view = self.eve.get(f"/v1/lines/{line}/versions/{version}", VersionView)
        more = {"verdict": view.verdict_digest} if action == "promote" else {}
        return msgspec.structs.replace(decision_of(view, action, **more), **changes).seal(who.name, who.identity)  # type: ignore[arg-type]

    def send(self, line: str, signed: SignedDecision, who: Any = None) -> Any:
        return (who or self.eve).send("POST", f"/v1/lines/{line}/decisions", msgspec.json.encode(signed))

    def promote(self, line: str, version: int) -> VersionView:
        answer = self.send(line, self.signed(line, version, "promote"))
        assert answer.status_code == 200, answer.text
        return msgspec.json.decode(answer.content, type=VersionView)

    def told(self, model: str, line: str) -> list[Entry]:
        self.eve.call("GET", "/v1/log/checkpoint")  # entries are shown when they are under a signed head
        found = self.eve.get(f"/v1/log/entries?subject={model}", LogEntries).entries
        return [e for x in found if (e := Entry.decode(x.body.encode())).details.get("line") == line]


@pytest.fixture(scope="module")
def w(tmp_path_factory: pytest.TempPathFactory, federation_class: Any, rows: Any, walk: Any) -> Any:
    federation = federation_class(tmp_path_factory.mktemp("versions") / "coordinator")
    yield World(federation, rows, walk)
    federation.close()


def why(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["what"] if answer.status_code >= 400 else ""


def test_from_a_run_to_the_version_in_use(w: World) -> None:
    run = w.run("good")
    view = w.propose("heart", run)
    assert (view.version, view.status, view.passes, view.previous, view.basis, view.requester) == (1, "candidate", True, None, 1, "ada")
    assert w.site.send("GET", "/v1/lines/heart/current").status_code == 404
    promoted = w.promote("heart", 1)
    assert (promoted.status, promoted.approver) == ("current", "eve")
    verdict = Verdict.decode(promoted.verdict.encode())
    assert verdict.inputs["study"] == run.study
    assert verdict.inputs["results"] == digest_of(run.results)
    proposed, decided = w.told(run.model or "", "heart")
    made = next(Entry.decode(e.body.encode()) for e in w.eve.get(f"/v1/log/entries?subject={run.model}", LogEntries).entries)
    assert (made.event, made.details["results"]) == (Event.MODEL_MADE, verdict.inputs["results"])  # judged is what the log has
    assert (proposed.event, proposed.by, decided.event, decided.by) == (Event.MODEL_PROPOSED, "ada", Event.MODEL_PROMOTED, "eve")
    assert decided.details["verdict"] == verdict.digest == promoted.verdict_digest
    assert decided.details["inputs"] == verdict.inputs
    line = w.line("heart", w.site)
    assert [d.action for d in line.check()] == ["propose", "promote"]
    assert decided.details["decision"] == sha256(line.decisions[-1].body.encode())
    assert decided.details["key"] == w.eve.identity.public.fingerprint
    for site in w.f.sites.values():  # whoever took part or not
        assert site.get("/v1/lines/heart/current", VersionView).model == run.model
        assert site.get(f"/v1/models/{run.model}", ModelView).id == run.model


def test_who_may_promote(w: World) -> None:
    w.propose("who", w.run("good"))
    for party, expected in ((w.ada, 403), (w.bob, 404), (w.site, 403)):
        signed = w.signed("who", 1, "promote", who=party)
        assert w.send("who", signed, party).status_code == expected, party.name
    signed = w.signed("who", 1, "promote")
    for party in (w.ada, w.bob, w.site):  # the approver's signature in another's hands
        assert w.send("who", signed, party).status_code in (400, 403), party.name
    assert w.line("who").current is None
    assert w.bob.send("GET", "/v1/lines/who").status_code == 404
    assert "who" not in {v.name for v in w.bob.get("/v1/lines", tuple[LineView, ...])}


def test_whoever_asked_cannot_promote_in_another_role(w: World, party_class: Any) -> None:
    """The operator makes an investigator an approver: its own versions stay another's to promote."""
    from locum.coordinator import invite
    from locum.coordinator.server import revoke

    carl = w.f.party("carl", "investigator")
    run = carl.ended(carl.submit(w.study("carls")))
    w.propose("carls", run, who=carl)
    revoke(w.f.folder, "carl")
    again = party_class(w.f.folder, list(w.f.urls), "carl", carl.identity)
    assert again.enroll(invite(w.f.folder, "carl", "approver")).status_code == 200
    status, what = why(w.send("carls", w.signed("carls", 1, "promote", who=again), again))
    assert (status, what) == (403, "Whoever asked for a version cannot promote it.")
    assert w.promote("carls", 1).status == "current"


def test_forged_and_altered_decisions(w: World) -> None:
    run = w.run("good")
    w.propose("forged", run)
    good = w.signed("forged", 1, "promote")
    view = w.line("forged").versions[0]
    other = w.f.party("mallory", "approver")
    body = json.loads(good.body)
    for bad in (
        msgspec.structs.replace(good, envelope=""),
        msgspec.structs.replace(good, envelope=good.envelope[:-8] + "AAAAAAAA"),
        msgspec.structs.replace(good, body=good.body.replace('"version":1', '"version":2')),
        msgspec.structs.replace(good, body=good.body + " "),
        msgspec.structs.replace(good, body="[]"),
        w.signed("forged", 1, "promote", who=other),  # by another's key
        w.signed("forged", 1, "promote", line="heart"),
        w.signed("forged", 1, "promote", version=9),
        w.signed("forged", 1, "promote", model="0" * 64),
        w.signed("forged", 1, "promote", run="0" * 20),
        w.signed("forged", 1, "promote", verdict="0" * 64),
        w.signed("forged", 1, "promote", verdict=""),
        w.signed("forged", 1, "promote", state=first_state("forged")),
        w.signed("forged", 1, "propose"),
        w.signed("forged", 1, "promote", reason="x" * 9000),
        SignedDecision(body=json.dumps(body | {"extra": 1}), envelope=good.envelope),
    ):
        answer = w.send("forged", bad)
        assert answer.status_code in (400, 404, 409), (bad, answer.text)
        assert answer.json()["what"]
    assert w.send("forged", good, other).status_code == 400
    assert w.line("forged").versions[0] == view
    assert [e.event for e in w.told(run.model or "", "forged")] == [Event.MODEL_PROPOSED]


def test_a_decision_is_good_once(w: World) -> None:
    run = w.run("good")
    w.propose("once", run)
    first = w.signed("once", 1, "promote")
    assert w.send("once", first).status_code == 200
    state = w.line("once").state
    assert w.send("once", first).status_code == 200  # the answer was lost: the same again changes nothing
    assert w.line("once").state == state
    w.propose("once", w.run("second"))
    assert why(w.send("once", first)) == (409, "The line 'once' has changed since this was signed.")
    w.promote("once", 2)
    back = w.signed("once", 1, "roll-back")
    assert w.send("once", back).status_code == 200
    w.propose("once", w.run("second"))
    w.promote("once", 3)
    for stale in (first, back):
        assert w.send("once", stale).status_code == 409
    line = w.line("once")
    assert line.current == 3
    assert [v.status for v in line.versions] == ["superseded", "rolled-back", "current"]
    assert line.versions[2].previous == 1


def test_rollback_and_restart(w: World) -> None:
    one, two = w.run("good"), w.run("second")
    w.propose("back", one)
    w.promote("back", 1)
    w.propose("back", two)
    w.promote("back", 2)
    replica = w.f.replicas[0]
    replica.kill()
    w.f.replicas[0] = w.f.serve(replica.port)
    w.f.replicas.pop()
    assert w.site.get("/v1/lines/back/current", VersionView).version == 2
    for version, expected in ((2, 409), (7, 404)):  # only to a version that was superseded
        view = w.line("back").versions[min(version, 2) - 1]
        decision = msgspec.structs.replace(decision_of(view, "roll-back"), version=version)
        assert w.send("back", decision.seal("eve", w.eve.identity)).status_code == expected
    assert w.send("back", w.signed("back", 1, "roll-back", reason="it alarmed too often")).status_code == 200
    assert w.site.get("/v1/lines/back/current", VersionView).model == one.model
    told = w.told(one.model or "", "back")[-1]
    assert (told.event, told.by, told.details["previous"], told.details["version"]) == (Event.MODEL_ROLLED_BACK, "eve", 2, 1)
    assert [v.status for v in w.line("back").versions] == ["current", "rolled-back"]
    w.line("back").check()


def test_what_the_gate_blocks(w: World) -> None:
    run = w.run("poor", gate={"at_least": {"first": 1e5}})
    view = w.propose("poor", run)
    assert not view.passes
    assert view.reasons == ("First: it is not",)
    events = w.told(run.model or "", "poor")
    assert [e.event for e in events] == [Event.MODEL_PROPOSED, Event.MODEL_BLOCKED]
    assert events[1].details["reasons"] == ["First: it is not"]
    answer = w.send("poor", w.signed("poor", 1, "promote"))
    assert why(answer) == (403, "The gate blocks version 1 of 'poor'.")
    assert "First" in answer.json()["why"]
    assert w.line("poor").current is None


def test_a_study_without_a_gate_blocks(w: World) -> None:
    run = w.ada.ended(w.ada.submit(w.walk("ungated", rounds=1)))
    view = w.propose("ungated", run)
    assert not view.passes
    assert "[governance.gate]" in view.reasons[0]


def test_attacks_are_asked_for(w: World) -> None:
    run = w.run("attacked", gate={"attacks": True})
    assert not w.propose("attacked", run).passes
    assert w.propose("attacked", run, audit=REPORT).passes
    assert not w.propose("attacked", run, audit=REPORT.replace("true", "false")).passes
    target = "/v1/lines/attacked/versions"
    for bad in ("[]", "{", "[" * 5000):
        assert w.ada.send("POST", target, w.proposal("attacked", run, audit=bad)).status_code == 400
    other = json.loads(w.proposal("attacked", run, audit=REPORT)) | {"audit": REPORT + " "}
    assert why(w.ada.send("POST", target, json.dumps(other).encode()))[0] == 400


def test_proposals_that_are_refused(w: World) -> None:
    run, target = w.run("good"), "/v1/lines/bad/versions"
    for changes, status in (({"version": 2}, 409), ({"state": "0" * 64}, 409), ({"model": "0" * 64}, 409), ({"run": "0" * 20}, 404), ({"line": "other"}, 400)):
        body = w.proposal("bad", run, **{k: v for k, v in changes.items() if k != "line"})
        if "line" in changes:
            body = w.proposal("other", run)
        assert w.ada.send("POST", target, body).status_code == status, changes
    assert w.bob.send("POST", target, w.proposal("bad", run, who=w.bob)).status_code == 404  # not bob's run
    assert w.eve.send("POST", target, w.proposal("bad", run)).status_code == 403
    assert w.ada.send("POST", "/v1/lines/Bad%20Name/versions", w.proposal("Bad Name", run)).status_code == 400
    assert w.eve.send("GET", "/v1/lines/bad").status_code == 404  # nothing half-applied
    w.propose("taken", run)
    theirs = w.bob.ended(w.bob.submit(w.study("bobs")))
    assert w.bob.send("POST", "/v1/lines/taken/versions", w.proposal("taken", theirs, who=w.bob, version=2, state=w.line("taken").state)).status_code == 403


def test_an_update_outside_its_envelope_needs_its_own_approvals(w: World) -> None:
    envelope = {"may_change": ["seed", "name"], "updates": 1}
    w.propose("cycle", w.run("cycle-1", envelope=envelope))
    w.promote("cycle", 1)
    inside = w.propose("cycle", w.run("cycle-2", envelope=envelope, seed=9))
    assert inside.passes, inside.reasons
    assert w.promote("cycle", 2).basis == 1
    study = w.study("cycle-3", envelope=envelope, seed=10)
    anew = w.propose("cycle", w.run("cycle-3", envelope=envelope, seed=10))  # one update was made: all four sites have approved this one anew
    assert anew.passes, anew.reasons
    assert anew.basis == 3
    w.f.sites["s0"].decide(study.digest, "denial")
    view = msgspec.json.decode(w.eve.call("POST", "/v1/lines/cycle/versions/3/verdict").content, type=VersionView)
    assert not view.passes
    assert "1 updates, and 1 were made; 1 of the sites that had approved the former study have not approved this one" in view.reasons[0]
    assert w.told(view.model, "cycle")[-1].event is Event.MODEL_BLOCKED
    status, _ = why(w.send("cycle", w.signed("cycle", 3, "promote")))
    assert status == 403
    w.f.sites["s0"].decide(study.digest)
    assert w.send("cycle", w.signed("cycle", 3, "promote")).status_code == 409  # the verdict is another one now
    w.eve.call("POST", "/v1/lines/cycle/versions/3/verdict")
    assert w.promote("cycle", 3).basis == 3


def test_withdrawal(w: World) -> None:
    w.propose("gone", w.run("good"))
    assert w.send("gone", w.signed("gone", 1, "withdraw", who=w.ada), w.ada).status_code == 200
    assert w.send("gone", w.signed("gone", 1, "promote")).status_code == 409
    w.propose("gone", w.run("second"))
    w.promote("gone", 2)
    assert w.send("gone", w.signed("gone", 2, "withdraw", who=w.ada), w.ada).status_code == 403
    assert w.send("gone", w.signed("gone", 2, "withdraw", reason="a recall")).status_code == 200
    assert w.site.send("GET", "/v1/lines/gone/current").status_code == 404
    assert w.told(w.run("second").model or "", "gone")[-1].event is Event.MODEL_WITHDRAWN
    assert w.line("gone").current is None


def test_a_history_with_a_hole_is_seen(w: World) -> None:
    from locum.errors import EnvelopeError

    w.propose("history", w.run("good"))
    w.promote("history", 1)
    line = w.line("history")
    assert len(line.check()) == 2
    for bad in (
        msgspec.structs.replace(line, decisions=line.decisions[1:]),
        msgspec.structs.replace(line, decisions=line.decisions[:1]),
        msgspec.structs.replace(line, state="0" * 64),
        msgspec.structs.replace(line, decisions=(line.decisions[0], msgspec.structs.replace(line.decisions[1], key=str(w.bob.identity.public)))),
    ):
        with pytest.raises(EnvelopeError):
            bad.check()


def test_of_two_promotions_at_once_one_holds(w: World) -> None:
    from concurrent.futures import ThreadPoolExecutor

    zoe = w.f.party("zoe", "approver")
    w.propose("race", w.run("good"))
    w.propose("race", w.run("second"))
    asked = [(w.signed("race", 1, "promote"), w.eve), (w.signed("race", 2, "promote", who=zoe), zoe)]
    with ThreadPoolExecutor(2) as pool:
        codes = sorted(answer.status_code for answer in pool.map(lambda x: w.send("race", *x), asked))
    assert codes == [200, 409]
    line = w.line("race")
    assert sorted(v.status for v in line.versions) == ["candidate", "current"]
    assert [d.action for d in line.check()] == ["propose", "propose", "promote"]
