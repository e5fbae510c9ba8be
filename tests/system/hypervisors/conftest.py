from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from gureum.env import Env
from gureum.hypervisors.base import Nic
from gureum.hypervisors.fake import FakeHypervisor, FakeMachines
from gureum.hypervisors.fake_migration import FakeRoads
from gureum.hypervisors.qemu.cgroup import Cgroups
from gureum.hypervisors.qemu.hypervisor import QemuHypervisor
from gureum.hypervisors.qemu.process import marked_processes
from gureum.network.taps import create_tap, open_tap

from ..san.ceph_cluster import CephCluster
from . import guest
from .images import Images
from .pair import Pair


@pytest.fixture(scope="session")
def guest_files(kept: Path) -> guest.GuestFiles:
    return guest.build(kept / f"guest-{guest.RECIPE}")


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    """Ends whatever still runs there, and fails the test if that is more than what it was told to leave."""
    yield from _run_dir(tmp_path / "run")


@pytest.fixture
def other_run_dir(tmp_path: Path) -> Iterator[Path]:
    """Of another host on this computer."""
    yield from _run_dir(tmp_path / "other")


def _run_dir(directory: Path) -> Iterator[Path]:
    if os.geteuid() != 0 or shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs root and qemu-system-x86_64")
    yield directory
    machines = directory / "machines"
    for identity in marked_processes(machines):
        os.kill(identity.pid, signal.SIGKILL)
        with_child_reaped(identity.pid)
    if machines.exists():
        for entry in machines.iterdir():
            Cgroups().remove(entry.name)


@pytest.fixture
def nic(run_dir: Path) -> Iterator[Callable[[int], Nic]]:
    """An interface by its number, 0 or 1, with its tap newly opened."""
    yield from _nics(0)


@pytest.fixture
def other_nic(other_run_dir: Path) -> Iterator[Callable[[int], Nic]]:
    """The same interfaces, with taps of another host."""
    yield from _nics(2)


def _nics(first_tap: int) -> Iterator[Callable[[int], Nic]]:
    numbers = range(first_tap, first_tap + 2)
    for number in numbers:
        create_tap(guest.tap(number))
        subprocess.run(["ip", "link", "set", guest.tap(number), "up"], check=True)
    yield lambda n: Nic(
        interface=guest.interface(n), mac=guest.mac(n), index=n, fd=open_tap(guest.tap(first_tap + n))
    )
    for number in numbers:
        subprocess.run(["ip", "link", "del", guest.tap(number)], check=True)


def with_child_reaped(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        fd = os.pidfd_open(pid) if Path(f"/proc/{pid}").exists() else -1
        if fd >= 0:
            os.close(fd)


@pytest.fixture
def images(ceph: CephCluster) -> Images:
    return Images(ceph.settings)


@pytest.fixture
async def hypervisor(run_dir: Path) -> AsyncIterator[QemuHypervisor]:
    hypervisor = QemuHypervisor(Env(), run_dir)
    await hypervisor.recover()
    yield hypervisor
    for id in list(hypervisor.machines()):
        await hypervisor.remove(id)
    await hypervisor.close()
    assert marked_processes(run_dir / "machines") == {}


@pytest.fixture(params=["fake", pytest.param("qemu", marks=[pytest.mark.qemu, pytest.mark.root])])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    env, roads = Env(rng=random.Random(1)), FakeRoads()
    hosts = [FakeMachines(env, roads) for _ in range(2)]
    if request.param == "fake":
        pair = Pair((lambda: FakeHypervisor(env, hosts[0]), lambda: FakeHypervisor(env, hosts[1])))
    else:
        run_dir: Path = request.getfixturevalue("run_dir")
        other: Path = request.getfixturevalue("other_run_dir")
        pair = Pair((lambda: QemuHypervisor(Env(), run_dir), lambda: QemuHypervisor(Env(), other)))
    await pair.recover()
    yield pair
    await pair.close()
    for host in hosts:
        await host.close()
