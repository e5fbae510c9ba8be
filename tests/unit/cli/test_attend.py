import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gureum.cli.children import package_root
from gureum.cli.processes import identify, write_pid_file

# attend() in a process of its own. Instead of `down` it becomes a program that shows what it was told.
ATTEND = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job, as CI may be, ignores it
sys.path[:0] = [{root!r}]
from gureum.cli import attend
os.execv = lambda _program, command: (print(*command[2:]), sys.exit(0))
original = attend.wait_gone
attend.wait_gone = lambda *arguments: (print("waiting", flush=True), original(*arguments))[1]
sys.exit(attend.main(["--state-dir", {state!r}]))
"""


@pytest.fixture
def supervised() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def attending(tmp_path: Path, supervised: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[str]]:
    (tmp_path / "run").mkdir()
    identity = identify(supervised.pid)
    assert identity is not None
    write_pid_file(tmp_path / "run" / "supervisor.pid", identity)
    code = ATTEND.format(root=package_root(), state=str(tmp_path))
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-S", "-c", code], stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_becomes_down_when_told_to_end(
    attending: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    attending.send_signal(number)
    said, _ = attending.communicate(timeout=30)
    assert said == f"-m gureum.cli down --state-dir {tmp_path}\n"
    assert attending.returncode == 0


def test_ends_with_the_cloud(
    attending: subprocess.Popen[str], supervised: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    os.unlink(tmp_path / "run" / "supervisor.pid")
    supervised.kill()
    _, said = attending.communicate(timeout=30)
    assert (attending.returncode, said) == (0, "the cloud was stopped\n")


def test_says_that_the_supervisor_was_killed(
    attending: subprocess.Popen[str], supervised: subprocess.Popen[bytes]
) -> None:
    supervised.kill()
    _, said = attending.communicate(timeout=30)
    assert attending.returncode == 1
    assert "gureum up" in said
