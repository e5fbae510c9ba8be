import socket
from pathlib import Path

import pytest

from gureum.errors import ConfigError, PoolError
from gureum.network.names import storage_ports
from gureum.san.ceph import bootstrap
from gureum.san.ceph.cluster import Cluster, Record, daemon_user
from gureum.san.settings import SanSettings

RECORD = Record(fsid="1", mon_port=20500, osd_bytes=1 << 30)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    made = Cluster(tmp_path)
    made.directory.mkdir()
    made.create(RECORD)
    return made


def test_it_is_the_cloud_s_once_that_was_chosen(cluster: Cluster) -> None:
    assert Cluster.of(cluster.state_dir) is None
    cluster.settings().save(cluster.state_dir)
    assert Cluster.of(cluster.state_dir) == cluster
    SanSettings().save(cluster.state_dir)
    assert Cluster.of(cluster.state_dir) is None


def test_its_record_is_kept(cluster: Cluster) -> None:
    assert cluster.record() == RECORD
    assert cluster.daemons == ("mon.a", "mgr.x", "osd.0", "osd.1", "osd.2")
    (cluster.directory / "cluster.json").write_text("{")
    with pytest.raises(ConfigError, match="is damaged"):
        cluster.record()


def test_clouds_have_different_ports() -> None:
    used = [port for index in range(64) for port in storage_ports(index)]
    assert len(used) == len(set(used))
    assert max(used) < 32768


def test_the_monitor_s_port_is_a_free_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "storage_ports", lambda _index: range(28123, 28223))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 28123))
        taken.listen()
        assert bootstrap.choose_port(0, "127.0.0.1") == 28124
        monkeypatch.setattr(bootstrap, "MON_PORTS", 1)
        with pytest.raises(PoolError, match="28123 to 28123"):
            bootstrap.choose_port(0, "127.0.0.1")


def test_daemons_are_root_where_others_cannot_pass(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    assert daemon_user(closed) is None


def test_last_words_are_errors_if_there_are_any() -> None:
    said = "2026-01-01T00:00:00.0 7f  0 set uid\n2026-01-01T00:00:00.1 7f -1 cannot open: (13) denied\n"
    assert bootstrap.last_words(said).endswith("cannot open: (13) denied")
    assert "set uid" not in bootstrap.last_words(said)
    assert bootstrap.last_words("") == "it said nothing"
