"""Tries what a cloud does with disks, on an image made for that, by Debian's python3-rbd."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from gureum.errors import PoolError
from gureum.san.ceph.commands import Access, run

TIMEOUT_S = 60.0

# Writes [step, message] for the first step that fails, null if none does. Removes what it made.
PROGRAM = """
cluster.conf_set("rbd_default_clone_format", "2")  # clones of snapshots that nobody protected
ioctx = cluster.open_ioctx(asked["pool"])
name, child = asked["name"], asked["name"] + "-clone"
rbds = rbd.RBD()
answer = None
try:
    step = "create an image"
    rbds.create(ioctx, name, 4 << 20, old_format=False)
    step = "write to an image"
    with rbd.Image(ioctx, name) as image:
        image.write(b"gureum", 0)
        step = "make a snapshot"
        image.create_snap("snap")
    step = "make a clone of a snapshot"
    rbds.clone(ioctx, name, "snap", ioctx, child)
    step = "read a clone"
    with rbd.Image(ioctx, child) as image:
        if image.read(0, 6) != b"gureum":
            raise rbd.Error("it does not have its parent's data")
except (rados.Error, rbd.Error) as error:
    answer = [step, str(error)]
try:
    if child in rbds.list(ioctx):
        rbds.remove(ioctx, child)
    if name in rbds.list(ioctx):
        with rbd.Image(ioctx, name) as image:
            for snap in list(image.list_snaps()):
                image.remove_snap(snap["name"])
        rbds.remove(ioctx, name)
except (rados.Error, rbd.Error) as error:
    answer = answer or ["remove an image", str(error)]
sys.stdout.write(json.dumps(answer))
"""


@dataclass(frozen=True)
class Failure:
    step: str
    message: str


def run_trial(access: Access, pool: str) -> Failure | None:
    """None if everything works. Blocks. Raises PoolError."""
    answer = run(access, PROGRAM, {"pool": pool, "name": f"gureum-trial-{secrets.token_hex(6)}"}, TIMEOUT_S)
    if answer is None:
        return None
    if not isinstance(answer, list) or len(answer) != 2:
        raise PoolError("the trial of the pool gave no answer")
    return Failure(*map(str, answer))
