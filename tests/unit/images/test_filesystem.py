import os
import shutil
import subprocess
from pathlib import Path

import pytest

from gureum.images.command import run, search_path
from gureum.images.filesystem import make_ext4

pytestmark = pytest.mark.skipif(
    shutil.which("mkfs.ext4", path=search_path()) is None, reason="e2fsprogs is not installed"
)


def make_tree(tree: Path) -> Path:
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/hostname").write_text("tiny\n")
    (tree / "etc/mtab").symlink_to("../proc/self/mounts")
    (tree / "etc/a name with spaces").write_text("x")
    (tree / "etc/shadow").write_text("root:*\n")
    (tree / "etc/shadow").chmod(0o600)
    return tree


def debugfs(disk: Path, command: str) -> str:
    environment = {**os.environ, "PATH": search_path(), "LC_ALL": "C"}
    return subprocess.run(
        ["debugfs", "-R", command, disk], capture_output=True, text=True, check=True, env=environment
    ).stdout


async def test_same_tree_same_bytes(tmp_path: Path) -> None:
    for number in ("1", "2"):
        tree = make_tree(tmp_path / number / "tree")
        await make_ext4(tree, tmp_path / f"{number}.raw", 128 << 20, label="test")
    assert (tmp_path / "1.raw").read_bytes() == (tmp_path / "2.raw").read_bytes()


async def test_contents_belong_to_root_and_the_file_is_sparse(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    await make_ext4(make_tree(tmp_path / "tree"), disk, 256 << 20, label="test")
    assert disk.stat().st_size == 256 << 20
    assert disk.stat().st_blocks * 512 < 64 << 20
    assert debugfs(disk, "cat /etc/hostname") == "tiny\n"
    shown = debugfs(disk, "stat /etc/shadow")
    assert "Mode:  0600" in shown
    assert "User:     0   Group:     0" in shown
    assert "/proc/self/mounts" in debugfs(disk, "stat /etc/mtab")
    assert debugfs(disk, 'cat "/etc/a name with spaces"') == "x"
    await run("e2fsck", "-fn", disk, timeout_s=60)
