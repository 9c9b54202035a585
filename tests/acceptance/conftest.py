"""Fixtures of the acceptance tests."""

from __future__ import annotations

from support.fixtures import api, port, receiver, server, start, topic
from support.house import house

__all__ = ["api", "house", "port", "receiver", "server", "start", "topic"]
