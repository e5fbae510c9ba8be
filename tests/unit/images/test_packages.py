import hashlib
from pathlib import Path
from typing import Any

import pytest

from gureum.images import packages
from gureum.images.errors import CommandError, ImageBuildError
from gureum.images.packages import Package

POOL = b"http://mirror.example/debian/pool/main"
SUM = b"SHA256:3d3fdbe91d4660c873e14b092c213fe81c1da6362daa236eb25d0171eb108744"
URIS = b"""\
'%s/b/busybox-static_1.35.0-4%%2bu1_amd64.deb' busybox-static_1%%3a1.35.0-4+u1_amd64.deb 928188 %s
'%s/z/zlib1g_1.2_amd64.deb' zlib1g_1.2_amd64.deb 5 %s
""" % (POOL, SUM, POOL, SUM)


def answer(monkeypatch: pytest.MonkeyPatch, output: bytes | Exception) -> None:
    async def run(*_argv: Any, **_options: Any) -> bytes:
        if isinstance(output, Exception):
            raise output
        return output

    monkeypatch.setattr(packages, "run", run)


async def test_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, URIS)
    found = await packages.resolve(["zlib1g", "busybox-static"])
    assert [(package.name, package.version, package.size) for package in found] == [
        ("busybox-static", "1:1.35.0-4+u1", 928188),
        ("zlib1g", "1.2", 5),
    ]
    assert found[0].sha256.startswith("3d3fdbe9")


async def test_resolve_without_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, URIS)
    with pytest.raises(ImageBuildError, match="cannot download dropbear-bin"):
        await packages.resolve(["zlib1g", "busybox-static", "dropbear-bin"])
    answer(monkeypatch, CommandError("apt-get: exit status 100: E: Unable to locate package x"))
    with pytest.raises(ImageBuildError, match=r"Unable to locate package x .*apt-get update"):
        await packages.resolve(["x"])


async def test_resolve_insists_on_a_strong_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, b"'http://x/a_1_amd64.deb' a_1_amd64.deb 5 MD5Sum:abcd\n")
    with pytest.raises(ImageBuildError, match="SHA256"):
        await packages.resolve(["a"])


async def test_dependencies(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, b"e2fsprogs\n  PreDepends: libblkid1\n  Depends: logsave\n  Suggests: gpart\n")
    assert await packages.dependencies("e2fsprogs") == ["libblkid1", "logsave"]


async def test_dependencies_without_package_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, CommandError("apt-cache: exit status 100: E: No packages found"))
    with pytest.raises(ImageBuildError, match=r"No packages found .*apt-get update"):
        await packages.dependencies("e2fsprogs")


async def test_download_checks_every_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer(monkeypatch, b"")
    (tmp_path / "a_1_amd64.deb").write_bytes(b"good")
    good = Package("a", "1", hashlib.sha256(b"good").hexdigest(), 4)
    assert await packages.download([good], tmp_path) == [tmp_path / "a_1_amd64.deb"]
    (tmp_path / "a_1_amd64.deb").write_bytes(b"evil")
    with pytest.raises(ImageBuildError, match="other files than it announced: a"):
        await packages.download([good], tmp_path)
