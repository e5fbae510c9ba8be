"""Security group rules: from requests to records and back.

A peer is a network of either family, a prefix list, or a group: of the same VPC or of one peered with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from msgspec.structs import replace

from gureum.env import Env
from gureum.resources import Permission, SecurityGroup
from gureum.services.ec2.faults import invalid_value, missing

ANY = "-1"
_NAMES = {"1": "icmp", "6": "tcp", "17": "udp", "58": "icmpv6"}
_PORTS = ("tcp", "udp")
_ICMP = ("icmp", "icmpv6")
_DESCRIPTION = re.compile(r"[a-zA-Z0-9. _\-:/()#,@\[\]+=&;{}!$*]{0,255}\Z")

Key = tuple[Any, ...]


def key(rule: Permission) -> Key:
    """What makes two rules the same rule."""
    return (
        rule.egress, rule.protocol, rule.from_port, rule.to_port,
        rule.cidr, rule.cidr6, rule.prefix_list, rule.group,
    )  # fmt: skip


def parse(given: Sequence[Mapping[str, Any]], *, egress: bool) -> list[Permission]:
    """One rule for each peer of IpPermissions, without ids. ``group`` may still be a name: see ``peers``."""
    return [rule for entry in given for rule in _parse_one(entry, egress=egress)]


def _parse_one(entry: Mapping[str, Any], *, egress: bool) -> Iterator[Permission]:
    protocol, from_port, to_port = traffic(
        entry.get("IpProtocol"), entry.get("FromPort"), entry.get("ToPort")
    )
    base = Permission(id="", egress=egress, protocol=protocol, from_port=from_port, to_port=to_port)
    peers = [
        *({"cidr": cidr(each.get("CidrIp"))} | _described(each) for each in entry.get("IpRanges") or ()),
        *(
            {"cidr6": cidr6(each.get("CidrIpv6"))} | _described(each)
            for each in entry.get("Ipv6Ranges") or ()
        ),
        *(_list_peer(each) | _described(each) for each in entry.get("PrefixListIds") or ()),
        *(_group_peer(each) | _described(each) for each in entry.get("UserIdGroupPairs") or ()),
    ]
    if not peers:
        raise missing("ipRanges or userIdGroupPairs in ipPermissions")
    for peer in peers:
        yield replace(base, **peer)


def _list_peer(entry: Mapping[str, Any]) -> dict[str, str]:
    if not entry.get("PrefixListId"):
        raise missing("PrefixListId")
    return {"prefix_list": entry["PrefixListId"]}


def _group_peer(pair: Mapping[str, Any]) -> dict[str, str]:
    group = pair.get("GroupId") or pair.get("GroupName")
    if not group:
        raise missing("GroupId")
    return {"group": group, "group_account": pair.get("UserId") or ""}


def _described(peer: Mapping[str, Any]) -> dict[str, str]:
    return {"description": description(peer.get("Description"))}


def description(text: str | None) -> str:
    if text and not _DESCRIPTION.match(text):
        raise invalid_value(
            "Invalid rule description. Valid descriptions are strings less than 256 characters from the "
            "following set: a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*"
        )
    return text or ""


def traffic(protocol: str | None, from_port: int | None, to_port: int | None) -> tuple[str, int, int]:
    """Protocol and ports in the form that rules are kept in."""
    if not protocol:
        raise invalid_value(
            "Invalid value 'null' for protocol. VPC security group rules must specify protocols explicitly."
        )
    protocol = _NAMES.get(protocol.lower(), protocol.lower())
    if protocol in ("all", ANY):
        return ANY, -1, -1
    if protocol in _PORTS:
        return protocol, *_port_range(protocol, from_port, to_port)
    if protocol in _ICMP:
        kind, code = -1 if from_port is None else from_port, -1 if to_port is None else to_port
        if not -1 <= kind <= 255 or not -1 <= code <= 255 or (kind == -1 and code != -1):
            raise invalid_value(f"Invalid ICMP type or code: {kind}, {code}")
        return protocol, kind, code
    if protocol.isascii() and protocol.isdigit() and int(protocol) <= 255:
        return str(int(protocol)), -1, -1
    raise invalid_value(f"Invalid value '{protocol}' for IP protocol. Unknown protocol.")


def _port_range(protocol: str, first: int | None, last: int | None) -> tuple[int, int]:
    if first is None or last is None:
        raise invalid_value(
            "Invalid value 'Must specify both from and to ports with TCP/UDP.' for portRange."
        )
    if (first, last) == (-1, -1):
        return 0, 65535
    for port in (first, last):
        if not 0 <= port <= 65535:
            raise invalid_value(f"Invalid value '{port}' for portRange. It must be between 0 and 65535.")
    if first > last:
        raise invalid_value(f"Invalid {protocol.upper()} port range ({first}-{last})")
    return first, last


def cidr(text: str | None) -> str:
    """An IPv4 network, with the bits of the host part cleared."""
    try:
        if text and "/" in text:
            return str(IPv4Network(text, strict=False))
    except ValueError:
        pass
    raise invalid_value(f"CIDR block {text} is malformed")


def cidr6(text: str | None) -> str:
    try:
        if text and "/" in text and "%" not in text:  # a zone, which may be any text
            return str(IPv6Network(text, strict=False))
    except ValueError:
        pass
    raise invalid_value(f"CIDR block {text} is malformed")


def numbered(env: Env, rules: Iterable[Permission], tags: Mapping[str, str]) -> list[Permission]:
    return [replace(rule, id=env.new_id("sgr"), tags=dict(tags)) for rule in rules]


def text(rule: Permission) -> str:
    """A rule as EC2's messages put it."""
    peer = rule.cidr or rule.cidr6 or rule.prefix_list or rule.group
    protocol = "ALL" if rule.protocol == ANY else rule.protocol.upper()
    ports = f", from port: {rule.from_port}, to port: {rule.to_port}" if rule.protocol in _PORTS else ""
    return f"peer: {peer}, {protocol}{ports}, ALLOW"


def rule_item(group: SecurityGroup, rule: Permission, region: str) -> dict[str, Any]:
    """A rule as DescribeSecurityGroupRules shows it."""
    reference = {"GroupId": rule.group, "UserId": rule.group_account} if rule.group else None
    return {
        **_rule_base(group, rule),
        "GroupOwnerId": group.account,
        "ReferencedGroupInfo": reference,
        "Tags": [{"Key": name, "Value": value} for name, value in rule.tags.items()],
        "SecurityGroupRuleArn": f"arn:aws:ec2:{region}:{group.account}:security-group-rule/{rule.id}",
    }


def revoked_item(group: SecurityGroup, rule: Permission) -> dict[str, Any]:
    return {**_rule_base(group, rule), "ReferencedGroupId": rule.group or None}


def _rule_base(group: SecurityGroup, rule: Permission) -> dict[str, Any]:
    return {
        "SecurityGroupRuleId": rule.id,
        "GroupId": group.id,
        "IsEgress": rule.egress,
        "IpProtocol": rule.protocol,
        "FromPort": rule.from_port,
        "ToPort": rule.to_port,
        "CidrIpv4": rule.cidr or None,
        "CidrIpv6": rule.cidr6 or None,
        "PrefixListId": rule.prefix_list or None,
        "Description": rule.description or None,
    }


def permission_items(rules: Iterable[Permission], *, egress: bool) -> list[dict[str, Any]]:
    """Rules of one direction as IpPermissions: one entry for each protocol and ports, with all its peers."""
    entries: dict[Key, dict[str, Any]] = {}
    for rule in rules:
        if rule.egress is not egress:
            continue
        entry = entries.get((rule.protocol, rule.from_port, rule.to_port))
        if entry is None:
            limited = rule.protocol in _PORTS or rule.protocol in _ICMP
            entry = entries[rule.protocol, rule.from_port, rule.to_port] = {
                "IpProtocol": rule.protocol,
                "FromPort": rule.from_port if limited else None,
                "ToPort": rule.to_port if limited else None,
                "UserIdGroupPairs": [],
                "IpRanges": [],
                "Ipv6Ranges": [],
                "PrefixListIds": [],
            }
        about = {"Description": rule.description or None}
        if rule.cidr:
            entry["IpRanges"].append({"CidrIp": rule.cidr, **about})
        elif rule.cidr6:
            entry["Ipv6Ranges"].append({"CidrIpv6": rule.cidr6, **about})
        elif rule.prefix_list:
            entry["PrefixListIds"].append({"PrefixListId": rule.prefix_list, **about})
        else:
            pair = {"GroupId": rule.group, "UserId": rule.group_account, **about}
            entry["UserIdGroupPairs"].append(pair)
    return list(entries.values())
