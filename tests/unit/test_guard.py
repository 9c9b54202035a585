from __future__ import annotations

import asyncio
import socket
import threading
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from penstock.events.guard import Guard, GuardRefused, parse_ipv4, parse_url, system_resolve
from penstock.events.guard_ranges import FORBIDDEN, canonical, embedded

STRICT = Guard()


def refused(url: str, guard: Guard = STRICT) -> str:
    with pytest.raises(GuardRefused) as caught:
        guard.check_url(url)
    return str(caught.value)


# --- addresses ---------------------------------------------------------------------------

# First and last address of every forbidden range, and the neighbours that are outside of it
# (None where the neighbour belongs to another forbidden range).
RANGES = [
    ("0.0.0.0", "0.255.255.255", None, "1.0.0.0"),
    ("10.0.0.0", "10.255.255.255", "9.255.255.255", "11.0.0.0"),
    ("100.64.0.0", "100.127.255.255", "100.63.255.255", "100.128.0.0"),
    ("127.0.0.0", "127.255.255.255", "126.255.255.255", "128.0.0.0"),
    ("168.63.129.16", "168.63.129.16", "168.63.129.15", "168.63.129.17"),
    ("169.254.0.0", "169.254.255.255", "169.253.255.255", "169.255.0.0"),
    ("172.16.0.0", "172.31.255.255", "172.15.255.255", "172.32.0.0"),
    ("192.0.0.0", "192.0.0.255", "191.255.255.255", "192.0.1.0"),
    ("192.0.2.0", "192.0.2.255", "192.0.1.255", "192.0.3.0"),
    ("192.88.99.0", "192.88.99.255", "192.88.98.255", "192.88.100.0"),
    ("192.168.0.0", "192.168.255.255", "192.167.255.255", "192.169.0.0"),
    ("198.18.0.0", "198.19.255.255", "198.17.255.255", "198.20.0.0"),
    ("198.51.100.0", "198.51.100.255", "198.51.99.255", "198.51.101.0"),
    ("203.0.113.0", "203.0.113.255", "203.0.112.255", "203.0.114.0"),
    ("224.0.0.0", "239.255.255.255", "223.255.255.255", None),
    ("240.0.0.0", "255.255.255.255", None, None),
    ("::", "::", None, None),
    ("::1", "::1", None, None),
    ("::2", "::fffe:ffff:ffff", None, None),
    ("::ffff:0:0:0", "::ffff:0:ffff:ffff", None, None),
    ("64:ff9b::", "64:ff9b::ffff:ffff", None, None),
    ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", None, None),
    ("100::", "100::ffff:ffff:ffff:ffff", None, None),
    ("1fff:ffff::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, "2000::"),
    ("2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff", None, None),
    (
        "2001::",
        "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
        "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "2001:200::",
    ),
    (
        "2001:db8::",
        "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
        "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
        "2001:db9::",
    ),
    (
        "2002::",
        "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "2003::",
    ),
    (
        "3fff::",
        "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
        "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "3fff:1000::",
    ),
    ("4000::", "7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, None),
    ("5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, None),
    ("8000::", "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, None),
    ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, None),
    ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, None),
    ("fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, None),
    ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, None),
]


@pytest.mark.parametrize(("first", "last", "before", "after"), RANGES)
def test_ranges_and_their_neighbours(
    first: str, last: str, before: str | None, after: str | None
) -> None:
    for address in (first, last):
        with pytest.raises(GuardRefused):
            STRICT.check_address(address)
    for address in (before, after):
        if address is not None:
            STRICT.check_address(address)


def test_the_reason_names_the_narrowest_range() -> None:
    for address, reason in {
        "10.1.2.3": "RFC 1918",
        "169.254.169.254": "metadata",
        "168.63.129.16": "Azure",
        "fd00:ec2::254": "AWS",
        "fd20:ce::254": "Google",
        "fd12::1": "unique local",
        "::1": "loopback",
        "fe80::1%eth0": "link-local",
        "64:ff9b::808:808": "NAT64",
    }.items():
        with pytest.raises(GuardRefused, match=reason):
            STRICT.check_address(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_pass(address: str) -> None:
    STRICT.check_address(address)


@pytest.mark.parametrize("address", ["", "example.com", "127.1", "1.2.3.4.5", "0x7f000001"])
def test_what_is_not_an_address_is_refused(address: str) -> None:
    with pytest.raises(GuardRefused, match="not an address"):
        STRICT.check_address(address)


def nat64(prefix: str, length: int, inner: IPv4Address) -> IPv6Address:
    """RFC 6052 section 2.2: the IPv4 bits follow the prefix and step over bits 64 to 71."""
    bits = "".join(f"{byte:08b}" for byte in ip_network(prefix).network_address.packed)[:length]
    for bit in f"{int(inner):032b}":
        if len(bits) == 64:
            bits += "0" * 8
        bits += bit
    return IPv6Address(int(bits.ljust(128, "0"), 2))


def wrapped(inner: IPv4Address) -> list[IPv6Address]:
    value = int(inner)
    return [
        IPv6Address(0xFFFF << 32 | value),  # mapped
        IPv6Address(value),  # compatible
        IPv6Address(0xFFFF << 48 | value),  # translated
        nat64("64:ff9b::/96", 96, inner),
        *(nat64("64:ff9b:1::/48", length, inner) for length in (48, 56, 64, 96)),
        IPv6Address(0x2002 << 112 | value << 80 | 1),  # 6to4
        IPv6Address(0x20010000 << 96 | int(IPv4Address("8.8.8.8")) << 64 | value ^ 0xFFFFFFFF),
        IPv6Address(0x20010000 << 96 | value << 64 | int(IPv4Address("8.8.8.8")) ^ 0xFFFFFFFF),
    ]


def test_addresses_inside_addresses_are_found() -> None:
    inner = IPv4Address("169.254.169.254")
    for outer in wrapped(inner):
        assert canonical(outer) == inner or inner in embedded(canonical(outer)), outer


def test_allowing_the_wrapper_does_not_allow_what_it_carries() -> None:
    everything_v6 = Guard([ip_network("::/0")])
    for outer in wrapped(IPv4Address("10.0.0.1")):
        with pytest.raises(GuardRefused, match="RFC 1918"):
            everything_v6.check_address(outer)
    everything_v6.check_address("64:ff9b::808:808")
    for length in (48, 56, 64, 96):
        everything_v6.check_address(nat64("64:ff9b:1::/48", length, IPv4Address("93.184.215.14")))
    both = Guard([ip_network("::/0"), ip_network("10.0.0.0/8")])
    for outer in wrapped(IPv4Address("10.0.0.1")):
        both.check_address(outer)


def test_allowed_networks_are_reachable_and_no_others() -> None:
    guard = Guard([ip_network("10.0.0.0/8"), ip_network("fd12::/16")])
    guard.check_address("10.200.0.1")
    guard.check_address("::ffff:10.0.0.1")
    guard.check_address("fd12::1")
    for address in ("127.0.0.1", "192.168.0.1", "169.254.169.254", "fd13::1", "fd00:ec2::254"):
        with pytest.raises(GuardRefused):
            guard.check_address(address)


@pytest.mark.parametrize(
    ("metadata", "too_wide", "named"),
    [
        ("169.254.169.254", "0.0.0.0/0", "169.254.169.254/32"),
        ("169.254.170.2", "169.0.0.0/8", "169.254.0.0/16"),
        ("100.100.100.200", "100.64.0.0/10", "100.100.100.200/32"),
        ("192.0.0.192", "192.0.0.0/24", "192.0.0.192/32"),
        ("168.63.129.16", "168.63.0.0/16", "168.63.129.16/32"),
        ("fd00:ec2::254", "fd00::/8", "fd00:ec2::254/128"),
        ("::ffff:169.254.169.254", "::/0", "169.254.169.254/32"),
    ],
)
def test_metadata_is_allowed_only_by_name(metadata: str, too_wide: str, named: str) -> None:
    with pytest.raises(GuardRefused):
        Guard([ip_network(too_wide)]).check_address(metadata)
    Guard([ip_network(named)]).check_address(metadata)


def test_plain_http_is_for_allowed_addresses_only() -> None:
    guard = Guard([ip_network("10.0.0.0/8")])
    guard.check_address("10.0.0.1", plain=True)
    guard.check_address("8.8.8.8")
    with pytest.raises(GuardRefused, match="https"):
        guard.check_address("8.8.8.8", plain=True)


# --- URLs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1.",
        "2130706433",
        "0x7f000001",
        "0X7F000001",
        "0177.0.0.1",
        "017700000001",
        "00000177.0.0.1",
        "127.1",
        "127.0.1",
        "0x7f.1",
        "0x7f.0.0.0x1",
        "0177.0x0.0.01",
        "１２７.0.0.1",
        "127。0。0。1",
        "127．0．0．1",
        "127｡0｡0｡1",
        "①②⑦.⓪.⓪.①",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:FFFF:7F00:0001]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b:1::7f00:1]",
        "[2002:7f00:1::]",
        "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "ｌocalhost",
        "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
        "a.b.localhost",
        "0",
        "0.0.0.0",
        "[::]",
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "169.254.43518",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[fd00:ec2::254]",
        "100.100.100.200",
        "192.0.0.192",
        "10.0.0.1",
        "192.168.1.1",
        "172.31.255.255",
        "255.255.255.255",
    ],
)
@pytest.mark.parametrize("scheme", ["https", "http"])
def test_every_form_of_an_internal_address_is_refused(host: str, scheme: str) -> None:
    assert "may not be reached" in refused(f"{scheme}://{host}/hook")
    assert "may not be reached" in refused(f"{scheme}://{host}:8080/hook")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "must begin with"),
        ("example.com", "must begin with"),
        ("//example.com/", "must begin with"),
        ("https:example.com", "must begin with"),
        ("https:/example.com", "must begin with"),
        ("ftp://example.com", "must begin with"),
        ("file:///etc/passwd", "must begin with"),
        ("gopher://127.0.0.1:6379/_", "must begin with"),
        ("javascript:alert(1)", "must begin with"),
        ("https://", "not a valid name"),
        ("https:///path", "not a valid name"),
        ("https://user@example.com", "header"),
        ("https://user:word@example.com", "header"),
        ("https://@example.com", "header"),
        ("https://example.com@127.0.0.1/", "header"),
        ("https://example.com\\@127.0.0.1/", "backslash"),
        ("https:\\\\127.0.0.1", "backslash"),
        ("https://example.com /", "white space"),
        (" https://example.com/", "white space"),
        ("https://example.com/\r\nHost: x", "white space"),
        ("https://exa\tmple.com/", "white space"),
        ("https://example.com/\x00", "white space"),
        ("https://example.com/\u2028", "white space"),
        ("https://127.0.0\u200b.1/", "white space"),
        ("https://127.0.0\u00ad.1/", "white space"),
        ("https://example.com/\ud800", "white space"),
        ("https://example.com:0/", "port"),
        ("https://example.com:65536/", "port"),
        ("https://example.com:123456/", "port"),
        ("https://example.com:/", "port"),
        ("https://example.com:-1/", "port"),
        ("https://example.com:８０/", "port"),
        ("https://example.com:80:80/", "port"),
        ("https://::1/", "port"),
        ("https://[::1/", "port"),
        ("https://[::1]x/", "port"),
        ("https://[[::1]]/", "port"),
        ("https://[127.0.0.1]/", "IPv6"),
        ("https://[v1.x]/", "IPv6"),
        ("https://[fe80::1%25eth0]/", "IPv6"),
        ("https://[fe80::1%eth0]/", "IPv6"),
        ("https://[::ffff:0177.0.0.1]/", "IPv6"),
        ("https://%31%32%37.0.0.1/", "IPv4"),
        ("https://127.0.0.1%00.example.com/", "valid name"),
        ("https://example%2ecom/", "valid name"),
        ("https://1.2.3.4.5/", "IPv4"),
        ("https://256.1.1.1/", "IPv4"),
        ("https://1.2.3.256/", "IPv4"),
        ("https://1.2.65536/", "IPv4"),
        ("https://4294967296/", "IPv4"),
        ("https://08.1.1.1/", "IPv4"),
        ("https://0x/", "IPv4"),
        ("https://0xg.1/", "IPv4"),
        ("https://1..1/", "IPv4"),
        ("https://example.1/", "IPv4"),
        ("https://example..com/", "valid name"),
        ("https://example.com../", "valid name"),
        ("https://.example.com/", "valid name"),
        ("https://-a.example/", "valid name"),
        ("https://a-.example/", "valid name"),
        ("https://" + "a" * 64 + ".example/", "valid name"),
        ("https://" + "a." * 127 + "example/", "valid name"),
        ("https://exa℀mple.com/", "valid"),
        ("https://example.com／@x/", "header"),
        ("https://example.com＃.evil.com/", "valid name"),
        ("https://a\u0301\u0301.\u0378/", "international"),
        ("https://example.com/" + "a" * 2048, "2048"),
        ("https://example.com/" + "ü" * 1000, "2048"),
    ],
)
def test_malformed_urls_are_refused(url: str, says: str) -> None:
    assert says in refused(url, Guard([ip_network("0.0.0.0/0"), ip_network("::/0")]))


@pytest.mark.parametrize(
    ("url", "canonical_url"),
    [
        ("https://example.com", "https://example.com/"),
        ("HTTPS://Example.COM.:443/A?b=C#d", "https://example.com/A?b=C"),
        ("https://example.com:8443/x", "https://example.com:8443/x"),
        ("https://example.com?x=1", "https://example.com/?x=1"),
        ("https://bücher.example/ä?ö=ü", "https://xn--bcher-kva.example/%C3%A4?%C3%B6=%C3%BC"),
        ("https://faß.example/", "https://xn--fa-hia.example/"),
        ("https://a_b.example/", "https://a_b.example/"),
        ("https://134744072/", "https://8.8.8.8/"),
        ("https://[2606:4700:0:0::1111]:444/", "https://[2606:4700::1111]:444/"),
        ("https://example.com/a%2Fb%zz'\"<>", "https://example.com/a%2Fb%zz'%22%3C%3E"),
        ("https://example.com/?u=https://x.y/?z#f", "https://example.com/?u=https://x.y/?z"),
        ("https://1.example/", "https://1.example/"),
    ],
)
def test_urls_are_brought_to_one_form(url: str, canonical_url: str) -> None:
    target = STRICT.check_url(url)
    assert target.url == canonical_url
    assert STRICT.check_url(target.url) == target


def test_a_target_says_where_it_leads() -> None:
    target = Guard([ip_network("::1/128")]).check_url("http://[::1]:8080/x")
    assert (target.scheme, target.host, target.port) == ("http", "::1", 8080)
    assert target.address == IPv6Address("::1")
    assert target.plain
    named = STRICT.check_url("https://example.com/")
    assert (named.host, named.port, named.address, named.plain) == ("example.com", 443, None, False)


def test_plain_http_needs_an_allow_list() -> None:
    assert "https" in refused("http://example.com/")
    loopback = Guard([ip_network("127.0.0.0/8")])
    assert loopback.check_url("http://0x7f.1:9000/").url == "http://127.0.0.1:9000/"
    assert loopback.check_url("http://localhost:9000/").host == "localhost"
    assert "https" in refused("http://8.8.8.8/", loopback)
    loopback.check_url("http://example.com/")  # its addresses decide


@given(st.text(max_size=60))
def test_any_text_is_either_a_target_or_refused(text: str) -> None:
    for url in (text, f"https://{text}", f"https://{text}/"):
        try:
            target = parse_url(url)
        except GuardRefused:
            continue
        assert target.url.isascii()
        assert parse_url(target.url) == target


def aton_forms() -> st.SearchStrategy[str]:
    number = st.one_of(
        st.integers(0, 2**33).map(str),
        st.integers(0, 300).map(str),
        st.integers(0, 2**33).map(hex),
        st.integers(0, 300).map(lambda n: f"0{n:o}"),
        st.sampled_from(["", "08", "0x", "1a", "0x1g", "00", "-1", "+1"]),
    )
    return st.lists(number, min_size=1, max_size=5).map(".".join)


@given(aton_forms())
def test_ipv4_forms_are_read_as_the_system_reads_them(text: str) -> None:
    try:
        ours: str | None = str(parse_ipv4(text))
    except GuardRefused:
        ours = None
    try:
        theirs: str | None = socket.inet_ntoa(socket.inet_aton(text))
    except OSError:
        theirs = None
    # Stricter than the system is fine (a lone "0x" is 0 to some), looser or different is not.
    assert ours is None or ours == theirs
    assert ours is not None or theirs is None or "0x" in text.split(".")


V4_NETWORKS = [network for network, _ in FORBIDDEN if network.version == 4]
V6_NETWORKS = [network for network, _ in FORBIDDEN if network.version == 6]
forbidden_v4 = st.sampled_from(V4_NETWORKS).flatmap(lambda n: st.ip_addresses(network=n))
forbidden_v6 = st.sampled_from(V6_NETWORKS).flatmap(lambda n: st.ip_addresses(network=n))


@st.composite
def textual_v4(draw: st.DrawFn, address: IPv4Address) -> str:
    """Any spelling of the address that inet_aton or a full-width keyboard can produce."""
    value = int(address)
    width = draw(st.integers(1, 4))
    cuts = [(value >> (24 - 8 * i)) & 0xFF for i in range(width - 1)]
    numbers = [*cuts, value & (2 ** (8 * (5 - width)) - 1)]
    forms = (str, hex, lambda n: f"0{n:o}", lambda n: f"0X{n:X}", lambda n: f"000{n:o}")
    text = ".".join(draw(st.sampled_from(forms))(number) for number in numbers)
    if draw(st.booleans()):
        text = "".join(chr(ord(c) + 0xFEE0) if c.isdigit() else c for c in text)
    dot = draw(st.sampled_from([".", "。", "．", "｡"]))
    return text.replace(".", dot) + draw(st.sampled_from(["", "."]))


@given(st.data(), forbidden_v4)
def test_forbidden_ipv4_is_refused_in_any_spelling(data: st.DataObject, ip: IPv4Address) -> None:
    text = data.draw(textual_v4(ip))
    assert parse_url(f"https://{text}/").address == ip
    refused(f"https://{text}/")


@given(forbidden_v4)
def test_forbidden_ipv4_is_refused_inside_ipv6(ip: IPv4Address) -> None:
    for outer in wrapped(ip):
        refused(f"https://[{outer}]/")
        refused(f"https://[{outer.exploded.upper()}]/")


@given(forbidden_v6)
def test_forbidden_ipv6_is_refused_in_any_spelling(ip: IPv6Address) -> None:
    assume(ip.ipv4_mapped is None)  # those are IPv4 addresses
    last = IPv4Address(int(ip) & 0xFFFFFFFF)
    head = ":".join(ip.exploded.split(":")[:6])
    for text in (ip.compressed, ip.exploded, ip.exploded.upper(), f"{head}:{last}"):
        refused(f"https://[{text}]/")


@given(st.ip_addresses(v=6))
def test_ipv6_outside_global_unicast_is_refused(ip: IPv6Address) -> None:
    assume(ip not in IPv6Network("2000::/3") and ip.ipv4_mapped is None)
    with pytest.raises(GuardRefused):
        STRICT.check_address(ip)


@given(st.ip_addresses())
def test_what_passes_is_global_by_the_standard_library_too(ip: IPv4Address | IPv6Address) -> None:
    try:
        STRICT.check_address(ip)
    except GuardRefused:
        return
    inner = canonical(ip)
    assert inner.is_global
    assert not inner.is_multicast


# --- names -------------------------------------------------------------------------------


def answers(*addresses: str):
    async def resolve(host: str, port: int) -> tuple[str, ...]:
        return addresses

    return resolve


def check(url: str, resolve, guard: Guard = STRICT) -> tuple[str, ...]:
    return asyncio.run(guard.resolve_and_check(guard.check_url(url), resolve))


def test_a_name_may_lead_to_public_addresses() -> None:
    found = check("https://example.com/", answers("93.184.215.14", "2606:4700::1111"))
    assert found == ("93.184.215.14", "2606:4700::1111")


@pytest.mark.parametrize(
    "addresses",
    [
        ("10.0.0.1",),
        ("93.184.215.14", "127.0.0.1"),
        ("2606:4700::1111", "::1"),
        ("64:ff9b::a9fe:a9fe",),
        ("fe80::1%eth0",),
        ("not an address",),
    ],
)
def test_one_forbidden_address_is_enough(addresses: tuple[str, ...]) -> None:
    with pytest.raises(GuardRefused, match="forbidden address") as caught:
        check("https://example.com/", answers(*addresses))
    assert "10.0.0.1" not in str(caught.value)  # internal DNS is nobody's business


def test_plain_http_is_judged_by_what_the_name_leads_to() -> None:
    guard = Guard([ip_network("10.0.0.0/8")])
    assert check("http://inside.example/", answers("10.0.0.1"), guard) == ("10.0.0.1",)
    with pytest.raises(GuardRefused, match="https"):
        check("http://outside.example/", answers("93.184.215.14"), guard)
    with pytest.raises(GuardRefused, match="https"):
        check("http://both.example/", answers("10.0.0.1", "93.184.215.14"), guard)


def test_localhost_is_loopback_whatever_dns_says() -> None:
    public = answers("93.184.215.14")
    v4 = Guard([ip_network("127.0.0.0/8")])
    both = Guard([ip_network("127.0.0.0/8"), ip_network("::1/128")])
    assert check("http://localhost/", public, v4) == ("127.0.0.1",)
    assert check("http://app.localhost./", public, both) == ("127.0.0.1", "::1")


def test_a_literal_is_not_looked_up() -> None:
    async def fail(host: str, port: int) -> tuple[str, ...]:
        raise AssertionError("DNS was asked")

    assert check("https://8.8.8.8/", fail) == ("8.8.8.8",)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (socket.gaierror(socket.EAI_NONAME, "unknown"), "does not resolve"),
        (socket.gaierror(socket.EAI_AGAIN, "later"), "at the moment"),
        (OSError("odd"), "does not resolve"),
    ],
)
def test_a_name_that_does_not_resolve_is_refused(error: OSError, says: str) -> None:
    async def resolve(host: str, port: int) -> tuple[str, ...]:
        raise error

    with pytest.raises(GuardRefused, match=says):
        check("https://example.com/", resolve)
    with pytest.raises(GuardRefused, match="does not resolve"):
        check("https://example.com/", answers())


def test_a_lookup_that_hangs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(host: str, port: int) -> tuple[str, ...]:
        await asyncio.sleep(60)
        return ()

    monkeypatch.setattr("penstock.events.guard.LOOKUP_TIMEOUT", 0.05)
    with pytest.raises(GuardRefused, match="more than"):
        check("https://example.com/", hang)


def test_the_system_resolver_answers_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asyncio.run(system_resolve("127.0.0.1", 80)) == ("127.0.0.1",)

    def unknown(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(OSError, match="unknown"):
        asyncio.run(system_resolve("nowhere.invalid", 80))


def test_a_hanging_system_lookup_does_not_hold_up_others(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, release = threading.Semaphore(0), threading.Event()
    real = socket.getaddrinfo

    def slow(host: str, *args: object, **kwargs: object) -> object:
        if host == "slow.example":
            begun.release()
            release.wait(100)
            raise socket.gaierror(socket.EAI_AGAIN, "late")
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slow)

    async def scene() -> tuple[str, ...]:
        hanging = [asyncio.create_task(system_resolve("slow.example", 80)) for _ in range(40)]
        async with asyncio.timeout(60):
            for _ in hanging:
                while not begun.acquire(blocking=False):
                    await asyncio.sleep(0.005)
            found = await system_resolve("127.0.0.1", 80)
        for task in hanging:
            task.cancel()
        return found

    try:
        assert asyncio.run(scene()) == ("127.0.0.1",)
    finally:
        release.set()


def test_ip_address_helpers_agree() -> None:
    assert canonical(ip_address("::ffff:1.2.3.4")) == IPv4Address("1.2.3.4")
    assert str(canonical(ip_address("fe80::1%3"))) == "fe80::1"
    assert embedded(ip_address("8.8.8.8")) == ()
    assert embedded(ip_address("2606:4700::1111")) == ()
