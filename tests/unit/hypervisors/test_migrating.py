"""What QEMU says of a migration, and what it is told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.hypervisors import messages
from gureum.hypervisors.base import Migration, Outgoing
from gureum.hypervisors.qemu.migrating import Migrating, downtime_limit, parse_figures, parse_phase
from gureum.migrationspec import MigrationPhase

STATUS = Migration(migration="mig-1", incoming=False, phase=MigrationPhase.copying)


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        ("none", None),
        ("setup", MigrationPhase.copying),
        ("active", MigrationPhase.copying),
        ("pre-switchover", MigrationPhase.copying),
        ("device", MigrationPhase.copying),
        ("cancelling", MigrationPhase.copying),
        ("completed", MigrationPhase.completed),
        ("failed", MigrationPhase.failed),
        ("cancelled", MigrationPhase.failed),
    ],
)
def test_phases(status: str, phase: MigrationPhase | None) -> None:
    assert parse_phase({"status": status}) is phase


def test_nothing_was_ever_begun() -> None:
    assert parse_phase({}) is None


def test_figures_on_the_way() -> None:
    ram = {
        "transferred": 96, "remaining": 4096, "total": 8192, "mbps": 8.0,
        "dirty-pages-rate": 3, "page-size": 4096, "dirty-sync-count": 2,
    }  # fmt: skip
    found = parse_figures(STATUS, {"status": "active", "ram": ram, "total-time": 7, "expected-downtime": 300})
    assert (found.copied_bytes, found.remaining_bytes, found.total_bytes) == (96, 4096, 8192)
    assert (found.bytes_per_second, found.dirty_bytes_per_second) == (1_000_000, 3 * 4096)
    assert (found.total_ms, found.downtime_ms, found.error) == (7, 300, "")


def test_why_it_has_failed() -> None:
    assert parse_figures(STATUS, {"status": "failed", "error-desc": "gone"}).error == "gone"
    assert parse_figures(STATUS, {"status": "failed"}).error != ""
    assert parse_figures(STATUS, {"status": "cancelled"}).error == messages.CANCELLED


def test_a_guest_that_writes_faster_than_is_copied_is_held_longer() -> None:
    outgoing = Outgoing(migration="mig-1", secret=b"", address="", downtime_ms=50, downtime_max_ms=500)
    limits = [downtime_limit(outgoing, passes) for passes in (0, 4, 5, 6, 8, 10, 12, 1000)]
    assert limits == [50, 50, 50, 100, 200, 400, 500, 500]


async def test_asked_for_again_it_begins_nothing_anew(tmp_path: Path) -> None:
    asked = []

    async def execute(command: str, arguments: Any = None) -> None:
        asked.append((command, arguments))

    machine: Any = SimpleNamespace(
        id="i-1",
        saved=SimpleNamespace(migration="mig-1", incoming=False),
        files=SimpleNamespace(directory=tmp_path),
        monitor=lambda: SimpleNamespace(execute=execute),
    )
    migrating = Migrating(machine)
    migrating.status = STATUS
    outgoing = Outgoing(migration="mig-1", secret=bytes(32), address="192.0.2.1:5", bytes_per_second=1 << 20)
    await migrating.migrate(outgoing)
    assert [command for command, _ in asked] == ["migrate-set-parameters"], "after a restart it is told"
    await migrating.migrate(outgoing)
    assert len(asked) == 1, "and else the time that it may be held for would shrink to that of the first pass"
    await migrating.migrate(replace(outgoing, bytes_per_second=2 << 20))
    assert asked[-1][1]["max-bandwidth"] == 2 << 20
