"""Which addresses of the internet a URL chosen by a model may lead to."""

from __future__ import annotations

import ipaddress
import socket

# Written out, because Python's `is_global` differs between releases and calls some of these global.
_CLOSED_IPV4 = [
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT, and a metadata host
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's host agent behind a public address
        "169.254.0.0/16",  # link-local, and most clouds' metadata host
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments, and a metadata host
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/3",  # multicast, reserved, broadcast
    )
]
# Everything else of IPv6 is closed: loopback, unique local, link-local, site-local, multicast, v4-mapped, NAT64 ...
_OPEN_IPV6 = ipaddress.IPv6Network("2000::/3")
_CLOSED_IPV6 = [
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: any IPv4 address inside
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
]


def is_public(address: str) -> bool:
    """Tell whether an address belongs to the public internet.

    Source: IANA's special-purpose address registries; closing tunnels and translations (6to4, Teredo, NAT64,
    v4-mapped) as a whole, whatever address they carry, is our choice. What is no numeric address is not public.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv4Address):
        return not any(parsed in network for network in _CLOSED_IPV4)
    return parsed.scope_id is None and parsed in _OPEN_IPV6 and not any(parsed in network for network in _CLOSED_IPV6)


def is_disguised(host: str) -> bool:
    """Tell whether the host of a URL is an IPv4 address in a spelling that hides it: decimal, octal, hex or short."""
    try:
        return socket.inet_ntoa(socket.inet_aton(host.rstrip("."))) != host
    except (OSError, ValueError):
        return False  # no IPv4 address in any spelling
