"""Live migrations of instances."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from gureum.migrationspec import MachineLayout
from gureum.resources.record import Record, Transitions, table


class MigrationState(StrEnum):
    """Where a migration is.

    ``preparing``: the destination makes ready to receive. ``copying``: the source sends the guest's memory.
    ``switching``: the instance is the destination's, and the source is to let go of it. ``aborting``: it
    stays where it was, and the destination is to let go; ``outcome`` says what the migration is then.
    """

    preparing = "preparing"
    copying = "copying"
    switching = "switching"
    aborting = "aborting"
    completed = "completed"
    failed = "failed"
    cancelled = "cancelled"


UNDECIDED = (MigrationState.preparing, MigrationState.copying)
"""The instance is still the source's, and may become the destination's."""
ENDED = (MigrationState.completed, MigrationState.failed, MigrationState.cancelled)
UNDER_WAY = (*UNDECIDED, MigrationState.switching, MigrationState.aborting)


class InstanceMigration(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The way of a running instance from the host ``source`` to ``destination``.

    ``generation`` is that of the machine at the destination: it runs only if it becomes the instance's.
    ``source_generation`` and ``reboots`` are the machine's at the source when it began. ``secret`` is what
    both ends prove to each other with; it goes when the migration has ended. ``layout``: what the source says
    of its machine. ``address``: where the destination waits for it.
    """

    state: MigrationState = MigrationState.preparing
    instance: str
    type: str
    """The one that it has at the destination, which has to have room for it: it may grow there."""
    zone: str
    source: str
    destination: str
    generation: int
    source_generation: int
    reboots: int = 0
    drains: bool = False
    """It was begun because the source is being drained, not by a client."""
    reason: str = ""
    """Why it was begun, for people, if it was to balance hosts, or to empty one that is to be parked."""
    bytes_per_second: int = 0
    """The bound that was asked for, 0 for none."""
    secret: bytes = b""
    layout: MachineLayout | None = None
    address: str = ""
    held: tuple[int, int] = (0, 0)
    """vCPUs and bytes of memory that its machine has, if that is more."""
    volumes: tuple[str, ...] = ()
    """Those of the instance: both hosts may have them open until it has ended, whoever has them then."""
    copies: tuple[str, ...] = ()
    """Of these, those in the hosts' own pools: each host has one until it has ended, and one of them goes."""
    copy_bytes: int = 0
    """The room that they may need at the destination."""
    disks_address: str = ""
    """Where the destination takes what they contain."""
    released: bool = False
    """While it is switching: the source has let go."""
    taken: bool = False
    """While it is switching: the destination has everything, and the source removes its copies."""
    outcome: str = ""
    """While it is aborting: the state that it ends in."""
    message: str = ""
    """Why it did not complete, for people."""
    started: datetime
    switched: datetime | None = None
    ended: datetime | None = None
    purge_at: float = 0.0
    """Unix time when the record of an ended one goes."""
    copied_bytes: int = 0
    copied_disk_bytes: int = 0
    downtime_ms: int = 0
    """For how long the guest was held, as the source's hypervisor counted it: the switch is not in it."""
    copy_ms: int = 0
    """For how long that sent memory and devices: the disks that go along are not in it."""

    @property
    def hosts(self) -> tuple[str, str]:
        return self.source, self.destination

    kind: ClassVar[str] = "instance-migration"
    indexes: ClassVar[tuple[str, ...]] = ("account", "state", "instance", "source", "destination")
    transitions: ClassVar[Transitions] = table(
        MigrationState,
        preparing="copying aborting",
        copying="switching aborting",
        switching="completed",
        aborting="failed cancelled",
    )
