"""One family of errors: each says what happened, why, and what to do next.

A message may be shown to a person, written to a log, or sent to another party, so it never contains a patient's
data. Text that was made from rows stays in `LocumError.local`, which is printed only on the machine that raised it.
"""

from __future__ import annotations

from typing import ClassVar


class LocumError(Exception):
    """The base of every error that Locum raises on purpose.

    `what` happened in one sentence, `why` it matters or came about, `fix` what the reader can do. `local` may hold
    details that must not leave this machine. `code` is the stable name that travels on the wire.
    """

    code: ClassVar[str] = "error"

    def __init__(self, what: str, *, why: str = "", fix: str = "", local: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.fix, self.local = what, why, fix, local

    def __str__(self) -> str:
        return " ".join(part for part in (self.what, self.why, self.fix and f"To fix it: {self.fix}") if part)


class ManifestError(LocumError):
    """A study file, a mapping or a configuration that is not what its schema says."""

    code = "manifest"


class DataError(LocumError):
    """Rows that do not meet the study's data contract."""

    code = "data"


class TaskError(LocumError):
    """A computation that cannot give an answer: separation, collinear columns, NaN, a wrong shape."""

    code = "task"


class Refused(LocumError):
    """The site's door, its policy or its data manager said no."""

    code = "refused"


class NotEnrolled(LocumError):
    """The sender is unknown here, its signature does not verify, or its invitation is not good."""

    code = "not_enrolled"


class Forbidden(LocumError):
    """The sender is known, but this is not its work."""

    code = "forbidden"


class EnvelopeError(LocumError):
    """A message that is forged, stale, replayed into another round, or altered on the way."""

    code = "envelope"


class ClockError(LocumError):
    """The two clocks differ too much to trust a signature's time."""

    code = "clock"


class TooLarge(LocumError):
    """More bytes than the receiver agreed to read."""

    code = "too_large"


class NotFound(LocumError):
    """Nothing by that name."""

    code = "not_found"


class Conflict(LocumError):
    """The request contradicts something that is already recorded."""

    code = "conflict"


class Unavailable(LocumError):
    """A peer, a database or a disk that is away for now; trying again later is right."""

    code = "unavailable"


class RunFailed(LocumError):
    """A run that ended without a model, with the reason."""

    code = "run_failed"


def _subclasses(cls: type[LocumError]) -> list[type[LocumError]]:
    return [cls] + [s for c in cls.__subclasses__() for s in _subclasses(c)]


def from_code(code: str, what: str, *, why: str = "", fix: str = "") -> LocumError:
    """The error of the family that `code` names, rebuilt from what a peer sent."""
    kinds = {cls.code: cls for cls in _subclasses(LocumError)}
    return kinds.get(code, LocumError)(what, why=why, fix=fix)


def counted(n: int, noun: str, plural: str = "") -> str:
    """A number and what it counts, as people write it: "1 row", "2,000 rows"."""
    return f"{n:,} {agree(n, noun, plural or noun + 's')}"


def agree(n: int, one: str, many: str) -> str:
    """The word that goes with a number: agree(n, "is", "are")."""
    return one if n == 1 else many
