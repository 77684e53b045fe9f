"""The helper topology: devices mask against three independent helpers A, B and C. Each step checks first, and changes nothing if it refuses.

    device       y = x + PRG(s_AB) + PRG(s_AC) + PRG(s_BC);  to each helper its two seeds, sealed over (Mh, report id, H(y))
    take         a helper checks the device, the manifest and replay, and opens its two seeds
    cosign       one signature for a manifest, over (Mh, the two responders, H(U2))
    answer       all cosigners have signed this very U2: minus the sum of the streams, once (+ noise); the seeds are erased
    coordinator  sum of y over U2 + both answers = sum of x (+ noise)

The first of the two responders answers for the two streams that it holds, the second for the third: with (A, B), A gives AB
and AC, B gives BC. Which two answer is free until it is signed; it is then fixed, or a second responder could give the same
sum with other noise. H(U2) covers the envelopes themselves, so two helpers never mean different reports by one list. What
differs between two views (manifest, list) ends in a refusal or in noise.

Threat model: privacy holds if the coordinator colludes with at most one of three helpers, and any number of devices that
leave enough honest ones in U2. A helper knows two of a report's three streams; the third hides x. With three cosigners both
honest helpers have signed one list, so one sum comes out. With two (only by policy) a corrupt helper signs two lists, one
with each honest helper: it and the coordinator then get two sums, and perhaps their difference, one device's x.

Not protected: liveness, and the correctness of the output. A seal opens for as long as its helper's session key exists, so
that key is to be replaced from time to time. Whoever holds a `HelperState` makes it durable before a message leaves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import msgspec

from locum.errors import TaskError
from locum.secagg import masks
from locum.secagg.encoding import Encoding
from locum.secagg.errors import EncodingError, MaskingRefused, ProtocolError, Unrecoverable
from locum.secagg.kdf import KEY_BYTES, digest, label
from locum.secagg.kdf import join as concat
from locum.secagg.masks import Stream
from locum.secagg.messages import Blob, Key, Name, Signature, decode, encode
from locum.secagg.ring import Ints
from locum.secagg.session import Entropy, Sign, Verifier
from locum.secagg.suites import Suite

HelperName = Literal["A", "B", "C"]
Responders = tuple[HelperName, HelperName]
Devices = Callable[[str], Verifier | None]
"""The key of an enrolled device, or None. One name for one real device, and not enrolled by the coordinator alone: n_min counts names."""
HELPERS: tuple[HelperName, ...] = ("A", "B", "C")
PAIRS = ("AB", "AC", "BC")


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From a device, beside its masked vector. id: 32 random bytes; vector: H(y); sealed: two seeds each, for A, B and C."""

    manifest: Key
    id: Key
    device: Name
    vector: Key
    sealed: tuple[Blob, Blob, Blob]
    signature: Signature


class Proposal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """To every helper: U2 (report ids in ascending order; about 120,000 fill a message), and who is to answer."""

    responders: Responders
    reports: tuple[Key, ...]


class Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From a helper: COSIGN, over (Mh, responders, H(U2)); or ANSWER, beside its vector, over (that, itself, H(vector))."""

    signature: Signature


class AnswerRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """To the responders: the proposal, and the helpers' signatures on it."""

    proposal: Proposal
    signatures: dict[HelperName, Signature]


@dataclass(frozen=True)
class HelperRound:
    """The terms of one round of devices. digest: Mh, over the coordinator's signed manifest, from which the rest follows.

    public, keys: the three helpers' session keys (of `suite`) and identity keys, from the consortium's signed roster and never
    from the coordinator alone. n_min: the stricter of the study's and the helper's own minimum. encoding.n: the most in a sum.
    """

    digest: bytes
    encoding: Encoding
    suite: Suite
    public: Mapping[HelperName, bytes]
    keys: Mapping[HelperName, Verifier]
    n_min: int = 1000
    cosigners: int = 3

    def __post_init__(self) -> None:
        if self.cosigners not in (2, 3) or self.n_min < 1:
            raise MaskingRefused(f"{self.cosigners} cosigners and at least {self.n_min} reports are no terms.", fix="ask for 3 (or 2) cosigners, n_min above 0")

    @property
    def transcript(self) -> bytes:
        """What every stream is bound to. All devices share it; under another manifest the same seeds give other streams."""
        return digest("report", self.digest)


class Report(msgspec.Struct):
    """What a helper keeps of a report. digest: of the signed envelope; seeds: by pair, while they may still be needed."""

    digest: bytes
    seeds: dict[str, bytes]

    def __repr__(self) -> str:
        return f"Report({self.digest.hex()})"


class HelperState(msgspec.Struct):
    """What a helper keeps of one manifest. statement: what it has co-signed; reports: by id.

    Keep it for as long as the manifest could come back: a helper that forgets it would answer again.
    """

    manifest: bytes
    statement: bytes = b""
    answered: bool = False
    reports: dict[bytes, Report] = {}
    devices: set[str] = set()

    def __repr__(self) -> str:
        return f"HelperState({self.manifest.hex()}, {len(self.reports)} reports, answered={self.answered})"


# --- a device ---------------------------------------------------------------------------------------------------------


def report(round_: HelperRound, device: str, x: Mapping[str, Ints], sign: Sign, entropy: Entropy) -> tuple[bytes, bytes]:
    """(envelope, vector): one upload. x: ring elements of the encoding, left as they are; device: its enrolled name.

    Raises `ProtocolError` if a helper's session key is none.
    """
    seeds = {pair: entropy(KEY_BYTES) for pair in PAIRS}
    y = {group: elements.copy() for group, elements in x.items()}
    masks.apply(y, round_.encoding.rings, [Stream(seed, "pair", 1) for seed in seeds.values()], round_.transcript)
    vector, id_ = _to_wire(round_.encoding, y), entropy(KEY_BYTES)
    hashed = hashlib.sha256(vector).digest()
    a, b, c = (round_.suite.seal(round_.public[h], b"".join(seeds[p] for p in _held(h)), concat(round_.digest, id_, hashed)) for h in HELPERS)
    body = Envelope(round_.digest, id_, device, hashed, (a, b, c), bytes(64))
    return encode(msgspec.structs.replace(body, signature=sign(label("envelope"), envelope_digest(body)))), vector


# --- a helper ---------------------------------------------------------------------------------------------------------


class Helper:
    """One of the three. private: its session key; sign: by its identity key. The steps change the `HelperState` they are given."""

    def __init__(self, name: HelperName, suite: Suite, private: bytes, sign: Sign, devices: Devices) -> None:
        self.name = name
        self._open, self._sign, self._devices = suite.opener(private), sign, devices

    def take(self, round_: HelperRound, state: HelperState, raw: bytes) -> bytes:
        """The id of a report that is accepted: its seeds are kept. One report of a device. Raises `MaskingRefused` or `ProtocolError`."""
        _resume(round_, state)
        body = _check_envelope(round_, self._devices, raw)
        if state.statement or state.answered:
            raise MaskingRefused("The list of reports is closed at this helper.", why="A report that came later is in no sum.")
        if body.id in state.reports or body.device in state.devices:
            raise MaskingRefused("This report, or another of its device, was taken already.", why="One device must not count as several.")
        plain = self._open(body.sealed[HELPERS.index(self.name)], concat(round_.digest, body.id, body.vector))
        if len(plain) != 2 * KEY_BYTES:
            raise ProtocolError("A report does not seal two seeds.")
        first, second = _held(self.name)
        state.reports[body.id] = Report(envelope_digest(body), {first: plain[:KEY_BYTES], second: plain[KEY_BYTES:]})
        state.devices.add(body.device)
        return body.id

    def cosign(self, round_: HelperRound, state: HelperState, raw: bytes) -> bytes:
        """COSIGN: the one list of this manifest; asked for the same again, the same. Seeds that nobody will need are erased.

        Raises `MaskingRefused` or `ProtocolError`.
        """
        proposal = decode(raw, Proposal)
        agreed, chosen = _agree(round_, state, proposal), frozenset(proposal.reports)
        signature = self._sign(label("cosign"), agreed)
        state.statement, duty = agreed, _duty(self.name, proposal.responders)
        for id_, kept in state.reports.items():
            kept.seeds = {pair: seed for pair, seed in kept.seeds.items() if id_ in chosen and pair in duty}
        return encode(Signed(signature))

    def answer(self, round_: HelperRound, state: HelperState, raw: bytes, noise: Mapping[str, Ints] | None = None, *, threads: int = 1) -> tuple[bytes, bytes]:
        """(ANSWER, vector): minus the sum over U2 of the streams that are this helper's to answer, plus noise; to be added to the y.

        noise: ring elements, as `Encoding.zeros` shapes them (signed steps modulo 2^bits). Each responder adds enough for all: a
        corrupt helper that knows the other's streams takes the other's noise off. Once: then the seeds are erased.
        Raises `MaskingRefused`, `ProtocolError` or `EncodingError` (the noise has another shape).
        """
        request = decode(raw, AnswerRequest)
        agreed = _agree(round_, state, request.proposal)
        if state.answered:
            raise MaskingRefused("This helper has answered for this manifest, or given it up.", why="Two answers could show two sums.")
        if self.name not in request.proposal.responders:
            raise MaskingRefused("This helper is not one of the two that were to answer.")
        _check_cosigned(round_, request, agreed)
        total = _noise(round_.encoding, noise)
        duty = _duty(self.name, request.proposal.responders)
        streams = [Stream(state.reports[i].seeds[pair], "pair", -1) for i in request.proposal.reports for pair in duty]
        masks.apply(total, round_.encoding.rings, streams, round_.transcript, threads=threads)
        vector = _to_wire(round_.encoding, total)
        body = Signed(self._sign(label("answer"), _answer_message(agreed, self.name, vector)))
        state.statement = agreed
        erase(state)
        return encode(body), vector


def erase(state: HelperState) -> None:
    """Forget all seeds (also of a round that was given up); the record of what was done stays, and no answer can be given."""
    state.answered = True
    for kept in state.reports.values():
        kept.seeds = {}


# --- the coordinator --------------------------------------------------------------------------------------------------


def receive(round_: HelperRound, devices: Devices, raw: bytes, vector: bytes) -> Envelope:
    """The envelope of an upload that holds; it then goes to the helpers. Raises `MaskingRefused` or `ProtocolError`."""
    body = _check_envelope(round_, devices, raw)
    if hashlib.sha256(vector).digest() != body.vector:
        raise ProtocolError("A masked vector is not the one that its device signed.", fix="send it again")
    _from_wire(round_.encoding, vector)
    return body


def propose(round_: HelperRound, responders: Responders, taken: Mapping[HelperName, Collection[bytes]]) -> Proposal:
    """U2: what all the helpers in `taken` have accepted, up to encoding.n. taken: report ids, by helper.

    Raises `Unrecoverable` while there are too few helpers or reports.
    """
    if len(taken) < round_.cosigners or not set(responders) <= set(taken):
        raise Unrecoverable(f"Only {len(taken)} helpers have taken reports; the two that answer, and {round_.cosigners} in all, are needed.")
    common = sorted(frozenset.intersection(*(frozenset(ids) for ids in taken.values())))
    if len(common) < round_.n_min:
        raise Unrecoverable(f"{len(common)} reports have reached every helper; {round_.n_min} are the minimum.", fix="wait for more devices")
    return Proposal(responders, tuple(common[: round_.encoding.n]))  # ids are random, so this favours nobody


def request(round_: HelperRound, envelopes: Mapping[bytes, Envelope], proposal: Proposal, bodies: Mapping[HelperName, bytes]) -> tuple[bytes, int]:
    """The message that asks to answer, and how many valid co-signatures it holds. bodies: COSIGN messages, by helper."""
    agreed, signatures = _proposed(round_, envelopes, proposal), {}
    for name, raw in sorted(bodies.items()):
        try:
            signature = decode(raw, Signed).signature
        except ProtocolError:
            continue
        if round_.keys[name].verify(label("cosign"), signature, agreed):
            signatures[name] = signature
    return encode(AnswerRequest(proposal, signatures)), len(signatures)


def unmask(
    round_: HelperRound,
    envelopes: Mapping[bytes, Envelope],
    proposal: Proposal,
    vectors: Mapping[bytes, bytes],
    answers: Mapping[HelperName, tuple[bytes, bytes]],
) -> dict[str, Ints]:
    """The sum of x over U2 in ring elements, for `Encoding.decode`. vectors: uploads, by report id; answers: (ANSWER, vector).

    Raises `Unrecoverable` without both responders' answers, `ProtocolError` for one that does not hold.
    """
    agreed, total = _proposed(round_, envelopes, proposal), round_.encoding.zeros()
    for name in proposal.responders:
        if name not in answers:
            raise Unrecoverable(f"Helper {name} has not answered.", why="Without it the masks stay.")
        raw, vector = answers[name]
        if not round_.keys[name].verify(label("answer"), decode(raw, Signed).signature, _answer_message(agreed, name, vector)):
            raise ProtocolError(f"The answer of helper {name} is not signed by it, or is for another list.")
        round_.encoding.add(total, _from_wire(round_.encoding, vector))
    for id_ in proposal.reports:
        round_.encoding.add(total, _from_wire(round_.encoding, vectors[id_]))
    return total


# --- what several parties use -----------------------------------------------------------------------------------------


def envelope_digest(body: Envelope) -> bytes:
    """What a device's signature covers: every part of the envelope."""
    return digest("envelope", body.manifest, body.id, body.device, body.vector, *body.sealed)


def statement(round_: HelperRound, responders: Responders, reports: Mapping[bytes, bytes]) -> bytes:
    """What a helper co-signs: (Mh, responders, H(U2)). reports: U2, report id -> digest of its envelope."""
    listed = digest("reports", *(part for id_ in sorted(reports) for part in (id_, reports[id_])))
    return digest("cosign", round_.digest, *responders, listed)


def _held(name: HelperName) -> tuple[str, ...]:
    return tuple(pair for pair in PAIRS if name in pair)


def _duty(name: HelperName, responders: Responders) -> tuple[str, ...]:
    """The streams that a helper answers for: the first responder its two, the second the third, the other none."""
    held = _held(responders[0])
    return held if name == responders[0] else tuple(pair for pair in PAIRS if pair not in held) if name == responders[1] else ()


def _proposed(round_: HelperRound, envelopes: Mapping[bytes, Envelope], proposal: Proposal) -> bytes:
    return statement(round_, proposal.responders, {i: envelope_digest(envelopes[i]) for i in proposal.reports})


def _answer_message(agreed: bytes, name: HelperName, vector: bytes) -> bytes:
    return digest("answer", agreed, name, hashlib.sha256(vector).digest())


def _resume(round_: HelperRound, state: HelperState) -> None:
    if state.manifest != round_.digest:
        raise MaskingRefused("This helper's record belongs to another manifest.")


def _check_envelope(round_: HelperRound, devices: Devices, raw: bytes) -> Envelope:
    body = decode(raw, Envelope)
    if body.manifest != round_.digest:
        raise MaskingRefused("A report belongs to another manifest.", why="Its masks would not come off.", fix="fetch the round's manifest again")
    key = devices(body.device)
    if key is None:
        raise MaskingRefused("A report's device is not enrolled.", why="The coordinator may not add devices of its own.", fix="enrol the device first")
    if not key.verify(label("envelope"), body.signature, envelope_digest(body)):
        raise MaskingRefused("A report is not signed by its device.", why="Somebody between made or altered it.")
    return body


def _agree(round_: HelperRound, state: HelperState, proposal: Proposal) -> bytes:
    """The statement of a list that this helper may sign: its first, or the one that it has signed."""
    _resume(round_, state)
    if proposal.responders[0] == proposal.responders[1] or any(a >= b for a, b in pairwise(proposal.reports)):
        raise ProtocolError("A proposal does not name two helpers, and its reports once each in ascending order.")
    if not state.reports.keys() >= set(proposal.reports):
        raise MaskingRefused("Reports are listed that this helper has not taken.", why="The coordinator may not add reports of its own.")
    count, most = len(proposal.reports), round_.encoding.n
    if count < round_.n_min:
        raise MaskingRefused(f"{count} reports would be in the sum; {round_.n_min} are the minimum here.", why="The sum over few says too much of each.")
    if count > most:
        raise MaskingRefused(f"{count} reports would be in the sum; the encoding has room for {most}.", fix="split the devices into several rounds")
    agreed = statement(round_, proposal.responders, {i: state.reports[i].digest for i in proposal.reports})
    if state.statement not in (b"", agreed):
        raise MaskingRefused("This helper has co-signed another list for this manifest.", why="Two lists would take two sums.")
    return agreed


def _check_cosigned(round_: HelperRound, request: AnswerRequest, agreed: bytes) -> None:
    count = len(request.signatures)
    if count < round_.cosigners:
        raise MaskingRefused(f"{count} helpers have co-signed the list; {round_.cosigners} are needed.", why="Others may see another list.")
    for name, signature in request.signatures.items():
        if not round_.keys[name].verify(label("cosign"), signature, agreed):
            raise MaskingRefused(f"The co-signature of helper {name} is not its own, or is for another list.")


def _noise(encoding: Encoding, noise: Mapping[str, Ints] | None) -> dict[str, Ints]:
    """A fresh copy of the noise, or zeros."""
    total = encoding.zeros()
    if noise is None:
        return total
    if {g: (a.shape, a.dtype) for g, a in noise.items()} != {g: (a.shape, a.dtype) for g, a in total.items()}:
        raise EncodingError("The noise is not of the encoding's groups, shapes and types.")
    encoding.add(total, noise)
    return total


def _to_wire(encoding: Encoding, elements: Mapping[str, Ints]) -> bytes:
    return encoding.wire.pack(encoding.pack(elements))


def _from_wire(encoding: Encoding, raw: bytes) -> dict[str, Ints]:
    try:
        return encoding.unpack(encoding.wire.unpack(raw))
    except TaskError:
        raise ProtocolError("A vector is not of the round's layout.") from None
