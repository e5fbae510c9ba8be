"""What a machine that joins is told of the cloud's storage cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from gureum.control.storage import keep, storage
from gureum.errors import TransportError
from gureum.san.settings import SanSettings


def test_where_each_host_has_its_own_disks_there_is_nothing_to_tell(tmp_path: Path) -> None:
    assert storage(tmp_path, SanSettings.load(tmp_path)) is None


def test_a_host_gets_what_it_needs_to_reach_the_cluster(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (here / "my.conf").write_text("[global]\nmon_host = 192.0.2.1\n")
    (here / "my.keyring").write_text("[client.x]\nkey = secret\n")
    san = SanSettings("ceph", here / "my.conf", here / "my.keyring", "x", "disks", further=("bulk",))
    given = storage(here, san)
    assert given is not None
    keep(there, given)
    kept = SanSettings.load(there)
    assert (kept.kind, kept.user, kept.pools) == ("ceph", "x", ("disks", "bulk"))
    assert kept.conf is not None
    assert kept.keyring is not None
    assert "192.0.2.1" in kept.conf.read_text()
    assert "secret" in kept.keyring.read_text()
    assert kept.keyring.stat().st_mode & 0o77 == 0


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    san = SanSettings("ceph", tmp_path / "gone.conf", tmp_path / "gone.keyring")
    with pytest.raises(TransportError, match=r"gone\.conf cannot be read"):
        storage(tmp_path, san)


def test_a_cluster_of_the_clouds_own_machine_is_not_for_others(tmp_path: Path) -> None:
    (tmp_path / "san").mkdir()
    (tmp_path / "san/cluster.json").write_text("{}")
    with pytest.raises(TransportError, match="others do not reach"):
        storage(tmp_path, SanSettings("ceph", tmp_path / "c", tmp_path / "k"))
