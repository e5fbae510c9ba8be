from pathlib import Path

import pytest

from gureum.errors import ConfigError
from gureum.network.names import storage_ports
from gureum.san.ceph.cluster import ADDED, GONE, Cluster, Disk, Record
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


def test_its_osds_change(cluster: Cluster) -> None:
    assert cluster.disks() == tuple(Disk(number=number, bytes=1 << 30) for number in range(3))
    added = Disk(number=3, device="/dev/sdx", uuid="u", state=ADDED, is_made=False)
    cluster.keep(added)
    assert cluster.disks()[3] == added
    assert cluster.osds == ("osd.0", "osd.1", "osd.2")
    cluster.keep(Disk(number=0, state=GONE))
    assert cluster.daemons == ("mon.a", "mgr.x", "osd.1", "osd.2")
    assert cluster.all_daemons == ("mon.a", "mgr.x", "osd.0", "osd.1", "osd.2", "osd.3")
    cluster.drop(added)
    assert [disk.number for disk in cluster.disks()] == [0, 1, 2]
    (cluster.directory / "osds.json").write_text("{")
    with pytest.raises(ConfigError, match="is damaged"):
        cluster.disks()


def test_devices_of_a_new_cluster(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.directory.mkdir()
    cluster.create(Record(fsid="1", mon_port=1, osds=4, devices=("/dev/a", "/dev/b", "/dev/c", "/dev/d")))
    assert [disk.device for disk in cluster.disks()] == ["/dev/a", "/dev/b", "/dev/c", "/dev/d"]


def test_clouds_have_different_ports() -> None:
    used = [port for index in range(64) for port in storage_ports(index)]
    assert len(used) == len(set(used))
    assert max(used) < 32768
