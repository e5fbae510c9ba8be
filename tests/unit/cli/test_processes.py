import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gureum.cli.processes import (
    Identity,
    identify,
    is_alive,
    read_pid_file,
    rss_kib,
    send,
    start_ticks,
    stop,
    wait_gone,
    write_pid_file,
)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def identity_of(process: subprocess.Popen[bytes]) -> Identity:
    identity = identify(process.pid)
    assert identity is not None
    return identity


def test_own_process_is_alive() -> None:
    identity = identify(os.getpid())
    assert identity is not None
    assert is_alive(identity)
    assert rss_kib(os.getpid()) or 0 > 1000


def test_pid_file_names_a_running_process(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    path = tmp_path / "x.pid"
    write_pid_file(path, identity_of(sleeper))
    assert read_pid_file(path) == identity_of(sleeper)


@pytest.mark.parametrize("text", ["", "12", "a b c", "1 2 3 4", "\0" * 300])
def test_damaged_pid_file_names_nobody(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.pid"
    path.write_text(text)
    assert read_pid_file(path) is None


def test_missing_pid_file_names_nobody(tmp_path: Path) -> None:
    assert read_pid_file(tmp_path / "x.pid") is None


@pytest.mark.parametrize("change", [{"start_ticks": 1}, {"boot_id": "another-boot"}])
def test_reused_pid_is_neither_found_nor_killed(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], change: dict[str, int | str]
) -> None:
    identity = identity_of(sleeper)
    for key, value in change.items():
        setattr(identity, key, value)
    write_pid_file(tmp_path / "x.pid", identity)
    assert read_pid_file(tmp_path / "x.pid") is None
    assert not send(identity, signal.SIGKILL)
    assert stop([identity], 1.0) == []
    assert sleeper.poll() is None


def test_zombie_counts_as_gone() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert start_ticks(process.pid) is None
    process.wait()


def test_stop_terminates(sleeper: subprocess.Popen[bytes]) -> None:
    assert stop([identity_of(sleeper)], 10.0) == []
    assert sleeper.wait() == -signal.SIGTERM


def test_stop_kills_what_does_not_listen() -> None:
    code = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        identity = identity_of(process)
        assert stop([identity], 0.05) == [identity]
        assert process.wait() == -signal.SIGKILL


def test_wait_gone_of_a_process_that_never_was() -> None:
    assert wait_gone(Identity(2**22 - 1, 1, "x"), 0.0)
