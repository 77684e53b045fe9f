"""The API over real HTTP: who may do what, and what is refused with which words."""

from __future__ import annotations

import hashlib
import json
import socket
import time
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from locum import Rows
from locum.coordinator import invite, revoke
from locum.errors import EnvelopeError
from locum.federation.envelope import EMPTY_SHA256, Envelope, sign_request
from locum.federation.identity import Identity
from locum.federation.wire import INLINE_BYTES, Assignment, Invitation, RunView, StudyView, Work
from locum.federation.witness import LedgerHead, SignedHead, SignedHeads

LARGE = INLINE_BYTES // 8 + 1000
MIDDLE = 20_000


class World:
    """A federation with one run of each size waiting for its sites, which act only when the test says so."""

    def __init__(self, f: Any, walk: Any) -> None:
        self.f = f
        f.serve()
        f.add_sites({f"s{i}": Rows.of({"x": [0.5 + i, 1.0]}) for i in range(4)}, start=False)
        self.sites = [f.sites[f"s{i}"] for i in range(4)]
        self.stranger = f.party("bob", "investigator")
        self.runs, self.work = {}, {}
        for size in (3, MIDDLE, LARGE):
            study = walk(f"size-{size}", size=size, rounds=2, terms={"deadline_s": 600, "quorum": 3, "start_when": 3})
            self.runs[size] = f.investigator.submit(study)
            for site in self.sites[:3]:
                site.decide(study.digest)
            f.investigator.wait(self.runs[size], lambda v: v.asked == 3)
            posted = self.sites[0].get("/v1/work?wait=5", Work).assignments
            self.work[size] = next(a for a in (msgspec.json.decode(p.body, type=Assignment) for p in posted) if a.run == self.runs[size])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, federation_class: Any, walk: Any) -> Any:
    f = federation_class(tmp_path_factory.mktemp("api") / "coordinator")
    yield World(f, walk)
    f.close()


def problem(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]


def refused(call: Any, *args: Any, **options: Any) -> tuple[int, str]:
    try:
        call(*args, **options)
    except Exception as error:
        return error.status, error.problem.error  # type: ignore[attr-defined]
    raise AssertionError("it was not refused")


def endpoints(a: Assignment) -> list[tuple[str, str]]:
    here = f"/v1/runs/{a.run}/rounds/{a.seq}"
    digest = "0" * 64
    return [
        ("GET", "/metrics"),
        ("GET", "/v1/openapi.json"),
        ("GET", "/v1/work"),
        ("GET", f"{here}/state"),
        ("HEAD", f"{here}/upload/{digest}"),
        ("PUT", f"{here}/upload/{digest}"),
        ("GET", f"{here}/release"),
        ("PUT", f"{here}/release"),
        ("GET", "/v1/roster"),
        ("GET", "/v1/ledgers"),
        ("PUT", "/v1/ledgers"),
        ("GET", "/v1/studies"),
        ("POST", "/v1/studies"),
        ("GET", f"/v1/studies/{a.study}"),
        ("PUT", f"/v1/studies/{a.study}/decision"),
        ("POST", f"/v1/studies/{a.study}/runs"),
        ("GET", "/v1/runs"),
        ("GET", f"/v1/runs/{a.run}"),
        ("GET", f"/v1/runs/{a.run}/rounds"),
        ("POST", f"/v1/runs/{a.run}/cancel"),
        ("GET", "/v1/models"),
        ("GET", f"/v1/models/{digest}"),
        ("GET", f"/v1/models/{digest}/file"),
        ("GET", "/v1/sites"),
        ("GET", f"/v1/runs/{a.run}/record"),
        ("GET", f"/v1/runs/{a.run}/record/{a.seq}"),
        ("GET", "/v1/log/checkpoint"),
        ("GET", "/v1/log/witnessed"),
        ("GET", "/v1/log/consistency"),
        ("GET", "/v1/log/inclusion"),
        ("GET", "/v1/log/entries"),
        ("GET", "/v1/log/tile/0/000"),
        ("PUT", "/v1/log/cosignature"),
        ("GET", "/v1/lines"),
        ("GET", "/v1/lines/heart"),
        ("GET", "/v1/lines/heart/current"),
        ("GET", "/v1/lines/heart/versions/1"),
        ("POST", "/v1/lines/heart/versions"),
        ("POST", "/v1/lines/heart/versions/1/verdict"),
        ("POST", "/v1/lines/heart/decisions"),
    ]


def test_strangers_read_health_and_nothing_else(world, party_class) -> None:
    url = world.f.urls[0]
    for path, status in (("/v1/health", "ok"), ("/v1/ready", "ready")):
        assert httpx.get(url + path).json() == {"status": status}
    nobody = party_class(world.f.folder, [url], "nobody")
    impostor = party_class(world.f.folder, [url], "s0")
    for method, path in endpoints(world.work[3]):
        assert httpx.request(method, url + path).status_code == 401, path
        assert nobody.send(method, path).status_code == 401, path
        assert impostor.send(method, path).status_code == 401, path
    for path in ("/", "/docs", "/v1", "/v1/nothing", "/v1/runs/../../etc/passwd"):
        assert httpx.get(url + path).status_code == 404


def test_the_table_of_strangers_is_the_whole_api(world) -> None:
    from locum.coordinator.api import ENDPOINTS

    a = world.work[3]
    names = {
        a.run: "{run}",
        a.study: "{digest}",
        "0" * 64: "{digest}",
        f"/rounds/{a.seq}": "/rounds/{seq:int}",
        f"/record/{a.seq}": "/record/{seq:int}",
        "/release": "/{phase}",
        "/tile/0/000": "/tile/{path:path}",
        "/lines/heart": "/lines/{name}",
        "/versions/1": "/versions/{version:int}",
    }
    listed = set()
    for method, path in endpoints(a):
        for value, name in names.items():
            path = path.replace(value, name)
        listed.add((method, path))
    open_to_all = {("GET", "/v1/health"), ("GET", "/v1/ready"), ("POST", "/v1/enroll")}
    assert listed | open_to_all == {(e.method, e.path) for e in ENDPOINTS}


def test_every_response_is_dressed(world) -> None:
    for path in ("/v1/health", "/v1/work", "/nothing"):
        headers = httpx.get(world.f.urls[0] + path).headers
        assert abs(float(headers["locum-time"]) - time.time()) < 30
        assert "server" not in headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_each_role_has_its_own_calls(world) -> None:
    a, site, investigator = world.work[3], world.sites[0], world.f.investigator
    assert problem(investigator.send("GET", "/v1/work")) == (403, "forbidden")
    assert problem(investigator.send("GET", f"/v1/runs/{a.run}/rounds/0/state")) == (403, "forbidden")
    assert problem(investigator.send("PUT", f"/v1/studies/{a.study}/decision")) == (403, "forbidden")
    assert problem(site.send("POST", "/v1/studies")) == (403, "forbidden")
    assert problem(site.send("POST", f"/v1/runs/{a.run}/cancel")) == (403, "forbidden")


def test_others_work_is_out_of_sight(world) -> None:
    a, outsider = world.work[3], world.sites[3]
    here = f"/v1/runs/{a.run}/rounds/{a.seq}"
    digest = hashlib.sha256(b"x").hexdigest()
    envelope = Envelope(kind="release", study=a.study, run=a.run, seq=a.seq, phase="release", sender="s3", digest=digest).seal(outsider.identity)
    assert problem(outsider.send("GET", f"{here}/state")) == (403, "forbidden")
    assert problem(outsider.send("PUT", f"{here}/upload/{digest}", b"x", headers={"Upload-Offset": "0"})) == (403, "forbidden")
    assert problem(outsider.send("PUT", f"{here}/release", b"x", headers={"Locum-Envelope": envelope})) == (403, "forbidden")
    assert outsider.get("/v1/runs", list[RunView]) == []
    assert problem(outsider.send("GET", f"/v1/runs/{a.run}")) == (404, "not_found")
    assert outsider.get("/v1/work", Work).assignments == ()
    assert world.stranger.get("/v1/studies", list[StudyView]) == []
    for method, path in (("GET", f"/v1/studies/{a.study}"), ("POST", f"/v1/studies/{a.study}/runs"), ("POST", f"/v1/runs/{a.run}/cancel")):
        assert problem(world.stranger.send(method, path)) == (404, "not_found"), path


def test_a_wrong_clock_is_told_the_time(world) -> None:
    response = world.sites[0].send("GET", "/v1/studies", skew=-3600)
    assert problem(response) == (401, "clock")
    assert abs(float(response.headers["locum-time"]) - time.time()) < 30
    assert "3600 s behind" in response.json()["what"] or "3599 s behind" in response.json()["what"]


def test_a_request_is_bound_to_its_method_target_body_and_federation(world) -> None:
    site, url = world.sites[0], world.f.urls[0]
    signed = {"sender": "s0", "method": "GET", "target": "/v1/studies", "digest": EMPTY_SHA256, "now": time.time(), "federation": site.federation}
    changes: list[tuple[dict[str, Any], int]] = [
        ({}, 200),
        ({"method": "PUT"}, 401),
        ({"target": "/v1/runs"}, 401),
        ({"federation": "f"}, 401),
        ({"sender": "s1"}, 401),
    ]
    for change, status in changes:
        authorization = sign_request(site.identity, **{**signed, **change})
        assert httpx.get(url + "/v1/studies", headers={"Authorization": authorization}).status_code == status, change
    response = world.f.investigator.send("POST", "/v1/studies", b"{}", digest=EMPTY_SHA256, headers={"Locum-Envelope": "x"})
    assert problem(response) == (400, "envelope")
    for bad in ("", "Locum", "Locum sender=s0", "Bearer x", "Locum sender=s0,time=x,digest=,signature=%%%", "Locum " + "x" * 5000):
        assert httpx.get(url + "/v1/studies", headers={"Authorization": bad}).status_code == 401


def test_bodies_are_bounded_before_they_are_read(world) -> None:
    host, port = "127.0.0.1", world.f.replicas[0].port
    target = "/v1/studies"
    who = world.f.investigator
    signed = sign_request(who.identity, federation=who.federation, sender=who.name, method="POST", target=target, digest="0" * 64, now=time.time())
    with socket.create_connection((host, port), timeout=10) as s:  # a body of 1 TB is announced, none of it is sent
        s.sendall(f"POST {target} HTTP/1.1\r\nHost: x\r\nAuthorization: {signed}\r\nContent-Length: {1 << 40}\r\n\r\n".encode())
        assert s.recv(100).startswith(b"HTTP/1.1 413")
    with socket.create_connection((host, port), timeout=10) as s:  # chunks without end
        s.sendall(f"POST {target} HTTP/1.1\r\nHost: x\r\nAuthorization: {signed}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        try:
            for _ in range(40):
                s.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        except OSError:
            pass
        assert s.recv(100).startswith(b"HTTP/1.1 413")
    assert httpx.post(world.f.urls[0] + "/v1/enroll", content=b"x" * 20_000).status_code == 413


def forged(world, size: int = 3, site: int = 0, **change: Any) -> tuple[str, bytes, dict[str, str]]:
    """A release as it should be, but for `change` in its envelope: (target, body, headers)."""
    a, who = world.work[size], world.sites[site]
    body, _ = who.visit(a)
    fields = {"kind": "release", "study": a.study, "run": a.run, "seq": a.seq, "phase": a.phase, "sender": who.name, "digest": hashlib.sha256(body).hexdigest()}
    envelope = Envelope(**{**fields, **change}).seal(who.identity)  # type: ignore[arg-type]
    return f"/v1/runs/{a.run}/rounds/{a.seq}/{a.phase}", body, {"Locum-Envelope": envelope}


@pytest.mark.parametrize(
    "change",
    [
        {"run": "other"},
        {"seq": 1},
        {"study": "0" * 64},
        {"phase": "join"},
        {"sender": "s1"},
        {"digest": "0" * 64},
        {"kind": "approval"},
        {"kind": "assignment"},
    ],
)
@pytest.mark.parametrize("size", [3, MIDDLE])
def test_an_envelope_that_was_made_for_something_else(world, size, change) -> None:
    target, body, headers = forged(world, size, **change)
    assert problem(world.sites[0].send("PUT", target, body, headers=headers)) == (400, "envelope")


def test_an_envelope_of_another_key_or_altered_or_absent(world) -> None:
    target, body, headers = forged(world)
    text = headers["Locum-Envelope"]
    a = world.work[3]
    other = Envelope(kind="release", study=a.study, run=a.run, seq=a.seq, phase=a.phase, sender="s0", digest=hashlib.sha256(body).hexdigest())
    for bad in (text[:-4] + "AAAA", "A" + text[1:], "", "x", "A" * 9000, other.seal(world.sites[1].identity)):
        assert problem(world.sites[0].send("PUT", target, body, headers={"Locum-Envelope": bad})) == (400, "envelope")
    assert problem(world.sites[0].send("PUT", target, body)) == (400, "envelope")


@pytest.mark.parametrize("size", [3, MIDDLE])
def test_an_answer_of_the_wrong_shape(world, size) -> None:
    target, body, _ = forged(world, size)
    for bad in (body[:-8], body + b"x" * 8, b"junk"):
        _, _, headers = forged(world, size, digest=hashlib.sha256(bad).hexdigest())
        assert problem(world.sites[0].send("PUT", target, bad, headers=headers)) == (400, "task")
    swapped = body.replace(b'"x"', b'"y"', 1)
    _, _, headers = forged(world, size, digest=hashlib.sha256(swapped).hexdigest())
    assert problem(world.sites[0].send("PUT", target, swapped, headers=headers)) == (400, "task")


def test_an_answer_that_was_altered_on_the_way(world) -> None:
    for size in (3, MIDDLE):
        target, body, headers = forged(world, size)
        altered = body[:-1] + bytes([body[-1] ^ 1])
        digest = hashlib.sha256(body).hexdigest()
        assert problem(world.sites[0].send("PUT", target, altered, headers=headers, digest=digest)) == (400, "envelope")


def test_a_decline_needs_a_known_code(world) -> None:
    target, _, _ = forged(world)
    for code in (b"because patient 7 died", b"\xff\xfe", b""):
        _, _, headers = forged(world, kind="decline", digest=hashlib.sha256(code).hexdigest())
        assert problem(world.sites[0].send("PUT", target, code, headers=headers)) == (400, "envelope"), code
    _, _, headers = forged(world, kind="decline", digest=hashlib.sha256(b"x" * 100).hexdigest())
    assert problem(world.sites[0].send("PUT", target, b"x" * 100, headers=headers)) == (413, "too_large")


@pytest.mark.parametrize("size", [3, MIDDLE, LARGE])
def test_the_same_answer_twice_is_one_answer_and_another_is_a_conflict(world, size) -> None:
    site, a = world.sites[1], world.work[size]
    target, body, headers = forged(world, size, site=1)
    first = site.answer(a, body, headers["Locum-Envelope"])
    assert first.json() == {"new": True}
    assert site.answer(a, body, headers["Locum-Envelope"]).json() == {"new": False}
    other = body[:-16] + np.asarray([0.5, 1.0]).tobytes()
    _, _, headers = forged(world, size, site=1, digest=hashlib.sha256(other).hexdigest())
    assert refused(site.answer, a, other, headers["Locum-Envelope"]) == (409, "conflict")
    code = b"policy"
    _, _, headers = forged(world, size, site=1, kind="decline", digest=hashlib.sha256(code).hexdigest())
    assert problem(site.send("PUT", target, code, headers=headers)) == (409, "conflict")


def test_resumable_upload(world) -> None:
    site, a = world.sites[2], world.work[LARGE]
    message, body, headers = forged(world, LARGE, site=2)
    digest = hashlib.sha256(body).hexdigest()
    target = f"/v1/runs/{a.run}/rounds/{a.seq}/upload/{digest}"

    def offset() -> int:
        return int(site.call("HEAD", target, digest=digest).headers["Upload-Offset"])

    assert offset() == 0
    assert problem(site.send("PUT", message, headers=headers)) == (409, "conflict")  # nothing has arrived
    assert problem(site.send("PUT", message, body, headers=headers)) == (413, "too_large")
    signed = sign_request(site.identity, federation=site.federation, sender="s2", method="PUT", target=target, digest=digest, now=time.time())
    with socket.create_connection(("127.0.0.1", world.f.replicas[0].port), timeout=10) as s:  # cut in the middle
        head = f"PUT {target} HTTP/1.1\r\nHost: x\r\nAuthorization: {signed}\r\nUpload-Offset: 0\r\nContent-Length: {len(body)}\r\n\r\n"
        s.sendall(head.encode() + body[:654_321])
    end = time.monotonic() + 5
    while offset() < 654_321 and time.monotonic() < end:
        time.sleep(0.02)
    assert offset() == 654_321
    wrong = site.send("PUT", target, body, digest=digest, headers={"Upload-Offset": "0"})
    assert (wrong.status_code, wrong.headers["Upload-Offset"]) == (409, "654321")
    assert problem(site.send("PUT", message, headers=headers)) == (409, "conflict")
    too_long = site.send("PUT", target, body[654_321:] + b"x", digest=digest, headers={"Upload-Offset": "654321"})
    assert problem(too_long) == (413, "too_large")
    assert problem(site.send("PUT", target, b"x", digest="0" * 64, headers={"Upload-Offset": "0"})) == (400, "envelope")
    done = site.call("PUT", target, body[654_321:], digest=digest, headers={"Upload-Offset": "654321"})
    assert int(done.headers["Upload-Offset"]) == len(body) == offset()
    assert site.call("PUT", message, headers=headers).json() == {"new": True}


def test_an_upload_of_other_bytes_than_announced_starts_anew(world) -> None:
    site, a = world.sites[0], world.work[LARGE]
    _, body, _ = forged(world, LARGE)
    digest = hashlib.sha256(body).hexdigest()
    target = f"/v1/runs/{a.run}/rounds/{a.seq}/upload/{digest}"
    assert problem(site.send("PUT", target, body[:-1] + b"\x99", digest=digest, headers={"Upload-Offset": "0"})) == (400, "envelope")
    assert site.call("HEAD", target, digest=digest).headers["Upload-Offset"] == "0"
    for other in range(6):
        junk = bytes([other]) * 1000
        digest = hashlib.sha256(junk).hexdigest()
        last = site.send("PUT", target.rpartition("/")[0] + "/" + digest, junk, digest=digest, headers={"Upload-Offset": "0"})
    assert problem(last) == (409, "conflict")  # a site cannot fill the disk with answers that it does not give


def test_state_in_parts(world) -> None:
    a, site = world.work[3], world.sites[0]
    target = f"/v1/runs/{a.run}/rounds/{a.seq}/state"
    whole = site.call("GET", target)
    assert hashlib.sha256(whole.content).hexdigest() == a.state
    assert len(whole.content) == a.state_bytes
    part = site.call("GET", target, headers={"Range": "bytes=5-"})
    assert (part.status_code, part.content) == (206, whole.content[5:])
    assert part.headers["Content-Range"] == f"bytes 5-{a.state_bytes - 1}/{a.state_bytes}"
    assert site.send("GET", target, headers={"Range": f"bytes={a.state_bytes}-"}).status_code == 416
    for odd in ("bytes=0-3,5-7", "bytes=-3", "rows=5-", "bytes=x-"):
        assert site.call("GET", target, headers={"Range": odd}).content == whole.content


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"plann": []}, "did you mean 'plan'"),
        ({"plan": []}, "plan"),
        ({"plan": [{"name": "a", "task": "coordinator_wolk"}]}, "coordinator_walk"),
        ({"seed": -1}, "seed"),
    ],
)
def test_a_bad_study_is_explained(world, walk, change, says) -> None:
    value = {**json.loads(walk("bad").canonical), **change}
    body = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    response = world.f.investigator.send("POST", "/v1/studies", body, headers={"Locum-Envelope": "x"})
    assert problem(response) == (400, "manifest")
    assert says in response.json()["what"] + response.json()["fix"]


def test_a_study_must_be_canonical_and_signed_by_its_requester(world, walk) -> None:
    study, who = walk("canonical"), world.f.investigator
    assert problem(who.send("POST", "/v1/studies", study.canonical + b" ", headers={"Locum-Envelope": "x"})) == (400, "manifest")
    for body in (b"not json", b"[]", b'{"a":' * 10_000):
        assert problem(who.send("POST", "/v1/studies", body, headers={"Locum-Envelope": "x"})) == (400, "manifest")
    foreign = Envelope(kind="study", study=study.digest, sender=who.name, digest=study.digest).seal(Identity.generate())
    assert problem(who.send("POST", "/v1/studies", study.canonical, headers={"Locum-Envelope": foreign})) == (400, "envelope")
    run = who.submit(study)
    assert who.submit(study) == run
    assert who.get(f"/v1/studies/{study.digest}", StudyView).requester == "ada"
    assert refused(world.stranger.submit, study) == (409, "conflict")
    again = who.call("POST", f"/v1/studies/{study.digest}/runs").json()["id"]
    assert again == run  # one active run of a study at a time
    assert who.call("POST", f"/v1/runs/{run}/cancel").json()["status"] == "cancelled"
    assert who.call("POST", f"/v1/runs/{run}/cancel").json()["status"] == "cancelled"
    assert who.call("POST", f"/v1/studies/{study.digest}/runs").json()["id"] != run


def test_a_replayed_request_starts_no_second_run(world, walk) -> None:
    study, who = walk("replay"), world.f.investigator
    who.call("POST", f"/v1/runs/{who.submit(study)}/cancel")
    target = f"/v1/studies/{study.digest}/runs"
    signed = sign_request(who.identity, federation=who.federation, sender=who.name, method="POST", target=target, digest=EMPTY_SHA256, now=time.time())
    first = httpx.post(who.urls[0] + target, headers={"Authorization": signed}).json()["id"]
    who.call("POST", f"/v1/runs/{first}/cancel")
    assert httpx.post(who.urls[0] + target, headers={"Authorization": signed}).json()["id"] == first


def test_decisions(world, walk) -> None:
    study, site = walk("decisions", terms={"min_cohort": 5, "start_when": 5}), world.sites[3]
    run = world.f.investigator.submit(study)
    assert study.digest in site.get("/v1/work?wait=5", Work).studies
    assert study.digest not in site.get(f"/v1/work?known={study.digest}", Work).studies
    stale = Envelope(kind="approval", study=study.digest, sender="s3", digest=study.digest).seal(site.identity)
    target = f"/v1/studies/{study.digest}/decision"
    signed = sign_request(site.identity, federation=site.federation, sender="s3", method="PUT", target=target, digest=EMPTY_SHA256, now=time.time())
    old = {"Authorization": signed, "Locum-Envelope": stale}
    assert httpx.put(site.urls[0] + target, headers=old).json()["approvals"] == ["s3"]
    assert world.f.investigator.get(f"/v1/runs/{run}", RunView).approvals == 1
    site.decide(study.digest, "denial")
    assert problem(httpx.put(site.urls[0] + target, headers=old)) == (409, "conflict")  # an old approval cannot be replayed over the withdrawal
    view = world.f.investigator.get(f"/v1/studies/{study.digest}", StudyView)
    assert (view.approvals, view.denials) == ((), ("s3",))
    assert world.sites[0].get(f"/v1/studies/{study.digest}", StudyView).denials == ()
    assert problem(site.send("PUT", "/v1/studies/" + "0" * 64 + "/decision", headers={"Locum-Envelope": stale})) == (400, "envelope")
    study_kind = Envelope(kind="study", study=study.digest, sender="s3", digest=study.digest).seal(site.identity)
    assert problem(site.send("PUT", target, headers={"Locum-Envelope": study_kind})) == (400, "manifest")


def test_invitations(world, party_class) -> None:
    folder, urls = world.f.folder, world.f.urls
    text = invite(folder, "new-site", valid_days=1)
    newcomer, thief = party_class(folder, urls, "new-site"), party_class(folder, urls, "new-site")
    assert newcomer.send("GET", "/v1/studies").status_code == 401
    assert newcomer.enroll(text).json() == {"name": "new-site", "role": "site", "federation": folder.federation}
    assert newcomer.enroll(text).status_code == 200  # the answer was lost
    assert problem(thief.enroll(text)) == (401, "not_enrolled")
    assert newcomer.send("GET", "/v1/studies").status_code == 200
    assert problem(thief.enroll(invite(folder, "late", valid_days=-1))) == (401, "not_enrolled")
    unknown = msgspec.structs.replace(Invitation.parse(text), token="x" * 43).text()
    assert problem(thief.enroll(unknown)) == (401, "not_enrolled")
    assert problem(newcomer.enroll(invite(folder, "second-name"))) == (409, "conflict")  # one key, one name
    body = json.dumps({"token": "x", "public_key": str(thief.identity.public), "proof": "AAAA"}).encode()
    assert problem(httpx.post(urls[0] + "/v1/enroll", content=body)) == (401, "not_enrolled")
    for bad in (b"", b"{}", b"[]", b'{"token":1}', b"\xff"):
        assert problem(httpx.post(urls[0] + "/v1/enroll", content=bad)) == (400, "manifest")
    with pytest.raises(Exception, match="enrolled already"):
        invite(folder, "new-site")
    with pytest.raises(Exception, match="is not a name"):
        invite(folder, "No Name")


def test_a_revoked_party_is_shut_out_within_seconds_and_may_come_back_with_a_new_key(world, party_class) -> None:
    folder = world.f.folder
    site = world.f.party("fickle", "site")
    assert site.send("GET", "/v1/studies").status_code == 200
    revoke(folder, "fickle")
    time.sleep(1.2)
    assert site.send("GET", "/v1/studies").status_code == 401
    again = party_class(folder, world.f.urls, "fickle")
    assert again.enroll(invite(folder, "fickle")).status_code == 200
    time.sleep(1.2)
    assert again.send("GET", "/v1/studies").status_code == 200
    assert site.send("GET", "/v1/studies").status_code == 401
    with pytest.raises(Exception, match="No enrolled party"):
        revoke(folder, "never-was")


def test_polls_wake_at_once_and_end_in_time(world, walk) -> None:
    site, who = world.f.party("poller", "site"), world.f.investigator
    known = ",".join(site.get("/v1/work", Work).studies)
    started = time.monotonic()
    assert site.get(f"/v1/work?wait=0.5&known={known}", Work) == Work()
    assert 0.4 < time.monotonic() - started < 3
    run = who.submit(walk("poll"))
    version = who.get(f"/v1/runs/{run}", RunView).version
    started = time.monotonic()
    assert who.get(f"/v1/runs/{run}?wait=0.5&version={version}", RunView).version == version
    assert 0.4 < time.monotonic() - started < 3
    assert problem(who.send("GET", f"/v1/runs/{run}?wait=soon")) == (400, "manifest")
    assert problem(who.send("GET", f"/v1/runs/{run}?wait=nan")) == (400, "manifest")


def test_metrics_need_their_token(world) -> None:
    url = world.f.urls[0] + "/metrics"
    token = world.f.folder.metrics_token
    assert httpx.get(url, headers={"Authorization": "Bearer " + "x" * len(token)}).status_code == 401
    text = httpx.get(url, headers={"Authorization": f"Bearer {token}"}).text
    assert 'locum_requests_total{method="GET",route="/v1/work",status="200"}' in text
    assert "locum_active_runs 3.0" in text
    assert "s0" not in text


def test_nothing_secret_is_logged(world) -> None:
    said = world.f.replicas[0].said()
    assert "round.opened" in said
    assert "Traceback" not in said
    for secret in (world.f.folder.metrics_token, "Locum sender", (world.f.folder.path / "coordinator.key").read_text().splitlines()[1]):
        assert secret not in said


def test_sites_are_listed_with_fingerprints(world) -> None:
    listed = {s["name"]: s["fingerprint"] for s in world.sites[0].get("/v1/sites", list[dict[str, Any]])}
    assert listed["s1"] == world.sites[1].identity.public.fingerprint
    assert "ada" not in listed


# --- the coordinator as a witness of the sites' privacy ledgers --------------------------------------------------------


def stated(party: Any) -> dict[str, tuple[int, str]]:
    heads = [signed.open(party.name, party.identity.public) for signed in party.get("/v1/ledgers", SignedHeads).heads]
    return {head.data: (head.n, head.hash) for head in heads}


def state(party: Any, data: str, n: int, digit: str) -> None:
    head = LedgerHead(site=party.name, data=data, n=n, hash=digit * 64)
    party.call("PUT", "/v1/ledgers", msgspec.json.encode(SignedHead.seal(head, party.identity)))


def test_a_site_finds_its_own_furthest_statement_again(world) -> None:
    one, two = (world.f.sites[name] for name in ("s0", "s1"))
    assert stated(one) == {}
    state(one, "main", 5, "a")
    state(one, "other", 1, "b")
    state(one, "main", 7, "c")
    state(one, "main", 6, "d")  # late: it was sent again
    state(one, "main", 7, "e")  # the first of its number stands
    assert stated(one) == {"main": (7, "c" * 64), "other": (1, "b" * 64)}
    assert stated(two) == {}, "nobody else's"


def test_a_statement_that_the_site_has_not_signed_is_not_kept(world) -> None:
    one, two = (world.f.sites[name] for name in ("s0", "s1"))
    head = LedgerHead(site=one.name, data="main", n=99, hash="f" * 64)
    forged = SignedHead.seal(head, two.identity)
    altered = SignedHead(msgspec.json.encode(msgspec.structs.replace(head, n=100)).decode(), SignedHead.seal(head, one.identity).envelope)
    others = SignedHead.seal(msgspec.structs.replace(head, site=two.name), two.identity)
    for bad in (forged, altered, others):
        assert refused(one.call, "PUT", "/v1/ledgers", msgspec.json.encode(bad))[0] in (400, 401, 403)
    for body in (b"", b"{}", b"[]", msgspec.json.encode({"body": "{}", "envelope": "x", "more": 1}), b"x" * 20_000):
        assert refused(one.call, "PUT", "/v1/ledgers", body)[0] in (400, 401, 403, 413, 422)
    assert "f" * 64 not in {digest for _, digest in stated(one).values()}
    with pytest.raises(EnvelopeError):
        forged.open(one.name, one.identity.public)
