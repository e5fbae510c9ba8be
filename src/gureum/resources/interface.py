"""Network interfaces and elastic addresses. IPv6 addresses are compressed and lower case."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import ClassVar

import msgspec

from gureum.resources.record import Record


class SecondaryAddress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A further private address of an interface, and the elastic address that is translated to it."""

    private_ip: str
    public_ip: str = ""
    address: str = ""


class InterfaceAttachment(StrEnum):
    """An interface given with a launch is ``attached`` from the start, as its machine has it when it runs."""

    attaching = "attaching"
    attached = "attached"
    detaching = "detaching"


class NetworkInterface(Record, frozen=True, kw_only=True, omit_defaults=True):
    """``private_ip`` is unique in its VPC. ``address`` is the allocation id of an associated elastic address.

    ``public_ip`` is that one's, else an automatic one that goes with a stop. ``auto_public``: it gets an
    automatic one whenever it runs without an elastic one.

    ``host`` is where its port is now: the instance's host while that has it there, or the NAT gateway's;
    None for nowhere. It changes in the same transaction as the instance's.

    ``type``: "interface", or "nat_gateway" for one that belongs to ``requester`` and cannot be changed.
    """

    vpc: str
    subnet: str
    zone: str
    mac: str
    private_ip: str
    secondary: tuple[SecondaryAddress, ...] = ()
    ipv6: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    description: str = ""
    type: str = "interface"
    requester: str = ""
    instance: str | None = None
    host: str | None = None
    attachment: str = ""
    attachment_state: InterfaceAttachment = InterfaceAttachment.attached
    force_detach: bool = False
    device_index: int = 0
    attached: datetime | None = None
    delete_on_termination: bool = True
    source_dest_check: bool = True
    public_ip: str = ""
    auto_public: bool = False
    address: str = ""

    @property
    def addresses(self) -> tuple[str, ...]:
        """All its private addresses, IPv4 and IPv6, the primary one first."""
        return self.private_ip, *(each.private_ip for each in self.secondary), *self.ipv6

    @property
    def changing(self) -> tuple[str, ...]:
        """The state of its attachment while that is under way."""
        settled = self.attachment_state is InterfaceAttachment.attached
        return () if settled or self.instance is None else (str(self.attachment_state),)

    @property
    def publics(self) -> tuple[str, ...]:
        return tuple(ip for ip in (self.public_ip, *(each.public_ip for each in self.secondary)) if ip)

    @property
    def crowded(self) -> str | None:
        """Its subnet, if it has secondary addresses there, which counting interfaces misses."""
        return self.subnet if self.secondary else None

    kind: ClassVar[str] = "network-interface"
    indexes: ClassVar[tuple[str, ...]] = (
        "account",
        "vpc",
        "subnet",
        "crowded",
        "instance",
        "host",
        "groups",
        "addresses",
        "publics",
        "attachment",
        "changing",
    )


class Address(Record, frozen=True, kw_only=True, omit_defaults=True):
    """An elastic address. ``id`` is eipalloc-..."""

    public_ip: str
    association: str = ""
    interface: str = ""
    instance: str = ""
    private_ip: str = ""

    kind: ClassVar[str] = "address"
    indexes: ClassVar[tuple[str, ...]] = ("account", "public_ip", "interface", "association")
