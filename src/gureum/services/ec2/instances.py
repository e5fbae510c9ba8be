"""DescribeInstances and DescribeInstanceStatus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gureum.resources import Instance, InstanceState, NetworkInterface, Volume
from gureum.services.ec2 import describe, lookup
from gureum.services.ec2.filters import Filters, Query
from gureum.services.ec2.listing import Listing
from gureum.services.ec2.zones import zone_ids
from gureum.services.operation import Context, Input, Output, operation

_INDEX = {
    "instance-state-name": "state",
    "private-ip-address": "private_ip",
    "reservation-id": "reservation",
    "subnet-id": "subnet",
    "vpc-id": "vpc",
}

INSTANCE_FILTERS = Filters(
    {
        "affinity": "Placement.Affinity",
        "architecture": "Architecture",
        "availability-zone": "zone",
        "availability-zone-id": "Placement.AvailabilityZoneId",
        "block-device-mapping.attach-time": "BlockDeviceMappings[].Ebs.AttachTime",
        "block-device-mapping.delete-on-termination": "BlockDeviceMappings[].Ebs.DeleteOnTermination",
        "block-device-mapping.device-name": "BlockDeviceMappings[].DeviceName",
        "block-device-mapping.status": "BlockDeviceMappings[].Ebs.Status",
        "block-device-mapping.volume-id": "BlockDeviceMappings[].Ebs.VolumeId",
        "boot-mode": "BootMode",
        "capacity-reservation-id": "CapacityReservationId",
        "capacity-reservation-specification.capacity-reservation-preference": (
            "CapacityReservationSpecification.CapacityReservationPreference"
        ),
        "client-token": "client_token",
        "current-instance-boot-mode": "CurrentInstanceBootMode",
        "dns-name": "PublicDnsName",
        "ebs-optimized": "ebs_optimized",
        "ena-support": "EnaSupport",
        "enclave-options.enabled": "EnclaveOptions.Enabled",
        "group-id": "SecurityGroups[].GroupId",
        "group-name": "SecurityGroups[].GroupName",
        "hibernation-options.configured": "HibernationOptions.Configured",
        "host-id": "Placement.HostId",
        "hypervisor": "Hypervisor",
        "iam-instance-profile.arn": "IamInstanceProfile.Arn",
        "iam-instance-profile.id": "IamInstanceProfile.Id",
        "image-id": "image",
        "instance-id": "id",
        "instance-lifecycle": "InstanceLifecycle",
        "instance-state-code": lambda instance: (str(instance.state.code),),
        "instance-type": "type",
        "instance.group-id": "SecurityGroups[].GroupId",
        "instance.group-name": "SecurityGroups[].GroupName",
        "ip-address": "PublicIpAddress",
        "ipv6-address": "Ipv6Address",
        "kernel-id": "KernelId",
        "key-name": "key_name",
        "launch-index": "launch_index",
        "launch-time": "launched",
        "maintenance-options.auto-recovery": "MaintenanceOptions.AutoRecovery",
        "metadata-options.http-endpoint": "MetadataOptions.HttpEndpoint",
        "metadata-options.http-protocol-ipv4": "MetadataOptions.HttpEndpoint",
        "metadata-options.http-protocol-ipv6": "MetadataOptions.HttpProtocolIpv6",
        "metadata-options.http-put-response-hop-limit": "MetadataOptions.HttpPutResponseHopLimit",
        "metadata-options.http-tokens": "MetadataOptions.HttpTokens",
        "metadata-options.instance-metadata-tags": "MetadataOptions.InstanceMetadataTags",
        "metadata-options.state": "MetadataOptions.State",
        "monitoring-state": "Monitoring.State",
        "network-interface.addresses.association.ip-owner-id": (
            "NetworkInterfaces[].PrivateIpAddresses[].Association.IpOwnerId"
        ),
        "network-interface.addresses.association.public-ip": (
            "NetworkInterfaces[].PrivateIpAddresses[].Association.PublicIp"
        ),
        "network-interface.addresses.primary": "NetworkInterfaces[].PrivateIpAddresses[].Primary",
        "network-interface.addresses.private-ip-address": (
            "NetworkInterfaces[].PrivateIpAddresses[].PrivateIpAddress"
        ),
        "network-interface.association.ip-owner-id": "NetworkInterfaces[].Association.IpOwnerId",
        "network-interface.association.public-ip": "NetworkInterfaces[].Association.PublicIp",
        "network-interface.attachment.attach-time": "NetworkInterfaces[].Attachment.AttachTime",
        "network-interface.attachment.attachment-id": "NetworkInterfaces[].Attachment.AttachmentId",
        "network-interface.attachment.delete-on-termination": (
            "NetworkInterfaces[].Attachment.DeleteOnTermination"
        ),
        "network-interface.attachment.device-index": "NetworkInterfaces[].Attachment.DeviceIndex",
        "network-interface.attachment.instance-id": "id",
        "network-interface.attachment.status": "NetworkInterfaces[].Attachment.Status",
        "network-interface.availability-zone": "zone",
        "network-interface.description": "NetworkInterfaces[].Description",
        "network-interface.group-id": "NetworkInterfaces[].Groups[].GroupId",
        "network-interface.group-name": "NetworkInterfaces[].Groups[].GroupName",
        "network-interface.mac-address": "NetworkInterfaces[].MacAddress",
        "network-interface.network-interface-id": "NetworkInterfaces[].NetworkInterfaceId",
        "network-interface.owner-id": "NetworkInterfaces[].OwnerId",
        "network-interface.private-dns-name": "NetworkInterfaces[].PrivateDnsName",
        "network-interface.private-ip-address": "NetworkInterfaces[].PrivateIpAddress",
        "network-interface.source-dest-check": "NetworkInterfaces[].SourceDestCheck",
        "network-interface.status": "NetworkInterfaces[].Status",
        "network-interface.subnet-id": "NetworkInterfaces[].SubnetId",
        "network-interface.vpc-id": "NetworkInterfaces[].VpcId",
        "outpost-arn": "OutpostArn",
        "owner-id": "account",
        "placement-group-name": "Placement.GroupName",
        "placement-partition-number": "Placement.PartitionNumber",
        "platform": "Platform",
        "platform-details": "PlatformDetails",
        "private-dns-name": "PrivateDnsName",
        "private-dns-name-options.enable-resource-name-dns-a-record": (
            "PrivateDnsNameOptions.EnableResourceNameDnsARecord"
        ),
        "private-dns-name-options.enable-resource-name-dns-aaaa-record": (
            "PrivateDnsNameOptions.EnableResourceNameDnsAAAARecord"
        ),
        "private-dns-name-options.hostname-type": "PrivateDnsNameOptions.HostnameType",
        "product-code": "ProductCodes[].ProductCodeId",
        "product-code.type": "ProductCodes[].ProductCodeType",
        "ramdisk-id": "RamdiskId",
        "reason": "transition_reason",
        "requester-id": "RequesterId",
        "root-device-name": "root_device",
        "root-device-type": "RootDeviceType",
        "source-dest-check": "SourceDestCheck",
        "spot-instance-request-id": "SpotInstanceRequestId",
        "subnet-id": lambda instance: () if describe.is_gone(instance) else (instance.subnet,),
        "vpc-id": lambda instance: () if describe.is_gone(instance) else (instance.vpc,),
        "state-reason-code": "StateReason.Code",
        "state-reason-message": "StateReason.Message",
        "tenancy": "Placement.Tenancy",
        "tpm-support": "TpmSupport",
        "usage-operation": "UsageOperation",
        "usage-operation-update-time": "UsageOperationUpdateTime",
        "virtualization-type": "VirtualizationType",
    },
    index=_INDEX,
)

# Filters that the interfaces' indexes can answer, and the field each is on.
_ON_INTERFACE = {
    "group-id": "groups",
    "instance.group-id": "groups",
    "ip-address": "publics",
    "network-interface.addresses.association.public-ip": "publics",
    "network-interface.addresses.private-ip-address": "addresses",
    "network-interface.association.public-ip": "publics",
    "network-interface.group-id": "groups",
    "network-interface.private-ip-address": "addresses",
    "network-interface.subnet-id": "subnet",
}


async def _narrow(ctx: Context, query: Query) -> Sequence[str] | None:
    """The instances that can match, where what belongs to instances is looked up faster than they are."""
    for name, values in query.plain.items():
        if name in _ON_INTERFACE:
            index: dict[str, Any] = {_ON_INTERFACE[name]: values}
            interfaces = await ctx.tx.find(NetworkInterface, account=ctx.caller.account, **index)
            return [interface.instance for interface in interfaces if interface.instance]
        if name == "network-interface.network-interface-id":
            interfaces = await ctx.tx.get_many(NetworkInterface, values)
            return [interface.instance for interface in interfaces if interface.instance]
        if name == "block-device-mapping.volume-id":
            volumes = await ctx.tx.get_many(Volume, values)
            return [instance for volume in volumes for instance in volume.instances]
    return None


INSTANCES = Listing(
    operation="DescribeInstances",
    noun=lookup.INSTANCE,
    ids="InstanceIds",
    items="Instances",
    filters=INSTANCE_FILTERS,
    describe=describe.items,
    render=describe.rendered,
    narrow=_narrow,
)


@operation("ec2", "DescribeInstances")
async def describe_instances(ctx: Context, input: Input) -> Output:
    chosen, token = await INSTANCES.select(ctx, input)
    reservations: dict[str, dict[str, Any]] = {}
    # Each reservation shows its instances in the order in which they were launched; their ids are random.
    for instance, item in sorted(chosen, key=lambda each: each[0].launch_index):
        reservation = reservations.get(instance.reservation)
        if reservation is None:
            reservation = reservations[instance.reservation] = {
                "ReservationId": instance.reservation,
                "OwnerId": instance.account,
                "Groups": [],
                "Instances": [],
            }
        reservation["Instances"].append(item)
    output: dict[str, Any] = {"Reservations": list(reservations.values())}
    if token:
        output["NextToken"] = token
    return output


async def _statuses(ctx: Context, instances: Sequence[Instance]) -> list[dict[str, Any]]:
    ids = zone_ids(ctx.cloud)
    return [
        {
            "AvailabilityZone": instance.zone,
            "AvailabilityZoneId": ids.get(instance.zone),
            "Events": [_impairment(ctx, instance)] if instance.impaired else [],
            "InstanceId": instance.id,
            "InstanceState": describe.state(instance.state),
            "InstanceStatus": _check(instance, impaired=bool(instance.impaired)),
            "SystemStatus": _check(instance, impaired=False),
            "AttachedEbsStatus": _check(instance, impaired=bool(instance.impaired)),
        }
        for instance in instances
    ]


def _impairment(ctx: Context, instance: Instance) -> dict[str, Any]:
    """Why it makes no progress. EC2 has no other place for words about that."""
    return {
        "InstanceEventId": f"instance-event-{instance.id.partition('-')[2]}",
        "Code": "system-maintenance",
        "Description": instance.impaired,
        "NotBefore": ctx.env.utcnow(),
    }


def _check(instance: Instance, *, impaired: bool) -> dict[str, Any]:
    """A status check. Nobody looks into the guest: what is known is whether the machine makes progress."""
    if instance.state is InstanceState.pending:
        return {"Status": "initializing", "Details": [{"Name": "reachability", "Status": "initializing"}]}
    if instance.state is not InstanceState.running:
        return {"Status": "not-applicable"}
    status, detail = ("impaired", "failed") if impaired else ("ok", "passed")
    return {"Status": status, "Details": [{"Name": "reachability", "Status": detail}]}


STATUSES = Listing(
    operation="DescribeInstanceStatus",
    noun=lookup.INSTANCE,
    ids="InstanceIds",
    items="InstanceStatuses",
    filters=Filters(
        {
            "attached-ebs-status.status": "AttachedEbsStatus.Status",
            "availability-zone": "zone",
            "availability-zone-id": "AvailabilityZoneId",
            "event.code": "Events[].Code",
            "event.description": "Events[].Description",
            "event.instance-event-id": "Events[].InstanceEventId",
            "event.not-after": "Events[].NotAfter",
            "event.not-before": "Events[].NotBefore",
            "event.not-before-deadline": "Events[].NotBeforeDeadline",
            "instance-state-code": lambda instance: (str(instance.state.code),),
            "instance-status.reachability": "InstanceStatus.Details[].Status",
            "instance-status.status": "InstanceStatus.Status",
            "system-status.reachability": "SystemStatus.Details[].Status",
            "system-status.status": "SystemStatus.Status",
        },
        index={"instance-state-name": "state"},
    ),
    describe=_statuses,
)


@operation("ec2", "DescribeInstanceStatus")
async def describe_instance_status(ctx: Context, input: Input) -> Output:
    """Running instances only, unless all are asked for."""
    scope = None if input.get("IncludeAllInstances") else {"state": str(InstanceState.running)}
    return await STATUSES.answer(ctx, input, scope=scope)
