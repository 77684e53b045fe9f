"""What can go wrong in FSA-1, as one small family. Whoever raises has sent nothing and changed nothing."""

from __future__ import annotations

from locum.errors import LocumError, Refused


class MaskingRefused(Refused):
    """A site will not go on: going on might show more than one sum over the cohort. The reason stays at the site."""

    code = "masking"


class SessionLost(MaskingRefused):
    """This site has no pairwise secrets for the session; a new set-up is needed."""

    code = "session"


class ProtocolError(LocumError):
    """A message that no honest party sends: malformed, misaddressed, or badly signed."""

    code = "protocol"


class Unrecoverable(LocumError):
    """The masks cannot be removed with what has arrived: too few shares, or corrupt ones."""

    code = "unrecoverable"


class EncodingError(LocumError):
    """Numbers that cannot be encoded: not finite, over the bound, of the wrong shape, or too many for the ring."""

    code = "encoding"
