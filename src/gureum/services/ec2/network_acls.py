"""Network ACLs: stateless, ordered rules at the border of subnets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import AclEntry, NetworkAcl, Subnet
from gureum.services.ec2 import limits, lookup
from gureum.services.ec2.cidrs import parse4, parse6
from gureum.services.ec2.faults import (
    dependency_violation,
    invalid_combination,
    invalid_parameter_value,
    missing,
)
from gureum.services.ec2.filters import Filters
from gureum.services.ec2.listing import Listing
from gureum.services.ec2.tagging import specified_tags, tag_list
from gureum.services.operation import Context, Input, Output, operation

NUMBER_MAX = 32766
LAST_NUMBER = 32767
"""What the rule that denies the rest is shown with."""
TCP, UDP, ICMP, ICMPV6 = "6", "17", "1", "58"
NAMES = {"tcp": TCP, "udp": UDP, "icmp": ICMP, "icmpv6": ICMPV6}
ALL = "-1"


@operation("ec2", "CreateNetworkAcl", write=True)
async def create_network_acl(ctx: Context, input: Input) -> Output:
    vpc = await lookup.one(ctx, lookup.VPC, input["VpcId"])
    if await ctx.tx.count(NetworkAcl, vpc=vpc.id) >= limits.NETWORK_ACLS_PER_VPC_MAX:
        raise ApiError("NetworkAclLimitExceeded", "The maximum number of network ACLs has been reached.")
    acl = await ctx.tx.put(
        NetworkAcl(
            id=ctx.env.new_id("acl"),
            account=ctx.caller.account,
            tags=specified_tags(input, "network-acl")["network-acl"],
            vpc=vpc.id,
        )
    )
    return {"NetworkAcl": _item(acl, ()), "ClientToken": input.get("ClientToken")}


@operation("ec2", "DeleteNetworkAcl", write=True)
async def delete_network_acl(ctx: Context, input: Input) -> Output:
    acl = await lookup.one(ctx, lookup.NETWORK_ACL, input["NetworkAclId"])
    if acl.default:
        raise invalid_parameter_value(
            acl.id, "networkAclId", "The default network ACL cannot be deleted; it goes with its VPC."
        )
    if await ctx.tx.count(Subnet, acl=acl.id):
        raise dependency_violation(
            f"The networkAcl '{acl.id}' has dependencies and cannot be deleted: give its subnets another one "
            "with ReplaceNetworkAclAssociation."
        )
    await ctx.tx.delete(acl)
    return {}


@operation("ec2", "CreateNetworkAclEntry", write=True)
async def create_network_acl_entry(ctx: Context, input: Input) -> Output:
    acl = await lookup.one(ctx, lookup.NETWORK_ACL, input["NetworkAclId"])
    entry = _entry(input)
    if _find(acl, entry.number, entry.egress) is not None:
        raise ApiError(
            "NetworkAclEntryAlreadyExists",
            f"The network acl entry identified by {entry.number} already exists.",
        )
    if sum(each.egress == entry.egress for each in acl.entries) >= limits.RULES_PER_ACL_MAX:
        raise ApiError(
            "NetworkAclEntryLimitExceeded",
            f"A network ACL has at most {limits.RULES_PER_ACL_MAX} rules in each direction.",
        )
    await ctx.tx.put(replace(acl, entries=_ordered([*acl.entries, entry])))
    return {}


@operation("ec2", "ReplaceNetworkAclEntry", write=True)
async def replace_network_acl_entry(ctx: Context, input: Input) -> Output:
    acl = await lookup.one(ctx, lookup.NETWORK_ACL, input["NetworkAclId"])
    entry = _entry(input)
    old = _existing(acl, entry.number, entry.egress)
    await ctx.tx.put(replace(acl, entries=_ordered([each for each in acl.entries if each != old] + [entry])))
    return {}


@operation("ec2", "DeleteNetworkAclEntry", write=True)
async def delete_network_acl_entry(ctx: Context, input: Input) -> Output:
    acl = await lookup.one(ctx, lookup.NETWORK_ACL, input["NetworkAclId"])
    old = _existing(acl, input["RuleNumber"], input["Egress"])
    await ctx.tx.put(replace(acl, entries=tuple(each for each in acl.entries if each != old)))
    return {}


@operation("ec2", "ReplaceNetworkAclAssociation", write=True)
async def replace_network_acl_association(ctx: Context, input: Input) -> Output:
    acl = await lookup.one(ctx, lookup.NETWORK_ACL, input["NetworkAclId"])
    association = input["AssociationId"]
    found = await ctx.tx.find(Subnet, account=ctx.caller.account, acl_association=association)
    if not association or not found:
        raise ApiError("InvalidAssociationID.NotFound", f"The association ID '{association}' does not exist")
    [subnet] = found
    if subnet.vpc != acl.vpc:
        raise ApiError(
            "InvalidParameterValue",
            f"Network ACL {acl.id} and subnet {subnet.id} belong to different networks.",
        )
    subnet = await ctx.tx.put(replace(subnet, acl=acl.id, acl_association=ctx.env.new_id("aclassoc")))
    return {"NewAssociationId": subnet.acl_association}


# Entries


def _find(acl: NetworkAcl, number: int, egress: bool) -> AclEntry | None:
    return next((each for each in acl.entries if (each.number, each.egress) == (number, egress)), None)


def _existing(acl: NetworkAcl, number: int, egress: bool) -> AclEntry:
    found = _find(acl, number, egress)
    if found is None:
        direction = "egress" if egress else "ingress"
        raise ApiError(
            "InvalidNetworkAclEntry.NotFound",
            f"The network acl {acl.id} has no {direction} entry with the number {number}",
        )
    return found


def _ordered(entries: Sequence[AclEntry]) -> tuple[AclEntry, ...]:
    return tuple(sorted(entries, key=lambda each: (each.egress, each.number)))


def _entry(input: Input) -> AclEntry:
    number = input["RuleNumber"]
    if not 1 <= number <= NUMBER_MAX:
        raise invalid_parameter_value(number, "ruleNumber", f"It must be from 1 to {NUMBER_MAX}.")
    if input["RuleAction"] not in ("allow", "deny"):
        raise invalid_parameter_value(input["RuleAction"], "ruleAction", "Expected: allow, deny.")
    cidr = _cidr(input)
    protocol = _protocol(input["Protocol"], ":" in cidr)
    first, last = _ports(input, protocol)
    return AclEntry(
        number=number,
        egress=input["Egress"],
        protocol=protocol,
        allow=input["RuleAction"] == "allow",
        cidr=cidr,
        from_port=first,
        to_port=last,
    )


def _cidr(input: Input) -> str:
    cidr, cidr6 = input.get("CidrBlock"), input.get("Ipv6CidrBlock")
    if cidr and cidr6:
        raise invalid_combination("Specify CidrBlock or Ipv6CidrBlock, not both.")
    if cidr:
        return str(parse4(cidr, "cidrBlock"))
    if cidr6:
        return str(parse6(cidr6, "ipv6CidrBlock"))
    raise missing("CidrBlock or Ipv6CidrBlock")


def _protocol(given: str, ipv6: bool) -> str:
    protocol = NAMES.get(given.lower(), given)
    if protocol != ALL and not (protocol.isdecimal() and protocol.isascii() and int(protocol) <= 255):
        raise invalid_parameter_value(given, "protocol", "Expected -1, or a number from 0 to 255.")
    if protocol == ICMP and ipv6:
        raise invalid_parameter_value(given, "protocol", "For IPv6 it is 58 (icmpv6).")
    return protocol if protocol == ALL else str(int(protocol))


def _ports(input: Input, protocol: str) -> tuple[int, int]:
    if protocol in (TCP, UDP):
        ports: Mapping[str, Any] = input.get("PortRange") or {}
        first, last = ports.get("From"), ports.get("To")
        if first is None or last is None:
            raise missing("PortRange")
        if not 0 <= first <= last <= 65535:
            raise invalid_parameter_value(f"{first}-{last}", "portRange", "Expected: 0 to 65535, in order.")
        return first, last
    if protocol in (ICMP, ICMPV6):
        kind: Mapping[str, Any] = input.get("IcmpTypeCode") or {}
        if kind.get("Type") is None:
            raise missing("IcmpTypeCode")
        type, code = kind["Type"], kind.get("Code")
        code = -1 if code is None else code
        if not -1 <= type <= 255 or not -1 <= code <= 255 or (type == -1 and code != -1):
            raise invalid_parameter_value(f"{type}, {code}", "icmpTypeCode", "Expected: -1 to 255 each.")
        return type, code
    return -1, -1


# Describing


async def _items(ctx: Context, acls: Sequence[NetworkAcl]) -> list[dict[str, Any]]:
    subnets = await ctx.tx.find(Subnet, acl=[acl.id for acl in acls])
    return [_item(acl, [subnet for subnet in subnets if subnet.acl == acl.id]) for acl in acls]


def _item(acl: NetworkAcl, subnets: Sequence[Subnet]) -> dict[str, Any]:
    return {
        "NetworkAclId": acl.id,
        "VpcId": acl.vpc,
        "OwnerId": acl.account,
        "IsDefault": acl.default,
        "Associations": [
            {
                "NetworkAclAssociationId": subnet.acl_association,
                "NetworkAclId": acl.id,
                "SubnetId": subnet.id,
            }
            for subnet in subnets
        ],
        "Entries": [*(_shown(entry) for entry in acl.entries), *_last(acl)],
        "Tags": tag_list(acl.tags) or [],
    }


def _shown(entry: AclEntry) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "RuleNumber": entry.number,
        "Egress": entry.egress,
        "Protocol": entry.protocol,
        "RuleAction": "allow" if entry.allow else "deny",
        "Ipv6CidrBlock" if ":" in entry.cidr else "CidrBlock": entry.cidr,
    }
    if entry.protocol in (TCP, UDP):
        shown["PortRange"] = {"From": entry.from_port, "To": entry.to_port}
    elif entry.protocol in (ICMP, ICMPV6):
        shown["IcmpTypeCode"] = {"Type": entry.from_port, "Code": entry.to_port}
    return shown


def _last(acl: NetworkAcl) -> list[dict[str, Any]]:
    """The rule that denies the rest, in each direction, for the families that the ACL speaks of."""
    cidrs = ["0.0.0.0/0"] + (["::/0"] if any(":" in each.cidr for each in acl.entries) else [])
    return [
        _shown(AclEntry(number=LAST_NUMBER, egress=egress, allow=False, cidr=cidr))
        for egress in (False, True)
        for cidr in cidrs
    ]


NETWORK_ACLS = Listing(
    operation="DescribeNetworkAcls",
    noun=lookup.NETWORK_ACL,
    ids="NetworkAclIds",
    items="NetworkAcls",
    filters=Filters(
        {
            "association.association-id": "Associations[].NetworkAclAssociationId",
            "association.network-acl-id": "Associations[].NetworkAclId",
            "association.subnet-id": "Associations[].SubnetId",
            "default": "default",
            "entry.cidr": "Entries[].CidrBlock",
            "entry.egress": "Entries[].Egress",
            "entry.icmp.code": "Entries[].IcmpTypeCode.Code",
            "entry.icmp.type": "Entries[].IcmpTypeCode.Type",
            "entry.ipv6-cidr": "Entries[].Ipv6CidrBlock",
            "entry.port-range.from": "Entries[].PortRange.From",
            "entry.port-range.to": "Entries[].PortRange.To",
            "entry.protocol": "Entries[].Protocol",
            "entry.rule-action": "Entries[].RuleAction",
            "entry.rule-number": "Entries[].RuleNumber",
            "network-acl-id": "id",
            "owner-id": "account",
        },
        index={"vpc-id": "vpc"},
    ),
    describe=_items,
)


@operation("ec2", "DescribeNetworkAcls")
async def describe_network_acls(ctx: Context, input: Input) -> Output:
    return await NETWORK_ACLS.answer(ctx, input)
