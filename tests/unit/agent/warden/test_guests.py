"""Finding, stopping and ending the processes of a host's machines."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
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
        each.wait(60)


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
    assert [each.wait(60) for each in ours] == [-signal.SIGKILL, -signal.SIGKILL]
    assert other.poll() is None


def test_there_may_be_none(tmp_path: Path) -> None:
    guests = Guests(str(tmp_path))
    assert guests.stop()
    assert guests.kill()
    guests.go_on()


THREADS = """
import ctypes, sys, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
sys.stdin.read()
ctypes.CDLL(None).syscall(60, 0)  # exit: of the first thread only
"""


def test_a_process_lives_as_long_as_any_of_its_threads(tmp_path: Path) -> None:
    machine, command = tmp_path / "machines" / "i-1", [sys.executable, "-c", THREADS]
    process = subprocess.Popen(command, env={MARKER: str(machine)}, stdin=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        guests = Guests(f"{tmp_path}/machines")
        while guests.pids() != [process.pid] and time.monotonic() < deadline:
            pass  # its environment is not there from the very beginning
        assert process.stdin is not None
        process.stdin.close()
        while state(process) != "Z" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert state(process) == "Z"
        assert guests.pids() == [process.pid]
        threads = Path(f"/proc/{process.pid}/task")
        assert guests.stop()
        assert {(each / "stat").read_text().rpartition(") ")[2][0] for each in threads.iterdir()} == {
            "Z",
            "T",
        }
        guests.go_on()
        assert guests.kill()
        assert process.wait(60) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait(60)


def test_those_found_before_are_stopped_and_ended_while_another_cannot_be_looked_at(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = run(tmp_path / "machines" / "i-1")
    guests = Guests(f"{tmp_path}/machines")
    assert guests.look()
    monkeypatch.setattr("gureum.agent.warden.guests.SETTLE_SECONDS", 0.2)
    hangs, goes_on = run(tmp_path / "machines" / "i-2"), threading.Event()
    read = Guests._is_ours

    def look(self: Guests, pid: int) -> bool:
        if pid == hangs.pid:
            goes_on.wait(60)
        return read(self, pid)

    monkeypatch.setattr(Guests, "_is_ours", look)
    assert not guests.stop()
    assert (state(known), state(hangs)) == ("T", "S")
    guests.go_on()
    assert not guests.kill()
    assert known.wait(60) == -signal.SIGKILL
    monkeypatch.setattr("gureum.agent.warden.guests.SETTLE_SECONDS", 60.0)
    goes_on.set()
    assert guests.kill()
    assert hangs.wait(60) == -signal.SIGKILL


def test_a_stranger_that_hangs_is_not_looked_at_again(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gureum.agent.warden import guests as module

    ours, stranger = run(tmp_path / "machines" / "i-1"), run(tmp_path / "other" / "i-1")
    guests = Guests(f"{tmp_path}/machines")
    assert guests.look()
    looked: list[int] = []
    real, read = module._stat, Guests._is_ours
    stuck = {f"/proc/{stranger.pid}": b"D"}
    monkeypatch.setattr(module, "_stat", lambda path: (stuck.get(path, real(path)[0]), real(path)[1]))

    def look(self: Guests, pid: int) -> bool:
        looked.append(pid)
        return read(self, pid)

    monkeypatch.setattr(Guests, "_is_ours", look)
    assert guests.pids() == [ours.pid]
    assert looked
    assert stranger.pid not in looked
    stuck.clear()
    assert guests.look()
    assert stranger.pid in looked


def test_machines_known_are_stopped_at_once(tmp_path: Path, run: Run) -> None:
    ours = run(tmp_path / "machines" / "i-1")
    guests = Guests(f"{tmp_path}/machines")
    assert guests.look()
    guests.stop_known()
    assert guests.stop()  # waits until they are
    assert state(ours) == "T"
    guests.go_on()
    assert state(ours) != "T"


def test_the_mark_is_the_hypervisors() -> None:
    from gureum.agent.warden import guests

    assert guests.MARKER == MARKER
