"""How a cloud gets an image from the machine's cache."""

from pathlib import Path

import pytest

from gureum.cli import images
from gureum.cli.output import USAGE, CliError


@pytest.fixture
def image(tmp_path: Path) -> Path:
    directory = tmp_path / "cache" / "tiny-0123"
    directory.mkdir(parents=True)
    (directory / "manifest.json").write_text("{}")
    (directory / "disk.raw").write_bytes(b"disk")
    return directory


def test_an_image_is_linked_not_copied(image: Path, tmp_path: Path) -> None:
    place = images.link(image, tmp_path / "state" / "images")
    assert place == tmp_path / "state" / "images" / "tiny-0123"
    assert (place / "disk.raw").stat().st_ino == (image / "disk.raw").stat().st_ino
    assert sorted(path.name for path in place.parent.iterdir()) == ["tiny-0123"]


def test_linking_again_changes_nothing(image: Path, tmp_path: Path) -> None:
    place = images.link(image, tmp_path / "images")
    before = place.stat().st_mtime_ns
    assert images.link(image, tmp_path / "images") == place
    assert place.stat().st_mtime_ns == before


def test_on_another_disk_it_is_copied(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_source: str, _target: str) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(images.os, "link", refuse)
    place = images.link(image, tmp_path / "images")
    assert (place / "disk.raw").read_bytes() == b"disk"
    assert (place / "disk.raw").stat().st_ino != (image / "disk.raw").stat().st_ino


def test_an_unknown_image_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(CliError) as caught:
        images.build(tmp_path, "huge", refresh=False)
    assert caught.value.exit_code == USAGE
