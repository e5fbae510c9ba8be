"""What a scenario asks of the cloud, as a client does."""

from __future__ import annotations

from typing import Any

from gureum.hostspec import LOCAL
from gureum.resources import Address, RecoveryPolicy
from gureum.sim.acts import Options, Words, act
from gureum.sim.stage import Stage
from gureum.sim.words import Names, Wrong
from gureum.sim.world import BULK, CLOUD

OPERATIONS = {
    "start": "StartInstances",
    "stop": "StopInstances",
    "reboot": "RebootInstances",
    "terminate": "TerminateInstances",
}


def _zone(options: Options) -> str:
    return f"{CLOUD.region}{options.get('zone', 'a')}"


TYPES = {LOCAL: "standard", BULK: "gp2"}
"""The types of volumes that are not in the first shared pool, where there is one."""


def _type(options: Options, key: str = "pool") -> dict[str, str]:
    type = TYPES.get(options.get(key, ""))
    return {"VolumeType": type} if type is not None else {}


def _known_zone(_: Names, __: Words, options: Options) -> None:
    if _zone(options) not in CLOUD.zones:
        raise Wrong(f"there is no zone {options['zone']}: they are a and b")


@act(
    "launch NEW-INSTANCE... [type=WORD] [zone=WORD] [data=NUMBER] [pool=POOL] [data-pool=POOL] [keep] [dies]",
    "RunInstances; data: GiB of a second disk, and data-pool where, if not with the first; keep: its disks "
    "outlive it; dies: a shutdown terminates it",
    asks=True,
    check=_known_zone,
)
async def launch(stage: Stage, words: Words, options: Options) -> bool:
    image, keep = await stage.image(), {"DeleteOnTermination": "keep" not in options}
    mappings: list[dict[str, Any]] = [{"DeviceName": image.root_device, "Ebs": {**keep, **_type(options)}}]
    if "data" in options:
        type = _type(options, "data-pool" if "data-pool" in options else "pool")
        ebs = {"VolumeSize": int(options["data"]), **keep, **type}
        mappings.append({"DeviceName": "/dev/sdf", "Ebs": ebs})
    answer = await stage.call(
        "RunInstances",
        ImageId=image.id,
        InstanceType=options.get("type", "t3.nano"),
        MinCount=len(words),
        MaxCount=len(words),
        Placement={"AvailabilityZone": _zone(options)},
        BlockDeviceMappings=mappings,
        InstanceInitiatedShutdownBehavior="terminate" if "dies" in options else "stop",
    )
    if answer is not None:
        for name, each in zip(words, answer["Instances"], strict=True):
            stage.learn(name, each["InstanceId"])
    return answer is not None


@act("start INSTANCE...", "StartInstances", asks=True)
async def start(stage: Stage, words: Words, options: Options) -> bool:
    return await _each(stage, "start", words)


@act("stop INSTANCE... [force]", "StopInstances", asks=True)
async def stop(stage: Stage, words: Words, options: Options) -> bool:
    return await _each(stage, "stop", words, **({"Force": True} if "force" in options else {}))


@act("reboot INSTANCE...", "RebootInstances", asks=True)
async def reboot(stage: Stage, words: Words, options: Options) -> bool:
    return await _each(stage, "reboot", words)


@act("terminate INSTANCE...", "TerminateInstances", asks=True)
async def terminate(stage: Stage, words: Words, options: Options) -> bool:
    return await _each(stage, "terminate", words)


async def _each(stage: Stage, verb: str, names: Words, **input: Any) -> bool:
    """A call for each: so the ledger counts, and so refusals are told apart."""
    answers = [
        await stage.call(OPERATIONS[verb], InstanceIds=[await stage.id(name)], **input) for name in names
    ]
    return None not in answers


@act(
    "create NEW-VOLUME NUMBER [zone=WORD] [from=SNAPSHOT] [pool=POOL] [several]",
    "CreateVolume of so many GiB; several: instances may have it at once",
    asks=True,
    check=_known_zone,
)
async def create(stage: Stage, words: Words, options: Options) -> bool:
    input: dict[str, Any] = {"AvailabilityZone": _zone(options), "Size": int(words[1]), **_type(options)}
    if "from" in options:
        input["SnapshotId"] = await stage.id(options["from"])
    if "several" in options:
        input |= {"VolumeType": "io2", "Iops": 100, "MultiAttachEnabled": True}
    answer = await stage.call("CreateVolume", **input)
    if answer is not None:
        stage.learn(words[0], answer["VolumeId"])
    return answer is not None


@act("attach VOLUME INSTANCE [device=WORD]", "AttachVolume, as sdf or device", asks=True)
async def attach(stage: Stage, words: Words, options: Options) -> bool:
    volume, instance = await stage.id(words[0]), await stage.id(words[1])
    device = f"/dev/{options.get('device', 'sdf')}"
    return await stage.call("AttachVolume", VolumeId=volume, InstanceId=instance, Device=device) is not None


@act("detach VOLUME [from=INSTANCE] [force]", "DetachVolume", asks=True)
async def detach(stage: Stage, words: Words, options: Options) -> bool:
    input: dict[str, Any] = {"Force": True} if "force" in options else {}
    if "from" in options:
        input["InstanceId"] = await stage.id(options["from"])
    return await stage.call("DetachVolume", VolumeId=await stage.id(words[0]), **input) is not None


@act("grow VOLUME NUMBER", "ModifyVolume to so many GiB", asks=True)
async def grow(stage: Stage, words: Words, options: Options) -> bool:
    id = await stage.id(words[0])
    return await stage.call("ModifyVolume", VolumeId=id, Size=int(words[1])) is not None


@act("delete VOLUME", "DeleteVolume", asks=True)
async def delete(stage: Stage, words: Words, options: Options) -> bool:
    return await stage.call("DeleteVolume", VolumeId=await stage.id(words[0])) is not None


@act("move VOLUME POOL [host=HOST]", "Fleet's MoveVolume", asks=True)
async def move(stage: Stage, words: Words, options: Options) -> bool:
    where = {"HostId": options["host"]} if "host" in options else {}
    id = await stage.id(words[0])
    return await stage.call("MoveVolume", "fleet", VolumeId=id, PoolName=words[1], **where) is not None


@act("cancel-move VOLUME", "Fleet's CancelVolumeMove", asks=True)
async def cancel_move(stage: Stage, words: Words, options: Options) -> bool:
    return await stage.call("CancelVolumeMove", "fleet", VolumeId=await stage.id(words[0])) is not None


@act("snapshot NEW-SNAPSHOT VOLUME", "CreateSnapshot", asks=True)
async def snapshot(stage: Stage, words: Words, options: Options) -> bool:
    volume = await stage.id(words[1])
    written = stage.guests.writes(volume)
    answer = await stage.call("CreateSnapshot", VolumeId=volume)
    if answer is not None:
        stage.learn(words[0], answer["SnapshotId"])
        stage.guests.asked_for_snapshot(answer["SnapshotId"], written)
    return answer is not None


@act("delete-snapshot SNAPSHOT", "DeleteSnapshot", asks=True)
async def delete_snapshot(stage: Stage, words: Words, options: Options) -> bool:
    return await stage.call("DeleteSnapshot", SnapshotId=await stage.id(words[0])) is not None


@act("allocate NEW-ADDRESS", "AllocateAddress", asks=True)
async def allocate(stage: Stage, words: Words, options: Options) -> bool:
    answer = await stage.call("AllocateAddress", Domain="vpc")
    if answer is not None:
        stage.learn(words[0], answer["AllocationId"])
    return answer is not None


@act("associate ADDRESS INSTANCE", "AssociateAddress", asks=True)
async def associate(stage: Stage, words: Words, options: Options) -> bool:
    address, instance = await stage.id(words[0]), await stage.id(words[1])
    return await stage.call("AssociateAddress", AllocationId=address, InstanceId=instance) is not None


@act("release ADDRESS", "DisassociateAddress, if it is in use, and ReleaseAddress", asks=True)
async def release(stage: Stage, words: Words, options: Options) -> bool:
    id = await stage.id(words[0])
    async with stage.world.store.read() as reader:
        address = await reader.get(Address, id)
    if address is not None and address.association:
        await stage.call("DisassociateAddress", AssociationId=address.association)
    return await stage.call("ReleaseAddress", AllocationId=id) is not None


@act("drain HOST", "Fleet's DrainHost", asks=True)
async def drain(stage: Stage, words: Words, options: Options) -> bool:
    return await stage.call("DrainHost", "fleet", HostId=words[0]) is not None


@act("activate HOST", "Fleet's ActivateHost", asks=True)
async def activate(stage: Stage, words: Words, options: Options) -> bool:
    return await stage.call("ActivateHost", "fleet", HostId=words[0]) is not None


@act("remove HOST [force]", "Fleet's RemoveHost", asks=True)
async def remove(stage: Stage, words: Words, options: Options) -> bool:
    force = "force" in options
    return await stage.call("RemoveHost", "fleet", HostId=words[0], Force=force) is not None


@act("fence HOST", "Fleet's FenceHost: a person says that it is lost", asks=True)
async def fence(stage: Stage, words: Words, options: Options) -> bool:
    return await stage.call("FenceHost", "fleet", HostId=words[0]) is not None


@act("survive NUMBER", "Fleet's ModifyFleetSettings: room is kept for the loss of so many hosts", asks=True)
async def survive(stage: Stage, words: Words, options: Options) -> bool:
    return await stage.call("ModifyFleetSettings", "fleet", Survive=int(words[0])) is not None


def _known_policy(_: Names, words: Words, options: Options) -> None:
    if words[1] not in list(RecoveryPolicy):
        raise Wrong(f"{words[1]!r} is none of: {', '.join(RecoveryPolicy)}")


@act(
    "recover INSTANCE WORD [priority=NUMBER]",
    "Fleet's SetInstanceRecovery: restart, stop, terminate or none",
    asks=True,
    check=_known_policy,
)
async def recover(stage: Stage, words: Words, options: Options) -> bool:
    input: dict[str, Any] = {"InstanceId": await stage.id(words[0]), "Policy": words[1]}
    if "priority" in options:
        input["Priority"] = int(options["priority"])
    return await stage.call("SetInstanceRecovery", "fleet", **input) is not None


@act("migrate INSTANCE [to=HOST]", "Fleet's MigrateInstance", asks=True)
async def migrate(stage: Stage, words: Words, options: Options) -> bool:
    where = {"HostId": options["to"]} if "to" in options else {}
    return (
        await stage.call("MigrateInstance", "fleet", InstanceId=await stage.id(words[0]), **where) is not None
    )


@act("cancel-migration INSTANCE", "Fleet's CancelInstanceMigration", asks=True)
async def cancel_migration(stage: Stage, words: Words, options: Options) -> bool:
    id = await stage.id(words[0])
    return await stage.call("CancelInstanceMigration", "fleet", InstanceId=id) is not None


@act("resize INSTANCE WORD [stays]", "Fleet's ResizeInstance; stays: not on another host", asks=True)
async def resize(stage: Stage, words: Words, options: Options) -> bool:
    input: dict[str, Any] = {"InstanceId": await stage.id(words[0]), "InstanceType": words[1]}
    if "stays" in options:
        input["MoveIfFull"] = False
    return await stage.call("ResizeInstance", "fleet", **input) is not None
