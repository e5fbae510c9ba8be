"""The hypervisor, as the agent sees it. Implementations: ``qemu``, and ``fake`` in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from gureum.hostspec import MachineState
from gureum.migrationspec import MachineLayout, MigrationPhase
from gureum.san.base import DiskSource, FileDisk, Layer
from gureum.sizespec import MachineSize


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """``index`` 0 is the root disk. The guest sees ``volume`` without its "-" as serial number, as on EC2.

    ``key``: what its data is encrypted with, b"" for not.
    """

    volume: str
    index: int
    source: DiskSource
    key: bytes = b""
    iops: int = 0
    throughput: int = 0


RBD_PREFIX = "rbd:"


def describe(source: DiskSource) -> str:
    """What the disk is called: the path of the file that is written, or "rbd:pool/image"."""
    if isinstance(source, FileDisk):
        return source.layers[0].path
    return f"{RBD_PREFIX}{source.pool}/{source.image}"


class Mirror(msgspec.Struct, frozen=True, kw_only=True):
    """A disk on its way to ``target`` (see ``describe``).

    ``ready``: all that the guest wrote is there too, and it can go on with the target alone. ``error``: why
    the copy has ended without that, "" if it has not.
    """

    target: str
    done_bytes: int = 0
    total_bytes: int = 0
    ready: bool = False
    error: str = ""


class Nic(msgspec.Struct, frozen=True, kw_only=True):
    """``fd`` is an open tap of the network, which the hypervisor takes over (and closes on its side)."""

    interface: str
    mac: str
    index: int
    fd: int
    mtu: int = 1500


class Incoming(msgspec.Struct, frozen=True, kw_only=True):
    """A machine is to come here as it runs on another host, instead of being booted.

    ``migration`` names the attempt. ``secret`` (32 bytes, random) is known to both hosts and nobody else:
    who connects proves to have it, and all that passes is encrypted with it. ``listen``: this host's own
    address that the other host reaches. ``layout``: what the other host said (``Hypervisor.layout``).

    ``copies``: disks that the other host has for itself. What is in them comes with the machine, to disks of
    the same size here.
    """

    migration: str
    secret: bytes
    listen: str
    layout: MachineLayout
    copies: tuple[str, ...] = ()


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """Where a machine is to go. ``migration``, ``secret`` and ``copies`` as in ``Incoming``; ``address`` and
    ``disks_address``: what the other host's ``Migration`` says.

    ``bytes_per_second`` bounds the copying, 0 not. ``downtime_ms``: for how long the guest may be held at the
    end; if it writes faster than is copied, that grows in steps up to ``downtime_max_ms``, and the guest is
    slowed down.
    """

    migration: str
    secret: bytes
    address: str
    bytes_per_second: int = 0
    downtime_ms: int = 10
    downtime_max_ms: int = 2000
    copies: tuple[str, ...] = ()
    disks_address: str = ""


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """How far a machine is on its way, ``incoming`` or to elsewhere.

    ``address`` ("ADDRESS:PORT", "[ADDRESS]:PORT"): where an incoming one waits; another one after the agent
    was restarted. Bytes are of memory, and the source's to know, as are ``downtime_ms`` and ``total_ms``
    (known a moment after it is ``completed``, 0 before). ``error``: why it has failed.

    ``disks_address``: where an incoming one takes what is in its disks, "" if nothing is to come. Of how many
    bytes of disks how many are there says the source, as does ``copied``: the disks of which the destination
    has all, for good; only of a ``completed`` migration.
    """

    migration: str
    incoming: bool
    phase: MigrationPhase
    address: str = ""
    remaining_bytes: int = 0
    total_bytes: int = 0
    copied_bytes: int = 0
    bytes_per_second: int = 0
    passed_bytes_per_second: int = 0
    """How much of the memory is done, whatever there was of it to send."""
    dirty_bytes_per_second: int = 0
    downtime_ms: int = 0
    total_ms: int = 0
    error: str = ""
    disks_address: str = ""
    copied: tuple[str, ...] = ()
    disk_done_bytes: int = 0
    disk_total_bytes: int = 0


class MachineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A machine to start. Empty ``kernel``: boot the root disk by firmware. ``machine`` is q35 or microvm.

    ``reboots`` are the reboots that were asked for before this start: they need not be done any more.
    """

    id: str
    generation: int
    vcpus: int
    threads: int = 1
    """Of the vCPUs, how many are one core."""
    memory_bytes: int
    vcpus_max: int = 0
    """To what it may grow while it runs (``Hypervisor.resize``), as ``memory_max_bytes``; 0: not at all."""
    memory_max_bytes: int = 0
    cpu: str = ""
    """Its model, one of ``Hypervisor.cpu_models``; "": the host's own, or what the hypervisor likes."""
    machine: str = "q35"
    kernel: str = ""
    initrd: str = ""
    cmdline: str = ""
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    reboots: int = 0
    incoming: Incoming | None = None


class MachineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """``disks`` and ``nics`` are ids of the volumes and interfaces that the machine has now; ``detaching``
    those of both that the guest was asked to give up. ``mirrors``, by volume: those on their way elsewhere.

    ``migration``: the last one of this run, None for none; of one that came here only until ``go_on``. Until
    then the machine is ``starting``, or ``crashed`` if that has failed; one that is gone to another host is
    ``paused``.

    ``hung``: its guest let its watchdog run out, and is ``paused`` for that.
    """

    id: str
    generation: int
    state: MachineState
    message: str = ""
    reboots: int = 0
    disks: tuple[str, ...] = ()
    nics: tuple[str, ...] = ()
    detaching: tuple[str, ...] = ()
    mirrors: Mapping[str, Mirror] = {}
    migration: Migration | None = None
    size: MachineSize | None = None
    """None if it can't change while the machine runs, or the machine does not."""
    hung: bool = False


class Hypervisor(Protocol):
    """Runs machines. One instance per agent; machines outlive it and are found again by ``recover``.

    Methods on one machine are not called concurrently by the agent, on different machines they are. All raise
    HypervisorError with a message that says what failed; each await has a bound of its own.
    """

    @property
    def accelerator(self) -> str:
        """What runs the guest's code: "kvm" or "tcg"; "fake" for the fake."""

    @property
    def cpu(self) -> str:
        """What a guest without a CPU model depends on of the CPU here: it can go to hosts that say the same,
        and to no others.
        """

    @property
    def cpu_models(self) -> tuple[str, ...]:
        """Those of ``cpus.MODELS`` that guests can have here."""

    @property
    def cpu_vendor(self) -> str:
        """Whose CPU guests see: one with a model can go to hosts that say the same. "" where that is the
        model's.
        """

    def subscribe(self, changed: Callable[[str], None]) -> None:
        """``changed(machine id)`` is called on the event loop when a machine's status may have changed."""

    async def recover(self) -> None:
        """Find every machine that was started before, running or not, and take it over again."""

    def machines(self) -> Mapping[str, MachineStatus]:
        """The status of every machine that is known here, from memory."""

    async def start(self, config: MachineConfig) -> None:
        """Start it. Done already for this generation: does nothing. Returns when the guest's CPUs run.

        With ``config.incoming`` it returns when the machine waits for its guest, which does not run before
        ``go_on``. Its disks are opened (``note_opened`` can follow), and not written to before that.

        A machine of an older generation must be off: else HypervisorError.
        """

    async def press_power_button(self, id: str) -> None:
        """Ask the guest to shut down. Its status becomes ``shutdown`` when it has."""

    async def power_off(self, id: str, hurried: bool = False) -> None:
        """End the machine now. Its status becomes ``off``; its console log is kept.

        ``hurried``: its disks are hardly reached, so it gets little time to complete what is being written.
        """

    async def reset(self, id: str, reboots: int) -> None:
        """Reboot at once, also a machine whose guest shut itself down or is hung; the status then has
        ``reboots``.
        """

    async def resume(self, id: str) -> None:
        """Let a paused machine go on. One that is hung, or on its way from or to another host, is left as it
        is; but for one of which only disks are being copied yet.
        """

    async def layout(self, id: str) -> MachineLayout:
        """What another host has to know to take the machine over; it holds until a device comes or goes.

        HypervisorError if it cannot go to another host now: a device is just being given up, or a disk is on
        its way to another place.
        """

    async def migrate(self, id: str, outgoing: Outgoing) -> None:
        """Begin to copy the running machine to where another host waits for it; it goes on meanwhile.

        Its disks of ``outgoing.copies`` go first; once the other host has them, what the guest writes goes to
        both, and its memory follows. How far it is says ``status.migration``. Begun already by this
        ``outgoing.migration``, also if it has ended since: only its bounds and addresses are changed. When it
        is ``completed`` the guest is held here, and never goes on by itself; failed before that, it goes on
        here by itself. HypervisorError: not begun.
        """

    async def cancel_migration(self, id: str) -> None:
        """Let the machine stay. Returns when the migration has ended, ``failed`` or ``completed`` after all.

        Not for one that is incoming: ``remove`` that. None under way: does nothing.
        """

    async def go_on(self, id: str) -> None:
        """Let the guest of a ``completed`` migration go on here, at either end: for the caller to make sure
        that it does not at the other.

        HypervisorError while it isn't ``completed``; what is just being completed is waited for. It goes on
        already: does nothing. At the destination ``status.migration`` is None from now on.
        """

    async def prepend_console(self, id: str, text: bytes) -> None:
        """What the guest wrote to its console where it came from. It replaces what was given before."""

    async def remove(self, id: str) -> None:
        """Power off and leave no trace."""

    async def attach_disk(self, id: str, disk: Disk) -> None: ...

    async def detach_disk(self, id: str, volume: str, force: bool = False) -> None:
        """Ask the guest to give the disk up (it leaves ``status.disks`` then); ``force`` takes it away."""

    async def attach_nic(self, id: str, nic: Nic) -> None:
        """Takes ``nic.fd`` over, also when it fails. A machine that has the interface is left as it is."""

    async def detach_nic(self, id: str, interface: str, force: bool = False) -> None:
        """Ask the guest to give the interface up (it leaves ``status.nics`` then); ``force`` takes it away.

        The machine has let go of the tap when the interface has left ``status.nics``.
        """

    async def resize(self, id: str, vcpus: int, memory_bytes: int) -> None:
        """Let the running machine have so many vCPUs and so much memory; asked again, ask the guest again.

        It returns when the guest was asked; what it has taken or given up says ``status.size``. More than
        ``size`` allows, or less: as near as that allows. HypervisorError without a ``size``, and for a
        machine on its way between hosts.
        """

    async def active_layer(self, id: str, volume: str) -> str:
        """See ``describe``."""

    async def switch_layer(self, id: str, volume: str, layer: Layer) -> None:
        """See LiveDisk."""

    async def resize_disk(self, id: str, volume: str, size_bytes: int) -> None: ...

    async def mirror_disk(
        self, id: str, volume: str, target: DiskSource, key: bytes = b"", bytes_per_second: int = 0
    ) -> None:
        """Begin to copy a disk to ``target``, as large as the disk (and its header, for a ``key``).

        Begun already: does nothing, whatever the target. How far it is says ``status.mirrors``. From now on
        the guest's writes go to both. ``bytes_per_second`` bounds the copying, 0 not.
        """

    async def finish_mirror(self, id: str, volume: str) -> None:
        """Let the guest go on with the target alone; the source is closed, and not changed any more.

        HypervisorError unless the mirror is ready. Done, the volume has left ``status.mirrors``, and
        ``active_layer`` is the target's.
        """

    async def cancel_mirror(self, id: str, volume: str) -> None:
        """Let the guest go on with the source alone; the target is closed. No mirror: does nothing.

        HypervisorError if the guest goes on with the target already.
        """

    async def freeze(self, id: str) -> bool:
        """See LiveDisk; of all disks of the machine."""

    async def thaw(self, id: str) -> None: ...

    async def limit_disk(self, id: str, volume: str, iops: int, throughput: int) -> None:
        """Bound a disk's operations and MiB a second from now on; 0 is no bound."""

    async def console(self, id: str, max_bytes: int) -> bytes:
        """The end of what the guest wrote to its serial console, also of a machine that is off."""

    def console_socket(self, id: str) -> Path | None:
        """Where a person can connect to the serial console, while the machine runs."""

    async def close(self) -> None:
        """Let go of all machines; they go on running."""
