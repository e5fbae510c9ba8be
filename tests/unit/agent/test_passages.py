"""When a machine goes on, at either end of a migration."""

from __future__ import annotations

from typing import Any

import pytest

from gureum.agent.passages import Passages, gone
from gureum.env import Env
from gureum.errors import HypervisorError
from gureum.hostspec import MachineSpec, MachineState, Metadata
from gureum.hypervisors.base import MachineStatus, Migration, Outgoing
from gureum.migrationspec import IncomingSpec, MachineLayout, MigrationPhase, OutgoingSpec

LAYOUT = MachineLayout(type="q35", version="1", cpu="x", host_cpu="x")
OUT = OutgoingSpec(migration="mig-1", secret=b"s" * 32, address="192.0.2.2:1")


class Asked:
    """A hypervisor that notes what it is asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.error = ""

    async def layout(self, id: str) -> MachineLayout:
        self.calls.append("layout")
        if self.error:
            raise HypervisorError(self.error)
        return LAYOUT

    async def migrate(self, id: str, outgoing: Outgoing) -> None:
        self.calls.append(f"migrate {outgoing.address}")

    def __getattr__(self, name: str) -> Any:
        async def asked(id: str) -> None:
            self.calls.append(name)

        return asked


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def passages(asked: Asked) -> Passages:
    return Passages(Env(), asked, "192.0.2.1")  # type: ignore[arg-type]


def status(
    state: MachineState, phase: MigrationPhase | None = None, incoming: bool = False, id: str = "mig-1"
) -> MachineStatus:
    migration = None
    if phase is not None:
        migration = Migration(migration=id, incoming=incoming, phase=phase)
    return MachineStatus(id="i-1", generation=1, state=state, migration=migration)


def spec(**values: Any) -> MachineSpec:
    metadata = Metadata(
        instance="i-1", image="ami-1", type="t3.nano", account="1", region="r", zone="z", reservation="r-1"
    )
    values = {"run": True, **values}
    return MachineSpec(id="i-1", generation=1, vcpus=1, memory_bytes=1 << 20, metadata=metadata, **values)


@pytest.mark.parametrize(
    ("seen", "does"),
    [
        (status(MachineState.starting, MigrationPhase.completed, True), ["go_on"]),
        (status(MachineState.starting, MigrationPhase.copying, True), ["power_off"]),
        (status(MachineState.running), []),
        (status(MachineState.paused, MigrationPhase.completed), []),
    ],
)
async def test_what_came_goes_on_only_whole(
    passages: Passages, asked: Asked, seen: MachineStatus, does: list[str]
) -> None:
    assert await passages.arrive(seen) == bool(does)
    assert asked.calls == does


@pytest.mark.parametrize(
    ("seen", "wanted", "does"),
    [
        (status(MachineState.running, MigrationPhase.copying), None, ["cancel_migration"]),
        (status(MachineState.paused, MigrationPhase.completed), None, ["go_on"]),
        (status(MachineState.paused, MigrationPhase.completed), OUT, []),
        (status(MachineState.paused, MigrationPhase.completed, id="mig-0"), OUT, ["go_on"]),
        (status(MachineState.running, MigrationPhase.failed), None, []),
        (status(MachineState.starting, MigrationPhase.completed, True), None, []),
    ],
)
async def test_what_was_to_leave_goes_on_only_if_it_is_not_to_any_more(
    passages: Passages, asked: Asked, seen: MachineStatus, wanted: OutgoingSpec | None, does: list[str]
) -> None:
    assert await passages.stay(seen, wanted) == bool(does)
    assert asked.calls == does


async def test_the_layout_is_asked_for_once_and_then_it_leaves(passages: Passages, asked: Asked) -> None:
    first = OutgoingSpec(migration="mig-1", secret=OUT.secret)
    running = status(MachineState.running)
    for _ in range(2):
        await passages.leave("i-1", first, running)
    told = passages.report(spec(outgoing=first), running)
    assert told is not None
    assert told.layout == LAYOUT
    await passages.leave("i-1", OUT, running)
    await passages.leave("i-1", OUT, status(MachineState.paused, MigrationPhase.completed))
    assert asked.calls == ["layout", "migrate 192.0.2.2:1"]


async def test_what_cannot_leave_says_why(passages: Passages, asked: Asked) -> None:
    asked.error = "a disk is on its way"
    first = OutgoingSpec(migration="mig-1", secret=OUT.secret)
    await passages.leave("i-1", first, status(MachineState.running))
    told = passages.report(spec(outgoing=first), status(MachineState.running))
    assert told is not None
    assert told.error == "a disk is on its way"


@pytest.mark.parametrize("seen", [None, status(MachineState.off), status(MachineState.crashed)])
def test_a_source_without_its_machine_has_failed(passages: Passages, seen: MachineStatus | None) -> None:
    told = passages.report(spec(outgoing=OUT), seen)
    assert told is not None
    assert "has ended" in told.error


def test_only_its_own_migration_is_told(passages: Passages) -> None:
    incoming = IncomingSpec(migration="mig-1", secret=OUT.secret, layout=LAYOUT)
    other = passages.report(
        spec(incoming=incoming), status(MachineState.starting, MigrationPhase.completed, True, "mig-0")
    )
    assert other is not None
    assert other.phase is None
    assert passages.report(spec(), status(MachineState.running, MigrationPhase.failed)) is None


def test_what_was_counted_is_told_of_a_machine_that_has_gone(passages: Passages) -> None:
    """The spec names its migration no more: how long it was held is known a moment after that it was."""
    told = passages.report(spec(run=False), status(MachineState.off, MigrationPhase.completed))
    assert told is not None
    assert (told.migration, told.phase) == ("mig-1", MigrationPhase.completed)
    assert passages.report(spec(), status(MachineState.paused, MigrationPhase.completed)) is None
    assert passages.report(spec(run=False), status(MachineState.off, MigrationPhase.completed, True)) is None


def test_a_machine_that_is_gone_is_not_resumed() -> None:
    assert gone(status(MachineState.paused, MigrationPhase.completed))
    assert not gone(status(MachineState.paused))
    assert not gone(status(MachineState.running, MigrationPhase.copying))
