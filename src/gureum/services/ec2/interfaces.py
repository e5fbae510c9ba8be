"""Describes of network interfaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gureum.dns import private_name
from gureum.resources import Address, NetworkInterface, SecondaryAddress, SecurityGroup, Vpc
from gureum.services.ec2 import lookup
from gureum.services.ec2.describe import association, ipv4_addresses, public_dns
from gureum.services.ec2.faults import invalid_combination, unknown_attribute
from gureum.services.ec2.filters import Filters
from gureum.services.ec2.listing import Listing
from gureum.services.ec2.tagging import tag_list
from gureum.services.ec2.zones import zone_ids
from gureum.services.operation import Context, Input, Output, operation


async def items(ctx: Context, interfaces: Sequence[NetworkInterface]) -> list[dict[str, Any]]:
    """Each interface as DescribeNetworkInterfaces shows it."""
    tx = ctx.tx
    groups = {g.id: g for g in await tx.get_many(SecurityGroup, {id for i in interfaces for id in i.groups})}
    vpcs = {vpc.id: vpc for vpc in await tx.get_many(Vpc, {i.vpc for i in interfaces})}
    ids = {id for interface in interfaces for id in _allocations(interface)}
    addresses = {address.id: address for address in await tx.get_many(Address, ids)}
    return [_item(ctx, each, groups, vpcs.get(each.vpc), addresses) for each in interfaces]


def _allocations(interface: NetworkInterface) -> list[str]:
    """The elastic addresses that it has, of whichever of its private ones."""
    ids = (interface.address, *(each.address for each in interface.secondary))
    return [id for id in ids if id]


def _item(
    ctx: Context,
    interface: NetworkInterface,
    groups: Mapping[str, SecurityGroup],
    vpc: Vpc | None,
    addresses: Mapping[str, Address],
) -> dict[str, Any]:
    private = [
        {
            "Association": _association(ctx, interface, each, vpc, addresses.get(each.address)),
            "Primary": number == 0,
            "PrivateDnsName": private_name(each.private_ip, ctx.cloud.dns_domain),
            "PrivateIpAddress": each.private_ip,
        }
        for number, each in enumerate(ipv4_addresses(interface))
    ]
    return {
        "NetworkInterfaceId": interface.id,
        "Association": private[0]["Association"],
        "Attachment": _attachment(interface),
        "AvailabilityZone": interface.zone,
        "AvailabilityZoneId": zone_ids(ctx.cloud).get(interface.zone),
        "Description": interface.description,
        "Groups": [{"GroupId": id, "GroupName": groups[id].name} for id in interface.groups if id in groups],
        "InterfaceType": "natGateway" if interface.type == "nat_gateway" else interface.type,
        "Ipv6Address": interface.ipv6[0] if interface.ipv6 else None,
        "Ipv6Addresses": [{"Ipv6Address": each, "IsPrimaryIpv6": False} for each in interface.ipv6],
        "MacAddress": interface.mac,
        "Operator": {"Managed": False},
        "OwnerId": interface.account,
        "PrivateDnsName": private[0]["PrivateDnsName"],
        "PublicDnsName": public_dns(interface.public_ip, vpc, ctx.cloud) or None,
        "PrivateIpAddress": interface.private_ip,
        "PrivateIpAddresses": private,
        "RequesterId": interface.requester or interface.account,
        "RequesterManaged": bool(interface.requester),
        "SourceDestCheck": interface.source_dest_check,
        "Status": "in-use" if interface.instance or interface.requester else "available",
        "SubnetId": interface.subnet,
        "TagSet": tag_list(interface.tags) or [],
        "VpcId": interface.vpc,
    }


def _association(
    ctx: Context,
    interface: NetworkInterface,
    private: SecondaryAddress,
    vpc: Vpc | None,
    address: Address | None,
) -> dict[str, Any] | None:
    found = association(interface, private, vpc, ctx.cloud)
    if found is None:
        return None
    return {
        "AllocationId": private.address or None,
        "AssociationId": address.association if address is not None else None,
        **found,
    }


def _attachment(interface: NetworkInterface) -> dict[str, Any] | None:
    if interface.requester:
        return {
            "AttachmentId": interface.attachment,
            "DeleteOnTermination": False,
            "DeviceIndex": 1,
            "InstanceOwnerId": "amazon-aws",
            "Status": "attached",
        }
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
        "Status": str(interface.attachment_state),
    }


INTERFACES = Listing(
    operation="DescribeNetworkInterfaces",
    noun=lookup.INTERFACE,
    ids="NetworkInterfaceIds",
    items="NetworkInterfaces",
    filters=Filters(
        {
            "addresses.association.owner-id": "PrivateIpAddresses[].Association.IpOwnerId",
            "addresses.association.public-ip": "publics",
            "addresses.primary": "PrivateIpAddresses[].Primary",
            "addresses.private-ip-address": "PrivateIpAddresses[].PrivateIpAddress",
            "association.allocation-id": _allocations,
            "association.association-id": "PrivateIpAddresses[].Association.AssociationId",
            "association.ip-owner-id": "PrivateIpAddresses[].Association.IpOwnerId",
            "association.public-dns-name": "PrivateIpAddresses[].Association.PublicDnsName",
            "association.public-ip": "publics",
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
            "private-ip-address": "addresses",
            "subnet-id": "subnet",
            "vpc-id": "vpc",
        },
    ),
    describe=items,
)


@operation("ec2", "DescribeNetworkInterfaces")
async def describe_network_interfaces(ctx: Context, input: Input) -> Output:
    return await INTERFACES.answer(ctx, input)


@operation("ec2", "DescribeNetworkInterfaceAttribute")
async def describe_network_interface_attribute(ctx: Context, input: Input) -> Output:
    interface = await lookup.one(ctx, lookup.INTERFACE, input["NetworkInterfaceId"])
    [item] = await items(ctx, [interface])
    values: dict[str, dict[str, Any]] = {
        "description": {"Description": {"Value": item["Description"]}},
        "groupSet": {"Groups": item["Groups"]},
        "sourceDestCheck": {"SourceDestCheck": {"Value": item["SourceDestCheck"]}},
        "attachment": {"Attachment": item["Attachment"]},
        "associatePublicIpAddress": {"AssociatePublicIpAddress": interface.auto_public},
    }
    attribute = input.get("Attribute") or ""
    if not attribute:
        raise invalid_combination("No attributes specified.")
    if attribute not in values:
        raise unknown_attribute(attribute)
    return {"NetworkInterfaceId": interface.id, **values[attribute]}
