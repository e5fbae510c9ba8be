from __future__ import annotations

import itertools
import json
import uuid
from pathlib import Path

import msgspec
import pytest

from gureum.errors import HypervisorError
from gureum.hypervisors.base import Disk, Incoming, MachineConfig, Nic
from gureum.hypervisors.qemu.command import (
    HOTPLUG_BUS,
    Files,
    Host,
    command_line,
    hotplug_place,
    system_uuid,
)
from gureum.hypervisors.qemu.disks import OpenDisk, OpenLayer
from gureum.hypervisors.qemu.growth import reserves_all
from gureum.hypervisors.qemu.nics import NIC_BUS, device_name, parse_device
from gureum.migrationspec import MachineLayout, Room
from gureum.san.base import FileDisk, Layer

ID = "i-0123456789abcdef0"
TOP = Layer(path="/pool/a,b.qcow2", format="qcow2")
BASE = Layer(path="/pool/base.raw", format="raw")
DISK = Disk(volume="vol-0123456789abcdef0", index=0, source=FileDisk(layers=(TOP, BASE)))
CONFIG = MachineConfig(id=ID, generation=1, vcpus=2, memory_bytes=512 << 20, disks=(DISK,))
FILES = Files(monitor=3, console=5, console_log=6, agent=9, kernel=7, initrd=8)
TOP_LAYER, BASE_LAYER = OpenLayer(10, TOP, (20, 21), True, True), OpenLayer(11, BASE, (22,), False, False)
OPENED = OpenDisk(volume=DISK.volume, number=10, layers=(TOP_LAYER, BASE_LAYER))


def command(config: MachineConfig, machine: str = "pc-q35-7.2", accelerator: str = "kvm") -> list[str]:
    host = Host("/usr/bin/qemu", accelerator, "host", tsc_khz=2_000_000)
    return command_line(host, config, machine, "guid", FILES, {DISK.volume: OPENED}, {})


def values(arguments: list[str], option: str) -> list[str]:
    return [value for name, value in itertools.pairwise(arguments) if name == option]


def devices(arguments: list[str]) -> dict[str, dict[str, object]]:
    return {device["id"]: device for device in map(json.loads, values(arguments, "-device"))}


def test_confinement_is_always_on() -> None:
    arguments = command(CONFIG)
    (sandbox,) = values(arguments, "-sandbox")
    assert sandbox == "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    assert "-nodefaults" in arguments
    assert values(arguments, "-mon") == ["chardev=monitor,mode=control"]
    assert "-no-user-config" in arguments
    assert not [argument for argument in arguments if "path=" in argument or "tcp:" in argument]


GROWING = msgspec.structs.replace(CONFIG, threads=2, vcpus_max=8, memory_max_bytes=2 << 30)


def test_room_to_grow() -> None:
    arguments = command(GROWING)
    assert values(arguments, "-smp") == ["2,maxcpus=8,sockets=1,cores=4,threads=2"]
    assert values(arguments, "-m") == ["524288K,maxmem=2097152K"]
    [backend] = map(json.loads, values(arguments, "-object"))
    assert (backend["size"], backend["reserve"]) == ((2 << 30) - (512 << 20), False)
    memory = devices(arguments)["memory"]
    assert (memory["memdev"], memory["requested-size"]) == (backend["id"], 0)
    places = [(each.get("bus"), each.get("addr")) for each in devices(arguments).values() if "addr" in each]
    assert len(places) == len(set(places))
    arguments = command(GROWING, accelerator="tcg")
    assert values(arguments, "-smp") == ["2,maxcpus=8,sockets=1,cores=8,threads=1"]
    assert values(arguments, "-m") == ["524296K,maxmem=2097160K"]


@pytest.mark.parametrize("machine", ["pc-q35-7.2", "microvm"])
def test_no_room_to_grow(machine: str) -> None:
    config = msgspec.structs.replace(CONFIG if machine != "microvm" else GROWING, kernel="/k", disks=())
    arguments = command(config, machine, "tcg")
    assert values(arguments, "-smp") == ["2,sockets=1,cores=2,threads=1"]
    assert values(arguments, "-m") == ["524296K"]
    assert "memory" not in devices(arguments)


def test_room_is_that_of_the_host_that_it_comes_from() -> None:
    """It may have another type by now, of another size."""
    room = Room(threads=2, vcpus_max=4, memory_bytes=256 << 20, memory_max_bytes=1 << 30)
    layout = MachineLayout(
        type="q", version="1", cpu="c", host_cpu="c", vcpus=3, memory_bytes=512 << 20, room=room
    )
    incoming = Incoming(migration="m", secret=b"", listen="::1", layout=layout)
    arguments = command(msgspec.structs.replace(GROWING, disks=(), incoming=incoming))
    assert values(arguments, "-smp") == ["3,maxcpus=4,sockets=1,cores=2,threads=2"]
    assert values(arguments, "-m") == ["262144K,maxmem=1048576K"]
    still = msgspec.structs.replace(incoming, layout=msgspec.structs.replace(layout, room=None))
    arguments = command(msgspec.structs.replace(GROWING, disks=(), incoming=still))
    assert values(arguments, "-m") == ["524288K"]


def test_backing_chain_is_explicit() -> None:
    arguments = command(CONFIG)
    nodes = [json.loads(node) for node in values(arguments, "-blockdev")]
    assert [node["node-name"] for node in nodes] == [
        "vol-0123456789abcdef0.11f",
        "vol-0123456789abcdef0.11",
        "vol-0123456789abcdef0.10f",
        "vol-0123456789abcdef0.10",
    ]
    base_file, base, top_file, top = nodes
    assert (base["read-only"], base_file["read-only"], base_file["cache"]["direct"]) == (True, True, False)
    assert (top["read-only"], top_file["read-only"], top_file["cache"]["direct"]) == (False, False, True)
    assert top["backing"] == base["node-name"]
    assert {node["filename"] for node in (base_file, top_file)} == {"/dev/fdset/10", "/dev/fdset/11"}
    assert "fd=20,set=10,opaque=/pool/a,,b.qcow2" in values(arguments, "-add-fd")


def test_last_layer_has_no_backing_file() -> None:
    """What the header of a qcow2 file names is never opened."""
    alone = msgspec.structs.replace(DISK, source=FileDisk(layers=(TOP,)))
    config = msgspec.structs.replace(CONFIG, disks=(alone,))
    host = Host("/usr/bin/qemu", "kvm", "host")
    opened = msgspec.structs.replace(OPENED, layers=(TOP_LAYER,))
    arguments = command_line(host, config, "pc-q35-7.2", "guid", FILES, {DISK.volume: opened}, {})
    top = json.loads(values(arguments, "-blockdev")[-1])
    assert top["backing"] is None


@pytest.mark.parametrize(
    ("vcpus", "threads", "topology"),
    [
        (4, 2, "4,sockets=1,cores=2,threads=2"),
        (4, 1, "4,sockets=1,cores=4,threads=1"),
        (1, 2, "1,sockets=1,cores=1,threads=1"),
    ],
)
def test_cores_and_threads(vcpus: int, threads: int, topology: str) -> None:
    config = msgspec.structs.replace(CONFIG, vcpus=vcpus, threads=threads)
    assert values(command(config), "-smp") == [topology]
    assert values(command(config, accelerator="tcg"), "-smp") == [
        f"{vcpus},sockets=1,cores={vcpus},threads=1"
    ]


def test_root_disk() -> None:
    device = devices(command(CONFIG))["vol-0123456789abcdef0.10"]
    assert device["serial"] == "vol0123456789abcdef0"
    assert device["bootindex"] == 0
    assert device["bus"] == "pcie.0"
    assert (device["werror"], device["rerror"]) == ("enospc", "report")


def test_kernel_boot() -> None:
    config = msgspec.structs.replace(CONFIG, kernel="/k", initrd="/i", cmdline="quiet")
    arguments = command(config)
    assert values(arguments, "-kernel") == ["/proc/self/fd/7"]
    assert values(arguments, "-initrd") == ["/proc/self/fd/8"]
    assert values(arguments, "-append") == ["quiet"]
    assert values(command(config, accelerator="tcg"), "-append") == ["quiet no_timer_check"]


def test_microvm() -> None:
    config = msgspec.structs.replace(CONFIG, kernel="/k")
    arguments = command(config, "microvm", "tcg")
    assert {device["driver"] for device in devices(arguments).values()} == {
        "virtio-balloon-device",
        "virtio-rng-device",
        "virtio-blk-device",
    }
    assert values(arguments, "-append") == ["no_timer_check tsc_early_khz=2000000"]
    with pytest.raises(HypervisorError, match="kernel"):
        command(CONFIG, "microvm")


def test_nic() -> None:
    nic = Nic(interface="eni-1", mac="02:00:00:00:00:01", index=0, fd=30, mtu=1450)
    arguments = command(msgspec.structs.replace(CONFIG, nics=(nic,)))
    assert values(arguments, "-netdev") == ["tap,id=eni-1.tap,fd=30,vhost=off"]
    device = devices(arguments)["eni-1"]
    assert (device["mac"], device["host_mtu"], device["romfile"]) == (nic.mac, 1450, "")
    assert (device["bus"], device["addr"]) == ("pcie.0", "0x2")


def test_a_machine_from_another_host_is_made_as_it_is_there() -> None:
    """Held, and with each device in the slot that it has there, whatever its index says."""
    layout = MachineLayout(
        type="pc-q35-7.2",
        version="7.2",
        cpu="host",
        host_cpu="kvm",
        disks={DISK.volume: (HOTPLUG_BUS, 5)},
        nics={"eni-1": (NIC_BUS, 7), "eni-2": ("pcie.0", 2)},
    )
    nics = tuple(Nic(interface=f"eni-{n}", mac=f"0a:00:00:00:00:0{n}", index=n - 1, fd=n) for n in (1, 2))
    incoming = Incoming(migration="mig-1", secret=bytes(range(32)), listen="::1", layout=layout)
    arguments = command(msgspec.structs.replace(CONFIG, nics=nics, incoming=incoming))
    assert values(arguments, "-incoming") == ["defer"]
    assert "-S" in arguments
    assert "num-queues" not in devices(arguments)[f"{DISK.volume}.10"]
    told = msgspec.structs.replace(incoming, layout=msgspec.structs.replace(layout, queues={DISK.volume: 3}))
    disk = devices(command(msgspec.structs.replace(CONFIG, nics=nics, incoming=told)))[f"{DISK.volume}.10"]
    assert disk["num-queues"] == 3
    places = {id: (device.get("bus"), device.get("addr")) for id, device in devices(arguments).items()}
    assert places[f"{DISK.volume}.10"] == (HOTPLUG_BUS, "0x5")
    assert (places["eni-1"], places["eni-2"]) == ((NIC_BUS, "0x7"), ("pcie.0", "0x2"))
    assert not [argument for argument in arguments if incoming.secret.hex() in argument]
    assert "-incoming" not in command(CONFIG)


def test_a_machine_has_its_watchdog_unless_it_comes_without() -> None:
    """What an earlier gureum started has none: with one more device it would not be the same machine."""
    assert devices(command(CONFIG))["watchdog"]["driver"] == "i6300esb"
    assert "watchdog=pause" in values(command(CONFIG), "-action")[0]
    layout = MachineLayout(
        type="pc-q35-7.2", version="7.2", cpu="host", host_cpu="kvm a", disks={DISK.volume: ("pcie.0", 8)}
    )
    for has in (False, True):
        layout = msgspec.structs.replace(layout, watchdog=has)
        incoming = Incoming(migration="mig-1", secret=bytes(32), listen="::1", layout=layout)
        arguments = command(msgspec.structs.replace(CONFIG, incoming=incoming))
        assert ("watchdog" in devices(arguments)) == has


def test_the_memory_of_an_emulated_machine_is_uneven() -> None:
    """Else QEMU loses what the guest writes while it migrates."""
    kib = 512 * 1024
    assert values(command(CONFIG, accelerator="kvm"), "-m") == [f"{kib}K"]
    assert values(command(CONFIG, accelerator="tcg"), "-m") == [f"{kib + 8}K"]


def test_only_the_first_nic_cannot_be_unplugged() -> None:
    """Nothing can on the root bus of a q35."""
    nic = Nic(interface="eni-2", mac="02:00:00:00:00:02", index=3, fd=31)
    device = devices(command(msgspec.structs.replace(CONFIG, nics=(nic,))))["eni-2"]
    assert (device["bus"], device["addr"]) == (NIC_BUS, "0x3")
    with pytest.raises(HypervisorError, match="at most"):
        command(msgspec.structs.replace(CONFIG, nics=(msgspec.structs.replace(nic, index=32),)))


def test_names_of_nics() -> None:
    for number in (0, 7):
        assert parse_device(device_name("eni-0123456789abcdef0", number)) == ("eni-0123456789abcdef0", number)
    assert parse_device("balloon") is None
    assert parse_device("vol-0123456789abcdef0.10") is None


def test_system_uuid_is_the_instances() -> None:
    assert system_uuid(ID).startswith("ec2")
    assert str(uuid.UUID(system_uuid(ID))) == system_uuid(ID)
    assert system_uuid(ID) != system_uuid("i-1")


def test_hotplug_slots() -> None:
    assert hotplug_place(31)["addr"] == "0x1f"
    for slot in (0, 32):
        with pytest.raises(HypervisorError, match="at most"):
            hotplug_place(slot)


def test_a_kernel_that_counts_what_is_not_reserved(tmp_path: Path) -> None:
    setting = tmp_path / "overcommit_memory"
    assert not reserves_all(setting)
    for text, strict in (("0\n", False), ("1\n", False), ("2\n", True)):
        setting.write_text(text)
        assert reserves_all(setting) is strict
