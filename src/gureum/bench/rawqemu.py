"""The peer of a launch: QEMU by hand, with the hardware that a machine of ours has.

The command line is taken from a running machine of ours and reduced to what somebody would type: the same
machine type, CPU, memory and devices, the same kernel, initial RAM file system and kernel command line, and
an overlay of the same disk. What is ours alone goes: no sandbox, no user or group of its own, no monitors,
no inherited descriptors, no tap (QEMU's own user network instead). The overlay exists before the clock
starts.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from gureum.bench.servers import BenchError
from gureum.images.manifest import ImageManifest

BARE = ("-nodefaults", "-no-user-config")
KEPT = (
    "-display",
    "-machine",
    "-accel",
    "-cpu",
    "-smp",
    "-m",
    "-uuid",
    "-rtc",
    "-boot",
    "-smbios",
    "-append",
)
SERIAL_PORT = "virtserialport"
"""The guest agent's, whose other end is a socket of ours."""

OVERLAY_SECONDS_MAX = 30
DISK = "root"


def command_of(pid: int) -> list[str]:
    """The command line of a running process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode().split("\0")


def same_hardware(ours: Sequence[str], manifest: ImageManifest, disk: str, console: Path) -> list[str]:
    """The command line of ours, reduced. ``disk``: as -drive has it, "format=raw,file=...".

    Raises BenchError for one that is not understood.
    """
    if manifest.kernel is None or manifest.initrd is None:
        raise BenchError("the image has no kernel to boot directly")
    command = [ours[0]]
    arguments = iter(ours[1:])
    for option in arguments:
        if option in BARE:
            command.append(option)
            continue
        value = next(arguments, None)
        if value is None:
            raise BenchError(f"{option} has no value")
        if option in KEPT:
            command += [option, value]
        elif option == "-device" and json.loads(value)["driver"] != SERIAL_PORT:
            command += [option, _device(value)]
        elif option == "-netdev":
            id = dict(part.partition("=")[::2] for part in value.split(","))["id"]
            command += [option, f"user,id={id}"]
    return [*command, *_own(manifest, disk, console)]


def plain(ours: Sequence[str], manifest: ImageManifest, disk: str, console: Path) -> list[str]:
    """QEMU's own defaults on q35, with the size and the CPU of ours, a virtio disk and a virtio network."""
    sizes = [part for option in ("-accel", "-cpu", "-smp", "-m", "-append") for part in _option(ours, option)]
    return [
        *(ours[0], "-machine", "q35", "-display", "none", *sizes),
        *("-nic", "user,model=virtio-net-pci", "-device", f"virtio-blk-pci,drive={DISK}"),
        *_own(manifest, disk, console),
    ]


def _option(command: Sequence[str], name: str) -> Sequence[str]:
    place = command.index(name)
    return command[place : place + 2]


def overlay_disk(overlay: Path) -> str:
    return f"format=qcow2,file={overlay}"


def _own(manifest: ImageManifest, disk: str, console: Path) -> list[str]:
    return [
        *("-kernel", str(manifest.kernel), "-initrd", str(manifest.initrd)),
        *("-drive", f"if=none,id={DISK},{disk}"),
        *("-serial", f"file:{console}", "-monitor", "none"),
    ]


def _device(value: str) -> str:
    device = json.loads(value)
    if device["driver"].startswith("virtio-blk"):
        device["drive"] = DISK
    return json.dumps(device, separators=(",", ":"))


class RawMachines:
    """So many machines by hand, each with its overlay, ready to be started."""

    def __init__(self, directory: Path, manifest: ImageManifest, count: int) -> None:
        directory.mkdir()
        self.consoles = [directory / f"console-{number}" for number in range(count)]
        self.overlays = [directory / f"disk-{number}.qcow2" for number in range(count)]
        for overlay in self.overlays:
            make_overlay(manifest, overlay)
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, commands: Sequence[Sequence[str]]) -> float:
        """Starts them all at once. Returns when that began (monotonic)."""
        began = time.monotonic()
        for command in commands:
            self._processes.append(
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            )
        return began

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def end(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        for path in (*self.consoles, *self.overlays):
            path.unlink(missing_ok=True)


def make_overlay(manifest: ImageManifest, overlay: Path) -> None:
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", manifest.disk, "-F", manifest.disk_format]
    subprocess.run([*command, str(overlay)], check=True, timeout=OVERLAY_SECONDS_MAX)
