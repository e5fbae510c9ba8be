"""Private and public addresses, MAC addresses.

An address is free if no record has it; two transactions cannot take the same one, since both would have to
commit on a store that still lacked the other's record.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from msgspec.structs import replace

from gureum.env import Env
from gureum.errors import ApiError
from gureum.resources import Address, FlowLog, NetworkInterface, Subnet
from gureum.services.ec2.faults import invalid_value
from gureum.services.operation import Cloud
from gureum.store.base import Reader, Transaction

RESERVED_LOW = 4
"""A subnet's first four addresses are the network's, the router's, the name server's and one kept back."""
RESERVED = RESERVED_LOW + 1
CHUNK = 256


def usable(subnet: Subnet) -> int:
    """How many addresses of a subnet interfaces can have."""
    return max(0, IPv4Network(subnet.cidr).num_addresses - RESERVED)


def dotted(number: int) -> str:
    return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


async def private_addresses(
    tx: Reader, subnet: Subnet, low: int, high: int, besides: Collection[str] = ()
) -> list[str]:
    """Free addresses of a subnet: ``high`` of them, or as many as there are if at least ``low``.

    ``besides`` are not among them. The lowest ones, or close to that: the search begins in the chunk that
    would have the first free address if addresses had been taken from the lowest on without gaps. Raises
    InsufficientFreeAddressesInSubnet.
    """
    network = IPv4Network(subnet.cidr)
    start = int(network.network_address) + RESERVED_LOW
    end = int(network.broadcast_address)
    chunks = [range(first, min(first + CHUNK, end)) for first in range(start, end, CHUNK)]
    begin = await tx.count(NetworkInterface, subnet=subnet.id) // CHUNK
    found: list[str] = []
    for chunk in chunks[begin:] + chunks[:begin]:
        free = await _free_in(tx, subnet, [dotted(number) for number in chunk])
        found += [address for address in free if address not in besides]
        if len(found) >= high:
            return found[:high]
    if len(found) < low:
        raise ApiError(
            "InsufficientFreeAddressesInSubnet",
            f"There are not enough free addresses in subnet '{subnet.id}' to satisfy the requested number of "
            "instances.",
        )
    return found


async def ipv6_addresses(
    tx: Reader, env: Env, subnet: Subnet, count: int, besides: Collection[str] = ()
) -> list[str]:
    """Free IPv6 addresses of a subnet's network, at random, as EC2 gives them."""
    if not count:
        return []
    network = ipv6_network(subnet)
    found: list[str] = []
    while len(found) < count:
        number = env.random.randrange(RESERVED_LOW, network.num_addresses - 1)
        address = str(network[number])
        taken = await tx.count(NetworkInterface, subnet=subnet.id, addresses=address)
        if not taken and address not in found and address not in besides:
            found.append(address)
    return found


def ipv6_network(subnet: Subnet) -> IPv6Network:
    """Raises InvalidParameterValue for a subnet without one."""
    if subnet.ipv6 is None:
        raise invalid_value(
            f"Subnet {subnet.id} does not contain any IPv6 CIDR block ranges. Associate one with it first."
        )
    return IPv6Network(subnet.ipv6.cidr)


async def check_ipv6_address(tx: Reader, subnet: Subnet, address: str) -> str:
    """The address as it is stored. Raises as ``check_private_address`` does."""
    network = ipv6_network(subnet)
    wanted = parse_ipv6(address)
    if wanted not in network:
        raise invalid_value(f"Address {address} does not fall within the subnet's address range")
    offset = int(wanted) - int(network.network_address)
    if offset < RESERVED_LOW or wanted == network.broadcast_address:
        raise invalid_value(f"Address {address} is in subnet's reserved address range")
    if await tx.count(NetworkInterface, subnet=subnet.id, addresses=str(wanted)):
        raise in_use(address)
    return str(wanted)


def parse_ipv6(address: str) -> IPv6Address:
    try:
        if "%" not in address:  # a zone, which may be any text
            return IPv6Address(address)
    except ValueError:
        pass
    raise invalid_value(f"Value ({address}) for parameter ipv6Address is invalid.")


def in_use(address: str) -> ApiError:
    return ApiError("InvalidIPAddress.InUse", f"Address {address} is in use.")


async def _free_in(tx: Reader, subnet: Subnet, addresses: list[str]) -> list[str]:
    # Counting is an index lookup; the interfaces of a full chunk are not read.
    taken = await tx.count(NetworkInterface, subnet=subnet.id, addresses=addresses)
    if taken == len(addresses):
        return []
    if not taken:
        return addresses
    interfaces = await tx.find(NetworkInterface, subnet=subnet.id, addresses=addresses)
    used = {address for interface in interfaces for address in interface.addresses}
    return [address for address in addresses if address not in used]


async def check_private_address(tx: Reader, subnet: Subnet, address: str) -> None:
    """Raises InvalidParameterValue or InvalidIPAddress.InUse if an interface cannot have this address."""
    try:
        wanted = IPv4Address(address)
    except ValueError:
        raise invalid_value(f"Value ({address}) for parameter privateIpAddress is invalid.") from None
    network = IPv4Network(subnet.cidr)
    if wanted not in network:
        raise invalid_value(f"Address {address} does not fall within the subnet's address range")
    offset = int(wanted) - int(network.network_address)
    if offset < RESERVED_LOW or wanted == network.broadcast_address:
        raise invalid_value(f"Address {address} is in subnet's reserved address range")
    if await tx.count(NetworkInterface, subnet=subnet.id, addresses=address):
        raise in_use(address)


async def public_addresses(tx: Reader, env: Env, cloud: Cloud, count: int) -> list[str]:
    """Free addresses of the cloud's public range, at random, so that a released one is not reused at once.

    Raises InsufficientAddressCapacity.
    """
    if not count:
        return []
    network = IPv4Network(cloud.public_cidr)
    start, end = int(network.network_address) + 1, int(network.broadcast_address)
    sample = range(2 * count + 16)
    candidates = list(dict.fromkeys(dotted(env.random.randrange(start, end)) for _ in sample))
    found = await _unused(tx, candidates)
    for first in range(start, end, CHUNK):
        if len(found) >= count:
            break
        known = set(candidates)
        chunk = [text for n in range(first, min(first + CHUNK, end)) if (text := dotted(n)) not in known]
        found += await _unused(tx, chunk)
    if len(found) < count:
        raise ApiError(
            "InsufficientAddressCapacity",
            f"There are not enough free public addresses in {cloud.public_cidr} to fulfill your request.",
            500,
        )
    return found[:count]


async def is_public_free(tx: Reader, cloud: Cloud, address: str) -> bool:
    """Whether a given address is one of the cloud's, and free."""
    network = IPv4Network(cloud.public_cidr)
    try:
        wanted = IPv4Address(address)
    except ValueError:
        return False
    inside = wanted in network and wanted not in (network.network_address, network.broadcast_address)
    return inside and bool(await _unused(tx, [address]))


async def _unused(tx: Reader, candidates: Collection[str]) -> list[str]:
    interfaces = await tx.find(NetworkInterface, publics=candidates)
    addresses = await tx.find(Address, public_ip=candidates)
    used = {ip for interface in interfaces for ip in interface.publics} | {
        address.public_ip for address in addresses
    }
    return [candidate for candidate in candidates if candidate not in used]


def unassociated(address: Address) -> Address:
    return replace(address, association="", interface="", instance="", private_ip="")


async def remove_interface(tx: Transaction, interface: NetworkInterface) -> None:
    """With it go its addresses and flow logs; an elastic address is its owner's, and free again."""
    for address in await tx.find(Address, interface=interface.id):
        await tx.put(unassociated(address))
    for log in await tx.find(FlowLog, resource=interface.id):
        await tx.delete(log)
    await tx.delete(interface)


def new_mac(env: Env) -> str:
    """A locally administered address, ``0a:`` and 40 random bits."""
    digits = env.token(10)
    return "0a:" + ":".join(digits[i : i + 2] for i in range(0, 10, 2))
