"""Interfaces that come and go while instances run, from the API call to the machine and back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control import interfaces
from gureum.control.manager import STEPS
from gureum.control.observed import Observed
from gureum.errors import ApiError
from gureum.hostspec import MachineReport
from gureum.resources import Image, Instance, InstanceState, NetworkInterface, Subnet
from gureum.sim import invariants
from gureum.sim.faults import Faults
from gureum.sim.loop import run
from gureum.sim.world import World

SECONDS_MAX = 60
TERMINATED = InstanceState.terminated


class Clouds:
    """A simulated cloud with one instance that has two interfaces, once ``begin`` is done."""

    def __init__(self) -> None:
        self.world = World(1)
        self.instance = ""
        self.interface = ""
        self.attachment = ""

    async def begin(self) -> None:
        await self.world.start()
        await asyncio.sleep(2)
        [image] = await self.find(Image)
        started = await self.call("RunInstances", ImageId=image.id, MinCount=1, MaxCount=1)
        shown = started["Instances"][0]
        self.instance = shown["InstanceId"]
        await self.until(self.is_state("running"))
        made = await self.call("CreateNetworkInterface", SubnetId=shown["SubnetId"])
        self.interface = made["NetworkInterface"]["NetworkInterfaceId"]
        await self.attach()
        await self.until(self.is_status("attached"))

    async def call(self, operation: str, **input: Any) -> Mapping[str, Any]:
        answer = await self.world.call(operation, input)
        assert answer is not None, operation
        return answer

    async def find(self, kind: Any, **index: Any) -> list[Any]:
        async with self.world.store.read() as reader:
            found: list[Any] = await reader.find(kind, **index)
        return found

    async def record(self) -> NetworkInterface:
        [found] = [each for each in await self.find(NetworkInterface) if each.id == self.interface]
        assert isinstance(found, NetworkInterface)
        return found

    async def attach(self) -> None:
        answer = await self.call(
            "AttachNetworkInterface",
            NetworkInterfaceId=self.interface,
            InstanceId=self.instance,
            DeviceIndex=1,
        )
        self.attachment = answer["AttachmentId"]

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        for _ in range(SECONDS_MAX):
            if await condition():
                return
            await asyncio.sleep(1)
        raise AssertionError(f"{condition}: {await self.record()}")

    def is_state(self, state: str) -> Callable[[], Awaitable[bool]]:
        async def condition() -> bool:
            shown = await self.call("DescribeInstances", InstanceIds=[self.instance])
            return bool(shown["Reservations"][0]["Instances"][0]["State"]["Name"] == state)

        return condition

    def is_status(self, status: str) -> Callable[[], Awaitable[bool]]:
        """The attachment's, or "available" for no attachment."""

        async def condition() -> bool:
            shown = await self.call("DescribeNetworkInterfaces", NetworkInterfaceIds=[self.interface])
            [item] = shown["NetworkInterfaces"]
            return (item["Attachment"] or {"Status": item["Status"]})["Status"] == status

        return condition

    @property
    def nics(self) -> set[str]:
        """Those that the machine really has."""
        return set(self.world.hosts[0].machines.machines[self.instance].nics)

    @property
    def ports(self) -> set[str]:
        return set(self.world.wires.ports["host-0"])


def in_cloud(test: Callable[[Clouds], Awaitable[None]]) -> None:
    async def main() -> None:
        cloud = Clouds()
        await cloud.begin()
        await test(cloud)
        await cloud.world.stop()

    run(main())


def test_attached_and_detached() -> None:
    async def test(cloud: Clouds) -> None:
        assert cloud.interface in cloud.nics & cloud.ports
        assert len(cloud.nics) == 2
        await cloud.call("DetachNetworkInterface", AttachmentId=cloud.attachment)
        await cloud.until(cloud.is_status("available"))
        assert cloud.interface not in cloud.nics
        await asyncio.sleep(5)
        assert cloud.interface not in cloud.ports
        assert (await cloud.record()).host is None
        await cloud.attach()
        await cloud.until(cloud.is_status("attached"))
        assert cloud.interface in cloud.nics & cloud.ports

    in_cloud(test)


def test_a_deaf_guest_keeps_it_until_it_is_taken_away() -> None:
    async def test(cloud: Clouds) -> None:
        cloud.world.hosts[0].machines.ignore_detach(cloud.instance)
        await cloud.call("DetachNetworkInterface", AttachmentId=cloud.attachment)
        await asyncio.sleep(40)
        assert await cloud.is_status("detaching")()
        assert cloud.interface in cloud.nics & cloud.ports
        await cloud.call("DetachNetworkInterface", AttachmentId=cloud.attachment, Force=True)
        await cloud.until(cloud.is_status("available"))
        assert cloud.interface not in cloud.nics

    in_cloud(test)


def test_a_stop_frees_what_was_detaching() -> None:
    async def test(cloud: Clouds) -> None:
        cloud.world.hosts[0].machines.ignore_detach(cloud.instance)
        await cloud.call("DetachNetworkInterface", AttachmentId=cloud.attachment)
        await cloud.call("StopInstances", InstanceIds=[cloud.instance], Force=True)
        await cloud.until(cloud.is_state("stopped"))
        await cloud.until(cloud.is_status("available"))
        # And what is attached meanwhile is there from the start.
        await cloud.attach()
        await cloud.until(cloud.is_status("attached"))
        assert cloud.interface not in cloud.ports
        await cloud.call("StartInstances", InstanceIds=[cloud.instance])
        await cloud.until(cloud.is_state("running"))
        assert cloud.interface in cloud.nics & cloud.ports

    in_cloud(test)


@pytest.mark.parametrize("goes", [False, True])
def test_termination(goes: bool) -> None:
    async def test(cloud: Clouds) -> None:
        attachment = {"AttachmentId": cloud.attachment, "DeleteOnTermination": goes}
        await cloud.call(
            "ModifyNetworkInterfaceAttribute", NetworkInterfaceId=cloud.interface, Attachment=attachment
        )
        await cloud.call("TerminateInstances", InstanceIds=[cloud.instance])
        await cloud.until(cloud.is_state("terminated"))
        left = [each.id for each in await cloud.find(NetworkInterface)]
        assert left == ([] if goes else [cloud.interface])
        await asyncio.sleep(5)
        assert not cloud.ports
        if not goes:
            await cloud.call("DeleteNetworkInterface", NetworkInterfaceId=cloud.interface)

    in_cloud(test)


@pytest.mark.parametrize("point", ["agent.nic.attach", "agent.nic.attached", "agent.nic.detached"])
@pytest.mark.parametrize("manager", [False, True])
def test_processes_die_in_between(point: str, manager: bool) -> None:
    async def test(cloud: Clouds) -> None:
        points = cloud.world.points
        points.at, points.count = point, points.reached[point] + 1
        for operation in ("detach", "attach"):
            if operation == "detach":
                await cloud.call("DetachNetworkInterface", AttachmentId=cloud.attachment)
            else:
                await cloud.attach()
            if manager and cloud.world.manager_process is not None:
                cloud.world.manager_process.die()
                await asyncio.sleep(10)
            await cloud.until(cloud.is_status("available" if operation == "detach" else "attached"))
        assert points.killed[point] == 1
        assert cloud.interface in cloud.nics & cloud.ports

    in_cloud(test)


def test_several_from_the_start() -> None:
    async def test(cloud: Clouds) -> None:
        [image] = await cloud.find(Image)
        subnet = (await cloud.find(Subnet))[0].id
        answer = await cloud.call(
            "RunInstances",
            ImageId=image.id,
            MinCount=1,
            MaxCount=1,
            NetworkInterfaces=[{"DeviceIndex": n, "SubnetId": subnet} for n in range(2)],
        )
        cloud.instance = answer["Instances"][0]["InstanceId"]
        await cloud.until(cloud.is_state("running"))
        assert len(cloud.nics) == 2
        assert cloud.nics < cloud.ports

    in_cloud(test)


class Fuzz:
    """Interfaces and instances of which anything may be asked at any time, under faults."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.world = World(seed)
        self.faults = Faults(self.world)
        self.random = self.world.random
        self.image = self.subnet = ""

    async def __call__(self, steps: int) -> None:
        # Those who stop the processes cancel what they do.
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
        await self.world.start()
        await asyncio.sleep(2)
        async with self.world.store.read() as reader:
            [image] = await reader.find(Image)
            self.image, self.subnet = image.id, (await reader.find(Subnet))[0].id
        self.faults.begin()
        for _ in range(steps):
            await self.call(*await self.chosen())
            await self.faults.step()
            await self.always()
            await asyncio.sleep(self.random.expovariate(1.0))
        await self.faults.end()
        for _ in range(240):
            problems = [each for each in await invariants.at_rest(self.world) if "no instance" not in each]
            if not problems:
                break
            await self.always()
            await asyncio.sleep(1)
        assert not problems, f"seed {self.seed}: {problems}"
        await self.world.stop()

    async def call(self, operation: str, input: Mapping[str, Any]) -> None:
        with contextlib.suppress(ApiError):
            await self.world.call(operation, input)

    async def chosen(self) -> tuple[str, dict[str, Any]]:
        async with self.world.store.read() as reader:
            instances = [each.id for each in await reader.find(Instance) if each.state is not TERMINATED]
            interfaces = await reader.find(NetworkInterface)
        rng = self.random
        if len(instances) < 2:
            specs = [{"DeviceIndex": n, "SubnetId": self.subnet} for n in range(rng.choice([1, 2]))]
            one = {"ImageId": self.image, "MinCount": 1, "MaxCount": 1, "InstanceType": "t3.medium"}
            return "RunInstances", {**one, "NetworkInterfaces": specs}
        if len(interfaces) < 4:
            return "CreateNetworkInterface", {"SubnetId": self.subnet}
        instance, interface = rng.choice(instances), rng.choice(interfaces)
        attached = {"AttachmentId": interface.attachment or "eni-attach-0"}
        at = {"NetworkInterfaceId": interface.id, "InstanceId": instance, "DeviceIndex": rng.randint(1, 3)}
        choices: list[tuple[int, str, dict[str, Any]]] = [
            (8, "AttachNetworkInterface", at),
            (5, "DetachNetworkInterface", attached),
            (2, "DetachNetworkInterface", {**attached, "Force": True}),
            (1, "DeleteNetworkInterface", {"NetworkInterfaceId": interface.id}),
            (2, "StopInstances", {"InstanceIds": [instance], "Force": rng.random() < 0.5}),
            (3, "StartInstances", {"InstanceIds": [instance]}),
            (1, "RebootInstances", {"InstanceIds": [instance]}),
            (1, "TerminateInstances", {"InstanceIds": [instance]}),
        ]
        [(_, operation, input)] = rng.choices(choices, [weight for weight, *_ in choices])
        return operation, input

    async def always(self) -> None:
        """A machine has only what the store gives it: what is shown as free was given up."""
        await invariants.always(self.world)
        assert self.world.failure is None, f"seed {self.seed}: {self.world.failure!r}"
        async with self.world.store.read() as reader:
            owners = {each.id: each.instance for each in await reader.find(NetworkInterface)}
        for id, machine in self.world.hosts[0].machines.machines.items():
            for interface in machine.nics:
                assert owners.get(interface) == id, f"seed {self.seed}: {id} has {interface}"


@pytest.mark.parametrize("seed", range(20))
def test_anything_at_any_time(seed: int) -> None:
    async def main() -> None:
        await Fuzz(seed)(80)

    run(main())


def violated(seeds: int) -> bool:
    """Whether the first so many runs find that a machine has what is not its own."""
    for seed in range(seeds):
        try:
            test_anything_at_any_time(seed)
        except AssertionError as error:
            if " has eni-" not in str(error):
                raise
            return True
    return False


def test_a_planted_fault_is_found_if_nobody_waits_for_the_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    right = interfaces.reconcile

    async def reconcile(tx: Any, env: Any, observed: Any, id: str) -> None:
        interface = await tx.get(NetworkInterface, id)
        if interface is not None and interface.changing == ("detaching",):
            await interfaces.free(tx, interface)
        else:
            await right(tx, env, observed, id)

    monkeypatch.setitem(STEPS, "network-interface", reconcile)
    assert violated(10)


def test_a_planted_fault_is_found_if_stale_reports_are_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = interfaces.reconcile

    class Credulous(Observed):
        def __init__(self, observed: Observed) -> None:
            self.hosts = observed.hosts

        def machine(self, host: str | None, id: str, generation: int) -> MachineReport | None:
            seen = super().machine(host, id, generation)
            return None if seen is None else replace(seen, revision=1 << 60)

    async def reconcile(tx: Any, env: Any, observed: Any, id: str) -> None:
        await right(tx, env, Credulous(observed), id)

    monkeypatch.setitem(STEPS, "network-interface", reconcile)
    assert violated(40)
