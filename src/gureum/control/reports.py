"""What is believed of a report, and how often: a host that was taken over must not use up the manager."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from msgspec.structs import replace

from gureum.control.observed import News
from gureum.errors import TransportError
from gureum.hostspec import HostReport
from gureum.migrationspec import MigrationReport
from gureum.resources import Instance, Snapshot, Volume
from gureum.store.base import Reader

THINGS_MAX = 20_000
"""Machines that a report tells of; also volumes, and snapshots."""
STRANGE_MAX = 50
"""Things that are not on the host, of which one report's word is heard."""
TEXT_MAX = 1000
"""Characters of a message that are kept."""
PROBLEMS_MAX = 20
DEVICES_MAX = 256
"""Disks and interfaces of a machine that migrates."""
REPORTS_PER_SECOND_MAX = 50.0
REPORTS_BURST_MAX = 100


def bounded(report: HostReport) -> HostReport:
    """The report with texts cut to their bounds. Raises TransportError if it tells of too much."""
    for kind in ("machines", "volumes", "snapshots"):
        if (count := len(getattr(report, kind))) > THINGS_MAX:
            raise TransportError(f"a report of {count} {kind}; the bound is {THINGS_MAX}")
    if report.load is not None and len(report.load.machines) > THINGS_MAX:
        raise TransportError(f"a report of the loads of more than {THINGS_MAX} machines")
    if _is_terse(report):
        return report
    if len(report.problems) > PROBLEMS_MAX or _long(report.problems):
        report = replace(report, problems=tuple(each[:TEXT_MAX] for each in report.problems[:PROBLEMS_MAX]))
    if _long(machine.message for machine in report.machines):
        machines = tuple(replace(each, message=each.message[:TEXT_MAX]) for each in report.machines)
        report = replace(report, machines=machines)
    if any(_unbounded(machine.migration) for machine in report.machines):
        machines = tuple(replace(each, migration=_bounded(each.migration)) for each in report.machines)
        report = replace(report, machines=machines)
    if _long(volume.error for volume in report.volumes):
        volumes = tuple(replace(each, error=each.error[:TEXT_MAX]) for each in report.volumes)
        report = replace(report, volumes=volumes)
    if _long(snapshot.error for snapshot in report.snapshots):
        snapshots = tuple(replace(each, error=each.error[:TEXT_MAX]) for each in report.snapshots)
        report = replace(report, snapshots=snapshots)
    return report


def _is_terse(report: HostReport) -> bool:
    """Whether there is nothing to be cut for certain, as mostly."""
    for machine in report.machines:
        if machine.migration is not None or len(machine.message) > TEXT_MAX:
            return False
    return not (
        report.problems
        or _long([volume.error for volume in report.volumes])
        or _long([snapshot.error for snapshot in report.snapshots])
    )


def _unbounded(migration: MigrationReport | None) -> bool:
    if migration is None:
        return False
    layout = migration.layout
    devices = len(layout.disks) + len(layout.nics) if layout is not None else 0
    return devices > DEVICES_MAX or _long((migration.error, migration.address))


def _bounded(migration: MigrationReport | None) -> MigrationReport | None:
    """What says too much has failed."""
    if migration is None or not _unbounded(migration):
        return migration
    error = migration.error or "its host says more of it than can be"
    return MigrationReport(migration=migration.migration, error=error[:TEXT_MAX])


def _long(texts: Iterable[str]) -> bool:
    return any(len(text) > TEXT_MAX for text in texts)


async def on_host(reader: Reader, host: str) -> frozenset[str]:
    """Ids of what the store has on the host."""
    found: set[str] = set()
    for kind in (Instance, Volume, Snapshot):
        found.update(record.id for record in await reader.find(kind, host=host))
    return frozenset(found)


def concerning(news: Iterable[News], here: Collection[str]) -> Iterator[News]:
    """The news of what is on the host, and few of other things: they may just have left."""
    strange = STRANGE_MAX
    for each in news:
        if each.id not in here:
            if not strange:
                continue
            strange -= 1
        yield each


class Pace:
    """A bucket of reports that may be taken in at once; it fills with time, in seconds."""

    def __init__(self) -> None:
        self._left = float(REPORTS_BURST_MAX)
        self._since = 0.0

    def allows(self, now: float) -> bool:
        """Whether one more may be taken in now; if so it counts."""
        self._left = min(REPORTS_BURST_MAX, self._left + (now - self._since) * REPORTS_PER_SECOND_MAX)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
