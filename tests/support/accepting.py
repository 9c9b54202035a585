"""The end of a server's listening, without a connection that is left open by it.

asyncio takes a connection in two steps, and a server that is closed between them (Python 3.11)
drops what it has taken, neither closed nor told of: the next collection of garbage warns of it, in
whatever test and thread that is.
"""

from __future__ import annotations

import asyncio

from aiohttp import web


async def stop_accepting(of: web.AppRunner | asyncio.Server) -> None:
    """Take no more connections; on return those that were taken have begun."""
    loop = asyncio.get_running_loop()
    servers = [site._server for site in of.sites] if isinstance(of, web.AppRunner) else [of]
    for server in servers:
        for listening in getattr(server, "sockets", ()):
            loop.remove_reader(listening.fileno())
    await asyncio.sleep(0)
