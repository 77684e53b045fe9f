"""Shamir's secret sharing (CACM 1979) of 32-byte secrets over the field of p = 2^256 + 297, the first prime above 2^256.

split:    f(x) = secret + a_1 x + ... + a_(tau-1) x^(tau-1), a_i uniform;  share of holder x: f(x)
combine:  f(0) by Lagrange interpolation from any tau shares; fewer say nothing about the secret
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from locum.secagg.errors import Unrecoverable

PRIME = (1 << 256) + 297
SHARE_BYTES = 33
SECRET_BYTES = 32


def split(secret: bytes, holders: Sequence[int], threshold: int, entropy: Callable[[int], bytes]) -> list[bytes]:
    """A share (33 bytes) for each holder, a distinct number from 0 up. A threshold above the number of holders is allowed:
    then nobody can ever combine, which is what a cohort of three is for.

    Precondition: 32-byte secret, threshold >= 1. Postcondition: any `threshold` shares give the secret.
    """
    # 48 bytes reduced: the bias against uniform is below 2^-127
    coefficients = [int.from_bytes(entropy(48), "little") % PRIME for _ in range(threshold - 1)]
    constant = int.from_bytes(secret, "little")
    shares = []
    for holder in holders:
        x, value = holder + 1, 0
        for a in reversed(coefficients):
            value = (value + a) * x % PRIME
        shares.append(((value + constant) % PRIME).to_bytes(SHARE_BYTES, "little"))
    return shares


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret from shares by holder; the first `threshold` holders are used. Raises `Unrecoverable`.

    A corrupt share gives a wrong secret, or none: compare with a commitment.
    """
    if len(shares) < threshold:
        raise Unrecoverable(f"{len(shares)} shares are here; {threshold} are needed.")
    holders = tuple(sorted(shares))[:threshold]
    total = 0
    for holder, weight in zip(holders, _lagrange(holders), strict=True):
        total += int.from_bytes(shares[holder], "little") * weight
    total %= PRIME
    if total >> (8 * SECRET_BYTES):
        raise Unrecoverable("The shares do not give a secret.", why="At least one of them is corrupt.")
    return total.to_bytes(SECRET_BYTES, "little")


@lru_cache(maxsize=1024)
def _lagrange(holders: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange coefficients at 0."""
    out = []
    for i in holders:
        top, bottom = 1, 1
        for j in holders:
            if j != i:
                top = top * (j + 1) % PRIME
                bottom = bottom * (j - i) % PRIME
        out.append(top * pow(bottom, -1, PRIME) % PRIME)
    return tuple(out)
