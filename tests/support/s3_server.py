"""A server of Amazon S3's protocol, over real HTTP, with faults on demand.

It does what Penstock uses. Buckets are addressed by path. Every request must be signed (AWS
Signature Version 4, in headers or in the query), and a signature is checked: what was changed after
it was signed, or is used after its time, is refused, as S3 does. Objects have versions; parts have
S3's smallest size; checksums that are sent are compared.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import random
import re
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, quote, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from aiohttp import web

from support.accepting import stop_accepting

T = TypeVar("T")
REGION: Final = "eu-west-1"
KEYS: Final = {"testing": "testing"}
LEAST_PART: Final = 5 * 1024 * 1024
PAGE: Final = 1000  # keys of one listing


class S3Error(Exception):
    """An answer that is no success."""

    def __init__(self, code: str, status: int, message: str = "as S3 would say") -> None:
        self.code, self.status, self.message = code, status, message


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an object; without content it is a delete marker."""

    id: str
    content: bytes | None
    etag: str
    sha256: str | None
    headers: dict[str, str]
    at: float


@dataclass(slots=True)
class Multipart:
    """An upload in parts that is not complete."""

    key: str
    headers: dict[str, str]
    parts: dict[int, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class Faults:
    """What goes wrong on the way."""

    slow_down: float = 0.0  # share of calls answered with 503
    latency: float = 0.0  # seconds
    stuck: str = ""  # calls of objects that have this in their key get no answer for so long
    unreachable: bool = False  # connections are cut at once
    cut: float = 0.0  # share of downloads that end in the middle
    forbidden: bool = False


class S3Server:
    """One bucket, `penstock`."""

    def __init__(self, *, seed: int = 0, page: int = PAGE) -> None:
        self.bucket = "penstock"
        self.faults = Faults()
        self.calls: Counter[str] = Counter()
        self.objects: dict[str, list[Version]] = {}
        self.multiparts: dict[str, Multipart] = {}
        self.chance = random.Random(seed)
        self.clock: Callable[[], float] = time.time
        self._page = page
        self._number = 0

    # ------------------------------------------------------------------ for tests

    @property
    def keys(self) -> list[str]:
        """What is there, in order."""
        return sorted(key for key in list(self.objects) if self.content(key) is not None)

    def content(self, key: str) -> bytes | None:
        versions = self.objects.get(key)
        return versions[-1].content if versions else None

    # ------------------------------------------------------------------ HTTP

    async def start(self) -> None:
        application = web.Application(client_max_size=2**30)
        application.router.add_route("*", "/{path:.*}", self._take)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=256).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._runner = runner

    async def stop(self) -> None:
        await stop_accepting(self._runner)
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.StreamResponse:
        if self.faults.latency:
            await asyncio.sleep(self.faults.latency)
        while self.faults.stuck and self.faults.stuck in request.path:
            await asyncio.sleep(0.02)
            if request.transport is None:  # whoever asked has gone
                return _hang_up(request)
        if self.faults.unreachable:
            return _hang_up(request)
        try:
            if self.chance.random() < self.faults.slow_down:
                raise S3Error("SlowDown", 503)
            body = await request.read()
            self._authorize(request, body)
            if self.faults.forbidden:
                raise S3Error("AccessDenied", 403)
            response = self._answer(request, body)
        except S3Error as exc:
            self.calls[exc.code] += 1
            text = f"<Error><Code>{exc.code}</Code><Message>{exc.message}</Message></Error>"
            return web.Response(status=exc.status, text=text, content_type="application/xml")
        is_download = request.method == "GET" and isinstance(response.body, bytes)
        if is_download and response.body and self.chance.random() < self.faults.cut:
            return await _half(request, response)
        return response

    def _answer(self, request: web.Request, body: bytes) -> web.Response:
        bucket, _, key = unquote(request.rel_url.raw_path)[1:].partition("/")
        if bucket != self.bucket:
            raise S3Error("NoSuchBucket", 404)
        query = dict(parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True))
        if not key:
            if request.method == "HEAD":
                return self._did("HeadBucket")
            if request.method == "GET" and query.get("list-type") == "2":
                return self._list(query)
            if request.method == "POST" and "delete" in query:
                return self._delete_many(request, body)
            raise S3Error("NotImplemented", 501)
        match request.method:
            case "PUT" if "uploadId" in query:
                return self._put_part(query, body)
            case "PUT":
                return self._put(request, key, body)
            case "GET" | "HEAD":
                return self._get(request, key, query)
            case "POST" if "uploads" in query:
                return self._begin(request, key)
            case "POST" if "uploadId" in query:
                return self._complete(query, body)
            case "DELETE" if "uploadId" in query:
                self.multiparts.pop(query["uploadId"], None)
                return self._did("AbortMultipartUpload", status=204)
        raise S3Error("NotImplemented", 501)

    def _did(self, operation: str, **response: Any) -> web.Response:
        self.calls[operation] += 1
        return web.Response(**response)

    # ------------------------------------------------------------------ objects

    def _put(self, request: web.Request, key: str, body: bytes) -> web.Response:
        _compare(request, body)
        sha256 = request.headers.get("x-amz-checksum-sha256")
        version = self._store(key, body, _md5(body), sha256, _kept(request))
        return self._did("PutObject", headers=_told(version))

    def _store(
        self, key: str, body: bytes | None, etag: str, sha256: str | None, headers: dict[str, str]
    ) -> Version:
        self._number += 1
        version = Version(f"v{self._number:06}", body, etag, sha256, headers, self.clock())
        self.objects.setdefault(key, []).append(version)
        return version

    def _get(self, request: web.Request, key: str, query: dict[str, str]) -> web.Response:
        versions = self.objects.get(key, [])
        wanted = query.get("versionId")
        found = next((v for v in versions if v.id == wanted), None) if wanted else None
        if wanted is None and versions:
            found = versions[-1]
        if found is None or found.content is None:
            raise S3Error("NoSuchKey", 404)
        match_ = request.headers.get("If-Match")
        if match_ is not None and match_.strip('"') != found.etag:
            raise S3Error("PreconditionFailed", 412)
        headers = {**_told(found), **found.headers, "Accept-Ranges": "bytes"}
        headers["Last-Modified"] = formatdate(found.at, usegmt=True)
        if request.headers.get("x-amz-checksum-mode") == "ENABLED" and found.sha256:
            headers["x-amz-checksum-sha256"] = found.sha256
        for name in ("content-type", "content-disposition"):
            if f"response-{name}" in query:
                headers[name.title()] = query[f"response-{name}"]
        content, status = found.content, 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if asked is not None:
            first, size = int(asked[1]), len(content)
            last = min(int(asked[2]) if asked[2] else size - 1, size - 1)
            if first >= size:
                raise S3Error("InvalidRange", 416)
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
            content, status = content[first : last + 1], 206
        if request.method == "HEAD":
            headers["Content-Length"] = str(len(content))
            return self._did("HeadObject", status=status, headers=headers)
        return self._did("GetObject", status=status, body=content, headers=headers)

    def _list(self, query: dict[str, str]) -> web.Response:
        prefix, after = query.get("prefix", ""), query.get("continuation-token", "")
        keys = [key for key in self.keys if key.startswith(prefix) and key > after]
        shown, more = keys[: self._page], len(keys) > self._page
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.content(key) or b'')}</Size>"
            "</Contents>"
            for key in shown
        )
        token = f"<NextContinuationToken>{shown[-1]}</NextContinuationToken>" if more else ""
        text = (
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{contents}"
            "</ListBucketResult>"
        )
        return self._did("ListObjectsV2", text=text, content_type="application/xml")

    def _delete_many(self, request: web.Request, body: bytes) -> web.Response:
        _compare(request, body, required=True)
        keys = [each.text or "" for each in ElementTree.fromstring(body).iter() if _is(each, "Key")]
        if len(keys) > 1000:
            raise S3Error("MalformedXML", 400)
        for key in keys:
            if self.content(key) is not None:
                self._store(key, None, "", None, {})
        return self._did(
            "DeleteObjects", text="<DeleteResult></DeleteResult>", content_type="application/xml"
        )

    # ------------------------------------------------------------------ in parts

    def _begin(self, request: web.Request, key: str) -> web.Response:
        self._number += 1
        id_ = f"upload{self._number}"
        self.multiparts[id_] = Multipart(key, _kept(request))
        text = (
            f"<InitiateMultipartUploadResult><UploadId>{id_}</UploadId>"
            "</InitiateMultipartUploadResult>"
        )
        return self._did("CreateMultipartUpload", text=text, content_type="application/xml")

    def _known(self, query: dict[str, str]) -> Multipart:
        found = self.multiparts.get(query["uploadId"])
        if found is None:
            raise S3Error("NoSuchUpload", 404)
        return found

    def _put_part(self, query: dict[str, str], body: bytes) -> web.Response:
        self._known(query).parts[int(query["partNumber"])] = body
        return self._did("UploadPart", headers={"ETag": f'"{_md5(body)}"'})

    def _complete(self, query: dict[str, str], body: bytes) -> web.Response:
        upload = self._known(query)
        asked: list[tuple[int, str]] = []
        for part in ElementTree.fromstring(body):
            values = {each.tag.rpartition("}")[2]: each.text or "" for each in part}
            asked.append((int(values["PartNumber"]), values["ETag"].strip('"')))
        if [number for number, _ in asked] != sorted({number for number, _ in asked}):
            raise S3Error("InvalidPartOrder", 400)
        for at, (number, etag) in enumerate(asked):
            if number not in upload.parts or _md5(upload.parts[number]) != etag:
                raise S3Error("InvalidPart", 400)
            if len(upload.parts[number]) < LEAST_PART and at < len(asked) - 1:
                raise S3Error("EntityTooSmall", 400)
        content = b"".join(upload.parts[number] for number, _ in asked)
        digest = hashlib.md5(b"".join(bytes.fromhex(etag) for _, etag in asked)).hexdigest()
        etag = f"{digest}-{len(asked)}"
        del self.multiparts[query["uploadId"]]
        version = self._store(upload.key, content, etag, None, upload.headers)
        text = (
            f"<CompleteMultipartUploadResult><ETag>&quot;{etag}&quot;</ETag>"
            "</CompleteMultipartUploadResult>"
        )
        return self._did(
            "CompleteMultipartUpload",
            text=text,
            content_type="application/xml",
            headers={"x-amz-version-id": version.id},
        )

    # ------------------------------------------------------------------ signatures

    def _authorize(self, request: web.Request, body: bytes) -> None:
        """https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html"""
        pairs = parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True)
        query = dict(pairs)
        given = request.headers.get("Authorization")
        if given is not None and "X-Amz-Signature" in query:
            raise S3Error("InvalidArgument", 400, "Only one auth mechanism allowed")
        if given is not None:
            parts = dict(re.findall(r"(\w+)=([^,\s]+)", given))
            credential, signed, signature = (
                parts.get(name, "") for name in ("Credential", "SignedHeaders", "Signature")
            )
            at = request.headers.get("x-amz-date", "")
            payload = request.headers.get("x-amz-content-sha256", "")
            if payload != "UNSIGNED-PAYLOAD" and payload != hashlib.sha256(body).hexdigest():
                raise S3Error("XAmzContentSHA256Mismatch", 400)
        elif "X-Amz-Signature" in query:
            credential, signed = query["X-Amz-Credential"], query["X-Amz-SignedHeaders"]
            signature, at, payload = (
                query["X-Amz-Signature"],
                query["X-Amz-Date"],
                "UNSIGNED-PAYLOAD",
            )
            pairs = [pair for pair in pairs if pair[0] != "X-Amz-Signature"]
            began = datetime.strptime(at, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
            if self.clock() > began + int(query["X-Amz-Expires"]):
                raise S3Error("AccessDenied", 403, "Request has expired")
        else:
            raise S3Error("AccessDenied", 403)
        key_id, _, scope = credential.partition("/")
        if key_id not in KEYS:
            raise S3Error("InvalidAccessKeyId", 403)
        names = signed.split(";")
        lines = [f"{name}:{' '.join(request.headers.get(name, '').split())}\n" for name in names]
        escaped = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in pairs)
        canonical = "\n".join(
            [
                request.method,
                request.rel_url.raw_path,
                "&".join(f"{k}={v}" for k, v in escaped),
                "".join(lines),
                signed,
                payload,
            ]
        )
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        key = ("AWS4" + KEYS[key_id]).encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        text = f"AWS4-HMAC-SHA256\n{at}\n{scope}\n{hashed}"
        if not hmac.compare_digest(hmac.new(key, text.encode(), "sha256").hexdigest(), signature):
            raise S3Error("SignatureDoesNotMatch", 403)
        # What is in amz headers must be signed, or anybody on the way could add to it.
        loose = [name for name in request.headers if name.lower().startswith("x-amz-checksum")]
        if [name for name in loose if name.lower() not in names]:
            raise S3Error("AccessDenied", 403, "There were headers present which were not signed")


def _is(element: ElementTree.Element, name: str) -> bool:
    return element.tag.rpartition("}")[2] == name


def _md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def _told(version: Version) -> dict[str, str]:
    return {"ETag": f'"{version.etag}"', "x-amz-version-id": version.id}


def _kept(request: web.Request) -> dict[str, str]:
    names = ("Content-Type", "Content-Disposition", "Cache-Control")
    return {name: request.headers[name] for name in names if name in request.headers}


def _compare(request: web.Request, body: bytes, *, required: bool = False) -> None:
    """The checksums that came with a body."""
    sums: dict[str, Callable[[], bytes]] = {
        "content-md5": lambda: hashlib.md5(body).digest(),
        "x-amz-checksum-sha256": lambda: hashlib.sha256(body).digest(),
        "x-amz-checksum-crc32": lambda: zlib.crc32(body).to_bytes(4, "big"),
    }
    given = {name: request.headers[name] for name in sums if name in request.headers}
    if required and not given:
        raise S3Error("InvalidRequest", 400, "Missing required header: Content-MD5")
    for name, value in given.items():
        if base64.b64encode(sums[name]()).decode() != value:
            raise S3Error("BadDigest", 400)


def _hang_up(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _half(request: web.Request, response: web.Response) -> web.StreamResponse:
    body = response.body
    assert isinstance(body, bytes)
    begun = web.StreamResponse(status=response.status, headers=response.headers)
    begun.content_length = len(body)
    await begun.prepare(request)
    await begun.write(body[: len(body) // 2])
    _hang_up(request)
    return begun


@contextmanager
def running(*, seed: int = 0, page: int = PAGE) -> Iterator[S3Server]:
    """A server on a thread of its own."""
    server, loop = S3Server(seed=seed, page=page), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="s3")
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(30)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
