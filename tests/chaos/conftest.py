"""Fixtures of the chaos tests."""

from __future__ import annotations

from support.fixtures import api, receiver, server, start, topic

__all__ = ["api", "receiver", "server", "start", "topic"]
