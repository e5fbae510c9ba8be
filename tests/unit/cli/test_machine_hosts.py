from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gureum.cli import machine_hosts
from gureum.cli.cloud import Cloud
from gureum.cli.output import USAGE, CliError
from gureum.cli.store import transact
from gureum.resources import Host, NatGateway, NatGatewayState, Snapshot, SnapshotState, Volume
from gureum.resources.record import Record

TIME = datetime(2026, 1, 1, tzinfo=UTC)


def stored(cloud: Cloud, *records: Record) -> set[str]:
    """Put records; returns the ids of the hosts that there are then."""

    async def work(tx: Any) -> set[str]:
        for record in records:
            await tx.put(record)
        return {host.id for host in await tx.find(Host)}

    return transact(cloud.state_dir / "store.db", work)


def volume(id: str, host: str | None, zone: str = "us-east-1a") -> Volume:
    return Volume(id=id, size_bytes=1, zone=zone, host=host, created=TIME)


@pytest.fixture(autouse=True)
def _paths_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_hosts, "HOST_PATH_MAX", 4096)


@pytest.fixture
def evacuated(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of hosts at each evacuation."""
    seen: list[int] = []
    monkeypatch.setattr(Cloud, "evacuate", lambda self: seen.append(self.config().hosts))
    return seen


def test_a_new_cloud_has_as_many_as_it_likes(cloud: Cloud, evacuated: list[int]) -> None:
    machine_hosts.change(cloud, 3, None)
    cloud.configure(hosts=3)
    machine_hosts.change(cloud, 1, None)
    assert evacuated == []


@pytest.mark.parametrize("number", [0, -1, 65])
def test_how_many_there_can_be(cloud: Cloud, number: int) -> None:
    with pytest.raises(CliError, match="1 to 64") as caught:
        machine_hosts.change(cloud, number, None)
    assert caught.value.exit_code == USAGE


def test_sockets_below_a_host_need_a_short_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    base = Path("/" + "x" * 57)
    machine_hosts.check_number(base, 10)
    with pytest.raises(CliError, match="longer than 66"):
        machine_hosts.check_number(base, 11)


def test_hosts_are_added_beside_what_there_is(cloud: Cloud, evacuated: list[int]) -> None:
    cloud.configure(hosts=2)
    stored(cloud, Host(id="host-1", zone="us-east-1b"), volume("vol-1", "host-1", "us-east-1b"))
    machine_hosts.change(cloud, 5, None)
    assert evacuated == []


def test_a_host_with_something_on_it_cannot_go(cloud: Cloud, evacuated: list[int]) -> None:
    cloud.configure(hosts=3)
    stored(cloud, volume("vol-1", "host-1"))
    with pytest.raises(CliError, match="host-1 to host-2 cannot go: vol-1 there"):
        machine_hosts.change(cloud, 1, None)
    machine_hosts.change(cloud, 2, None)
    assert evacuated == [3]


def test_hosts_that_go_are_forgotten(cloud: Cloud, evacuated: list[int]) -> None:
    cloud.configure(hosts=3)
    hosts = [Host(id=f"host-{number}", zone="") for number in range(3)]
    stored(cloud, *hosts, volume("vol-1", "host-0"))
    machine_hosts.change(cloud, 1, None)
    assert stored(cloud) == {"host-0"}


def test_directories_of_hosts_that_go(cloud: Cloud, evacuated: list[int]) -> None:
    cloud.configure(hosts=4)
    stored(cloud)
    pools = [cloud.state_dir / "hosts" / str(number) / "pool/records" for number in (1, 2, 3)]
    for pool in pools:
        pool.mkdir(parents=True)
        (pool / "ami-1.json").touch()
    (pools[2] / "vol-1.json").touch()
    machine_hosts.change(cloud, 2, None)
    assert [pool.exists() for pool in pools] == [True, False, True]


def test_an_only_host_keeps_one_zone_only(cloud: Cloud, evacuated: list[int]) -> None:
    cloud.configure()
    stored(cloud, volume("vol-1", "host-0", "us-east-1a"))
    machine_hosts.change(cloud, 2, None)
    assert evacuated == [1]
    stored(cloud, volume("vol-2", "host-0", "us-east-1b"))
    with pytest.raises(CliError, match=r"a host is in one zone then, and vol-2 are on hosts of others"):
        machine_hosts.change(cloud, 2, None)
    machine_hosts.change(cloud, 2, 1)
    assert evacuated == [1, 1]


def test_hosts_that_stood_for_all_zones_keep_one_only(cloud: Cloud, evacuated: list[int]) -> None:
    cloud.configure(hosts=2, host_zones=1)
    assert [cloud.config().zone_of(host) for host in range(2)] == ["", ""]
    stored(cloud, volume("vol-1", "host-1", "us-east-1b"), volume("vol-2", None, "us-east-1b"))
    machine_hosts.change(cloud, None, 2)
    stored(cloud, volume("vol-3", None, "us-east-1c"), volume("vol-4", "host-1", "us-east-1a"))
    with pytest.raises(CliError, match="and vol-3, vol-4 are on hosts of others") as caught:
        machine_hosts.change(cloud, None, 2)
    assert "--zones 1" in str(caught.value.next_step)
    with pytest.raises(CliError, match="and vol-4 are on"):
        machine_hosts.change(cloud, 3, 3)
    cloud.configure(host_zones=2)
    machine_hosts.change(cloud, None, 1)
    assert evacuated == []


def test_nat_gateways_of_a_host_that_goes(cloud: Cloud, evacuated: list[int]) -> None:
    cloud.configure(hosts=2)
    nat = NatGateway(
        id="nat-1", vpc="vpc-1", subnet="subnet-1", zone="us-east-1b", interface="eni-1", host="host-1",
        created=TIME, state=NatGatewayState.available,
    )  # fmt: skip
    stored(cloud, Host(id="host-1", zone="us-east-1b"), nat)
    with pytest.raises(CliError, match="nat-1"):
        machine_hosts.change(cloud, 1, None)
    assert evacuated == []


def test_a_snapshot_counts_too(cloud: Cloud, evacuated: list[int]) -> None:
    cloud.configure(hosts=2)
    snapshot = Snapshot(
        id="snap-1", volume="vol-1", size_bytes=1, state=SnapshotState.completed, host="host-1", started=TIME
    )
    stored(cloud, snapshot)
    with pytest.raises(CliError, match="snap-1"):
        machine_hosts.change(cloud, 1, None)


def test_not_while_the_cloud_runs(cloud: Cloud) -> None:
    cloud.start(cloud.configure(hosts=2), lambda _: None)
    with pytest.raises(CliError, match="runs already, with --hosts 2"):
        machine_hosts.change(cloud, 3, None)
