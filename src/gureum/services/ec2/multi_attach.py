"""Multi-Attach: volumes that several instances may have at the same time.

Amazon EBS User Guide, "Attach an EBS volume to multiple EC2 instances using Multi-Attach": io1 and io2 only,
never a boot volume, at most 16 instances of one zone; asked for when the volume is made, or later for one of
io2 that no instance has. Here it needs a pool that all hosts share, too: a file of a host's own pool has one
writer.
"""

from __future__ import annotations

from gureum.errors import ApiError
from gureum.resources import Instance, Volume
from gureum.resources.volume import shared
from gureum.services.ec2.faults import incorrect_state, invalid_combination, missing, unsupported
from gureum.services.operation import Input

TYPES = ("io1", "io2")
LATER = "io2"
"""The type for which it can be changed after the volume is made."""
INSTANCES_MAX = 16


def check_new(type: str, pool: str) -> None:
    """Raises if a volume of this type, in this pool, can't be one that several instances may have."""
    if type not in TYPES:
        raise invalid_combination(
            f"The parameter MultiAttachEnabled is not supported for {type} volumes. Use io1 or io2."
        )
    if not shared(pool):
        raise unsupported(
            f"Volumes of type {type} are in the pool '{pool}', on the disk of one host, where one instance "
            "at a time can have them. For Multi-Attach choose a type whose pool is shared: clouds that are "
            "started with --san ceph have one."
        )


def changed(volume: Volume, input: Input) -> bool:
    """Whether several instances may have the volume after this ModifyVolume. Raises if it can't be so."""
    wanted = input.get("MultiAttachEnabled")
    enabled = volume.multi_attach if wanted is None else bool(wanted)
    if enabled != volume.multi_attach:
        if volume.type != LATER:
            raise invalid_combination(
                f"MultiAttachEnabled cannot be changed for {volume.type} volumes after creation, only for "
                f"{LATER} volumes."
            )
        if volume.attachments:
            raise incorrect_state(
                f"MultiAttachEnabled cannot be changed while {volume.id} is attached to "
                f"{', '.join(volume.instances)}. Detach it first."
            )
    if enabled:
        check_new(volume.type, volume.pool)
        if volume.bound:
            raise incorrect_state(
                f"{volume.id} moves between pools, or just has: try again when that is done."
            )
        _check_others(volume, input)
    return enabled


def _check_others(volume: Volume, input: Input) -> None:
    """What can't be modified of a volume that several instances may have."""
    if input.get("VolumeType") not in (None, volume.type):
        raise invalid_combination(
            f"The type of {volume.id} cannot be modified while Multi-Attach is enabled for it."
        )
    sizes = input.get("Size"), input.get("Iops")
    if volume.type != LATER and sizes != (None, None):
        raise invalid_combination(
            f"Size and IOPS of {volume.type} volumes cannot be modified while Multi-Attach is enabled."
        )
    if input.get("Size") is not None and volume.attachments:
        raise unsupported(
            f"gureum grows a volume with Multi-Attach only while no instance has it: detach {volume.id} from "
            f"{', '.join(volume.instances)}, modify it, and attach it again."
        )


def check_attach(volume: Volume, instance: Instance, device: str) -> None:
    """Raises if the instance can't have the volume besides those that have it."""
    if not volume.multi_attach:
        if volume.attachments:
            raise ApiError("VolumeInUse", f"{volume.id} is already attached to an instance")
        return
    if instance.id in volume.instances:
        raise ApiError("VolumeInUse", f"{volume.id} is already attached to instance '{instance.id}'")
    if len(volume.attachments) >= INSTANCES_MAX:
        raise ApiError(
            "AttachmentLimitExceeded",
            f"{volume.id} is attached to {len(volume.attachments)} instances, which is the most.",
        )
    if volume.modifying and not volume.attachments:
        raise incorrect_state(f"{volume.id} is being modified: wait until that is done.")
    if device == instance.root_device:
        raise ApiError(
            "OperationNotPermitted",
            f"{volume.id} cannot be the root volume of '{instance.id}': Multi-Attach is enabled for it.",
        )


def of_instance(volume: Volume, instance: str) -> str:
    """Which instance a DetachVolume means; ``instance``: the one that it names, or ""."""
    if not instance and len(volume.attachments) > 1:
        raise missing(f"InstanceId: {volume.id} is attached to {', '.join(volume.instances)}")
    return instance or volume.instances[0]
