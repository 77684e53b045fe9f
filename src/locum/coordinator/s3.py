"""Blobs in an S3-compatible store. Credentials and region come from the environment, as for any AWS client.

An upload arrives in objects `staged/<key>/<offset>`; when it is complete they are read once, hashed, and written to their
place, which S3 makes visible all at once. At no time is more than one part in memory per upload.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import boto3
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError

from locum.coordinator.blobs import PIECE, Staging, missing, verify
from locum.errors import EnvelopeError, NotFound, TaskError, Unavailable

PART = 8 << 20
READ_AHEAD = 1 << 18


class S3Blobs(Staging):
    """`BlobStore` over one bucket and prefix: s3://bucket/prefix. endpoint: another server than Amazon's, or empty."""

    piece = 2 << 20

    def __init__(self, url: str, endpoint: str = "") -> None:
        super().__init__()
        parts = urlsplit(url)
        self.bucket, self.prefix = parts.netloc, parts.path.strip("/")
        style: Any = {"addressing_style": "path"} if endpoint else {}
        config = Config(retries={"max_attempts": 4, "mode": "standard"}, connect_timeout=5, read_timeout=60, max_pool_connections=32, s3=style)
        self._s3: Any = boto3.client("s3", endpoint_url=endpoint or None, config=config)

    def check(self) -> None:
        with _reaching():
            self._s3.head_bucket(Bucket=self.bucket)

    def size(self, key: str) -> int | None:
        try:
            with _reaching():
                return int(self._s3.head_object(Bucket=self.bucket, Key=self._path(key))["ContentLength"])
        except NotFound:
            return None

    def put(self, key: str, pieces: Iterable[bytes | memoryview]) -> None:
        if self.size(key) is None:
            with _Writer(self, key) as writer:
                for piece in pieces:
                    writer.write(piece)

    def staged(self, key: str) -> int:
        end = 0
        for offset, size in self._parts(key):
            if offset > end:
                break
            end = max(end, offset + size)
        return end

    def _write(self, key: str, position: int, data: bytes | bytearray) -> None:
        with _reaching():
            self._s3.put_object(Bucket=self.bucket, Key=f"{self._staged(key)}/{position:020d}", Body=bytes(data))

    def finish(self, key: str, prefix: bytes) -> None:
        self._turns.pop(key, None)
        if not self._parts(key):
            if self.size(key) is None:
                raise NotFound("Nothing of this upload has arrived.")
            return  # a retry after a lost answer
        try:
            with _Writer(self, key) as writer:
                verify(key, prefix, self._copied(key, writer))
        except (EnvelopeError, TaskError):
            self._remove(self._staged(key) + "/")
            raise
        self._remove(self._staged(key) + "/")

    def _copied(self, key: str, writer: _Writer) -> Iterator[bytes]:
        """The staged bytes in order, each written to `writer` on its way; overlaps of two connections are left out."""
        at = 0
        for offset, size in self._parts(key):
            if offset + size <= at:
                continue
            with _reaching():
                body = self._s3.get_object(Bucket=self.bucket, Key=f"{self._staged(key)}/{offset:020d}")["Body"].read()[at - offset :]
            at += len(body)
            writer.write(body)
            yield body

    def open(self, key: str) -> BinaryIO:
        size = self.size(key)
        if size is None:
            raise missing()
        return _Object(self._s3, self.bucket, self._path(key), size)  # type: ignore[return-value]

    @contextmanager
    def local(self, key: str) -> Iterator[Path]:
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as copy, self.open(key) as source:
            verify(key, b"", _tee(source, copy))
            copy.flush()
            yield Path(copy.name)

    def names(self, prefix: str) -> list[str]:
        complete = {k.removeprefix(self._path("")) for k, _ in self._list(self._path(prefix))}
        staged = {k.removeprefix(self._path("staged/")).rpartition("/")[0] for k, _ in self._list(self._staged(prefix))}
        return sorted(complete | staged)

    def delete(self, prefix: str) -> None:
        folder = prefix if prefix.endswith("/") else prefix + "/"
        self._remove(self._staged(folder))
        if prefix.endswith("/"):
            self._remove(self._path(prefix))
        else:
            with _reaching():
                self._s3.delete_object(Bucket=self.bucket, Key=self._path(prefix))

    def _parts(self, key: str) -> list[tuple[int, int]]:
        return sorted((int(name.rpartition("/")[2]), size) for name, size in self._list(self._staged(key) + "/"))

    def _list(self, prefix: str) -> list[tuple[str, int]]:
        with _reaching():
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
            return [(item["Key"], int(item["Size"])) for page in pages for item in page.get("Contents", ())]

    def _remove(self, prefix: str) -> None:
        names = [{"Key": name} for name, _ in self._list(prefix)]
        with _reaching():
            for start in range(0, len(names), 1000):
                self._s3.delete_objects(Bucket=self.bucket, Delete={"Objects": names[start : start + 1000], "Quiet": True})

    def _path(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _staged(self, key: str) -> str:
        return self._path(f"staged/{key}")


class _Writer:
    """Writes one object, in one request if it is small, else as a multipart upload; nothing appears if it fails."""

    def __init__(self, blobs: S3Blobs, key: str) -> None:
        self._s3, self._where = blobs._s3, {"Bucket": blobs.bucket, "Key": blobs._path(key)}
        self._buffer = bytearray()
        self._upload: str | None = None
        self._parts: list[dict[str, Any]] = []

    def __enter__(self) -> _Writer:
        return self

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            room = PART - len(self._buffer)
            self._buffer += view[:room]
            view = view[room:]
            if len(self._buffer) == PART:
                self._flush()

    def _flush(self) -> None:
        with _reaching():
            if self._upload is None:
                self._upload = self._s3.create_multipart_upload(**self._where)["UploadId"]
            number = len(self._parts) + 1
            part = self._s3.upload_part(**self._where, UploadId=self._upload, PartNumber=number, Body=bytes(self._buffer))
            self._parts.append({"ETag": part["ETag"], "PartNumber": number})
            self._buffer = bytearray()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with _reaching():
            if kind is not None:
                if self._upload is not None:
                    self._s3.abort_multipart_upload(**self._where, UploadId=self._upload)
            elif self._upload is None:
                self._s3.put_object(**self._where, Body=bytes(self._buffer))
            else:
                if self._buffer:
                    self._flush()
                self._s3.complete_multipart_upload(**self._where, UploadId=self._upload, MultipartUpload={"Parts": self._parts})


class _Object(io.RawIOBase):
    """A blob as a seekable file: ranged requests with a small read-ahead, so that a thousand may be open at once."""

    def __init__(self, s3: Any, bucket: str, key: str, size: int) -> None:
        self._s3, self._bucket, self._key, self._size = s3, bucket, key, size
        self._at, self._ahead, self._start = 0, b"", 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence] + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._at)
        want = left if size is None or size < 0 else min(size, left)
        start = self._at - self._start
        if not (start >= 0 and start + want <= len(self._ahead)):
            self._ahead, self._start, start = self._fetch(self._at, min(left, max(want, READ_AHEAD))) if want else b"", self._at, 0
        data = self._ahead[start : start + want]
        self._at += len(data)
        if want >= READ_AHEAD:
            self._ahead = b""
        return data

    def _fetch(self, start: int, count: int) -> bytes:
        with _reaching():
            body: bytes = self._s3.get_object(Bucket=self._bucket, Key=self._key, Range=f"bytes={start}-{start + count - 1}")["Body"].read()
        return body


def _tee(source: BinaryIO, copy: Any) -> Iterator[bytes]:
    while piece := source.read(PIECE):
        copy.write(piece)
        yield piece


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in ("404", "NoSuchKey", "NotFound"):
            raise missing() from None
        raise Unavailable("The coordinator's blob store refused.", fix="try again later; the operator must look", local=str(error)) from None
    except BotoCoreError as error:
        raise Unavailable("The coordinator's blob store is away.", fix="try again in a moment", local=str(error)) from None
