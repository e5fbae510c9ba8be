"""An agent process is killed by SIGKILL between any two effects; the next one finds exactly what there is."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from gureum.env import CRASH_VARIABLE
from gureum.hostspec import MachineState
from gureum.hypervisors.base import MachineStatus
from gureum.hypervisors.qemu.cgroup import PARENT, ROOT
from gureum.hypervisors.qemu.hypervisor import QemuHypervisor
from gureum.hypervisors.qemu.process import marked_processes
from gureum.san.base import FileDisk

from .guest import ID, MIB, GuestFiles, bare, booted, disk, linux, qcow2, raw_disk, volume

pytestmark = [pytest.mark.qemu, pytest.mark.root]

AGENT_SECONDS = 120.0

AGENT = """
import asyncio, pickle, sys
from pathlib import Path
from gureum.env import Env
from gureum.hypervisors.qemu.hypervisor import QemuHypervisor

async def main(run_dir, orders):
    hypervisor = QemuHypervisor(Env(), Path(run_dir))
    await hypervisor.recover()
    for method, arguments in pickle.loads(bytes.fromhex(orders)):
        await getattr(hypervisor, method)(*arguments)
    await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


def agent_dies(run_dir: Path, point: str, *orders: tuple[str, list[object]]) -> None:
    """Let an agent in a process of its own carry out orders until it dies at ``point``."""

    result = subprocess.run(
        [sys.executable, "-c", AGENT, str(run_dir), pickle.dumps(orders).hex()],
        env={**os.environ, CRASH_VARIABLE: point, "PYTHONPATH": "src"},
        timeout=AGENT_SECONDS,
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == -signal.SIGKILL, result.stderr


async def recovered(hypervisor: QemuHypervisor) -> MachineStatus | None:
    await hypervisor.close()
    await hypervisor.recover()
    return hypervisor.machines().get(ID)


@pytest.mark.parametrize(
    ("point", "state"),
    [
        ("qemu.start.recorded", MachineState.off),
        ("qemu.start.spawned", MachineState.running),
        ("qemu.start.connected", MachineState.running),
    ],
)
async def test_dies_in_start(
    hypervisor: QemuHypervisor, run_dir: Path, tmp_path: Path, point: str, state: MachineState
) -> None:
    config = bare(ID, disk(0, raw_disk(tmp_path / "root.raw", MIB)))
    agent_dies(run_dir, point, ("start", [config]))
    status = await recovered(hypervisor)
    assert status is not None
    assert (status.state, status.generation) == (state, 1)
    before = set(marked_processes(run_dir / "machines"))
    await hypervisor.start(config)
    after = set(marked_processes(run_dir / "machines"))
    assert len(after) == 1
    assert before <= after
    assert hypervisor.machines()[ID].disks == (volume(0),)


@pytest.mark.parametrize("point", ["qemu.resize.limited", "qemu.resize.asked"])
async def test_dies_in_resize(hypervisor: QemuHypervisor, run_dir: Path, point: str) -> None:
    config = replace(bare(ID), vcpus_max=3, memory_max_bytes=192 * MIB)
    agent_dies(run_dir, point, ("start", [config]), ("resize", [ID, 2, 128 * MIB]))
    status = await recovered(hypervisor)
    assert status is not None
    assert status.size is not None
    assert (status.size.vcpus, status.size.vcpus_max) == (1 if point == "qemu.resize.limited" else 2, 3)
    for _ in range(2):
        await hypervisor.resize(ID, 2, 128 * MIB)
    size = hypervisor.machines()[ID].size
    assert size is not None
    assert size.vcpus == 2


@pytest.mark.parametrize("point", ["qemu.end.recorded", "qemu.end.ended"])
async def test_dies_in_power_off(hypervisor: QemuHypervisor, run_dir: Path, point: str) -> None:
    agent_dies(run_dir, point, ("start", [bare(ID)]), ("power_off", [ID]))
    status = await recovered(hypervisor)
    assert status is not None
    assert status.state is MachineState.off
    assert marked_processes(run_dir / "machines") == {}
    assert list(ROOT.glob(f"**/{PARENT}/{ID}")) == []


@pytest.mark.parametrize("point", ["qemu.end.recorded", "qemu.end.ended", "qemu.remove.ended"])
async def test_dies_in_remove(hypervisor: QemuHypervisor, run_dir: Path, point: str) -> None:
    agent_dies(run_dir, point, ("start", [bare(ID)]), ("remove", [ID]))
    status = await recovered(hypervisor)
    assert status is not None
    assert status.state is MachineState.off
    await hypervisor.remove(ID)
    assert marked_processes(run_dir / "machines") == {}
    assert list((run_dir / "machines").iterdir()) == []
    assert list(ROOT.glob(f"**/{PARENT}/{ID}")) == []


@pytest.mark.parametrize("point", ["qemu.reset.recorded", "qemu.reset.done"])
async def test_dies_in_reset(hypervisor: QemuHypervisor, run_dir: Path, point: str) -> None:
    agent_dies(run_dir, point, ("start", [bare(ID)]), ("reset", [ID, 1]))
    status = await recovered(hypervisor)
    assert status is not None
    assert (status.state, status.reboots) == (MachineState.running, 0)
    await hypervisor.reset(ID, 1)
    assert hypervisor.machines()[ID].reboots == 1


@pytest.mark.parametrize("point", ["qemu.attach.opened", "qemu.attach.plugged"])
async def test_dies_in_attach(hypervisor: QemuHypervisor, run_dir: Path, tmp_path: Path, point: str) -> None:
    root = disk(0, raw_disk(tmp_path / "root.raw", MIB))
    data = disk(1, raw_disk(tmp_path / "data.raw", MIB))
    agent_dies(run_dir, point, ("start", [bare(ID, root)]), ("attach_disk", [ID, data]))
    status = await recovered(hypervisor)
    assert status is not None
    assert (volume(1) in status.disks) is (point == "qemu.attach.plugged")
    await hypervisor.attach_disk(ID, data)
    assert hypervisor.machines()[ID].disks == (volume(0), volume(1))
    assert len(await hypervisor._machines[ID].disks().nodes.fdsets()) == 3


@pytest.mark.parametrize("point", ["qemu.switch.opened", "qemu.switch.done"])
async def test_dies_in_switch(hypervisor: QemuHypervisor, run_dir: Path, tmp_path: Path, point: str) -> None:
    top = qcow2(tmp_path / "top.qcow2", MIB)
    source = FileDisk(layers=(top, *raw_disk(tmp_path / "root.raw", MIB).layers))
    overlay = qcow2(tmp_path / "overlay.qcow2", MIB)
    orders = (("start", [bare(ID, disk(0, source))]), ("switch_layer", [ID, volume(0), overlay]))
    agent_dies(run_dir, point, *orders)
    assert await recovered(hypervisor) is not None
    expected = overlay.path if point == "qemu.switch.done" else source.layers[0].path
    assert await hypervisor.active_layer(ID, volume(0)) == expected
    await hypervisor.switch_layer(ID, volume(0), overlay)
    assert await hypervisor.active_layer(ID, volume(0)) == overlay.path
    assert len(await hypervisor._machines[ID].disks().nodes.fdsets()) == 4  # three layers and the console's


async def test_dies_after_the_guest_gave_a_disk_up(
    hypervisor: QemuHypervisor, run_dir: Path, tmp_path: Path, guest_files: GuestFiles
) -> None:
    root = disk(0, raw_disk(tmp_path / "root.raw", MIB))
    data = disk(1, raw_disk(tmp_path / "data.raw", MIB))
    await hypervisor.start(linux(guest_files, ID, root, data))
    await booted(hypervisor, ID)
    await hypervisor.close()
    await asyncio.to_thread(agent_dies, run_dir, "qemu.detach.unplugged", ("detach_disk", [ID, volume(1)]))
    status = await recovered(hypervisor)
    assert status is not None
    assert status.disks == (volume(0),)
    assert len(await hypervisor._machines[ID].disks().nodes.fdsets()) == 2
