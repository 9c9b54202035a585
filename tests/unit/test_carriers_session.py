"""The pool of connections to carriers."""

from __future__ import annotations

import pytest

from penstock.tracking.carriers.http import CONNECT, READ, carrier_session
from penstock.tracking.poll import SLOTS

pytestmark = pytest.mark.anyio


async def test_a_slow_carrier_cannot_take_the_connections_of_the_others() -> None:
    """Every check that may run at once has one."""
    async with carrier_session() as session:
        assert session.connector is not None
        assert session.connector.limit >= SLOTS


async def test_calls_are_bounded_in_time() -> None:
    async with carrier_session() as session:
        assert session.timeout.connect == CONNECT == 3
        assert session.timeout.sock_read == READ == 10
        assert session.timeout.total == 13
