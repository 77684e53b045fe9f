"""Devices against three helpers: exact sums, everything a helper refuses, and what one corrupt helper can see."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import permutations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.errors import LocumError
from locum.federation.identity import Identity, PublicKey
from locum.secagg import helper, masks
from locum.secagg.encoding import Encoding
from locum.secagg.errors import EncodingError, MaskingRefused, ProtocolError, Unrecoverable
from locum.secagg.helper import HELPERS, AnswerRequest, Envelope, Helper, HelperName, HelperRound, HelperState, Proposal, Responders, Signed
from locum.secagg.kdf import digest, label
from locum.secagg.kdf import join as concat
from locum.secagg.messages import decode, encode
from locum.secagg.ring import Ints
from locum.secagg.suites import DEFAULT, SUITES
from locum.study.manifest import Masking
from locum.study.vector import Field, Layout

SUITE = SUITES[DEFAULT]
PRIVATE = {h: SUITE.generate() for h in HELPERS}
PUBLIC = {h: SUITE.public(private) for h, private in PRIVATE.items()}
IDENTITY = {h: Identity.generate() for h in HELPERS}
DEVICE = [Identity.generate() for _ in range(12)]
ENROLLED: dict[str, PublicKey] = {str(d.public): d.public for d in DEVICE}
RESPONDERS: list[Responders] = list(permutations(HELPERS, 2))


def make_encoding(n: int, d: int = 37, bits: int = 32) -> Encoding:
    """A narrow group of d and a wide group of 6."""
    return Encoding(Layout((Field("u", (d,), "float32"), Field("s", (3,)), Field("k", (2,), "int64"), Field("weight", ()))), n, Masking(clip=1.0, bits=bits))


def random_elements(e: Encoding, rng: np.random.Generator) -> dict[str, Ints]:
    out: dict[str, Ints] = {}
    for g, size in e.sizes.items():
        ring = e.rings[g]
        out[g] = np.frombuffer(rng.bytes(size * ring.itemsize), ring.dtype).reshape(ring.shape(size)).copy()
        ring.reduce(out[g])
    return out


def plain_sum(e: Encoding, vectors: list[Mapping[str, Ints]]) -> dict[str, Ints]:
    acc = e.zeros()
    for v in vectors:
        e.add(acc, v)
    return acc


def equal(a: Mapping[str, Ints], b: Mapping[str, Ints]) -> bool:
    return sorted(a) == sorted(b) and all(np.array_equal(a[g], b[g]) for g in a)


class Play:
    """One round in this process: what passes between the parties is bytes. Every step may be called by a test alone."""

    def __init__(self, n: int = 4, *, e: Encoding | None = None, seed: int = 0, mh: bytes = digest("manifest", 1), n_min: int = 3, cosigners: int = 3) -> None:
        self.encoding = e or make_encoding(max(1, n))
        self.round = HelperRound(mh, self.encoding, SUITE, PUBLIC, {h: i.public for h, i in IDENTITY.items()}, n_min, cosigners)
        self.helpers = {h: Helper(h, SUITE, PRIVATE[h], IDENTITY[h].sign, ENROLLED.get) for h in HELPERS}
        self.states = {h: HelperState(mh) for h in HELPERS}
        rng, entropy = np.random.default_rng(seed), random.Random(seed).randbytes
        self.x, self.raw, self.envelopes, self.vectors = {}, {}, {}, {}
        for device in DEVICE[:n]:
            x = random_elements(self.encoding, rng)
            raw, vector = helper.report(self.round, str(device.public), x, device.sign, entropy)
            body = helper.receive(self.round, ENROLLED.get, raw, vector)
            self.x[body.id], self.raw[body.id], self.envelopes[body.id], self.vectors[body.id] = x, raw, body, vector

    def take(self) -> None:
        self.taken = {h: [self.helpers[h].take(self.round, self.states[h], raw) for raw in self.raw.values()] for h in HELPERS}

    def propose(self, responders: Responders = ("A", "B")) -> Proposal:
        self.take()
        return helper.propose(self.round, responders, self.taken)

    def cosign(self, proposal: Proposal, who: tuple[HelperName, ...] = HELPERS) -> dict[HelperName, bytes]:
        return {h: self.helpers[h].cosign(self.round, self.states[h], encode(proposal)) for h in who}

    def request(self, proposal: Proposal, who: tuple[HelperName, ...] = HELPERS) -> bytes:
        raw, valid = helper.request(self.round, self.envelopes, proposal, self.cosign(proposal, who))
        assert valid == len(who)
        return raw

    def answer(self, h: HelperName, request: bytes, noise: Mapping[str, Ints] | None = None) -> tuple[bytes, bytes]:
        return self.helpers[h].answer(self.round, self.states[h], request, noise)

    def unmask(self, proposal: Proposal, answers: dict[HelperName, tuple[bytes, bytes]]) -> dict[str, Ints]:
        return helper.unmask(self.round, self.envelopes, proposal, self.vectors, answers)

    def expected(self, proposal: Proposal) -> dict[str, Ints]:
        return plain_sum(self.encoding, [self.x[i] for i in proposal.reports])

    def restart(self, h: HelperName) -> None:
        self.states[h] = msgspec.msgpack.decode(msgspec.msgpack.encode(self.states[h]), type=HelperState)

    @contextmanager
    def refused(self, match: str, kind: type[LocumError] = MaskingRefused) -> Iterator[None]:
        """The step raises, and no helper's state changes."""
        before = msgspec.msgpack.encode(self.states)
        with pytest.raises(kind, match=match):
            yield
        assert msgspec.msgpack.encode(self.states) == before


def forged_cosignature(h: HelperName, play: Play, proposal: Proposal) -> bytes:
    """What a corrupt helper signs, whatever it signed before."""
    agreed = helper.statement(play.round, proposal.responders, {i: helper.envelope_digest(play.envelopes[i]) for i in proposal.reports})
    return IDENTITY[h].sign(label("cosign"), agreed)


def resigned(body: Envelope, device: Identity, **changes: object) -> bytes:
    body = msgspec.structs.replace(body, **{"device": str(device.public), **changes})
    return encode(msgspec.structs.replace(body, signature=device.sign(label("envelope"), helper.envelope_digest(body))))


# --- the sum ----------------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(st.integers(1, 12), st.sampled_from([8, 12, 16, 20, 24, 28, 32]), st.sampled_from(RESPONDERS), st.integers(1, 70), st.integers(0, 2**32))
def test_the_sum_is_exact(n: int, bits: int, responders: Responders, d: int, seed: int) -> None:
    play = Play(n, e=make_encoding(n, d, bits), seed=seed, n_min=1)
    proposal = play.propose(responders)
    request = play.request(proposal)
    total = play.unmask(proposal, {h: play.answer(h, request) for h in responders})
    assert len(proposal.reports) == n
    assert equal(total, play.expected(proposal))


@pytest.mark.parametrize("responders", RESPONDERS)
def test_any_two_helpers_suffice_and_numbers_come_back(responders: Responders) -> None:
    e = make_encoding(3)
    rng, play, total = np.random.default_rng(1), Play(0, e=e), np.zeros(3)
    for device in DEVICE[:3]:
        values = {f.name: np.asarray((rng.normal(size=f.shape) * 9).astype(f.dtype)) for f in e.layout.fields}
        total += values["s"]
        raw, vector = helper.report(play.round, str(device.public), e.encode(values, 1.0, os.urandom(32)), device.sign, os.urandom)
        body = helper.receive(play.round, ENROLLED.get, raw, vector)
        play.raw[body.id], play.envelopes[body.id], play.vectors[body.id] = raw, body, vector
    proposal = play.propose(responders)
    request = play.request(proposal)
    answers = {h: play.answer(h, request) for h in responders}
    assert np.allclose(e.decode(play.unmask(proposal, answers))["s"], total, atol=1e-12)
    third = next(h for h in HELPERS if h not in responders)
    assert not any(r.seeds for r in play.states[third].reports.values())  # nobody needs them: erased on co-signing
    with play.refused("not one of the two"):
        play.answer(third, request)


def test_reports_that_are_not_in_the_list_are_not_in_the_sum() -> None:
    play = Play(7, e=make_encoding(5))
    proposal = play.propose()
    assert len(proposal.reports) == 5  # what the encoding has room for
    request = play.request(proposal)
    assert set(play.states["A"].reports) - {i for i, r in play.states["A"].reports.items() if r.seeds} == set(play.raw) - set(proposal.reports)
    assert equal(play.unmask(proposal, {h: play.answer(h, request) for h in ("A", "B")}), play.expected(proposal))


def test_noise_is_added_once_by_each_responder() -> None:
    play = Play()
    proposal = play.propose()
    request = play.request(proposal)
    noise = {h: random_elements(play.encoding, np.random.default_rng(i)) for i, h in enumerate(("A", "B"))}
    with play.refused("noise", EncodingError):
        play.answer("A", request, {"narrow": noise["A"]["narrow"]})
    with play.refused("noise", EncodingError):
        play.answer("A", request, {**noise["A"], "narrow": noise["A"]["narrow"].astype(np.int64)})
    total = play.unmask(proposal, {h: play.answer(h, request, noise[h]) for h in ("A", "B")})
    assert equal(total, plain_sum(play.encoding, [play.expected(proposal), noise["A"], noise["B"]]))


def test_the_vector_given_is_left_as_it_is() -> None:
    play = Play(0)
    x = random_elements(play.encoding, np.random.default_rng(0))
    before = {g: a.copy() for g, a in x.items()}
    helper.report(play.round, str(DEVICE[0].public), x, DEVICE[0].sign, os.urandom)
    assert equal(x, before)


def test_an_envelope_is_under_four_kilobytes() -> None:
    """Three seals of 1,200 bytes (X-Wing 1,120, two seeds 64, tag 16), and 0.3 kB to say whose they are."""
    raw = next(iter(Play(1).raw.values()))
    assert sum(map(len, decode(raw, Envelope).sealed)) == 3600
    assert 3600 < len(raw) < 3950


def test_the_other_suite_works_too() -> None:
    suite = SUITES["mlkem1024-p384"]
    private = {h: suite.generate() for h in HELPERS}
    play = Play(0)
    round_ = HelperRound(play.round.digest, play.encoding, suite, {h: suite.public(p) for h, p in private.items()}, play.round.keys, 1)
    raw, _ = helper.report(round_, str(DEVICE[0].public), play.encoding.zeros(), DEVICE[0].sign, os.urandom)
    for h in HELPERS:
        Helper(h, suite, private[h], IDENTITY[h].sign, ENROLLED.get).take(round_, play.states[h], raw)
    held = [play.states[h].reports[decode(raw, Envelope).id].seeds for h in HELPERS]
    assert held[0]["AB"] == held[1]["AB"] != held[0]["AC"] == held[2]["AC"] != held[1]["BC"] == held[2]["BC"]


# --- taking a report --------------------------------------------------------------------------------------------------


def test_a_report_is_taken_once() -> None:
    play = Play()
    play.take()
    with play.refused("taken already"):
        play.helpers["A"].take(play.round, play.states["A"], next(iter(play.raw.values())))
    play.restart("A")
    with play.refused("taken already"):
        play.helpers["A"].take(play.round, play.states["A"], next(iter(play.raw.values())))


def test_a_device_counts_once() -> None:
    play = Play()
    play.take()
    another, _ = helper.report(play.round, str(DEVICE[0].public), play.encoding.zeros(), DEVICE[0].sign, os.urandom)
    with play.refused("another of its device"):
        play.helpers["A"].take(play.round, play.states["A"], another)


def test_another_device_cannot_take_over_a_report() -> None:
    """The thief may get in first at one helper; as the list covers the envelopes, that helper then signs another list."""
    play = Play()
    stolen = next(iter(play.envelopes))
    thief = resigned(play.envelopes[stolen], DEVICE[-1])
    play.helpers["A"].take(play.round, play.states["A"], thief)
    with play.refused("taken already"):
        play.helpers["A"].take(play.round, play.states["A"], play.raw[stolen])
    for h, raws in {"A": [r for i, r in play.raw.items() if i != stolen], "B": list(play.raw.values()), "C": list(play.raw.values())}.items():
        for raw in raws:
            play.helpers[h].take(play.round, play.states[h], raw)
    proposal = Proposal(("A", "B"), tuple(sorted(play.raw)))
    request, valid = helper.request(play.round, play.envelopes, proposal, play.cosign(proposal))
    assert valid == 2
    with play.refused("2 helpers have co-signed"):
        play.answer("B", request)


@pytest.mark.parametrize(
    ("forge", "match"),
    [
        (lambda b: encode(msgspec.structs.replace(b, signature=bytes(64))), "not signed"),
        (lambda b: encode(msgspec.structs.replace(b, id=bytes(32))), "not signed"),
        (lambda b: encode(msgspec.structs.replace(b, device=str(DEVICE[5].public))), "not signed"),
        (lambda b: encode(msgspec.structs.replace(b, sealed=(b.sealed[0], b.sealed[2], b.sealed[1]))), "not signed"),
        (lambda b: resigned(b, Identity.generate()), "not enrolled"),
    ],
)
def test_bad_credentials_are_refused(forge: Callable[[Envelope], bytes], match: str) -> None:
    play = Play(1)
    (id_, body), raw = next(iter(play.envelopes.items())), b""
    raw = forge(body)
    for h in HELPERS:
        with play.refused(match):
            play.helpers[h].take(play.round, play.states[h], raw)
    with play.refused(match):
        helper.receive(play.round, ENROLLED.get, raw, play.vectors[id_])


@pytest.mark.parametrize("change", ["id", "vector", "sealed"])
def test_a_seal_opens_only_for_its_report(change: str) -> None:
    play = Play(2)
    one, two = play.envelopes.values()
    raw = resigned(one, DEVICE[0], **{change: getattr(two, change)})
    with play.refused("does not open", ProtocolError):
        play.helpers["A"].take(play.round, play.states["A"], raw)


def test_a_seal_of_another_length_is_refused() -> None:
    play = Play(1)
    body = next(iter(play.envelopes.values()))
    short = SUITE.seal(PUBLIC["A"], bytes(32), concat(play.round.digest, body.id, body.vector))
    with play.refused("two seeds", ProtocolError):
        play.helpers["A"].take(play.round, play.states["A"], resigned(body, DEVICE[0], sealed=(short, *body.sealed[1:])))


def test_another_manifest_is_refused() -> None:
    play, other = Play(), Play(mh=digest("manifest", 2))
    with play.refused("another manifest"):
        play.helpers["A"].take(play.round, play.states["A"], next(iter(other.raw.values())))
    with play.refused("another manifest"):
        play.helpers["A"].take(other.round, play.states["A"], next(iter(other.raw.values())))
    body = next(iter(other.envelopes.values()))
    relabelled = resigned(body, DEVICE[0], manifest=play.round.digest)  # even a device that lends its key
    with play.refused("does not open", ProtocolError):
        play.helpers["A"].take(play.round, play.states["A"], relabelled)
    proposal = play.propose()
    with play.refused("another manifest"):
        play.helpers["A"].cosign(other.round, play.states["A"], encode(proposal))
    request = play.request(proposal)
    with play.refused("another manifest"):
        play.helpers["A"].answer(other.round, play.states["A"], request)


def test_another_manifest_gives_other_streams() -> None:
    """The same seeds under another Mh leave noise."""
    play = Play(3)
    proposal = play.propose()
    request = play.request(proposal)
    unbound = HelperRound(digest("manifest", 2), play.encoding, SUITE, PUBLIC, play.round.keys, 3)
    assert unbound.transcript != play.round.transcript
    streams = [masks.Stream(seed, "pair", -1) for r in play.states["A"].reports.values() for seed in r.seeds.values()]
    wrong, right = play.encoding.zeros(), play.encoding.zeros()
    masks.apply(wrong, play.encoding.rings, streams, unbound.transcript)
    masks.apply(right, play.encoding.rings, streams, play.round.transcript)
    assert play.answer("A", request)[1] == play.encoding.wire.pack(play.encoding.pack(right))
    assert np.count_nonzero(wrong["narrow"] == right["narrow"]) <= 1


def test_the_list_closes_when_it_is_signed() -> None:
    play = Play(5)
    late, raw = play.raw.popitem()
    play.cosign(play.propose())
    with play.refused("closed"):
        play.helpers["A"].take(play.round, play.states["A"], raw)
    assert late not in play.states["A"].reports


def test_the_coordinator_sees_an_altered_vector() -> None:
    play = Play(1)
    (id_, vector) = next(iter(play.vectors.items()))
    with play.refused("not the one that its device signed", ProtocolError):
        helper.receive(play.round, ENROLLED.get, play.raw[id_], vector[:-1] + bytes([vector[-1] ^ 1]))
    other = helper.report(Play(0, e=make_encoding(4, 3)).round, str(DEVICE[0].public), make_encoding(4, 3).zeros(), DEVICE[0].sign, os.urandom)
    with play.refused("layout", ProtocolError):
        helper.receive(play.round, ENROLLED.get, *other)


# --- co-signing -------------------------------------------------------------------------------------------------------


def test_lists_that_are_refused() -> None:
    play = Play(5, e=make_encoding(4))
    play.take()
    ids = sorted(play.raw)
    listed: dict[str, tuple[type[LocumError], Proposal]] = {
        "2 reports would be in the sum; 3": (MaskingRefused, Proposal(("A", "B"), tuple(ids[:2]))),
        "5 reports would be in the sum; the encoding": (MaskingRefused, Proposal(("A", "B"), tuple(ids))),
        "has not taken": (MaskingRefused, Proposal(("A", "B"), tuple(sorted([*ids[:3], bytes(32)])))),
        "once each": (ProtocolError, Proposal(("A", "B"), (ids[0], *ids[:3]))),
        "in ascending order": (ProtocolError, Proposal(("A", "B"), (ids[2], ids[1], ids[0]))),
        "two helpers": (ProtocolError, Proposal(("A", "A"), tuple(ids[:4]))),
        "understands": (ProtocolError, Proposal(("A", "D"), tuple(ids[:4]))),
    }
    for match, (kind, proposal) in listed.items():
        signatures = {h: forged_cosignature(h, play, proposal) for h in HELPERS} if bytes(32) not in proposal.reports else dict.fromkeys(HELPERS, bytes(64))
        for h in HELPERS:
            with play.refused(match, kind):
                play.helpers[h].cosign(play.round, play.states[h], encode(proposal))
        with play.refused(match, kind):  # not even if all three helpers were to sign it
            play.answer("A", encode(AnswerRequest(proposal, signatures)))


def test_a_helper_signs_one_list_and_one_choice_of_responders() -> None:
    play = Play(5)
    proposal = play.propose()
    first = play.cosign(proposal)
    assert play.cosign(proposal) == first
    play.restart("A")
    assert play.cosign(proposal) == first
    for other in (Proposal(("A", "B"), proposal.reports[1:]), Proposal(("B", "A"), proposal.reports), Proposal(("A", "C"), proposal.reports)):
        with play.refused("another list"):
            play.helpers["A"].cosign(play.round, play.states["A"], encode(other))
        with play.refused("another list"):
            play.answer("A", encode(AnswerRequest(other, {h: forged_cosignature(h, play, other) for h in HELPERS})))


def test_the_coordinator_proposes_what_every_helper_has() -> None:
    play = Play(4)
    play.take()
    missing = play.taken["C"].pop()
    assert set(helper.propose(play.round, ("A", "B"), play.taken).reports) == set(play.raw) - {missing}
    play.taken["A"] = play.taken["A"][:2]
    with play.refused("are the minimum", Unrecoverable):
        helper.propose(play.round, ("A", "B"), play.taken)
    del play.taken["C"]
    with play.refused("Only 2 helpers", Unrecoverable):
        helper.propose(play.round, ("A", "B"), play.taken)


# --- answering --------------------------------------------------------------------------------------------------------


def test_a_helper_answers_once_also_after_a_restart() -> None:
    play = Play()
    proposal = play.propose()
    request = play.request(proposal)
    play.restart("A")
    answers = {h: play.answer(h, request) for h in ("A", "B")}
    assert not any(r.seeds for r in play.states["A"].reports.values())
    for _ in range(2):
        with play.refused("has answered for this manifest"):
            play.answer("A", request)
        with play.refused("another list"):
            other = Proposal(("A", "B"), proposal.reports[1:])
            play.answer("A", encode(AnswerRequest(other, {h: forged_cosignature(h, play, other) for h in HELPERS})))
        play.restart("A")
    assert equal(play.unmask(proposal, answers), play.expected(proposal))


def test_with_two_cosigners_a_helper_that_did_not_sign_is_bound_by_its_answer() -> None:
    play = Play(5, cosigners=2)
    proposal = play.propose()
    request = play.request(proposal, ("A", "C"))
    answers = {h: play.answer(h, request) for h in ("A", "B")}
    assert equal(play.unmask(proposal, answers), play.expected(proposal))
    with play.refused("another list"):
        play.helpers["B"].cosign(play.round, play.states["B"], encode(Proposal(("A", "C"), proposal.reports[1:])))


def test_what_is_signed_binds_the_manifest_the_responders_and_the_envelopes() -> None:
    one, two = Play(0), Play(0, mh=digest("manifest", 2))
    listed = {b"i" * 32: b"d" * 32}
    said = [(one.round, ("A", "B"), listed), (two.round, ("A", "B"), listed), (one.round, ("B", "A"), listed), (one.round, ("A", "B"), {b"i" * 32: b"e" * 32})]
    assert len({helper.statement(*each) for each in said}) == len(said)


def test_a_round_that_was_given_up_is_not_answered() -> None:
    play = Play()
    request = play.request(play.propose())
    helper.erase(play.states["A"])
    with play.refused("given it up"):
        play.answer("A", request)
    assert not any(r.seeds for r in play.states["A"].reports.values())


def test_co_signatures_that_do_not_suffice() -> None:
    play = Play()
    proposal = play.propose()
    signatures: dict[HelperName, bytes] = {h: decode(raw, Signed).signature for h, raw in play.cosign(proposal).items()}
    other = Proposal(("B", "A"), proposal.reports)
    cases = {
        "2 helpers": {h: signatures[h] for h in ("A", "C")},
        "0 helpers": {},
        "of helper C": {**signatures, "C": bytes(64)},
        "of helper B": {**signatures, "B": signatures["C"]},
        "of helper A": {**signatures, "A": forged_cosignature("A", play, other)},
    }
    for match, given_ in cases.items():
        with play.refused(match):
            play.answer("A", encode(AnswerRequest(proposal, given_)))
    raw, valid = helper.request(play.round, play.envelopes, proposal, {"A": encode(Signed(bytes(64))), "B": b"\x00", "C": encode(Signed(signatures["C"]))})
    assert valid == 1
    assert set(decode(raw, AnswerRequest).signatures) == {"C"}


def test_answers_that_do_not_hold() -> None:
    play = Play()
    proposal = play.propose()
    request = play.request(proposal)
    good = {h: play.answer(h, request) for h in ("A", "B")}
    with play.refused("B has not answered", Unrecoverable):
        play.unmask(proposal, {"A": good["A"]})
    with play.refused("not signed by it", ProtocolError):
        play.unmask(proposal, {"A": good["A"], "B": good["A"]})
    raw, vector = good["B"]
    with play.refused("not signed by it", ProtocolError):
        play.unmask(proposal, {"A": good["A"], "B": (raw, vector[:-1] + bytes([vector[-1] ^ 1]))})
    with play.refused("not signed by it", ProtocolError):
        play.unmask(Proposal(("A", "B"), proposal.reports[1:]), good)


@pytest.mark.parametrize("cosigners", [0, 1, 4])
def test_terms_that_protect_nothing(cosigners: int) -> None:
    with pytest.raises(MaskingRefused, match="cosigners"):
        Play(0, cosigners=cosigners)


# --- one corrupt helper -----------------------------------------------------------------------------------------------


def two_lists(play: Play) -> tuple[Proposal, Proposal]:
    """A and the coordinator want two sums that differ by one device: B is shown one list, C the other."""
    play.take()
    ids = tuple(sorted(play.raw))
    return Proposal(("A", "B"), ids), Proposal(("A", "C"), ids[1:])


def test_with_three_cosigners_two_lists_are_not_both_answered() -> None:
    play = Play(cosigners=3)
    one, two = two_lists(play)
    by_b, by_c = (decode(play.cosign(p, (h,))[h], Signed).signature for p, h in ((one, "B"), (two, "C")))
    with play.refused("2 helpers"):
        play.answer("B", encode(AnswerRequest(one, {"A": forged_cosignature("A", play, one), "B": by_b})))
    with play.refused("2 helpers"):
        play.answer("C", encode(AnswerRequest(two, {"A": forged_cosignature("A", play, two), "C": by_c})))
    with play.refused("of helper C"):
        play.answer("B", encode(AnswerRequest(one, {"A": forged_cosignature("A", play, one), "B": by_b, "C": by_c})))
    with play.refused("another list"):
        play.cosign(two, ("B",))


def test_with_two_cosigners_a_corrupt_helper_gets_two_sums() -> None:
    """What the docstring says is lost: the policy of two cosigners trusts that no helper is corrupt."""
    play = Play(cosigners=2)
    one, two = two_lists(play)
    seeds = {i: dict(r.seeds) for i, r in play.states["A"].reports.items()}
    totals = []
    for proposal, h in ((one, "B"), (two, "C")):
        by_h = decode(play.cosign(proposal, (h,))[h], Signed).signature
        _, vector = play.answer(h, encode(AnswerRequest(proposal, {"A": forged_cosignature("A", play, proposal), h: by_h})))
        total = play.encoding.unpack(play.encoding.wire.unpack(vector))
        total = plain_sum(play.encoding, [total, *(play.encoding.unpack(play.encoding.wire.unpack(play.vectors[i])) for i in proposal.reports)])
        own = [masks.Stream(seed, "pair", -1) for i in proposal.reports for seed in seeds[i].values()]
        masks.apply(total, play.encoding.rings, own, play.round.transcript)
        assert equal(total, play.expected(proposal))
        totals.append(total)
    difference = totals[0]["narrow"] - totals[1]["narrow"]
    assert np.array_equal(difference, play.x[one.reports[0]]["narrow"])


def test_unequal_lists_give_noise() -> None:
    """Two cosigners, and A signs whatever it is shown: B answers for one list, C for another."""
    play = Play(5, e=make_encoding(5, 400), cosigners=2)
    play.take()
    ids = tuple(sorted(play.raw))
    lists: dict[HelperName, Proposal] = {"B": Proposal(("B", "C"), ids), "C": Proposal(("B", "C"), ids[1:])}
    answers = {h: play.answer(h, encode(AnswerRequest(p, {x: forged_cosignature(x, play, p) for x in ("A", h)}))) for h, p in lists.items()}
    for proposal in lists.values():
        with play.refused("for another list", ProtocolError):
            play.unmask(proposal, answers)
        acc = plain_sum(play.encoding, [play.encoding.unpack(play.encoding.wire.unpack(v)) for v in (answers["B"][1], answers["C"][1])])
        for i in proposal.reports:
            play.encoding.add(acc, play.encoding.unpack(play.encoding.wire.unpack(play.vectors[i])))
        assert np.count_nonzero(acc["narrow"] == play.expected(proposal)["narrow"]) <= 1


@pytest.mark.parametrize("corrupt", HELPERS)
def test_one_corrupt_helper_cannot_unmask_one_device(corrupt: HelperName) -> None:
    """What is left of y when two of its three streams are off looks uniform, for the same x and for its difference from x."""
    e = make_encoding(1, 100_000)
    play = Play(0, e=e)
    x = e.zeros()
    raw, vector = helper.report(play.round, str(DEVICE[0].public), x, DEVICE[0].sign, random.Random(7).randbytes)
    id_ = play.helpers[corrupt].take(play.round, play.states[corrupt], raw)
    known = play.states[corrupt].reports[id_].seeds
    assert len(known) == 2
    left = {g: a.copy() for g, a in e.unpack(e.wire.unpack(vector)).items()}
    masks.apply(left, e.rings, [masks.Stream(seed, "pair", -1) for seed in known.values()], play.round.transcript)
    words = left["narrow"] - x["narrow"]
    counts = np.bincount(words.view(np.uint8), minlength=256)
    chi2 = float(((counts - counts.mean()) ** 2 / counts.mean()).sum())
    assert 255 - 6 * 510**0.5 < chi2 < 255 + 6 * 510**0.5
    for h in HELPERS:  # no other helper's seal opens with this one's key
        if h != corrupt:
            body = decode(raw, Envelope)
            with pytest.raises(ProtocolError):
                SUITE.opener(PRIVATE[corrupt])(body.sealed[HELPERS.index(h)], concat(body.manifest, body.id, body.vector))


def test_nothing_secret_is_printed() -> None:
    play = Play(1)
    play.take()
    seeds = [seed for r in play.states["A"].reports.values() for seed in r.seeds.values()]
    shown = repr(play.states["A"]) + repr(play.states["A"].reports) + repr(play.helpers["A"]) + repr(play.round)
    assert not any(repr(seed) in shown or seed.hex() in shown for seed in [*seeds, PRIVATE["A"]])


# --- bad bytes --------------------------------------------------------------------------------------------------------

GOOD = Play(3)
PROPOSAL = GOOD.propose()
REQUEST = GOOD.request(PROPOSAL)
COSIGNED = msgspec.msgpack.encode(GOOD.states["A"])
ANSWERS = {h: GOOD.answer(h, REQUEST) for h in ("A", "B")}
RAWS = [next(iter(GOOD.raw.values())), encode(PROPOSAL), REQUEST, ANSWERS["A"][0]]


@st.composite
def bad_bytes(draw: st.DrawFn) -> bytes:
    """Anything; or a good message cut short, or with bytes changed."""
    raw = bytearray(draw(st.sampled_from(RAWS)))
    how = draw(st.sampled_from(["any", "cut", "changed", "longer"]))
    if how == "any":
        return draw(st.binary(max_size=200))
    if how == "cut":
        return bytes(raw[: draw(st.integers(0, len(raw) - 1))])
    if how == "longer":
        return bytes(raw) + draw(st.binary(min_size=1, max_size=8))
    for _ in range(draw(st.integers(1, 4))):
        raw[draw(st.integers(0, len(raw) - 1))] ^= draw(st.integers(1, 255))
    return bytes(raw)


@settings(max_examples=400)
@given(bad_bytes())
def test_bad_bytes_are_refused_as_such(raw: bytes) -> None:
    """Never anything but a `LocumError`, and no helper's record changes."""
    if raw in RAWS:
        return
    a, fresh, state = GOOD.helpers["A"], HelperState(GOOD.round.digest), msgspec.msgpack.decode(COSIGNED, type=HelperState)
    steps: list[Callable[[], object]] = [
        lambda: a.take(GOOD.round, fresh, raw),
        lambda: a.cosign(GOOD.round, fresh, raw),
        lambda: a.cosign(GOOD.round, state, raw),
        lambda: a.answer(GOOD.round, state, raw),
        lambda: helper.receive(GOOD.round, ENROLLED.get, raw, next(iter(GOOD.vectors.values()))),
        lambda: helper.receive(GOOD.round, ENROLLED.get, RAWS[0], raw),
        lambda: GOOD.unmask(PROPOSAL, {"A": (raw, ANSWERS["A"][1]), "B": ANSWERS["B"]}),
        lambda: GOOD.unmask(PROPOSAL, {"A": (ANSWERS["A"][0], raw), "B": ANSWERS["B"]}),
    ]
    for step in steps:
        with pytest.raises(LocumError):
            step()
    assert state == msgspec.msgpack.decode(COSIGNED, type=HelperState)  # a set has no order of its own: its bytes may differ
    assert fresh == HelperState(GOOD.round.digest)
    assert helper.request(GOOD.round, GOOD.envelopes, PROPOSAL, {"A": raw})[1] == 0


@settings(max_examples=100)
@given(st.binary(max_size=1300), st.integers(0, 1199))
def test_a_device_that_seals_rubbish_is_refused(rubbish: bytes, at: int) -> None:
    body = next(iter(GOOD.envelopes.values()))
    altered = bytearray(body.sealed[0])
    altered[at] ^= 1
    for sealed in (rubbish, bytes(altered), body.sealed[0][:at]):
        with pytest.raises(ProtocolError):
            GOOD.helpers["A"].take(GOOD.round, HelperState(GOOD.round.digest), resigned(body, DEVICE[0], sealed=(sealed, *body.sealed[1:])))
