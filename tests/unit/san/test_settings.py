from pathlib import Path

import pytest

from gureum.errors import ConfigError
from gureum.san.settings import SanSettings


def test_a_cloud_without_them_is_local(tmp_path: Path) -> None:
    assert SanSettings.load(tmp_path) == SanSettings(kind="local", conf=None, keyring=None)


def test_they_are_kept(tmp_path: Path) -> None:
    wanted = SanSettings("ceph", Path("/etc/ceph/ceph.conf"), Path("/etc/ceph/keyring"), "me", "mine")
    wanted.save(tmp_path)
    assert SanSettings.load(tmp_path) == wanted
    assert (tmp_path / "san").stat().st_mode & 0o777 == 0o711


def test_a_state_directory_may_move(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    SanSettings("ceph", here / "san/ceph.conf", here / "san/keyring").save(here)
    here.rename(there)
    found = SanSettings.load(there)
    assert (found.conf, found.keyring) == (there / "san/ceph.conf", there / "san/keyring")


def test_damage(tmp_path: Path) -> None:
    SanSettings().save(tmp_path)
    (tmp_path / "san/settings.json").write_text('{"kind": "floppy"}')
    with pytest.raises(ConfigError, match="is damaged"):
        SanSettings.load(tmp_path)
