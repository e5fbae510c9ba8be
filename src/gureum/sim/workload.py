"""A client that asks a simulated cloud for random things, and faults that happen to it meanwhile."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from gureum.errors import ApiError
from gureum.resources import (
    Address,
    Image,
    Instance,
    InstanceState,
    Snapshot,
    Volume,
    VolumeState,
)
from gureum.resources.record import Record
from gureum.sim.world import CLOUD, World

log = logging.getLogger(__name__)

INSTANCES_MAX = 12
VOLUMES_MAX = 24

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


class Workload:
    """Random calls over what the store has now."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.answers: Counter[str] = Counter()

    async def step(self) -> None:
        """One random call. Raises ApiError for an answer that no client should get."""
        name, input = await self._choose()
        if not name:
            return
        try:
            output = await self.world.call(name, input)
        except ApiError as error:
            self.answers[error.code] += 1
            if error.code not in EXPECTED:
                raise
            return
        self.answers[name if output is not None else "(no answer)"] += 1

    async def _choose(self) -> tuple[str, Mapping[str, Any]]:
        rng = self.world.random
        makers = (
            (self._run_instances, 10),
            (self._change_instance, 25),
            (self._create_volume, 6),
            (self._change_volume, 20),
            (self._snapshot, 8),
            (self._address, 10),
            (self._describe, 10),
        )
        chosen = rng.choices([maker for maker, _ in makers], [weight for _, weight in makers])[0]
        return await chosen()

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
            image = (await reader.find(Image))[0]
        mappings = []
        if rng.random() < 0.4:
            mappings.append(
                {
                    "DeviceName": "/dev/sdf",
                    "Ebs": {"VolumeSize": rng.randint(1, 8), "DeleteOnTermination": rng.random() < 0.5},
                }
            )
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
        return "CreateVolume", input

    async def _change_volume(self) -> tuple[str, Mapping[str, Any]]:
        rng = self.world.random
        volume, instance = await self._any(Volume), await self._any(Instance)
        if not isinstance(volume, Volume) or not isinstance(instance, Instance):
            return "", {}
        choice = rng.random()
        if volume.state is VolumeState.available and choice < 0.6:
            device = f"/dev/sd{rng.choice('ghijk')}"
            return "AttachVolume", {"VolumeId": volume.id, "InstanceId": instance.id, "Device": device}
        if choice < 0.7:
            force = {"Force": True} if rng.random() < 0.2 else {}
            return "DetachVolume", {"VolumeId": volume.id, **force}
        if choice < 0.85:
            return "ModifyVolume", {"VolumeId": volume.id, "Size": volume.size_bytes // 2**30 + 1}
        return "DeleteVolume", {"VolumeId": volume.id}

    async def _snapshot(self) -> tuple[str, Mapping[str, Any]]:
        volume, snapshot = await self._any(Volume), await self._any(Snapshot)
        if isinstance(snapshot, Snapshot) and not snapshot.image and self.world.random.random() < 0.4:
            return "DeleteSnapshot", {"SnapshotId": snapshot.id}
        return ("CreateSnapshot", {"VolumeId": volume.id}) if volume is not None else ("", {})

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


class Faults:
    """Things that go wrong on their own, until ``end``."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.seen: Counter[str] = Counter()

    def begin(self) -> None:
        rng, weather = self.world.random, self.world.weather
        self.world.crash_chance = rng.choice([0.0, 0.005, 0.02])
        weather.loss = rng.choice([0.0, 0.02, 0.1])
        weather.repeat = rng.choice([0.0, 0.05])
        weather.cut = rng.choice([0.0, 0.01, 0.05])
        weather.delay = rng.choice([(0.0005, 0.01), (0.01, 0.5), (0.1, 3.0)])

    def end(self) -> None:
        self.world.crash_chance = 0.0
        weather = self.world.weather
        weather.loss = weather.repeat = weather.cut = 0.0
        weather.delay = (0.0005, 0.01)
        for host in self.world.hosts:
            host.machines.fill_storage(False)
            for machine in host.machines.machines.values():
                machine.ignores_power_button = machine.ignores_detach = False

    async def step(self) -> None:
        """Perhaps one fault."""
        rng = self.world.random
        if rng.random() > 0.08:
            return
        host = rng.choice(self.world.hosts)
        running = sorted(host.machines.running())
        fault = rng.choice(
            ["manager", "agent", "power", "crash", "shutdown", "deaf", "clingy", "full", "room"]
        )
        self.seen[fault] += 1
        log.info("fault: %s", fault)
        if fault == "manager":
            self.world.kill_manager()
        elif fault == "agent":
            self.world.kill_agent(host)
        elif fault == "power":
            self.world.lose_power(host)
        elif fault == "full":
            host.machines.fill_storage()
        elif fault == "room":
            host.machines.fill_storage(False)
        elif running:
            self._guest(fault, host.machines, rng.choice(running))

    def _guest(self, fault: str, machines: Any, id: str) -> None:
        match fault:
            case "crash":
                machines.crash(id)
            case "shutdown":
                machines.guest_shutdown(id)
            case "deaf":
                machines.ignore_power_button(id)
            case "clingy":
                machines.ignore_detach(id)
