from __future__ import annotations

from pathlib import Path

import pytest

from gureum.hypervisors.qemu.cgroup import (
    CONTROLLERS,
    PARENT,
    PARENT_SHARES,
    PARENT_WEIGHT,
    Cgroups,
    Limits,
)

LIMITS = Limits(vcpus=2, memory_bytes=1 << 30, pids=100)


def test_v2(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids io")
    cgroups = Cgroups(tmp_path)
    assert cgroups.create("i-1", LIMITS) == [tmp_path / PARENT / "i-1" / "cgroup.procs"]
    group = tmp_path / PARENT / "i-1"
    assert (group / "memory.max").read_text() == str(1 << 30)
    assert (group / "cpu.max").read_text() == "300000 100000"
    assert (group / "pids.max").read_text() == "100"
    assert (tmp_path / PARENT / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"
    assert (tmp_path / PARENT / "cpu.weight").read_text() == str(PARENT_WEIGHT)


def test_v1(tmp_path: Path) -> None:
    for controller in CONTROLLERS:
        (tmp_path / controller).mkdir()
    shares = tmp_path / "cpu" / PARENT / "cpu.shares"
    shares.parent.mkdir()
    shares.write_text("1024")
    cgroups = Cgroups(tmp_path)
    joins = cgroups.create("i-1", LIMITS)
    assert joins == [tmp_path / controller / PARENT / "i-1" / "cgroup.procs" for controller in CONTROLLERS]
    assert shares.read_text() == str(PARENT_SHARES)
    cgroups.remove("i-1")
    assert list(tmp_path.glob(f"*/{PARENT}/*")) == [shares]
    cgroups.remove("i-1")


def test_without_the_right_machines_run_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu")
    (tmp_path / PARENT).write_text("in the way")
    assert Cgroups(tmp_path).create("i-1", LIMITS) == []


def test_other_limits(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids io")
    cgroups = Cgroups(tmp_path)
    cgroups.limit("i-1", LIMITS)
    assert not (tmp_path / PARENT).exists()
    cgroups.create("i-1", LIMITS)
    cgroups.limit("i-1", Limits(vcpus=4, memory_bytes=2 << 30, pids=100))
    group = tmp_path / PARENT / "i-1"
    assert (group / "memory.max").read_text() == str(2 << 30)
    assert (group / "cpu.max").read_text() == "500000 100000"


def test_limits_that_are_refused_are_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As by the kernel, while a machine uses more than it is to have."""
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids io")
    cgroups = Cgroups(tmp_path)
    cgroups.create("i-1", LIMITS)
    limit = tmp_path / PARENT / "i-1" / "memory.max"
    limit.unlink()
    limit.mkdir()
    cgroups.limit("i-1", Limits(vcpus=1, memory_bytes=1 << 20, pids=100))
    assert "cannot set memory.max" in caplog.text
    assert (tmp_path / PARENT / "i-1" / "cpu.max").read_text() == "200000 100000"
