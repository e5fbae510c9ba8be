from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gureum.env import Env
from gureum.hypervisors.qemu.cgroup import Cgroups
from gureum.hypervisors.qemu.hypervisor import QemuHypervisor
from gureum.hypervisors.qemu.process import marked_processes

from . import guest


@pytest.fixture(scope="session")
def guest_files(pytestconfig: pytest.Config) -> guest.GuestFiles:
    return guest.build(Path(pytestconfig.cache.mkdir("guest")))


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    """Ends whatever still runs there, and fails the test if that is more than what it was told to leave."""
    if os.geteuid() != 0 or shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs root and qemu-system-x86_64")
    directory = tmp_path / "run"
    yield directory
    machines = directory / "machines"
    for identity in marked_processes(machines):
        os.kill(identity.pid, signal.SIGKILL)
        with_child_reaped(identity.pid)
    if machines.exists():
        for entry in machines.iterdir():
            Cgroups().remove(entry.name)


def with_child_reaped(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        fd = os.pidfd_open(pid) if Path(f"/proc/{pid}").exists() else -1
        if fd >= 0:
            os.close(fd)


@pytest.fixture
async def hypervisor(run_dir: Path) -> AsyncIterator[QemuHypervisor]:
    hypervisor = QemuHypervisor(Env(), run_dir)
    await hypervisor.recover()
    yield hypervisor
    for id in list(hypervisor.machines()):
        await hypervisor.remove(id)
    await hypervisor.close()
    assert marked_processes(run_dir / "machines") == {}
