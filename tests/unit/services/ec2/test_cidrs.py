from __future__ import annotations

from ipaddress import ip_network

import pytest

from gureum.errors import ApiError
from gureum.services.ec2.cidrs import contains, networks, overlapping, parse4, parse6, within


def test_bits_beyond_the_prefix_are_dropped() -> None:
    assert str(parse4("10.0.0.4/24", "x")) == "10.0.0.0/24"
    assert str(parse6("FD00:0::7/64", "x")) == "fd00::/64"


@pytest.mark.parametrize("text", ["", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0/8", "::/0", "x/8"])
def test_what_is_no_ipv4_network(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse4(text, "cidrBlock")
    assert caught.value.code == "InvalidParameterValue"


@pytest.mark.parametrize("text", ["", "fd00::", "fd00::/129", "10.0.0.0/8", "fe80::%eth0/64", "::/x"])
def test_what_is_no_ipv6_network(text: str) -> None:
    with pytest.raises(ApiError):
        parse6(text, "cidrBlock")


def test_networks_of_both_families_compare() -> None:
    some = networks(("10.0.0.0/16", "fd00::/56"))
    assert within(ip_network("10.0.1.0/24"), some)
    assert within(ip_network("fd00:0:0:1::/64"), some)
    assert not within(ip_network("10.0.0.0/8"), some)
    assert overlapping(ip_network("10.0.0.0/8"), some)
    assert not overlapping(ip_network("::/128"), networks(("0.0.0.0/0",)))
    assert not contains(ip_network("0.0.0.0/0"), ip_network("::/0"))
