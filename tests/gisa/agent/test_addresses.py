import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.gisa.agent.addresses import is_disguised, is_public


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "151.101.1.140", "2606:4700:4700::1111", "2001:4860:4860::8888", "2a00:1450::1"]
)
def test_addresses_of_well_known_public_hosts_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize("text", ["", "localhost", "0x7f.1", "2130706433", "127.1", "8.8.8.8:80", "[::1]", "٨.٨.٨.٨"])
def test_what_is_no_numeric_address_is_not_public(text):
    assert not is_public(text)


@settings(max_examples=50)
@given(st.ip_addresses())
def test_no_address_is_public_that_python_calls_private_or_multicast(address):
    if is_public(str(address)):
        assert address.is_global
        assert not address.is_multicast


@settings(max_examples=50)
@given(st.ip_addresses(v=4))
def test_no_ipv6_form_that_carries_an_ipv4_address_is_public(inner):
    number = int(inner)
    carriers = {
        "mapped": (0xFFFF << 32) | number,
        "compatible": number,
        "nat64": (0x64FF9B << 96) | number,
        "local nat64": (0x64FF9B0001 << 80) | number,
        "6to4": (0x2002 << 112) | (number << 80),
        "teredo": (0x20010000 << 96) | (number ^ 0xFFFFFFFF),
    }
    for carrier in carriers.values():
        assert not is_public(str(ipaddress.IPv6Address(carrier)))


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_every_spelling_but_four_decimal_numbers_is_a_disguise(number):
    address = ipaddress.IPv4Address(number)
    a, b, c, d = address.packed
    assert not is_disguised(str(address))
    spellings = (
        f"{number}",
        f"{number:#x}",
        f"0{number:o}",
        f"{a}.{b}.{c * 256 + d}",
        f"{a:#x}.{b}.{c}.{d}",
        f"{address}.",
    )
    for spelling in spellings:
        assert is_disguised(spelling) == (spelling != str(address))


@pytest.mark.parametrize("host", ["example.org", "1.2.3.4.example.org", "dead.beef", "::1", "", "\ud800", "a\0b"])
def test_names_are_no_disguise(host):
    assert not is_disguised(host)
