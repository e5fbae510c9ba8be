from __future__ import annotations

from typing import Any

import pytest

from gureum.control import reports
from gureum.control.reports import TEXT_MAX, Pace, bounded, on_host
from gureum.errors import TransportError
from gureum.hostspec import HostReport, MachineReport, MachineState, SnapshotReport, VolumeReport
from gureum.migrationspec import MachineLayout, MigrationReport


def report(**values: Any) -> HostReport:
    return HostReport(cloud="c", host="h", boot_id="b", revision=1, **values)


def machine(number: int = 1, message: str = "") -> MachineReport:
    return MachineReport(id=f"i-{number}", generation=1, state=MachineState.running, message=message)


@pytest.mark.parametrize(
    "told",
    [
        {"machines": (machine(1), machine(2), machine(3))},
        {"volumes": tuple(VolumeReport(id=f"vol-{n}") for n in range(3))},
        {"snapshots": tuple(SnapshotReport(id=f"snap-{n}") for n in range(3))},
    ],
)
def test_a_report_of_too_much_is_refused(monkeypatch: pytest.MonkeyPatch, told: Any) -> None:
    assert bounded(report(**told)) == report(**told)
    monkeypatch.setattr(reports, "THINGS_MAX", 2)
    with pytest.raises(TransportError, match="of 3"):
        bounded(report(**told))


def test_texts_are_cut() -> None:
    long = "x" * (TEXT_MAX + 1)
    cut = bounded(
        report(
            machines=(machine(message=long),),
            volumes=(VolumeReport(id="vol-1", error=long),),
            snapshots=(SnapshotReport(id="snap-1", error=long),),
            problems=(long,) * (reports.PROBLEMS_MAX + 1),
        )
    )
    texts = [cut.machines[0].message, cut.volumes[0].error, cut.snapshots[0].error, *cut.problems]
    assert texts == [long[:-1]] * (3 + reports.PROBLEMS_MAX)


async def test_what_is_on_a_host(bench: Any, make: Any) -> None:
    await bench.put(
        make.instance(),
        make.instance("i-2", host="host-1"),
        make.volume(),
        make.snapshot("snap-1", host=None),
    )
    async with bench.store.read() as reader:
        assert await on_host(reader, "host-0") == {"i-1", "vol-1"}


def test_a_burst_then_one_by_one() -> None:
    pace = Pace()
    assert sum(pace.allows(10.0) for _ in range(1000)) == reports.REPORTS_BURST_MAX
    assert not pace.allows(10.0)
    assert pace.allows(10.0 + 1.5 / reports.REPORTS_PER_SECOND_MAX)
    assert not pace.allows(10.0 + 1.6 / reports.REPORTS_PER_SECOND_MAX)


def test_what_says_too_much_of_a_migration_has_failed() -> None:
    nics = {f"eni-{n}": ("pci", n) for n in range(reports.DEVICES_MAX + 1)}
    layout = MachineLayout(type="q35", version="1", cpu="x", host_cpu="x", nics=nics)
    told = [
        MigrationReport(migration="mig-1", layout=layout),
        MigrationReport(migration="mig-1", error="e" * 2000),
        MigrationReport(migration="mig-1", address="192.0.2.1:1"),
    ]
    machines = tuple(
        MachineReport(id=f"i-{n}", generation=1, state=MachineState.running, migration=each)
        for n, each in enumerate(told)
    )
    found = reports.bounded(HostReport(cloud="c", host="h", boot_id="b", revision=1, machines=machines))
    first, second, third = (machine.migration for machine in found.machines)
    assert first is not None
    assert second is not None
    assert (first.layout, bool(first.error), len(second.error)) == (None, True, reports.TEXT_MAX)
    assert third == told[2]
