"""Shamir's sharing: tau shares give the secret, fewer say nothing, and a corrupt one never gives the right answer."""

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.secagg import shamir
from locum.secagg.errors import Unrecoverable
from locum.secagg.shamir import PRIME, SHARE_BYTES, combine, split

secrets = st.binary(min_size=32, max_size=32)
EDGES = [bytes(32), b"\xff" * 32, b"\1" + bytes(31), bytes(31) + b"\x80"]


def entropy(seed: int):
    return random.Random(seed).randbytes


def is_prime(n: int) -> bool:
    """Miller and Rabin with the first 40 primes as bases."""
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for a in [p for p in range(2, 174) if all(p % q for q in range(2, p))]:
        x = pow(a, odd, n)
        if x not in (1, n - 1) and not any((x := x * x % n) == n - 1 for _ in range(twos - 1)):
            return False
    return True


def test_the_field_is_that_of_the_first_prime_above_2_to_the_256() -> None:
    assert PRIME == 2**256 + 297
    assert is_prime(PRIME)
    assert not any(is_prime(2**256 + i) for i in range(1, 297, 2))


@given(secrets, st.sets(st.integers(0, 1999), min_size=1, max_size=12), st.data())
def test_any_tau_shares_give_the_secret(secret: bytes, holders: set[int], data: st.DataObject) -> None:
    order = sorted(holders)
    tau = data.draw(st.integers(1, len(order)))
    shares = dict(zip(order, split(secret, order, tau, entropy(data.draw(st.integers(0, 99)))), strict=True))
    assert all(len(s) == SHARE_BYTES for s in shares.values())
    chosen = data.draw(st.permutations(order))[: data.draw(st.integers(tau, len(order)))]
    assert combine({i: shares[i] for i in chosen}, tau) == secret


@pytest.mark.parametrize("secret", EDGES, ids=["zero", "all ones", "one", "top bit"])
def test_every_subset_of_tau_gives_the_secret_and_none_of_tau_minus_1_does(secret: bytes) -> None:
    holders = (0, 1, 5, 17, 1999)
    shares = dict(zip(holders, split(secret, holders, 3, entropy(1)), strict=True))
    for subset in itertools.combinations(holders, 3):
        assert combine({i: shares[i] for i in subset}, 3) == secret
    for subset in itertools.combinations(holders, 2):
        assert wrong(lambda subset=subset: combine({i: shares[i] for i in subset}, 2), secret)


def wrong(attempt, secret: bytes) -> bool:
    """Whether an attempt gives something else than the secret, or nothing."""
    try:
        return attempt() != secret
    except Unrecoverable:
        return True


@given(secrets, st.integers(0, 99))
def test_fewer_shares_than_asked_for_are_refused(secret: bytes, seed: int) -> None:
    shares = dict(enumerate(split(secret, range(5), 4, entropy(seed))))
    del shares[0], shares[3]
    with pytest.raises(Unrecoverable, match="3 shares are here; 4"):
        combine(shares, 4)


@given(secrets, secrets, st.sets(st.integers(0, 50), min_size=2, max_size=6), st.integers(0, 99))
def test_tau_minus_1_shares_fit_every_other_secret_as_well(secret: bytes, other: bytes, holders: set[int], seed: int) -> None:
    """Perfect secrecy: for any other secret there is a last share with which the same tau - 1 shares give that one."""
    order = sorted(holders)
    tau = len(order)
    shares = dict(zip(order, split(secret, order, tau, entropy(seed)), strict=True))
    last, weights = order[-1], shamir._lagrange(tuple(order))
    known = sum(int.from_bytes(shares[i], "little") * w for i, w in zip(order, weights, strict=True) if i != last)
    fitting = (int.from_bytes(other, "little") - known) * pow(weights[-1], -1, PRIME) % PRIME
    assert combine({**shares, last: fitting.to_bytes(SHARE_BYTES, "little")}, tau) == other


def test_a_share_is_uniform_whatever_the_secret() -> None:
    """4,000 sharings of two opposite secrets: the top and the bottom four bits of a share, chi-square with 15 degrees of freedom
    (below 44.3 but for one in 10,000; the randomness is seeded).
    """
    for secret in (bytes(32), b"\xff" * 32):
        draw = entropy(7)
        values = [int.from_bytes(split(secret, [3], 2, draw)[0], "little") for _ in range(4000)]
        for digits in (Counter(v * 16 // PRIME for v in values), Counter(v % 16 for v in values)):
            assert sum((digits[i] - 250) ** 2 / 250 for i in range(16)) < 44.3


@given(secrets, st.integers(1, 7), st.data())
def test_a_corrupt_share_never_gives_the_secret(secret: bytes, tau: int, data: st.DataObject) -> None:
    shares = dict(enumerate(split(secret, range(tau), tau, entropy(3))))
    victim = data.draw(st.integers(0, tau - 1))
    forged = data.draw(st.binary(min_size=SHARE_BYTES, max_size=SHARE_BYTES))
    if int.from_bytes(forged, "little") % PRIME != int.from_bytes(shares[victim], "little"):
        assert wrong(lambda: combine({**shares, victim: forged}, tau), secret)


def test_a_share_given_under_another_number_never_gives_the_secret() -> None:
    secret = bytes(range(32))
    shares = dict(enumerate(split(secret, range(4), 3, entropy(2))))
    assert wrong(lambda: combine({0: shares[1], 1: shares[0], 2: shares[2]}, 3), secret)


def test_a_result_outside_the_secrets_is_unrecoverable_and_not_cut() -> None:
    """2^256 is in the field, and is no 32-byte secret."""
    with pytest.raises(Unrecoverable, match="do not give a secret"):
        combine({0: (2**256).to_bytes(SHARE_BYTES, "little")}, 1)
    assert combine({0: (2**256 - 1).to_bytes(SHARE_BYTES, "little")}, 1) == b"\xff" * 32


@given(st.integers(1, 8), st.integers(1, 4))
@settings(max_examples=20)
def test_a_threshold_above_the_holders_can_be_dealt_and_never_combined(holders: int, above: int) -> None:
    secret = bytes(range(32))
    shares = dict(enumerate(split(secret, range(holders), holders + above, entropy(5))))
    with pytest.raises(Unrecoverable):
        combine(shares, holders + above)
    assert wrong(lambda: combine(shares, holders), secret)


def test_a_threshold_of_one_gives_everybody_the_secret_itself() -> None:
    secret = bytes(range(32))
    assert split(secret, [4, 9], 1, entropy(0)) == [secret + b"\0"] * 2


@given(st.integers(2, 6), st.integers(0, 99))
def test_shares_are_the_documented_polynomial(tau: int, seed: int) -> None:
    """Secret, then coefficients of 48 bytes each, at holder + 1: written out with powers."""
    draw = entropy(seed)
    a = [int.from_bytes(bytes(range(32)), "little"), *(int.from_bytes(draw(48), "little") for _ in range(tau - 1))]
    expected = [sum(c * (i + 1) ** power for power, c in enumerate(a)) % PRIME for i in (0, 3, 11)]
    assert [int.from_bytes(s, "little") for s in split(bytes(range(32)), (0, 3, 11), tau, entropy(seed))] == expected


def test_two_sharings_of_one_secret_have_nothing_in_common() -> None:
    draw = entropy(6)
    one, two = (split(bytes(32), range(6), 3, draw) for _ in range(2))
    assert not set(one) & set(two)


def test_the_sum_of_shares_is_a_share_of_the_sum() -> None:
    """The sharing is linear, so a mixed-up polynomial or field would show."""
    one, two = (3).to_bytes(32, "little"), (4).to_bytes(32, "little")
    draw = entropy(8)
    added = {
        i: ((int.from_bytes(a, "little") + int.from_bytes(b, "little")) % PRIME).to_bytes(SHARE_BYTES, "little")
        for i, (a, b) in enumerate(zip(split(one, range(5), 4, draw), split(two, range(5), 4, draw), strict=True))
    }
    assert combine(added, 4) == (7).to_bytes(32, "little")
