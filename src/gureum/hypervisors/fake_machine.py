"""One machine of the hypervisor in memory: what it has, and how its guest behaves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from gureum.errors import HypervisorError
from gureum.hostspec import MachineState
from gureum.hypervisors.base import Disk, MachineConfig, MachineStatus, Migration, Mirror, describe
from gureum.migrationspec import MigrationPhase
from gureum.san.base import FileDisk
from gureum.sizespec import MachineSize

RUNS = frozenset({MachineState.starting, MachineState.running, MachineState.paused})
"""The states in which a guest exists. The process of one that shut itself down is held, with its disks."""

CONSOLE_BYTES_MAX = 64 * 1024


class FakeDisk:
    """A disk in a machine. ``size_bytes`` is 0 until it was resized."""

    def __init__(self, disk: Disk) -> None:
        self.size_bytes = 0
        self.detaching = False
        self.target: Disk | None = None
        self.mirror: Mirror | None = None
        self.use(disk)

    def use(self, disk: Disk) -> None:
        """Be this disk from now on."""
        self.disk = disk
        source = disk.source
        paths = (
            (layer.path for layer in source.layers) if isinstance(source, FileDisk) else [describe(source)]
        )
        self.layers = list(paths)
        self.shared = not isinstance(source, FileDisk)
        self.pool = "" if isinstance(source, FileDisk) else source.pool
        """The shared one that it is in."""


class FakeMachine:
    """A machine of the fake host, and how its guest behaves."""

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.state = MachineState.off
        self.message = ""
        self.reboots = 0
        self.disks: dict[str, FakeDisk] = {}
        self.nics: dict[str, bool] = {}
        """By interface, whether the guest was asked to give it up."""
        self.console = b""
        self.console_before = b""
        """On another host."""
        self.hung = False
        """The guest does nothing more, and its watchdog ran out."""
        self.held = False
        """The guest shut itself down, and its process is held."""
        self.thawed = asyncio.Event()
        """Not set while its process is stopped: then its guest neither runs nor writes."""
        self.thawed.set()
        self.run = 0
        """Counts starts: what a guest of an earlier run does later has no effect."""
        self.settled = asyncio.Event()
        """Set when it is not ``starting``."""
        self.migration: Migration | None = None
        self.ignores_power_button = False
        self.ignores_detach = False
        """Nor does it take or give up vCPUs and memory."""
        self.size: MachineSize | None = None
        self.target: MachineSize | None = None
        """What it was told to have."""

    @property
    def frozen(self) -> bool:
        return not self.thawed.is_set()

    @property
    def runs(self) -> bool:
        return self.state in RUNS

    @property
    def away(self) -> bool:
        """Whether its guest is on another host, or may be."""
        completed = self.migration is not None and self.migration.phase is MigrationPhase.completed
        return self.config.incoming is not None or completed

    @property
    def under_way(self) -> bool:
        phase = self.migration.phase if self.migration is not None else MigrationPhase.failed
        return self.config.incoming is not None or phase is not MigrationPhase.failed

    def require_settled(self) -> None:
        if self.under_way:
            raise HypervisorError(f"{self.config.id}: is on its way between hosts")

    def status(self) -> MachineStatus:
        leaving = [volume for volume, disk in self.disks.items() if disk.detaching]
        leaving += [interface for interface, detaching in self.nics.items() if detaching]
        return MachineStatus(
            id=self.config.id,
            generation=self.config.generation,
            state=self.state,
            message=self.message,
            reboots=self.reboots,
            disks=tuple(sorted(self.disks)),
            nics=tuple(sorted(self.nics)),
            detaching=tuple(sorted(leaving)),
            mirrors={id: disk.mirror for id, disk in self.disks.items() if disk.mirror is not None},
            migration=self.migration,
            size=self.size if self.runs and not self.away else None,
            hung=self.hung,
        )

    def print(self, text: str) -> None:
        self.console = (self.console + text.encode())[-CONSOLE_BYTES_MAX:]


class Statuses(Mapping[str, MachineStatus]):
    """The statuses of machines, each made when it is asked for."""

    def __init__(self, machines: Mapping[str, FakeMachine]) -> None:
        self._machines = machines

    def __getitem__(self, id: str) -> MachineStatus:
        return self._machines[id].status()

    def get(self, id: str, default: Any = None) -> Any:
        """As of any mapping, without an exception for what is not there."""
        machine = self._machines.get(id)
        return machine.status() if machine is not None else default

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._machines))

    def __len__(self) -> int:
        return len(self._machines)
