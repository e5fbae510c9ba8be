"""Instances as DescribeInstances and RunInstances show them, made in bulk and remembered.

An item is made of the records of an instance, its interfaces, volumes, security groups and VPC. Records are
frozen, so an item stays right as long as all of them are the very same objects; the store hands out the same
object for a record that did not change.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

from gureum.dns import private_name, public_name
from gureum.gateway.call import Fragment
from gureum.resources import (
    Instance,
    InstanceState,
    MetadataOptions,
    NetworkInterface,
    RecoveryPolicy,
    SecondaryAddress,
    Volume,
    Vpc,
)
from gureum.services.ec2.instance_forms import Forms
from gureum.services.ec2.instance_types import TYPES
from gureum.services.ec2.parts import Parts, gather
from gureum.services.ec2.tagging import tag_list
from gureum.services.ec2.zones import zone_ids
from gureum.services.operation import Cloud, Context

ITEMS_MAX = 2048
COMMON_MAX = 512

Item = dict[str, Any]
Render = Callable[[str, str, Mapping[str, Any]], Fragment]
"""(service, shape, value) -> the value, serialised: ``Gateway.fragment``."""


class Views:
    """Remembers what was made of the most recently described instances.

    ``render`` serialises a structure (``Gateway.fragment``); None answers dicts.
    """

    def __init__(self, items_max: int = ITEMS_MAX) -> None:
        self.render: Render | None = None
        self._items_max = items_max
        self._known: OrderedDict[str, tuple[Parts, Cloud, Render | None, Any]] = OrderedDict()
        self._common: dict[int, tuple[Item, Render, str]] = {}
        self._forms = Forms()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, parts: Parts, cloud: Cloud) -> Item | Fragment:
        id = parts.instance.id
        known = self._known.get(id)
        if known is not None:
            before, its_cloud, render, answer = known
            if its_cloud is cloud and render is self.render and before.same(parts):
                self._known.move_to_end(id)
                return cast("Item | Fragment", answer)
        made = item(parts, cloud) if self.render is None else self._rendered(parts, cloud, self.render)
        self._known[id] = (parts, cloud, self.render, made)
        if len(self._known) > self._items_max:
            self._known.popitem(last=False)
        return made

    def _rendered(self, parts: Parts, cloud: Cloud, render: Render) -> Fragment:
        """From the form of instances like it, or, if there are few, with what many have in common kept."""
        shared = _common_of(parts.instance, cloud)

        def written(some: Parts) -> str:
            return self._shared(shared, render) + render("ec2", "Instance", _own(some, cloud)).text

        return Fragment(self._forms.text(parts, (cloud, shared, render), written))

    def _shared(self, shared: Item, render: Render) -> str:
        known = self._common.get(id(shared))
        if known is None or known[1] is not render:
            if len(self._common) >= COMMON_MAX:
                self._common.clear()
            # Holding the dict keeps its id from being given to another one.
            known = self._common[id(shared)] = (shared, render, render("ec2", "Instance", shared).text)
        return known[2]


VIEWS = Views()
"""Of this process. Records are compared by identity, so several stores cannot mix."""


async def items(ctx: Context, instances: Sequence[Instance]) -> list[Item]:
    """Each instance as a dict."""
    return [item(parts, ctx.cloud) for parts in await gather(ctx, instances)]


async def rendered(ctx: Context, instances: Sequence[Instance]) -> list[Item | Fragment]:
    """Each instance as it goes into an answer."""
    return [VIEWS.get(parts, ctx.cloud) for parts in await gather(ctx, instances)]


def item(parts: Parts, cloud: Cloud) -> Item:
    """An instance as a dict. Parts of it are shared: it is not to be changed."""
    return {**_common_of(parts.instance, cloud), **_own(parts, cloud)}


def _common_of(instance: Instance, cloud: Cloud) -> Item:
    return _common(
        cloud,
        instance.zone,
        instance.type,
        instance.state,
        instance.metadata,
        (instance.monitoring, instance.ebs_optimized, instance.source_dest_check),
        (instance.group, instance.group_name, instance.partition, instance.tenancy),
    )


@lru_cache(maxsize=COMMON_MAX)
def _common(
    cloud: Cloud,
    zone: str,
    type_name: str,
    state_: InstanceState,
    metadata: MetadataOptions,
    flags: tuple[bool, bool, bool],
    placed: tuple[str, str, int, str],
) -> Item:
    """The members that many instances share, always the same dict for the same arguments."""
    type = TYPES.get(type_name)
    monitoring, ebs_optimized, source_dest_check = flags
    group, group_name, partition, tenancy = placed
    return {
        "State": state(state_),
        "ProductCodes": [],
        "InstanceType": type_name,
        "Placement": {
            "AvailabilityZone": zone,
            "AvailabilityZoneId": zone_ids(cloud).get(zone),
            "GroupId": group or None,
            "GroupName": group_name,
            "PartitionNumber": partition or None,
            "Tenancy": tenancy,
        },
        "Monitoring": {"State": "enabled" if monitoring else "disabled"},
        "Architecture": "x86_64",
        "EbsOptimized": ebs_optimized,
        "EnaSupport": False,
        "Hypervisor": "xen",
        "RootDeviceType": "ebs",
        "SourceDestCheck": None if state_ is InstanceState.terminated else source_dest_check,
        "VirtualizationType": "hvm",
        "CpuOptions": None if type is None else {"CoreCount": type.cores, "ThreadsPerCore": type.threads},
        "CapacityReservationSpecification": {"CapacityReservationPreference": "open"},
        "HibernationOptions": {"Configured": False},
        "MetadataOptions": metadata_options(metadata, applied=True),
        "EnclaveOptions": {"Enabled": False},
        "BootMode": "legacy-bios",
        "CurrentInstanceBootMode": "legacy-bios",
        "PlatformDetails": "Linux/UNIX",
        "UsageOperation": "RunInstances",
        "PrivateDnsNameOptions": {
            "HostnameType": "ip-name",
            "EnableResourceNameDnsARecord": False,
            "EnableResourceNameDnsAAAARecord": False,
        },
    }


def is_gone(instance: Instance) -> bool:
    """Whether it is shown, and found, without the network that it was in."""
    return instance.state is InstanceState.terminated


def _own(parts: Parts, cloud: Cloud) -> Item:
    """The members that are an instance's own."""
    instance = parts.instance
    groups = {group.id: {"GroupId": group.id, "GroupName": group.name} for group in parts.groups}
    primary = parts.interfaces[0] if parts.interfaces else None
    public_ip = primary.public_ip if primary is not None else ""
    gone = is_gone(instance)
    return {
        "InstanceId": instance.id,
        "ImageId": instance.image,
        "PrivateDnsName": private_name(instance.private_ip, cloud.dns_domain),
        "PublicDnsName": public_dns(public_ip, parts.vpc, cloud),
        "StateTransitionReason": instance.transition_reason,
        "KeyName": instance.key_name or None,
        "AmiLaunchIndex": instance.launch_index,
        "LaunchTime": instance.launched,
        "SubnetId": None if gone else instance.subnet,
        "VpcId": None if gone else instance.vpc,
        "PrivateIpAddress": instance.private_ip or None,
        "Ipv6Address": primary.ipv6[0] if primary is not None and primary.ipv6 else None,
        "PublicIpAddress": public_ip or None,
        "BlockDeviceMappings": block_devices(instance, parts.volumes),
        "ClientToken": instance.client_token,
        "NetworkInterfaces": [_interface(each, groups, parts.vpc, cloud) for each in parts.interfaces],
        "RootDeviceName": instance.root_device,
        "SecurityGroups": [] if primary is None else [groups[id] for id in primary.groups if id in groups],
        "StateReason": _state_reason(instance),
        "Tags": tag_list(instance.tags),
        "UsageOperationUpdateTime": instance.launched,
        "MaintenanceOptions": {"AutoRecovery": auto_recovery(instance)},
    }


def auto_recovery(instance: Instance) -> str:
    """As EC2's maintenance options have it."""
    return "default" if instance.recovery.policy is RecoveryPolicy.restart else "disabled"


def state(state: InstanceState) -> Item:
    return {"Code": state.code, "Name": str(state)}


def public_dns(address: str, vpc: Vpc | None, cloud: Cloud) -> str:
    return public_name(address, cloud.region) if vpc is not None and vpc.dns_hostnames else ""


def _state_reason(instance: Instance) -> Item | None:
    if instance.state_reason is not None:
        return {"Code": instance.state_reason.code, "Message": instance.state_reason.message}
    if instance.state is InstanceState.pending:
        return {"Code": "pending", "Message": "pending"}
    return None


def metadata_options(options: MetadataOptions, *, applied: bool) -> Item:
    return {
        "State": "applied" if applied else "pending",
        "HttpTokens": "required" if options.tokens_required else "optional",
        "HttpPutResponseHopLimit": options.hop_limit,
        "HttpEndpoint": "enabled" if options.enabled else "disabled",
        "HttpProtocolIpv6": "disabled",
        "InstanceMetadataTags": "enabled" if options.tags_enabled else "disabled",
    }


def block_devices(instance: Instance, volumes: Iterable[Volume]) -> list[Item]:
    attachments = {volume.id: volume.attached_to(instance.id) for volume in volumes}
    found = []
    for device in instance.devices:
        attachment = attachments.get(device.volume)
        if attachment is None:
            continue
        ebs = {
            "AttachTime": attachment.attached,
            "DeleteOnTermination": device.delete_on_termination,
            "Status": str(attachment.state),
            "VolumeId": device.volume,
        }
        found.append({"DeviceName": device.device, "Ebs": ebs})
    return found


def _interface(
    interface: NetworkInterface, groups: Mapping[str, Item], vpc: Vpc | None, cloud: Cloud
) -> Item:
    private = [
        {
            "Association": association(interface, each, vpc, cloud),
            "Primary": number == 0,
            "PrivateDnsName": private_name(each.private_ip, cloud.dns_domain),
            "PrivateIpAddress": each.private_ip,
        }
        for number, each in enumerate(ipv4_addresses(interface))
    ]
    return {
        "Association": private[0]["Association"],
        "Attachment": {
            "AttachTime": interface.attached,
            "AttachmentId": interface.attachment,
            "DeleteOnTermination": interface.delete_on_termination,
            "DeviceIndex": interface.device_index,
            "Status": str(interface.attachment_state),
            "NetworkCardIndex": 0,
        },
        "Description": interface.description,
        "Groups": [groups[id] for id in interface.groups if id in groups],
        "Ipv6Addresses": [{"Ipv6Address": each, "IsPrimaryIpv6": False} for each in interface.ipv6],
        "MacAddress": interface.mac,
        "NetworkInterfaceId": interface.id,
        "OwnerId": interface.account,
        "PrivateDnsName": private[0]["PrivateDnsName"],
        "PrivateIpAddress": interface.private_ip,
        "PrivateIpAddresses": private,
        "SourceDestCheck": interface.source_dest_check,
        "Status": "in-use",
        "SubnetId": interface.subnet,
        "VpcId": interface.vpc,
        "InterfaceType": "interface",
    }


def ipv4_addresses(interface: NetworkInterface) -> tuple[SecondaryAddress, ...]:
    """All its private IPv4 addresses with what is translated to them, the primary one first."""
    primary = SecondaryAddress(
        private_ip=interface.private_ip, public_ip=interface.public_ip, address=interface.address
    )
    return primary, *interface.secondary


def association(
    interface: NetworkInterface, private: SecondaryAddress, vpc: Vpc | None, cloud: Cloud
) -> Item | None:
    if not private.public_ip:
        return None
    return {
        "IpOwnerId": interface.account if private.address else "amazon",
        "PublicDnsName": public_dns(private.public_ip, vpc, cloud),
        "PublicIp": private.public_ip,
    }
