from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from gureum.cli import storage
from gureum.cli.cloud import Cloud
from gureum.cli.output import CliError
from gureum.cli.san_options import Choice
from gureum.cli.store import transact
from gureum.resources import Volume
from gureum.san.ceph import existing
from gureum.san.ceph.cluster import LOOPBACK, Cluster
from gureum.san.ceph.existing import Problem
from gureum.san.settings import SanSettings
from gureum.store.base import Transaction

GIB = 1 << 30
OWN = Choice("ceph", osd_bytes=2 * GIB)


@pytest.fixture(autouse=True)
def _packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.packages, "missing", lambda _needs: [])


def add_volume(cloud: Cloud) -> None:
    async def put(tx: Transaction) -> None:
        time = datetime(2026, 1, 1, tzinfo=UTC)
        await tx.put(Volume(id="vol-1", size_bytes=1, zone="us-east-1a", host="host-0", created=time))

    transact(cloud.state_dir / "store.db", put)


def test_a_cluster_of_its_own_is_decided_on_once(cloud: Cloud) -> None:
    cloud.configure()
    storage.choose(cloud, OWN)
    cluster = Cluster.of(cloud.state_dir)
    assert cluster is not None
    record = cluster.record()
    assert (record.osds, record.osd_bytes, record.devices) == (3, 2 * GIB, ())
    assert cloud.daemons == ("mon.a", "mgr.x", "osd.0", "osd.1", "osd.2")
    storage.choose(cloud, Choice("ceph"))
    storage.choose(cloud, None)
    assert cluster.record() == record
    with pytest.raises(CliError, match=r"the cluster was made with 3 files of 2\.0 GiB"):
        storage.choose(cloud, Choice("ceph", osd_bytes=4 * GIB))


def test_a_cloud_with_disks_does_not_change_its_storage(cloud: Cloud) -> None:
    cloud.configure()
    add_volume(cloud)
    with pytest.raises(CliError, match="has 1 volumes and snapshots in its storage, local"):
        storage.choose(cloud, OWN)
    assert SanSettings.load(cloud.state_dir).kind == "local"
    assert cloud.daemons == ()


def test_what_runs_is_not_told_that_a_restart_is_all_it_takes(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.configure()
    storage.choose(cloud, OWN)
    monkeypatch.setattr(Cloud, "is_running", lambda _cloud: True)
    with pytest.raises(CliError, match="--san ceph; that stays, once it has volumes or snapshots") as caught:
        storage.choose(cloud, Choice("local"))
    assert caught.value.next_step.startswith("if it has none: gureum down, then gureum up --san local; else")


def test_one_without_may(cloud: Cloud) -> None:
    cloud.configure()
    storage.choose(cloud, OWN)
    storage.choose(cloud, Choice("local"))
    assert cloud.daemons == ()
    storage.choose(cloud, Choice("ceph"))
    assert len(cloud.daemons) == 5


def test_a_path_that_ceph_cannot_be_told(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path / "a#b")
    with pytest.raises(CliError, match="has '#' in it"):
        storage.choose(cloud, OWN)


def test_the_default_size_fits(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.configure()
    for free, wanted in ((30 * GIB, 10 * GIB), (3000 * GIB, 32 * GIB)):
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr(storage.shutil, "disk_usage", lambda _path, usage=usage: usage)
        assert storage.default_osd_bytes(cloud.state_dir) == wanted
    usage = type("Usage", (), {"free": 2 * GIB})
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(CliError, match=r"2\.0 GiB are free"):
        storage.default_osd_bytes(cloud.state_dir)


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (("/dev/null",) * 3, "3 to 16 different devices, not 1"),
        (("/dev/null", "/dev/zero"), "3 to 16 different devices, not 2"),
        (("/dev/null", "/dev/zero", "/dev/full"), "/dev/null is no block device"),
        (("/dev/none", "/dev/zero", "/dev/full"), "/dev/none cannot be read: No such file"),
    ],
)
def test_devices(devices: tuple[str, ...], message: str) -> None:
    with pytest.raises(CliError, match=message):
        storage.check_devices(devices)


def test_a_disk_with_something_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stat.S_ISBLK", lambda _: True)
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(2 << 20))
    storage.check_device(str(disk))
    with open(disk, "r+b") as file:
        file.seek(0x10040)
        file.write(b"_BHRfS_M")  # of Btrfs, before which there are 64 KiB of zeros
    with pytest.raises(CliError, match="there is something on"):
        storage.check_device(str(disk))


def test_an_existing_cluster_is_looked_at(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.configure()
    conf = tmp_path / "prod.conf"
    conf.write_text("[global]\nmon_host = 192.0.2.1\n")
    (tmp_path / "prod.client.gureum.keyring").write_text("[client.gureum]\nkey = abc==\n")
    problems = [Problem("it is too old", "upgrade it"), Problem("a disk is missing", is_fatal=False)]
    monkeypatch.setattr(existing, "check", lambda _settings: problems)
    with pytest.raises(CliError, match="it is too old"):
        storage.choose(cloud, Choice("ceph", conf))
    assert SanSettings.load(cloud.state_dir).kind == "local"
    del problems[0]
    storage.choose(cloud, Choice("ceph", conf, pool="disks"))
    kept = SanSettings.load(cloud.state_dir)
    assert (kept.conf, kept.keyring, kept.pool) == (conf, tmp_path / "prod.client.gureum.keyring", "disks")
    assert cloud.daemons == ()


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, LOOPBACK),
        ({"agents": "192.0.2.7:4567"}, "192.0.2.7"),
        ({"agents": "0.0.0.0:4567", "agents_url": "https://192.0.2.8:4567"}, "192.0.2.8"),
        ({"agents": "127.0.0.1:4567"}, LOOPBACK),
    ],
)
def test_where_hosts_reach_it(cloud: Cloud, changes: dict[str, str], wanted: str) -> None:
    config = msgspec.structs.replace(cloud.configure(), **changes)
    assert storage.bind_address(cloud, config) == wanted
