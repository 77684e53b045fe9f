"""A peer round, honest and not: the sum is exact under every dropout that was agreed, and every refusal of the specification."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.secagg import cohort, masks, shamir, site
from locum.secagg.errors import MaskingRefused, ProtocolError, SessionLost, Unrecoverable
from locum.secagg.kdf import digest, label
from locum.secagg.kdf import join as concat
from locum.secagg.messages import Confirm, Join, Request, Roster, Survivors, Unmask, decode, encode
from locum.secagg.parameters import most_dropped
from locum.secagg.site import Secrets
from locum.secagg.topology import Topology, confirmation
from locum.study.manifest import Masking

_spec = importlib.util.spec_from_file_location("secagg_play", Path(__file__).with_name("play.py"))
assert _spec
assert _spec.loader
play = sys.modules["secagg_play"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(play)

LOSSY = Masking(dropout=0.3)


@contextmanager
def chunks(nbytes: int) -> Iterator[None]:
    """Work in chunks of so many bytes, and in threads however small the vector."""
    with patch.multiple(masks, CHUNK=nbytes, _ZEROS=bytes(nbytes), _SMALL=0):
        yield


class Game:
    """A federation of n, its random inputs, and one round of it."""

    def __init__(self, n: int, *, t: int = 1, d: int = 9, bits: int = 32, real: bool = False, seed: int = 0, **federation: Any) -> None:
        self.f = play.Federation(n, **{"quick": True, **federation})
        self.f.set_up() if real else self.f.agree()
        self.e = play.encoding(d, n, bits)
        rng = np.random.default_rng(seed)
        self.x = {i: play.random_elements(self.e, rng) for i in range(n)}
        self.p = play.Play(self.f, t)

    def next(self, t: int) -> Game:
        self.p = play.Play(self.f, t)
        return self

    # --- as far as ... -------------------------------------------------------------------------------------------------

    def joined(self, *absent: int) -> Game:
        self.p.join([s for s in self.f.sessions if self.p.number(s) not in absent])
        return self

    def masked(self, *gone: int) -> Game:
        self.p.mask(self.x, self.e, [i for i in self.p.u1.joins if i not in gone])
        return self

    def confirmed(self, *silent: int) -> Game:
        self.p.u2 = sorted(self.p.y)
        self.p.confirm([i for i in self.p.u2 if i not in silent])
        return self

    def unmasked(self, *silent: int) -> Game:
        self.p.unmask([i for i in self.p.u2 if i not in silent])
        return self

    # --- one site ------------------------------------------------------------------------------------------------------

    def secrets(self, i: int) -> Secrets:
        return self.p.secrets[self.p.m.roster[i]]  # type: ignore[no-any-return]

    def restart(self) -> Game:
        """Every site crashes, and comes back with what it had stored."""
        self.p.secrets = {s: msgspec.msgpack.decode(msgspec.msgpack.encode(v), type=Secrets) for s, v in self.p.secrets.items()}
        return self

    def roster(self, i: int) -> Roster:
        return decode(self.p.rosters[i], Roster)

    def request(self) -> Request:
        return decode(cohort.request(self.p.m, self.p.u1, self.p.u2, self.p.confirms)[0], Request)

    def mask(self, i: int, raw: bytes, m: Any = None) -> Any:
        return site.mask(m or self.p.m, self.secrets(i), self.p.m.roster[i], raw)

    def confirm(self, i: int, raw: bytes, m: Any = None) -> bytes:
        name = self.p.m.roster[i]
        return site.confirm(m or self.p.m, self.secrets(i), name, raw, self.f.sign(name))

    def unmask(self, i: int, raw: bytes, m: Any = None) -> bytes:
        return site.unmask(m or self.p.m, self.secrets(i), self.p.m.roster[i], raw)

    def sign_confirm(self, i: int, survivors: Any = None, j: bytes | None = None) -> bytes:
        """What site i, or who has its key, can sign."""
        survivors, j = self.p.u2 if survivors is None else survivors, self.p.u1.j if j is None else j
        return self.f.sign(self.p.m.roster[i])(label("confirm"), confirmation(self.p.m, j, survivors))  # type: ignore[no-any-return]

    def refuses(self, i: int, step: Callable[..., Any], message: Any, match: str, *, m: Any = None) -> None:
        """Site i refuses the message and is as it was before."""
        raw = message if isinstance(message, bytes) else encode(message)
        before = msgspec.msgpack.encode(self.secrets(i))
        with pytest.raises((MaskingRefused, ProtocolError), match=match):
            step(i, raw, m) if m else step(i, raw)
        assert msgspec.msgpack.encode(self.secrets(i)) == before

    # --- the end -------------------------------------------------------------------------------------------------------

    def exact(self) -> None:
        """Every bucket's sum is that of its survivors' inputs, and together they are U2."""
        parts = self.p.recover()
        assert sorted(i for part in parts for i in part.survivors) == self.p.u2
        for part in parts:
            got, want = self.p.part_sum(part, self.e), play.plain_sum(self.e, [self.x[i] for i in part.survivors])
            for g in want:
                assert np.array_equal(got[g], want[g])

    def finish(self) -> None:
        """From wherever the round stands; the right messages are taken, and the sum is exact."""
        todo = [i for i in self.p.u1.joins if i not in self.p.y]
        if not self.p.confirms:
            self.p.mask(self.x, self.e, todo)
            self.confirmed()
        elif missing := [i for i in self.p.u2 if i not in self.p.confirms]:
            self.p.confirm(missing)
        self.p.unmask([i for i in self.p.u2 if i not in self.p.answers])
        self.exact()


# --- the sum is exact --------------------------------------------------------------------------------------------------


@st.composite
def dropouts(draw: Any) -> tuple[int, dict[str, list[int]]]:
    """n sites, and who goes silent at each boundary: as many as the terms, the quorum and tau allow."""
    n = draw(st.integers(3, 12))
    tau = 2 * n // 3 + 1
    left = draw(st.permutations(range(n)))
    out: dict[str, list[int]] = {}
    for boundary in ("join", "masked", "confirm", "unmask"):
        alive = len(left)
        most = {"join": n, "masked": most_dropped(alive, LOSSY.dropout)}.get(boundary, n)
        count = draw(st.integers(0, max(0, min(most, alive - max(3, tau)))))
        # who does not confirm may still unmask: the request is answered by all of U2
        out[boundary], left = left[:count], left[count if boundary in ("join", "masked") else 0 :]
    return n, out


@settings(max_examples=60)
@given(dropouts(), st.sampled_from([8, 12, 16, 20, 24, 28, 32]), st.integers(1, 40), st.sampled_from([64, 512, 1 << 16]), st.integers(1, 3), st.randoms())
def test_the_sum_is_exact_under_every_dropout_that_is_allowed(who: Any, bits: int, d: int, chunk: int, threads: int, order: Any) -> None:
    n, out = who
    g = Game(n, bits=bits, d=d, terms=LOSSY)
    names = [s for s in g.f.sessions if g.p.number(s) not in out["join"]]
    order.shuffle(names)
    g.p.join(names)
    there = [i for i in g.p.u1.joins if i not in out["masked"]]
    order.shuffle(there)
    with chunks(chunk):
        g.p.mask(g.x, g.e, there, threads=threads)
    g.confirmed(*out["confirm"])
    g.unmasked(*out["unmask"])
    g.exact()


@pytest.mark.parametrize("suite", ["mlkem768-x25519", "mlkem1024-p384"])
def test_the_sum_is_exact_after_a_real_set_up_with_real_keys(suite: str) -> None:
    g = Game(6, real=True, quick=False, suite=suite, absent=["site-0002"])
    g.joined().masked(4).confirmed().unmasked()
    assert g.p.u2 == [0, 1, 3, 5]
    g.exact()


def test_the_sum_is_exact_for_forty_sites() -> None:
    g = Game(40, d=300)
    g.joined(3, 17).masked(0, 39, 20).confirmed(1, 2).unmasked(5, 6)
    g.exact()


@pytest.mark.parametrize("n", [130, 200])
def test_the_sum_is_exact_in_a_harary_graph(n: int) -> None:
    g = Game(n, d=50)
    topology = Topology.of(g.p.m, g.f.members, g.f.seed)
    assert len(topology.neighbours[0]) < n - 1
    g.joined(5).masked(0, n - 1, n // 2).confirmed(1, 2).unmasked(7)
    assert len(g.p.u2) == n - 4
    g.exact()


@pytest.mark.parametrize("buckets", [2, 3])
def test_the_sum_of_every_bucket_is_exact(buckets: int) -> None:
    terms = Masking.model_construct(**{**Masking().model_dump(), "buckets": buckets, "trim": 0 if buckets == 2 else 1})
    g = Game(17, terms=terms, n_min=4)
    g.joined()
    topology = g.p.u1.topology
    assert len(topology.buckets) == buckets
    assert sorted(i for b in topology.buckets for i in b) == list(range(17))
    g.masked(*[b[0] for b in topology.buckets]).confirmed().unmasked()
    assert len(g.p.recover()) == buckets
    g.exact()


def test_a_bucket_holds_the_minimum_however_many_were_agreed() -> None:
    g = Game(14, terms=Masking(buckets=9, trim=1), n_min=4)
    g.joined()
    assert [len(b) for b in g.p.u1.topology.buckets] == [5, 5, 4]
    g.masked().confirmed().unmasked()
    g.exact()


def test_rounds_follow_rounds_and_some_are_skipped() -> None:
    g = Game(5)
    for t in (1, 2, 3, 9):
        g.next(t).joined().masked().confirmed().unmasked()
        g.exact()


def test_a_site_that_missed_rounds_takes_part_again() -> None:
    g = Game(5)
    g.joined(4).masked().confirmed().unmasked()
    g.exact()
    g.next(6).joined().masked().confirmed().unmasked()
    assert g.p.u2 == [0, 1, 2, 3, 4]
    g.exact()


def test_chunks_and_threads_do_not_change_what_is_masked() -> None:
    g = Game(4, d=3000, bits=12)
    g.joined()
    streams, j = g.mask(0, g.p.rosters[0]), g.secrets(0).j
    seen = []
    for nbytes, threads in ((64, 1), (64, 3), (4096, 2), (1 << 16, 1), (1 << 16, 4)):
        y = {k: a.copy() for k, a in g.x[0].items()}
        with chunks(nbytes):
            masks.apply(y, g.e.rings, streams, j, threads=threads)
        seen.append(b"".join(y[k].tobytes() for k in sorted(y)))
    assert len(set(seen)) == 1


def test_the_same_messages_in_any_order_give_the_same() -> None:
    g = Game(7, terms=LOSSY)
    g.joined().masked(2).confirmed().unmasked(3)

    def outcome(turn: Callable[[dict[int, bytes]], dict[int, bytes]]) -> Any:
        u1 = cohort.joined(g.p.m, g.f.setup.id, reversed(g.f.members), g.f.seed, turn(g.p.joins))
        return u1.j, cohort.rosters(u1), cohort.request(g.p.m, u1, turn(dict.fromkeys(g.p.u2)), turn(g.p.confirms)), cohort.recover(
            g.p.m, u1, reversed(g.p.u2), turn(g.p.answers)
        )  # fmt: skip

    assert outcome(dict) == outcome(lambda bodies: dict(reversed(bodies.items())))


def test_recovering_twice_from_the_same_bytes_gives_the_same() -> None:
    g = Game(7, terms=LOSSY)
    g.joined().masked(2).confirmed().unmasked(3)
    assert g.p.recover() == g.p.recover()
    g.exact()
    g.exact()


def test_more_answers_than_needed_give_the_same_sum() -> None:
    g = Game(9)
    g.joined().masked(2).confirmed().unmasked()
    g.exact()
    while len(g.p.answers) > 7:
        g.p.answers.popitem()
        g.exact()


# --- who may drop out, and how many ------------------------------------------------------------------------------------


def test_three_sites_tolerate_no_dropout() -> None:
    g = Game(3)
    g.joined().masked().confirmed().unmasked(2)
    with pytest.raises(Unrecoverable, match="2 shares"):
        g.p.recover()
    g.unmasked(0, 1)
    g.exact()


@pytest.mark.parametrize("n", [4, 7, 10])
def test_with_fewer_than_tau_answers_nothing_is_recovered(n: int) -> None:
    g = Game(n)
    g.joined().masked().confirmed()
    tau = 2 * n // 3 + 1
    g.unmasked(*range(tau - 1, n))
    with pytest.raises(Unrecoverable, match="are needed"):
        g.p.recover()
    g.unmasked(*range(tau - 1), *range(tau, n))
    g.exact()


def test_a_dropout_is_not_recovered_from_fewer_than_tau_shares() -> None:
    g = Game(7)
    g.joined().masked(6).confirmed().unmasked()
    assert len(g.p.answers) == 6
    g.p.answers = dict(list(g.p.answers.items())[:4])
    with pytest.raises(Unrecoverable):
        g.p.recover()


def test_who_did_not_confirm_may_still_unmask() -> None:
    g = Game(7)
    g.joined().masked().confirmed(0, 1)
    g.unmasked()
    assert set(g.p.answers) == set(range(7))
    g.exact()


# --- JOIN --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [5, 4, 0])
def test_a_stale_round_is_refused_and_the_next_is_joined(t: int) -> None:
    g = Game(4, t=5)
    g.joined()
    for name, session in g.f.sessions.items():
        before = msgspec.msgpack.encode(session)
        with pytest.raises(MaskingRefused, match="is over"):
            site.join(g.f.manifest(t, digest=digest("another manifest")), session, name, g.f.sign(name), os.urandom)
        assert msgspec.msgpack.encode(session) == before
    g.next(6).joined().masked().confirmed().unmasked()
    g.exact()


def test_a_stale_round_is_refused_after_a_restart_too() -> None:
    g = Game(4, t=5)
    g.joined()
    name = g.f.names[0]
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(g.f.sessions[name]), type=type(g.f.sessions[name]))
    with pytest.raises(MaskingRefused, match="is over"):
        site.join(g.p.m, stored, name, g.f.sign(name), os.urandom)


def test_a_cohort_below_the_minimum_is_not_joined() -> None:
    g = Game(4, n_min=3)
    name = g.f.names[0]
    for change in ({"n_min": 5}, {"own_min": 5}):
        before = msgspec.msgpack.encode(g.f.sessions[name])
        with pytest.raises(MaskingRefused, match="minimum"):
            site.join(g.f.manifest(1, **change), g.f.sessions[name], name, g.f.sign(name), os.urandom)
        assert msgspec.msgpack.encode(g.f.sessions[name]) == before
    g.joined().finish()


def test_only_members_of_the_session_count_for_the_minimum() -> None:
    g = Game(6, n_min=5, absent=["site-0001", "site-0002"])
    name = g.f.names[0]
    with pytest.raises(MaskingRefused, match="4 sites"):
        site.join(g.p.m, g.f.sessions[name], name, g.f.sign(name), os.urandom)


def test_too_few_buckets_to_trim_are_refused() -> None:
    g = Game(8, terms=Masking(buckets=3, trim=1), n_min=3)
    name = g.f.names[0]
    with pytest.raises(MaskingRefused, match="buckets"):
        site.join(g.p.m, g.f.sessions[name], name, g.f.sign(name), os.urandom)


def test_a_site_outside_the_session_cannot_join() -> None:
    g = Game(5)
    with pytest.raises(MaskingRefused, match="not in the round's cohort"):
        site.join(g.p.m, replace_members(g.f.sessions["site-0000"], "site-0000"), "site-0000", g.f.sign("site-0000"), os.urandom)


def replace_members(session: Any, gone: str) -> Any:
    return msgspec.structs.replace(session, members=tuple(s for s in session.members if s != gone))


def test_a_site_outside_the_roster_cannot_join() -> None:
    g = Game(5)
    smaller = replace(g.p.m, roster=g.p.m.roster[1:])
    with pytest.raises(MaskingRefused):
        site.join(smaller, g.f.sessions["site-0000"], "site-0000", g.f.sign("site-0000"), os.urandom)


def test_every_join_has_secrets_of_its_own() -> None:
    g = Game(6)
    g.joined()
    first = dict(g.p.secrets)
    g.next(2).joined()
    kept = [*first.values(), *g.p.secrets.values()]
    single = [v for s in kept for v in (s.b, s.k)]
    assert len(set(single)) == len(single)
    pairs = {v for s in kept for v in s.pairs.values()}
    assert len(pairs) == 2 * 15, "one for each pair and round, the same at both ends"
    channels = {v for s in kept for v in s.channels.values()}
    assert len(channels) == 2 * 30, "one for each direction"


def test_no_two_messages_are_sealed_under_one_key_whatever_the_randomness() -> None:
    """AES-GCM falls with one repeated key and nonce; equal plaintexts would show it."""
    g = Game(5, entropy=bytes)
    g.joined()
    sealed = [s for raw in g.p.joins.values() for s in decode(raw, Join).shares]
    g.next(2).joined()
    sealed += [s for raw in g.p.joins.values() for s in decode(raw, Join).shares]
    assert len({s[:32] for s in sealed}) == len(sealed) == 40


def test_what_a_join_says_is_signed() -> None:
    g = Game(5)
    g.joined()
    body = decode(g.p.joins[0], Join)
    others = decode(g.p.joins[1], Join)
    changes: list[dict[str, Any]] = [
        {"neighbours": body.neighbours[::-1]},
        {"commit_b": others.commit_b},
        {"commit_k": others.commit_k},
        {"shares": body.shares[::-1]},
        {"escrow": others.escrow},
    ]
    for change in changes:
        assert site.join_digest(g.p.m, 0, msgspec.structs.replace(body, **change)) != g.secrets(0).own
    assert site.join_digest(g.p.m, 1, body) != g.secrets(0).own
    assert site.join_digest(g.f.manifest(2), 0, body) != g.secrets(0).own


JOIN_FAULTS: dict[str, Callable[[Game, Join], bytes]] = {
    "no signature": lambda g, b: encode(msgspec.structs.replace(b, signature=bytes(64))),
    "altered": lambda g, b: encode(msgspec.structs.replace(b, escrow=b.escrow[::-1])),
    "a share less": lambda g, b: signed(g, msgspec.structs.replace(b, shares=b.shares[1:])),
    "fewer neighbours": lambda g, b: signed(g, msgspec.structs.replace(b, shares=b.shares[1:], neighbours=b.neighbours[1:])),
    "another's": lambda g, b: g.p.joins[1],
    "no message": lambda g, b: b"\x00",
}


def signed(g: Game, body: Join, i: int = 0) -> bytes:
    return encode(msgspec.structs.replace(body, signature=g.f.sign(g.f.names[i])(label("join"), site.join_digest(g.p.m, i, body))))


@pytest.mark.parametrize("fault", JOIN_FAULTS.values(), ids=JOIN_FAULTS)
def test_the_coordinator_leaves_out_a_bad_join(fault: Callable[[Game, Join], bytes]) -> None:
    g = Game(7)
    g.joined()
    g.p.joins[0] = fault(g, decode(g.p.joins[0], Join))
    g.p.join([])
    assert sorted(g.p.u1.joins) == [1, 2, 3, 4, 5, 6]
    g.finish()


def test_the_coordinator_leaves_out_a_join_of_another_round() -> None:
    g = Game(7)
    g.joined()
    old = g.p.joins[0]
    g.next(2).joined()
    g.p.joins[0] = old
    g.p.join([])
    assert sorted(g.p.u1.joins) == [1, 2, 3, 4, 5, 6]
    g.finish()


def test_the_coordinator_leaves_out_a_join_of_a_site_outside_the_cohort() -> None:
    g = Game(7, absent=["site-0003"])
    g.joined()
    g.p.joins[3] = g.p.joins[4]
    g.p.join([])
    assert 3 not in g.p.u1.joins
    g.finish()


def test_the_coordinator_leaves_out_who_has_too_few_neighbours_and_then_who_needed_those() -> None:
    g = Game(130)
    g.joined()
    topology, p = g.p.u1.topology, g.p.u1.topology.parameters[0]
    victim = 77
    for i in topology.neighbours[victim][: p.k - p.tau + 1]:
        del g.p.joins[i]
    g.p.join([])
    assert victim not in g.p.u1.joins
    assert all(topology.connected(i, frozenset(g.p.u1.joins)) for i in g.p.u1.joins)


def test_nobody_is_left_where_too_few_have_joined() -> None:
    g = Game(10)
    g.joined(*range(6, 10))
    assert not g.p.u1.joins


# --- MASKED ------------------------------------------------------------------------------------------------------------


def changed(r: Roster, i: int, digest_: bytes | None = None, signature: bytes | None = None) -> Roster:
    old = r.joined[i]
    return Roster({**r.joined, i: (digest_ or old[0], signature or old[1])}, r.shares)


def only(r: Roster, *who: int) -> Roster:
    return Roster({i: v for i, v in r.joined.items() if i in who}, {i: v for i, v in r.shares.items() if i in who})


ROSTER_LIES: dict[str, tuple[Callable[[Roster], Any], str]] = {
    "a neighbour's signature is missing": (lambda r: changed(r, 3, signature=bytes(64)), "not signed"),
    "a neighbour's signature is another's": (lambda r: changed(r, 3, signature=r.joined[4][1]), "not signed"),
    "a neighbour's join was replaced": (lambda r: changed(r, 3, digest_=r.joined[4][0]), "not signed"),
    "two neighbours' joins were swapped": (lambda r: Roster({**r.joined, 3: r.joined[4], 4: r.joined[3]}, r.shares), "not signed"),
    "own join was replaced": (lambda r: changed(r, 0, digest_=bytes(32)), "own JOIN"),
    "own join is another's": (lambda r: Roster({**r.joined, 0: r.joined[4]}, r.shares), "own JOIN"),
    "own join is missing": (lambda r: only(r, *range(1, 10)), "own JOIN"),
    "fewer than the quorum have joined": (lambda r: only(r, 0, 1, 2, 3, 4, 5), "6 of 10 sites are said to have joined; 7 must"),
    "two have joined": (lambda r: only(r, 0, 1), "minimum|must"),
    "nobody has joined": (lambda r: Roster({}, {}), "minimum|must"),
    "a number beyond the roster": (lambda r: Roster({**r.joined, 1999: r.joined[1]}, r.shares), "not in the cohort"),
    "a neighbour's share is missing": (lambda r: Roster(r.joined, {i: v for i, v in r.shares.items() if i != 3}), "not those of its neighbours"),
    "a share of its own": (lambda r: Roster(r.joined, {**r.shares, 0: r.shares[1]}), "not those of its neighbours"),
    "shares without those who joined": (lambda r: Roster({i: v for i, v in r.joined.items() if i != 3}, r.shares), "not those of its neighbours"),
    "a share was altered": (lambda r: Roster(r.joined, {**r.shares, 3: r.shares[3][::-1]}), "does not open"),
    "a share is another's": (lambda r: Roster(r.joined, {**r.shares, 3: r.shares[4]}), "does not open"),
    "a share is too short to be one": (lambda r: Roster(r.joined, {**r.shares, 3: b""}), "does not open"),
    "no message": (lambda r: b"\xff", "is not"),
    "a message with something after it": (lambda r: encode(r) + b"\x00", "is not"),
}


@pytest.mark.parametrize(("lie", "match"), ROSTER_LIES.values(), ids=ROSTER_LIES)
def test_a_lie_about_who_joined_is_refused_and_the_truth_is_still_taken(lie: Callable[[Roster], Any], match: str) -> None:
    g = Game(10)
    g.joined()
    g.refuses(0, g.mask, lie(g.roster(0)), match)
    g.finish()


def test_a_share_for_another_receiver_is_refused() -> None:
    g = Game(7)
    g.joined()
    r = g.roster(0)
    g.refuses(0, g.mask, Roster(r.joined, {**r.shares, 3: g.roster(1).shares[3]}), "does not open")
    g.finish()


def test_a_share_of_another_round_is_refused() -> None:
    g = Game(7)
    old = g.joined().roster(0)
    g.next(2).joined()
    r = g.roster(0)
    g.refuses(0, g.mask, Roster(r.joined, {**r.shares, 3: old.shares[3]}), "does not open")
    g.refuses(0, g.mask, old, "own JOIN")
    g.finish()


def test_a_share_of_the_wrong_length_from_a_corrupt_neighbour_is_refused() -> None:
    g = Game(7)
    g.joined()
    short = AESGCM(g.secrets(0).channels[3]).encrypt(bytes(12), b"short", concat(g.p.m.digest, 3, 0))
    r = g.roster(0)
    g.refuses(0, g.mask, Roster(r.joined, {**r.shares, 3: short}), "right length")
    g.finish()


def test_a_site_of_the_roster_that_is_not_in_the_session_may_not_be_listed_as_joined() -> None:
    g = Game(8, absent=["site-0007"])
    g.joined()
    r = g.roster(0)
    g.refuses(0, g.mask, Roster({**r.joined, 7: r.joined[1]}, r.shares), "not in the cohort")
    g.finish()


def test_fewer_joined_than_the_minimum_is_refused_where_tau_would_allow_it() -> None:
    g = Game(5, n_min=5)
    g.joined(4)
    assert sorted(g.p.u1.joins) == [0, 1, 2, 3]
    g.refuses(0, g.mask, g.p.rosters[0], "4 sites would be in the sum; 5")


def test_fewer_joined_than_the_site_asks_for_itself_is_refused() -> None:
    g = Game(7)
    g.joined(6)
    g.refuses(0, g.mask, g.p.rosters[0], "6 sites would be in the sum; 7", m=replace(g.p.m, own_min=7))
    g.finish()


def test_a_bucket_below_the_minimum_is_refused_though_the_cohort_is_not() -> None:
    g = Game(14, terms=Masking(buckets=3, trim=1), n_min=4)
    first = Topology.of(g.p.m, g.f.members, g.f.seed).buckets[2]
    assert len(first) == 4
    g.joined(first[0])
    g.refuses(first[1], g.mask, g.p.rosters[first[1]], "3 sites would be in the sum; 4")


def test_a_site_with_too_few_neighbours_in_its_bucket_masks_nothing() -> None:
    g = Game(14, terms=Masking(buckets=3, trim=1), n_min=3)
    g.joined()
    bucket = g.p.u1.topology.buckets[0]
    assert len(bucket) == 5
    g.refuses(bucket[0], g.mask, only(g.roster(bucket[0]), *(i for i in range(14) if i not in bucket[3:])), "Too few")
    g.finish()


def test_more_absent_than_a_graph_was_drawn_for_is_refused() -> None:
    """A k-regular graph could be cut by absences; they count together with those who drop out later."""
    g = Game(130)
    g.joined()
    near = g.p.u1.topology.neighbours[0]
    far = [i for i in range(1, 130) if i not in near]
    g.refuses(0, g.mask, only(g.roster(0), *(i for i in range(130) if i not in far[:14])), "14 of 130 sites are missing; 13")
    g.mask(0, encode(only(g.roster(0), *(i for i in range(130) if i not in far[:13]))))
    g.refuses(0, g.confirm, Survivors(tuple(i for i in range(130) if i not in far[:14])), "14 of 130 sites are missing; 13")


def test_a_site_that_did_not_join_masks_nothing() -> None:
    g = Game(5)
    g.joined()
    other = replace(g.p.m, digest=digest("another manifest"))
    g.refuses(0, g.mask, g.p.rosters[0], "another manifest", m=other)
    g.finish()


def test_a_site_masks_once() -> None:
    g = Game(5)
    g.joined().masked()
    g.refuses(0, g.mask, g.p.rosters[0], "masked in this round already")
    g.restart()
    g.refuses(0, g.mask, g.p.rosters[0], "masked in this round already")
    g.finish()


# --- CONFIRM -----------------------------------------------------------------------------------------------------------

SURVIVOR_LIES: dict[str, tuple[Any, str]] = {
    "more dropped than was agreed": (tuple(range(8)), "2 sites are said to have dropped out; 1"),
    "fewer than the minimum": ((0, 1), "2 sites would be in the sum; 3"),
    "this site dropped": (tuple(range(1, 10)), "not among the survivors"),
    "one that did not join": (tuple(range(11)), "did not join"),
    "one beyond the roster": ((*range(10), 1999), "did not join"),
    "one twice": ((0, 1, 2, 3, 4, 5, 6, 7, 8, 8), "ascending"),
    "this site twice": ((0, 0, 1, 2, 3, 4, 5, 6, 7, 8), "ascending"),
    "descending": (tuple(reversed(range(10))), "ascending"),
    "nobody": ((), "0 sites"),
}


@pytest.mark.parametrize(("survivors", "match"), SURVIVOR_LIES.values(), ids=SURVIVOR_LIES)
def test_a_list_of_survivors_that_is_not_allowed_is_refused_and_the_true_one_is_signed(survivors: tuple[int, ...], match: str) -> None:
    g = Game(11)
    g.joined(10).masked()
    g.refuses(0, g.confirm, Survivors(survivors), match)
    g.finish()


@pytest.mark.parametrize(("survivors", "match"), SURVIVOR_LIES.values(), ids=SURVIVOR_LIES)
def test_such_a_list_is_not_unmasked_either_by_who_has_not_confirmed(survivors: tuple[int, ...], match: str) -> None:
    g = Game(11)
    g.joined(10).masked()
    everyone = {i: g.sign_confirm(i, sorted(set(survivors))) for i in sorted(set(survivors)) if i < 11}
    g.refuses(0, g.unmask, Request(survivors, everyone), match)
    g.finish()


def test_fewer_survivors_than_the_minimum_are_refused_where_the_dropout_is_allowed() -> None:
    g = Game(5, n_min=5)
    g.joined().masked()
    g.refuses(0, g.confirm, Survivors((0, 1, 2, 3)), "4 sites would be in the sum; 5")
    g.finish()


def test_fewer_survivors_than_the_site_asks_for_itself_are_refused() -> None:
    g = Game(7)
    g.joined().masked()
    g.refuses(0, g.confirm, Survivors(tuple(range(6))), "6 sites would be in the sum; 7", m=replace(g.p.m, own_min=7))
    g.finish()


def test_a_bucket_may_not_lose_more_than_was_agreed_though_the_cohort_may() -> None:
    g = Game(17, terms=Masking(buckets=3, trim=1), n_min=3)
    g.joined().masked()
    bucket = g.p.u1.topology.buckets[0]
    me = next(i for i in range(17) if i not in bucket)
    alive = tuple(i for i in range(17) if i not in bucket[:2])
    g.refuses(me, g.confirm, Survivors(alive), "2 sites are said to have dropped out; 1")
    g.finish()


def test_a_site_confirms_once() -> None:
    g = Game(10)
    g.joined().masked(9).confirmed()
    for survivors in (tuple(range(9)), tuple(range(10)), tuple(i for i in range(10) if i != 4)):
        g.refuses(0, g.confirm, Survivors(survivors), "confirmed in this round already")
    g.restart()
    for survivors in (tuple(range(9)), tuple(range(10))):
        g.refuses(0, g.confirm, Survivors(survivors), "confirmed in this round already")
    g.unmasked()
    g.refuses(0, g.confirm, Survivors(tuple(range(9))), "unmasked in this round already")
    g.exact()


def test_nothing_is_confirmed_or_unmasked_before_it_is_masked() -> None:
    g = Game(5)
    g.joined()
    g.p.u2 = [0, 1, 2, 3, 4]
    g.refuses(0, g.confirm, Survivors((0, 1, 2, 3, 4)), "joined in this round already")
    everyone = {i: g.sign_confirm(i) for i in range(5)}
    g.refuses(0, g.unmask, Request((0, 1, 2, 3, 4), everyone), "joined in this round already")
    g.finish()


def test_a_list_of_survivors_under_another_manifest_is_refused() -> None:
    g = Game(5)
    g.joined().masked()
    g.refuses(0, g.confirm, Survivors((0, 1, 2, 3, 4)), "another manifest", m=replace(g.p.m, digest=bytes(32)))
    g.finish()


def test_survivors_that_are_no_message_are_refused() -> None:
    g = Game(5)
    g.joined().masked()
    for raw in (b"", b"\xff", encode(Survivors((0, 1, 2, 3, 4)))[:-1], encode(Request((0, 1, 2, 3, 4), {}))):
        g.refuses(0, g.confirm, raw, "is not what this version understands")
    g.finish()


def test_a_forged_join_of_a_site_that_is_no_neighbour_is_refused_at_confirm() -> None:
    g = Game(130)
    g.joined()
    me = 0
    stranger = next(i for i in range(1, 130) if i not in g.p.u1.topology.neighbours[me])
    r = g.roster(me)
    forged = Roster({**r.joined, stranger: (digest("forged"), bytes(64))}, r.shares)
    honest = msgspec.msgpack.encode(g.secrets(me))
    g.mask(me, encode(forged))
    alive = Survivors(tuple(range(130)))
    g.refuses(me, g.confirm, alive, f"JOIN of '{g.f.names[stranger]}' is not signed")
    signatures = {i: g.sign_confirm(i, range(130), g.secrets(me).j) for i in range(130)}
    g.refuses(me, g.unmask, Request(tuple(range(130)), signatures), f"JOIN of '{g.f.names[stranger]}' is not signed")
    g.p.secrets[g.f.names[me]] = msgspec.msgpack.decode(honest, type=Secrets)
    g.mask(me, g.p.rosters[me])
    g.confirm(me, encode(alive))


# --- UNMASK ------------------------------------------------------------------------------------------------------------


def signatures_of(g: Game, who: Any, survivors: Any = None) -> dict[int, bytes]:
    return {i: g.sign_confirm(i, survivors) for i in who}


REQUEST_LIES: dict[str, tuple[Callable[[Game], Request], str]] = {
    "no confirmations": (lambda g: Request(tuple(g.p.u2), {}), "0 sites have confirmed"),
    "one too few": (lambda g: Request(tuple(g.p.u2), signatures_of(g, range(6))), "6 sites have confirmed the survivors; 7"),
    "one is not a survivor": (lambda g: Request(tuple(g.p.u2), signatures_of(g, [*range(6), 9])), "have confirmed"),
    "one is beyond the roster": (lambda g: Request(tuple(g.p.u2), {**signatures_of(g, range(6)), 1999: bytes(64)}), "have confirmed"),
    "one is another's": (lambda g: Request(tuple(g.p.u2), {**signatures_of(g, range(6)), 6: g.sign_confirm(5)}), "not signed by it"),
    "one is missing": (lambda g: Request(tuple(g.p.u2), {**signatures_of(g, range(6)), 6: bytes(64)}), "not signed by it"),
    "one is for another list": (lambda g: Request(tuple(g.p.u2), {**signatures_of(g, range(6)), 6: g.sign_confirm(6, range(10))}), "another list"),
    "one is for other joins": (lambda g: Request(tuple(g.p.u2), {**signatures_of(g, range(6)), 6: g.sign_confirm(6, j=bytes(32))}), "another list"),
    "all are for another list": (lambda g: Request(tuple(g.p.u2), signatures_of(g, range(9), range(10))), "another list"),
    "another list than was confirmed": (lambda g: Request(tuple(range(10)), signatures_of(g, range(10), range(10))), "Another list"),
    "the list is not ascending": (lambda g: Request(tuple(reversed(g.p.u2)), signatures_of(g, range(9))), "ascending"),
}


@pytest.mark.parametrize(("lie", "match"), REQUEST_LIES.values(), ids=REQUEST_LIES)
def test_a_request_without_its_quorum_is_refused_and_the_true_one_is_answered(lie: Callable[[Game], Request], match: str) -> None:
    g = Game(10)
    g.joined().masked(9).confirmed()
    g.refuses(0, g.unmask, lie(g), match)
    g.restart().refuses(0, g.unmask, lie(g), match)
    g.finish()


def test_confirmations_of_another_round_do_not_count() -> None:
    g = Game(7)
    g.joined().masked().confirmed()
    old = g.request()
    g.next(2).joined().masked().confirmed()
    g.refuses(0, g.unmask, old, "not signed by it, or is for another list")
    g.finish()


def test_requests_that_are_no_message_are_refused() -> None:
    g = Game(5)
    g.joined().masked().confirmed()
    for raw in (b"", encode(g.request())[:-1], encode(Survivors((0, 1, 2, 3, 4)))):
        g.refuses(0, g.unmask, raw, "is not what this version understands")
    g.finish()


def test_a_request_under_another_manifest_is_refused() -> None:
    g = Game(5)
    g.joined().masked().confirmed()
    g.refuses(0, g.unmask, g.request(), "another manifest", m=replace(g.p.m, digest=bytes(32)))
    g.finish()


def test_a_site_unmasks_once() -> None:
    g = Game(10)
    g.joined().masked(9).confirmed().unmasked()
    everyone = Request(tuple(range(10)), signatures_of(g, range(10), range(10)))
    for again in (g.request(), everyone):
        g.refuses(0, g.unmask, again, "unmasked in this round already")
    g.restart()
    for again in (g.request(), everyone):
        g.refuses(0, g.unmask, again, "unmasked in this round already")
    g.exact()


def test_a_crash_between_any_two_steps_changes_nothing() -> None:
    g = Game(7)
    g.joined().restart().masked(3).restart().confirmed().restart().unmasked()
    g.exact()


def test_the_coordinator_asks_for_unmasking_with_a_quorum_and_no_more() -> None:
    g = Game(10)
    g.joined().masked(9).confirmed()
    raw, count = cohort.request(g.p.m, g.p.u1, g.p.u2, g.p.confirms)
    assert count == len(decode(raw, Request).signatures) == 7
    few = dict(list(g.p.confirms.items())[:4])
    assert cohort.request(g.p.m, g.p.u1, g.p.u2, few)[1] == 4


def test_the_coordinator_counts_only_good_confirmations_of_survivors() -> None:
    g = Game(10)
    g.joined().masked(9).confirmed()
    g.p.confirms[0] = encode(Confirm(bytes(64)))
    g.p.confirms[1] = b"\xff"
    g.p.confirms[2] = encode(Confirm(g.sign_confirm(2, range(10))))
    g.p.confirms[9] = encode(Confirm(g.sign_confirm(9)))
    raw, count = cohort.request(g.p.m, g.p.u1, g.p.u2, g.p.confirms)
    assert count == 6
    assert sorted(decode(raw, Request).signatures) == [3, 4, 5, 6, 7, 8]


def test_a_share_of_b_and_a_share_of_k_are_never_given_for_the_same_site() -> None:
    g = Game(10)
    g.joined().masked(9).confirmed().unmasked()
    for i, raw in g.p.answers.items():
        a = decode(raw, Unmask)
        assert set(a.shares_b) == set(range(9)) - {i}
        assert set(a.shares_k) == {9}


def test_a_site_gives_shares_of_its_neighbours_only() -> None:
    g = Game(130)
    g.joined().masked(3).confirmed()
    near = set(g.p.u1.topology.neighbours[0])
    a = decode(g.unmask(0, encode(g.request())), Unmask)
    assert set(a.shares_b) == near - {3}
    assert set(a.shares_k) == near & {3}


def test_no_seed_is_left_after_unmasking() -> None:
    g = Game(6)
    g.joined().masked(5).confirmed()
    kept = {name: msgspec.msgpack.decode(msgspec.msgpack.encode(s), type=Secrets) for name, s in g.p.secrets.items()}
    g.unmasked()
    for name, old in kept.items():
        if g.p.number(name) in g.p.u2:
            stored = msgspec.msgpack.encode(g.p.secrets[name])
            hidden = [old.b, old.k, *old.pairs.values(), *old.channels.values(), *(v for pair in old.shares.values() for v in pair)]
            assert len(hidden) == 2 + 5 + 5 + 10
            assert all(len(v) >= 32 and v not in stored for v in hidden)
            assert g.p.secrets[name].phase == "unmasked"


def test_pair_seeds_do_not_give_the_root() -> None:
    """What the escrow of a dropout shows is of this round: the session goes on under roots that it says nothing about."""
    g = Game(5)
    g.joined()
    shown = {v for s in g.p.secrets.values() for v in (*s.pairs.values(), *s.channels.values())}
    later = {v for s in g.f.sessions.values() for v in s.roots.values()}
    assert not shown & later


# --- what the coordinator cannot remove --------------------------------------------------------------------------------


def spoil(g: Game, i: int, which: str, of: int, value: bytes | None = None) -> None:
    """Site i gives a corrupt share."""
    a = decode(g.p.answers[i], Unmask)
    given = dict(getattr(a, which))
    given[of] = bytes([given[of][0] ^ 1]) + given[of][1:] if value is None else value
    g.p.answers[i] = encode(msgspec.structs.replace(a, **{which: given}))


def test_one_corrupt_share_too_many_names_the_site() -> None:
    g = Game(7)
    g.joined().masked(6).confirmed().unmasked(5)
    spoil(g, 0, "shares_k", 6)
    with pytest.raises(Unrecoverable, match="shares of 'site-0006'"):
        g.p.recover()


@pytest.mark.parametrize("holders", [[0], [1], [8], [9], [0, 1], [8, 9], [0, 9]], ids=str)
def test_corrupt_shares_at_the_edge_are_passed_over_while_others_suffice(holders: list[int]) -> None:
    g = Game(11)
    g.joined().masked(10).confirmed().unmasked()
    for i in holders:
        spoil(g, i, "shares_k", 10)
    g.exact()


@pytest.mark.parametrize("holders", [[2], [5], [7], [1, 9], [0, 8], [3, 6]], ids=str)
def test_corrupt_shares_anywhere_are_passed_over_while_others_suffice(holders: list[int]) -> None:
    g = Game(11)
    g.joined().masked(10).confirmed().unmasked()
    for i in holders:
        spoil(g, i, "shares_k", 10)
    g.exact()


def test_a_share_of_the_wrong_length_is_no_share() -> None:
    g = Game(7)
    g.joined().masked(6).confirmed().unmasked()
    spoil(g, 0, "shares_k", 6, b"\x01")
    g.exact()


def test_shares_from_who_is_no_neighbour_do_not_count() -> None:
    g = Game(130)
    g.joined().masked(0).confirmed().unmasked()
    stranger = next(i for i in range(1, 130) if i not in g.p.u1.topology.neighbours[0])
    a = decode(g.p.answers[stranger], Unmask)
    g.p.answers[stranger] = encode(msgspec.structs.replace(a, shares_k={0: bytes(shamir.SHARE_BYTES)}))
    g.exact()


def test_a_wrong_b_is_replaced_from_the_shares() -> None:
    g = Game(7)
    g.joined().masked().confirmed().unmasked()
    a = decode(g.p.answers[0], Unmask)
    g.p.answers[0] = encode(msgspec.structs.replace(a, b=bytes(32)))
    g.exact()


def test_an_answer_that_is_no_message_counts_as_silence() -> None:
    g = Game(7)
    g.joined().masked().confirmed().unmasked()
    g.p.answers[0] = b"\xff"
    g.exact()


def test_an_escrow_that_does_not_open_names_the_site() -> None:
    g = Game(7)
    g.joined()
    body = decode(g.p.joins[6], Join)
    corrupt_join(g, 6, msgspec.structs.replace(body, escrow=body.escrow[::-1]))
    g.masked(6).confirmed().unmasked()
    with pytest.raises(Unrecoverable, match="escrow of 'site-0006'"):
        g.p.recover()


def test_an_escrow_of_the_wrong_length_names_the_site() -> None:
    g = Game(7)
    g.joined()
    short = AESGCM(g.secrets(6).k).encrypt(bytes(12), bytes(32), concat(g.p.m.digest, 6))
    corrupt_join(g, 6, msgspec.structs.replace(decode(g.p.joins[6], Join), escrow=short))
    g.masked(6).confirmed().unmasked()
    with pytest.raises(Unrecoverable, match="escrow of 'site-0006'"):
        g.p.recover()


@pytest.mark.parametrize("which", ["commit_b", "commit_k"])
def test_shares_that_do_not_give_what_was_committed_to_name_the_site(which: str) -> None:
    g = Game(7)
    g.joined()
    corrupt_join(g, 6, msgspec.structs.replace(decode(g.p.joins[6], Join), **{which: bytes(32)}))
    g.masked(*[6] * (which == "commit_k")).confirmed().unmasked()
    with pytest.raises(Unrecoverable, match="shares of 'site-0006'"):
        g.p.recover()


def corrupt_join(g: Game, i: int, body: Join) -> None:
    """A dishonest site signs what it likes."""
    g.p.joins[i] = signed(g, body, i)
    g.secrets(i).own = site.join_digest(g.p.m, i, body)
    g.p.join([])


@pytest.mark.parametrize(("n", "terms"), [(130, Masking()), (15, Masking(buckets=3, trim=1))], ids=["a graph", "buckets"])
def test_where_the_topology_is_drawn_no_member_may_be_left_out_of_a_round(n: int, terms: Masking) -> None:
    """Else each choice of who is left out would be another draw, and the coordinator could look for the one that it likes."""
    names = play.names(n)
    m = play.Federation(n, terms=terms, n_min=3).manifest(1)
    assert Topology.of(m, names, bytes(32)).cohort == frozenset(range(n))
    with pytest.raises(SessionLost, match="left out"):
        Topology.of(replace(m, roster=m.roster[1:]), names, bytes(32))
    assert Topology.of(m, names[1:], bytes(32)).cohort == frozenset(range(1, n))


def test_a_bucket_below_a_sites_own_minimum_is_refused_before_it_joins() -> None:
    m = play.Federation(15, terms=Masking(buckets=3, trim=1), n_min=3).manifest(1)
    with pytest.raises(MaskingRefused, match="bucket has 5 sites; 6"):
        Topology.of(replace(m, own_min=6), play.names(15), bytes(32))
