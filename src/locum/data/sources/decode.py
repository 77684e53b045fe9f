"""Compressed pixels are decoded in a process of its own, because a codec written in C can be crashed by a broken image.

The parent writes one line of JSON (the pixels' description) and the encoded bytes; the child (`python -m locum.data.sources.decode`) answers with one
line of JSON and the decoded bytes. Nothing is pickled. The child has a limit on its memory, and the parent one on its time: a child
that crashes, hangs or wants too much costs that one image, and the next image gets a new child.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import IO, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from locum.data.sources.base import Unusable

SECONDS = 20.0
"""For one image, and a second more for each MiB of it."""
MAX_CHILD_BYTES = 6 << 30
_ORDER = ("pydicom", "pylibjpeg", "pyjpegls", "pillow", "gdcm")
"""Decoders, those that hold out best against broken images first."""


class Decoder:
    """Decodes in a child process that is started when first needed. Use as a context manager."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def __call__(self, syntax: str, options: dict[str, Any], encoded: bytes) -> NDArray[Any]:
        """Frames of the pixels as pydicom gives them. Raises `Unusable`."""
        child = self._child = self._child or subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        watch = threading.Timer(SECONDS + len(encoded) / 2**20, child.kill)
        watch.start()
        try:
            request = {"syntax": syntax, "options": options, "bytes": len(encoded)}
            stdin, stdout = cast(IO[bytes], child.stdin), cast(IO[bytes], child.stdout)
            stdin.write(json.dumps(request).encode() + b"\n" + encoded)
            stdin.flush()
            line = stdout.readline()
            answer = json.loads(line) if line else {}
            data = stdout.read(answer.get("bytes", 0))
            if "shape" in answer and len(data) == answer["bytes"]:
                return np.frombuffer(data, dtype=answer["dtype"]).reshape(answer["shape"])
        except (OSError, ValueError):
            answer = {}
        finally:
            watch.cancel()
        if "reason" not in answer:
            self._stop()
        raise Unusable(str(answer.get("reason", "its compressed pixels crash the decoder or take it too long")))

    def _stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None


def decode(syntax: str, options: dict[str, Any], encoded: bytes) -> NDArray[Any]:
    """Decoded frames, by the first decoder installed that can. Raises `Unusable`."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    try:
        decoder = get_decoder(UID(syntax))
    except NotImplementedError:
        raise Unusable("its transfer syntax is no encoding of still images that can be read") from None
    if not decoder.is_available:
        raise Unusable(f"no decoder for {UID(syntax).name} is installed")
    options = {**options, "pixel_keyword": "PixelData"}
    plugins = [p for p in _ORDER if p in decoder.available_plugins] if decoder.is_encapsulated else [""]
    for plugin in plugins:
        try:
            return decoder.as_array(encoded, decoding_plugin=plugin, **options)[0]
        except BaseException as error:  # a panic of a codec written in Rust is no Exception
            if isinstance(error, KeyboardInterrupt):
                raise
    raise Unusable("its pixels cannot be decoded")


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    while line := requests.readline():
        request = json.loads(line)
        encoded = requests.read(request["bytes"])
        try:
            array = np.ascontiguousarray(decode(request["syntax"], request["options"], encoded))
            data, answer = array.tobytes(), {"shape": array.shape, "dtype": array.dtype.str, "bytes": array.nbytes}
        except Unusable as why:
            data, answer = b"", {"reason": why.reason}
        answers.write(json.dumps(answer).encode() + b"\n" + data)
        answers.flush()


def _limit() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_CHILD_BYTES, MAX_CHILD_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold a patient's image
    except (ImportError, ValueError, OSError):
        pass  # no such limits on this system


if __name__ == "__main__":
    import os
    import warnings

    warnings.simplefilter("ignore")
    _limit()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # some codecs print to standard output
    _serve(sys.stdin.buffer, answers)
