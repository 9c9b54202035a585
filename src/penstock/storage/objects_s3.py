"""Objects in a bucket of Amazon S3, or of a server that speaks as it does.

What is written goes to a temporary file first and is sent when it is complete: in one request, or
from `PART` bytes on as a multipart upload, whose parts are cut by size. Either way it appears whole
or not at all, and the same content makes the same object; a process that dies in between leaves
parts that nobody sees, for the bucket's lifecycle to delete.

It blocks, as the port does, and so does botocore, on which aiobotocore stands: there is no event
loop in the processes that read and write objects. Each process has a client of its own.
"""

from __future__ import annotations

import base64
import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import IO, Any, BinaryIO, Final, TypeVar, cast

from penstock.errors import NotFound, SettingsError, StorageUnavailable
from penstock.storage.objects import Direct, Ticket, check_key, fault

T = TypeVar("T")

PART: Final = 8 * 1024 * 1024  # bytes; S3 takes no less than 5 MiB but for the last
MOST_PARTS: Final = 10_000
LARGEST_PUT: Final = 5 * 1024**3  # bytes that S3 takes in one request
_BUFFER: Final = 1 << 20  # bytes that a reader asks for at first; doubling while it reads on
_LARGEST_READ: Final = 16 << 20
_DELETED_AT_ONCE: Final = 1000
_TRIES: Final = 5  # of one piece that breaks off
_GONE: Final = frozenset({"NoSuchKey", "404", "NotFound"})


@dataclass(frozen=True, slots=True)
class Bucket:
    """Objects below a prefix of a bucket. `endpoint_url`: a server other than AWS's own."""

    bucket: str
    prefix: str = ""
    region: str | None = None
    endpoint_url: str | None = None

    def open(self, key: str) -> BinaryIO:
        """See `Objects.open`: the object as it is now, whatever is written over it later."""
        found = self._head(key)
        if found is None:
            raise NotFound("The object is not there.")
        return cast(BinaryIO, io.BufferedReader(_Reader(self, key, found), _BUFFER))

    @contextlib.contextmanager
    def writing(self, key: str) -> Iterator[IO[bytes]]:
        """See `Objects.writing`."""
        name = self._name(key)
        try:
            with tempfile.TemporaryFile() as file:
                yield file
                size = file.seek(0, io.SEEK_END)
                file.seek(0)
                self._send(name, file, size)
        except OSError as exc:  # of the temporary file
            raise fault(exc) from exc

    def size(self, key: str) -> int | None:
        """See `Objects.size`."""
        found = self._head(key)
        return None if found is None else int(found["ContentLength"])

    def delete(self, prefix: str) -> int:
        """See `Objects.delete`. Versions that the bucket keeps of them are its lifecycle's."""
        name = self._name(prefix)
        deleted = 0
        more: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", Prefix=name, MaxKeys=_DELETED_AT_ONCE, **more)
            keys = [each["Key"] for each in page.get("Contents", ())]
            mine = [{"Key": key} for key in keys if key == name or key.startswith(f"{name}/")]
            if mine:
                done = self._call("delete_objects", Delete={"Objects": mine, "Quiet": True})
                if failed := done.get("Errors"):
                    raise StorageUnavailable(f"S3 did not delete an object: {failed[0]['Code']}")
            deleted += len(mine)
            if (token := page.get("NextContinuationToken")) is None:
                return deleted
            more = {"ContinuationToken": token}

    def check(self) -> None:
        """See `Objects.check`: the bucket can be reached, and this process may list it."""
        _run(lambda: _client(self.region, self.endpoint_url, True).head_bucket(Bucket=self.bucket))

    @property
    def direct(self) -> Direct:
        """See `Objects.direct`."""
        return self

    # ------------------------------------------------------------------ by signed URLs

    def link(self, key: str, *, media_type: str, filename: str | None, seconds: int) -> str:
        """See `Direct.link`."""
        given = {"ResponseContentType": media_type}
        if filename is not None:
            given["ResponseContentDisposition"] = f'attachment; filename="{filename}"'
        return self._sign("get_object", key, seconds, given)

    def ticket(self, key: str, *, size: int, sha256: str, seconds: int) -> Ticket:
        """See `Direct.ticket`."""
        checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
        given = {"ContentLength": size, "ChecksumSHA256": checksum}
        url = self._sign("put_object", key, seconds, given)
        return Ticket(url, {"x-amz-checksum-sha256": checksum})

    @property
    def largest(self) -> int:
        """See `Direct.largest`."""
        return LARGEST_PUT

    def arrived(self, key: str, *, size: int, sha256: str) -> bool:
        """See `Direct.arrived`."""
        found = self._head(key, ChecksumMode="ENABLED")
        if found is None:
            return False
        checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
        return found["ContentLength"] == size and found.get("ChecksumSHA256") == checksum

    def _sign(self, operation: str, key: str, seconds: int, given: Mapping[str, Any]) -> str:
        client = _client(self.region, self.endpoint_url)
        parameters = {"Bucket": self.bucket, "Key": self._name(key), **given}
        url: str = _run(
            lambda: client.generate_presigned_url(operation, parameters, ExpiresIn=seconds)
        )
        return url

    # ------------------------------------------------------------------ calls

    def _name(self, key: str) -> str:
        check_key(key)
        return f"{self.prefix}/{key}" if self.prefix else key

    def _call(self, operation: str, **parameters: Any) -> Any:
        call = getattr(_client(self.region, self.endpoint_url), operation)
        return _run(lambda: call(Bucket=self.bucket, **parameters))

    def _head(self, key: str, **more: Any) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._call("head_object", Key=self._name(key), **more)
        except NotFound:
            # An answer without a body does not say what is missing: that would be no object's end.
            try:
                self._call("head_bucket")
            except NotFound:
                raise StorageUnavailable("There is no such bucket in S3.") from None
            return None
        return found

    def _read(self, key: str, etag: str, first: int, last: int) -> Any:
        """The bytes from `first` to `last` of the object that had this tag, as a stream."""
        return self._call(
            "get_object", Key=self._name(key), Range=f"bytes={first}-{last}", IfMatch=etag
        )["Body"]

    def _send(self, name: str, file: IO[bytes], size: int) -> None:
        if size <= PART:
            self._call("put_object", Key=name, Body=file.read())
            return
        upload = self._call("create_multipart_upload", Key=name)["UploadId"]
        part_size = max(PART, -(-size // MOST_PARTS))
        parts: list[dict[str, Any]] = []
        try:
            while piece := file.read(part_size):
                number = len(parts) + 1
                sent = self._call(
                    "upload_part", Key=name, UploadId=upload, PartNumber=number, Body=piece
                )
                parts.append({"PartNumber": number, "ETag": sent["ETag"]})
            self._call(
                "complete_multipart_upload",
                Key=name,
                UploadId=upload,
                MultipartUpload={"Parts": parts},
            )
        except BaseException:
            with contextlib.suppress(Exception):
                self._call("abort_multipart_upload", Key=name, UploadId=upload)
            raise


class _Reader(io.RawIOBase):
    """An object, read from any place in it, always in the version that was there at first."""

    def __init__(self, bucket: Bucket, key: str, found: Mapping[str, Any]) -> None:
        self._bucket = bucket
        self._key = key
        self._etag: str = found["ETag"]
        self._size = int(found["ContentLength"])
        self._at = 0
        self._stream: Any = None
        self._until = 0  # where the stream ends
        self._window = _BUFFER

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        to = max(0, base + offset)
        if to != self._at:
            self._let_go()
            self._window = _BUFFER
        self._at = to
        return to

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._at)
        if wanted <= 0:
            return 0
        for left in reversed(range(_TRIES)):
            try:
                piece = self._stream_for(wanted).read(min(wanted, self._until - self._at))
            except Exception as exc:  # the connection broke off in the middle
                self._let_go()
                if not left or not _is_broken(exc):
                    raise _unavailable(exc) from exc
                continue
            if piece:
                buffer[: len(piece)] = piece
                self._at += len(piece)
                return len(piece)
            self._let_go()  # shorter than it said
        raise StorageUnavailable("an object cannot be read: it breaks off again and again")

    def close(self) -> None:
        self._let_go()
        super().close()

    def _stream_for(self, wanted: int) -> Any:
        if self._stream is None or self._at >= self._until:
            self._let_go()
            length = max(wanted, self._window)
            self._until = min(self._size, self._at + length)
            self._window = min(2 * length, _LARGEST_READ)
            self._stream = self._bucket._read(self._key, self._etag, self._at, self._until - 1)
        return self._stream

    def _let_go(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _is_broken(exc: Exception) -> bool:
    from botocore.exceptions import HTTPClientError, IncompleteReadError, ResponseStreamingError

    return isinstance(exc, (HTTPClientError, IncompleteReadError, ResponseStreamingError))


def _run(call: Callable[[], T]) -> T:
    """What the call answers. NotFound; StorageUnavailable if S3 cannot be asked, or refuses."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return call()
    except ClientError as exc:
        if exc.response.get("Error", {}).get("Code") in _GONE:
            raise NotFound("The object is not there.") from None
        raise _unavailable(exc) from exc
    except BotoCoreError as exc:
        raise _unavailable(exc) from exc


def _unavailable(exc: Exception) -> StorageUnavailable:
    """The code or the kind of error alone: the texts tell addresses and the account."""
    if isinstance(exc, StorageUnavailable):
        return exc
    answer = getattr(exc, "response", None)
    code = answer.get("Error", {}).get("Code") if isinstance(answer, dict) else None
    return StorageUnavailable(f"The objects in S3 cannot be reached: {code or type(exc).__name__}.")


@cache
def _client(region: str | None, endpoint_url: str | None, quick: bool = False) -> Any:
    """A client; threads share it. `quick`: for questions to which no answer is one as well."""
    from botocore.config import Config
    from botocore.exceptions import NoRegionError
    from botocore.session import get_session

    config = Config(
        signature_version="s3v4",  # older ones have no presigned URLs that cover headers
        connect_timeout=1 if quick else 5,
        read_timeout=1 if quick else 30,
        max_pool_connections=32,
        retries={"total_max_attempts": 1 if quick else 4, "mode": "standard"},
        # The ledger has each object's SHA-256; other servers than S3 know no checksums in trailers.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "auto" if endpoint_url is None else "path"},
    )
    try:
        return get_session().create_client(
            "s3", region_name=region, endpoint_url=endpoint_url, config=config
        )
    except NoRegionError:
        raise SettingsError(
            "PENSTOCK_OBJECTS is in S3, and there is no region: set PENSTOCK_AWS_REGION"
        ) from None
