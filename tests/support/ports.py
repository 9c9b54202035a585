"""Ports that stay free until whoever is told of them listens there."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reserved() -> Iterator[int]:
    """A port of loopback on which nobody listens, and that nobody is given who asks for any.

    It is bound here and not listened on: connections are refused. Servers, which say SO_REUSEADDR,
    may bind it all the same, one after another. Linux alone has it so; elsewhere the port is free.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        if sys.platform != "linux":
            holder.close()
        yield port
