"""The peer has the hardware of the machine that it is compared with, and nothing that only gureum needs."""

import json
from pathlib import Path

import pytest

from gureum.bench.rawqemu import SERIAL_PORT, overlay_disk, plain, same_hardware
from gureum.bench.servers import BenchError
from gureum.hypervisors.base import Disk, MachineConfig, Nic
from gureum.hypervisors.qemu.command import Files, Host, command_line
from gureum.hypervisors.qemu.disks import OpenDisk, OpenLayer
from gureum.images.manifest import ImageManifest
from gureum.san.base import FileDisk, Layer

LAYER = Layer(path="/pool/top.qcow2", format="qcow2")
MANIFEST = ImageManifest(
    name="tiny",
    description="",
    architecture="x86_64",
    machines=("q35",),
    disk="/images/disk.raw",
    disk_format="raw",
    disk_bytes=1 << 30,
    kernel="/images/vmlinux",
    initrd="/images/initrd.img",
)
DISK, CONSOLE = overlay_disk(Path("/raw/disk.qcow2")), Path("/raw/console")


@pytest.fixture
def ours() -> list[str]:
    config = MachineConfig(
        id="i-0123456789abcdef0",
        generation=1,
        vcpus=2,
        memory_bytes=512 << 20,
        kernel="/images/vmlinux",
        initrd="/images/initrd.img",
        cmdline="console=ttyS0 quiet",
        disks=(Disk(volume="vol-1", index=0, source=FileDisk(layers=(LAYER,))),),
        nics=(Nic(interface="eni-1", mac="0a:00:00:00:00:01", index=0, fd=9),),
    )
    files = Files(monitor=3, console=5, console_log=6, agent=9, kernel=7, initrd=8)
    layer = OpenLayer(10, LAYER, (11, 12), True, True)
    opened = {"vol-1": OpenDisk(volume="vol-1", number=10, layers=(layer,))}
    return command_line(
        Host("/usr/bin/qemu-system-x86_64", "tcg", "qemu64"), config, "pc-q35-7.2", "g", files, opened, {}
    )


def values(command: list[str], option: str) -> list[str]:
    return [command[place + 1] for place, word in enumerate(command) if word == option]


def test_same_machine_and_devices(ours: list[str]) -> None:
    raw = same_hardware(ours, MANIFEST, DISK, CONSOLE)
    for option in ("-machine", "-accel", "-cpu", "-smp", "-m", "-append", "-smbios"):
        assert values(raw, option) == values(ours, option) != []
    devices = [json.loads(value) for value in values(ours, "-device") if SERIAL_PORT not in value]
    raw_devices = [json.loads(value) for value in values(raw, "-device")]
    assert [{**device, "drive": ""} for device in devices] == [
        {**device, "drive": ""} for device in raw_devices
    ]
    assert [device["drive"] for device in raw_devices if "drive" in device] == ["root"]


def test_boots_the_same_files_from_where_they_are(ours: list[str]) -> None:
    raw = same_hardware(ours, MANIFEST, DISK, CONSOLE)
    assert values(raw, "-kernel") == ["/images/vmlinux"]
    assert values(raw, "-initrd") == ["/images/initrd.img"]
    assert values(raw, "-drive") == ["if=none,id=root,format=qcow2,file=/raw/disk.qcow2"]
    assert values(raw, "-netdev") == ["user,id=eni-1.tap"]
    assert values(raw, "-serial") == ["file:/raw/console"]


@pytest.mark.parametrize("variant", [same_hardware, plain])
def test_inherits_nothing(ours: list[str], variant: object) -> None:
    assert callable(variant)
    said = " ".join(variant(ours, MANIFEST, DISK, CONSOLE))
    assert [
        word for word in ("fd=", "/fd/", "-add-fd", "fdset", "-sandbox", "-chardev") if word in said
    ] == []


def test_what_is_not_understood_is_refused(ours: list[str]) -> None:
    with pytest.raises(BenchError, match="-device"):
        same_hardware([*ours, "-device"], MANIFEST, DISK, CONSOLE)
