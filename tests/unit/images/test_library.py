import asyncio
from pathlib import Path

import pytest

from gureum.images import library
from gureum.images.errors import ImageError
from gureum.images.manifest import ImageManifest, write_manifest


def make_image(work: Path, name: str = "x") -> Path:
    image = work / "image"
    image.mkdir()
    (image / "disk.raw").write_bytes(b"data")
    manifest = ImageManifest(
        name=name,
        description="",
        architecture="x86_64",
        machines=("q35",),
        disk=str(image / "disk.raw"),
        disk_format="raw",
        disk_bytes=4,
        files={"disk.raw": 4},
    )
    write_manifest(image, manifest)
    return image


async def test_publish(tmp_path: Path) -> None:
    final = library.image_directory(tmp_path, "x", "0123456789abcdef0123")
    async with library.workspace(tmp_path) as work:
        manifest = await library.publish(make_image(work), final)
    assert final.name == "x-0123456789abcdef"
    assert manifest.disk == str(final / "disk.raw")
    assert library.images(tmp_path) == [manifest]
    assert not work.exists()


async def test_publish_replaces_a_broken_image(tmp_path: Path) -> None:
    final = library.image_directory(tmp_path, "x", "00")
    final.mkdir()
    (final / "half").write_text("a killed copy")
    async with library.workspace(tmp_path) as work:
        await library.publish(make_image(work), final)
    assert sorted(path.name for path in final.iterdir()) == ["disk.raw", "manifest.json"]


async def test_failure_leaves_nothing(tmp_path: Path) -> None:
    async def fail() -> None:
        async with library.workspace(tmp_path) as work:
            make_image(work)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


async def test_leftovers_of_a_killed_maker_are_removed(tmp_path: Path) -> None:
    stale = tmp_path / ".making-abc"
    make_image(tmp_path / ".").rename(stale)
    async with library.workspace(tmp_path):
        assert not stale.exists()
    assert library.images(tmp_path) == []


async def test_one_maker_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = 0

    async def make() -> None:
        nonlocal inside
        async with library.workspace(tmp_path):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0.01)
            inside -= 1

    monkeypatch.setattr(library, "_LOCK_POLL_S", 0.005)
    await asyncio.gather(make(), make(), make())
    monkeypatch.setattr(library, "_LOCK_S", 0.01)
    async with library.workspace(tmp_path):
        with pytest.raises(ImageError, match="another process"):
            async with library.workspace(tmp_path):
                raise AssertionError


async def test_newest(tmp_path: Path) -> None:
    async with library.workspace(tmp_path) as work:
        await library.publish(make_image(work, "x"), library.image_directory(tmp_path, "x", "01"))
        await library.publish(make_image(work, "y"), library.image_directory(tmp_path, "y", "02"))
    found = library.newest(tmp_path, lambda manifest: manifest.name == "x")
    assert found is not None
    assert found.name == "x"
    assert library.newest(tmp_path, lambda _: False) is None
