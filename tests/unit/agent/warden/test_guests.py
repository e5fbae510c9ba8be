"""Finding, stopping and ending the processes of a host's machines."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gureum.agent.warden.guests import Guests
from gureum.hypervisors.qemu.record import MARKER

Run = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def run() -> Iterator[Run]:
    processes = []

    def started(directory: Path) -> subprocess.Popen[bytes]:
        made = subprocess.Popen(["sleep", "1000"], env={"PATH": "/usr/bin:/bin", MARKER: str(directory)})
        processes.append(made)
        while not Path(f"/proc/{made.pid}/environ").read_bytes():
            time.sleep(0.001)  # exec has begun, and is not over
        return made

    yield started
    for each in processes:
        each.kill()
        each.wait(10)


def state(process: subprocess.Popen[bytes]) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2][:1]


def test_machines_of_this_host_are_stopped_and_go_on(tmp_path: Path, run: Run) -> None:
    ours, other = run(tmp_path / "machines" / "i-1"), run(tmp_path / "machines2" / "i-1")
    guests = Guests(f"{tmp_path}/machines")
    assert guests.pids() == [ours.pid]
    assert guests.stop()
    assert (state(ours), state(other)) == ("T", "S")
    late = run(tmp_path / "machines" / "i-2")
    assert guests.stop()
    assert state(late) == "T"
    guests.go_on()
    assert "T" not in (state(ours), state(late))


def test_stopped_ones_are_ended_too(tmp_path: Path, run: Run) -> None:
    ours = [run(tmp_path / "machines" / "i-1"), run(tmp_path / "machines" / "i-2")]
    other = run(tmp_path / "other" / "i-1")
    guests = Guests(f"{tmp_path}/machines/")
    ours[0].send_signal(signal.SIGSTOP)
    assert guests.kill()
    assert guests.pids() == []
    assert [each.wait(10) for each in ours] == [-signal.SIGKILL, -signal.SIGKILL]
    assert other.poll() is None


def test_there_may_be_none(tmp_path: Path) -> None:
    guests = Guests(str(tmp_path))
    assert guests.stop()
    assert guests.kill()
    guests.go_on()


def test_the_mark_is_the_hypervisors() -> None:
    from gureum.agent.warden import guests

    assert guests.MARKER == MARKER
