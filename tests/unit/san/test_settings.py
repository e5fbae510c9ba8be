from pathlib import Path

import pytest

from gureum.errors import ConfigError
from gureum.san.settings import SanSettings


def test_a_cloud_without_them_is_local(tmp_path: Path) -> None:
    assert SanSettings.load(tmp_path) == SanSettings(kind="local", conf=None, keyring=None)


def test_they_are_kept(tmp_path: Path) -> None:
    where = Path("/etc/ceph/ceph.conf"), Path("/etc/ceph/keyring")
    types = (("sc1", "local"), ("st1", "bulk"))
    wanted = SanSettings("ceph", *where, "me", "mine", types, ("bulk", "old"))
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


def test_a_file_from_before_there_were_several_pools(tmp_path: Path) -> None:
    SanSettings().save(tmp_path)
    (tmp_path / "san/settings.json").write_text(
        '{"kind": "ceph", "conf": "c", "keyring": "k", "pool": "mine"}'
    )
    found = SanSettings.load(tmp_path)
    assert (found.pools, found.types) == (("mine",), ())


def test_the_pools_of_a_cloud() -> None:
    san = SanSettings("ceph", types=(("st1", "bulk"),), further=("bulk",))
    assert san.pools == ("gureum", "bulk")
    assert san.of_pool("bulk") == SanSettings("ceph", pool="bulk")
    assert SanSettings(types=(("st1", "local"),)).pools == ()


def test_damage(tmp_path: Path) -> None:
    SanSettings().save(tmp_path)
    (tmp_path / "san/settings.json").write_text('{"kind": "floppy"}')
    with pytest.raises(ConfigError, match="is damaged"):
        SanSettings.load(tmp_path)
