"""Attributes of instances: describe and modify, and the metadata options."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import Instance, InstanceState, NetworkInterface, Volume
from gureum.services.ec2 import describe, lookup
from gureum.services.ec2 import launch_options as options
from gureum.services.ec2.faults import (
    incorrect_instance_state,
    invalid_combination,
    invalid_value,
    missing,
    several_interfaces,
    unknown_attribute,
    unsupported,
)
from gureum.services.ec2.interface_options import check_interface_count, check_limits
from gureum.services.ec2.placement import checked_groups
from gureum.services.operation import Context, Input, Output, operation


def _value(member: str, value: object) -> dict[str, Any]:
    return {member: {} if value in (None, "") else {"Value": value}}


@operation("ec2", "DescribeInstanceAttribute")
async def describe_instance_attribute(ctx: Context, input: Input) -> Output:
    instance = await lookup.one(ctx, lookup.INSTANCE, input["InstanceId"])
    attribute = input["Attribute"]
    if attribute in ("blockDeviceMapping", "groupSet"):
        [item] = await describe.items(ctx, [instance])
        if attribute == "groupSet":
            return {"InstanceId": instance.id, "Groups": item["SecurityGroups"]}
        return {"InstanceId": instance.id, "BlockDeviceMappings": item["BlockDeviceMappings"]}
    data = base64.b64encode(instance.user_data).decode()
    answers: dict[str, dict[str, Any]] = {
        "instanceType": _value("InstanceType", instance.type),
        "kernel": _value("KernelId", None),
        "ramdisk": _value("RamdiskId", None),
        "userData": _value("UserData", data),
        "disableApiTermination": _value("DisableApiTermination", instance.disable_api_termination),
        "disableApiStop": _value("DisableApiStop", instance.disable_api_stop),
        "instanceInitiatedShutdownBehavior": _value(
            "InstanceInitiatedShutdownBehavior", instance.shutdown_behavior
        ),
        "rootDeviceName": _value("RootDeviceName", instance.root_device),
        "productCodes": {"ProductCodes": []},
        "sourceDestCheck": _value("SourceDestCheck", instance.source_dest_check),
        "ebsOptimized": _value("EbsOptimized", instance.ebs_optimized),
        "sriovNetSupport": _value("SriovNetSupport", None),
        "enaSupport": _value("EnaSupport", False),
        "enclaveOptions": {"EnclaveOptions": {"Enabled": False}},
    }
    if attribute not in answers:
        raise unknown_attribute(attribute)
    return {"InstanceId": instance.id, **answers[attribute]}


Modify = Callable[[Context, Instance, Any], Awaitable[Instance]]


def _flag(text: object) -> bool:
    """A boolean as Value has it: a text in any case, or true already."""
    if isinstance(text, bool):
        return text
    word = str(text).lower()
    if word not in ("true", "false"):
        raise invalid_value(f"Value ({text}) for parameter value is invalid. Expected: true, false.")
    return word == "true"


def _need_stopped(instance: Instance) -> None:
    if instance.state is not InstanceState.stopped:
        raise incorrect_instance_state(f"The instance '{instance.id}' is not in the 'stopped' state.")


async def _set_type(ctx: Context, instance: Instance, value: str) -> Instance:
    _need_stopped(instance)
    type = options.instance_type(value or None).name
    check_interface_count(len(instance.interfaces), type)
    for interface in await ctx.tx.get_many(NetworkInterface, instance.interfaces):
        check_limits(1 + len(interface.secondary), len(interface.ipv6), type)
    return replace(instance, type=type, growth=None)


async def _set_user_data(ctx: Context, instance: Instance, value: bytes) -> Instance:
    _need_stopped(instance)
    return replace(instance, user_data=options.checked_user_data(value))


async def _set_termination(ctx: Context, instance: Instance, value: object) -> Instance:
    return replace(instance, disable_api_termination=_flag(value))


async def _set_stop(ctx: Context, instance: Instance, value: object) -> Instance:
    return replace(instance, disable_api_stop=_flag(value))


async def _set_shutdown_behavior(ctx: Context, instance: Instance, value: str) -> Instance:
    return replace(instance, shutdown_behavior=options.shutdown_behavior(value))


async def _set_ebs_optimized(ctx: Context, instance: Instance, value: object) -> Instance:
    _need_stopped(instance)
    return replace(instance, ebs_optimized=_flag(value))


async def _set_source_dest_check(ctx: Context, instance: Instance, value: object) -> Instance:
    check = _flag(value)
    for interface in await _only_interface(ctx, instance):
        await ctx.tx.put(replace(interface, source_dest_check=check))
    return replace(instance, source_dest_check=check)


async def _set_groups(ctx: Context, instance: Instance, value: list[str]) -> Instance:
    groups = await checked_groups(ctx, value, instance.vpc)
    if not groups:
        raise invalid_value("An instance needs at least one security group.")
    for interface in await _only_interface(ctx, instance):
        await ctx.tx.put(replace(interface, groups=tuple(group.id for group in groups)))
    return instance


async def _only_interface(ctx: Context, instance: Instance) -> list[NetworkInterface]:
    """As EC2: an attribute of interfaces is the instance's only as long as it has just one."""
    if len(instance.interfaces) > 1:
        raise several_interfaces(instance)
    return await ctx.tx.get_many(NetworkInterface, instance.interfaces)


async def _set_block_devices(ctx: Context, instance: Instance, value: list[Mapping[str, Any]]) -> Instance:
    """Only whether a volume goes with the instance can be changed."""
    devices = {device.device: device for device in instance.devices}
    for entry in value:
        name, ebs = entry.get("DeviceName") or "", entry.get("Ebs") or {}
        if name not in devices:
            raise ApiError("InvalidInstanceAttributeValue", f"No device is currently mapped at {name}")
        if entry.get("NoDevice") is not None or entry.get("VirtualName"):
            raise unsupported("Only deleteOnTermination of a block device can be modified.")
        if ebs.get("VolumeId") not in (None, "", devices[name].volume):
            raise invalid_value(f"The volume at {name} is {devices[name].volume}, not {ebs['VolumeId']}")
        if ebs.get("DeleteOnTermination") is None:
            raise missing("ebs.deleteOnTermination")
        delete = bool(ebs["DeleteOnTermination"])
        devices[name] = replace(devices[name], delete_on_termination=delete)
        volume = await ctx.tx.get(Volume, devices[name].volume)
        attachment = volume.attached_to(instance.id) if volume is not None else None
        if volume is not None and attachment is not None:
            attachment = replace(attachment, delete_on_termination=delete)
            await ctx.tx.put(volume.with_attachment(attachment))
    return replace(instance, devices=tuple(devices.values()))


# The input's member for each attribute. Those with a structure of one Value are unwrapped.
_MODIFIERS: dict[str, Modify] = {
    "InstanceType": _set_type,
    "UserData": _set_user_data,
    "DisableApiTermination": _set_termination,
    "DisableApiStop": _set_stop,
    "InstanceInitiatedShutdownBehavior": _set_shutdown_behavior,
    "EbsOptimized": _set_ebs_optimized,
    "SourceDestCheck": _set_source_dest_check,
    "Groups": _set_groups,
    "BlockDeviceMappings": _set_block_devices,
}
_UNSUPPORTED = ("Kernel", "Ramdisk", "SriovNetSupport", "EnaSupport", "EnclaveOptions")
_BY_ATTRIBUTE = {
    "instanceType": "InstanceType",
    "userData": "UserData",
    "disableApiTermination": "DisableApiTermination",
    "disableApiStop": "DisableApiStop",
    "instanceInitiatedShutdownBehavior": "InstanceInitiatedShutdownBehavior",
    "ebsOptimized": "EbsOptimized",
    "sourceDestCheck": "SourceDestCheck",
}


@operation("ec2", "ModifyInstanceAttribute", write=True)
async def modify_instance_attribute(ctx: Context, input: Input) -> Output:
    for member in _UNSUPPORTED:
        if input.get(member) is not None:
            raise unsupported(f"The attribute {member} cannot be modified in gureum.")
    wanted = {name: input[name] for name in _MODIFIERS if input.get(name) is not None}
    wanted = {name: _unwrapped(name, value) for name, value in wanted.items()}
    if input.get("Attribute") and input.get("Value") is not None:
        name, value = _named(input["Attribute"], input["Value"])
        wanted[name] = value
    if not wanted:
        raise invalid_combination("No attributes specified.")
    if len(wanted) > 1:
        raise invalid_combination(
            f"Fields for multiple attribute types specified: {', '.join(sorted(wanted))}"
        )
    [(name, value)] = wanted.items()
    instance = await lookup.one(ctx, lookup.INSTANCE, input["InstanceId"])
    if instance.state in (InstanceState.terminated, InstanceState.shutting_down):
        raise incorrect_instance_state(
            f"The instance '{instance.id}' is not in a state from which it can be modified."
        )
    modified = await _MODIFIERS[name](ctx, instance, value)
    if modified != instance:
        await ctx.tx.put(modified)
    return {}


def _unwrapped(name: str, value: Any) -> Any:
    if name in ("Groups", "BlockDeviceMappings"):
        return value
    inner = value.get("Value")
    if inner is None:
        return b"" if name == "UserData" else ""
    return inner


def _named(attribute: str, value: str) -> tuple[str, Any]:
    """The older form: an attribute by its name with its value as text."""
    name = _BY_ATTRIBUTE.get(attribute)
    if name is None:
        raise unsupported(f"The attribute {attribute} cannot be modified in gureum.")
    return name, options.user_data(value) if name == "UserData" else value


@operation("ec2", "ModifyInstanceMetadataOptions", write=True)
async def modify_instance_metadata_options(ctx: Context, input: Input) -> Output:
    instance = await lookup.one(ctx, lookup.INSTANCE, input["InstanceId"])
    if instance.state not in (InstanceState.running, InstanceState.stopped, InstanceState.stopping):
        raise incorrect_instance_state(
            f"The instance '{instance.id}' is not in a state from which its metadata options can be modified."
        )
    metadata = options.metadata_options(input, instance.metadata)
    if metadata != instance.metadata:
        instance = await ctx.tx.put(replace(instance, metadata=metadata))
    return {
        "InstanceId": instance.id,
        "InstanceMetadataOptions": describe.metadata_options(metadata, applied=False),
    }


@operation("ec2", "ModifyInstanceMaintenanceOptions", write=True)
async def modify_instance_maintenance_options(ctx: Context, input: Input) -> Output:
    """AutoRecovery: whether the instance runs again when its host is lost or its machine dies."""
    if input.get("RebootMigration"):
        raise unsupported("RebootMigration is not supported by gureum: no reboot moves an instance.")
    instance = await lookup.one(ctx, lookup.INSTANCE, input["InstanceId"])
    if instance.state is InstanceState.terminated:
        raise incorrect_instance_state(
            f"The instance '{instance.id}' is terminated: its maintenance options cannot be modified."
        )
    recovery = options.recovery(input, instance.recovery)
    if recovery != instance.recovery:
        instance = await ctx.tx.put(replace(instance, recovery=recovery))
    return {"InstanceId": instance.id, "AutoRecovery": describe.auto_recovery(instance)}
