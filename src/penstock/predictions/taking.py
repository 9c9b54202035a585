"""A file on its way in: counted and hashed while it is read, and never held in memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any, Final

from starlette.requests import Request

from penstock.api import bodies
from penstock.api.context import of
from penstock.api.multipart import FormFile
from penstock.api.problems import Problem
from penstock.predictions import uploads
from penstock.predictions.deps import Deps
from penstock.predictions.problems import problem_of
from penstock.predictions.refusal import Unusable
from penstock.predictions.registry import Chosen
from penstock.predictions.uploads import Upload
from penstock.telemetry import UPLOAD_RECEIVED, log

# Beside the file, a multipart body holds boundaries and headers.
AROUND: Final = 64 * 1024
_BLOCK: Final = 1 << 20
_LONGEST_NAME: Final = 200
_CSV: Final = ("text/csv", "text/plain", "text/tab-separated-values", "application/csv")
_GZIP: Final = ("application/gzip", "application/x-gzip")
_LOOK_TIMEOUT: Final = 60.0  # seconds
_UNPACK_TIMEOUT: Final = 600.0  # seconds


async def take(
    deps: Deps, request: Request, account: str, known: Chosen | None, given: Mapping[str, Any]
) -> Upload:
    """Store the file of a request and look at it; it is kept if only an answer is missing.

    Raises `Problem` for what cannot be used, which is deleted again.
    """
    began = deps.clock.monotonic()
    form, packed = _kind(of(request).headers)
    upload_id, folder = await deps.database.unit(lambda tx: uploads.begin(tx, account))
    content = f"{folder}/{uploads.CONTENT}"
    try:
        size, sha256 = await _store(deps, request, content, form)
        name = None if form is None else form.filename
        if packed or (name or "").lower().endswith(".gz"):
            # The file takes the archive's place.
            size, sha256 = await unpack(deps, content, content)
        looked = await look(deps, content, given, known)
        await deps.database.unit(
            lambda tx: uploads.complete(
                tx,
                upload_id,
                filename=shown(name),
                size=size,
                sha256=sha256,
                given=given,
                looked=looked,
            )
        )
    except BaseException as exc:
        await asyncio.shield(deps.database.unit(lambda tx: uploads.discard(tx, upload_id, folder)))
        if isinstance(exc, Unusable):
            raise problem_of(exc) from None
        raise
    seconds = round(deps.clock.monotonic() - began, 3)
    log(UPLOAD_RECEIVED, upload_id=upload_id, account=account, size=size, seconds=seconds)
    return await deps.database.read(lambda tx: uploads.get(tx, account, upload_id))


async def unpack(deps: Deps, packed: str, key: str) -> tuple[int, str]:
    """Make the object `key` of what is in a gzip; its size and SHA-256. Raises `Unusable`."""
    size, sha256 = await deps.aside.run(
        "inspect:unpack", deps.objects, packed, key, deps.max_upload, within=_UNPACK_TIMEOUT
    )
    return size, sha256


async def look(
    deps: Deps, key: str, given: Mapping[str, Any], known: Chosen | None
) -> Mapping[str, Any]:
    """How a stored file is laid out, with the columns of a model in mind. Raises `Unusable`."""
    spec = None if known is None else known.spec
    looked: Mapping[str, Any] = await deps.aside.run(
        "inspect:look", deps.objects, key, given, spec, within=_LOOK_TIMEOUT
    )
    return looked


def shown(filename: str | None) -> str | None:
    """A file's name as people know it: no folders, nothing that cannot be printed."""
    if filename is None:
        return None
    last = filename.replace("\\", "/").rpartition("/")[2]
    # Half a pair and the like have no place in a text.
    kept = "".join(character for character in last if character.isprintable())
    return kept[:_LONGEST_NAME] or None


def _kind(headers: Mapping[bytes, bytes]) -> tuple[FormFile | None, bool]:
    """How to read a body: as a form, or None = as the file itself; and whether that is gzip."""
    content_type = headers.get(b"content-type", b"").decode("latin-1")
    media = content_type.partition(";")[0].strip().lower()
    encoding = headers.get(b"content-encoding", b"").decode("latin-1").strip().lower()
    if encoding not in ("", "identity", "gzip"):
        raise Problem("not_csv", "Of content encodings, only gzip is unpacked.")
    if media == "multipart/form-data":
        return FormFile(content_type), encoding == "gzip"
    if media in _GZIP:
        return None, True
    if media not in _CSV:
        raise Problem("not_csv", "The body is not said to be a CSV.")
    return None, encoding == "gzip"


async def _store(deps: Deps, request: Request, key: str, form: FormFile | None) -> tuple[int, str]:
    """The size and the SHA-256 of the file, once it is stored durably."""
    most = deps.max_upload
    writing = deps.objects.writing(key)
    file = await asyncio.to_thread(writing.__enter__)
    digest, stored, came, waiting = hashlib.sha256(), 0, 0, bytearray()
    try:
        async for piece in request.stream():
            came += len(piece)
            if came > most + (AROUND if form is not None else 0):
                raise bodies.too_large(most)
            waiting += piece if form is None else form.feed(piece)
            if stored + len(waiting) > most:
                raise bodies.too_large(most)
            if len(waiting) >= _BLOCK:
                stored += len(waiting)
                await asyncio.to_thread(_write, file, digest, bytes(waiting))
                waiting.clear()
        if form is not None:
            form.end()
        stored += len(waiting)
        await asyncio.to_thread(_write, file, digest, bytes(waiting))
    except BaseException as exc:
        with suppress(type(exc)):
            await asyncio.shield(
                asyncio.to_thread(writing.__exit__, type(exc), exc, exc.__traceback__)
            )
        raise
    await asyncio.to_thread(writing.__exit__, None, None, None)
    return stored, digest.hexdigest()


def _write(file: IO[bytes], digest: Any, data: bytes) -> None:
    digest.update(data)
    file.write(data)
