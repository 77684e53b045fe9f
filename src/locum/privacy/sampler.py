"""Which patients take part in a round: one object that both draws them and is accounted, so that the two cannot disagree.

Precondition   patient identifiers are unique at the site, one for all records of a patient. `key` is 32 bytes. Poisson: secret and random, anew
               for every draw, for whoever knows it knows who was drawn. `FixedOrder`: the same in every iteration, and no secret, since no
               amplification is claimed.
Pseudocode     tag    = BLAKE2b-128(identifier)
               number = first 64 bits of AES-256(BLAKE2b-256(key, purpose, iteration), tag)
               Poisson: drawn iff number < rate * 2^64.     FixedOrder: drawn iff number mod batches = iteration mod batches.
Postcondition  whether a patient is drawn depends on the key, the iteration and that patient's identifier alone: not on the order of the
               patients, not on who else exists. Drawing again gives the same patients. The rate is met to 2^-64, never exceeded.

There is no cap on a Poisson batch: a cap makes one patient push another out, which the accounting must then know. There is no
sampling without replacement and no shuffling here, because neither may be accounted as Poisson.

Sources: Abadi et al. 2016 (Poisson sampling); Choquette-Choo et al. 2023 (fixed order, minimum separation); Kalinin & Lampert 2024
(the coefficients of the banded square root).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from math import ceil, isfinite
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from locum.privacy.errors import PrivacyError

if TYPE_CHECKING:
    from dp_accounting import DpEvent

Bools: TypeAlias = NDArray[np.bool_]
Patients: TypeAlias = NDArray[np.str_]
Noise = Literal["gaussian", "skellam"]

_TAG = 16
_PERSON = b"locum patient"


class Sampler(Protocol):
    """Who takes part in a round, and how the accountant sees it."""

    @property
    def rate(self) -> float:
        """The expected share of patients in one round, in (0, 1]."""

    @property
    def amplified(self) -> bool:
        """Whether the accountant may use that the draw is secret and independent (Poisson below rate 1)."""

    def square(self, rounds: int) -> float:
        """Squared L2 sensitivity, in clips, of `rounds` rounds together, to a patient who is in every batch that can hold them."""

    def event(self, multiplier: float, rounds: int) -> DpEvent:
        """`rounds` rounds with noise of `multiplier` times the clip, as dp-accounting sees them."""

    def draw(self, patients: Patients, iteration: int, key: bytes) -> Bools:
        """Which of the patients (n,), unique, take part in this iteration, counted from 0. key: 32 bytes."""

    @property
    def words(self) -> str:
        """The sampler for a person to read."""

    def plain(self) -> dict[str, Any]:
        """For a file; `read` takes it back."""

    def __hash__(self) -> int:
        """Two samplers that draw alike are equal, so that what was computed about a plan is kept."""


@dataclass(frozen=True, slots=True)
class FullBatch:
    """Every patient, every round."""

    @property
    def rate(self) -> float:
        return 1.0

    @property
    def amplified(self) -> bool:
        return False

    def square(self, rounds: int) -> float:
        return float(check_rounds(rounds))

    def event(self, multiplier: float, rounds: int) -> DpEvent:
        return _gaussian(multiplier, self.square(rounds))

    def draw(self, patients: Patients, iteration: int, key: bytes) -> Bools:
        _check_draw(iteration, key)
        tags(patients)
        return np.ones(len(patients), np.bool_)

    @property
    def words(self) -> str:
        return "every patient in every round"

    def plain(self) -> dict[str, Any]:
        return {"kind": "full"}


@dataclass(frozen=True, slots=True)
class Poisson:
    """Each patient independently with probability `rate`, anew each round. Raises `PrivacyError` unless 0 < rate <= 1."""

    rate: float

    def __post_init__(self) -> None:
        if not isinstance(self.rate, int | float) or not 0 < self.rate <= 1:
            raise PrivacyError(
                f"A sampling rate of {self.rate} is not one.",
                why="the rate is the probability that a patient is in a round's batch",
                fix="give a rate above 0 and at most 1",
            )

    @property
    def amplified(self) -> bool:
        return self.rate < 1

    def square(self, rounds: int) -> float:
        return float(check_rounds(rounds))

    def event(self, multiplier: float, rounds: int) -> DpEvent:
        if not self.amplified:
            return _gaussian(multiplier, self.square(rounds))
        from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent

        once = PoissonSampledDpEvent(self.rate, GaussianDpEvent(check_multiplier(multiplier)))
        return SelfComposedDpEvent(once, check_rounds(rounds))

    def draw(self, patients: Patients, iteration: int, key: bytes) -> Bools:
        if not self.amplified:
            return FullBatch().draw(patients, iteration, key)
        return _numbers(patients, _key(key, b"poisson", iteration)) < np.uint64(int(self.rate * 2.0**64))  # exact: a power of two

    @property
    def words(self) -> str:
        return f"each patient with probability {self.rate:.4g}, anew in each round"

    def plain(self) -> dict[str, Any]:
        return {"kind": "poisson", "rate": self.rate}


@dataclass(frozen=True, slots=True)
class FixedOrder:
    """Each patient is in one of `batches` batches, which come in the same order in every epoch; the noise is correlated over `band` rounds.

    The release of round t is sum_j c_j g_(t-j), j < band, with fresh noise, so that a patient who takes part k times, at least `band`
    rounds apart, moves the releases by sqrt(k) ||c|| clips. Raises `PrivacyError` unless 1 <= band <= batches.
    """

    batches: int
    band: int = 1

    def __post_init__(self) -> None:
        if self.batches < 1 or self.band < 1:
            raise PrivacyError(
                f"{self.batches} batches with a band of {self.band} are not a fixed order.", why="both are counts", fix="give batches and band of at least 1"
            )
        if self.band > self.batches:
            raise PrivacyError(
                f"A band of {self.band} is wider than the {self.batches} batches of an epoch.",
                why="a patient would take part again while the noise still remembers the last time, and the sensitivity would be higher",
                fix=f"lower band to {self.batches} or less",
            )

    @property
    def rate(self) -> float:
        return 1 / self.batches

    @property
    def amplified(self) -> bool:
        return False

    def epochs(self, rounds: int) -> int:
        """In how many of the rounds one patient takes part at most."""
        return ceil(check_rounds(rounds) / self.batches)

    @property
    def norm2(self) -> float:
        """||c||^2 of the banded square root's coefficients c_j = (2j choose j) / 4^j, j < band."""
        return _norm2(self.band)

    def square(self, rounds: int) -> float:
        return self.epochs(rounds) * self.norm2

    def event(self, multiplier: float, rounds: int) -> DpEvent:
        return _gaussian(multiplier, self.square(rounds))

    def batch(self, patients: Patients, key: bytes) -> NDArray[np.int64]:
        """The batch (n,) of each patient, 0 .. batches - 1."""
        return (_numbers(patients, _key(key, b"fixed order", 0)) % np.uint64(self.batches)).astype(np.int64)

    def draw(self, patients: Patients, iteration: int, key: bytes) -> Bools:
        _check_draw(iteration, key)
        return np.asarray(self.batch(patients, key) == iteration % self.batches, np.bool_)

    @property
    def words(self) -> str:
        noise = f", noise correlated over {self.band} rounds" if self.band > 1 else ""
        return f"{self.batches} batches in a fixed order{noise}"

    def plain(self) -> dict[str, Any]:
        return {"kind": "fixed", "batches": self.batches, "band": self.band}


@dataclass(frozen=True, slots=True)
class Request:
    """A step that wants `weight` parts of a study's budget for `rounds` rounds; `accountant.calibrate` finds its noise."""

    step: str
    sampler: Sampler
    rounds: int
    weight: float = 1.0
    noise: Noise = "gaussian"

    def __post_init__(self) -> None:
        check_rounds(self.rounds)
        if not isfinite(self.weight) or self.weight <= 0:
            raise PrivacyError(f"Step {self.step!r} asks for {self.weight} parts of the budget.", why="every release is paid for", fix="give a positive weight")


def read(plain: Mapping[str, Any]) -> Sampler:
    """The sampler that `plain()` wrote. Raises `PrivacyError`."""
    kinds: dict[str, tuple[type[FullBatch | Poisson | FixedOrder], set[str]]] = {
        "full": (FullBatch, set()),
        "poisson": (Poisson, {"rate"}),
        "fixed": (FixedOrder, {"batches", "band"}),
    }
    kind, keys = kinds.get(str(plain.get("kind")), (FullBatch, {"-"}))
    if set(plain) - {"kind"} != keys:
        raise PrivacyError(
            f"A sampler {dict(plain)} has no accountant.", why="only what can be accounted may be drawn", fix=f"use one of the kinds {', '.join(sorted(kinds))}"
        )
    return kind(**{key: plain[key] for key in keys})


def check_rounds(rounds: int) -> int:
    """Raises `PrivacyError` below one round."""
    if not isinstance(rounds, int) or rounds < 1:
        raise PrivacyError(f"{rounds} rounds are not a number of rounds.", why="each round is a release that is paid for", fix="give at least 1 round")
    return rounds


def check_multiplier(multiplier: float) -> float:
    """Raises `PrivacyError` unless the noise multiplier is positive and finite."""
    if not isfinite(multiplier) or multiplier <= 0:
        raise PrivacyError(f"A noise multiplier of {multiplier} protects nobody.", why="it is the noise over the clip", fix="give a positive multiplier")
    return multiplier


def _gaussian(multiplier: float, square: float) -> DpEvent:
    from dp_accounting import GaussianDpEvent

    return GaussianDpEvent(check_multiplier(multiplier) / square**0.5)


def _check_draw(iteration: int, key: bytes) -> None:
    if len(key) != 32:
        raise PrivacyError(f"A sampling key of {len(key)} bytes is not one.", why="the draw must stay secret", fix="give 32 random bytes")
    if not 0 <= iteration < 2**63:
        raise PrivacyError(f"Iteration {iteration} is not one.", why="iterations are counted from 0", fix="give the index of the round")


def _key(key: bytes, purpose: bytes, iteration: int) -> bytes:
    _check_draw(iteration, key)
    return blake2b(iteration.to_bytes(8, "little"), key=key, digest_size=32, person=purpose).digest()


def _numbers(patients: Patients, key: bytes) -> NDArray[np.uint64]:
    # One block for each patient, on purpose: a patient's number must not depend on where they stand. Tags differ, so no block repeats.
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
    return np.frombuffer(cipher.update(tags(patients)), "<u8")[::2].astype(np.uint64)


def tags(patients: Patients) -> bytes:
    """16 bytes for each patient, in order. Raises `PrivacyError` if two identifiers are the same or the array is not of text."""
    if patients.ndim != 1 or patients.dtype.kind != "U":
        raise PrivacyError("Patients must be given as one identifier of text each.", why="a patient is drawn as one, with all records", fix="pass (n,) text")
    return _tags(patients.tobytes(), patients.dtype.str)


@lru_cache(maxsize=4)  # the same patients are drawn from in every round
def _tags(raw: bytes, dtype: str) -> bytes:
    names: list[str] = np.frombuffer(raw, dtype).tolist() if raw else []
    made = [blake2b(name.encode("utf-8", "surrogatepass"), digest_size=_TAG, person=_PERSON).digest() for name in names]
    if len(set(made)) != len(made):
        raise PrivacyError(
            "Two rows of the list of patients have the same identifier.",
            why="a patient would be drawn, clipped and counted twice",
            fix="give each patient once; their records belong together",
        )
    return b"".join(made)


@lru_cache(maxsize=256)
def _norm2(band: int) -> float:
    j = np.arange(1, band)
    return float(1 + (np.cumprod((2 * j - 1) / (2 * j)) ** 2).sum())
