"""Objects sent to clients, a piece at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import BinaryIO, Final

from starlette.responses import RedirectResponse, Response, StreamingResponse

from penstock.predictions import paper
from penstock.storage.objects import Objects

LINK_VALID: Final = 300  # seconds
_BLOCK: Final = 256 * 1024
# A page of ours that is shown by a browser, though it came out of somebody's file.
_PAGE_POLICY: Final = f"{paper.POLICY}; sandbox"


async def download(
    objects: Objects, key: str, media_type: str, filename: str | None, sha256: str
) -> Response:
    """An object as an answer, or where to fetch it. NotFound.

    Without a file name it is shown instead of saved.
    """
    direct = objects.direct
    if direct is not None:
        link = await asyncio.to_thread(
            direct.link, key, media_type=media_type, filename=filename, seconds=LINK_VALID
        )
        # The link is a key to the object: nothing on the way may keep it.
        return RedirectResponse(link, status_code=307, headers={"Cache-Control": "no-store"})
    file = await asyncio.to_thread(objects.open, key)
    size = await asyncio.to_thread(objects.size, key)
    headers = {"ETag": f'"{sha256}"', "Content-Length": str(size)}
    if filename is not None:
        headers["Content-Disposition"] = f'attachment; filename="{filename}"'
    return StreamingResponse(
        _pieces(file), media_type=media_type, headers={**headers, **page_headers(media_type)}
    )


def page_headers(media_type: str) -> Mapping[str, str]:
    """What keeps a page that was made of others' data from doing anything."""
    headers = {"X-Content-Type-Options": "nosniff"}
    if media_type.startswith("text/html"):
        headers["Content-Security-Policy"] = _PAGE_POLICY
    return headers


async def _pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    try:
        while block := await asyncio.to_thread(file.read, _BLOCK):
            yield block
    finally:
        file.close()
