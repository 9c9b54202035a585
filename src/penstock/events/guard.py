"""Keeps pushes from reaching addresses inside the house (server-side request forgery).

An endpoint's URL comes from outside. It is parsed strictly, its host is brought to the one
form that the system would connect to, and every address it stands for is checked: when the
endpoint is created, for a quick and clear answer, and once more when a connection is made
(`penstock.events.http`), which is the check that counts, since DNS may answer differently
by then.
"""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import unicodedata
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import quote

import idna

from penstock.errors import PenstockError
from penstock.events.guard_ranges import (
    Address,
    Network,
    canonical,
    embedded,
    metadata_network,
    why_forbidden,
)

# Looks a name up: (host, port) → addresses as text. Raises OSError if there are none.
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

MAX_URL = 2048  # characters
LOOKUP_TIMEOUT = 5.0  # seconds that creating an endpoint waits for DNS

_URL = re.compile(r"(https?)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.IGNORECASE)
_HOST_AND_PORT = re.compile(r"(\[[^\[\]]*\]|[^\[\]:]*)(?::([0-9]{1,5}))?", re.ASCII)
_NAME = re.compile(r"(?=.{1,253}\Z)(?:(?!-)[a-z0-9_-]{1,63}(?<!-)(?:\.|\Z))+(?<!\.)", re.ASCII)
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_NUMBERS = (
    (re.compile(r"0x[0-9a-f]+", re.ASCII), 16),
    (re.compile(r"0[0-7]*", re.ASCII), 8),
    (re.compile(r"[1-9][0-9]*", re.ASCII), 10),
)
_INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp", "Zs"))
_LOOPBACK: tuple[Address, ...] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))


class GuardRefused(PenstockError):
    """The target must not be reached; the message says why, for the person who named it."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL taken apart. `url` is its canonical text: store that and push to it.

    `host` has no brackets and is ASCII in lower case; `address` is set if it is an address.
    """

    scheme: str
    host: str
    port: int
    url: str
    address: Address | None = None

    @property
    def plain(self) -> bool:
        """Whether the URL is plain http."""
        return self.scheme == "http"


@lru_cache(maxsize=4096)
def parse_url(url: str) -> Target:
    """Take a URL apart, strictly; GuardRefused if it is not one that can be pushed to.

    Addresses are not judged here: see `Guard.check_url`.
    """
    if len(url) > MAX_URL:
        raise GuardRefused(f"the URL is longer than {MAX_URL} characters")
    if "\\" in url or any(unicodedata.category(character) in _INVISIBLE for character in url):
        raise GuardRefused("the URL contains white space, a control character or a backslash")
    parts = _URL.fullmatch(url)
    if parts is None:
        raise GuardRefused("the URL must begin with https:// or http:// and name a host")
    scheme, authority, path, query = parts[1].lower(), parts[2], parts[3], parts[4]
    if "@" in authority:
        raise GuardRefused("the URL contains a user or password; send them in a header instead")
    found = _HOST_AND_PORT.fullmatch(authority)
    if found is None:
        raise GuardRefused("the URL's host or port is malformed")
    default = 443 if scheme == "https" else 80
    port = default if found[2] is None else int(found[2])
    if not 1 <= port <= 65535:
        raise GuardRefused("the URL's port must be between 1 and 65535")
    host = _host(found[1])
    text = f"[{host}]" if isinstance(host, IPv6Address) else str(host)
    canonical_url = f"{scheme}://{text}" + ("" if port == default else f":{port}")
    canonical_url += quote(path, safe="/%:@!$&'()*+,;=~") or "/"
    if query:
        canonical_url += "?" + quote(query, safe="/?%:@!$&'()*+,;=~")
    if len(canonical_url) > MAX_URL:
        raise GuardRefused(f"the URL is longer than {MAX_URL} characters once it is encoded")
    address = None if isinstance(host, str) else host
    return Target(scheme, str(host), port, canonical_url, address)


def _host(text: str) -> str | Address:
    """The host as the system would understand it: a DNS name in ASCII, or an address."""
    if text.startswith("["):
        try:
            if "%" not in text:  # a zone says which of this machine's links to use
                return IPv6Address(text[1:-1])
        except ValueError:
            pass
        raise GuardRefused("the URL's host in brackets is not an IPv6 address")
    # Full-width digits, circled letters and ideographic full stops are ASCII to a resolver.
    name = unicodedata.normalize("NFKC", text).lower().replace("\u3002", ".")
    if not name.isascii() and len(name) <= 253:
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError) as error:
            raise GuardRefused("the URL's host is not a valid international name") from error
    name = name.removesuffix(".")
    if _NUMERIC_LABEL.fullmatch(name.rpartition(".")[2]):
        return parse_ipv4(name)
    if not _NAME.fullmatch(name):
        raise GuardRefused("the URL's host is not a valid name")
    return name


def parse_ipv4(text: str) -> IPv4Address:
    """An IPv4 address in any form that inet_aton takes: 127.1, 0x7f000001, 0177.0.0.1, …"""
    numbers: list[int] = []
    for part in text.split("."):
        base = next((base for form, base in _NUMBERS if form.fullmatch(part)), None)
        if base is None:
            raise GuardRefused("the URL's host looks like an IPv4 address but is not one")
        numbers.append(int(part, base))
    *first, last = numbers
    # The last number fills all the bytes that are left.
    if len(numbers) > 4 or max(first, default=0) > 255 or last >= 256 ** (5 - len(numbers)):
        raise GuardRefused("the URL's host looks like an IPv4 address but is not one")
    return IPv4Address(last + sum(byte << (24 - 8 * i) for i, byte in enumerate(first)))


def is_localhost(host: str) -> bool:
    """Whether the name means this machine by itself (RFC 6761, section 6.3)."""
    return host == "localhost" or host.endswith(".localhost")


class Guard:
    """Judges addresses and URLs. `allow` names networks that are reachable all the same.

    Plain http is for addresses in `allow` only. Metadata services need an entry that lies
    inside their own network: 0.0.0.0/0 does not open 169.254.169.254, 169.254.0.0/16 does.
    """

    def __init__(self, allow: Sequence[Network] = ()) -> None:
        self.allow = tuple(allow)
        # RFC 6761 leaves loopback names to us. Those that may not be reached are left out,
        # so that allowing 127.0.0.0/8 alone makes http://localhost usable.
        self._loopback = tuple(str(one) for one in _LOOPBACK if self.allows(one))

    def allows(self, address: Address) -> bool:
        """Whether the allow list names the address."""
        metadata = metadata_network(address)
        return any(
            address in network and (metadata is None or _inside(network, metadata))
            for network in self.allow
        )

    def check_address(self, address: Address | str, *, plain: bool = False) -> None:
        """GuardRefused unless a push may reach the address; `plain`: without TLS."""
        why = self._objection(address, plain)
        if why:
            raise GuardRefused(f"the address {address} may not be reached: {why}")

    def check_url(self, url: str) -> Target:
        """Parse the URL and judge what can be judged without asking DNS."""
        target = parse_url(url)
        if target.address is not None:
            self.check_address(target.address, plain=target.plain)
        elif is_localhost(target.host):
            self._local_addresses(target.host)
        elif target.plain and not self.allow:
            raise GuardRefused("the URL must begin with https://")
        return target

    async def resolve_and_check(
        self, target: Target, resolve: Resolve | None = None
    ) -> tuple[str, ...]:
        """Look the target's host up and judge every address; GuardRefused if one may not be
        reached, if there is none, or if DNS takes longer than `LOOKUP_TIMEOUT`.
        """
        if target.address is not None:
            self.check_address(target.address, plain=target.plain)
            return (str(target.address),)
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT):
                return await self.addresses(
                    target.host, target.port, resolve or system_resolve, plain=target.plain
                )
        except TimeoutError as error:
            raise GuardRefused(
                f"looking up the host {target.host} took more than {LOOKUP_TIMEOUT:g} s"
            ) from error
        except OSError as error:
            if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
                raise GuardRefused(
                    f"the host {target.host} cannot be looked up at the moment"
                ) from error
            raise GuardRefused(f"the host {target.host} does not resolve") from error

    async def addresses(
        self, host: str, port: int, resolve: Resolve, *, plain: bool = False
    ) -> tuple[str, ...]:
        """The host's addresses if all may be reached, else GuardRefused; OSError if none."""
        if is_localhost(host):
            return self._local_addresses(host)
        found = tuple(await resolve(host, port))
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "the name has no address")
        for address in found:
            why = self._objection(address, plain)
            if why:
                # The address is not named: outsiders could map internal DNS with it.
                raise GuardRefused(f"the host {host} leads to a forbidden address: {why}")
        return found

    def _local_addresses(self, host: str) -> tuple[str, ...]:
        if not self._loopback:
            raise GuardRefused(f"the host {host} may not be reached: loopback (RFC 6761)")
        return self._loopback

    def _objection(self, address: Address | str, plain: bool) -> str | None:
        try:
            outer = canonical(ip_address(address))
        except ValueError:
            return "not an address"
        for one in (outer, *embedded(outer)):
            why = why_forbidden(one)
            if why and not self.allows(one):
                return why if one is outer else f"it carries {one}, {why}"
        if plain and not self.allows(outer):
            return "https:// is required"
        return None


def _inside(network: Network, other: Network) -> bool:
    if isinstance(network, IPv4Network) and isinstance(other, IPv4Network):
        return network.subnet_of(other)
    if isinstance(network, IPv6Network) and isinstance(other, IPv6Network):
        return network.subnet_of(other)
    return False


async def system_resolve(host: str, port: int) -> tuple[str, ...]:
    """Ask the system's resolver (getaddrinfo); OSError if the name has no address.

    Each lookup has a daemon thread of its own. getaddrinfo cannot be interrupted and may
    hang for half a minute; in a shared pool a few dead name servers would hold up every
    other lookup, and the process at its exit. Callers bound and share the lookups.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[tuple[str, ...]] = loop.create_future()

    def settle(found: tuple[str, ...], error: Exception | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(found)
        else:
            answer.set_exception(error)

    def look_up() -> None:
        found: tuple[str, ...] = ()
        failure: Exception | None = None
        try:
            infos = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
            )
            found = tuple(dict.fromkeys(str(info[4][0]) for info in infos))
        except (OSError, UnicodeError) as error:
            failure = error if isinstance(error, OSError) else OSError(str(error))
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, found, failure)

    threading.Thread(target=look_up, name=f"dns {host}", daemon=True).start()
    return await answer
