"""What the hosts last said: kept in memory only, since every host says it all again."""

from __future__ import annotations

from collections.abc import Iterator

from gureum.hostspec import HostReport, MachineReport, SnapshotReport, VolumeReport


class HostView:
    """One host's last report, by id. ``heard`` is when it came (Unix seconds)."""

    def __init__(self, report: HostReport, heard: float) -> None:
        self.report = report
        self.heard = heard
        self.machines = {machine.id: machine for machine in report.machines}
        self.volumes = {volume.id: volume for volume in report.volumes}
        self.snapshots = {snapshot.id: snapshot for snapshot in report.snapshots}

    def differing(self, before: HostView | None) -> Iterator[tuple[str, str]]:
        """The (kind, id) of everything that this report says otherwise than the one before."""
        pairs = (
            ("instance", self.machines, before.machines if before else {}),
            ("volume", self.volumes, before.volumes if before else {}),
            ("snapshot", self.snapshots, before.snapshots if before else {}),
        )
        for kind, now, then in pairs:
            for id in sorted(now.keys() | then.keys()):
                if now.get(id) != then.get(id):
                    yield kind, id


class Observed:
    """The last report of every host that has reported since this manager started."""

    def __init__(self) -> None:
        self.hosts: dict[str, HostView] = {}

    def take(self, report: HostReport, heard: float) -> list[tuple[str, str]]:
        """Take a report in; returns the (kind, id) of what it changes."""
        before = self.hosts.get(report.host)
        if (
            before is not None
            and before.report.boot_id == report.boot_id
            and report.sequence < before.report.sequence
        ):
            return []
        view = self.hosts[report.host] = HostView(report, heard)
        return list(view.differing(before))

    def machine(self, host: str | None, id: str, generation: int) -> MachineReport | None:
        """What the host says of this generation of the machine."""
        view = self.hosts.get(host) if host else None
        seen = view.machines.get(id) if view else None
        return seen if seen is not None and seen.generation == generation else None

    def volume(self, host: str | None, id: str) -> VolumeReport | None:
        view = self.hosts.get(host) if host else None
        return view.volumes.get(id) if view else None

    def snapshot(self, host: str | None, id: str) -> SnapshotReport | None:
        view = self.hosts.get(host) if host else None
        return view.snapshots.get(id) if view else None
