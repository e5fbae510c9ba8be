"""What QEMU says of disks on their way to another host, and what is made of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from gureum.env import Env
from gureum.errors import HypervisorError
from gureum.hypervisors.qemu.disk_copies import SPEED_MIN, Copy, DiskCopies, Roads, parse_copy
from gureum.hypervisors.qemu.monitor import CommandError
from gureum.hypervisors.qemu.progress import sends


class Qemu:
    """Jobs that become what they are asked for."""

    id = "i-1"

    def __init__(self, **jobs: dict[str, Any]) -> None:
        self.jobs = {f"{volume}.copy": {"id": f"{volume}.copy", **job} for volume, job in jobs.items()}
        self.asked: list[tuple[str, Any]] = []
        self.ends = True

    async def execute(self, command: str, arguments: Any = None) -> Any:
        self.asked.append((command, arguments))
        match command:
            case "query-jobs":
                return list(self.jobs.values())
            case "query-yank":
                return [{"type": "block-node", "node-name": "copy.a"}, {"type": "migration"}]
            case "block-job-cancel" if self.ends:
                job = self.jobs[arguments["device"]]
                job["status"] = "concluded"
                if arguments.get("force"):
                    job["error"] = "Operation canceled"
            case "job-dismiss":
                del self.jobs[arguments["id"]]
            case "blockdev-del" if arguments["node-name"] != "copy.a":
                raise CommandError("i-1: blockdev-del", "GenericError", "no such node")
        return {}

    def commands(self) -> list[str]:
        return [command for command, _ in self.asked if command != "query-jobs"]


def copies(qemu: Qemu, roads: Roads | None = None) -> DiskCopies:
    return DiskCopies(Env(), qemu, None, roads or Roads())  # type: ignore[arg-type]


def test_jobs_of_others_are_none() -> None:
    assert parse_copy({"id": "vol-1.10.2f61.mirror", "status": "ready"}) is None
    job = {"id": "vol-1.copy", "status": "running", "current-progress": 3, "total-progress": 5}
    assert parse_copy(job) == Copy("vol-1", "running", "", 3, 5)


@pytest.mark.parametrize(
    ("status", "error", "ready", "ended", "failed"),
    [
        ("running", "", False, False, False),
        ("ready", "", True, False, False),
        ("standby", "", True, False, False),
        ("concluded", "", False, True, False),
        ("concluded", "Input/output error", False, False, True),
        ("aborting", "", False, False, True),
    ],
)
def test_how_far_a_copy_is(status: str, error: str, ready: bool, ended: bool, failed: bool) -> None:
    copy = Copy("vol-1", status, error, 0, 0)
    assert (copy.ready, copy.ended, bool(copy.failure)) == (ready, ended, failed)
    assert copy.over == (failed or ended)


async def test_ended_without_force_and_kept_as_evidence() -> None:
    qemu = Qemu(a={"status": "ready"}, b={"status": "concluded"})
    assert await copies(qemu).end(["b", "a"]) == ("a", "b")
    cancels = [arguments for command, arguments in qemu.asked if command == "block-job-cancel"]
    assert cancels == [{"device": "a.copy"}]
    assert "job-dismiss" not in qemu.commands()


@pytest.mark.parametrize(
    "jobs",
    [{"a": {"status": "ready"}}, {"a": {"status": "ready"}, "b": {"status": "concluded", "error": "x"}}],
)
async def test_not_whole(jobs: dict[str, Any]) -> None:
    with pytest.raises(HypervisorError, match=r"b is not being copied|b could not be copied: x"):
        await copies(Qemu(**jobs)).end(["a", "b"])


async def test_a_destination_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gureum.hypervisors.qemu.disk_copies.END_SECONDS", 0.0)
    qemu = Qemu(a={"status": "ready"})
    qemu.ends = False
    with pytest.raises(HypervisorError, match="does not say that it has all of a"):
        await copies(qemu).end(["a"])


async def test_dropped_whatever_the_destination_does() -> None:
    qemu = Qemu(a={"status": "ready"}, b={"status": "concluded", "error": "x"})
    await copies(qemu).drop()
    assert qemu.jobs == {}
    [yank] = [arguments for command, arguments in qemu.asked if command == "yank"]
    assert yank == {"instances": [{"type": "block-node", "node-name": "copy.a"}]}
    assert qemu.commands()[-1] == "blockdev-del"


@pytest.fixture
def road() -> Iterator[tuple[Roads, socket.socket]]:
    """And its other end. QEMU has the connection, too."""
    ours, other = socket.socketpair()
    with ours.dup(), other:
        other.settimeout(30)
        roads = Roads()
        roads.add(ours)
        yield roads, other


async def test_a_road_is_cut_though_qemu_has_it_and_does_not_answer(
    road: tuple[Roads, socket.socket],
) -> None:
    roads, other = road
    qemu = Qemu()

    async def silent(command: str, arguments: Any = None) -> Any:
        raise HypervisorError(f"{command}: no answer")

    qemu.execute = silent  # type: ignore[method-assign]
    with pytest.raises(HypervisorError, match="no answer"):
        await copies(qemu, roads).drop()
    assert other.recv(1) == b""


async def test_a_road_that_was_used_to_its_end_is_not_cut(road: tuple[Roads, socket.socket]) -> None:
    roads, other = road
    qemu = Qemu(a={"status": "ready"})
    await copies(qemu, roads).end(["a"])
    await copies(qemu, roads).drop()
    other.setblocking(False)
    with pytest.raises(BlockingIOError):
        other.recv(1)


async def test_a_bound_is_shared_by_the_disks() -> None:
    qemu = Qemu(a={"status": "running"}, b={"status": "ready"}, c={"status": "concluded"})
    await copies(qemu).limit(["a", "b"], 8 << 20)
    await copies(qemu).limit(["a", "b"], 1)
    await copies(qemu).limit(["a", "b"], 0)
    speeds = [arguments["speed"] for command, arguments in qemu.asked if command == "block-job-set-speed"]
    assert speeds == [4 << 20, 4 << 20, SPEED_MIN, SPEED_MIN, 0, 0]


@pytest.mark.parametrize(
    ("status", "run_state", "sent"),
    [
        ("none", "running", False),
        ("completed", "running", False),
        ("failed", "running", False),
        ("cancelled", "running", False),
        ("completed", "postmigrate", True),
        ("active", "running", True),
        ("pre-switchover", "finish-migrate", True),
    ],
)
def test_whether_memory_is_sent(status: str, run_state: str, sent: bool) -> None:
    assert sends({"status": status}, run_state) == sent
