"""A control group for each machine's process, in cgroup v1 and v2.

Groups live in ``gureum/<machine>`` at the root of the hierarchies, beside the service that started us and not
under it, as machines outlive it. Where groups cannot be made (a container without the right), machines run
without.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

ROOT = Path("/sys/fs/cgroup")
PARENT = "gureum"
CONTROLLERS = ("memory", "cpu", "pids")
PERIOD_US = 100_000
SHARES_PER_CPU = 1024
WEIGHT_PER_CPU = 100

CPUS = os.cpu_count() or 1
PARENT_SHARES = min(262144, SHARES_PER_CPU * CPUS)
PARENT_WEIGHT = min(10_000, WEIGHT_PER_CPU * CPUS)
"""All machines together count as a task per CPU does; by default, as a single task of the host."""

Settings = list[tuple[str, str, str]]
"""(controller, file, value)"""


class Limits:
    """``memory_bytes`` and ``pids`` bound the process; it gets ``vcpus`` CPUs and one more for its
    devices.
    """

    def __init__(self, vcpus: int, memory_bytes: int, pids: int) -> None:
        self.vcpus = vcpus
        self.memory_bytes = memory_bytes
        self.pids = pids

    def v1(self) -> Settings:
        return [
            ("memory", "memory.limit_in_bytes", str(self.memory_bytes)),
            ("cpu", "cpu.shares", str(SHARES_PER_CPU * self.vcpus)),
            ("cpu", "cpu.cfs_period_us", str(PERIOD_US)),
            ("cpu", "cpu.cfs_quota_us", str(PERIOD_US * (self.vcpus + 1))),
            ("pids", "pids.max", str(self.pids)),
        ]

    def v2(self) -> Settings:
        return [
            ("memory", "memory.max", str(self.memory_bytes)),
            ("cpu", "cpu.weight", str(min(10_000, WEIGHT_PER_CPU * self.vcpus))),
            ("cpu", "cpu.max", f"{PERIOD_US * (self.vcpus + 1)} {PERIOD_US}"),
            ("pids", "pids.max", str(self.pids)),
        ]


class Cgroups:
    """The groups of one host. ``root`` is where cgroup file systems are mounted."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._unified = (root / "cgroup.controllers").exists()
        self._warned = False

    def create(self, name: str, limits: Limits) -> list[Path]:
        """Make the machine's groups; returns the files into which its process writes itself."""
        try:
            return self._create_v2(name, limits) if self._unified else self._create_v1(name, limits)
        except OSError as error:
            if not self._warned:
                log.warning("machines run without control groups: %s", error)
                self._warned = True
            return []

    def _create_v1(self, name: str, limits: Limits) -> list[Path]:
        joins: list[Path] = []
        for controller in CONTROLLERS:
            if not (self._root / controller).is_dir():
                continue
            group = self._root / controller / PARENT / name
            group.mkdir(parents=True, exist_ok=True)
            joins.append(group / "cgroup.procs")
        shares = self._root / "cpu" / PARENT / "cpu.shares"
        if shares.exists():
            shares.write_text(str(PARENT_SHARES))
        for controller, file, value in limits.v1():
            setting = self._root / controller / PARENT / name / file
            if setting.exists():
                setting.write_text(value)
        return joins

    def _create_v2(self, name: str, limits: Limits) -> list[Path]:
        parent = self._root / PARENT
        parent.mkdir(exist_ok=True)
        available = set((self._root / "cgroup.controllers").read_text().split())
        enable = " ".join(f"+{name}" for name in CONTROLLERS if name in available)
        for directory in (self._root, parent):
            (directory / "cgroup.subtree_control").write_text(enable)
        if "cpu" in available:
            (parent / "cpu.weight").write_text(str(PARENT_WEIGHT))
        group = parent / name
        group.mkdir(exist_ok=True)
        for controller, file, value in limits.v2():
            if controller in available:
                (group / file).write_text(value)
        return [group / "cgroup.procs"]

    def limit(self, name: str, limits: Limits) -> None:
        """Bound the machine's groups otherwise, as far as there are any."""
        for controller, file, value in limits.v2() if self._unified else limits.v1():
            group = self._root / ("" if self._unified else controller) / PARENT / name
            try:
                if (group / file).exists():
                    (group / file).write_text(value)
            except OSError as error:
                # A machine that has just given memory up may use a little more than it is to for a moment.
                log.warning("cannot set %s of control group %s: %s", file, group, error)

    def remove(self, name: str) -> None:
        """Remove the machine's groups, whose process has ended."""
        for group in self._groups(name):
            try:
                group.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                log.warning("cannot remove control group %s: %s", group, error)

    def _groups(self, name: str) -> Iterator[Path]:
        if self._unified:
            yield self._root / PARENT / name
        else:
            for controller in CONTROLLERS:
                yield self._root / controller / PARENT / name
