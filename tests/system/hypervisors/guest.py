"""A guest for tests: Debian's cloud kernel and one shell on the serial console."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import io
import os
import re
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from gureum.hypervisors.base import Disk, Hypervisor, MachineConfig
from gureum.hypervisors.qemu.monitor import connect_socket
from gureum.images.cpio import CpioWriter
from gureum.images.userland import Modules, locate
from gureum.san.base import DiskSource, FileDisk, Layer

ID = f"i-{int(os.environ['GUREUM_TEST_INDEX']):017x}"
"""Control groups are named by it: those of tests that run at once are others."""
MIB = 1024 * 1024
BOOT_SECONDS = 120.0
COMMAND_SECONDS = 60.0

MODULES = (
    "virtio_pci",
    "virtio_mmio",
    "virtio_mem",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "button",
    "evdev",
    "pvpanic-pci",
)

# The power button is a key on an input device: any event there powers the guest off, unless /deaf exists.
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
echo online_movable >/sys/devices/system/memory/auto_online_blocks
for module in MODULES; do insmod /modules/$module.ko; done
mdev -s
for event in $(ls /dev/input/event*); do
  (while head -c 24 $event >/dev/null; do [ -e /deaf ] || poweroff -f; done) &
done
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo
echo "guest is ready"
while IFS= read -r line; do printf '%s\\n' "$line"; done | sh
"""

# What Linux's driver i6300esb does, which this kernel has not: two periods of a second each.
FEED_ONCE = """
for device in /sys/bus/pci/devices/*; do
  if [ $(cat $device/device) = 0x25ab ]; then found=$device; fi
done
[ -n "$found" ] && echo 1 >$found/enable
read bar rest <$found/resource
at() { devmem $((bar + $1)) $2 $3; }
unlocked() { at 12 16 0x80; at 12 16 0x86; at $*; }
printf '\\003\\000' | dd of=$found/config bs=2 seek=48 conv=notrunc 2>/dev/null
unlocked 0 32 0x400
unlocked 4 32 0x400
printf '\\002' | dd of=$found/config bs=1 seek=104 conv=notrunc 2>/dev/null
unlocked 12 16 0x100
"""


RECIPE = hashlib.sha256((INIT + " ".join(MODULES)).encode()).hexdigest()[:8]


class GuestFiles:
    def __init__(self, directory: Path) -> None:
        self.kernel = directory / "vmlinuz"
        self.initrd = directory / "initrd"


def build(directory: Path) -> GuestFiles:
    """Kernel and initramfs in ``directory``, built unless they are there."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        files = GuestFiles(directory)
        if not files.kernel.exists():
            _build(directory, files)
        return files


def _build(directory: Path, files: GuestFiles) -> None:
    """The kernel comes last."""
    depends = _apt(directory, "apt-cache", "depends", "linux-image-cloud-amd64")
    names = re.findall(r"Depends: (linux-image-\S+)", depends)
    # Not this machine's busybox: mostly that is one that needs a C library.
    _apt(directory, "apt-get", "download", names[0], "busybox-static")
    root = directory / "root"
    subprocess.run(["rm", "-rf", root], check=True)  # of one that was killed
    for package in directory.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, root], check=True)
        package.unlink()
    files.initrd.write_bytes(_initramfs(root))
    next((root / "boot").glob("vmlinuz-*")).rename(files.kernel)
    subprocess.run(["rm", "-rf", root], check=True)


def _apt(directory: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}(without package lists: apt-get update)"
    return done.stdout


def _initramfs(root: Path) -> bytes:
    modules = Modules(root).closure(MODULES)
    archive = io.BytesIO()
    writer = CpioWriter(archive)
    for name in ("bin", "dev", "proc", "sys", "modules"):
        writer.directory(name)
    writer.file("bin/busybox", locate(root, "bin/busybox").read_bytes(), 0o755)
    writer.file("init", INIT.replace("MODULES", " ".join(path.stem for path in modules)).encode(), 0o755)
    for path in modules:
        writer.file(f"modules/{path.name}", path.read_bytes())
    writer.close()
    return archive.getvalue()


def raw_disk(path: Path, size_bytes: int) -> FileDisk:
    with open(path, "wb") as file:
        file.truncate(size_bytes)
    return FileDisk(layers=(Layer(path=str(path), format="raw"),))


def qcow2(path: Path, size_bytes: int) -> Layer:
    """An empty overlay that names no backing file."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(size_bytes)], check=True)
    return Layer(path=str(path), format="qcow2")


def volume(number: int) -> str:
    return f"vol-{number:017x}"


def disk(index: int, source: DiskSource) -> Disk:
    return Disk(volume=volume(index), index=index, source=source)


def interface(number: int) -> str:
    return f"eni-{number:017x}"


def mac(number: int) -> str:
    return f"0a:00:00:00:00:{number:02x}"


def tap(number: int) -> str:
    """The name of the test's tap for an interface."""
    return f"enitest{os.getpid() % 100000}.{number}"


def linux(
    files: GuestFiles, id: str, *disks: Disk, machine: str = "q35", generation: int = 1
) -> MachineConfig:
    return MachineConfig(
        id=id,
        generation=generation,
        vcpus=1,
        memory_bytes=192 * MIB,
        machine=machine,
        kernel=str(files.kernel),
        initrd=str(files.initrd),
        cmdline="console=ttyS0 quiet reboot=t panic=0",
        disks=disks,
    )


def bare(id: str, *disks: Disk, generation: int = 1) -> MachineConfig:
    """A machine whose firmware finds nothing to boot."""
    return MachineConfig(id=id, generation=generation, vcpus=1, memory_bytes=64 * MIB, disks=disks)


class Shell:
    """The guest's shell, through the console socket as a person would."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._count = 0

    async def run(self, command: str, seconds: float = COMMAND_SECONDS) -> str:
        """The command's output; it must succeed."""
        self._count += 1
        mark = f"done-{self._count}-"
        self._writer.write(f"{{ {command}\n}}; echo 'done'-{self._count}-$?-\n".encode())
        async with asyncio.timeout(seconds):
            output = (await self._reader.readuntil(mark.encode())).decode(errors="replace")
            status = (await self._reader.readuntil(b"-")).decode()
        output = output.removesuffix(mark).replace("\r", "").strip()
        assert status == "0-", f"{command}: {status} {output}"
        return output

    def send(self, command: str) -> None:
        self._writer.write(f"{command}\n".encode())


@asynccontextmanager
async def shell(hypervisor: Hypervisor, id: str) -> AsyncIterator[Shell]:
    socket = hypervisor.console_socket(id)
    assert socket is not None
    reader, writer = await asyncio.open_connection(sock=connect_socket(socket))
    try:
        yield Shell(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def booted(hypervisor: Hypervisor, id: str, times: int = 1) -> None:
    async with asyncio.timeout(BOOT_SECONDS):
        while (await hypervisor.console(id, 1 << 20)).count(b"guest is ready") < times:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
