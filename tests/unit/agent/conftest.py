"""An agent over a fake hypervisor, pool and network, on virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from gureum.agent.agent import Agent, Identity
from gureum.env import Env
from gureum.errors import TransportError
from gureum.fencespec import WardenReport
from gureum.hostspec import (
    LOCAL,
    DiskSpec,
    HostSpec,
    ImageSpec,
    MachineReport,
    MachineSpec,
    Metadata,
    NetworkSpec,
    NicSpec,
    PortSpec,
    SnapshotReport,
    SnapshotSpec,
    SubnetSpec,
    VolumeReport,
    VolumeSpec,
    VpcSpec,
)
from gureum.hypervisors.fake import FakeHypervisor, FakeMachines
from gureum.network.fake import FakeNetwork, FakeWires
from gureum.san.fake import FakePool, FakePoolDisk
from gureum.san.fake_shared import FakeSan, FakeSharedPool
from gureum.sim.link import SimLink, Weather, pair
from gureum.sim.loop import run

GIB = 1 << 30
EPOCH = 1_750_000_000.0


class FakeWatched:
    """A warden that permits what it is told to. ``words``: when the reports were sent that were heard."""

    def __init__(self) -> None:
        self.words: list[float] = []
        self.permitted = True

    def now(self) -> float:
        return 1000.0 + asyncio.get_running_loop().time()

    def heard(self, sent: float) -> None:
        self.words.append(sent)

    def report(self) -> WardenReport:
        return WardenReport(permitted=self.permitted)


class Lab:
    """A host that outlives its agents. Make it inside the virtual loop."""

    def __init__(self, spec_file: Path | None = None) -> None:
        self.skew = 0.0
        self.env = Env(
            lambda: EPOCH + asyncio.get_running_loop().time() + self.skew, random.Random(1), lambda _: None
        )
        self.machines = FakeMachines(self.env)
        self.disk = FakePoolDisk()
        self.san = FakeSan()
        for images in (self.disk.images, self.san.disks):
            images["/images/a"] = {0: b"boot"}
        self.wires = FakeWires()
        self.spec_file = spec_file
        self.links: list[SimLink] = []
        self.refuse = True
        self.warden: FakeWatched | None = None
        self.uplink_down = False
        self.revision = 0

    async def _connect(self) -> SimLink:
        if self.refuse:
            raise TransportError("no manager")
        ours, theirs = pair(Weather(self.env.random))
        self.links.append(theirs)
        return ours

    def start(self) -> None:
        identity = Identity(cloud="c", host="h", zone="", boot_id="1", cpus=4, memory_bytes=8 * GIB)
        self.agent = Agent(
            self.env,
            identity,
            FakeHypervisor(self.env, self.machines),
            {
                LOCAL: FakePool(self.env, self.disk, chain_max=3),
                self.san.name: FakeSharedPool(self.env, self.san, "h"),
            },
            FakeNetwork(self.env, "h", self.wires),
            self._connect,
            self.spec_file,
            warden=self.warden,
            uplink_down=lambda: self.uplink_down,
        )
        self.task = asyncio.create_task(self.agent.run())

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def spec(self, *things: Any, network: NetworkSpec | None = None) -> HostSpec:
        self.revision += 10
        return HostSpec(
            cloud="c",
            host="h",
            revision=self.revision,
            machines=tuple(each for each in things if isinstance(each, MachineSpec)),
            volumes=tuple(each for each in things if isinstance(each, VolumeSpec)),
            snapshots=tuple(each for each in things if isinstance(each, SnapshotSpec)),
            images=(ImageSpec(id="ami-1", disk="/images/a", format="raw", size_bytes=GIB),),
            network=network or port(),
        )

    async def take(self, *things: Any, seconds: float = 3.0, network: NetworkSpec | None = None) -> None:
        """Give the agent a spec, and some time."""
        self.agent.take(self.spec(*things, network=network))
        await asyncio.sleep(seconds)

    def seen(self, id: str = "i-1") -> MachineReport:
        return next(each for each in self.agent.report().machines if each.id == id)

    def seen_volume(self, id: str = "vol-1") -> VolumeReport:
        return next(each for each in self.agent.report().volumes if each.id == id)

    def seen_snapshot(self, id: str = "snap-1") -> SnapshotReport:
        return next(each for each in self.agent.report().snapshots if each.id == id)


def port() -> NetworkSpec:
    return NetworkSpec(
        vpcs=(VpcSpec(id="vpc-1", network_id=1, cidr="172.31.0.0/16", subnets=(subnet(),)),),
        ports=(
            PortSpec(
                id="eni-1",
                instance="i-1",
                vpc="vpc-1",
                subnet="subnet-1",
                mac="02:00:00:00:00:01",
                private_ip="172.31.0.4",
            ),
        ),
    )


def subnet() -> SubnetSpec:
    return SubnetSpec(id="subnet-1", cidr="172.31.0.0/20")


def machine(id: str = "i-1", volumes: tuple[str, ...] = ("vol-1",), **values: Any) -> MachineSpec:
    metadata = Metadata(
        instance=id, image="ami-1", type="t3.nano", account="1", region="r", zone="z", reservation="r-1"
    )
    disks = tuple(DiskSpec(volume=each, device="/dev/xvda", index=n) for n, each in enumerate(volumes))
    nics = (NicSpec(interface="eni-1", mac="02:00:00:00:00:01"),)
    defaults: dict[str, Any] = {
        "generation": 1,
        "run": True,
        "vcpus": 1,
        "memory_bytes": GIB,
        "disks": disks,
        "nics": nics,
        "metadata": metadata,
    }
    return MachineSpec(id=id, **{**defaults, **values})


def volume(id: str = "vol-1", **values: Any) -> VolumeSpec:
    return VolumeSpec(id=id, **{"size_bytes": GIB, **values})


@pytest.fixture
def parts() -> Any:
    class Parts:
        pass

    for each in (Lab, machine, volume, port, SnapshotSpec):
        setattr(Parts, each.__name__, staticmethod(each))

    def on_lab(test: Any, spec_file: Path | None = None, warden: bool = False) -> None:
        async def main() -> None:
            lab = Lab(spec_file)
            if warden:
                lab.warden = FakeWatched()
            lab.start()
            await asyncio.sleep(1)
            work: Coroutine[Any, Any, None] = test(lab)
            await work
            await lab.stop()
            await lab.machines.close()

        run(main())

    Parts.on_lab = staticmethod(on_lab)
    return Parts
