"""Makes an ext4 file system from a directory, without mounting anything and without being root.

The same tree gives the same bytes (with the same e2fsprogs): times, identifiers and the hash seed are fixed.
"""

import hashlib
import os
from pathlib import Path

from gureum.images.command import run
from gureum.images.errors import ImageBuildError

EPOCH = 1_700_000_000
"""The time of all files, in seconds since 1970."""

_TIMEOUT_S = 300.0


async def make_ext4(tree: Path, disk: Path, size_bytes: int, *, label: str) -> None:
    """Writes the sparse raw image `disk` with `tree` as its root, everything owned by root.

    Few inodes (one for 64 KiB) keep the first boot on a large volume short: growing writes inode tables.
    """
    identity = hashlib.sha256(label.encode()).hexdigest()
    uuid = f"{identity[:8]}-{identity[8:12]}-4{identity[13:16]}-8{identity[17:20]}-{identity[20:32]}"
    paths = _settle(tree)
    # Both names for "what time is it": the first is for e2fsprogs before 1.47.1.
    env = {
        "E2FSPROGS_FAKE_TIME": str(EPOCH),
        "SOURCE_DATE_EPOCH": str(EPOCH),
        "MKE2FS_DEVICE_SECTSIZE": "512",
    }
    await run(
        "mkfs.ext4", "-q", "-F", "-b", "4096", "-I", "256", "-i", "65536", "-J", "size=16", "-m", "1",
        "-L", label, "-U", uuid, "-e", "remount-ro",
        "-E", f"root_owner=0:0,hash_seed={uuid},lazy_itable_init=0",
        "-d", tree, disk, f"{size_bytes // 1024}k",
        timeout_s=_TIMEOUT_S, env=env,
    )  # fmt: skip
    if disk.stat().st_size != size_bytes:
        raise ImageBuildError(f"mkfs.ext4 made {disk.stat().st_size} bytes instead of {size_bytes}")
    # mkfs copies the builder's user id and the time at which the copies were made into the inodes.
    fields = {"uid": "0", "gid": "0", "ctime": f"@{EPOCH}", "ctime_extra": "0", "crtime": f"@{EPOCH}"}
    fields |= {"crtime_extra": "0", "atime_extra": "0", "mtime_extra": "0"}
    commands = [f'sif "{path}" {name} {value}' for path in paths for name, value in fields.items()]
    await run(
        "debugfs", "-w", "-f", "/dev/stdin", disk,
        timeout_s=_TIMEOUT_S, env=env, stdin=("\n".join(commands) + "\n").encode(),
    )  # fmt: skip


def _settle(tree: Path) -> list[str]:
    """Sets the time of everything below `tree`; returns the paths as the new file system will name them."""
    paths = sorted(tree.rglob("*"))
    for path in [*reversed(paths), tree]:
        os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)
    return ["/", *(f"/{path.relative_to(tree)}" for path in paths)]
