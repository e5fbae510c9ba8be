from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gureum.cli import storage, volume_types
from gureum.cli.cloud import Cloud
from gureum.cli.output import CliError
from gureum.cli.san_options import Choice
from gureum.cli.store import transact
from gureum.cli.volume_types import POOLS_MAX, parse
from gureum.control.__main__ import cloud_settings
from gureum.control.shares import shared_pools
from gureum.resources import Host, HostCertificate, Move, Snapshot, SnapshotState, Volume
from gureum.resources.record import Record
from gureum.resources.volume import VOLUME_TYPES
from gureum.san.ceph import existing
from gureum.san.ceph.existing import Problem
from gureum.san.settings import SanSettings
from gureum.services.ec2.block_devices import KINDS
from gureum.store.base import Transaction

OWN = Choice("ceph", osd_bytes=2 << 30)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.packages, "missing", lambda _needs: [])


@pytest.fixture
def in_ceph(cloud: Cloud) -> Cloud:
    """With st1 and sc1 in two pools of their own."""
    cloud.configure()
    storage.choose(cloud, OWN, {"st1": "bulk", "sc1": "cold"})
    return cloud


def have(cloud: Cloud, *records: Record) -> None:
    async def put(tx: Transaction) -> None:
        for record in records:
            await tx.put(record)

    transact(cloud.state_dir / "store.db", put)


def volume(id: str = "vol-1", **fields: object) -> Volume:
    return Volume(**{"id": id, "size_bytes": 1, "zone": "us-east-1a", "created": NOW, **fields})  # type: ignore[arg-type]


def kept(cloud: Cloud) -> SanSettings:
    return SanSettings.load(cloud.state_dir)


def test_the_types_are_those_that_the_api_knows() -> None:
    assert set(VOLUME_TYPES) == KINDS.keys()


def test_what_is_said() -> None:
    assert parse(None) is None
    assert parse("off") == {}
    assert parse("st1=bulk, standard=local") == {"st1": "bulk", "standard": "local"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no volume type"),
        ("gp4=bulk", "'gp4' is no volume type"),
        ("st1=a,st1=b", "st1 is named twice"),
        ("st1", "'' is no name of a pool"),
        ("st1=a/b", "'a/b' is no name of a pool"),
        ("st1=.mgr", r"'\.mgr' is no name of a pool"),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(CliError, match=message) as caught:
        parse(text)
    assert caught.value.exit_code == 2


def test_without_a_cluster_everything_is_local(cloud: Cloud) -> None:
    cloud.configure()
    storage.choose(cloud, None, {"st1": "local"})
    assert kept(cloud).types == (("st1", "local"),)
    assert kept(cloud).pools == ()
    with pytest.raises(
        CliError, match="st1 cannot be in the pool 'bulk': this cloud's disks are on its hosts"
    ):
        storage.choose(cloud, None, {"st1": "bulk"})


def test_types_are_kept_until_others_are_given(in_ceph: Cloud) -> None:
    assert kept(in_ceph).pools == ("gureum", "bulk", "cold")
    assert kept(in_ceph).types == (("sc1", "cold"), ("st1", "bulk"))
    for choice in (None, Choice("ceph")):
        storage.choose(in_ceph, choice)
        assert kept(in_ceph).pools == ("gureum", "bulk", "cold")
    storage.choose(in_ceph, Choice("ceph"), {"st1": "gureum", "sc1": "cold", "standard": "local"})
    assert kept(in_ceph).pools == ("gureum", "cold")
    storage.choose(in_ceph, None, {})
    assert (kept(in_ceph).types, kept(in_ceph).pools) == ((), ("gureum",))


def test_the_manager_is_told(in_ceph: Cloud) -> None:
    have(in_ceph, volume(pool="bulk"))
    storage.choose(in_ceph, None, {"sc1": "cold", "standard": "local"})
    told = cloud_settings(in_ceph.config(), kept(in_ceph))
    assert [told.pool_of(type) for type in ("gp3", "st1", "sc1", "standard")] == [
        "gureum",
        "gureum",
        "cold",
        "local",
    ]
    assert shared_pools(told) == ("bulk", "cold", "gureum")
    alone = cloud_settings(in_ceph.config(), SanSettings(types=(("st1", "local"),)))
    assert (alone.pool, alone.pool_of("st1"), shared_pools(alone)) == ("local", "local", ())


@pytest.mark.parametrize(
    "record",
    [
        volume(pool="bulk"),
        volume(pool="gureum", move=Move(state="moving", source="gureum", target="bulk", started=NOW)),
        volume(pool="gureum", leaves=("bulk",)),
        Snapshot(
            id="snap-1", volume="vol-1", size_bytes=1, pool="bulk", started=NOW, state=SnapshotState.completed
        ),
    ],
)
def test_a_pool_with_something_in_it_stays(in_ceph: Cloud, record: Record) -> None:
    have(in_ceph, record)
    storage.choose(in_ceph, None, {})
    assert (kept(in_ceph).types, kept(in_ceph).pools) == ((), ("gureum", "bulk"))


def test_there_are_so_many_pools(in_ceph: Cloud) -> None:
    have(in_ceph, volume(pool="bulk"))
    types = {type: f"pool-{type}" for type in VOLUME_TYPES}
    assert len(types) == POOLS_MAX - 1
    with pytest.raises(CliError, match="more than 8 pools") as caught:
        storage.choose(in_ceph, None, types)
    assert caught.value.next_step == "no type needs bulk: delete or move what is in there"
    assert kept(in_ceph).pools == ("gureum", "bulk", "cold")


def test_hosts_that_joined_know_no_new_pools(in_ceph: Cloud) -> None:
    certificate = HostCertificate(id="1", account="1", host="far", zone="us-east-1a", expires=1.0)
    have(in_ceph, certificate)
    storage.choose(in_ceph, None, {"st1": "tape"})
    have(in_ceph, Host(id="far", account="1", zone="us-east-1a"))
    with pytest.raises(CliError, match="when they joined, not more: far"):
        storage.choose(in_ceph, None, {"st1": "more"})
    storage.choose(in_ceph, None, {"sc1": "tape"})


def test_not_while_the_cloud_runs(in_ceph: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cloud, "is_running", lambda _self: True)
    have(in_ceph, volume())
    monkeypatch.setattr(volume_types, "transact", None)  # it is the manager's then
    with pytest.raises(CliError, match="runs already, with --volume-types sc1=cold,st1=bulk"):
        storage.choose(in_ceph, None, {"st1": "bulk"})
    storage.choose(in_ceph, None, {"sc1": "cold", "st1": "bulk"})


def test_pools_of_a_cluster_that_was_there_are_looked_at(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Sequence[str]] = []
    problems: list[Problem] = []

    def check(settings: SanSettings) -> list[Problem]:
        looked.append(settings.pools)
        return problems

    monkeypatch.setattr(existing, "check", check)
    cloud.configure()
    conf = tmp_path / "prod.conf"
    conf.write_text("[global]\nmon_host = 192.0.2.1\n")
    (tmp_path / "prod.client.gureum.keyring").write_text("[client.gureum]\nkey = abc==\n")
    storage.choose(cloud, Choice("ceph", conf, pool="disks"), {"st1": "bulk"})
    storage.choose(cloud, None, {"st1": "bulk", "sc1": "cold"})
    assert looked == [("disks", "bulk"), ("disks", "bulk", "cold")]
    problems.append(Problem("the cluster has no pool 'ice'", "make it"))
    with pytest.raises(CliError, match="no pool 'ice'"):
        storage.choose(cloud, None, {"st1": "ice"})
    assert kept(cloud).pools == ("disks", "bulk", "cold")
