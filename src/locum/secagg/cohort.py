"""The coordinator's side of a peer round. Every function is a function of durable messages, so any replica can go on from them.

What a dishonest site sends is left out, as if the site had dropped out; what cannot be removed is `Unrecoverable`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from math import comb

from locum.secagg import shamir
from locum.secagg.errors import ProtocolError, Unrecoverable
from locum.secagg.graph import permutation
from locum.secagg.kdf import label
from locum.secagg.masks import Stream
from locum.secagg.messages import Confirm, Join, Request, Roster, Survivors, Unmask, decode, encode
from locum.secagg.site import commit, join_digest, open_escrow
from locum.secagg.topology import Manifest, Topology, confirmation, transcript

_TRIES = 256


@dataclass(frozen=True)
class Joined:
    """U1: the JOINs that hold, by number, and the transcript J."""

    topology: Topology
    joins: Mapping[int, Join]
    digests: Mapping[int, bytes]
    j: bytes


@dataclass(frozen=True)
class Part:
    """One bucket's sum: whose vectors, and the streams that remain in their sum (apply them to remove the masks)."""

    survivors: tuple[int, ...]
    streams: tuple[Stream, ...]


def joined(manifest: Manifest, session: bytes, members: Iterable[str], seed: bytes, bodies: Mapping[int, bytes]) -> Joined:
    """U1 from the JOIN messages by number."""
    topology = Topology.of(manifest, members, seed)
    joins, digests = {}, {}
    for number, raw in sorted(bodies.items()):
        try:
            body = decode(raw, Join)
        except ProtocolError:
            continue
        around = topology.neighbours.get(number)
        own = join_digest(manifest, number, body)
        signed = manifest.keys[manifest.roster[number]].verify(label("join"), body.signature, own)
        if body.neighbours == around and len(body.shares) == len(around) and signed:
            joins[number], digests[number] = body, own
    # a site with too few joined neighbours would refuse: leave it out, and look again
    while alone := [i for i in joins if not topology.connected(i, frozenset(joins))]:
        for i in alone:
            del joins[i], digests[i]
    return Joined(topology, joins, digests, transcript(manifest, session, seed, digests))


def rosters(u1: Joined) -> dict[int, bytes]:
    """ROSTER for each site of U1: all digests and signatures, and the shares for it."""
    everyone = {i: (u1.digests[i], u1.joins[i].signature) for i in sorted(u1.joins)}
    out = {}
    for me in everyone:
        near = [i for i in u1.topology.neighbours[me] if i in everyone]
        out[me] = encode(Roster(everyone, {i: u1.joins[i].shares[u1.joins[i].neighbours.index(me)] for i in near}))
    return out


def survivors(numbers: Iterable[int]) -> bytes:
    """The message that asks U2 to confirm itself."""
    return encode(Survivors(tuple(sorted(numbers))))


def request(manifest: Manifest, u1: Joined, u2: Iterable[int], bodies: Mapping[int, bytes]) -> tuple[bytes, int]:
    """The message that asks to unmask, and how many valid confirmations it holds: a quorum's, if there are so many."""
    alive = tuple(sorted(u2))
    message = confirmation(manifest, u1.j, alive)
    signatures: dict[int, bytes] = {}
    for number, raw in sorted(bodies.items()):
        if len(signatures) == u1.topology.quorum:
            break
        try:
            signature = decode(raw, Confirm).signature
        except ProtocolError:
            continue
        if number in alive and manifest.keys[manifest.roster[number]].verify(label("confirm"), signature, message):
            signatures[number] = signature
    return encode(Request(alive, signatures)), len(signatures)


def recover(manifest: Manifest, u1: Joined, u2: Iterable[int], bodies: Mapping[int, bytes]) -> list[Part]:
    """The streams that remain in the sum over U2, bucket by bucket. Raises `Unrecoverable` while too little has arrived."""
    answers: dict[int, Unmask] = {}
    for number, raw in sorted(bodies.items()):
        try:
            answers[number] = decode(raw, Unmask)
        except ProtocolError:
            continue
    alive = frozenset(u2)
    parts = []
    for bucket in u1.topology.buckets:
        here = frozenset(bucket).intersection(u1.joins)
        remaining = [Stream(_self_seed(manifest, u1, i, answers), "self", -1) for i in sorted(here & alive)]
        for gone in sorted(here - alive):
            k = _combine(manifest, u1, gone, "k", {i: a.shares_k[gone] for i, a in answers.items() if gone in a.shares_k})
            try:
                pairs = open_escrow(manifest, gone, k, u1.joins[gone])
            except ProtocolError as error:
                raise Unrecoverable(error.what, why=error.why) from None
            # survivor i has added +PRG if i < gone, else -PRG
            remaining += [Stream(pairs[i], "pair", -1 if i < gone else 1) for i in u1.topology.neighbours[gone] if i in alive]
        parts.append(Part(tuple(sorted(here & alive)), tuple(remaining)))
    return parts


def _self_seed(manifest: Manifest, u1: Joined, number: int, answers: Mapping[int, Unmask]) -> bytes:
    own = answers.get(number)
    if own and commit("b", manifest, number, own.b) == u1.joins[number].commit_b:
        return own.b
    return _combine(manifest, u1, number, "b", {i: a.shares_b[number] for i, a in answers.items() if number in a.shares_b})


def _combine(manifest: Manifest, u1: Joined, number: int, which: str, shares: Mapping[int, bytes]) -> bytes:
    """A secret from the neighbours' shares, checked against its commitment; other subsets are tried if a share is corrupt."""
    tau, body = u1.topology.threshold(number), u1.joins[number]
    expected = body.commit_b if which == "b" else body.commit_k
    good = {i: s for i, s in shares.items() if i in body.neighbours and len(s) == shamir.SHARE_BYTES}
    holders = sorted(good)
    if len(holders) < tau:
        raise Unrecoverable(f"{len(holders)} shares are here; {tau} are needed.")
    for chosen in _subsets(holders, tau):
        with suppress(Unrecoverable):
            secret = shamir.combine({i: good[i] for i in chosen}, tau)
            if commit(which, manifest, number, secret) == expected:
                return secret
    raise Unrecoverable(f"The shares of '{manifest.roster[number]}' do not give what it committed to.", why="It, or a neighbour, sent corrupt ones.")


def _subsets(holders: list[int], tau: int) -> Iterator[Sequence[int]]:
    """Sets of tau holders to try: all of them if they are few, else the first and then others that look random."""
    if comb(len(holders), tau) <= _TRIES:
        yield from combinations(holders, tau)
        return
    yield holders[:tau]
    for t in range(_TRIES):
        yield sorted(holders[i] for i in permutation(len(holders), b"", t, "subset")[:tau])
