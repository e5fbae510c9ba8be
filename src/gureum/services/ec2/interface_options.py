"""What a request asks for of an interface: RunInstances and CreateNetworkInterface say it alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from gureum.errors import ApiError
from gureum.resources import NetworkInterface, Subnet
from gureum.services.ec2 import limits
from gureum.services.ec2.allocation import (
    check_ipv6_address,
    check_private_address,
    ipv6_addresses,
    ipv6_network,
    private_addresses,
)
from gureum.services.ec2.faults import invalid_combination, invalid_value, unsupported
from gureum.services.ec2.instance_types import TYPES
from gureum.services.operation import Context

_PREFIXES = ("Ipv4Prefixes", "Ipv4PrefixCount", "Ipv6Prefixes", "Ipv6PrefixCount")
_UNSUPPORTED = (
    "ConnectionTrackingSpecification",
    "EnablePrimaryIpv6",
    "EnaQueueCount",
    "EnaSrdSpecification",
    "Operator",
    "PrimaryIpv6",
)


class Wanted(NamedTuple):
    """``primary`` "" is any address. The counts are of addresses besides the given ones."""

    primary: str = ""
    secondary: tuple[str, ...] = ()
    secondary_count: int = 0
    ipv6: tuple[str, ...] = ()
    ipv6_count: int = 0

    @property
    def given(self) -> tuple[str, ...]:
        """The IPv4 addresses that are asked for by number."""
        return (self.primary, *self.secondary) if self.primary else self.secondary

    @property
    def free_count(self) -> int:
        """How many IPv4 addresses may be any."""
        return self.secondary_count + (not self.primary)

    @property
    def total(self) -> int:
        return 1 + len(self.secondary) + self.secondary_count

    @property
    def total6(self) -> int:
        return len(self.ipv6) + self.ipv6_count

    @property
    def by_number(self) -> bool:
        """Only one interface can have what is asked for."""
        return bool(self.given or self.ipv6)


class Addresses(NamedTuple):
    """What an interface gets."""

    primary: str
    secondary: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()


def refuse_unsupported(spec: Mapping[str, Any]) -> None:
    """Raises UnsupportedOperation for what interfaces cannot have here."""
    for member in _PREFIXES:
        if spec.get(member):
            raise unsupported(
                f"{member}: prefixes on network interfaces are not supported by gureum. Ask for addresses."
            )
    for member in _UNSUPPORTED:
        if spec.get(member):
            raise unsupported(f"{member} of a network interface is not supported by gureum.")
    if spec.get("InterfaceType") not in (None, "", "interface"):
        raise unsupported(f"Network interfaces of type {spec['InterfaceType']} are not supported by gureum.")


def parse(spec: Mapping[str, Any]) -> Wanted:
    """From a structure with PrivateIpAddress, PrivateIpAddresses, Ipv6Addresses and counts."""
    primary, secondary = _listed(spec)
    count = _count(spec, "SecondaryPrivateIpAddressCount")
    if count and secondary:
        raise invalid_combination(
            "The parameter secondaryPrivateIpAddressCount cannot be used with secondary private IP addresses"
        )
    ipv6 = tuple(each.get("Ipv6Address") or "" for each in spec.get("Ipv6Addresses") or ())
    ipv6_count = _count(spec, "Ipv6AddressCount")
    if ipv6 and ipv6_count:
        raise invalid_combination("The parameters ipv6Addresses and ipv6AddressCount cannot be used together")
    wanted = Wanted(primary, secondary, count, ipv6, ipv6_count)
    check_limits(wanted.total, wanted.total6)
    return wanted


def _listed(spec: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The primary address, "" for any, and the others. In a list without a primary one the first is it."""
    listed = spec.get("PrivateIpAddresses") or ()
    for each in listed:
        if not each.get("PrivateIpAddress"):
            raise invalid_value("Each entry of PrivateIpAddresses needs a private IP address.")
    marked = [each for each in listed if each.get("Primary")]
    if not marked and not spec.get("PrivateIpAddress") and listed:
        if listed[0].get("Primary") is False:
            raise invalid_value("The primary private IP address must be specified.")
        marked = [listed[0]]
    primaries = {each["PrivateIpAddress"] for each in marked} | {spec.get("PrivateIpAddress") or ""} - {""}
    if len(primaries) > 1 or len(marked) > 1:
        raise invalid_combination("Only one primary private IP address can be specified.")
    primary = primaries.pop() if primaries else ""
    others = [each["PrivateIpAddress"] for each in listed if all(each is not one for one in marked)]
    if len({primary, *others}) != len(others) + 1:
        raise invalid_value("Each private IP address can be specified once only.")
    return primary, tuple(others)


def _count(spec: Mapping[str, Any], member: str) -> int:
    count: int = spec.get(member) or 0
    if count < 0:
        raise invalid_value(f"Value ({count}) for parameter {member} is invalid. It must not be negative.")
    return count


def check_limits(ipv4: int, ipv6: int, type: str = "") -> None:
    """Raises PrivateIpAddressLimitExceeded for more addresses than an interface can have.

    ``type`` is that of its instance, "" for none.
    """
    most = TYPES[type].addresses_per_interface if type in TYPES else limits.ADDRESSES_PER_INTERFACE_MAX
    if max(ipv4, ipv6) > most:
        of = f" of {type}" if type else ""
        raise ApiError(
            "PrivateIpAddressLimitExceeded",
            f"Number of private addresses will exceed limit. An interface{of} has at most {most} IPv4 and as "
            "many IPv6 addresses.",
        )


async def check_free(ctx: Context, subnet: Subnet, wanted: Wanted) -> Wanted:
    """Raises if an interface in this subnet cannot have what is asked for. IPv6 comes back normalised."""
    for address in wanted.given:
        await check_private_address(ctx.tx, subnet, address)
    ipv6 = [await check_ipv6_address(ctx.tx, subnet, address) for address in wanted.ipv6]
    if len(set(ipv6)) < len(ipv6):
        raise invalid_value("Each IPv6 address can be specified once only.")
    if wanted.ipv6_count:
        ipv6_network(subnet)
    return wanted._replace(ipv6=tuple(ipv6))


async def allocate(ctx: Context, subnet: Subnet, wanted: Wanted) -> Addresses:
    """The addresses of a new interface. Raises InsufficientFreeAddressesInSubnet."""
    count = wanted.free_count
    found = await private_addresses(ctx.tx, subnet, count, count, wanted.given) if count else []
    ipv6 = await ipv6_addresses(ctx.tx, ctx.env, subnet, wanted.ipv6_count, wanted.ipv6)
    return deal(wanted, iter(found), iter(ipv6))


def deal(wanted: Wanted, free: Iterable[str], free6: Iterable[str]) -> Addresses:
    """Fill what was not given from the free addresses."""
    rest, rest6 = iter(free), iter(free6)
    primary = wanted.primary or next(rest)
    secondary = (*wanted.secondary, *(next(rest) for _ in range(wanted.secondary_count)))
    return Addresses(primary, secondary, (*wanted.ipv6, *(next(rest6) for _ in range(wanted.ipv6_count))))


def with_subnets_ipv6(spec: Mapping[str, Any], wanted: Wanted, subnet: Subnet) -> Wanted:
    """With an IPv6 address where the subnet gives interfaces one, and the request does not say how many."""
    if subnet.assign_ipv6 and subnet.ipv6 is not None and not wanted.ipv6:
        return wanted if spec.get("Ipv6AddressCount") is not None else wanted._replace(ipv6_count=1)
    return wanted


def checked_description(text: str) -> str:
    if len(text) > limits.DESCRIPTION_LENGTH_MAX:
        raise invalid_value(f"A description has at most {limits.DESCRIPTION_LENGTH_MAX} characters.")
    return text


def check_unused(interface: NetworkInterface) -> None:
    """Raises InvalidNetworkInterface.InUse."""
    if interface.instance or interface.requester:
        raise ApiError("InvalidNetworkInterface.InUse", f"Interface: [{interface.id}] in use.")


def check_interface_count(count: int, type: str) -> None:
    """Raises AttachmentLimitExceeded, as EC2 words it."""
    if type in TYPES and count > TYPES[type].interfaces_max:
        raise ApiError("AttachmentLimitExceeded", f"Interface count {count} exceeds the limit for {type}")


def check_unmanaged(interface: NetworkInterface) -> None:
    """Raises OperationNotPermitted for an interface that a service made for itself."""
    if interface.requester:
        raise ApiError(
            "OperationNotPermitted",
            f"The network interface '{interface.id}' is managed by {interface.requester}, which alone can "
            "change it.",
        )
