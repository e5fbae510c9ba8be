"""What the hosts last said: kept in memory only, since every host says it all again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from msgspec.structs import replace

from gureum.hostspec import HostReport, MachineReport, MachineState, SnapshotReport, VolumeReport
from gureum.migrationspec import MigrationReport
from gureum.resources import Record

Thing = MachineReport | VolumeReport | SnapshotReport


LIVE = (MachineState.starting, MachineState.running, MachineState.paused)
NETWORK = "network"
TAKEN = "taken"


class News(NamedTuple):
    """What a report says anew. ``renewed``: as before, but of a newer spec.

    With the host's id, of kind NETWORK: another revision of its network is in effect; of kind TAKEN: one with
    shared pools took another spec in.
    """

    kind: str
    id: str
    renewed: bool


class HostView:
    """One host's last report, by id."""

    def __init__(self, report: HostReport) -> None:
        self._report = report
        self.id = report.host
        self.revision = report.revision
        self.network_revision = report.network_revision
        self.pools = report.pools
        self.problems = report.problems
        self.fences = report.fences
        self.warden = report.warden
        self.uplink_down = report.uplink_down
        self.started = report.started
        self.machines = {machine.id: machine for machine in report.machines}
        self.volumes = {volume.id: volume for volume in report.volumes}
        self.snapshots = {snapshot.id: snapshot for snapshot in report.snapshots}

    def says(self, report: HostReport) -> bool:
        """Whether a later report of the host says nothing else."""
        return replace(report, sequence=self._report.sequence) == self._report

    def machines_live(self) -> bool:
        """Whether any machine runs there, as far as the host says."""
        return any(machine.state in LIVE for machine in self.machines.values())

    def differing(self, before: HostView | None) -> Iterator[News]:
        """Everything that this report says otherwise than the one before."""
        pairs = (
            ("instance", self.machines, before.machines if before else {}),
            ("volume", self.volumes, before.volumes if before else {}),
            ("snapshot", self.snapshots, before.snapshots if before else {}),
        )
        for kind, now, then in pairs:
            if now == then:
                continue
            for id in sorted(now.keys() | then.keys()):
                new, old = now.get(id), then.get(id)
                if new != old:
                    yield News(kind, id, new is not None and old is not None and _same(new, old))
        if self.network_revision != (before.network_revision if before else 0):
            yield News(NETWORK, self.id, True)
        if self.pools and self.revision != (before.revision if before else 0):
            yield News(TAKEN, self.id, True)


def _same(new: Thing, old: Thing) -> bool:
    return replace(new, revision=0) == replace(old, revision=0)


class Observed:
    """The last report of every host that has reported since this manager started.

    Reports are to be taken in the order in which their host made them: each replaces the one before.
    """

    def __init__(self) -> None:
        self.hosts: dict[str, HostView] = {}

    def take(self, report: HostReport) -> list[News]:
        """Take a report in; returns what it changes."""
        before = self.hosts.get(report.host)
        if before is not None and before.says(report):
            return []
        view = self.hosts[report.host] = HostView(report)
        return list(view.differing(before))

    def left(self, host: str, thing: Record) -> bool:
        """Whether the host says that it has nothing to do with a volume or snapshot any more."""
        view = self.hosts.get(host)
        if view is None or view.revision < thing.version:
            return False
        return thing.id not in view.volumes and thing.id not in view.snapshots

    def let_go(self, host: str, thing: Record) -> bool:
        """Whether the host says that it has done what it was told of a volume of another one's."""
        seen = self.volume(host, thing.id)
        return seen is not None and seen.revision >= thing.version and not seen.error

    def network_revision(self, host: str | None) -> int:
        """The revision of the last spec whose network is in effect on the host; 0 if it does not say."""
        view = self.hosts.get(host) if host else None
        return view.network_revision if view else 0

    def machine(self, host: str | None, id: str, generation: int) -> MachineReport | None:
        """What the host says of this generation of the machine."""
        view = self.hosts.get(host) if host else None
        seen = view.machines.get(id) if view else None
        return seen if seen is not None and seen.generation == generation else None

    def migration(self, host: str | None, id: str) -> MigrationReport | None:
        """What the host says of a machine that leaves it."""
        view = self.hosts.get(host) if host else None
        seen = view.machines.get(id) if view else None
        return seen.migration if seen is not None else None

    def volume(self, host: str | None, id: str) -> VolumeReport | None:
        view = self.hosts.get(host) if host else None
        return view.volumes.get(id) if view else None

    def snapshot(self, host: str | None, id: str) -> SnapshotReport | None:
        view = self.hosts.get(host) if host else None
        return view.snapshots.get(id) if view else None
