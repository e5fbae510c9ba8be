import os
from pathlib import Path
from typing import Any

import pytest

from gureum.images import builder, packages
from gureum.images.builder import CMDLINE, build_tiny
from gureum.images.errors import ImageBuildError
from gureum.images.packages import Package


class Progress:
    def __init__(self) -> None:
        self.shares: list[float] = []

    def __call__(self, step: str, share: float) -> None:
        assert step
        self.shares.append(share)


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> list[Package]:
    """What apt offers. Everything behind the download is replaced by small files."""
    offered = [Package("busybox-static", "1", "00", 10)]

    async def names() -> list[str]:
        return ["busybox-static"]

    async def resolve(_names: list[str]) -> list[Package]:
        return list(offered)

    async def download(_packages: list[Package], directory: Path) -> list[Path]:
        return [directory / "a.deb"]

    async def unpack(_archives: list[Path], directory: Path) -> None:
        (directory / "bin").mkdir(parents=True)
        (directory / "bin/busybox").touch()

    async def run(*_argv: Any, **_options: Any) -> bytes:
        return b"sh\n"

    async def make_ext4(_tree: Path, disk: Path, size_bytes: int, *, label: str) -> None:
        disk.touch()
        os.truncate(disk, size_bytes)

    async def extract(_boot_file: Path, kernel: Path, _program: object) -> bool:
        kernel.write_bytes(b"\x7fELF")
        return True

    monkeypatch.setattr(builder.kernel, "extract", extract)
    monkeypatch.setattr(builder.userland, "packaged_command", lambda *_: [])
    monkeypatch.setattr(builder, "_package_names", names)
    monkeypatch.setattr(packages, "resolve", resolve)
    monkeypatch.setattr(packages, "download", download)
    monkeypatch.setattr(packages, "unpack", unpack)
    monkeypatch.setattr(builder, "run", run)
    monkeypatch.setattr(builder.filesystem, "make_ext4", make_ext4)
    monkeypatch.setattr(builder.userland, "kernel_image", lambda root: root / "bin/busybox")
    monkeypatch.setattr(builder.userland, "initramfs", lambda _root: b"cpio")
    monkeypatch.setattr(builder.userland, "populate", lambda *_: None)
    return offered


async def test_build(tmp_path: Path, versions: list[Package]) -> None:
    progress = Progress()
    manifest = await build_tiny(tmp_path / "images", progress)
    assert manifest.kernel is not None
    assert Path(manifest.kernel).name == "vmlinux"
    assert manifest.inputs == {"busybox-static": "1"}
    assert manifest.files == {"disk.raw": 1 << 30, "initrd.img": 4, "vmlinux": 4}
    assert manifest.login == "root"
    assert manifest.cmdline == CMDLINE
    assert "console=ttyS0 root=/dev/vda" in CMDLINE
    assert progress.shares == sorted(progress.shares)
    assert progress.shares[-1] == 1.0


async def test_second_build_asks_nobody(
    tmp_path: Path, versions: list[Package], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await build_tiny(tmp_path, Progress())
    monkeypatch.delattr(packages, "resolve")
    assert await build_tiny(tmp_path, Progress()) == first


async def test_refresh_takes_new_packages(tmp_path: Path, versions: list[Package]) -> None:
    first = await build_tiny(tmp_path, Progress())
    assert await build_tiny(tmp_path, Progress(), refresh=True) == first
    versions[0] = Package("busybox-static", "2", "01", 10)
    second = await build_tiny(tmp_path, Progress(), refresh=True)
    assert second.input_hash != first.input_hash
    assert await build_tiny(tmp_path, Progress()) == second
    assert Path(first.disk).exists()


async def test_new_recipe_is_a_new_image(
    tmp_path: Path, versions: list[Package], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await build_tiny(tmp_path, Progress())
    monkeypatch.setattr(builder, "_recipe_hash", lambda: "another")
    assert (await build_tiny(tmp_path, Progress())).input_hash != first.input_hash


async def test_damaged_image_is_built_again(tmp_path: Path, versions: list[Package]) -> None:
    first = await build_tiny(tmp_path, Progress())
    Path(first.disk).unlink()
    second = await build_tiny(tmp_path, Progress())
    assert second == first
    assert Path(second.disk).exists()


async def test_failure_leaves_nothing(
    tmp_path: Path, versions: list[Package], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unpack(_archives: list[Path], _directory: Path) -> None:
        raise ImageBuildError("the disk is full")

    monkeypatch.setattr(packages, "unpack", unpack)
    with pytest.raises(ImageBuildError, match="disk is full"):
        await build_tiny(tmp_path, Progress())
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
