import os
import subprocess
import sys
from pathlib import Path

import pytest

from gureum.cli import mounts
from gureum.cli.children import child_environment

pytestmark = pytest.mark.root
SCRIPT = """
import os, sys
from pathlib import Path
from gureum.cli import mounts
print(mounts.share(Path(sys.argv[1])), os.stat("/proc/self/ns/mnt").st_ino)
"""
OWN = os.stat("/proc/self/ns/mnt").st_ino


def shared(state_dir: Path, *wrapper: str) -> tuple[bool, bool]:
    """What a process that was started so says, and whether it has the mounts of this one then."""
    command = [*wrapper, sys.executable, "-c", SCRIPT, str(state_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=child_environment())
    said, inode = done.stdout.split()
    return said == "True", int(inode) == OWN


def test_where_all_have_the_same_nothing_happens(tmp_path: Path) -> None:
    assert shared(tmp_path) == (True, True)


def test_mounts_of_its_own_are_left(tmp_path: Path) -> None:
    assert shared(tmp_path, "unshare", "--mount") == (True, True)
    assert shared(tmp_path / "not" / "there", "unshare", "--mount") == (True, True)


def test_but_not_where_the_state_directory_is_only_there(tmp_path: Path) -> None:
    script = f'mount -t tmpfs none {tmp_path} && exec "$@"'
    assert shared(tmp_path, "unshare", "--mount", "sh", "-c", script, "sh") == (False, False)


def test_what_there_is_of_a_path(tmp_path: Path) -> None:
    assert mounts.existing(tmp_path / "a" / "b") == tmp_path
    assert mounts.existing(tmp_path) == tmp_path


def test_parents() -> None:
    assert mounts.parent(os.getpid()) == os.getppid()
