"""The set-up of a session and its ratchet: what both ends come to share, who is left out, and every lie that is refused."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from locum.secagg import session
from locum.secagg.errors import MaskingRefused, ProtocolError, SessionLost
from locum.secagg.kdf import digest, join, label
from locum.secagg.messages import Column, KeyList, Keys, Seal, Seals, decode, encode
from locum.secagg.session import MAX_SKIPPED, Pending, Session, Setup
from locum.secagg.suites import SUITES

_spec = importlib.util.spec_from_file_location("secagg_play", Path(__file__).with_name("play.py"))
assert _spec
assert _spec.loader
play = sys.modules["secagg_play"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(play)

NAMES: list[str] = play.names(5)
ME, OTHER, THIRD = NAMES[:3]


class SetUp:
    """A set-up that can be stopped after every message."""

    def __init__(self, n: int = 5, suite: str = play.DEFAULT, run: str = "run", n_min: int = 3) -> None:
        self.f = play.Federation(n, n_min=n_min)
        self.names: list[str] = self.f.names
        self.setup = Setup.of(study="study", run=run, t=0, roster="roster", suite=SUITES[suite], keys=self.f.keys, n_min=n_min)
        self.pending: dict[str, Pending] = {}
        self.keys: dict[str, bytes] = {}
        self.seals: dict[str, bytes] = {}
        self.sessions: dict[str, Session] = {}

    def announce(self, *absent: str) -> SetUp:
        for s in self.names:
            if s not in absent:
                self.pending[s], self.keys[s] = session.announce(self.setup, s, play.identity(s).sign, os.urandom)
        self.lists = session.key_list(self.setup, self.keys)
        return self

    @property
    def listed(self) -> bytes:
        return next(iter(self.lists.values()))

    def seal_as(self, s: str, raw: bytes | None = None) -> bytes:
        return session.seal(self.setup, s, self.pending[s], self.listed if raw is None else raw, play.identity(s).sign, os.urandom)

    def seal(self, *absent: str) -> SetUp:
        self.seals = {s: self.seal_as(s) for s in self.lists if s not in absent}
        self.seed, self.columns = session.columns(self.setup, self.seals, self.listed)
        return self

    def open_as(self, s: str, raw: bytes | None = None) -> Session:
        return session.open_column(self.setup, s, self.pending[s], self.columns[s] if raw is None else raw, 0)

    def open(self) -> SetUp:
        self.sessions = {s: self.open_as(s) for s in self.columns}
        return self


def roots_of(sessions: dict[str, Session]) -> set[bytes]:
    return {root for s in sessions.values() for root in s.roots.values()}


# --- what an honest set-up gives ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", SUITES)
def test_both_ends_of_every_pair_share_a_root_that_no_other_pair_has(suite: str) -> None:
    made = SetUp(suite=suite).announce().seal().open().sessions
    assert set(made) == set(NAMES)
    for a in NAMES:
        assert made[a].members == tuple(NAMES)
        assert set(made[a].roots) == set(NAMES) - {a}
        for b in made[a].roots:
            assert made[a].roots[b] == made[b].roots[a]
            assert len(made[a].roots[b]) == 32
    assert len(roots_of(made)) == 5 * 4 // 2
    assert len({s.seed for s in made.values()}) == 1


def test_two_sessions_share_no_root_and_no_seed() -> None:
    one, two = SetUp().announce().seal().open(), SetUp().announce().seal().open()
    assert one.setup.id == two.setup.id, "even under the same name"
    assert not roots_of(one.sessions) & roots_of(two.sessions)
    assert one.seed != two.seed


def test_sites_and_coordinator_agree_on_the_seed() -> None:
    s = SetUp().announce().seal().open()
    assert {made.seed for made in s.sessions.values()} == {s.seed}
    assert {made.id for made in s.sessions.values()} == {s.setup.id}


def test_the_id_names_everything_that_the_session_is_for() -> None:
    base: dict[str, Any] = {"study": "s", "run": "r", "t": 1, "roster": "x", "suite": SUITES[play.DEFAULT], "keys": {}, "n_min": 3}
    changes: list[dict[str, Any]] = [{}, {"study": "t"}, {"run": "q"}, {"t": 2}, {"roster": "y"}, {"suite": SUITES["mlkem1024-p384"]}]
    assert len({Setup.of(**{**base, **change}).id for change in changes}) == len(changes)


def test_the_seed_depends_on_every_member_and_its_nonce() -> None:
    setup, nonces = SetUp().setup, {s: digest("nonce of", s) for s in NAMES}
    seeds = [session.graph_seed(setup, nonces), session.graph_seed(setup, {s: nonces[s] for s in NAMES[:-1]})]
    seeds += [session.graph_seed(setup, {**nonces, s: bytes(32)}) for s in NAMES]
    assert len(set(seeds)) == len(seeds)


def test_no_secret_is_told_to_the_coordinator() -> None:
    s = SetUp().announce().seal().open()
    wire = b"".join([*s.keys.values(), *s.seals.values(), *s.columns.values()])
    hidden = [p.private for p in s.pending.values()] + [v for p in s.pending.values() for v in p.secrets.values()] + list(roots_of(s.sessions))
    assert not any(secret in wire for secret in hidden)


def test_what_is_sealed_for_one_site_says_nothing_about_what_is_sealed_for_another() -> None:
    s = SetUp().announce().seal()
    secrets = [v for p in s.pending.values() for v in p.secrets.values()]
    assert len(set(secrets)) == len(secrets) == 5 * 4
    assert all(len(v) == 32 for v in secrets)


def test_a_nonce_is_not_told_before_all_keys_are_listed() -> None:
    s = SetUp().announce()
    assert not any(p.nonce in body for p in s.pending.values() for body in s.keys.values())


# --- who is left out ---------------------------------------------------------------------------------------------------


def test_a_site_absent_at_keys_is_left_out_and_the_rest_go_on() -> None:
    s = SetUp().announce(OTHER).seal().open()
    assert set(s.sessions) == set(NAMES) - {OTHER}
    assert all(OTHER not in made.roots and OTHER not in made.members for made in s.sessions.values())
    assert len(roots_of(s.sessions)) == 4 * 3 // 2


def test_a_site_absent_at_seals_is_left_out_and_the_rest_go_on() -> None:
    s = SetUp().announce().seal(OTHER, THIRD).open()
    assert set(s.sessions) == set(NAMES) - {OTHER, THIRD}
    assert all(made.members == tuple(sorted(s.sessions)) for made in s.sessions.values())
    assert len(roots_of(s.sessions)) == 3 * 2 // 2


def without(keys: Keys, **change: Any) -> bytes:
    return encode(msgspec.structs.replace(keys, **change))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda keys: without(keys, signature=bytes(64)),
        lambda keys: without(keys, commitment=bytes(32)),
        lambda keys: without(keys, public=keys.public[::-1]),
        lambda keys: encode(keys)[:-1],
        lambda keys: b"",
    ],
    ids=["signature", "commitment", "public", "truncated", "empty"],
)
def test_the_coordinator_leaves_out_keys_that_are_not_well_signed(spoil: Callable[[Keys], bytes]) -> None:
    s = SetUp().announce()
    s.keys[OTHER] = spoil(decode(s.keys[OTHER], Keys))
    assert set(session.key_list(s.setup, s.keys)) == set(NAMES) - {OTHER}


def test_the_coordinator_leaves_out_a_stranger() -> None:
    s = SetUp().announce()
    _, s.keys["sybil"] = session.announce(s.setup, "sybil", play.identity("sybil").sign, os.urandom)
    assert set(session.key_list(s.setup, s.keys)) == set(NAMES)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda seals: Seals(bytes(32), seals.seals),
        lambda seals: Seals(seals.nonce, {s: v for s, v in seals.seals.items() if s != ME}),
        lambda seals: Seals(seals.nonce, {**seals.seals, "sybil": seals.seals[ME]}),
        lambda seals: Seals(seals.nonce, {**seals.seals, OTHER: seals.seals[ME]}),
    ],
    ids=["nonce", "one missing", "one too many", "one for itself"],
)
def test_the_coordinator_leaves_out_who_did_not_seal_for_all_and_for_nobody_else(spoil: Callable[[Seals], Seals]) -> None:
    s = SetUp().announce().seal()
    s.seals[OTHER] = encode(spoil(decode(s.seals[OTHER], Seals)))
    s.seed, s.columns = session.columns(s.setup, s.seals, s.listed)
    assert set(s.open().sessions) == set(NAMES) - {OTHER}


def test_the_coordinator_leaves_out_seals_that_are_no_message() -> None:
    s = SetUp().announce().seal()
    s.seals[OTHER] = s.seals[OTHER][:-1]
    s.seed, s.columns = session.columns(s.setup, s.seals, s.listed)
    assert set(s.open().sessions) == set(NAMES) - {OTHER}


def test_seals_of_a_site_that_was_not_listed_are_left_out() -> None:
    s = SetUp().announce().seal()
    s.seals["sybil"] = s.seals[OTHER]
    assert set(session.columns(s.setup, s.seals, s.listed)[1]) == set(NAMES)


# --- lies in the list of keys ------------------------------------------------------------------------------------------


def attacker_keys(s: SetUp, name: str, signer: str) -> Keys:
    """Keys whose private half the coordinator has, in the name of a site."""
    _, raw = session.announce(s.setup, name, play.identity(signer).sign, os.urandom)
    return decode(raw, Keys)


def replayed(name: str, **where: Any) -> Keys:
    """Keys that a site signed for another session."""
    return decode(SetUp(**where).announce().keys[name], Keys)


KEY_LIES: dict[str, Callable[[SetUp, dict[str, Keys]], dict[str, Keys]]] = {
    "own key missing": lambda s, k: {n: v for n, v in k.items() if n != ME},
    "own key replaced, and signed by this site in another session": lambda s, k: {**k, ME: replayed(ME, run="another")},
    "own key of an earlier attempt": lambda s, k: {**k, ME: replayed(ME)},
    "own nonce replaced": lambda s, k: {**k, ME: msgspec.structs.replace(k[ME], commitment=bytes(32))},
    "own session key replaced": lambda s, k: {**k, ME: msgspec.structs.replace(k[ME], public=k[OTHER].public)},
    "another's session key replaced": lambda s, k: {**k, OTHER: msgspec.structs.replace(k[OTHER], public=attacker_keys(s, OTHER, "mallory").public)},
    "another's keys made by the coordinator": lambda s, k: {**k, OTHER: attacker_keys(s, OTHER, "mallory")},
    "another's keys made by a colluding site": lambda s, k: {**k, OTHER: attacker_keys(s, OTHER, THIRD)},
    "another's commitment replaced": lambda s, k: {**k, OTHER: msgspec.structs.replace(k[OTHER], commitment=bytes(32))},
    "another's keys replayed from another run": lambda s, k: {**k, OTHER: replayed(OTHER, run="another")},
    "two sites' keys swapped": lambda s, k: {**k, OTHER: k[THIRD], THIRD: k[OTHER]},
    "another's keys under two names": lambda s, k: {**k, OTHER: k[THIRD]},
    "a stranger added": lambda s, k: {**k, "sybil": attacker_keys(s, "sybil", "sybil")},
    "fewer than the minimum": lambda s, k: {ME: k[ME], OTHER: k[OTHER]},
    "nobody": lambda s, k: {},
}


@pytest.mark.parametrize("lie", KEY_LIES.values(), ids=KEY_LIES)
def test_a_lie_in_the_list_of_keys_is_refused_and_changes_nothing(lie: Callable[..., dict[str, Keys]]) -> None:
    s = SetUp().announce()
    before = msgspec.msgpack.encode(s.pending[ME])
    with pytest.raises(MaskingRefused):
        s.seal_as(ME, encode(KeyList(lie(s, dict(decode(s.listed, KeyList).keys)))))
    assert msgspec.msgpack.encode(s.pending[ME]) == before
    assert set(s.seal().open().sessions) == set(NAMES), "the true list is still taken"


@pytest.mark.parametrize("raw", [b"", b"\xa0", b"\xff" * 40])
def test_a_list_of_keys_that_is_no_message_is_refused(raw: bytes) -> None:
    s = SetUp().announce()
    with pytest.raises(ProtocolError):
        s.seal_as(ME, raw)
    assert ME in s.seal().open().sessions


# --- lies in what was sealed -------------------------------------------------------------------------------------------


def column(s: SetUp, me: str = ME) -> tuple[dict[str, bytes], dict[str, Seal]]:
    c = decode(s.columns[me], Column)
    return dict(c.nonces), dict(c.seals)


def with_seal(s: SetUp, sender: str, seal: Seal) -> Column:
    nonces, seals = column(s)
    return Column(nonces, {**seals, sender: seal})


def resealed(s: SetUp, sender: str, signer: str) -> Seal:
    """A secret that the coordinator knows, in the name of a site."""
    public = decode(s.keys[ME], Keys).public
    sealed = s.setup.suite.seal(public, bytes(32), join(s.setup.id, sender, ME))
    return Seal(sealed, play.identity(signer).sign(label("sealed"), join(s.setup.id, sender, ME, sealed)))


def seal_of(s: SetUp, sender: str, receiver: str) -> Seal:
    return decode(s.seals[sender], Seals).seals[receiver]


def re_signed(s: SetUp, seal: Seal, sender: str, receiver: str = ME) -> Seal:
    """Another's ciphertext under a colluding sender's own signature."""
    return Seal(seal.sealed, play.identity(sender).sign(label("sealed"), join(s.setup.id, sender, receiver, seal.sealed)))


def flipped(seal: Seal) -> Seal:
    return Seal(bytes([seal.sealed[0] ^ 1]) + seal.sealed[1:], seal.signature)


def left_out(s: SetUp, *gone: str) -> Column:
    nonces, seals = column(s)
    return Column({n: v for n, v in nonces.items() if n not in gone}, {n: v for n, v in seals.items() if n not in gone})


def with_stranger(s: SetUp) -> Column:
    nonces, seals = column(s)
    return Column({**nonces, "sybil": bytes(32)}, {**seals, "sybil": resealed(s, "sybil", "sybil")})


def unseen(s: SetUp) -> Column:
    """A session with a site of the roster whose keys this site has not seen."""
    s.pending[ME].keys.pop(THIRD)
    return decode(s.columns[ME], Column)


SEAL_LIES: dict[str, Callable[[SetUp], Column]] = {
    "a seal for another receiver": lambda s: with_seal(s, OTHER, seal_of(s, OTHER, THIRD)),
    "a seal of another sender": lambda s: with_seal(s, OTHER, seal_of(s, THIRD, ME)),
    "a seal of another sender, signed by a colluder as its own": lambda s: with_seal(s, OTHER, re_signed(s, seal_of(s, THIRD, ME), OTHER)),
    "a seal for another receiver, signed by a colluder": lambda s: with_seal(s, OTHER, re_signed(s, seal_of(s, OTHER, THIRD), OTHER)),
    "a seal made by the coordinator": lambda s: with_seal(s, OTHER, resealed(s, OTHER, "mallory")),
    "a seal made by a colluding site": lambda s: with_seal(s, OTHER, resealed(s, OTHER, THIRD)),
    "a seal without a signature": lambda s: with_seal(s, OTHER, Seal(seal_of(s, OTHER, ME).sealed, bytes(64))),
    "an altered seal": lambda s: with_seal(s, OTHER, flipped(seal_of(s, OTHER, ME))),
    "an altered seal that a colluder signed": lambda s: with_seal(s, OTHER, re_signed(s, flipped(seal_of(s, OTHER, ME)), OTHER)),
    "a seal of an earlier attempt": lambda s: with_seal(s, OTHER, seal_of(SetUp().announce().seal(), OTHER, ME)),
    "a seal of another run": lambda s: with_seal(s, OTHER, seal_of(SetUp(run="another").announce().seal(), OTHER, ME)),
    "a seal is missing": lambda s: Column(column(s)[0], {n: v for n, v in column(s)[1].items() if n != OTHER}),
    "a seal of this site for itself": lambda s: with_seal(s, ME, resealed(s, ME, ME)),
    "another nonce than committed": lambda s: Column({**column(s)[0], OTHER: bytes(32)}, column(s)[1]),
    "another's nonce": lambda s: Column({**column(s)[0], OTHER: column(s)[0][THIRD]}, column(s)[1]),
    "own nonce replaced": lambda s: Column({**column(s)[0], ME: bytes(32)}, column(s)[1]),
    "own nonce missing": lambda s: Column({n: v for n, v in column(s)[0].items() if n != ME}, column(s)[1]),
    "a nonce is missing": lambda s: Column({n: v for n, v in column(s)[0].items() if n != OTHER}, column(s)[1]),
    "a stranger": with_stranger,
    "fewer than the minimum": lambda s: left_out(s, *NAMES[2:]),
}


@pytest.mark.parametrize("lie", SEAL_LIES.values(), ids=SEAL_LIES)
def test_a_lie_about_what_was_sealed_is_refused_and_changes_nothing(lie: Callable[[SetUp], Column]) -> None:
    s = SetUp().announce().seal()
    raw, before = encode(lie(s)), msgspec.msgpack.encode(s.pending[ME])
    with pytest.raises((MaskingRefused, ProtocolError)):
        s.open_as(ME, raw)
    assert msgspec.msgpack.encode(s.pending[ME]) == before
    made = s.open().sessions
    assert made[ME].roots[OTHER] == made[OTHER].roots[ME], "the true column is still taken"


def test_a_member_whose_keys_this_site_never_saw_is_refused() -> None:
    s = SetUp().announce().seal()
    raw = encode(unseen(s))
    with pytest.raises(MaskingRefused, match="whose keys this site has seen"):
        s.open_as(ME, raw)


def test_a_column_before_anything_was_sealed_is_refused() -> None:
    s, other = SetUp().announce(), SetUp().announce().seal()
    with pytest.raises(MaskingRefused):
        s.open_as(ME, other.columns[ME])


def test_the_column_of_another_site_is_refused() -> None:
    s = SetUp().announce().seal()
    with pytest.raises((MaskingRefused, ProtocolError)):
        s.open_as(ME, s.columns[OTHER])
    assert ME in s.open().sessions


def test_a_colluder_cannot_commit_to_what_another_committed_to() -> None:
    """Else it could reveal the same nonce once the other has: a seed to which it contributed nothing new."""
    s = SetUp().announce()
    theirs = decode(s.keys[THIRD], Keys)
    signature = play.identity(OTHER).sign(label("keys"), join(s.setup.id, OTHER, theirs.public, theirs.commitment))
    copied = KeyList({**decode(s.listed, KeyList).keys, OTHER: msgspec.structs.replace(theirs, signature=signature)})
    s.seal()
    s.pending[ME] = Pending(s.pending[ME].private, s.pending[ME].nonce)
    s.seal_as(ME, encode(copied))
    nonces, seals = column(s)
    with pytest.raises(MaskingRefused, match=f"nonce of '{OTHER}'"):
        s.open_as(ME, encode(Column({**nonces, OTHER: nonces[THIRD]}, {**seals, OTHER: resealed(s, OTHER, OTHER)})))


# --- views -------------------------------------------------------------------------------------------------------------


def test_other_keys_for_one_end_give_the_two_ends_different_roots() -> None:
    """A colluder that shows two session keys, or a ciphertext of an earlier attempt, gains nothing: the transcript is in the root."""
    s = SetUp().announce()
    mine, theirs = s.seal_as(ME), s.seal_as(OTHER)
    again = s.pending[OTHER]
    private, nonce = again.private, again.nonce
    s.pending[OTHER] = Pending(private, nonce)
    other = s.seal_as(OTHER)
    assert theirs != other
    s.seals = {ME: mine, OTHER: theirs, **{n: s.seal_as(n) for n in NAMES[2:]}}
    _, s.columns = session.columns(s.setup, s.seals, s.listed)
    one, two = s.open_as(ME), s.open_as(OTHER)
    assert one.roots[OTHER] != two.roots[ME], "ME holds the first seal, OTHER has since made a second"
    assert one.roots[THIRD] == s.open_as(THIRD).roots[ME]


def test_two_lists_of_members_give_two_roots() -> None:
    """Else what one site seals in its view of the session would open in another's, where another quorum holds."""
    s = SetUp().announce().seal()
    full, shorter = s.open_as(ME), session.open_column(s.setup, OTHER, s.pending[OTHER], encode(left_out_of(s, OTHER, NAMES[-1])), 0)
    assert full.seed != shorter.seed
    assert full.roots[OTHER] != shorter.roots[ME]


def left_out_of(s: SetUp, me: str, gone: str) -> Column:
    nonces, seals = column(s, me)
    return Column({n: v for n, v in nonces.items() if n != gone}, {n: v for n, v in seals.items() if n != gone})


def test_a_site_seals_once_for_its_nonce_is_known_afterwards() -> None:
    """A second list could hold colluders' commitments that were chosen to fit the revealed nonces: the graph would be theirs."""
    s = SetUp().announce()
    s.seal_as(ME)
    second = dict(decode(s.listed, KeyList).keys)
    second[OTHER] = attacker_keys(s, OTHER, OTHER)
    with pytest.raises(MaskingRefused):
        s.seal_as(ME, encode(KeyList(second)))


@pytest.mark.parametrize("spoil", [lambda public: b"not a key", lambda public: public[:-32] + bytes(32)], ids=["length", "point of low order"])
def test_one_unusable_session_key_does_not_stop_the_others(spoil: Callable[[bytes], bytes]) -> None:
    s = SetUp().announce()
    bad = spoil(decode(s.keys[OTHER], Keys).public)
    commitment = decode(s.keys[OTHER], Keys).commitment
    s.keys[OTHER] = encode(Keys(bad, commitment, play.identity(OTHER).sign(label("keys"), join(s.setup.id, OTHER, bad, commitment))))
    s.lists = session.key_list(s.setup, s.keys)
    assert set(s.seal().open().sessions) == set(NAMES) - {OTHER}


# --- the ratchet -------------------------------------------------------------------------------------------------------


@pytest.fixture
def made() -> dict[str, Session]:
    return SetUp().announce().seal().open().sessions


def test_skipped_rounds_give_both_ends_the_same_roots(made: dict[str, Session]) -> None:
    one, two = made[ME], made[OTHER]
    for t in (1, 2, 3, 7):
        one.advance(t)
    two.advance(7)
    assert one.t == two.t == 7
    assert one.roots[OTHER] == two.roots[ME]
    one.advance(7)
    assert one.roots[OTHER] == two.roots[ME], "the same round again changes nothing"


def test_every_round_has_another_root(made: dict[str, Session]) -> None:
    seen = set()
    for t in range(20):
        made[ME].advance(t)
        seen.add(made[ME].roots[OTHER])
    assert len(seen) == 20


def test_a_round_that_is_over_is_refused_and_changes_nothing(made: dict[str, Session]) -> None:
    s = made[ME]
    s.advance(5)
    before = msgspec.msgpack.encode(s)
    for t in (4, 0, -1):
        with pytest.raises(MaskingRefused):
            s.advance(t)
    assert msgspec.msgpack.encode(s) == before


def test_a_session_is_lost_to_who_was_away_too_long_and_nothing_changes(made: dict[str, Session]) -> None:
    s = made[ME]
    before = msgspec.msgpack.encode(s)
    with pytest.raises(SessionLost):
        s.advance(MAX_SKIPPED + 1)
    assert msgspec.msgpack.encode(s) == before


def test_an_old_root_is_not_in_what_is_stored(made: dict[str, Session]) -> None:
    s, old = made[ME], dict(made[ME].roots)
    s.advance(1)
    stored = msgspec.msgpack.encode(s)
    assert not any(root in stored for root in old.values())
    again = msgspec.msgpack.decode(stored, type=Session)
    assert again == s
    with pytest.raises(MaskingRefused):
        again.advance(0)


def test_sites_that_are_at_other_rounds_do_not_share_a_root(made: dict[str, Session]) -> None:
    made[ME].advance(1)
    assert made[ME].roots[OTHER] != made[OTHER].roots[ME]
