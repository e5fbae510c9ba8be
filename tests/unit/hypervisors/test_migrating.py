"""What QEMU says of a migration, and what it is told."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from gureum.env import Env
from gureum.errors import HypervisorError
from gureum.hostspec import MachineState
from gureum.hypervisors import messages
from gureum.hypervisors.base import Migration, Outgoing
from gureum.hypervisors.qemu import migrating
from gureum.hypervisors.qemu.machine import Machine
from gureum.hypervisors.qemu.migrating import Migrating
from gureum.hypervisors.qemu.monitor import CommandError
from gureum.hypervisors.qemu.progress import downtime_limit, parse_figures, parse_phase
from gureum.migrationspec import MigrationPhase
from gureum.sizespec import MachineSize

GIB = 1 << 30
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
    assert (found.total_ms, found.downtime_ms, found.error) == (7, 0, "")


def test_memory_that_it_could_have_but_has_not_is_not_to_be_copied() -> None:
    ram = {"remaining": 4096, "total": 4 * GIB + 70, "mbps": 0.1, "pages-per-second": 1000, "page-size": 4096}
    size = MachineSize(vcpus=1, vcpus_max=1, memory_bytes=GIB, memory_min_bytes=GIB, memory_max_bytes=4 * GIB)
    found = parse_figures(STATUS, {"status": "active", "ram": ram}, size)
    assert found.total_bytes == GIB + 70
    assert found.passed_bytes_per_second == 4_096_000, "pages that are zero are done, too"
    grown = replace(size, memory_bytes=3 * GIB)
    assert parse_figures(STATUS, {"status": "active", "ram": ram}, grown).total_bytes == 3 * GIB + 70
    before_it_says = parse_figures(replace(STATUS, total_bytes=7), {"status": "setup"}, size)
    assert before_it_says.total_bytes == 7


def test_figures_in_the_end() -> None:
    answer = {"status": "completed", "total-time": 400, "downtime": 6, "expected-downtime": 300}
    found = parse_figures(STATUS, answer)
    assert (found.total_ms, found.downtime_ms) == (400, 6)


def test_why_it_has_failed() -> None:
    assert parse_figures(STATUS, {"status": "failed", "error-desc": "gone"}).error == "gone"
    assert parse_figures(STATUS, {"status": "failed"}).error != ""
    assert parse_figures(STATUS, {"status": "cancelled"}).error == messages.CANCELLED


def test_a_guest_that_writes_faster_than_is_copied_is_held_longer() -> None:
    outgoing = Outgoing(migration="mig-1", secret=b"", address="", downtime_ms=50, downtime_max_ms=500)
    limits = [downtime_limit(outgoing, passes) for passes in (0, 4, 5, 6, 8, 10, 31, 32, 34, 1000)]
    assert limits == [50, 50, 50, 100, 200, 200, 200, 400, 500, 500]


class Qemu:
    """A machine, and the monitor of its QEMU: ``says`` by command, the last one again and again."""

    id = "i-1"
    generation = 1

    def __init__(self, directory: Path, incoming: bool = False) -> None:
        self.says: dict[str, list[Any]] = {}
        self.asked: list[str] = []
        self.arguments: dict[str, Any] = {}
        self.env = Env()
        self.saved = SimpleNamespace(
            migration="mig-1", incoming=incoming, frozen=False, listens="", exports="", uid=0
        )
        self.files = SimpleNamespace(directory=directory)
        self.freezer = SimpleNamespace(settled=self.nothing)
        self.resizing = SimpleNamespace(status=None)
        self.state, self.message, self.lives = MachineState.running, "", True
        self.run_state = "running"
        self.migrating = Migrating(cast(Machine, self))

    @property
    def connected(self) -> bool:
        return self.lives

    def monitor(self) -> Qemu:
        return self

    def disks(self) -> None:
        """None is asked for."""

    async def nothing(self) -> None:
        """There is nothing to wait for."""

    async def save(self, **_changes: object) -> None:
        """It is kept."""

    def migration_changed(self) -> None:
        """Nobody looks."""

    async def refresh(self) -> None:
        said: Any = await self.execute("query-status")
        self.run_state = said["status"]
        if self.run_state == "running":
            self.migrating.runs()

    async def send_file(self, *_: object) -> int:
        return 3

    async def send_named_file(self, *_: object) -> None:
        """QEMU has it."""

    async def execute(self, command: str, arguments: Any = None, seconds: float = 0.0) -> object:
        self.asked.append(command)
        self.arguments[command] = arguments
        await asyncio.sleep(0)
        said = self.says.get(command, [{}])
        answer = said.pop(0) if len(said) > 1 else said[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def until(self, phase: MigrationPhase) -> Migration:
        async with asyncio.timeout(60):
            while self.migrating.status is None or self.migrating.status.phase is not phase:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        return self.migrating.status


SILENT = HypervisorError("no answer in 10 s")
OUTGOING = Outgoing(migration="mig-1", secret=bytes(32), address="192.0.2.1:5", bytes_per_second=1 << 20)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrating, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(migrating.secret_dir, "write", lambda *_: os.open(os.devnull, os.O_RDONLY))

    async def connect(address: str, secret: bytes, migration: str) -> socket.socket:
        return socket.socket()

    monkeypatch.setattr(migrating, "connect", connect)


async def test_asked_for_again_it_begins_nothing_anew(tmp_path: Path) -> None:
    qemu = Qemu(tmp_path)
    qemu.migrating.status = STATUS
    await qemu.migrating.migrate(OUTGOING)
    assert qemu.asked == ["migrate-set-parameters"], "after a restart it is told"
    await qemu.migrating.migrate(OUTGOING)
    assert len(qemu.asked) == 1, "and else the time that it may be held for would shrink to that of the first"
    await qemu.migrating.migrate(replace(OUTGOING, bytes_per_second=2 << 20))
    assert qemu.arguments["migrate-set-parameters"]["max-bandwidth"] == 2 << 20


async def test_what_ends_while_an_agent_starts_is_seen(tmp_path: Path) -> None:
    """The event came before anybody listened to it, and after QEMU was asked."""
    qemu = Qemu(tmp_path, incoming=True)
    qemu.says["query-migrate"] = [{"status": "active"}, SILENT, {"status": "active"}, {"status": "completed"}]
    await qemu.migrating.load()
    assert (await qemu.until(MigrationPhase.completed)).incoming
    qemu.migrating.close()


async def test_a_command_that_is_not_answered_in_time_may_have_begun(tmp_path: Path) -> None:
    qemu = Qemu(tmp_path)
    qemu.says["migrate"] = [SILENT]
    qemu.says["query-migrate"] = [SILENT, {"status": "active"}]
    await qemu.migrating.migrate(OUTGOING)
    assert (await qemu.until(MigrationPhase.copying)).migration == "mig-1"
    qemu.says["migrate_cancel"] = [SILENT, {}]
    with pytest.raises(HypervisorError):
        await qemu.migrating.cancel()
    qemu.says["query-migrate"] = [{"status": "active"}, {"status": "cancelled"}]
    qemu.says["query-status"] = [{"status": "running"}]
    await qemu.migrating.cancel()
    assert (await qemu.until(MigrationPhase.failed)).error == messages.CANCELLED
    qemu.migrating.close()


async def test_a_command_that_never_came_has_not_begun(tmp_path: Path) -> None:
    qemu = Qemu(tmp_path)
    qemu.says["migrate"] = [SILENT]
    qemu.says["query-migrate"] = [SILENT, {}]
    await qemu.migrating.migrate(OUTGOING)
    assert (await qemu.until(MigrationPhase.failed)).error == messages.NOT_BEGUN
    qemu.migrating.close()


async def test_a_command_that_is_refused_has_not_begun(tmp_path: Path) -> None:
    qemu = Qemu(tmp_path)
    qemu.says["migrate"] = [CommandError("migrate", "GenericError", "no")]
    with pytest.raises(HypervisorError, match="no"):
        await qemu.migrating.migrate(OUTGOING)
    assert qemu.migrating.status is None


async def test_a_machine_that_ends_at_the_command_does_not_leave(tmp_path: Path) -> None:
    qemu = Qemu(tmp_path)
    qemu.says["migrate"] = [SILENT]
    qemu.lives = False
    with pytest.raises(HypervisorError):
        await qemu.migrating.migrate(OUTGOING)
    assert (await qemu.until(MigrationPhase.failed)).error == str(SILENT)


async def test_a_guest_that_goes_on_later_than_was_waited_for_has_stayed(tmp_path: Path) -> None:
    qemu = Qemu(tmp_path)
    qemu.migrating.status = replace(STATUS, phase=MigrationPhase.completed)
    qemu.says["query-status"] = [{"status": "running"}]
    await qemu.refresh()  # asked before it was completed
    assert qemu.migrating.away
    qemu.says["cont"] = [SILENT]
    with pytest.raises(HypervisorError):
        await qemu.migrating.go_on()
    assert qemu.migrating.away
    await qemu.refresh()
    assert (await qemu.until(MigrationPhase.failed)).error == messages.STAYED
    assert not qemu.migrating.under_way


@pytest.mark.parametrize(
    ("now", "phase"),
    [
        ("postmigrate", MigrationPhase.completed),
        ("finish-migrate", MigrationPhase.copying),
        ("running", MigrationPhase.failed),
    ],
)
async def test_what_is_found_completed_is_held_now_or_has_stayed(
    tmp_path: Path, now: str, phase: MigrationPhase
) -> None:
    """It ran when it was connected to, in each case."""
    qemu = Qemu(tmp_path)
    qemu.says["query-migrate"] = [{"status": "completed"}]
    qemu.says["query-status"] = [{"status": now}]
    await qemu.migrating.load()
    assert qemu.migrating.status is not None
    assert qemu.migrating.status.phase is phase
    qemu.migrating.close()


COPIES = replace(OUTGOING, copies=("vol-1",), disks_address="192.0.2.1:6")
JOB = {"id": "vol-1.copy", "status": "running"}


async def failed_copy(qemu: Qemu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose QEMU does not answer when it is to be let go of."""
    monkeypatch.setattr(migrating, "DROP_AGAIN_SECONDS", 0.01)
    qemu.saved.migration = COPIES.migration
    qemu.migrating.status, qemu.migrating._volumes = STATUS, COPIES.copies
    qemu.migrating._disks_first = True
    qemu.says["query-jobs"] = [[{**JOB, "status": "aborting"}], SILENT, [JOB], []]
    qemu.says["query-yank"] = [SILENT, []]
    await qemu.migrating._look_at_disks()
    assert (await qemu.until(MigrationPhase.failed)).error


async def test_copies_that_could_not_be_let_go_of_are_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu = Qemu(tmp_path)
    await failed_copy(qemu, monkeypatch)
    async with asyncio.timeout(60):
        while "block-job-cancel" not in qemu.asked:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert qemu.asked.count("query-yank") == 3
    qemu.migrating.close()


async def test_another_attempt_is_not_ended_by_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its copies are called the same."""
    qemu = Qemu(tmp_path)
    await failed_copy(qemu, monkeypatch)
    begun: list[str] = []

    async def begin(*_: object) -> None:
        await asyncio.sleep(0.1)
        begun.extend(qemu.asked)
        begun.append("begun")

    monkeypatch.setattr(migrating.DiskCopies, "begin", begin)
    await qemu.migrating.migrate(replace(COPIES, migration="mig-2"))
    qemu.says["query-jobs"] = [[JOB]]
    await asyncio.sleep(0.1)
    assert begun[-1] == "begun"
    assert "block-job-cancel" not in qemu.asked
    assert qemu.asked.count("query-yank") == begun.count("query-yank")
    qemu.migrating.close()


async def test_what_began_of_an_attempt_that_failed_is_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu = Qemu(tmp_path)
    qemu.saved.migration = ""
    monkeypatch.setattr(migrating, "DROP_AGAIN_SECONDS", 0.01)
    dropped: list[str] = []

    async def begin(*_: object) -> None:
        raise HypervisorError("the second disk can't be opened")

    async def drop(_: object) -> None:
        dropped.append("tried")
        if len(dropped) < 3:
            raise SILENT

    monkeypatch.setattr(migrating.DiskCopies, "begin", begin)
    monkeypatch.setattr(migrating.DiskCopies, "drop", drop)
    with pytest.raises(HypervisorError, match="second disk"):
        await qemu.migrating.migrate(COPIES)
    async with asyncio.timeout(60):
        while len(dropped) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    qemu.migrating.close()
