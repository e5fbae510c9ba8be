"""Describes of network interfaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gureum.dns import private_name
from gureum.resources import Address, NetworkInterface, SecurityGroup, Vpc
from gureum.services.ec2 import lookup
from gureum.services.ec2.describe import public_dns
from gureum.services.ec2.faults import invalid_value
from gureum.services.ec2.filters import Filters
from gureum.services.ec2.listing import Listing
from gureum.services.ec2.tagging import tag_list
from gureum.services.ec2.zones import zone_ids
from gureum.services.operation import Context, Input, Output, operation


async def _items(ctx: Context, interfaces: Sequence[NetworkInterface]) -> list[dict[str, Any]]:
    tx = ctx.tx
    groups = {g.id: g for g in await tx.get_many(SecurityGroup, {id for i in interfaces for id in i.groups})}
    vpcs = {vpc.id: vpc for vpc in await tx.get_many(Vpc, {i.vpc for i in interfaces})}
    ids = {interface.address for interface in interfaces if interface.address}
    addresses = {address.id: address for address in await tx.get_many(Address, ids)}
    return [_item(ctx, each, groups, vpcs.get(each.vpc), addresses.get(each.address)) for each in interfaces]


def _item(
    ctx: Context,
    interface: NetworkInterface,
    groups: Mapping[str, SecurityGroup],
    vpc: Vpc | None,
    address: Address | None,
) -> dict[str, Any]:
    dns = private_name(interface.private_ip, ctx.cloud.dns_domain)
    association = _association(ctx, interface, vpc, address)
    private = {
        "Association": association,
        "Primary": True,
        "PrivateDnsName": dns,
        "PrivateIpAddress": interface.private_ip,
    }
    return {
        "NetworkInterfaceId": interface.id,
        "Association": association,
        "Attachment": _attachment(interface),
        "AvailabilityZone": interface.zone,
        "AvailabilityZoneId": zone_ids(ctx.cloud).get(interface.zone),
        "Description": interface.description,
        "Groups": [{"GroupId": id, "GroupName": groups[id].name} for id in interface.groups if id in groups],
        "InterfaceType": "interface",
        "Ipv6Addresses": [],
        "MacAddress": interface.mac,
        "OwnerId": interface.account,
        "PrivateDnsName": dns,
        "PublicDnsName": public_dns(interface.public_ip, vpc, ctx.cloud) or None,
        "PrivateIpAddress": interface.private_ip,
        "PrivateIpAddresses": [private],
        "RequesterId": interface.account if interface.instance else None,
        "RequesterManaged": False,
        "SourceDestCheck": interface.source_dest_check,
        "Status": "in-use" if interface.instance else "available",
        "SubnetId": interface.subnet,
        "TagSet": tag_list(interface.tags) or [],
        "VpcId": interface.vpc,
    }


def _association(
    ctx: Context, interface: NetworkInterface, vpc: Vpc | None, address: Address | None
) -> dict[str, Any] | None:
    if not interface.public_ip:
        return None
    return {
        "AllocationId": interface.address or None,
        "AssociationId": address.association if address is not None else None,
        "IpOwnerId": interface.account if interface.address else "amazon",
        "PublicDnsName": public_dns(interface.public_ip, vpc, ctx.cloud),
        "PublicIp": interface.public_ip,
    }


def _attachment(interface: NetworkInterface) -> dict[str, Any] | None:
    if not interface.instance:
        return None
    return {
        "AttachTime": interface.attached,
        "AttachmentId": interface.attachment,
        "DeleteOnTermination": interface.delete_on_termination,
        "DeviceIndex": interface.device_index,
        "NetworkCardIndex": 0,
        "InstanceId": interface.instance,
        "InstanceOwnerId": interface.account,
        "Status": "attached",
    }


INTERFACES = Listing(
    operation="DescribeNetworkInterfaces",
    noun=lookup.INTERFACE,
    ids="NetworkInterfaceIds",
    items="NetworkInterfaces",
    filters=Filters(
        {
            "addresses.association.owner-id": "PrivateIpAddresses[].Association.IpOwnerId",
            "addresses.association.public-ip": "public_ip",
            "addresses.primary": "PrivateIpAddresses[].Primary",
            "addresses.private-ip-address": "private_ip",
            "association.allocation-id": "address",
            "association.association-id": "Association.AssociationId",
            "association.ip-owner-id": "Association.IpOwnerId",
            "association.public-dns-name": "Association.PublicDnsName",
            "association.public-ip": "public_ip",
            "attachment.attach-time": "attached",
            "attachment.attachment-id": "attachment",
            "attachment.delete-on-termination": "Attachment.DeleteOnTermination",
            "attachment.device-index": "Attachment.DeviceIndex",
            "attachment.instance-owner-id": "Attachment.InstanceOwnerId",
            "attachment.status": "Attachment.Status",
            "availability-zone": "zone",
            "availability-zone-id": "AvailabilityZoneId",
            "description": "description",
            "group-name": "Groups[].GroupName",
            "interface-type": "InterfaceType",
            "ipv6-addresses.ipv6-address": "Ipv6Addresses[].Ipv6Address",
            "mac-address": "mac",
            "network-interface-id": "id",
            "operator.managed": "Operator.Managed",
            "operator.principal": "Operator.Principal",
            "owner-id": "account",
            "private-dns-name": "PrivateDnsName",
            "requester-id": "RequesterId",
            "requester-managed": "RequesterManaged",
            "source-dest-check": "source_dest_check",
            "status": "Status",
        },
        index={
            "attachment.instance-id": "instance",
            "group-id": "groups",
            "private-ip-address": "private_ip",
            "subnet-id": "subnet",
            "vpc-id": "vpc",
        },
    ),
    describe=_items,
)


@operation("ec2", "DescribeNetworkInterfaces")
async def describe_network_interfaces(ctx: Context, input: Input) -> Output:
    return await INTERFACES.answer(ctx, input)


@operation("ec2", "DescribeNetworkInterfaceAttribute")
async def describe_network_interface_attribute(ctx: Context, input: Input) -> Output:
    interface = await lookup.one(ctx, lookup.INTERFACE, input["NetworkInterfaceId"])
    [item] = await _items(ctx, [interface])
    values: dict[str, dict[str, Any]] = {
        "description": {"Description": {"Value": item["Description"]}},
        "groupSet": {"Groups": item["Groups"]},
        "sourceDestCheck": {"SourceDestCheck": {"Value": item["SourceDestCheck"]}},
        "attachment": {"Attachment": item["Attachment"]},
        "associatePublicIpAddress": {"AssociatePublicIpAddress": interface.auto_public},
    }
    attribute = input.get("Attribute") or ""
    if attribute not in values:
        raise invalid_value(f"Value ({attribute}) for parameter attribute is invalid. Unknown attribute.")
    return {"NetworkInterfaceId": interface.id, **values[attribute]}
