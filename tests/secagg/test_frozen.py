"""The frozen transcript, recomputed with the code of today. If one of these fails, the wire has changed: sites of two releases
would not understand each other, and the labels need a new version (see vectors/make.py).
"""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from locum.federation.identity import PublicKey
from locum.secagg import cohort, graph, masks, rotation, session, shamir, topology
from locum.secagg.encoding import Encoding
from locum.secagg.kdf import label
from locum.secagg.masks import Stream, keystream_key
from locum.secagg.messages import Confirm, Join, Keys, Request, Roster, Seals, Survivors, Unmask, decode, encode
from locum.secagg.parameters import Parameters
from locum.secagg.ring import Ints, Ring
from locum.secagg.session import Pending, Setup
from locum.secagg.site import commit, join_digest, open_escrow
from locum.secagg.suites import SUITES
from locum.secagg.topology import Manifest
from locum.study.manifest import Masking
from locum.study.vector import Field, Layout

FOLDER = Path(__file__).parent / "vectors"
FILE = FOLDER / "transcript-v1.json"
FROZEN = json.loads(FILE.read_text())
Case = dict[str, Any]
each_case = pytest.mark.parametrize("case", FROZEN["cases"], ids=[c["name"] for c in FROZEN["cases"]])
each_setup = pytest.mark.parametrize("frozen", FROZEN["setups"], ids=[s["suite"] for s in FROZEN["setups"]])


@pytest.fixture(scope="module")
def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("secagg_vectors_make", FOLDER / "make.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unhexed(of: dict[str, str]) -> dict[int, bytes]:
    return {int(i): bytes.fromhex(v) for i, v in of.items()}


def bodies(case: Case, message: str) -> dict[int, bytes]:
    """What each site sent, by number."""
    return {int(i): bytes.fromhex(site[message]) for i, site in case["sites"].items() if message in site}


def elements(case: Case, of: dict[str, str]) -> dict[str, Ints]:
    """From the wire form of each group."""
    out = {}
    for g, group in case["groups"].items():
        ring = Ring(group["bits"])
        shape, dtype = ring.wire(group["size"])
        out[g] = ring.unpack(np.frombuffer(bytes.fromhex(of[g]), np.dtype(dtype).newbyteorder("<")).reshape(shape), group["size"]).copy()
    return out


def wire(case: Case, values: dict[str, Ints]) -> dict[str, str]:
    return {g: Ring(group["bits"]).pack(values[g]).tobytes().hex() for g, group in case["groups"].items()}


def rings(case: Case) -> dict[str, Ring]:
    return {g: Ring(group["bits"]) for g, group in case["groups"].items()}


def manifest(case: Case) -> Manifest:
    names = tuple(f"site-{i:04d}" for i in range(case["n"]))
    keys = {names[int(i)]: PublicKey(bytes.fromhex(site["public"])) for i, site in case["sites"].items()}
    return Manifest(bytes.fromhex(case["manifest"]), case["t"], names, keys, 3, Masking())


def joined(case: Case) -> cohort.Joined:
    m = manifest(case)
    return cohort.joined(m, bytes.fromhex(case["session"]), m.roster, bytes.fromhex(case["seed"]), bodies(case, "join"))


def test_the_version_in_the_labels_is_the_frozen_one() -> None:
    assert FROZEN["version"] == label("").decode() == "locum/fsa-1/"
    assert FILE.stat().st_size < 200_000


def test_making_the_transcript_again_gives_the_same_bytes(make: ModuleType) -> None:
    """All that sites and coordinator send in a round, from the same secrets: JOIN, masked vectors, CONFIRM, UNMASK, and the sum."""
    assert make.text(make.build(FROZEN["setups"])) == FILE.read_text()


def test_the_cases_cover_every_ring_and_every_way_to_leave() -> None:
    bits = {group["bits"] for case in FROZEN["cases"] for group in case["groups"].values()}
    assert bits == {8, 12, 16, 20, 24, 28, 32, 128}
    assert {r["secret"] for case in FROZEN["cases"] for r in case["recovered"]} == {"b", "k"}
    assert any(len(case["sites"]) < case["n"] for case in FROZEN["cases"])
    assert any(case["u2"] == list(range(case["n"])) and not case["recovered"] for case in FROZEN["cases"])


@each_case
def test_a_site_derives_the_same_keys_and_the_same_masked_vector(case: Case) -> None:
    j = bytes.fromhex(case["j"])
    for i in case["u2"]:
        site = case["sites"][str(i)]
        assert site["signs"] == {k: 1 if i < int(k) else -1 for k in site["signs"]}
        streams = [Stream(bytes.fromhex(site["b"]), "self", 1), *(Stream(bytes.fromhex(site["pairs"][k]), "pair", s) for k, s in site["signs"].items())]
        for g, keys in site["keys"].items():
            assert list(keys.values()) == [keystream_key(s.seed, s.purpose, j, g).hex() for s in streams]
        y = elements(case, site["x"])
        masks.apply(y, rings(case), streams, j)
        assert wire(case, y) == site["y"]


@each_case
def test_every_join_is_read_commits_to_its_secrets_and_holds_its_escrow(case: Case) -> None:
    m = manifest(case)
    for i, raw in bodies(case, "join").items():
        site, body = case["sites"][str(i)], decode(raw, Join)
        assert encode(body) == raw
        assert join_digest(m, i, body).hex() == site["digest"]
        assert body.commit_b == commit("b", m, i, bytes.fromhex(site["b"]))
        assert body.commit_k == commit("k", m, i, bytes.fromhex(site["k"]))
        assert open_escrow(m, i, bytes.fromhex(site["k"]), body) == unhexed(site["pairs"])


@each_case
def test_the_coordinator_accepts_the_frozen_joins_and_gets_the_same_transcript(case: Case) -> None:
    u1 = joined(case)
    assert sorted(u1.joins) == [int(i) for i in case["sites"]]
    assert u1.j.hex() == case["j"]
    digests = {int(i): bytes.fromhex(site["digest"]) for i, site in case["sites"].items()}
    assert u1.j == topology.transcript(manifest(case), bytes.fromhex(case["session"]), bytes.fromhex(case["seed"]), digests)
    for me, raw in cohort.rosters(u1).items():
        roster = decode(raw, Roster)
        assert {i: d for i, (d, _) in roster.joined.items()} == digests
        assert set(roster.shares) == set(u1.joins) - {me}


@each_case
def test_the_coordinator_counts_the_frozen_confirmations(case: Case) -> None:
    raw, count = cohort.request(manifest(case), joined(case), case["u2"], bodies(case, "confirm"))
    assert count == joined(case).topology.quorum
    assert decode(raw, Request).survivors == decode(cohort.survivors(case["u2"]), Survivors).survivors == tuple(case["u2"])
    sent = {i: decode(body, Confirm).signature for i, body in bodies(case, "confirm").items()}
    assert decode(raw, Request).signatures.items() <= sent.items()


@each_case
def test_the_coordinator_removes_the_masks_from_the_frozen_vectors(case: Case) -> None:
    (part,) = cohort.recover(manifest(case), joined(case), case["u2"], bodies(case, "unmask"))
    assert list(part.survivors) == case["u2"]
    total, plain = ({g: ring.zeros(case["groups"][g]["size"]) for g, ring in rings(case).items()} for _ in range(2))
    for i in part.survivors:
        for g, ring in rings(case).items():
            ring.add(total[g], elements(case, case["sites"][str(i)]["y"])[g])
            ring.add(plain[g], elements(case, case["sites"][str(i)]["x"])[g])
            ring.reduce(total[g])
            ring.reduce(plain[g])
    assert wire(case, total) != case["sum"]
    masks.apply(total, rings(case), part.streams, bytes.fromhex(case["j"]))
    assert wire(case, total) == wire(case, plain) == case["sum"]


@each_case
def test_the_frozen_shares_give_the_secrets_and_the_escrows_open(case: Case) -> None:
    m = manifest(case)
    answers = {i: decode(raw, Unmask) for i, raw in bodies(case, "unmask").items()}
    for found in case["recovered"]:
        i, which = found["site"], found["secret"]
        shares = unhexed(found["shares"])
        assert all((answers[h].shares_b if which == "b" else answers[h].shares_k)[i] == share for h, share in shares.items())
        assert shamir.combine(shares, found["threshold"]).hex() == found["value"] == case["sites"][str(i)][which]
        if which == "k":
            body = decode(bytes.fromhex(case["sites"][str(i)]["join"]), Join)
            assert body.escrow.hex() == found["escrow"]["sealed"]
            assert b"".join(open_escrow(m, i, bytes.fromhex(found["value"]), body).values()).hex() == found["escrow"]["plain"]


# --- the set-up ---------------------------------------------------------------------------------------------------------------


def frozen_setup(frozen: dict[str, Any]) -> Setup:
    keys = {name: PublicKey(bytes.fromhex(site["public"])) for name, site in frozen["sites"].items()}
    return Setup.of(study="study", run="run", t=0, roster="roster", suite=SUITES[frozen["suite"]], keys=keys, n_min=3)


@each_setup
def test_a_frozen_set_up_still_opens_to_the_same_roots(frozen: dict[str, Any]) -> None:
    """KEYS and SEALS as they were recorded, through both of the coordinator's steps, opened by each site with its secrets."""
    setup, sites = frozen_setup(frozen), frozen["sites"]
    assert setup.id.hex() == frozen["session"]
    listed = session.key_list(setup, {name: bytes.fromhex(site["keys"]) for name, site in sites.items()})
    assert sorted(listed) == sorted(sites)
    keys = {name: decode(bytes.fromhex(site["keys"]), Keys) for name, site in sites.items()}
    seed, columns = session.columns(setup, {name: bytes.fromhex(site["seals"]) for name, site in sites.items()}, listed[min(sites)])
    assert seed.hex() == frozen["seed"]
    for name, site in sites.items():
        sealed = {to: seal.sealed for to, seal in decode(bytes.fromhex(site["seals"]), Seals).seals.items()}
        secrets = {to: bytes.fromhex(secret) for to, secret in site["secrets"].items()}
        public = {other: (k.public, k.commitment) for other, k in keys.items()}
        pending = Pending(bytes.fromhex(site["private"]), bytes.fromhex(site["nonce"]), secrets, public, sealed)
        opened = session.open_column(setup, name, pending, columns[name], 4)
        assert {to: root.hex() for to, root in opened.roots.items()} == site["roots"]
        assert opened.members == tuple(sorted(sites))
        assert (opened.seed.hex(), opened.t) == (frozen["seed"], 4)
        assert all(site["roots"][to] == sites[to]["roots"][name] for to in site["roots"])


# --- what sites and coordinator compute each for themselves ---------------------------------------------------------------------


@pytest.mark.parametrize("frozen", FROZEN["graphs"], ids=lambda g: f"{g['n']} sites")
def test_the_graph_of_a_seed_is_the_frozen_one(frozen: dict[str, Any]) -> None:
    seed = bytes.fromhex(frozen["seed"])
    assert graph.permutation(frozen["n"], seed, frozen["t"]) == frozen["order"]
    around = graph.neighbours(Parameters(frozen["n"], frozen["k"], frozen["k"] // 2 + 1), seed, frozen["t"])
    assert [list(near) for near in around] == frozen["neighbours"]


def test_the_signs_of_the_rotation_are_the_frozen_ones() -> None:
    signs = rotation._signs(bytes.fromhex(FROZEN["signs"]["seed"]), 64)
    assert np.packbits(signs < 0).tobytes().hex() == FROZEN["signs"]["minus"]


def test_wide_numbers_are_encoded_to_the_frozen_bytes_and_back() -> None:
    frozen = FROZEN["encodings"][0]
    e = Encoding(Layout((Field("s", (8,)), Field("k", (3,), "int64"))), frozen["n"], Masking())
    vector = {"s": np.array([float.fromhex(v) for v in frozen["s"]]), "k": np.array(frozen["k"])}
    packed = e.pack(e.encode(vector, 1.0, bytes(32)))
    assert packed["wide"].tobytes().hex() == frozen["wide"]
    back = e.decode(e.unpack(packed))
    assert back["s"].tolist() == vector["s"].tolist()
    assert back["k"].tolist() == frozen["k"]


@pytest.mark.parametrize("frozen", FROZEN["encodings"][1:], ids=lambda e: f"{e['bits']} bits")
def test_narrow_numbers_are_encoded_to_the_frozen_bytes(frozen: dict[str, Any]) -> None:
    terms = Masking(clip=1.0, bits=frozen["bits"], max_weight=frozen["max_weight"])
    e = Encoding(Layout((Field("u", (6,), "float32"),)), frozen["n"], terms)
    u = np.array([float.fromhex(v) for v in frozen["u"]], np.float32)
    packed = e.pack(e.encode({"u": u}, frozen["weight"], bytes.fromhex(frozen["rounding"])))
    assert packed["narrow"].tobytes().hex() == frozen["narrow"]
    assert np.allclose(e.decode(e.unpack(packed))["u"], frozen["weight"] * u, atol=e.step)


# --- and a change would be noticed ----------------------------------------------------------------------------------------------


def test_another_label_would_change_the_transcript(make: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locum.secagg.kdf.LABEL", b"locum/fsa-2/")
    changed = make.build(FROZEN["setups"])
    assert all(new["j"] != old["j"] and new["sites"] != old["sites"] for new, old in zip(changed["cases"], FROZEN["cases"], strict=True))
    assert all(new["sum"] == old["sum"] for new, old in zip(changed["cases"], FROZEN["cases"], strict=True))
