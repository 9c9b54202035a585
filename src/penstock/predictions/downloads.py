"""Objects sent to clients, a piece at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import BinaryIO, Final

from starlette.responses import StreamingResponse

from penstock.predictions import paper
from penstock.storage.objects import Objects

_BLOCK: Final = 256 * 1024
# A page of ours that is shown by a browser, though it came out of somebody's file.
_PAGE_POLICY: Final = f"{paper.POLICY}; sandbox"


async def download(
    objects: Objects, key: str, media_type: str, filename: str | None, sha256: str
) -> StreamingResponse:
    """An object as an answer; without a file name it is shown instead of saved. NotFound."""
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
