import lzma
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from gureum.images import userland
from gureum.images.errors import ImageBuildError
from gureum.images.userland import SCRIPTS, Modules, locate


def kernel_package(root: Path, modules: dict[str, str], builtin: str = "") -> Path:
    directory = root / "lib/modules/6.1.0-1-cloud-amd64"
    for name, depends in modules.items():
        path = directory / f"kernel/drivers/{name}.ko"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"\x7fELF\0depends={depends}\0name={name}\0".encode())
    (directory / "modules.builtin").write_text(builtin)
    return root


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    package = kernel_package(
        tmp_path,
        {"virtio": "virtio_ring", "virtio_ring": "", "virtio-rng": "virtio,rng-core", "lonely": ""},
        "kernel/drivers/char/hw_random/rng-core.ko\n",
    )
    modules = Modules(package)
    assert [path.stem for path in modules.closure(["virtio_rng"])] == ["virtio_ring", "virtio", "virtio-rng"]
    assert [path.stem for path in modules.closure(["virtio", "virtio_ring"])] == ["virtio_ring", "virtio"]
    assert modules.closure(["rng-core"]) == []
    with pytest.raises(ImageBuildError, match="has no module warp_drive"):
        modules.closure(["warp_drive"])


def test_compressed_modules_are_unpacked(tmp_path: Path) -> None:
    package = kernel_package(tmp_path, {"virtio": "virtio_ring", "virtio_ring": ""})
    for path in package.rglob("*.ko"):
        path.with_name(f"{path.name}.xz").write_bytes(lzma.compress(path.read_bytes()))
        path.unlink()
    modules = Modules(package)
    found = modules.closure(["virtio"])
    assert [path.name for path in found] == ["virtio_ring.ko", "virtio.ko"]
    assert found[1].read_bytes().startswith(b"\x7fELF")
    assert modules.depends(found[1]) == found[:1]


def test_one_kernel_only(tmp_path: Path) -> None:
    kernel_package(tmp_path, {"a": ""})
    (tmp_path / "lib/modules/6.2").mkdir()
    with pytest.raises(ImageBuildError, match="2 kernels"):
        Modules(tmp_path)


def test_locate_knows_merged_and_unmerged_packages(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/busybox").touch()
    (tmp_path / "sbin").mkdir()
    (tmp_path / "sbin/mke2fs").touch()
    assert locate(tmp_path, "bin/busybox") == tmp_path / "usr/bin/busybox"
    assert locate(tmp_path, "usr/sbin/mke2fs") == tmp_path / "sbin/mke2fs"
    with pytest.raises(ImageBuildError, match="has bin/other"):
        locate(tmp_path, "bin/other")


def test_links_do_not_lead_out_of_the_packages(tmp_path: Path) -> None:
    (tmp_path / "root/bin").mkdir(parents=True)
    (tmp_path / "root/bin/busybox").symlink_to("/etc/passwd")
    with pytest.raises(ImageBuildError, match="leads out of the packages"):
        userland._copy(tmp_path / "root", tmp_path / "target", "bin/busybox")


def test_scripts_become_programs(tmp_path: Path) -> None:
    userland._copy_scripts(tmp_path)
    assert stat.S_IMODE((tmp_path / "sbin/init").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "etc/passwd").stat().st_mode) == 0o644


@pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox is not installed")
@pytest.mark.parametrize(
    "script",
    sorted(path for path in SCRIPTS.rglob("*") if path.is_file() and path.read_bytes()[:2] == b"#!"),
    ids=lambda path: str(path.relative_to(SCRIPTS)),
)
def test_scripts_parse(script: Path) -> None:
    subprocess.run(["busybox", "sh", "-n", script], check=True)
