"""Seeing what the machine sees.

Network namespaces have names by mounts below /run/netns. A process that was started with mounts of its own,
as by ``ip netns exec``, would make names that nobody else sees, and not find those that another one made:
what they name would be lost, and stay for ever.
"""

import ctypes
import os
from pathlib import Path

_CLONE_NEWNS = 0x00020000


def share(state_dir: Path) -> bool:
    """Enter the mounts that the process had from which all this began, where it has the same state directory.

    Its ancestors know: they are followed as far as they may be looked at. To be called before any thread is
    started, since the kernel moves whole processes only. Says whether that is where this process is now.
    """
    namespace = own = os.stat("/proc/self/ns/mnt").st_ino
    pid = first = os.getppid()
    try:
        while pid > 0:
            namespace, first = os.stat(f"/proc/{pid}/ns/mnt").st_ino, pid
            pid = parent(pid)
    except OSError:
        pass  # another's, or gone
    if namespace == own:
        return True
    try:
        if not os.path.samefile(existing(state_dir), f"/proc/{first}/root{existing(state_dir)}"):
            return False
        directory = os.getcwd()
        descriptor = os.open(f"/proc/{first}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNS) != 0:
                return False
        finally:
            os.close(descriptor)
        os.chdir(directory)
    except OSError:
        return False
    return True


def parent(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def existing(path: Path) -> Path:
    """The path, or what there is of it."""
    while not path.exists():
        path = path.parent
    return path.resolve()
