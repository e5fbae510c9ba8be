"""RunInstances: everything is checked first, then the records of all instances are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from gureum.control.fleet import Taken, required_labels, taken
from gureum.errors import ApiError
from gureum.resources import (
    Attachment,
    AttachmentState,
    BlockDevice,
    Image,
    ImageState,
    Instance,
    InstanceState,
    Recovery,
    RecoveryPolicy,
    Volume,
)
from gureum.resources.volume import shared
from gureum.services.ec2 import (
    capacity,
    describe,
    launch_interfaces,
    limits,
    lookup,
    placement,
    placement_groups,
)
from gureum.services.ec2 import launch_options as options
from gureum.services.ec2.allocation import public_addresses
from gureum.services.ec2.block_devices import DiskMapping, new_volume, parse_mappings
from gureum.services.ec2.faults import incorrect_state, missing
from gureum.services.ec2.tagging import specified_tags
from gureum.services.operation import Context, Input, Output, operation

LIVE_STATES = tuple(str(state) for state in InstanceState if state is not InstanceState.terminated)


class Plan(NamedTuple):
    """What all instances of a reservation have in common. ``instance`` has no id and no addresses yet."""

    instance: Instance
    places: tuple[placement.Place, ...]
    disks: list[DiskMapping]
    tags: dict[str, dict[str, str]]


@operation("ec2", "RunInstances", write=True)
async def run_instances(ctx: Context, input: Input) -> Output:
    options.refuse_unsupported(input)
    low, high = options.instance_count(input)
    plan = await _plan(ctx, input)
    high = min(high, await _allowed(ctx, plan, low))
    partitions = await _room(ctx, plan, low, high)
    rows = await launch_interfaces.addresses(ctx, plan.places, low, len(partitions))
    count = len(rows) if plan.places[0].public else 0
    public = await public_addresses(ctx.tx, ctx.env, ctx.cloud, count)
    instances = [
        await _create(ctx, plan, index, row, partition, public[index] if public else "")
        for index, (row, partition) in enumerate(zip(rows, partitions, strict=False))
    ]
    return {
        "ReservationId": plan.instance.reservation,
        "OwnerId": ctx.caller.account,
        "Groups": [],
        "Instances": await describe.items(ctx, instances),
    }


async def _plan(ctx: Context, input: Input) -> Plan:
    tags = specified_tags(input, "instance", "volume", "network-interface")
    image = await _image(ctx, input.get("ImageId"))
    type = options.instance_type(input.get("InstanceType"))
    options.check_cpu_options(input.get("CpuOptions"), type)
    disks = await parse_mappings(ctx, image, input.get("BlockDeviceMappings"))
    key = await options.public_key(ctx, input.get("KeyName"))
    wanted = await placement_groups.asked(ctx, input.get("Placement"))
    recovery = options.recovery(input.get("MaintenanceOptions"), Recovery())
    machine = Taken(
        id="",
        type=type.name,
        zone="",
        host=None,
        account=ctx.caller.account,
        group="" if wanted.group is None else wanted.group.id,
        partition=wanted.partition,
        tenancy=wanted.tenancy,
        requires=required_labels(tags["instance"]),
        restarts=_restarts(recovery, disks),
    )
    places = await placement.choose(ctx, input, machine)
    subnet, primary = places[0].subnet, places[0].interface
    instance = Instance(
        id="",
        account=ctx.caller.account,
        tags=tags["instance"],
        reservation=ctx.env.new_id("r"),
        type=type.name,
        image=image.id,
        zone=subnet.zone,
        key_name=input.get("KeyName") or "",
        public_key=key,
        user_data=options.user_data(input.get("UserData")),
        launched=ctx.env.utcnow(),
        vpc=subnet.vpc,
        subnet=subnet.id,
        source_dest_check=primary is None or primary.source_dest_check,
        root_device=image.root_device,
        metadata=options.metadata_options(input.get("MetadataOptions")),
        disable_api_termination=bool(input.get("DisableApiTermination")),
        disable_api_stop=bool(input.get("DisableApiStop")),
        shutdown_behavior=options.shutdown_behavior(input.get("InstanceInitiatedShutdownBehavior")),
        ebs_optimized=bool(input.get("EbsOptimized")),
        monitoring=bool((input.get("Monitoring") or {}).get("Enabled")),
        client_token=input.get("ClientToken") or "",
        recovery=recovery,
        cpu_credits=options.cpu_credits(input.get("CreditSpecification"), type),
    )
    return Plan(placement_groups.in_group(instance, wanted), places, disks, tags)


async def _image(ctx: Context, id: str | None) -> Image:
    if not id:
        raise missing("ImageId")
    image = await lookup.one(ctx, lookup.IMAGE, id)
    if image.state is not ImageState.available:
        raise incorrect_state(f"The image '{id}' is not available: its state is {image.state}")
    return image


async def _allowed(ctx: Context, plan: Plan, low: int) -> int:
    """How many instances the quotas still allow; raises if that is fewer than ``low``."""
    room = limits.INSTANCES_MAX - await ctx.tx.count(Instance, account=ctx.caller.account)
    if room < limits.INSTANCES_PER_CALL_MAX:
        # Close to the limit it matters how many of them are terminated, which takes longer to count.
        present = await ctx.tx.count(Instance, account=ctx.caller.account, state=LIVE_STATES)
        room = limits.INSTANCES_MAX - present
    if room < low:
        raise options.instance_limit(low, limits.INSTANCES_MAX)
    vcpus = options.instance_type(plan.instance.type).vcpus
    by_vcpus = limits.VCPUS_PER_CALL_MAX // vcpus
    if by_vcpus < low:
        raise ApiError(
            "VcpuLimitExceeded",
            f"You have requested more vCPU capacity ({low * vcpus}) than your current vCPU limit of "
            f"{limits.VCPUS_PER_CALL_MAX} for one request allows.",
        )
    by_volumes = limits.VOLUMES_MAX // len(plan.disks)
    return min(room, by_vcpus, by_volumes)


async def _room(ctx: Context, plan: Plan, low: int, high: int) -> list[int]:
    """The partitions of as many instances as the zone's hosts have room for; raises if these are fewer than
    ``low``.
    """
    sources = [each.disk.source for each in plan.disks if each.disk.source.startswith("snap-")]
    machine = taken(plan.instance)._replace(restarts=_restarts(plan.instance.recovery, plan.disks))
    admission = await capacity.admit(ctx.tx, machine, high, sources)
    if len(admission.partitions) < low:
        assert admission.refusal is not None
        raise admission.refusal
    return admission.partitions


def _restarts(recovery: Recovery, disks: Sequence[DiskMapping]) -> bool:
    """Whether it starts elsewhere if its host is lost, once these disks are where they go."""
    everywhere = all(shared(each.disk.target or each.disk.pool) for each in disks)
    return recovery.policy is RecoveryPolicy.restart and everywhere


async def _create(
    ctx: Context, plan: Plan, index: int, row: launch_interfaces.Row, partition: int, public_ip: str
) -> Instance:
    instance = replace(plan.instance, id=ctx.env.new_id("i"), launch_index=index, partition=partition)
    tags = plan.tags["network-interface"]
    interfaces = await launch_interfaces.create(ctx, instance, plan.places, tags, row, public_ip)
    volumes = [await ctx.tx.put(await _volume(ctx, plan, instance.id, disk)) for disk in plan.disks]
    devices = tuple(
        BlockDevice(device=disk.device, volume=volume.id, delete_on_termination=disk.delete_on_termination)
        for disk, volume in zip(plan.disks, volumes, strict=True)
    )
    return await ctx.tx.put(
        replace(
            instance,
            private_ip=row[0].primary,
            interfaces=tuple(interface.id for interface in interfaces),
            devices=devices,
        )
    )


async def _volume(ctx: Context, plan: Plan, instance: str, mapping: DiskMapping) -> Volume:
    return replace(
        await new_volume(ctx, mapping.disk, plan.instance.zone),
        tags=plan.tags["volume"],
        created=plan.instance.launched,
        attachments=(
            Attachment(
                instance=instance,
                device=mapping.device,
                state=AttachmentState.attaching,
                attached=plan.instance.launched,
                delete_on_termination=mapping.delete_on_termination,
            ),
        ),
    )
