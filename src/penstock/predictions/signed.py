"""Files that are sent past the server, to a signed URL: announced, sent, confirmed.

The URL is signed for one size and one SHA-256, which S3 compares with what comes. So whatever is
sent to it, and however often, is the file that was announced; nobody has to read all of it to
confirm that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from penstock.api import bodies
from penstock.api.problems import Problem
from penstock.clock import SECOND, to_iso
from penstock.errors import NotFound
from penstock.predictions import uploads
from penstock.predictions.deps import Deps
from penstock.predictions.inputs import SignedIn
from penstock.predictions.problems import problem_of
from penstock.predictions.refusal import Unusable
from penstock.predictions.registry import Chosen
from penstock.predictions.specs import JsonObject
from penstock.predictions.taking import look, shown, unpack
from penstock.predictions.uploads import Announced, Upload
from penstock.storage.objects import Direct
from penstock.telemetry import UPLOAD_RECEIVED, log

VALID: Final = 3600  # seconds that a URL can be used


async def announce(deps: Deps, account: str, asked: SignedIn) -> JsonObject:
    """Where to send a file. Raises `Problem` if it is too large, or there is no such way."""
    direct = _direct(deps)
    most = min(deps.max_upload, direct.largest)
    if asked.size > most:
        raise bodies.too_large(most)
    told = Announced("", False, shown(asked.filename), asked.size, asked.sha256)
    upload_id, _ = await deps.database.unit(lambda tx: uploads.begin(tx, account, told))
    found = await deps.database.read(lambda tx: uploads.announced(tx, account, upload_id))
    expires_at = deps.clock.now() + VALID * SECOND
    ticket = await asyncio.to_thread(
        direct.ticket, found.key, size=found.size, sha256=found.sha256, seconds=VALID
    )
    return {
        "upload_id": upload_id,
        "url": ticket.url,
        "headers": dict(ticket.headers),
        "expires_at": to_iso(expires_at),
    }


async def confirm(
    deps: Deps, account: str, upload_id: str, known: Chosen | None, given: Mapping[str, Any]
) -> Upload:
    """Look at a file that has been sent; doing it again is harmless.

    Raises `Problem` for what is not there yet, and for what cannot be used, which is deleted.
    """
    began = deps.clock.monotonic()
    found = await deps.database.read(lambda tx: uploads.announced(tx, account, upload_id))
    if not found.ready:
        direct = _direct(deps)
        size, sha256 = found.size, found.sha256
        if not await asyncio.to_thread(direct.arrived, found.key, size=size, sha256=sha256):
            raise Problem("not_sent", "The file has not arrived.", upload_id=upload_id)
        try:
            await _look(deps, upload_id, found, known, given)
        except Unusable as refused:
            await deps.database.unit(
                lambda tx: uploads.discard(tx, upload_id, found.folder, again=VALID)
            )
            raise problem_of(refused) from None
        seconds = round(deps.clock.monotonic() - began, 3)
        log(UPLOAD_RECEIVED, upload_id=upload_id, account=account, size=size, seconds=seconds)
    return await deps.database.read(lambda tx: uploads.get(tx, account, upload_id))


async def _look(
    deps: Deps, upload_id: str, found: Announced, known: Chosen | None, given: Mapping[str, Any]
) -> None:
    size, sha256, content = found.size, found.sha256, f"{found.folder}/{uploads.CONTENT}"
    if found.packed:
        size, sha256 = await unpack(deps, found.key, content)
    looked = await look(deps, content, given, known)
    about: dict[str, Any] = {"size": size, "sha256": sha256, "given": given, "looked": looked}
    try:
        await deps.database.unit(
            lambda tx: uploads.complete(tx, upload_id, filename=found.filename, **about)
        )
    except NotFound:  # somebody else has confirmed it meanwhile, or it was pruned
        return


def _direct(deps: Deps) -> Direct:
    direct = deps.objects.direct
    if direct is None:
        raise Problem("no_signed_uploads", "Objects are kept in a folder.")
    return direct
