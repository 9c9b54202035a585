"""Which addresses a push must not reach, and the IPv4 addresses hidden inside IPv6 ones.

Sources: the IANA special-purpose address registries for IPv4 and IPv6, RFC 4291 for what
lies outside global unicast, and the cloud providers' documentation for metadata services.
"""

from __future__ import annotations

from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_network,
)
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Services that hand out a machine's credentials or control it. They are kept apart because
# a wide entry in the allow list (0.0.0.0/0, or the 100.64.0.0/10 of a VPN) must
# not open them by accident: only an entry that lies inside one of these networks does.
METADATA: Final[tuple[tuple[Network, str], ...]] = tuple(
    (ip_network(cidr), why)
    for cidr, why in (
        ("169.254.0.0/16", "link-local, where cloud metadata services live (RFC 3927)"),
        ("100.100.100.200/32", "the metadata service of Alibaba Cloud"),
        ("168.63.129.16/32", "the platform service of Azure"),
        ("192.0.0.192/32", "the metadata service of Oracle Cloud"),
        ("fd00:ec2::/32", "the metadata services of AWS"),
        ("fd00:c1::a9fe:a9fe/128", "the metadata service of Oracle Cloud"),
        ("fd20:ce::254/128", "the metadata service of Google Cloud"),
    )
)

# The first network that contains an address gives the reason, so narrow ones come first.
FORBIDDEN: Final[tuple[tuple[Network, str], ...]] = METADATA + tuple(
    (ip_network(cidr), why)
    for cidr, why in (
        ("0.0.0.0/8", "this network (RFC 791)"),
        ("10.0.0.0/8", "private (RFC 1918)"),
        ("100.64.0.0/10", "shared by carrier-grade NAT (RFC 6598)"),
        ("127.0.0.0/8", "loopback (RFC 1122)"),
        ("172.16.0.0/12", "private (RFC 1918)"),
        ("192.0.0.0/24", "protocol assignments (RFC 6890)"),
        ("192.0.2.0/24", "documentation (RFC 5737)"),
        ("192.88.99.0/24", "6to4 relays (RFC 7526)"),
        ("192.168.0.0/16", "private (RFC 1918)"),
        ("198.18.0.0/15", "benchmarking (RFC 2544)"),
        ("198.51.100.0/24", "documentation (RFC 5737)"),
        ("203.0.113.0/24", "documentation (RFC 5737)"),
        ("224.0.0.0/4", "multicast (RFC 5771)"),
        ("255.255.255.255/32", "broadcast (RFC 919)"),
        ("240.0.0.0/4", "reserved (RFC 1112)"),
        ("::/128", "unspecified (RFC 4291)"),
        ("::1/128", "loopback (RFC 4291)"),
        ("::/96", "IPv4-compatible (RFC 4291)"),
        ("::ffff:0:0:0/96", "IPv4-translated (RFC 2765)"),
        ("64:ff9b::/96", "NAT64 (RFC 6052)"),
        ("64:ff9b:1::/48", "local NAT64 (RFC 8215)"),
        ("100::/64", "discarded (RFC 6666)"),
        ("2001::/32", "Teredo (RFC 4380)"),
        ("2001::/23", "protocol assignments (RFC 2928)"),
        ("2001:db8::/32", "documentation (RFC 3849)"),
        ("2002::/16", "6to4 (RFC 3056)"),
        ("3fff::/20", "documentation (RFC 9637)"),
        ("5f00::/16", "segment routing (RFC 9602)"),
        ("fc00::/7", "unique local (RFC 4193)"),
        ("fe80::/10", "link-local (RFC 4291)"),
        ("fec0::/10", "site-local (RFC 3879)"),
        ("ff00::/8", "multicast (RFC 4291)"),
        # 2000::/3 is all the global unicast space there is; the rest leads nowhere good.
        ("::/3", "outside global unicast (RFC 4291)"),
        ("4000::/2", "outside global unicast (RFC 4291)"),
        ("8000::/1", "outside global unicast (RFC 4291)"),
    )
)

_COMPATIBLE: Final = IPv6Network("::/96")
_TRANSLATED: Final = IPv6Network("::ffff:0:0:0/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_LOCAL_NAT64: Final = IPv6Network("64:ff9b:1::/48")
_THIS_NETWORK: Final = IPv4Network("0.0.0.0/8")


def canonical(address: Address) -> Address:
    """The address without its zone, and as IPv4 if it is IPv4-mapped.

    The system connects to ``::ffff:127.0.0.1`` by IPv4, so it is that address and no other.
    """
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))
    return address


def embedded(address: Address) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses that a gateway may read out of a translated or tunnelled address."""
    if isinstance(address, IPv4Address):
        return ()
    if int(address) <= 1:  # unspecified and loopback look IPv4-compatible but carry nothing
        return ()
    if address in _COMPATIBLE or address in _TRANSLATED or address in _NAT64:
        return (IPv4Address(int(address) & 0xFFFFFFFF),)
    if address in _LOCAL_NAT64:
        return _local_nat64(int(address))
    if address.sixtofour is not None:
        return (address.sixtofour,)
    return address.teredo or ()


def _local_nat64(bits: int) -> tuple[IPv4Address, ...]:
    """What RFC 6052 prefixes of 48, 56, 64 and 96 bits read; the address does not say which.

    A prefix of another length than the one in use finds zeros where it looks, so readings
    in 0.0.0.0/8 are left out unless there are no others.
    """
    low = bits & (2**80 - 1)  # what follows the /48
    readings = tuple(
        IPv4Address(value)
        for value in (
            (low >> 64) << 16 | (low >> 40) & 0xFFFF,
            ((low >> 64) & 0xFF) << 24 | (low >> 32) & 0xFFFFFF,
            (low >> 24) & 0xFFFFFFFF,
            low & 0xFFFFFFFF,
        )
    )
    return tuple(one for one in readings if one not in _THIS_NETWORK) or readings


def metadata_network(address: Address) -> Network | None:
    """The metadata network that contains the address."""
    return next((network for network, _ in METADATA if address in network), None)


def why_forbidden(address: Address) -> str | None:
    """Why a push must not reach the address, looking at its outer form only."""
    return next((why for network, why in FORBIDDEN if address in network), None)
