from pathlib import Path

import pytest

from gureum.errors import ConfigError
from gureum.network.names import storage_ports
from gureum.san.ceph.cluster import Cluster, Record
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
