"""How tests are shared out among the processes that run a layer together."""

from __future__ import annotations

from typing import Any

from xdist.scheduler import LoadFileScheduling

VPC, SAN = "tests/system/vpc/", "tests/system/san"
TOGETHER = (VPC,)
"""Directories of tests with one world that takes long to make: a single process runs all of them."""
FIRST = (
    f"{SAN}/test_lost_hosts.py",
    VPC,
    f"{SAN}/test_san_faults.py",
    f"{SAN}/test_lost_machine.py",
    f"{SAN}/test_volume_types.py",
    f"{SAN}/test_backup.py",
    "tests/system/test_crash_points.py",
    "tests/system/hypervisors/test_migration_rbd.py",
    f"{SAN}/test_migration.py",
    f"{SAN}/test_emptying.py",
    "tests/system/test_cloud_hosts.py",
    "tests/system/test_manager_machines.py",
    f"{SAN}/test_rbd_pool.py",
    f"{SAN}/test_ceph_cluster.py",
    f"{SAN}/test_warden.py",
    f"{SAN}/test_moves.py",
)
"""What takes some minutes: begun last, it would be waited for alone."""


class Shares(LoadFileScheduling):
    """By files, or by directories that belong together."""

    def _split_scope(self, nodeid: str) -> str:
        return next((each for each in TOGETHER if nodeid.startswith(each)), super()._split_scope(nodeid))

    def _assign_work_unit(self, node: Any) -> None:
        first = next((each for each in FIRST if each in self.workqueue), None)
        if first is not None:
            self.workqueue.move_to_end(first, last=False)
        super()._assign_work_unit(node)

    def _reschedule(self, node: Any) -> None:
        """Not before its last test: what it has in hand early, another could begin at once."""
        if self._pending_of(self.assigned_work[node]) <= 1:
            super()._reschedule(node)
