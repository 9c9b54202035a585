"""The Zapier integration of examples/zapier, run by Zapier's own platform, on a real server."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from support.client import Api
from support.node import installed
from support.process import Up

pytestmark = pytest.mark.anyio

EXAMPLE = Path(__file__).parents[2] / "examples" / "zapier"


async def test_a_zap_lives_and_ends(server: Up, api: Api, tmp_path: Path) -> None:
    """With a key that may do no more than docs/how-to/connect-zapier.md gives it."""
    copy = await asyncio.to_thread(installed, EXAMPLE, tmp_path)
    scopes = ["endpoints:write", "events:read", "events:write"]  # the last is the test's own
    made = await api.ok("POST", "/v1/keys", {"name": "zapier", "scopes": scopes})
    environment = os.environ | {"PENSTOCK_URL": server.url, "PENSTOCK_KEY": made["key"]}
    done = await asyncio.to_thread(
        subprocess.run,
        ["node", "--test", "--test-reporter=tap", "test/event.test.js"],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# pass 5\n" in done.stdout, done.stdout
    assert (await api.ok("GET", "/v1/endpoints"))["items"] == []
