from pathlib import Path

import msgspec
import pytest

from gureum.images.errors import ManifestError
from gureum.images.manifest import MANIFEST_NAME, ImageManifest, load_manifest, write_manifest


@pytest.fixture
def image(tmp_path: Path) -> Path:
    directory = tmp_path / "image"
    directory.mkdir()
    (directory / "disk.raw").write_bytes(b"\0" * 512)
    manifest = ImageManifest(
        name="x",
        description="",
        architecture="x86_64",
        machines=("q35",),
        disk=str(directory / "disk.raw"),
        disk_format="raw",
        disk_bytes=512,
        files={"disk.raw": 512},
    )
    write_manifest(directory, manifest)
    return directory


def test_paths_move_with_the_directory(image: Path, tmp_path: Path) -> None:
    assert msgspec.json.decode((image / MANIFEST_NAME).read_bytes())["disk"] == "disk.raw"
    moved = image.rename(tmp_path / "moved")
    manifest = load_manifest(moved)
    assert manifest.disk == str(moved / "disk.raw")
    assert manifest.kernel is None
    assert manifest.machines == ("q35",)


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="No such file"):
        load_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "{}", '{"name": 1}'])
def test_broken_manifest(image: Path, text: str) -> None:
    (image / MANIFEST_NAME).write_text(text)
    with pytest.raises(ManifestError):
        load_manifest(image)


def test_another_format(image: Path) -> None:
    document = msgspec.json.decode((image / MANIFEST_NAME).read_bytes())
    (image / MANIFEST_NAME).write_bytes(msgspec.json.encode(document | {"format": 99}))
    with pytest.raises(ManifestError, match="format 99"):
        load_manifest(image)


def test_image_that_is_not_whole(image: Path) -> None:
    (image / "disk.raw").write_bytes(b"\0" * 100)
    with pytest.raises(ManifestError, match="does not have 512 bytes"):
        load_manifest(image)
    (image / "disk.raw").unlink()
    with pytest.raises(ManifestError, match=r"disk\.raw is missing"):
        load_manifest(image)
