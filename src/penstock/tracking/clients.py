"""The carriers' clients of one process: one for each credential, made when first needed."""

from __future__ import annotations

from collections.abc import Mapping
from weakref import WeakSet

import aiohttp

from penstock.clock import Clock
from penstock.tracking.carriers.base import Carrier
from penstock.tracking.credentials import Credentials


class Clients:
    """A client keeps its credential's token, so it is kept too.

    `base_urls` are those that differ from the carriers' own, by carrier.
    """

    def __init__(
        self,
        credentials: Credentials,
        session: aiohttp.ClientSession,
        clock: Clock,
        base_urls: Mapping[str, str],
    ) -> None:
        self._credentials = credentials
        self._session = session
        self._clock = clock
        self._base_urls = base_urls
        self._clients: dict[str, tuple[int, Carrier]] = {}
        # Calls may be under way with them; those end with their last call, however many there are.
        self._replaced: WeakSet[Carrier] = WeakSet()

    def get(
        self, lane: str, account: str, carrier: str, sealed: str | None, version: int | None
    ) -> Carrier | None:
        """The client of a lane, with the credential of this version; None = there is none.

        Raises SecretBoxError if the credential cannot be opened.
        """
        wanted = version or 0
        known = self._clients.get(lane)
        if known is not None and known[0] == wanted:
            return known[1]
        credential = self._credentials.open(lane, account, carrier, sealed)
        if credential is None:
            return None
        spec = self._credentials.specs[carrier]
        base_url = self._base_urls.get(carrier, spec.base_url)
        client = spec.make(credential, base_url, self._session, self._clock)
        if known is not None:
            self._replaced.add(known[1])
        self._clients[lane] = (wanted, client)
        return client

    async def close(self) -> None:
        """End what is under way, and give back the connections."""
        for client in [*self._replaced, *(client for _, client in self._clients.values())]:
            await client.close()
        await self._session.close()
