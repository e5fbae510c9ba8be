"""Starting a machine's process: opens all it needs, then spawns it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from gureum.errors import HypervisorError
from gureum.hypervisors.base import MachineConfig
from gureum.hypervisors.qemu.cgroup import Cgroups, Limits
from gureum.hypervisors.qemu.command import TRANSLATION_MIB, Files, Host, command_line
from gureum.hypervisors.qemu.disks import FIRST_LAYER, OpenDisk, open_disk
from gureum.hypervisors.qemu.growth import MIB
from gureum.hypervisors.qemu.process import confined, spawn
from gureum.hypervisors.qemu.rbd import memory_file
from gureum.hypervisors.qemu.record import MachineFiles, Saved
from gureum.migrationspec import Room

PROCESS_MEMORY_BYTES = 256 * MIB
"""What a QEMU needs beside the guest's memory and translated code: code, buffers, page cache in reach of its
limit.
"""
PIDS_PER_MACHINE = 256

PROCESS_MEMORY_NETWORK_BYTES = 512 * MIB
PIDS_NETWORK = 1024
"""A disk of a cluster takes 15 threads and 8 MiB when it is idle, and more with data on its way."""

PAGE_BYTES, SHADOW_PAGE_BYTES = 4096, 10
"""What KVM keeps of each page that a guest may have, once that has guests of its own (or where the CPU has no
nested paging): where it is mapped, 8 bytes, and who watches writes to it, 2 bytes. It counts as the
machine's, also of room that was never used.
"""

KVM_DEVICE = Path("/dev/kvm")


class KvmAccess(NamedTuple):
    """How an unprivileged process gets at /dev/kvm: by a group of it, or by a node in its own mount view."""

    groups: tuple[int, ...] = ()
    node: str = ""


def kvm_access(run_dir: Path) -> KvmAccess:
    status = KVM_DEVICE.stat()
    if status.st_mode & 0o006 == 0o006:
        return KvmAccess()
    if status.st_gid != 0 and status.st_mode & 0o060 == 0o060:
        return KvmAccess(groups=(status.st_gid,))
    node = run_dir / "kvm"
    if not node.exists():
        os.mknod(node, stat.S_IFCHR | 0o666, status.st_rdev)
        node.chmod(0o666)
    return KvmAccess(node=str(node))


def launch(
    files: MachineFiles,
    saved: Saved,
    config: MachineConfig,
    host: Host,
    kvm: KvmAccess,
    cgroups: Cgroups,
    lock: int,
) -> tuple[int, dict[str, OpenDisk]]:
    """Spawn the machine's process. Returns its pid, and the disks it was given (closed here)."""
    with ExitStack() as stack:
        disks = _open_disks(config, stack)
        opened = _open_files(files, config, stack)
        secrets = _open_secrets(disks.values(), stack)
        command = command_line(host, config, saved.machine_type, saved.vmgenid, opened, disks, secrets)
        inherited = [fd for fd in opened if fd >= 0] + [nic.fd for nic in config.nics] + [lock]
        inherited += [file.fd for disk in disks.values() for file in disk.files]
        inherited += [disk.remote.conf for disk in disks.values() if disk.remote is not None]
        inherited += secrets.values()
        memory_bytes = config.memory_bytes
        if config.incoming is not None:
            memory_bytes = max(memory_bytes, config.incoming.layout.memory_bytes)
        limits = limits_of(config.vcpus, memory_bytes, host.accelerator, host.network, saved.room)
        joins = cgroups.create(saved.group or files.id, limits)
        confinement = confined(saved.uid, kvm.groups, command)
        pid = spawn(files, confinement, joins, inherited, kvm.node, network=host.network)
        return pid, disks


def limits_of(
    vcpus: int, memory_bytes: int, accelerator: str, network: bool, room: Room | None = None
) -> Limits:
    """Of the process of a machine with so many vCPUs and so much memory. ``room``: what it may grow to."""
    most_bytes = max(memory_bytes, room.memory_max_bytes if room is not None else 0)
    memory_bytes += PROCESS_MEMORY_NETWORK_BYTES if network else PROCESS_MEMORY_BYTES
    if accelerator == "tcg":
        memory_bytes += TRANSLATION_MIB * MIB
    else:
        memory_bytes += most_bytes // PAGE_BYTES * SHADOW_PAGE_BYTES
    return Limits(vcpus, memory_bytes, PIDS_NETWORK if network else PIDS_PER_MACHINE)


def _open_disks(config: MachineConfig, stack: ExitStack) -> dict[str, OpenDisk]:
    disks: dict[str, OpenDisk] = {}
    number = FIRST_LAYER
    for disk in sorted(config.disks, key=lambda disk: disk.index):
        opened = open_disk(disk, number)
        stack.callback(opened.close)
        disks[disk.volume] = opened
        number = opened.last_number + 1
    return disks


def _open_secrets(disks: Iterable[OpenDisk], stack: ExitStack) -> dict[str, int]:
    """By the ids of secret objects, open files in memory that hold them."""
    secrets: dict[str, int] = {}
    for disk in disks:
        for id, secret in disk.secrets.items():
            secrets[id] = memory_file("secret", str(secret["data"]))
            stack.callback(os.close, secrets[id])
    return secrets


def _open_files(files: MachineFiles, config: MachineConfig, stack: ExitStack) -> Files:
    def keep(fd: int) -> int:
        stack.callback(os.close, fd)
        return fd

    return Files(
        monitor=keep(files.listen(files.qmp)),
        console=keep(files.listen(files.console)),
        console_log=keep(files.open_console_log()),
        agent=keep(files.listen(files.agent)),
        kernel=keep(_open_boot_file(config.kernel)) if config.kernel else -1,
        initrd=keep(_open_boot_file(config.initrd)) if config.initrd else -1,
    )


def _open_boot_file(path: str) -> int:
    """QEMU opens it again through the descriptor, which the file's own mode has to allow (not its
    directories').
    """
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise HypervisorError(f"cannot open {path}: {error.strerror}") from error
    if not os.fstat(fd).st_mode & 0o004:
        os.close(fd)
        raise HypervisorError(f"{path} must be readable for everyone (chmod o+r)")
    return fd
