"""Who runs a simulated cloud: drains, fences and upgrades hosts, and says what becomes of instances."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gureum.resources import Host, HostState, Instance, RecoveryPolicy, Upgrade, UpgradeState
from gureum.sim.world import World

LOOKS = ("DescribeHosts", "DescribeSurvival", "DescribeLaunchCapacity", "ExplainHostLoss")
CALLS = (
    *("DrainHost", "ActivateHost", "FenceHost", "StartUpgrade", "CancelUpgrade", "SetInstanceRecovery"),
    *("ModifyFleetSettings", *LOOKS),
)
EXPECTED = frozenset(
    {"InsufficientInstanceCapacity", "InvalidHostStateException", "ResourceNotFoundException"}
)

Asked = tuple[str, Mapping[str, Any]]


class Operator:
    """Random calls of Fleet, over what the store has now."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def choose(self) -> Asked:
        asks: tuple[tuple[Callable[[], Awaitable[Asked]], int], ...] = (
            (self._drain, 6),
            (self._fence, 3),
            (self._upgrade, 4),
            (self._recover, 4),
            (self._settle, 2),
            (self._look, 2),
        )
        [chosen] = self._world.random.choices([each for each, _ in asks], [weight for _, weight in asks])
        return await chosen()

    async def end(self) -> None:
        """Let no upgrade go on, and all hosts take instances. To be asked again: it may be unanswered."""
        for upgrade in await self._running():
            await self._world.call("CancelUpgrade", {"UpgradeId": upgrade.id}, "fleet")
        async with self._world.store.read() as reader:
            draining = [host.id for host in await reader.find(Host) if host.draining]
        for id in draining:
            await self._world.call("ActivateHost", {"HostId": id}, "fleet")

    def _host(self) -> str:
        return self._world.random.choice(self._world.hosts).name

    async def _drain(self) -> Asked:
        name = "DrainHost" if self._world.random.random() < 0.4 else "ActivateHost"
        return name, {"HostId": self._host()}

    async def _fence(self) -> Asked:
        """Mostly of a host that is not heard of."""
        async with self._world.store.read() as reader:
            down = [host.id for host in await reader.find(Host) if host.state is HostState.down]
        return "FenceHost", {"HostId": self._world.random.choice(down) if down else self._host()}

    async def _running(self) -> list[Upgrade]:
        async with self._world.store.read() as reader:
            return await reader.find(Upgrade, state=str(UpgradeState.running))

    async def _upgrade(self) -> Asked:
        rng, running = self._world.random, await self._running()
        if running:
            return "CancelUpgrade", {"UpgradeId": running[0].id}
        hosts = rng.sample([host.name for host in self._world.hosts], rng.randint(1, len(self._world.hosts)))
        evacuate = rng.random() < 0.6
        reboots = evacuate and rng.random() < 0.8
        return "StartUpgrade", {
            "HostIds": hosts,
            "Evacuate": evacuate,
            "Reboots": reboots,
            "AtOnce": rng.randint(1, 2),
            "WaitSeconds": rng.choice([10, 60, 600]),
        }

    async def _recover(self) -> Asked:
        rng = self._world.random
        async with self._world.store.read() as reader:
            instances = await reader.find(Instance)
        if not instances:
            return "", {}
        id, policy = rng.choice(instances).id, str(rng.choice(list(RecoveryPolicy)))
        return "SetInstanceRecovery", {"InstanceId": id, "Policy": policy, "Priority": rng.randrange(100)}

    async def _settle(self) -> Asked:
        return "ModifyFleetSettings", {"Survive": self._world.random.randrange(3)}

    async def _look(self) -> Asked:
        rng = self._world.random
        name = rng.choice(LOOKS)
        if name == "ExplainHostLoss":
            return name, {"HostId": self._host()}
        return name, {"InstanceTypes": ["t3.small"]} if name == "DescribeLaunchCapacity" else {}
