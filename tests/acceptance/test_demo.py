"""`penstock demo`: every kind of work is there soon after it is ready, and what it says works."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.client import Api
from support.process import Process, Up, run

pytestmark = pytest.mark.anyio
# The demo must be populated within five seconds; here the machine may be very busy.
POPULATED = 40.0


async def _played(demo: Up) -> str:
    """What it has printed once it is through."""
    async with asyncio.timeout(90):
        while "Ctrl-C" not in demo.stdout:
            assert demo.popen.poll() is None, demo.stderr
            await asyncio.sleep(0.05)
    return demo.stdout


async def test_the_demo_shows_everything_at_work_and_stays_up(
    start: Callable[..., Process], tmp_path: Path
) -> None:
    demo = start(Up, tmp_path / "data", command="demo")
    assert isinstance(demo, Up)
    ready = time.monotonic()
    text = await _played(demo)

    assert time.monotonic() - ready < POPULATED
    assert re.search(r"demo\.order_created\s+delivered", text)
    assert re.search(r"demo\.order_paid\s+delivered.*\n.*answers: 503, 503, 200", text)
    assert re.search(r"demo\.invoice_sent\s+pending.*\n.*answers: 503, 503", text)
    assert re.search(r"demo\.order_lost\s+failed.*\n.*dead\s+answers: 422", text)
    assert re.search(r"demo\.stock_changed\s+pending.*\n.*answers: none  .*nothing is sent", text)
    assert re.search(r"out_for_delivery +On the van", text)
    assert re.search(r"399 customers were scored.*set aside", text)
    async with Api(demo.url, demo.token) as api:
        assert (await api.call("GET", "/health/ready")).status == 200
        lanes = (await api.ok("GET", "/v1/lanes", query={"stopped": "true"}))["items"]
        assert "circuit_open" in {lane["state"] for lane in lanes}
        dead = (await api.ok("GET", "/v1/dead"))["items"]
        assert [each["reason"] for each in dead if "422" in each["reason"]]
        kinds = {
            each["event_type"] for each in (await api.ok("GET", "/v1/events?limit=100"))["items"]
        }
        assert any(kind.startswith("shipment.") for kind in kinds)
        assert any(kind.startswith("prediction.") for kind in kinds)
        # What it says to try next works: looking, sending, redriving.
        link = re.search(r"Look: +http://[^/]+(/sign-in\S+)", text)
        assert link is not None
        assert (await api.call("GET", link[1])).status == 200
        sent = await run("events", "send", "demo.hello", '{"text": "hello"}', data=demo.data)
        assert sent.code == 0
        redriven = await run("dead", "redrive", "--all", "--yes", data=demo.data)
        assert "Sent again: 1" in redriven.stdout
        lost = re.search(r"demo\.order_lost\s+failed\s+(\S+)", text)
        assert lost is not None
        async with asyncio.timeout(60):
            while (await api.event(lost[1]))["status"] == "failed":
                await asyncio.sleep(0.05)
        assert (await api.final(lost[1]))["status"] == "replayed"
    demo.signal(signal.SIGINT)
    assert await demo.ended() == 0
    assert "Traceback" not in demo.stderr
    # And once more on the same folder.
    again = start(Up, tmp_path / "data", command="demo")
    assert isinstance(again, Up)
    assert (await _played(again)).count("answers: ") == text.count("answers: ")
    again.kill()


async def test_the_demo_says_what_is_missing(start: Callable[..., Process], tmp_path: Path) -> None:
    # As where the extra is not installed.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "found = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name in ('numpy', 'pyarrow') else found(name, *a)\n"
    )
    demo = start(Up, tmp_path / "data", command="demo", env={"PYTHONPATH": str(tmp_path)})
    assert isinstance(demo, Up)
    text = await _played(demo)

    assert "pip install 'penstock[predictions]'" in text
    assert "customers were scored" not in text
