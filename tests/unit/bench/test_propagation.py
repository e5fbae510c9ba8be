"""What tells that a change is in force: each of the kernels must have said so."""

import subprocess
import time

import pytest

from gureum.bench import propagation
from gureum.bench.propagation import Monitors
from gureum.bench.servers import BenchError


def started(script: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE)


def ended(*processes: "subprocess.Popen[bytes]") -> None:
    for process in processes:
        process.kill()
        process.communicate()


def test_the_last_one_counts() -> None:
    slow = started("echo 20000; sleep 0.3; printf 200; sleep 0.1; echo 01; sleep 10")
    quick = started("echo add rule 20001; sleep 10")
    try:
        began = time.monotonic()
        assert Monitors({"one": slow, "other": quick}).until("20001") - began >= 0.3
    finally:
        ended(slow, quick)


def test_what_never_comes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(propagation, "CHANGE_SECONDS_MAX", 0.2)
    silent, quick = started("sleep 10"), started("echo 20001; sleep 10")
    try:
        with pytest.raises(BenchError, match=r"in one$"):
            Monitors({"one": silent, "other": quick}).until("20001")
    finally:
        ended(silent, quick)


def test_one_that_ends_is_noticed() -> None:
    over = started("echo 1")
    try:
        with pytest.raises(BenchError, match="ended"):
            Monitors({"one": over}).until("20001")
    finally:
        ended(over)
