"""What may pass: security groups, network ACLs, and the prefix lists that rules name."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from gureum.resources.record import Record


class Permission(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One security group rule with one peer, as DescribeSecurityGroupRules shows it.

    ``protocol`` is tcp, udp, icmp, icmpv6, a number as text, or "-1" for all. Ports are -1 where they do not
    apply; for icmp they are type and code, -1 for all. Exactly one of the peers is set.
    """

    id: str
    egress: bool = False
    protocol: str
    from_port: int = -1
    to_port: int = -1
    cidr: str = ""
    cidr6: str = ""
    prefix_list: str = ""
    group: str = ""
    group_account: str = ""
    description: str = ""
    tags: dict[str, str] = {}


class SecurityGroup(Record, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    description: str
    vpc: str
    rules: tuple[Permission, ...] = ()

    @property
    def referenced(self) -> tuple[str, ...]:
        """The ids of the groups that its rules name."""
        return tuple(sorted({rule.group for rule in self.rules if rule.group}))

    @property
    def prefix_lists(self) -> tuple[str, ...]:
        return tuple(sorted({rule.prefix_list for rule in self.rules if rule.prefix_list}))

    kind: ClassVar[str] = "security-group"
    indexes: ClassVar[tuple[str, ...]] = ("account", "vpc", "name", "referenced", "prefix_lists")


class AclEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``number`` 1 to 32766; the last rule, which denies, is implied. ``protocol``: "-1" or a number.

    Ports are -1 where they do not apply; for icmp they are type and code, -1 for all.
    """

    number: int
    egress: bool = False
    protocol: str = "-1"
    allow: bool = True
    cidr: str
    from_port: int = -1
    to_port: int = -1


class NetworkAcl(Record, frozen=True, kw_only=True, omit_defaults=True):
    vpc: str
    default: bool = False
    entries: tuple[AclEntry, ...] = ()

    kind: ClassVar[str] = "network-acl"
    indexes: ClassVar[tuple[str, ...]] = ("account", "vpc")


class PrefixEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    cidr: str
    description: str = ""


class PrefixList(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A managed prefix list. Without an account: the system's. ``revision`` is what AWS calls its version.

    ``state`` names what was done to it last, in AWS's words: that is what clients wait for.
    """

    state: str = "create-complete"
    name: str
    family: str = "IPv4"
    max_entries: int
    revision: int = 1
    entries: tuple[PrefixEntry, ...] = ()
    history: tuple[tuple[PrefixEntry, ...], ...] = ()
    """The entries of the revisions just before, the earliest one first."""

    kind: ClassVar[str] = "prefix-list"
    indexes: ClassVar[tuple[str, ...]] = ("account", "name")
