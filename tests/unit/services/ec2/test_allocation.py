from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest

from gureum.errors import ApiError
from gureum.resources import NetworkInterface, Subnet
from gureum.services.ec2.allocation import dotted, new_mac, private_addresses, usable

if TYPE_CHECKING:
    from ..conftest import Rig

SUBNET = Subnet(id="subnet-1", account="1", vpc="vpc-1", zone="a", cidr="10.0.0.0/22")


def interface(address: str) -> NetworkInterface:
    return NetworkInterface(
        id=f"eni-{address}", vpc="vpc-1", subnet="subnet-1", zone="a", mac="", private_ip=address
    )


async def free(rig: Rig, low: int, high: int) -> list[str]:
    async with rig.store.read() as reader:
        return await private_addresses(reader, SUBNET, low, high)


def test_dotted() -> None:
    for number in (0, 1, 256, 0x7F000001, 0xFFFFFFFF):
        assert dotted(number) == str(IPv4Address(number))


def test_usable() -> None:
    assert usable(SUBNET) == 1024 - 5


async def test_lowest_first_without_the_reserved_ones(empty: Rig) -> None:
    assert await free(empty, 1, 3) == ["10.0.0.4", "10.0.0.5", "10.0.0.6"]
    everything = await free(empty, 1, 5000)
    assert len(everything) == usable(SUBNET)
    assert everything[-1] == "10.0.3.254"


async def test_gaps_are_filled(empty: Rig) -> None:
    await empty.put(*(interface(f"10.0.0.{n}") for n in (4, 6, 7)))
    assert await free(empty, 1, 2) == ["10.0.0.5", "10.0.0.8"]


async def test_the_last_free_address_is_found_anywhere(empty: Rig) -> None:
    taken = await free(empty, 1, 5000)
    for gap in ("10.0.0.4", "10.0.1.77", "10.0.3.254"):
        records = [interface(address) for address in taken if address != gap]
        await empty.put(*records)
        assert await free(empty, 1, 2) == [gap]
        with pytest.raises(ApiError) as caught:
            await free(empty, 2, 2)
        assert caught.value.code == "InsufficientFreeAddressesInSubnet"
        for record in await empty.find(NetworkInterface):
            await empty.delete(record)


async def test_the_same_address_in_another_subnet_is_no_hindrance(empty: Rig) -> None:
    await empty.put(
        NetworkInterface(id="eni-x", vpc="vpc-2", subnet="subnet-2", zone="a", mac="", private_ip="10.0.0.4")
    )
    assert await free(empty, 1, 1) == ["10.0.0.4"]


def test_macs(empty: Rig) -> None:
    macs = {new_mac(empty.env) for _ in range(1000)}
    assert len(macs) == 1000
    assert all(len(mac) == 17 and mac.startswith("0a:") for mac in macs)
