"""Makes the pool of a cloud's own cluster, and waits until the cluster is well."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from gureum.errors import PoolError, PoolUnavailable
from gureum.files import write_atomically
from gureum.san.ceph.cluster import ADMIN, COPIES, COPIES_MIN, Cluster
from gureum.san.ceph.commands import Access, ask
from gureum.san.ceph.sockets import is_in_map
from gureum.san.settings import DEFAULT_POOL

PLACEMENT_GROUPS = 32
"""For 3 to 16 OSDs: enough to spread load, few enough to cost an OSD little memory."""
ATTEMPT_TIMEOUT_S = 5.0
POLL_S = 0.25
EXISTS = -17


def admin(cluster: Cluster) -> Access:
    return Access(cluster.conf, ADMIN, cluster.keyring(ADMIN))


def have_pool(cluster: Cluster, deadline: float) -> None:
    """The pool of all disks: made where it is missing. ``deadline`` of time.monotonic(). Raises PoolError."""
    if cluster.pool_mark.exists():
        return
    create = {
        "prefix": "osd pool create",
        "pool": DEFAULT_POOL,
        "pg_num": PLACEMENT_GROUPS,
        "pgp_num": PLACEMENT_GROUPS,
        "pool_type": "replicated",
        "autoscale_mode": "off",
        "size": COPIES,
    }
    steps: list[dict[str, Any]] = [
        # Clients that cannot read our clones (format 2: snapshots need no protection) are not let in.
        {"prefix": "osd set-require-min-compat-client", "version": "mimic"},
        create,
        {"prefix": "osd pool set", "pool": DEFAULT_POOL, "var": "min_size", "val": str(COPIES_MIN)},
        {"prefix": "osd pool application enable", "pool": DEFAULT_POOL, "app": "rbd"},
        {"rbd init": DEFAULT_POOL},
    ]
    _until(cluster, deadline, steps)
    write_atomically(cluster.pool_mark, b"")


def _until(cluster: Cluster, deadline: float, steps: list[dict[str, Any]]) -> None:
    """Repeats the steps, all of which may be repeated, until all are done."""
    while True:
        left_s = max(1.0, deadline - time.monotonic())
        try:
            answers = ask(admin(cluster), steps, timeout_s=min(left_s, 30.0))
        except PoolUnavailable as error:
            trouble = str(error)
        else:
            failed = [answer for answer in answers if answer.code not in (0, EXISTS)]
            if not failed:
                return
            trouble = failed[0].message or f"error {failed[0].code}"
        if time.monotonic() > deadline:
            raise PoolError(f"the pool could not be made: {trouble}")
        time.sleep(POLL_S)


def wait_joined(cluster: Cluster, deadline: float) -> bool:
    """Whether all OSDs joined in time. What the monitor says may be from before they were started."""
    while not all(is_in_map(cluster.admin_socket(name)) for name in cluster.osds):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def is_well(status: dict[str, Any]) -> bool:
    said: str = status["health"]["status"]
    return said == "HEALTH_OK"


def is_usable(status: dict[str, Any]) -> bool:
    """Whether everything can be read and written, with however many copies."""
    groups = status["pgmap"]
    active = [state for state in groups["pgs_by_state"] if "active" in state["state_name"].split("+")]
    return bool(0 < groups["num_pgs"] == sum(state["count"] for state in active))


def wait_for(
    cluster: Cluster, condition: Callable[[dict[str, Any]], bool], deadline: float
) -> dict[str, Any]:
    """The status of the cluster, once that is so or at the deadline. Raises PoolError, PoolUnavailable."""
    while True:
        try:
            answer = ask(admin(cluster), [{"prefix": "status"}], ATTEMPT_TIMEOUT_S)[0]
            status: dict[str, Any] = answer.document()
        except PoolUnavailable:
            if time.monotonic() > deadline:
                raise
        else:
            if condition(status) or time.monotonic() > deadline:
                return status
        time.sleep(POLL_S)
