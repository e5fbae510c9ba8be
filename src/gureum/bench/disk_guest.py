"""A tiny guest that measures its disk with fio, told to by its serial console.

Its kernel and first programs are the tiny image's. fio is this machine's, with the libraries that it needs,
in a second archive behind the image's initial RAM file system: Linux unpacks both.
"""

from __future__ import annotations

import asyncio
import io
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from gureum.bench.servers import BenchError
from gureum.hypervisors.base import Disk, MachineConfig
from gureum.hypervisors.qemu.hypervisor import QemuHypervisor
from gureum.hypervisors.qemu.monitor import connect_socket
from gureum.images.cpio import CpioWriter
from gureum.images.manifest import ImageManifest
from gureum.san.base import DiskSource

ID = "i-bench"
VOLUME = "vol-bench"
MEMORY_BYTES = 768 << 20
READY = b"disk guest is ready"
DONE = b"-done-"
BOOT_SECONDS = 90.0
ANSWER_SECONDS = 60.0
LDD_SECONDS = 10

INIT = f"""#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t sysfs sys /sys
while read -r module; do /bin/busybox insmod /modules/$module.ko; done </modules/pci
exec </dev/ttyS0 >/dev/ttyS0 2>&1
/bin/busybox stty -echo
echo "{READY.decode()}"
while read -r line; do $line; echo "{DONE.decode()}"; done
"""


class Load(NamedTuple):
    """``operation`` is read or write; ``random``: at random places, else one after the other."""

    operation: str
    random: bool
    block_bytes: int
    depth: int

    @property
    def name(self) -> str:
        size = (
            f"{self.block_bytes >> 10} KiB" if self.block_bytes < 1 << 20 else f"{self.block_bytes >> 20} MiB"
        )
        return f"{size} {'random' if self.random else 'sequential'} {self.operation}, depth {self.depth}"


def initrd(manifest: ImageManifest, path: Path) -> None:
    """Write the guest's initial RAM file system. Raises BenchError without fio, or a tiny image."""
    fio = shutil.which("fio")
    if fio is None:
        raise BenchError("fio is not installed (Debian package fio)")
    if manifest.initrd is None:
        raise BenchError("the image has no initial RAM file system")
    archive = io.BytesIO()
    writer = CpioWriter(archive)
    files = _with_libraries(fio)
    directories = {str(parent) for file in files for parent in Path(file).parents} - {"/"}
    for directory in sorted({*directories, "/tmp"}):
        writer.directory(directory.lstrip("/"))
    for inside, outside in files.items():
        writer.file(inside.lstrip("/"), Path(outside).read_bytes(), 0o755)
    writer.file("disk-guest", INIT.encode(), 0o755)
    writer.close()
    first = Path(manifest.initrd).read_bytes()
    path.write_bytes(first + bytes(-len(first) % 512) + archive.getvalue())
    path.chmod(0o644)


def _with_libraries(program: str) -> dict[str, str]:
    """By where a program's loader looks for them, it and the libraries that it needs."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=True, timeout=LDD_SECONDS)
    found = re.findall(r"(/\S+) \(0x", done.stdout)
    return {"/bin/fio": program, **{path: str(Path(path).resolve()) for path in found}}


class DiskGuest:
    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self._reader = reader
        self._writer = writer

    async def run(self, load: Load, seconds: float) -> float:
        """Requests a second."""
        kind = ("rand" if load.random else "") + load.operation
        await self._say(
            f"fio --name=disk --filename=/dev/vda --rw={kind} --bs={load.block_bytes} --iodepth={load.depth} "
            f"--ioengine=libaio --direct=1 --thread --time_based --runtime={seconds:.0f} --randrepeat=0 "
            "--output-format=terse --terse-version=3"
        )
        answer = (await self._until(DONE, ANSWER_SECONDS + seconds)).decode(errors="replace")
        for line in answer.splitlines():
            fields = line.strip().split(";")
            if fields[0] == "3" and len(fields) > 48:
                # fio(1), "terse output": requests a second of reads, and of writes.
                return float(fields[7 if load.operation == "read" else 48])
        raise BenchError(f"fio in the guest did not say what it measured: {answer.strip()[-400:]}")

    async def _say(self, line: str) -> None:
        self._writer.write(line.encode() + b"\n")
        await self._writer.drain()

    async def _until(self, mark: bytes, seconds: float) -> bytes:
        try:
            async with asyncio.timeout(seconds):
                return await self._reader.readuntil(mark)
        except (TimeoutError, asyncio.IncompleteReadError) as error:
            raise BenchError(f"the guest did not answer in {seconds:.0f} s") from error


@asynccontextmanager
async def disk_guest(
    hypervisor: QemuHypervisor,
    manifest: ImageManifest,
    initrd_path: Path,
    source: DiskSource,
    key: bytes = b"",
) -> AsyncIterator[DiskGuest]:
    """A machine of ours with this disk, ready to measure it; removed at the end."""
    if manifest.kernel is None:
        raise BenchError("the image has no kernel to boot directly")
    config = MachineConfig(
        id=ID,
        generation=1,
        vcpus=1,
        memory_bytes=MEMORY_BYTES,
        kernel=manifest.kernel,
        initrd=str(initrd_path),
        cmdline="console=ttyS0 quiet rdinit=/disk-guest",
        disks=(Disk(volume=VOLUME, index=0, source=source, key=key),),
    )
    await hypervisor.start(config)
    try:
        socket, pid = hypervisor.console_socket(ID), hypervisor.process_id(ID)
        if socket is None or pid is None:
            raise BenchError("the guest has ended")
        reader, writer = await asyncio.open_connection(sock=connect_socket(socket))
        try:
            async with asyncio.timeout(BOOT_SECONDS):
                while READY not in await hypervisor.console(ID, 1 << 16):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            yield DiskGuest(pid, reader, writer)
        except TimeoutError:
            text = (await hypervisor.console(ID, 2000)).decode(errors="replace")
            raise BenchError(f"the guest did not start: {text}") from None
        finally:
            writer.close()
    finally:
        await hypervisor.remove(ID)
