"""How machines are stepped, over a fake hypervisor and virtual time."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from gureum.agent.disks import Disks
from gureum.agent.machines import LOOK_AGAIN_SECONDS, Machines
from gureum.env import Env
from gureum.errors import HypervisorError
from gureum.hostspec import HostSpec, MachineSpec, MachineState, Metadata
from gureum.hypervisors.fake import FakeHypervisor, FakeMachines
from gureum.network.fake import FakeNetwork, FakeWires
from gureum.san.fake import FakePool, FakePoolDisk
from gureum.sim.loop import run

METADATA = Metadata(
    instance="i-1",
    image="ami-1",
    type="t3.nano",
    account="1",
    region="us-east-1",
    zone="us-east-1a",
    reservation="r-1",
)


class Host:
    """A host with machines, and what was asked of its hypervisor: (seconds, id) of each press."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.env = Env(loop.time, random.Random(1), lambda _: None)
        self.machines = FakeMachines(self.env)
        self.hypervisor = FakeHypervisor(self.env, self.machines)
        self.presses: list[float] = []
        self.changes = 0
        press = self.hypervisor.press_power_button

        async def press_power_button(id: str) -> None:
            self.presses.append(self.env.now())
            await press(id)

        self.hypervisor.press_power_button = press_power_button  # type: ignore[method-assign]
        pool = FakePool(self.env, FakePoolDisk())
        network = FakeNetwork(self.env, "host", FakeWires())
        self.disks = Disks(self.env, pool, self.hypervisor, lambda _: None)
        self.stepped = Machines(self.env, self.hypervisor, network, self.disks, self._changed)
        self.hypervisor.subscribe(self.stepped.kick)
        self._revision = 0

    def _changed(self, _id: str) -> None:
        self.changes += 1

    def want(self, *specs: MachineSpec) -> None:
        self._revision += 1
        self.stepped.take(HostSpec(cloud="c", host="host", revision=self._revision, machines=specs))

    def state(self, id: str) -> MachineState:
        return self.hypervisor.machines()[id].state


def spec(
    id: str = "i-1", *, run: bool = True, shutdown_seconds: float = 90.0, reboots: int = 0
) -> MachineSpec:
    return MachineSpec(
        id=id,
        generation=1,
        run=run,
        shutdown_seconds=shutdown_seconds,
        reboots=reboots,
        vcpus=1,
        memory_bytes=2**29,
        metadata=METADATA,
    )


def on_a_host(main: Callable[[Host], Awaitable[None]]) -> None:
    async def scene() -> None:
        host = Host()
        await host.hypervisor.recover()
        try:
            await main(host)
        finally:
            await host.stepped.close()
            await host.disks.close()
            await host.machines.close()

    run(scene())


def test_the_power_button_is_pressed_again_since_the_guest_may_not_listen_yet() -> None:
    async def main(host: Host) -> None:
        host.want(spec())
        await asyncio.sleep(2)
        host.machines.ignore_power_button("i-1")
        host.want(spec(run=False))
        await asyncio.sleep(3 * LOOK_AGAIN_SECONDS + 1)
        assert len(host.presses) == 4
        host.machines.ignore_power_button("i-1", ignore=False)
        await asyncio.sleep(2 * LOOK_AGAIN_SECONDS)
        assert host.state("i-1") is MachineState.off

    on_a_host(main)


def test_a_reboot_presses_again_too_and_resets_only_when_the_guest_is_down() -> None:
    async def main(host: Host) -> None:
        host.want(spec())
        await asyncio.sleep(2)
        host.machines.ignore_power_button("i-1")
        host.want(spec(reboots=1))
        await asyncio.sleep(LOOK_AGAIN_SECONDS + 1)
        host.machines.ignore_power_button("i-1", ignore=False)
        await asyncio.sleep(2 * LOOK_AGAIN_SECONDS)
        status = host.hypervisor.machines()["i-1"]
        assert (status.state, status.reboots) == (MachineState.running, 1)
        assert len(host.presses) == 3
        await asyncio.sleep(60)
        assert len(host.presses) == 3

    on_a_host(main)


def test_a_guest_that_never_listens_is_powered_off_at_its_deadline() -> None:
    async def main(host: Host) -> None:
        host.want(spec())
        await asyncio.sleep(2)
        host.machines.ignore_power_button("i-1")
        host.want(spec(run=False))
        await asyncio.sleep(89)
        assert host.state("i-1") is MachineState.running
        await asyncio.sleep(2)
        assert host.state("i-1") is MachineState.off

    on_a_host(main)


def test_less_time_given_while_the_guest_is_asked_counts_from_then() -> None:
    async def main(host: Host) -> None:
        host.want(spec())
        await asyncio.sleep(2)
        host.machines.ignore_power_button("i-1")
        host.want(spec(run=False))
        await asyncio.sleep(10)
        host.want(spec(run=False, shutdown_seconds=20))
        await asyncio.sleep(19)
        assert host.state("i-1") is MachineState.running
        await asyncio.sleep(2)
        assert host.state("i-1") is MachineState.off

    on_a_host(main)


def test_force_ends_a_graceful_stop_at_once() -> None:
    async def main(host: Host) -> None:
        host.want(spec())
        await asyncio.sleep(2)
        host.machines.ignore_power_button("i-1")
        host.want(spec(run=False))
        await asyncio.sleep(7)
        host.want(spec(run=False, shutdown_seconds=0))
        await asyncio.sleep(1)
        assert host.state("i-1") is MachineState.off

    on_a_host(main)


def test_a_time_that_is_over_does_not_make_the_steps_hurry() -> None:
    async def main(host: Host) -> None:
        host.want(spec())
        await asyncio.sleep(2)
        host.machines.ignore_power_button("i-1")
        # As left by a disk that the guest was asked for and did not give up.
        host.stepped._deadlines["i-1", "vol-1"] = host.env.now()
        host.want(spec(run=False))
        await asyncio.sleep(1)
        before = host.changes
        await asyncio.sleep(60)
        assert host.changes - before < 40

    on_a_host(main)


def test_one_machine_that_cannot_go_on_does_not_hold_the_others() -> None:
    async def main(host: Host) -> None:
        host.want(spec("i-1"), spec("i-2"))
        await asyncio.sleep(2)
        host.machines.fill_storage()
        host.machines.fill_storage(False)
        assert host.state("i-2") is MachineState.paused
        resume = host.hypervisor.resume

        async def fails_for_one(id: str) -> None:
            if id == "i-1":
                raise HypervisorError("i-1: its QEMU does not answer")
            await resume(id)

        host.hypervisor.resume = fails_for_one  # type: ignore[method-assign]
        host.disks.free_bytes = 1
        await host.stepped.resume_paused()
        assert (host.state("i-1"), host.state("i-2")) == (MachineState.paused, MachineState.running)

    on_a_host(main)
