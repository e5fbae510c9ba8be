"""A client that asks a simulated cloud for random things."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gureum.errors import ApiError
from gureum.hostspec import LOCAL
from gureum.resources import (
    Address,
    Image,
    Instance,
    InstanceState,
    Snapshot,
    Volume,
)
from gureum.resources.record import Record
from gureum.sim.guests import Guests
from gureum.sim.ledger import Ledger
from gureum.sim.networks import NetworkCalls
from gureum.sim.operators import CALLS, Operator
from gureum.sim.operators import EXPECTED as EXPECTED_OF_OPERATORS
from gureum.sim.power_calls import CALLS as POWER_CALLS
from gureum.sim.power_calls import PowerCalls
from gureum.sim.world import BULK, CLOUD, World

INSTANCES_MAX = 12
VOLUMES_MAX = 24
SNAPSHOTS_MAX = 16

EXPECTED = frozenset(
    {
        "AddressLimitExceeded",
        "IdempotentParameterMismatch",
        "IncorrectInstanceState",
        "IncorrectState",
        "IncorrectModificationState",
        "InvalidAddress.InUse",
        "InvalidAllocationID.NotFound",
        "InvalidAssociationID.NotFound",
        "InvalidAttachment.NotFound",
        "InvalidIPAddress.InUse",
        "InvalidInstanceID",
        "InvalidInstanceID.NotFound",
        "InvalidParameterValue",
        "InvalidParameterCombination",
        "InvalidSnapshot.InUse",
        "InvalidSnapshot.NotFound",
        "InvalidVolume.NotFound",
        "InvalidVolume.ZoneMismatch",
        "OperationNotPermitted",
        "Resource.AlreadyAssociated",
        "UnsupportedOperation",
        "VolumeInUse",
        "VolumeModificationRateExceeded",
    }
)
"""Errors that a client gets who asks at the wrong moment. Any other is a finding."""
EXPECTED_OF_NETWORKS = frozenset(
    {
        "AttachmentLimitExceeded",
        "DependencyViolation",
        "Gateway.NotAttached",
        "InvalidNatGatewayID.NotFound",
        "InvalidNetworkAclEntry.NotFound",
        "InvalidPermission.Duplicate",
        "InvalidStateTransition",
        "InvalidSubnet.Conflict",
        "InvalidVpcPeeringConnectionID.NotFound",
        "NetworkAclEntryAlreadyExists",
        "PrivateIpAddressLimitExceeded",
        "RouteAlreadyExists",
        "VpcPeeringConnectionAlreadyExists",
    }
)
EXPECTED_OF_SHARED = frozenset(
    {
        "InsufficientInstanceCapacity",
        "InsufficientVolumeCapacity",
        "InvalidStateException",
        "ResourceNotFoundException",
    }
)
OF_FLEET = frozenset(
    {
        *("MoveVolume", "CancelVolumeMove", "MigrateInstance", "CancelInstanceMigration", "ResizeInstance"),
        *CALLS,
        *POWER_CALLS,
        "SetInstanceAutosize",
    }
)
MIGRATING_SHARE = 0.45
"""Of the calls, in runs with migrations."""
RESIZING_SHARE = 0.3
"""Of these, those that give an instance another type."""
EXPECTED_OF_SEVERAL = frozenset({"AttachmentLimitExceeded", "MissingParameter"})
SEVERAL_SHARE = 0.45
"""Of the calls, in runs with volumes that several instances have."""
SEVERAL_VOLUMES_MAX = 4
BULK_SHARE = 0.35
"""Of the volumes, those in the second shared pool where there is one."""
OPERATED_SHARE = 0.3
"""Of the calls, in runs with an operator."""
PARKING_SHARE = 0.15
"""Of the calls, in runs in which hosts are parked."""
NETWORK_SHARE = 0.6
"""Of the calls, in runs with networks."""


class Workload:
    """Random calls over what the store has now."""

    def __init__(
        self,
        world: World,
        guests: Guests,
        ledger: Ledger,
        networks: bool = False,
        several: bool = False,
        migrating: bool = False,
        operated: bool = False,
        parking: bool = False,
    ) -> None:
        self.world = world
        self.operator = Operator(world) if operated else None
        self.power = PowerCalls(world) if parking else None
        self.guests = guests
        self.ledger = ledger
        self.networks = NetworkCalls(world) if networks else None
        self._expected = EXPECTED | EXPECTED_OF_NETWORKS if networks else EXPECTED
        self.several = several
        self.migrating = migrating
        self._begun = ""
        """The volume whose move was just begun."""
        if world.san is not None:
            self._expected |= EXPECTED_OF_SHARED
        if several:
            self._expected |= EXPECTED_OF_SEVERAL
        if operated or parking:
            self._expected |= EXPECTED_OF_OPERATORS
        self.answers: Counter[str] = Counter()

    async def step(self) -> None:
        """One random call. Raises ApiError for an answer that no client should get."""
        name, input = await self._choose()
        if name:
            await self.ask(name, input)

    async def ask(self, name: str, input: Mapping[str, Any]) -> None:
        """The same with a call that somebody else chose."""
        written = self.guests.writes(str(input.get("VolumeId")))
        try:
            output = await self.world.call(name, input, "fleet" if name in OF_FLEET else "ec2")
        except ApiError as error:
            self.answers[error.code] += 1
            if error.code not in self._expected:
                raise
            return
        if name == "CreateSnapshot" and output is not None:
            self.guests.asked_for_snapshot(output["SnapshotId"], written)
        self.ledger.called(name, input, output)
        self.answers[name if output is not None else "(no answer)"] += 1

    async def _choose(self) -> tuple[str, Mapping[str, Any]]:
        rng = self.world.random
        if self.networks is not None and rng.random() < NETWORK_SHARE:
            return await self.networks.choose()
        if self.several and rng.random() < SEVERAL_SHARE:
            return await self._several()
        if self.operator is not None and rng.random() < OPERATED_SHARE:
            return await self.operator.choose()
        if self.power is not None and rng.random() < PARKING_SHARE:
            return self.power.choose()
        if self.migrating and rng.random() < MIGRATING_SHARE:
            return await self._migrate()
        makers = (
            (self._run_instances, 10),
            (self._change_instance, 25),
            (self._create_volume, 6),
            (self._change_volume, 20),
            (self._snapshot, 12),
            (self._address, 10),
            (self._describe, 10),
        )
        begun, self._begun = self._begun, ""
        if begun and rng.random() < 0.25:
            return "CancelVolumeMove", {"VolumeId": begun}
        chosen = rng.choices([maker for maker, _ in makers], [weight for _, weight in makers])[0]
        return await chosen()

    async def _migrate(self) -> tuple[str, Mapping[str, Any]]:
        rng = self.world.random
        instance = await self._any(Instance, state=str(InstanceState.running))
        if instance is None:
            return await self._run_instances()
        choice = rng.random()
        if choice < RESIZING_SHARE:
            types = ["t3.nano", "t3.micro", "t3.small", "t3.medium", "t3.large"]
            return "ResizeInstance", {"InstanceId": instance.id, "InstanceType": rng.choice(types)}
        if choice > 0.9:
            return "CancelInstanceMigration", {"InstanceId": instance.id}
        to = {"HostId": rng.choice(self.world.hosts).name} if rng.random() < 0.3 else {}
        return "MigrateInstance", {"InstanceId": instance.id, **to}

    async def _any(self, kind: type[Record], **index: Any) -> Record | None:
        async with self.world.store.read() as reader:
            found = await reader.find(kind, **index)
        return self.world.random.choice(found) if found else None

    async def _run_instances(self) -> tuple[str, Mapping[str, Any]]:
        rng = self.world.random
        live = [str(state) for state in InstanceState if state is not InstanceState.terminated]
        async with self.world.store.read() as reader:
            if await reader.count(Instance, state=live) >= INSTANCES_MAX:
                return "", {}
            image: Image = (await reader.find(Image))[0]
        mappings: list[dict[str, Any]] = []
        if rng.random() < 0.4:
            mappings.append(
                {
                    "DeviceName": "/dev/sdf",
                    "Ebs": {"VolumeSize": rng.randint(1, 8), "DeleteOnTermination": rng.random() < 0.5},
                }
            )
        if self.world.san is not None:
            if mappings and rng.random() < 0.3:
                mappings[0]["Ebs"]["VolumeType"] = "standard"
            if rng.random() < 0.1:
                mappings.append({"DeviceName": image.root_device, "Ebs": {"VolumeType": "standard"}})
            elif BULK in self.world.sans and rng.random() < BULK_SHARE:
                mappings.append({"DeviceName": image.root_device, "Ebs": {"VolumeType": "gp2"}})
            if mappings and BULK in self.world.sans and rng.random() < BULK_SHARE:
                mappings[0]["Ebs"].setdefault("VolumeType", "gp2")
        input: dict[str, Any] = {
            "ImageId": image.id,
            "InstanceType": rng.choice(["t3.nano", "t3.micro", "t3.small"]),
            "MinCount": 1,
            "MaxCount": rng.randint(1, 3),
            "BlockDeviceMappings": mappings,
            "InstanceInitiatedShutdownBehavior": rng.choice(["stop", "terminate"]),
        }
        if rng.random() < 0.5:
            input["ClientToken"] = f"token-{rng.randint(1, 40)}"
        return "RunInstances", input

    async def _change_instance(self) -> tuple[str, Mapping[str, Any]]:
        rng = self.world.random
        instance = await self._any(Instance)
        if instance is None:
            return "", {}
        name = rng.choices(
            ["StartInstances", "StopInstances", "RebootInstances", "TerminateInstances"], [6, 4, 2, 3]
        )[0]
        input: dict[str, Any] = {"InstanceIds": [instance.id]}
        if name == "StopInstances" and rng.random() < 0.2:
            input["Force"] = True
        return name, input

    async def _create_volume(self) -> tuple[str, Mapping[str, Any]]:
        rng = self.world.random
        async with self.world.store.read() as reader:
            if await reader.count(Volume) >= VOLUMES_MAX:
                return "", {}
        input: dict[str, Any] = {"AvailabilityZone": rng.choice(CLOUD.zones), "Size": rng.randint(1, 8)}
        snapshot = await self._any(Snapshot, state="completed")
        if snapshot is not None and rng.random() < 0.5:
            input |= {"SnapshotId": snapshot.id, "Size": 16}
        if self.world.san is not None and rng.random() < 0.25:
            input["VolumeType"] = "standard"
        elif BULK in self.world.sans and rng.random() < BULK_SHARE:
            input["VolumeType"] = "gp2"
        return "CreateVolume", input

    async def _change_volume(self) -> tuple[str, Mapping[str, Any]]:
        rng = self.world.random
        if rng.random() < 0.4:
            return await self._attach()
        volume = await self._any(Volume)
        choice = rng.random()
        if not isinstance(volume, Volume):
            return "", {}
        if choice < 0.45 and volume.attachments:
            force = {"Force": True} if rng.random() < 0.2 else {}
            return "DetachVolume", {"VolumeId": volume.id, **force}
        if choice < 0.75:
            larger = {"VolumeId": volume.id, "Size": volume.size_bytes // 2**30 + 1}
            return self._moved(volume, larger) if self.world.san is not None else ("ModifyVolume", larger)
        return "DeleteVolume", {"VolumeId": volume.id}

    def _moved(self, volume: Volume, larger: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """Where there is more than one pool, a volume may be moved instead of growing."""
        choice = self.world.random.random()
        if choice < 0.3:
            return "ModifyVolume", larger
        if choice < 0.5:
            types = ("standard", "gp2", "gp3") if BULK in self.world.sans else ("standard", "gp3")
            return "ModifyVolume", {**larger, "VolumeType": self._other(types, volume.type)}
        if choice < 0.85:
            target = self._other((LOCAL, *self.world.sans), volume.pool)
            self._begun = volume.id
            return "MoveVolume", {"VolumeId": volume.id, "PoolName": target}
        return "CancelVolumeMove", {"VolumeId": volume.id}

    def _other(self, names: Sequence[str], name: str) -> str:
        """Of several the dice choose; of two it is the other one, or the first."""
        others = [each for each in names if each != name]
        return self.world.random.choice(others) if len(names) > 2 else others[0]

    async def _attach(self) -> tuple[str, Mapping[str, Any]]:
        volume, instance = await self._any(Volume, state="available"), await self._any(Instance)
        if volume is None or instance is None:
            return "", {}
        device = f"/dev/sd{self.world.random.choice('ghijk')}"
        return "AttachVolume", {"VolumeId": volume.id, "InstanceId": instance.id, "Device": device}

    async def _several(self) -> tuple[str, Mapping[str, Any]]:
        """About volumes that several instances may have."""
        rng = self.world.random
        async with self.world.store.read() as reader:
            volumes = [each for each in await reader.find(Volume) if each.multi_attach]
            instances = await reader.find(Instance, state=str(InstanceState.running))
        if len(volumes) < SEVERAL_VOLUMES_MAX and rng.random() < 0.25:
            zone = rng.choice(CLOUD.zones)
            kind = {"VolumeType": "io2", "Iops": 100, "Size": 4, "MultiAttachEnabled": True}
            return "CreateVolume", {"AvailabilityZone": zone, **kind}
        if not volumes:
            return "", {}
        volume, choice = rng.choice(volumes), rng.random()
        near = [each for each in instances if each.zone == volume.zone and each.id not in volume.instances]
        if near and choice < 0.6:
            both = {"VolumeId": volume.id, "InstanceId": rng.choice(near).id}
            return "AttachVolume", {**both, "Device": f"/dev/sd{rng.choice('lmnop')}"}
        if volume.instances and choice < 0.9:
            force = {"Force": True} if rng.random() < 0.2 else {}
            return "DetachVolume", {
                "VolumeId": volume.id,
                "InstanceId": rng.choice(volume.instances),
                **force,
            }
        if choice < 0.95:
            return "ModifyVolume", {"VolumeId": volume.id, "MultiAttachEnabled": False}
        return "DeleteVolume", {"VolumeId": volume.id}

    async def _snapshot(self) -> tuple[str, Mapping[str, Any]]:
        """Mostly of the same volumes, so that their chains of layers become long."""
        rng = self.world.random
        async with self.world.store.read() as reader:
            volumes = await reader.find(Volume)
            snapshots = [each for each in await reader.find(Snapshot) if not each.image]
        if snapshots and (rng.random() < 0.2 or len(snapshots) >= SNAPSHOTS_MAX):
            return "DeleteSnapshot", {"SnapshotId": rng.choice(snapshots).id}
        if not volumes:
            return "", {}
        volume = rng.choice(volumes if rng.random() < 0.3 else volumes[:2])
        return "CreateSnapshot", {"VolumeId": volume.id}

    async def _address(self) -> tuple[str, Mapping[str, Any]]:
        rng = self.world.random
        address, instance = await self._any(Address), await self._any(Instance)
        choice = rng.random()
        if not isinstance(address, Address) or choice < 0.2:
            return "AllocateAddress", {"Domain": "vpc"}
        if choice < 0.6 and instance is not None:
            return "AssociateAddress", {"AllocationId": address.id, "InstanceId": instance.id}
        if choice < 0.8:
            return "DisassociateAddress", {"AssociationId": address.association or "eipassoc-00000000"}
        return "ReleaseAddress", {"AllocationId": address.id}

    async def _describe(self) -> tuple[str, Mapping[str, Any]]:
        names = ("DescribeInstances", "DescribeVolumes", "DescribeSnapshots", "DescribeNetworkInterfaces")
        return self.world.random.choice(names), {}
