"""Takes the pictures in docs/images: a server at work, its console in headless Chromium.

``make screenshots``, or ``python docs/screenshots.py``. Chromium has to be installed (Debian:
``apt install chromium``); Playwright, which drives it, is among the development packages.
"""

from __future__ import annotations

import asyncio
import base64
import math
import random
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
SIZE = {"width": 1280, "height": 760}
COLOURS = 255

sys.path.insert(0, str(ROOT / "tests"))  # what drives browsers and servers there serves here

from penstock.client import Client  # noqa: E402
from penstock.clock import SECOND, SystemClock  # noqa: E402
from penstock.events.figures import id_at  # noqa: E402
from penstock.storage import Tx, sql  # noqa: E402
from penstock.storage.sqlite import SqliteDatabase  # noqa: E402
from support import chromium  # noqa: E402
from support.process import Up  # noqa: E402

Call = Callable[..., Any]

_DELIVERED = sql("""
INSERT INTO events (id, account, event_type, payload, status, created_at, delivered_at,
                    open_deliveries, delivery_attempts)
VALUES (:id, 'default', 'order.created', '{}', 'delivered', :at, :done, 0, 1)
""")


def main() -> None:
    """Take them all."""
    IMAGES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        chromium.receiver() as receiver,
        Up(Path(folder) / "data") as server,
        Client(server.url, server.token) as client,
    ):
        asyncio.run(_an_hour_before(server.data / "penstock.db"))
        pages = _at_work(client.call, receiver)
        link = client.call("POST", "/sign-in/link")["path"]
        _take(server.url + link, pages)


def _take(link: str, pages: dict[str, str]) -> None:
    with chromium.chromium() as browser:
        context = browser.new_context(base_url=link, viewport=SIZE)
        page = context.new_page()
        page.goto(link)
        for name, path in pages.items():
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                page.goto(path)
                picture = _small(browser, page.screenshot(clip=_filled(page)))
                (IMAGES / f"{name}-{scheme}.png").write_bytes(picture)
                print(f"docs/images/{name}-{scheme}.png: {len(picture) / 1024:.0f} KiB")
        context.close()


async def _an_hour_before(path: Path) -> None:
    """Events of the last hour, so that there is something to plot."""
    chance = random.Random(7)  # noqa: S311 - for a picture
    database = SqliteDatabase(path, SystemClock(), owner=False)
    await database.open()

    def fill(tx: Tx) -> None:
        now = tx.now()
        rows = []
        for minute in range(1, 60):
            for _ in range(int(30 + 18 * math.sin(minute / 9) + chance.random() * 12)):
                at = now - minute * 60 * SECOND + chance.randrange(60 * SECOND)
                took = int(chance.lognormvariate(-3.9, 0.5) * SECOND)
                id_ = f"{id_at(at)[:-12]}{chance.randrange(10**12):012}"
                rows.append({"id": id_, "at": at, "done": at + took})
        tx.many(_DELIVERED, rows)

    await database.unit(fill)
    await database.close()


def _at_work(call: Call, receiver: str) -> dict[str, str]:
    """Send and follow things; answers the addresses of the pages to show, by name."""
    shop = {"target": f"{receiver}/ok", "event_types": ["order.*"], "description": "Shop"}
    books = {"target": f"{receiver}/books", "event_types": ["invoice.*"], "on_permanent": "dead"}
    stock = {"target": f"{receiver}/ok", "event_types": ["stock.*"], "description": "Warehouse"}
    call("POST", "/v1/endpoints", shop)
    call("POST", "/v1/endpoints", books | {"description": "Bookkeeping"})
    mail = {"target": f"{receiver}/later", "event_types": ["cart.left"], "description": "Mailing"}
    call("POST", "/v1/endpoints", mail)
    left = {"event_type": "cart.left", "payload": {"cart": 77, "customer": {"name": "Zoë"}}}
    late = call("POST", "/v1/events", left)["event_id"]
    lane = f"delivery:{call('POST', '/v1/endpoints', stock)['endpoint_id']}"
    hold = {"state": "open", "for": "2h", "reason": "The warehouse moves to another data centre"}
    call("POST", f"/v1/lanes/{lane}/circuit", hold)
    customer = {"name": "Zoë", "city": "Lyon"}
    for n in range(12):
        order = {"order": 1042 + n, "total": "19.90", "currency": "EUR", "customer": customer}
        call("POST", "/v1/events", {"event_type": "order.created", "payload": order})
        if n % 3 == 0:
            invoice = {"event_type": "invoice.sent", "payload": {"order": 1042 + n}}
            died = call("POST", "/v1/events", invoice)["event_id"]
        if n % 4 == 0:
            low = {"sku": "chair-blue", "left": 3 - n // 4}
            call("POST", "/v1/events", {"event_type": "stock.low", "payload": low})
    for number, label in (("SBXDELIVERED1", "Blue chair"), ("SBXINTRANSIT2", None)):
        parcel = {"carrier": "sandbox", "tracking_number": number, "label": label}
        shipment = call("POST", "/v1/shipments", parcel)["shipment_id"]
        if label:
            shown = shipment
    deadline = time.monotonic() + 60
    while (
        call("GET", f"/v1/events/{died}")["open_deliveries"]
        or call("GET", f"/v1/events/{late}")["delivery_attempts"] < 4
        or not call("GET", f"/v1/shipments/{shown}")["scans"]
    ):
        if time.monotonic() > deadline:
            raise SystemExit("the server does not get on with its work")
        time.sleep(0.1)
    return {
        "overview": "/",
        "event": f"/events/{late}",
        "shipment": f"/shipments/{shown}",
        "lanes": "/lanes",
    }


def _filled(page: Page) -> Any:
    """The part of the window with something in it."""
    last = "document.querySelector('main').lastElementChild.getBoundingClientRect().bottom"
    end = page.evaluate(last) + 28
    return {"x": 0, "y": 0, "width": SIZE["width"], "height": min(SIZE["height"], int(end))}


def _small(browser: Browser, png: bytes) -> bytes:
    """The picture with at most 256 colours, which pages hardly exceed: a third of the size."""
    width, height, pixels = _pixels(browser, png)
    colours, where, counts = np.unique(pixels, axis=0, return_inverse=True, return_counts=True)
    kept = colours[np.argsort(-counts)[:COLOURS]]
    distances = ((colours[:, None, :].astype(int) - kept[None, :, :].astype(int)) ** 2).sum(axis=2)
    indexed = distances.argmin(axis=1).astype(np.uint8)[where.reshape(-1)].reshape(height, width)
    lines = np.hstack([np.zeros((height, 1), np.uint8), indexed]).tobytes()  # no filter
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(name, data)
        for name, data in (
            (b"IHDR", head),
            (b"PLTE", kept.astype(np.uint8).tobytes()),
            (b"IDAT", zlib.compress(lines, 9)),
            (b"IEND", b""),
        )
    )


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _pixels(browser: Browser, png: bytes) -> tuple[int, int, Any]:
    """Width, height and the colours of a picture: decoded by the browser that took it."""
    page: Page = browser.new_page()
    found = page.evaluate(
        """async (png) => {
          const image = new Image();
          image.src = "data:image/png;base64," + png;
          await image.decode();
          const canvas = new OffscreenCanvas(image.width, image.height);
          const context = canvas.getContext("2d");
          context.drawImage(image, 0, 0);
          const { data } = context.getImageData(0, 0, image.width, image.height);
          let text = "";
          for (let at = 0; at < data.length; at += 32768)
            text += String.fromCharCode(...data.subarray(at, at + 32768));
          return [image.width, image.height, btoa(text)];
        }""",
        base64.b64encode(png).decode(),
    )
    page.close()
    width, height, text = found
    raw = np.frombuffer(base64.b64decode(text), np.uint8).reshape(-1, 4)
    return width, height, raw[:, :3]


if __name__ == "__main__":
    try:
        main()
    except pytest.skip.Exception as exc:
        raise SystemExit(f"no pictures: {exc.msg}") from None
