"""The end of a cloud on a host, on virtual time."""

import asyncio
import random
from pathlib import Path

from gureum.agent.evacuate import evacuate
from gureum.cli.cloud import READY_TIMEOUT_S
from gureum.env import Env
from gureum.hostspec import MachineState, NetworkSpec
from gureum.hypervisors.base import MachineConfig
from gureum.hypervisors.fake import FakeHypervisor, FakeMachines
from gureum.network.fake import FakeNetwork, FakeWires
from gureum.sim.loop import run


class Host:
    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.env = Env(loop.time, random.Random(1), lambda _: None)
        self.machines = FakeMachines(self.env)
        self.wires = FakeWires()
        self.hypervisor = FakeHypervisor(self.env, self.machines)
        self.network = FakeNetwork(self.env, "host", self.wires)

    async def start(self, *ids: str) -> None:
        await self.network.apply(NetworkSpec())
        for id in ids:
            await self.hypervisor.start(MachineConfig(id=id, generation=1, vcpus=1, memory_bytes=2**28))

    def states(self) -> dict[str, MachineState]:
        return {id: status.state for id, status in self.hypervisor.machines().items()}


def test_guests_are_asked_then_off_and_can_be_started_again(tmp_path: Path) -> None:
    async def main() -> None:
        host = Host()
        await host.start("i-1", "i-2")
        await evacuate(host.hypervisor, host.network, tmp_path / "mark")
        assert host.states() == {"i-1": MachineState.off, "i-2": MachineState.off}
        assert "host" not in host.wires.rules
        assert not (tmp_path / "mark").exists()
        await host.machines.close()

    run(main())


def test_a_guest_that_does_not_listen_is_powered_off_after_half_a_minute(tmp_path: Path) -> None:
    async def main() -> float:
        host = Host()
        await host.start("i-1")
        host.machines.ignore_power_button("i-1")
        began = host.env.now()
        await evacuate(host.hypervisor, host.network, tmp_path / "mark")
        assert host.states() == {"i-1": MachineState.off}
        await host.machines.close()
        return host.env.now() - began

    assert 30 <= run(main()) < 32


def test_a_guest_that_boots_hears_the_second_press(tmp_path: Path) -> None:
    async def main() -> float:
        host = Host()
        await host.start("i-1")
        host.machines.ignore_power_button("i-1")
        asyncio.get_running_loop().call_later(3, host.machines.ignore_power_button, "i-1", False)
        began = host.env.now()
        await evacuate(host.hypervisor, host.network, tmp_path / "mark")
        await host.machines.close()
        return host.env.now() - began

    assert 5 <= run(main()) < 10


def test_killed_in_the_middle_it_leaves_its_mark(tmp_path: Path) -> None:
    async def main() -> None:
        host = Host()
        await host.start("i-1")
        work = asyncio.create_task(evacuate(host.hypervisor, host.network, tmp_path / "mark"))
        await asyncio.sleep(0.1)
        work.cancel()
        await asyncio.wait([work])
        assert (tmp_path / "mark").exists()
        await asyncio.sleep(10)
        assert host.states() == {"i-1": MachineState.shutdown}
        await evacuate(host.hypervisor, host.network, tmp_path / "mark")
        assert host.states() == {"i-1": MachineState.off}
        assert not (tmp_path / "mark").exists()
        await host.machines.close()

    run(main())


def test_what_was_interrupted_is_completed_in_less_time_than_a_start_may_take(tmp_path: Path) -> None:
    """The agent does it before it answers: a guest that hears nothing must not keep a cloud from starting."""

    async def main() -> float:
        host = Host()
        await host.start("i-1")
        host.machines.ignore_power_button("i-1")
        (tmp_path / "mark").touch()
        began = host.env.now()
        await evacuate(host.hypervisor, host.network, tmp_path / "mark")
        assert host.states() == {"i-1": MachineState.off}
        await host.machines.close()
        return host.env.now() - began

    assert run(main()) < READY_TIMEOUT_S / 2 + 1
