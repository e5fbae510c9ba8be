"""The storage cluster fails under a running machine."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import hashlib
import os
from collections.abc import Iterator

import pytest

from gureum.errors import PoolError
from gureum.hostspec import MachineState
from gureum.hypervisors import messages
from gureum.hypervisors.qemu.hypervisor import QemuHypervisor

from ..san.ceph_cluster import CephCluster
from .guest import ID, MIB, GuestFiles, Shell, booted, disk, linux, shell, until, volume
from .images import Images

pytestmark = [pytest.mark.qemu, pytest.mark.root, pytest.mark.ceph]


async def write(guest: Shell) -> tuple[str, asyncio.Task[str]]:
    """4 MiB of noise on their way to the disk; their digest."""
    await guest.run("dd if=/dev/urandom of=/data bs=1M count=4 status=none")
    digest = (await guest.run("sha256sum </data")).split()[0]
    command = "dd if=/data of=/dev/vda bs=64k oflag=direct conv=fsync status=none"
    return digest, asyncio.create_task(guest.run(command, seconds=90))


@pytest.fixture
def osds(ceph: CephCluster) -> Iterator[list[str]]:
    """Whatever the test does to them, they go on after it."""
    names = [name for name in ceph.daemons if name.startswith("osd.")]
    yield names
    for name in names:
        if ceph.runs(name):
            ceph.resume(name)


async def test_cluster_goes_and_comes_back(
    images: Images,
    ceph: CephCluster,
    osds: list[str],
    hypervisor: QemuHypervisor,
    guest_files: GuestFiles,
) -> None:
    """The guest waits, sees no error, and goes on; who asks is told."""
    root = images.create(64 * MIB)
    await hypervisor.start(linux(guest_files, ID, disk(0, root)))
    await booted(hypervisor, ID)
    machine = hypervisor._machines[ID]
    await machine.look_at_storage()
    async with shell(hypervisor, ID) as guest:
        for name in osds:
            ceph.pause(name)
        digest, writing = await write(guest)
        for _ in range(3):
            await asyncio.sleep(0.5)
            await machine.look_at_storage()
        status = hypervisor.machines()[ID]
        assert (status.state, status.message) == (MachineState.running, messages.storage_waits(volume(0)))
        # Another agent learns all it needs meanwhile.
        await hypervisor.close()
        await hypervisor.recover()
        assert hypervisor.machines()[ID].disks == (volume(0),)
        for name in osds:
            ceph.resume(name)
        await writing
    machine = hypervisor._machines[ID]
    for _ in range(2):
        await machine.look_at_storage()
    assert hypervisor.machines()[ID].message == ""
    assert hashlib.sha256(images.content(root, 4 * MIB)).hexdigest() == digest


async def test_powered_off_without_its_cluster(
    images: Images,
    ceph: CephCluster,
    osds: list[str],
    hypervisor: QemuHypervisor,
    guest_files: GuestFiles,
) -> None:
    root, data = images.create(64 * MIB), images.create(64 * MIB)
    await hypervisor.start(linux(guest_files, ID, disk(0, root), disk(1, data)))
    await booted(hypervisor, ID)
    async with shell(hypervisor, ID) as guest:
        for name in osds:
            ceph.pause(name)
        _, writing = await write(guest)
        await asyncio.sleep(0.5)
        async with asyncio.timeout(60):
            await hypervisor.power_off(ID)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    status = hypervisor.machines()[ID]
    assert (status.state, status.message) == (MachineState.off, messages.STOPPED)


async def test_shut_out(
    images: Images, ceph: CephCluster, hypervisor: QemuHypervisor, guest_files: GuestFiles
) -> None:
    """A client on the cluster's blocklist never comes back: the machine has ended."""
    root = images.create(64 * MIB)
    await hypervisor.start(linux(guest_files, ID, disk(0, root)))
    await booted(hypervisor, ID)
    async with shell(hypervisor, ID) as guest:
        await guest.run("dd if=/dev/zero of=/dev/vda bs=1M count=1 conv=fsync status=none")
        watchers = images.rbd("status", root.image, "--format", "json")
        addresses = images.watchers(watchers)
        assert len(addresses) == 1
        ceph.admin("osd blocklist", blocklistop="add", addr=addresses[0])
        _, writing = await write(guest)
        await until(lambda: hypervisor.machines()[ID].state is MachineState.crashed)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    assert hypervisor.machines()[ID].message == messages.STORAGE_SHUT_OUT
    ceph.admin("osd blocklist", blocklistop="rm", addr=addresses[0])


async def waits(hypervisor: QemuHypervisor) -> None:
    """Until the machine is found to wait for its storage."""
    async with asyncio.timeout(60):
        while hypervisor.machines()[ID].message != messages.storage_waits(volume(0)):
            await asyncio.sleep(0.3)
            await hypervisor._machines[ID].look_at_storage()
    assert hypervisor.machines()[ID].state is MachineState.running


async def test_full(
    images: Images, ceph: CephCluster, hypervisor: QemuHypervisor, guest_files: GuestFiles
) -> None:
    """A full pool takes no writes, and fails none: the guest goes on when there is room again."""
    root = images.create(64 * MIB)
    await hypervisor.start(linux(guest_files, ID, disk(0, root)))
    await booted(hypervisor, ID)
    async with shell(hypervisor, ID) as guest:
        await guest.run("dd if=/dev/urandom of=/dev/vda bs=1M count=1 seek=8 conv=fsync status=none")
        try:
            ceph.admin("osd pool set-quota", pool=root.pool, field="max_bytes", val="1000")
            async with asyncio.timeout(60):
                while "POOL_FULL" not in ceph.admin("status")["health"]["checks"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.5)
            digest, writing = await write(guest)
            await waits(hypervisor)
        finally:
            ceph.admin("osd pool set-quota", pool=root.pool, field="max_bytes", val="0")
        await writing
    assert hashlib.sha256(images.content(root, 4 * MIB)).hexdigest() == digest


async def test_pool_is_deleted(
    images: Images, ceph: CephCluster, hypervisor: QemuHypervisor, guest_files: GuestFiles
) -> None:
    """The cluster answers with an error: the machine pauses, and says which disk and why, also to others."""
    settings, keyring = ceph.settings, ceph.cluster.keyring("admin")
    ceph.admin("osd pool create", pool="other", pg_num=1)
    ceph.admin("osd pool application enable", pool="other", app="rbd")
    elsewhere = Images(dataclasses.replace(settings, pool="other", user="admin", keyring=keyring))
    root = elsewhere.create(64 * MIB)
    await hypervisor.start(linux(guest_files, ID, disk(0, root)))
    await booted(hypervisor, ID)
    async with shell(hypervisor, ID) as guest:
        await guest.run("dd if=/dev/zero of=/dev/vda bs=1M count=1 seek=8 conv=fsync status=none")
        ceph.admin("config set", who="mon", name="mon_allow_pool_delete", value="true")
        async with asyncio.timeout(60):
            while "other" in str(ceph.admin("osd pool ls")):
                with contextlib.suppress(PoolError):
                    ceph.admin(
                        "osd pool delete", pool="other", pool2="other", yes_i_really_really_mean_it=True
                    )
                await asyncio.sleep(0.5)
        _, writing = await write(guest)
        await until(lambda: hypervisor.machines()[ID].state is MachineState.paused)
        reason = hypervisor.machines()[ID].message
        # Which of the two depends on how far the daemons have got with it.
        assert reason in {
            messages.storage_failed(volume(0), os.strerror(number)) for number in (errno.EPERM, errno.ENOENT)
        }
        await hypervisor.close()
        await hypervisor.recover()
        assert hypervisor.machines()[ID].message == reason
        await hypervisor.resume(ID)
        await until(lambda: hypervisor.machines()[ID].state is MachineState.paused)
        async with asyncio.timeout(60):
            await hypervisor.power_off(ID)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    assert hypervisor.machines()[ID].message == messages.STOPPED
