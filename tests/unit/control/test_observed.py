from __future__ import annotations

from gureum.control.observed import News, Observed
from gureum.hostspec import HostReport, MachineReport, MachineState, VolumeReport


def report(*machines: MachineReport, volumes: tuple[VolumeReport, ...] = (), sequence: int = 1) -> HostReport:
    return HostReport(
        cloud="c", host="h", boot_id="b", revision=1, sequence=sequence, machines=machines, volumes=volumes
    )


def machine(state: MachineState = MachineState.running, revision: int = 1) -> MachineReport:
    return MachineReport(id="i-1", generation=1, state=state, revision=revision)


def test_news_are_what_differs() -> None:
    observed = Observed()
    assert observed.take(report(machine(), volumes=(VolumeReport(id="vol-1"),))) == [
        News("instance", "i-1", False),
        News("volume", "vol-1", False),
    ]
    assert observed.take(report(machine(), volumes=(VolumeReport(id="vol-1"),))) == []
    assert observed.take(report(machine(MachineState.off))) == [
        News("instance", "i-1", False),
        News("volume", "vol-1", False),
    ]


def test_the_same_of_a_newer_spec_is_renewed() -> None:
    observed = Observed()
    observed.take(report(machine(revision=1)))
    assert observed.take(report(machine(revision=2))) == [News("instance", "i-1", True)]
    assert observed.take(report(machine(MachineState.off, revision=3))) == [News("instance", "i-1", False)]


def test_a_restarted_agent_counts_from_one_and_is_heard() -> None:
    observed = Observed()
    observed.take(report(machine(), sequence=500))
    observed.take(report(machine(MachineState.off), sequence=1))
    seen = observed.machine("h", "i-1", 1)
    assert seen is not None
    assert seen.state is MachineState.off


def test_what_nobody_said_is_not_known() -> None:
    observed = Observed()
    observed.take(report(machine()))
    assert observed.machine(None, "i-1", 1) is None
    assert observed.machine("other", "i-1", 1) is None
    assert observed.machine("h", "i-1", 2) is None
    assert observed.volume("h", "vol-1") is None
    assert observed.snapshot("h", "snap-1") is None
