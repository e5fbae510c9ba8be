"""What the documents between the manager and a host's agent (``hostspec``) say of machines on their way."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Room(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a machine can grow to while it runs, as decided when its process was started.

    ``memory_bytes`` is what it was started with, and always keeps. ``threads``: as ``MachineConfig``'s.
    """

    threads: int = 1
    vcpus_max: int
    memory_bytes: int
    memory_max_bytes: int


class MachineLayout(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What another host's hypervisor has to know of a running machine to take it over as it is.

    The source's hypervisor makes it, the destination's reads it; nothing in between looks into it. The
    ``type`` is versioned ("pc-q35-7.2"), ``version`` the hypervisor's, ``cpu`` the guest's model, and
    ``host_cpu`` what the source's ``Hypervisor.cpu`` says. ``disks`` and ``nics`` say, by volume and
    interface, on which bus and in which slot of it each is. ``vcpus`` and ``memory_bytes``: what it has now,
    and ``room`` to what it can grow; 0 and None of one that was started without any. ``watchdog``: it has
    one. ``model``: the ``cpu`` by its name in ``cpus``, "" if it has the source's own. ``queues``: how many a
    disk has, by volume.
    """

    type: str
    version: str
    cpu: str
    host_cpu: str
    vmgenid: str = ""
    disks: dict[str, tuple[str, int]] = {}
    nics: dict[str, tuple[str, int]] = {}
    vcpus: int = 0
    memory_bytes: int = 0
    room: Room | None = None
    watchdog: bool = False
    model: str = ""
    queues: dict[str, int] = {}


class IncomingSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The machine is to come from another host as it runs there, and does not run here as long as this is so.

    ``secret`` (32 bytes): what both hosts prove to each other with. ``layout``: what the other host said.
    """

    migration: str
    secret: bytes
    layout: MachineLayout
    copies: tuple[str, ...] = ()
    """Volumes of the host's own pool: what they contain comes with the machine."""


class OutgoingSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The machine is to go to another host, and does not go on here once it is there, as long as this is so.

    ``address``: where the other host waits for it; "" while only its layout is asked for. Once there is one,
    a machine that has ended is not started anew.
    """

    migration: str
    secret: bytes
    address: str = ""
    bytes_per_second: int = 0
    """0: as fast as it goes."""
    copies: tuple[str, ...] = ()
    """As in ``IncomingSpec``."""
    disks_address: str = ""
    """Where the other host takes what they contain."""


class MigrationPhase(StrEnum):
    """``waiting``: the destination's machine is ready, and nobody has connected to it. ``copying``: its guest
    runs at the source. ``completed``: the guest is held, and both hosts have all of it. ``failed``: also if
    it was cancelled; the source's guest goes on, or the machine has ended.
    """

    waiting = "waiting"
    copying = "copying"
    completed = "completed"
    failed = "failed"


class MigrationReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A machine on its way, at either end. ``phase`` is None before it has begun.

    The source says ``layout``, the destination ``address`` and ``disks_address``. ``error``: why it has
    failed, for good. Bytes are of memory, but for those of disks.

    ``copied``: the volumes of which the destination has all that the guest, which is held now, ever wrote.
    """

    migration: str
    layout: MachineLayout | None = None
    address: str = ""
    phase: MigrationPhase | None = None
    error: str = ""
    copied_bytes: int = 0
    remaining_bytes: int = 0
    total_bytes: int = 0
    bytes_per_second: int = 0
    passed_bytes_per_second: int = 0
    """Of which nothing had to be sent included; 0 from an agent that does not say it."""
    dirty_bytes_per_second: int = 0
    downtime_ms: int = 0
    copy_ms: int = 0
    disks_address: str = ""
    copied: tuple[str, ...] = ()
    disk_done_bytes: int = 0
    disk_total_bytes: int = 0
