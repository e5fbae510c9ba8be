"""QEMU's command line for a machine. Pure: opens nothing, starts nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gureum.errors import HypervisorError
from gureum.hypervisors.base import Disk, MachineConfig, Nic
from gureum.hypervisors.qemu import growth, nics
from gureum.hypervisors.qemu.disks import OpenDisk, disk_device
from gureum.hypervisors.qemu.guest_agent import PORT
from gureum.hypervisors.qemu.nics import NIC_BUS
from gureum.hypervisors.qemu.node import Node

AGENT = "agent"
"""The character device behind the port of the guest's agent. A microvm has none: devices cost it time."""

CONSOLE_LOG_SET = 1
"""The fdset of the console's log file."""

ROOT_BUS = "pcie.0"
HOTPLUG_BUS = "hotplug"
HOTPLUG_SLOTS = range(1, 32)
"""Slots of the bridge for disks that come and go. Slot 0 is its controller's.

One conventional bridge and not a root port per disk: the guest sees hot-plug through ACPI either way, but 26
root ports lengthen a boot under TCG by a third, and the bridge by nothing.
"""

FIRST_NIC_SLOT, ROOT_DISK_SLOT, BALLOON_SLOT, RNG_SLOT, PANIC_SLOT, AGENT_SLOT = 2, 8, 9, 10, 11, 12
MEMORY_SLOT = 13
WATCHDOG_SLOT = 14
BRIDGE_SLOTS = {HOTPLUG_BUS: 16, NIC_BUS: 17}

TRANSLATION_MIB = 256
"""Bound of TCG's cache of translated code; QEMU's default is up to 1 GiB a machine."""


class Files(NamedTuple):
    """Descriptors that the process inherits."""

    monitor: int
    console: int
    console_log: int
    agent: int
    kernel: int = -1
    initrd: int = -1


class Host(NamedTuple):
    """What of the host goes into a command line. ``cpu`` is a CPU model's name. ``tsc_khz``: see ``tsc``.
    ``network``: the machine reaches what the host reaches, and so disks of a cluster.
    """

    binary: str
    accelerator: str
    cpu: str
    tsc_khz: int = 0
    network: bool = False


def command_line(
    host: Host,
    config: MachineConfig,
    machine: str,
    vmgenid: str,
    files: Files,
    disks: Mapping[str, OpenDisk],
    secrets: Mapping[str, int],
) -> list[str]:
    """``machine`` is the machine type, versioned. ``disks`` has the open disks by volume, ``secrets`` the
    descriptors of what they are opened with.
    """
    micro = machine.startswith("microvm")
    room = growth.room_of(config, micro, host.accelerator)
    arguments = [
        *(host.binary, "-name", f"guest={config.id},debug-threads=on"),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-machine", _machine(machine, micro), "-accel", _accelerator(host.accelerator), "-cpu", host.cpu),
        *("-smp", growth.processors(config, room, host.accelerator)),
        *("-m", growth.memory(config, room, host.accelerator)),
        *("-uuid", system_uuid(config.id), "-rtc", "base=utc,driftfix=slew", "-boot", "strict=on"),
        *("-action", "reboot=reset,shutdown=pause,panic=pause,watchdog=pause"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *_sockets(files),
    ]
    if not micro:
        arguments += ["-chardev", f"socket,id={AGENT},fd={files.agent},server=on,wait=off"]
    arguments += _kernel(config, files, _kernel_options(host, micro))
    if micro and not config.kernel:
        raise HypervisorError(f"{config.id}: a microvm needs a kernel")
    for object in growth.objects(room):
        arguments += ["-object", _json(object)]
    for device in (*_platform(config, micro, vmgenid), *growth.devices(room, _slot(MEMORY_SLOT, micro))):
        arguments += ["-device", _json(device)]
    for nic in config.nics:
        arguments += _nic(nic, micro, _nic_place(config, nic, micro))
    for disk in config.disks:
        boot_index = 0 if disk.index == 0 and not config.kernel else None
        place = _disk_place(config, disk, micro)
        arguments += _disk(disk, disks[disk.volume], secrets, micro, host.network, place, boot_index)
    if not micro:
        arguments += _smbios(config)
    if config.incoming is not None:
        arguments += ["-S", "-incoming", "defer"]
    return arguments


def system_uuid(id: str) -> str:
    """The instance's UUID: always the same, and starts with "ec2", by which guests know where they are."""
    digits = "ec2" + hashlib.sha256(id.encode()).hexdigest()[:29]
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _machine(machine: str, micro: bool) -> str:
    if micro:
        return f"{machine},rtc=on,pit=on,pic=on,isa-serial=on,acpi=on"
    return f"{machine},sata=off,smbus=off,vmport=off,smm=off,i8042=off,usb=off,graphics=off"


def _accelerator(accelerator: str) -> str:
    return f"tcg,thread=multi,tb-size={TRANSLATION_MIB}" if accelerator == "tcg" else accelerator


def _sockets(files: Files) -> list[str]:
    log = f"logfile=/dev/fdset/{CONSOLE_LOG_SET},logappend=on"
    return [
        *("-add-fd", f"fd={files.console_log},set={CONSOLE_LOG_SET},opaque=console"),
        *("-chardev", f"socket,id=monitor,fd={files.monitor},server=on,wait=off"),
        *("-mon", "chardev=monitor,mode=control"),
        *("-chardev", f"socket,id=console,fd={files.console},server=on,wait=off,{log}"),
        *("-serial", "chardev:console"),
    ]


def _kernel_options(host: Host, micro: bool) -> list[str]:
    """What Linux must be told under TCG: on a busy host its checks of timers fail, and it panics or hangs."""
    if host.accelerator != "tcg":
        return []
    frequency = [f"tsc_early_khz={host.tsc_khz}"] if micro and host.tsc_khz else []
    return ["no_timer_check", *frequency]


def _kernel(config: MachineConfig, files: Files, options: list[str]) -> list[str]:
    if not config.kernel:
        return []
    arguments = ["-kernel", f"/proc/self/fd/{files.kernel}"]
    if config.initrd:
        arguments += ["-initrd", f"/proc/self/fd/{files.initrd}"]
    cmdline = " ".join([config.cmdline, *options]).strip()
    return [*arguments, "-append", cmdline] if cmdline else arguments


def _platform(config: MachineConfig, micro: bool, vmgenid: str) -> Iterable[Node]:
    yield {
        "driver": _driver("virtio-balloon", micro),
        "id": "balloon",
        "deflate-on-oom": True,
        "free-page-reporting": True,
        **_slot(BALLOON_SLOT, micro),
    }
    yield {"driver": _driver("virtio-rng", micro), "id": "rng", **_slot(RNG_SLOT, micro)}
    if micro:
        return
    yield {"driver": "virtio-serial-pci", "id": "ports", "max_ports": 2, **_slot(AGENT_SLOT, micro)}
    yield {"driver": "virtserialport", "id": "agent-port", "bus": "ports.0", "chardev": AGENT, "name": PORT}
    yield {"driver": "pvpanic-pci", "id": "panic", **_slot(PANIC_SLOT, micro)}
    if config.incoming is None or config.incoming.layout.watchdog:
        yield {"driver": "i6300esb", "id": "watchdog", **_slot(WATCHDOG_SLOT, micro)}
    yield {"driver": "vmgenid", "id": "generation", "guid": vmgenid}
    for chassis, (bus, slot) in enumerate(BRIDGE_SLOTS.items(), 1):
        yield {
            "driver": "pci-bridge",
            "id": bus,
            "chassis_nr": chassis,
            "shpc": True,  # else the firmware reserves no address space behind an empty bridge
            **_slot(slot, micro),
        }


def _driver(name: str, micro: bool) -> str:
    return f"{name}-device" if micro else f"{name}-pci"


def _slot(slot: int, micro: bool) -> Node:
    return {} if micro else {"bus": ROOT_BUS, "addr": f"{slot:#x}"}


def _nic_place(config: MachineConfig, nic: Nic, micro: bool) -> Node:
    if config.incoming is not None:
        place = placed(*config.incoming.layout.nics[nic.interface])
        return place if micro else {**place, "romfile": ""}
    if micro:
        return {}
    if nic.index == 0:
        return {**_slot(FIRST_NIC_SLOT, micro), "romfile": ""}
    return nics.hotplug_place(nic.index)


def _disk_place(config: MachineConfig, disk: Disk, micro: bool) -> Node:
    if config.incoming is not None:
        layout = config.incoming.layout
        queues = layout.queues.get(disk.volume, 0)  # an earlier gureum does not say
        return {**placed(*layout.disks[disk.volume]), **({"num-queues": queues} if queues else {})}
    if micro:
        return {}
    return _slot(ROOT_DISK_SLOT, micro) if disk.index == 0 else hotplug_place(disk.index)


def placed(bus: str, slot: int) -> Node:
    """Where a device of a machine from another host sits (``layout``)."""
    if bus == HOTPLUG_BUS:
        return hotplug_place(slot)
    if bus == NIC_BUS:
        return nics.hotplug_place(slot)
    return _slot(slot, micro=False) if bus == ROOT_BUS else {"bus": bus}


def _nic(nic: Nic, micro: bool, place: Node) -> list[str]:
    device = nics.nic_device(nic, 0, _driver("virtio-net", micro), place)
    return [
        *("-netdev", f"tap,id={nics.backend(nic.interface)},fd={nic.fd},vhost=off"),
        *("-device", _json(device)),
    ]


def _disk(
    disk: Disk,
    opened: OpenDisk,
    secrets: Mapping[str, int],
    micro: bool,
    pauses: bool,
    place: Node,
    boot_index: int | None,
) -> list[str]:
    arguments: list[str] = []
    for file in opened.files:
        label = file.label.replace(",", ",,")
        arguments += ["-add-fd", f"fd={file.fd},set={file.number},opaque={label}"]
    for id, secret in opened.secrets.items():
        path = f"/proc/self/fd/{secrets[id]}"
        source = {"qom-type": "secret", "id": id, "format": secret["format"], "file": path}
        arguments += ["-object", _json(source)]
    for node in opened.nodes(opened.remote.conf if opened.remote is not None else -1):
        arguments += ["-blockdev", _json(node)]
    device = disk_device(opened, _driver("virtio-blk", micro), place, pauses, boot_index)
    return [*arguments, "-device", _json(device)]


def hotplug_place(slot: int) -> Node:
    """Where in the machine a disk other than the root disk sits."""
    if slot not in HOTPLUG_SLOTS:
        raise HypervisorError(f"a machine has at most {len(HOTPLUG_SLOTS)} disks beside its root disk")
    return {"bus": HOTPLUG_BUS, "addr": f"{slot:#x}", "disable-legacy": "on"}


def _smbios(config: MachineConfig) -> list[str]:
    """As on EC2's Nitro, where cloud-init looks for it (tools/ds-identify, ``ec2_identify_platform``)."""
    uuid = system_uuid(config.id)
    tables = (
        "type=0,vendor=Amazon EC2,version=1.0",
        f"type=1,manufacturer=Amazon EC2,product=gureum,serial={uuid}",
        f"type=2,manufacturer=Amazon EC2,asset={config.id}",
        "type=3,manufacturer=Amazon EC2,asset=Amazon EC2",
    )
    return [argument for table in tables for argument in ("-smbios", table)]


def _json(value: Node) -> str:
    return json.dumps(value, separators=(",", ":"))
