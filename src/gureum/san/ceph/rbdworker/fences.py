"""Leases of hosts in the cluster, and fences: what a host's warden and the agents of others do with them.

    gureum.host.CLOUD.HOST     has the lease: a lock that expires unless the host's warden renews it
    gureum.fence.CLOUD.HOST    a JSON object of three numbers, ``Marks``, always as long: in a full cluster it
                               can be changed, and could not grow

Who fences a host writes its mark, and then waits until the host's warden has ended all machines, or until the
lease has expired and could be taken from it: a warden reads the marks after each renewal, and lets nothing
run any more before the lease expires. Times are compared nowhere, only waited for.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, NamedTuple

import rados

from . import encoding

LOCK = "gureum.host"
MAY_RENEW = 1
"""LIBRADOS_LOCK_FLAG_RENEW."""
BY_WARDEN, BY_FENCE = "warden", "fence"
"""How the cookie of a lease begins: "warden/CLOUD/HOST/WHICH", "fence/NUMBER/HOST", the host that fences."""
BYTES = 256
TRIES = 20


class Marks(NamedTuple):
    """As agent/warden/custody.py has them."""

    fence: int = 0
    lifted: int = 0
    killed: int = 0


class Contended(Exception):
    """Others write the same object again and again."""


def lease_object(cloud: str, host: str) -> str:
    return f"gureum.host.{cloud}.{host}"


def _marks_object(cloud: str, host: str) -> str:
    return f"gureum.fence.{cloud}.{host}"


def read(io: Any, cloud: str, host: str) -> Marks:
    return _decoded(_content(io, _marks_object(cloud, host)))


def _content(io: Any, object: str) -> bytes:
    """b"" if it is not there."""
    try:
        return bytes(io.read(object, BYTES))
    except rados.ObjectNotFound:
        return b""


def _decoded(data: bytes) -> Marks:
    found = json.loads(data) if data else {}
    return Marks(*(int(found.get(name, 0)) for name in Marks._fields))


def write(io: Any, cloud: str, host: str, fence: int = 0, lifted: int = 0, killed: int = 0) -> Marks:
    """Have each number be at least that, and say what they are then. Also while others do so."""
    object = _marks_object(cloud, host)
    for _ in range(TRIES):
        content = _content(io, object)
        present = _decoded(content)
        wanted = Marks(*map(max, present, (fence, lifted, killed)))
        if content and wanted == present:
            return present
        with rados.WriteOpCtx() as op:
            if content:
                op.cmpext(content, 0)
            else:
                op.new(rados.LIBRADOS_CREATE_EXCLUSIVE)
            op.write_full(json.dumps(wanted._asdict()).encode().ljust(BYTES))
            try:
                io.operate_write_op(op, object)
            except (rados.ObjectExists, rados.ExtendMismatch):
                continue
            return wanted
    raise Contended(object)


def renew(io: Any, cloud: str, host: str, cookie: str, seconds: int) -> bool:
    """Have the lease for so long from now on; whether nobody else has it."""
    return _lock(io, lease_object(cloud, host), cookie, seconds)


def _lock(io: Any, object: str, cookie: str, seconds: int) -> bool:
    try:
        io.lock_exclusive(object, LOCK, cookie, "", seconds, MAY_RENEW)
    except (rados.ObjectBusy, rados.ObjectExists):
        return False
    return True


def holder(io: Any, cloud: str, host: str) -> encoding.Locker | None:
    """Of a lease that has not expired."""
    try:
        _, data = io.execute(lease_object(cloud, host), "lock", "get_info", encoding.lock_name(LOCK))
    except rados.ObjectNotFound:
        return None
    return next(iter(encoding.lockers(data).all), None)


def give_up(io: Any, cloud: str, host: str, locker: encoding.Locker) -> None:
    """Take the lease from whoever has it; not if it is another one by now."""
    with suppress(rados.ObjectNotFound):
        io.execute(lease_object(cloud, host), "lock", "break_lock", encoding.break_lock(LOCK, locker))


class State(NamedTuple):
    """``expires``: until when who has the lease now has it, as the cluster writes it; "" for nobody."""

    done: bool
    expires: str
    message: str


def state(io: Any, cloud: str, host: str, number: int, fencer: str, seconds: int) -> State:
    """How far the fence is whose mark is written. Takes the lease for ``seconds`` where it has expired.

    ``number`` 0: only whether anybody has it.
    """
    if number:
        marks = read(io, cloud, host)
        if marks.fence < number:
            return State(False, "", f"the mark of fence {number} is not written")
        if marks.killed >= number:
            return State(True, "", "its warden has ended all its machines")
        if _lock(io, lease_object(cloud, host), f"{BY_FENCE}/{number}/{fencer}", seconds):
            return State(True, "", "its lease has expired: it is off, or its machines were stopped in time")
    found = holder(io, cloud, host)
    if found is None:
        return State(not number, "", "nobody has its lease")
    kind, _, rest = found.cookie.partition("/")
    if kind == BY_WARDEN:
        return State(False, f"{found.client} {found.expires}", "its lease has not expired")
    taken, _, by = rest.partition("/")
    if taken.isdigit() and int(taken) >= number:
        return State(True, "", f"its lease has expired, and {by} took it")
    return State(False, "", "its lease was taken for an earlier fence")
