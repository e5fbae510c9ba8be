"""Makes the pools of a cloud's own cluster, and waits until the cluster is well."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gureum.errors import PoolError, PoolUnavailable
from gureum.files import write_atomically
from gureum.san.ceph.cluster import ADMIN, COPIES, COPIES_MIN, Cluster
from gureum.san.ceph.commands import Access, ask
from gureum.san.ceph.keys import user_rights
from gureum.san.ceph.sockets import is_in_map
from gureum.san.settings import DEFAULT_POOL, DEFAULT_USER

PLACEMENT_GROUPS = 32
"""For 3 to 16 OSDs: enough to spread load, few enough to cost an OSD little memory."""
PLACEMENT_GROUPS_FURTHER = 16
"""Of each further pool. With seven of them an OSD has 144 of the 250 that it may, and no pool has more than
ten times as many objects a group as all have on average, which would be a warning."""
ATTEMPT_TIMEOUT_S = 5.0
POLL_S = 0.25
LEAD_S = 2.0
EXISTS, TOO_MANY = -17, -34


def admin(cluster: Cluster) -> Access:
    return Access(cluster.conf, ADMIN, cluster.keyring(ADMIN))


def are_made(cluster: Cluster, further: Sequence[str] = ()) -> bool:
    """Whether there is the pool of all disks, and these besides; and the cloud's user may use no other."""
    try:
        return cluster.pool_mark.read_text().split() == sorted(further)
    except FileNotFoundError:
        return False


def have_pools(cluster: Cluster, deadline: float, further: Sequence[str] = ()) -> None:
    """The pool of all disks and those besides: made where they are missing. What is in others stays.

    ``deadline`` of time.monotonic(). Raises PoolError.
    """
    if are_made(cluster, further):
        return
    if not cluster.pool_mark.exists():
        # Clients that cannot read our clones (format 2: snapshots need no protection) are not let in.
        clients = {"prefix": "osd set-require-min-compat-client", "version": "mimic"}
        _until(cluster, deadline, [clients, *_pool_steps(DEFAULT_POOL, PLACEMENT_GROUPS)])
    rights = user_rights([DEFAULT_POOL, *sorted(further)])
    caps = [word for pair in rights.items() for word in pair]
    _until(cluster, deadline, [{"prefix": "auth caps", "entity": f"client.{DEFAULT_USER}", "caps": caps}])
    if further:
        # Who came before that has its old rights for an hour. It finds no pool, and comes again.
        time.sleep(LEAD_S)
    for name in further:
        _until(cluster, deadline, _pool_steps(name, PLACEMENT_GROUPS_FURTHER))
    write_atomically(cluster.pool_mark, "".join(f"{name}\n" for name in sorted(further)).encode())


def _pool_steps(name: str, groups: int) -> list[dict[str, Any]]:
    create = {
        "prefix": "osd pool create",
        "pool": name,
        "pg_num": groups,
        "pgp_num": groups,
        "pool_type": "replicated",
        "autoscale_mode": "off",
        "size": COPIES,
    }
    return [
        create,
        {"prefix": "osd pool set", "pool": name, "var": "min_size", "val": str(COPIES_MIN)},
        {"prefix": "osd pool application enable", "pool": name, "app": "rbd"},
        {"rbd init": name},
    ]


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
            if failed[0].code == TOO_MANY:
                raise PoolError(f"there are too many pools in the cluster: {trouble}")
        if time.monotonic() > deadline:
            raise PoolError(f"the pool could not be made: {trouble}")
        time.sleep(POLL_S)


def wait_joined(cluster: Cluster, osds: Iterable[str], deadline: float) -> bool:
    """Whether these joined in time. What the monitor says may be from before they were started."""
    sockets = [cluster.admin_socket(name) for name in osds]
    while not all(map(is_in_map, sockets)):
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
    states = [({*state["state_name"].split("+")}, state["count"]) for state in groups["pgs_by_state"]]
    # Stale: all its OSDs went at once, and what else is said of it was so before.
    usable = sum(count for names, count in states if "active" in names and "stale" not in names)
    return bool(0 < groups["num_pgs"] == usable)


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
