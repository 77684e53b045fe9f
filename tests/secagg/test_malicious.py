"""A coordinator that lies, with colluders below a third: each attack uses the real machines, and gets refusals or noise.

`Liar` is the adversary: it shows each site what it likes, signs for its colluders, and keeps all that it ever receives and all
that its colluders ever had. `Liar.residual` is what anybody can do with that: remove every stream whose key is known or can be
put together. What is left of one site's vector, or of any sum that was not agreed to, must be noise.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from scipy.stats import hypergeom

from locum.secagg import cohort, masks, session, shamir, site
from locum.secagg.cohort import Joined
from locum.secagg.errors import LocumError, MaskingRefused, ProtocolError
from locum.secagg.graph import permutation
from locum.secagg.kdf import digest, hkdf, label
from locum.secagg.masks import Stream
from locum.secagg.messages import Column, Confirm, Join, KeyList, Request, Roster, Survivors, Unmask, decode, encode
from locum.secagg.parameters import most_dropped, search
from locum.secagg.site import Secrets
from locum.secagg.topology import Manifest, Topology, confirmation, transcript
from locum.study.manifest import Masking

_spec = importlib.util.spec_from_file_location("secagg_play", Path(__file__).with_name("play.py"))
assert _spec
assert _spec.loader
play = sys.modules["secagg_play"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(play)

REFUSALS = (MaskingRefused, ProtocolError)


def copy(secrets: Secrets) -> Secrets:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(secrets), type=Secrets)


@dataclass(repr=False)
class Masked:
    """A vector as the coordinator has it, and under which view it was masked."""

    y: dict[str, Any]
    u1: Joined


@dataclass(repr=False)
class Liar:
    """The adversary in one round. refused: what honest sites answered instead."""

    f: Any
    colluders: Collection[int] = ()
    t: int = 1
    m: Manifest = None  # type: ignore[assignment]
    joins: dict[int, bytes] = field(default_factory=dict)
    secrets: dict[int, Secrets] = field(default_factory=dict)
    corrupt: dict[int, Secrets] = field(default_factory=dict)
    got: dict[int, Masked] = field(default_factory=dict)
    answers: dict[int, list[Unmask]] = field(default_factory=dict)
    refused: list[LocumError] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.m = self.m or self.f.manifest(self.t)
        self.e = play.encoding(32, self.f.n)
        rng = np.random.default_rng(self.t)
        self.x = {i: play.random_elements(self.e, rng) for i in range(self.f.n)}

    @property
    def honest(self) -> list[int]:
        return [i for i in sorted(self.joins) if i not in self.colluders]

    def name(self, i: int) -> str:
        return self.f.names[i]  # type: ignore[no-any-return]

    # --- what sites are shown ------------------------------------------------------------------------------------------

    def join(self, manifests: Mapping[int, Manifest] | None = None) -> Liar:
        for s, own in self.f.sessions.items():
            i = self.f.names.index(s)
            self.secrets[i], self.joins[i] = site.join((manifests or {}).get(i, self.m), own, s, self.f.sign(s), self.f.entropy)
        self.corrupt = {i: copy(self.secrets[i]) for i in self.colluders}
        return self

    def view(self, numbers: Iterable[int] | None = None, m: Manifest | None = None) -> Joined:
        """U1 as a group is to see it; unlike an honest coordinator, this one leaves nobody out for the sites' sake."""
        m, shown = m or self.m, {i: decode(self.joins[i], Join) for i in sorted(self.joins if numbers is None else numbers)}
        digests = {i: site.join_digest(m, i, body) for i, body in shown.items()}
        topology = Topology.of(m, self.f.members, self.f.seed)
        return Joined(topology, shown, digests, transcript(m, self.f.setup.id, self.f.seed, digests))

    def honest_view(self, numbers: Iterable[int] | None = None, m: Manifest | None = None) -> Joined:
        """U1 as an honest coordinator makes it."""
        shown = self.joins if numbers is None else {i: self.joins[i] for i in numbers}
        return cohort.joined(m or self.m, self.f.setup.id, self.f.members, self.f.seed, shown)

    def ask(self, who: Iterable[int], step: Callable[[int], Any]) -> dict[int, Any]:
        """The answers of those of `who` that do not refuse."""
        out = {}
        for i in who:
            before = msgspec.msgpack.encode(self.secrets[i])
            try:
                out[i] = step(i)
            except REFUSALS as error:
                self.refused.append(error)
                assert msgspec.msgpack.encode(self.secrets[i]) == before, "who refuses has changed nothing"
        return out

    def mask(self, u1: Joined, who: Iterable[int], m: Manifest | None = None, rosters: Mapping[int, bytes] | None = None) -> list[int]:
        shown = rosters or cohort.rosters(u1)
        streams = self.ask(who, lambda i: site.mask(m or self.m, self.secrets[i], self.name(i), shown[i]))
        for i, added in streams.items():
            y = {g: a.copy() for g, a in self.x[i].items()}
            masks.apply(y, self.e.rings, added, self.secrets[i].j)
            self.got[i] = Masked(y, u1)
        return list(streams)

    def confirm(self, u1: Joined, u2: Iterable[int], who: Iterable[int], m: Manifest | None = None) -> dict[int, bytes]:
        """Signatures on U2 in the view U1: of who does not refuse, and of all colluders."""
        m, alive = m or self.m, sorted(u2)
        raw = encode(Survivors(tuple(alive)))
        said = self.ask(who, lambda i: site.confirm(m, self.secrets[i], self.name(i), raw, self.f.sign(self.name(i))))
        signed = {i: decode(body, Confirm).signature for i, body in said.items()}
        forged = {i: self.f.sign(self.name(i))(label("confirm"), confirmation(m, u1.j, alive)) for i in self.colluders if i in alive}
        return {**signed, **forged}

    def unmask(self, u2: Iterable[int], signatures: Mapping[int, bytes], who: Iterable[int], m: Manifest | None = None) -> list[int]:
        raw = encode(Request(tuple(sorted(u2)), dict(signatures)))
        given = self.ask(who, lambda i: site.unmask(m or self.m, self.secrets[i], self.name(i), raw))
        for i, body in given.items():
            self.answers.setdefault(i, []).append(decode(body, Unmask))
        return list(given)

    def play(self, u1: Joined, u2: Iterable[int], who: Iterable[int], m: Manifest | None = None) -> list[int]:
        """All steps with one group in one view; who unmasked."""
        u2 = sorted(u2)
        there = self.mask(u1, who, m)
        return self.unmask(u2, self.confirm(u1, u2, [i for i in there if i in u2], m), [i for i in there if i in u2], m)

    # --- what can be done with it --------------------------------------------------------------------------------------

    def secret(self, which: str, i: int) -> bytes | None:
        """b or K of a site: given by itself, or put together from every share that anybody gave or that colluders hold."""
        if i in self.corrupt:
            return self.corrupt[i].b if which == "b" else self.corrupt[i].k
        if which == "b" and self.answers.get(i):
            return self.answers[i][0].b
        body = decode(self.joins[i], Join)
        shares: dict[int, bytes] = {}
        for holder, given in self.answers.items():
            for a in given:
                theirs = a.shares_b if which == "b" else a.shares_k
                if i in theirs:
                    shares[holder] = theirs[i]
        for holder, state in self.corrupt.items():
            if holder in body.neighbours:
                opened = site._open(state.channels[i], self.m, i, holder, body.shares[body.neighbours.index(holder)])
                shares[holder] = opened[which == "k"]
        tau = self.topology.threshold(i)
        if len(shares) < tau:
            return None
        secret = shamir.combine(shares, tau)
        return secret if site.commit(which, self.m, i, secret) == (body.commit_b if which == "b" else body.commit_k) else None

    @cached_property
    def topology(self) -> Topology:
        return Topology.of(self.m, self.f.members, self.f.seed)

    def pairs(self, i: int) -> dict[int, bytes]:
        """The pair seeds of a site that are known through itself."""
        if i in self.corrupt:
            return self.corrupt[i].pairs
        k = self.secret("k", i)
        return site.open_escrow(self.m, i, k, decode(self.joins[i], Join)) if k else {}

    def residual(self, who: Collection[int]) -> tuple[dict[str, Any], int]:
        """The sum of the vectors of `who` without every stream that can be removed, and how many cannot be."""
        acc, unknown = self.e.zeros(), 0
        known = {i: self.pairs(i) for i in {*who, *(j for i in who for j in self.topology.neighbours[i])} & set(self.joins)}
        for i in who:
            u1 = self.got[i].u1
            own = self.secret("b", i)
            remove = [] if own is None else [Stream(own, "self", -1)]
            unknown += own is None
            for j in u1.topology.neighbours[i]:
                if j not in u1.joins or (j in who and j in self.got and self.got[j].u1.j == u1.j):
                    continue  # no mask, or one that cancels
                pair = known[i].get(j) or known[j].get(i)
                remove += [] if pair is None else [Stream(pair, "pair", -1 if i < j else 1)]
                unknown += pair is None
            y = {g: a.copy() for g, a in self.got[i].y.items()}
            masks.apply(y, self.e.rings, remove, u1.j)
            self.e.add(acc, y)
        return acc, unknown

    def exposed(self, who: Collection[int]) -> bool:
        """Whether the sum over `who` is known."""
        got, want = self.residual(who)[0], play.plain_sum(self.e, [self.x[i] for i in who])
        return all(np.array_equal(got[g], want[g]) for g in want)

    def hidden(self, who: Collection[int]) -> bool:
        """Whether what is left of the sum over `who` is noise (masks remain, and not one element is right), or nothing came."""
        if not set(who) <= set(self.got):
            return True
        (got, unknown), want = self.residual(who), play.plain_sum(self.e, [self.x[i] for i in who])
        return unknown > 0 and not any((got[g] == want[g]).any() for g in want)

    def all_hidden(self, but: Collection[int] = ()) -> bool:
        """Whether every sum of honest sites' vectors is noise, except the one over `but`."""
        there = [i for i in self.honest if i in self.got]
        sums = (set(s) for size in range(1, len(there) + 1) for s in combinations(there, size))
        return all(self.hidden(s) for s in sums if s != set(but))


def liar(n: int, colluders: int = 0, *, t: int = 1, **federation: Any) -> Liar:
    """Of n sites the last are the colluders."""
    f = play.Federation(n, **{"quick": True, **federation})
    f.agree()
    return Liar(f, frozenset(range(n - colluders, n)), t)


def most(n: int) -> int:
    """The most colluders that are fewer than a third."""
    return -(-n // 3) - 1


# --- the adversary can do what an adversary can ------------------------------------------------------------------------


@pytest.mark.parametrize("n", [4, 5, 7, 10])
def test_in_an_honest_round_the_agreed_sum_is_learned_and_no_other(n: int) -> None:
    a = liar(n, most(n)).join()
    u1 = a.view()
    assert a.play(u1, range(n), range(n)) == list(range(n))
    assert not a.refused
    assert a.exposed(a.honest)
    assert a.all_hidden(but=a.honest)


def test_in_an_honest_round_with_a_dropout_only_the_sum_over_the_survivors_is_learned() -> None:
    a = liar(7, 2).join()
    u1, u2 = a.view(), [0, 1, 2, 3, 5, 6]
    a.mask(u1, range(7))
    a.unmask(u2, a.confirm(u1, u2, u2), u2)
    assert not a.refused
    assert a.exposed([0, 1, 2, 3])
    assert a.all_hidden(but=[0, 1, 2, 3]), "the vector of the dropout too, though it arrived in the end"
    assert a.secret("k", 4)
    assert a.secret("b", 4) is None


@pytest.mark.parametrize("n", [4, 6, 7, 9, 10, 13])
def test_colluders_below_a_third_hold_too_few_shares_of_anybody(n: int) -> None:
    a = liar(n, most(n)).join()
    a.mask(a.view(), range(n))
    assert all(a.secret(which, i) is None for which in "bk" for i in a.honest)
    assert all(a.hidden([i]) for i in a.honest)


def test_with_a_threshold_of_colluders_the_adversary_of_these_tests_does_win() -> None:
    """Else the tests below would show nothing."""
    a = liar(7, 5).join()
    a.mask(a.view(), range(7))
    assert a.exposed([0])
    assert a.exposed([1])


# --- two views of who survived -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [4, 5, 6, 7, 10, 12, 13])
def test_two_lists_of_survivors_shown_to_two_halves_give_refusals(n: int) -> None:
    """The victim in one list, and dropped in the other: its b from one half, its K from the other."""
    for cut in range(1, n - most(n)):
        a = liar(n, most(n)).join()
        u1, victim, whole = a.view(), 0, set(range(n))
        first, second = a.honest[:cut], a.honest[cut:]
        a.mask(u1, range(n))
        kept = a.confirm(u1, whole, first)
        dropped = a.confirm(u1, whole - {victim}, second)
        one = a.unmask(whole, kept, [*first, *a.colluders])
        two = a.unmask(whole - {victim}, dropped, [*second, *a.colluders])
        assert not set(one) - set(a.colluders) or not set(two) - set(a.colluders), "at most one list has a quorum"
        assert a.refused
        assert a.hidden([victim])


def test_a_site_that_both_survives_and_dropped_out_cannot_be_written_down() -> None:
    a = liar(7, 2).join()
    u1 = a.view()
    a.mask(u1, range(7))
    signatures = a.confirm(u1, range(7), a.honest)
    for listed in ((0, 0, 1, 2, 3, 4, 5, 6), (0, 1, 2, 3, 4, 5, 6, 0)):
        raw = encode(Request(listed, signatures))
        a.ask(a.honest, lambda i, raw=raw: site.unmask(a.m, a.secrets[i], a.name(i), raw))
    assert len(a.refused) == 2 * len(a.honest)
    assert a.all_hidden()


def test_signatures_on_two_lists_are_not_added_up() -> None:
    a = liar(10, 3).join()
    u1, whole = a.view(), set(range(10))
    a.mask(u1, range(10))
    mixed = {**a.confirm(u1, whole - {0}, a.honest[4:]), **a.confirm(u1, whole, a.honest[:4])}
    assert a.unmask(whole, mixed, a.honest) == []
    assert a.unmask(whole - {0}, {i: s for i, s in mixed.items() if i}, a.honest) == []
    assert a.all_hidden()


@pytest.mark.parametrize("n", [130])
def test_two_lists_of_survivors_in_two_neighbourhoods_of_a_harary_graph_give_refusals(n: int) -> None:
    """Each neighbour of the victim is told that it dropped out, all others that it survived, which a quorum of them confirms."""
    a = liar(n, n // 10).join()
    u1, victim, whole = a.view(), 0, set(range(n))
    near = set(u1.topology.neighbours[victim])
    a.mask(u1, range(n))
    far = [i for i in a.honest if i not in near]
    kept = a.confirm(u1, whole, far)
    dropped = a.confirm(u1, whole - {victim}, [i for i in a.honest if i in near])
    assert a.unmask(whole, kept, [victim]) == [victim]
    assert a.unmask(whole - {victim}, dropped, [i for i in a.honest if i in near]) == []
    assert a.secret("b", victim)
    assert a.hidden([victim])


# --- two views of who joined -------------------------------------------------------------------------------------------


def split(a: Liar, victim: int, first: tuple[Collection[int], Collection[int]], second: tuple[Collection[int], Collection[int]]) -> None:
    """(who takes part, who is said to have joined) twice. In the first view the victim drops out: its K. In the second it
    survives: its b. Who takes part in one view may be listed as joined in the other, for its JOIN is genuine.
    """
    one, two = a.view(first[1]), a.view(second[1])
    assert one.j != two.j
    a.play(one, set(one.joins) - {victim}, first[0])
    a.play(two, two.joins, second[0])


@pytest.mark.parametrize(
    ("n", "colluders", "first", "second", "claimed"),
    [(7, 2, range(1, 4), (0, 4), (1,)), (10, 3, range(1, 5), (0, 5), (1, 2)), (30, 9, range(1, 13), (0, *range(13, 18)), range(1, 7))],
)
def test_two_lists_of_who_joined_are_not_both_unmasked(n: int, colluders: int, first: Any, second: Any, claimed: Any) -> None:
    a = liar(n, colluders, n_min=5).join()
    split(a, 0, (first, {0, *first, *a.colluders}), (second, {*second, *claimed, *a.colluders}))
    assert a.hidden([0])


def test_two_lists_of_who_joined_are_not_both_unmasked_in_a_harary_graph() -> None:
    """Nobody colludes: the victim's neighbours are one cohort of the coordinator's making, the rest of the ring another."""
    a = liar(130, 0, n_min=5).join()
    p = a.topology.parameters[0]
    ring = permutation(130, hkdf(a.f.seed, b"", "bucket graph", 0), a.t)
    victim, half = ring[0], p.k // 2
    around = {ring[i] for i in range(-24, 24)}
    near = [ring[s * d] for d in range(half, 0, -1) for s in (1, -1)][: p.tau]
    edges = [ring[i] for i in (*range(17, 24), *range(-24, -17))]
    rest = set(ring) - around
    split(a, victim, (around - {victim}, around), ([victim, *rest], {victim, *near, *edges, *rest}))
    assert a.hidden([victim])


@pytest.mark.parametrize("n", [4, 5, 6, 7, 8, 9])
def test_two_lists_of_who_joined_without_colluders_give_noise(n: int) -> None:
    for size in range(1, n - 1):
        a = liar(n).join()
        first = set(range(1, size + 1))
        split(a, 0, (first, first | {0}), (set(range(n)) - first, range(n)))
        assert a.hidden([0])


def test_masks_of_two_lists_of_who_joined_do_not_cancel() -> None:
    """One half is told that everybody joined, the other half that the last did not."""
    a = liar(10).join()
    whole, shorter = a.view(), a.view(range(9))
    a.mask(whole, range(5))
    a.mask(shorter, range(5, 9))
    for i in range(9):
        a.answers[i] = [Unmask(a.secrets[i].b, {}, {})]  # even if all were to give their b
    assert a.hidden(range(9))
    assert a.all_hidden()


@pytest.mark.parametrize("views", [1, 2])
def test_masks_of_two_views_do_not_cancel_though_the_same_sites_are_in_both(views: int) -> None:
    """A colluder signs two JOINs, and each half of the honest sites is shown another. In one view the sum would be known."""
    a = liar(10, 1)
    own = msgspec.structs.replace(a.f.sessions[a.name(9)], roots=dict(a.f.sessions[a.name(9)].roots))
    a.join()
    shown = [a.view()]
    _, a.joins[9] = site.join(a.m, own, a.name(9), a.f.sign(a.name(9)), a.f.entropy)
    shown.append(a.view())
    assert shown[0].joins.keys() == shown[1].joins.keys()
    a.mask(shown[0], range(5))
    a.mask(shown[views - 1], range(5, 9))
    assert not a.refused
    for i in range(9):
        a.answers[i] = [Unmask(a.secrets[i].b, {}, {})]  # even if all were to give their b
    assert a.exposed(range(9)) == (views == 1)
    assert a.all_hidden(but=range(9))
    assert a.hidden(range(9)) == (views == 2)


def test_a_signature_on_one_list_of_who_joined_is_none_on_another() -> None:
    a = liar(10).join()
    whole, shorter = a.view(), a.view(range(9))
    a.mask(whole, range(4))
    a.mask(shorter, range(4, 9))
    signatures = {**a.confirm(whole, range(9), range(4)), **a.confirm(shorter, range(9), range(4, 9))}
    assert len(signatures) == 9
    assert a.unmask(range(9), signatures, range(9)) == []
    assert a.all_hidden()


# --- two models, two manifests -----------------------------------------------------------------------------------------


def test_two_models_in_one_round_give_noise() -> None:
    """Half of the sites are handed another model under the same number: the manifests' digests differ, so nothing fits."""
    a = liar(8, 2)
    other = replace(a.m, digest=digest("another model"))
    a.join(dict.fromkeys(range(4), other))
    assert not set(a.honest_view().joins) & set(range(4)), "their JOINs are for another manifest"
    everyone = {i: (a.secrets[i].own, decode(a.joins[i], Join).signature) for i in range(8)}
    rosters = {
        me: encode(Roster(everyone, {i: decode(a.joins[i], Join).shares[decode(a.joins[i], Join).neighbours.index(me)] for i in range(8) if i != me}))
        for me in range(8)
    }
    a.ask(range(4), lambda i: site.mask(other, a.secrets[i], a.name(i), rosters[i]))
    a.ask(range(4, 6), lambda i: site.mask(a.m, a.secrets[i], a.name(i), rosters[i]))
    assert len(a.refused) == 6, "the shares of the other half do not open"


def test_pair_masks_of_two_manifests_do_not_cancel() -> None:
    """Even if both halves were led to one list of who joined, the pair seeds themselves are bound to the manifest."""
    a = liar(6)
    other = replace(a.m, digest=digest("another model"))
    a.join(dict.fromkeys(range(3), other))
    assert all(a.secrets[i].pairs[j] != a.secrets[j].pairs[i] for i in range(3) for j in range(3, 6))
    assert all(a.secrets[i].pairs[j] == a.secrets[j].pairs[i] for i, j in combinations(range(3), 2))


def test_a_second_manifest_in_the_same_round_is_refused_by_who_has_joined() -> None:
    a = liar(7, 2).join()
    second = replace(a.m, digest=digest("another model"))
    for s, own in a.f.sessions.items():
        with pytest.raises(MaskingRefused, match="is over"):
            site.join(second, own, s, a.f.sign(s), a.f.entropy)
    u1 = a.view()
    a.mask(u1, a.honest, second)
    assert len(a.refused) == len(a.honest)
    a.mask(u1, a.honest)
    u2 = range(7)
    assert a.unmask(u2, a.confirm(u1, u2, a.honest, second), a.honest, second) == []
    assert a.all_hidden()


# --- JOINs that were replayed or moved ---------------------------------------------------------------------------------


def test_a_join_of_the_round_before_is_refused_by_its_sender_and_its_neighbours() -> None:
    old = liar(7, 2).join()
    a = Liar(old.f, old.colluders, 2).join()
    genuine = a.view()
    stale = decode(old.joins[0], Join)
    shown = {}
    for i in a.honest:
        r = decode(cohort.rosters(genuine)[i], Roster)
        joined = {**r.joined, 0: (old.secrets[0].own, stale.signature)}
        shares = {j: s if j else stale.shares[stale.neighbours.index(i)] for j, s in r.shares.items()}
        shown[i] = encode(Roster(joined, shares))
    assert a.mask(genuine, a.honest, rosters=shown) == []
    assert {e.what for e in a.refused} == {
        "The list of who joined does not hold this site's own JOIN.",
        "The share from 'site-0000' does not open.",
    }
    assert a.play(genuine, range(7), range(7)) == list(range(7)), "the genuine ones are still taken"


def test_two_joins_that_were_swapped_are_refused_by_all() -> None:
    a = liar(7, 2).join()
    u1 = a.view()
    shown = {}
    for i in a.honest:
        r = decode(cohort.rosters(u1)[i], Roster)
        shown[i] = encode(Roster({**r.joined, 0: r.joined[1], 1: r.joined[0]}, r.shares))
    assert a.mask(u1, a.honest, rosters=shown) == []
    assert len(a.refused) == len(a.honest)


def test_a_join_that_a_colluder_made_in_anothers_name_is_refused() -> None:
    a = liar(7, 2).join()
    u1 = a.view()
    own = digest("anything")
    forged = a.f.sign(a.name(6))(label("join"), own)
    shown = {}
    for i in a.honest:
        r = decode(cohort.rosters(u1)[i], Roster)
        shown[i] = encode(Roster({**r.joined, 0: (own, forged)}, r.shares))
    assert a.mask(u1, a.honest, rosters=shown) == []


def test_a_join_of_the_round_before_is_not_taken_by_a_coordinator_either() -> None:
    old = liar(7).join()
    a = Liar(old.f, (), 2).join()
    a.joins[0] = old.joins[0]
    assert sorted(a.honest_view().joins) == [1, 2, 3, 4, 5, 6]


# --- the set-up --------------------------------------------------------------------------------------------------------


def told(f: Any) -> tuple[dict[str, Any], dict[str, bytes], bytes]:
    made = {s: session.announce(f.setup, s, f.sign(s), f.entropy) for s in f.names}
    lists = session.key_list(f.setup, {s: body for s, (_, body) in made.items()})
    return {s: p for s, (p, _) in made.items()}, {s: body for s, (_, body) in made.items()}, next(iter(lists.values()))


def test_session_keys_of_the_coordinators_own_are_refused_by_everybody() -> None:
    f = play.Federation(5)
    pending, _, listed = told(f)
    keys = dict(decode(listed, KeyList).keys)
    for victim in f.names:
        public = f.setup.suite.public(f.setup.suite.generate())
        lie = encode(KeyList({**keys, victim: msgspec.structs.replace(keys[victim], public=public)}))
        for s in f.names:
            with pytest.raises(MaskingRefused, match="does not hold this site's own key" if s == victim else "is not signed by it"):
                session.seal(f.setup, s, pending[s], lie, f.sign(s), f.entropy)


def test_seals_that_were_kept_back_or_exchanged_give_the_two_ends_no_common_root() -> None:
    f = play.Federation(5)
    pending, _, listed = told(f)
    made = {s: session.seal(f.setup, s, pending[s], listed, f.sign(s), f.entropy) for s in f.names}
    _, columns = session.columns(f.setup, made, listed)
    a, b, c = f.names[:3]
    column = decode(columns[a], Column)
    swapped = Column(column.nonces, {**column.seals, b: column.seals[c], c: column.seals[b]})
    with pytest.raises(MaskingRefused, match="not signed by it"):
        session.open_column(f.setup, a, pending[a], encode(swapped), 0)


def test_sites_of_the_coordinators_own_are_refused_in_the_set_up_and_in_the_round() -> None:
    f = play.Federation(5)
    pending, bodies, _ = told(f)
    sybils = {f"sybil-{i}": play.identity(f"sybil-{i}") for i in range(10)}
    sybil_keys = {s: session.announce(f.setup, s, k.sign, f.entropy)[1] for s, k in sybils.items()}
    lie = encode(KeyList({s: decode(b, session.Keys) for s, b in {**bodies, **sybil_keys}.items()}))
    for s in f.names:
        with pytest.raises(MaskingRefused, match="not in the consortium's roster"):
            session.seal(f.setup, s, pending[s], lie, f.sign(s), f.entropy)
    a = liar(7, 2, absent=["site-0004"]).join()
    r = decode(cohort.rosters(a.view())[0], Roster)
    for number in (4, 7, 1999):
        raw = encode(Roster({**r.joined, number: r.joined[6]}, r.shares))
        a.ask([0], lambda i, raw=raw: site.mask(a.m, a.secrets[i], a.name(i), raw))
    assert [e.what for e in a.refused] == ["Sites that are not in the cohort are listed as joined."] * 3


# --- terms that the coordinator would rather have ----------------------------------------------------------------------


def test_a_lower_minimum_at_the_coordinator_is_of_no_use() -> None:
    a = liar(7, 2, n_min=7).join()
    lower = replace(a.m, n_min=3)
    u1 = a.honest_view(range(1, 7), lower)
    assert len(u1.joins) == 6
    assert a.mask(u1, range(1, 5)) == []
    full = a.view()
    a.mask(full, range(7))
    u2 = range(1, 7)
    assert a.unmask(u2, a.confirm(full, u2, range(1, 5)), range(1, 5)) == []
    assert a.all_hidden()


def test_more_dropouts_than_agreed_at_the_coordinator_are_of_no_use() -> None:
    a = liar(11, 3).join()
    u1 = a.view()
    a.mask(u1, range(11))
    for gone in ({0, 1, 2}, {0, 1, 2, 3}):
        u2 = set(range(11)) - gone
        assert not set(a.confirm(u1, u2, a.honest)) - set(a.colluders)
        assert a.unmask(u2, a.confirm(u1, u2, []), a.honest) == []
    assert a.hidden([0])
    assert most_dropped(11, a.f.terms.dropout) == 2


@pytest.mark.parametrize("terms", [Masking(corrupt=0.02), Masking(corrupt=0.1, dropout=0.02)], ids=["corrupt", "dropout"])
def test_fewer_neighbours_at_the_coordinator_are_of_no_use(terms: Masking) -> None:
    a = liar(130).join()
    fewer = replace(a.m, terms=terms)
    assert not a.honest_view(m=fewer).joins, "the sites have chosen their neighbours themselves"


def test_other_buckets_at_the_coordinator_are_of_no_use() -> None:
    a = liar(12, 3, terms=Masking(buckets=3, trim=1), n_min=4).join()
    for terms in (Masking(), Masking(buckets=4, trim=1)):
        assert not a.honest_view(m=replace(a.m, terms=terms, n_min=3)).joins
    whole = a.honest_view(m=a.m)
    assert len(whole.joins) == 12
    everyone = {i: (whole.digests[i], whole.joins[i].signature) for i in range(12)}
    bucket = next(b for b in whole.topology.buckets if 0 in b)
    one_bucket = {i: everyone[i] for i in bucket}
    shares = decode(cohort.rosters(whole)[0], Roster).shares
    a.ask([0], lambda i: site.mask(a.m, a.secrets[i], a.name(i), encode(Roster(one_bucket, shares))))
    assert len(a.refused) == 1, "the other buckets count too"


def test_a_lower_threshold_cannot_be_asked_for() -> None:
    """tau is in nothing that the coordinator sends; what a site shares is out of reach of fewer."""
    a = liar(10).join()
    body = decode(a.joins[0], Join)
    held = {i: site._open(a.secrets[i].channels[0], a.m, 0, i, body.shares[body.neighbours.index(i)]) for i in body.neighbours}
    tau = a.view().topology.threshold(0)
    for which, own in ((0, a.secrets[0].b), (1, a.secrets[0].k)):
        shares = {i: s[which] for i, s in held.items()}
        assert shamir.combine(shares, tau) == own
        for fewer in range(2, tau):
            lost = {i: shares[i] for i in sorted(shares)[:fewer]}
            wrong = None
            try:
                wrong = shamir.combine(lost, fewer)
            except LocumError:
                continue
            assert wrong != own


# --- late, again, once more --------------------------------------------------------------------------------------------


def test_the_late_vector_of_a_dropout_is_protected_by_its_own_mask() -> None:
    a = liar(10, 3).join()
    u1, u2 = a.view(), set(range(1, 10))
    a.mask(u1, range(1, 10))
    assert a.unmask(u2, a.confirm(u1, u2, u2), u2) == sorted(u2)
    a.mask(u1, [0])
    left, unknown = a.residual([0])
    assert unknown == 1, "all pair masks are gone; b remains"
    assert a.secret("b", 0) is None
    assert not any((left[g] == a.x[0][g]).any() for g in left)
    assert a.hidden([0])


def test_the_mask_that_protects_a_late_vector_is_uniform() -> None:
    """Over many rounds of a constant input, what is left of it has bytes of equal frequency."""
    f = play.Federation(4, quick=True, entropy=play.seeded(1))
    f.agree()
    counts = np.zeros(256)
    for t in range(1, 60):
        a = Liar(f, (), t).join()
        a.x[0] = a.e.zeros()
        u1, u2 = a.view(), {1, 2, 3}
        a.mask(u1, range(4))
        a.unmask(u2, a.confirm(u1, u2, u2), u2)
        left, unknown = a.residual([0])
        assert unknown == 1
        counts += np.bincount(left["narrow"].view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    assert ((counts - expected) ** 2 / expected).sum() < 350, "chi-square with 255 degrees of freedom: 350 is 1 in 10,000"


def test_who_dropped_out_answers_nothing() -> None:
    a = liar(10, 3).join()
    u1, u2 = a.view(), set(range(1, 10))
    a.mask(u1, range(10))
    signatures = a.confirm(u1, u2, [*u2, 0])
    assert 0 not in signatures
    a.unmask(u2, signatures, u2)
    assert a.unmask(u2, signatures, [0]) == []
    whole = {i: a.f.sign(a.name(i))(label("confirm"), confirmation(a.m, u1.j, range(10))) for i in a.colluders}
    assert a.unmask(range(10), {**signatures, **whole}, [0]) == []
    assert a.hidden([0])


@pytest.mark.parametrize("restart", [False, True])
def test_a_second_list_is_not_unmasked_after_the_first(restart: bool) -> None:
    a = liar(10, 3).join()
    u1, whole = a.view(), set(range(10))
    a.mask(u1, range(10))
    a.unmask(whole, a.confirm(u1, whole, a.honest), a.honest)
    if restart:
        a.secrets = {i: copy(s) for i, s in a.secrets.items()}
    for victim in a.honest:
        u2 = whole - {victim}
        assert a.unmask(u2, a.confirm(u1, u2, a.honest), a.honest) == []
    assert a.all_hidden(but=a.honest)


def test_a_retry_has_fresh_masks_and_two_transcripts_say_no_more_than_one() -> None:
    """Round 1 fails after the victim was dropped; round 2 sums the same x. All of both rounds is with the coordinator."""
    first = liar(7, 2).join()
    u1, u2 = first.view(), {1, 2, 3, 4, 5, 6}
    first.mask(u1, range(7))
    first.unmask(u2, first.confirm(u1, u2, u2), u2)
    second = Liar(first.f, first.colluders, 2)
    second.x = first.x
    second.join()
    assert {s.b for s in first.corrupt.values()}.isdisjoint({s.b for s in second.corrupt.values()})
    assert not {*first.pairs(0).values()} & {v for s in second.secrets.values() for v in s.pairs.values()}
    second.play(second.view(), range(7), range(7))
    assert second.exposed(second.honest)
    assert first.hidden([0])
    assert second.all_hidden(but=second.honest)
    # the seeds of one round are of no use in the other
    mixed = Liar(first.f, first.colluders, 2, joins=first.joins, corrupt=first.corrupt, answers=first.answers, got=second.got)
    mixed.m, mixed.x = first.m, first.x
    assert mixed.hidden([0])
    gap = {g: second.got[0].y[g] - first.got[0].y[g] for g in ("narrow",)}
    assert not (gap["narrow"] == 0).any(), "the same x is under other masks"


def test_a_round_that_is_over_gives_nothing_to_who_takes_a_site_later() -> None:
    """After UNMASK the site's whole state is stolen: its session and what it kept of the round."""
    a = liar(7, 2).join()
    a.play(a.view(), range(7), range(7))
    own = a.f.sessions[a.name(0)]
    stolen = msgspec.msgpack.encode(own) + msgspec.msgpack.encode(a.secrets[0])
    again = liar(7, 2).join()
    hidden = [*again.secrets[0].pairs.values(), *again.secrets[0].channels.values()]
    assert not any(v in stolen for v in hidden)
    assert own.t == 2
    derived = {hkdf(root, a.m.digest, "pair") for root in own.roots.values()}
    assert not derived & set(again.secrets[0].pairs.values())


# --- the ring may not be cut -------------------------------------------------------------------------------------------


def test_the_ring_cannot_be_cut_in_two_by_sites_that_are_kept_away() -> None:
    """130 sites, 13 corrupt, as agreed. At two places on the ring half a neighbourhood holds 6 or 7 of them.

    There the coordinator keeps some honest sites from joining; the others join and drop out, no more than agreed, and their
    K comes from the sites around and the colluders. Both arcs in between are sums of their own, in one consistent view.
    """
    f = play.Federation(130, quick=True)
    f.agree()
    p = Topology.of(f.manifest(1), f.members, f.seed).parameters[0]
    ring, half = permutation(130, hkdf(f.seed, b"", "bucket graph", 0), 1), p.k // 2
    places = [[ring[(at + d) % 130] for d in range(half)] for at in (0, 65)]
    spread = [round(d * (half - 1) / 6) for d in range(7)]
    colluders = {places[0][d] for d in spread} | {places[1][d] for d in spread[:-1]}
    assert len(colluders) == 13
    a = Liar(f, colluders).join()
    late = [[i for i in w if i not in colluders][::2][: most_dropped(114, f.terms.dropout) // 2] for w in places]
    gone = {i for w in places for i in w} - colluders
    u1 = a.view(set(range(130)) - gone | {i for w in late for i in w})
    u2 = set(u1.joins) - gone
    a.play(u1, u2, u2)
    arcs = [{ring[at % 130] for at in range(start + half, start + 65)} for start in (0, 65)]
    assert all(a.hidden(arc) for arc in arcs)


def chance_of_a_cut(n: int, corrupt: float, dropout: float) -> float:
    """log2 of the expected number of pairs of places on the ring where the attack above works, in a graph drawn at random.

    Half a neighbourhood must hold tau - k/2 - 1 corrupt sites, for with the k/2 + 1 sites around they give the K of who drops
    out there; and both places together may not need more honest sites to go missing than was agreed.
    """
    p, c, half = search(n, corrupt, dropout), round(corrupt * n), search(n, corrupt, dropout).k // 2
    least = max(0, p.tau - half - 1)
    both = max(2 * least, p.k - most_dropped(n, dropout))
    chance = sum(
        hypergeom.pmf(a, n, c, half) * hypergeom.sf(max(least, both - a) - 1, n - half, c - a, half) for a in range(least, min(half, c) + 1)
    )  # fmt: skip
    return float(np.log2(max(chance, 1e-300) * n * n / 2))


@pytest.mark.parametrize(("corrupt", "dropout"), [(0.05, 0.05), (0.1, 0.1), (0.2, 0.2)])
@pytest.mark.parametrize("n", [130, 200, 400])
def test_the_chance_that_a_random_ring_can_be_cut_is_as_small_as_agreed(n: int, corrupt: float, dropout: float) -> None:
    assert chance_of_a_cut(n, corrupt, dropout) < -40


@pytest.mark.parametrize(("n", "corrupt", "dropout"), [(500, 0.1, 0.1), (1000, 0.05, 0.05), (1000, 0.1, 0.1), (2000, 0.1, 0.1)])
def test_the_chance_that_a_large_random_ring_can_be_cut_is_as_small_as_agreed(n: int, corrupt: float, dropout: float) -> None:
    assert chance_of_a_cut(n, corrupt, dropout) < -40
