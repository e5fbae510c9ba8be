"""A guest that works while it migrates between hosts; what becomes of it when anything dies on the way."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError

from gureum.bench.migration import Pings, longest_gap
from gureum.images.manifest import ImageManifest

from ..host import command_lines
from ..realcloud import Item
from .san_cloud import SanCloud, opened
from .writer import Writer

pytestmark = [pytest.mark.ceph, pytest.mark.qemu, pytest.mark.root, pytest.mark.timeout(900)]

OSD_BYTES = 4 << 30
HOSTS = (0, 3)
"""The first and the last of four hosts are in the first of three zones."""
SLOW = 6 << 20
"""Bytes a second: the copying takes long enough for something to die meanwhile."""
ENDED = ("completed", "failed", "cancelled")
SECONDS_MAX = 60.0


@pytest.fixture(scope="module")
def cloud(tiny_image: ImageManifest) -> Iterator[SanCloud]:
    with opened(tiny_image, OSD_BYTES, hosts=4) as made:
        made.start()
        made.allow_from_anywhere("icmp", -1)
        yield made


@pytest.fixture(scope="module")
def writer(cloud: SanCloud) -> Writer:
    [id] = cloud.launch(Placement={"AvailabilityZone": f"{cloud.config.region}a"})
    return Writer(cloud, id)


def fleet(cloud: SanCloud, operation: str, **parameters: Any) -> Item:
    """Asked again while the manager is away."""
    found: list[Item] = []

    def answered() -> bool:
        with contextlib.suppress(BotoCoreError):
            found.append(cloud.fleet(operation, **parameters))
        return bool(found)

    cloud.wait(f"an answer to {operation}", answered)
    return found[0]


def migration(cloud: SanCloud, id: str) -> Item:
    [found] = fleet(cloud, "describe_instance_migrations", MigrationIds=[id])["InstanceMigrations"]
    return dict(found)


def begin(cloud: SanCloud, instance: str, rate: int = 0) -> str:
    wanted: Item = {"InstanceId": instance, **({"BytesPerSecond": rate} if rate else {})}
    return str(fleet(cloud, "migrate_instance", **wanted)["InstanceMigration"]["MigrationId"])


def ended(cloud: SanCloud, id: str) -> Item:
    cloud.wait(f"{id} to end", lambda: migration(cloud, id)["State"] in ENDED)
    return migration(cloud, id)


def wait_copying(cloud: SanCloud, id: str) -> None:
    def copies() -> bool:
        found = migration(cloud, id)
        assert found["State"] in ("preparing", "copying"), found
        return bool(found.get("CopiedBytes"))

    cloud.wait(f"{id} to be under way", copies)


def processes(cloud: SanCloud, instance: str) -> dict[int, int]:
    """By host, the process of the machine: it is in the host's network."""
    fabric = cloud.cloud.fabric(cloud.config)
    networks = {os.stat(f"/run/netns/{fabric.namespace(host)}").st_ino: host for host in range(4)}
    found = {}
    for pid, command in command_lines():
        if f"guest={instance},".encode() in command:
            with contextlib.suppress(FileNotFoundError):
                found[networks[os.stat(f"/proc/{pid}/ns/net").st_ino]] = pid
    return found


def test_there_and_back_while_it_writes(cloud: SanCloud, writer: Writer) -> None:
    cloud.ssh(writer.id, "echo here >/mark")
    console = cloud.console(writer.id).strip()
    assert console
    # Its answers come by a connection that stays.
    with cloud.load(writer.id, writer.volume) as load:
        load.wait_written(20, SECONDS_MAX)
        for _ in range(2):
            [source] = processes(cloud, writer.id)
            pings, began = Pings(cloud.instance(writer.id)["PublicIpAddress"]), time.monotonic()
            load.wait_written(20, SECONDS_MAX)
            found = ended(cloud, begin(cloud, writer.id))
            took = (found["EndTime"] - found["StartTime"]).total_seconds()
            load.wait_written(20, SECONDS_MAX)
            print(
                f"migration: {took:.1f} s, held {found.get('DowntimeMilliseconds')} ms, gap of pings "
                f"{longest_gap(pings.end()) * 1000:.0f} ms, of writes {load.stall(began) * 1000:.0f} ms, "
                f"{found.get('CopiedBytes', 0) >> 20} MiB"
            )
            assert found["State"] == "completed", found
            [target] = processes(cloud, writer.id)
            assert {source, target} == set(HOSTS)
            cloud.wait("one to have it open", lambda: len(cloud.watchers(writer.volume)) == 1)
        assert console in cloud.console(writer.id)
        writer.check(load)


def test_a_drained_host_is_empty(cloud: SanCloud, writer: Writer) -> None:
    [source] = processes(cloud, writer.id)
    cloud.fleet("drain_host", HostId=f"host-{source}")
    try:
        cloud.wait(
            "the host to be empty", lambda: list(processes(cloud, writer.id)) == [*{*HOSTS} - {source}]
        )
    finally:
        fleet(cloud, "activate_host", HostId=f"host-{source}")
    cloud.wait("it to be over", lambda: all_ended(cloud, writer.id))
    assert cloud.boot_id(writer.id) == writer.boot


def all_ended(cloud: SanCloud, instance: str) -> bool:
    found = fleet(cloud, "describe_instance_migrations", InstanceIds=[instance])["InstanceMigrations"]
    return all(each["State"] in ENDED for each in found)


def kill_machine(cloud: SanCloud, instance: str, host: int) -> None:
    os.kill(processes(cloud, instance)[host], signal.SIGKILL)


VICTIMS: dict[str, Callable[[SanCloud, str, int, int], None]] = {
    "manager": lambda cloud, id, source, target: cloud.kill("manager"),
    "agent of the source": lambda cloud, id, source, target: cloud.kill(f"agent-{source}"),
    "agent of the destination": lambda cloud, id, source, target: cloud.kill(f"agent-{target}"),
    "both agents": lambda cloud, id, source, target: cloud.kill(f"agent-{source}", f"agent-{target}"),
    "machine at the destination": lambda cloud, id, source, target: kill_machine(cloud, id, target),
    "machine at the source": lambda cloud, id, source, target: kill_machine(cloud, id, source),
}


@pytest.mark.parametrize("victim", VICTIMS)
def test_what_dies_on_the_way_leaves_one_that_works(cloud: SanCloud, writer: Writer, victim: str) -> None:
    [source] = processes(cloud, writer.id)
    [target] = set(HOSTS) - {source}
    id = begin(cloud, writer.id, SLOW)
    wait_copying(cloud, id)
    VICTIMS[victim](cloud, writer.id, source, target)
    found = ended(cloud, id)
    print(f"{victim}: {found['State']} {found.get('Message', '')}")
    if victim == "machine at the source":
        assert found["State"] != "completed"
        cloud.wait("it to be started again", lambda: len(processes(cloud, writer.id)) == 1)
        cloud.waiter("instance_running", InstanceIds=[writer.id])
    else:
        assert cloud.boot_id(writer.id) == writer.boot
    cloud.wait("one to run", lambda: len(processes(cloud, writer.id)) == 1)
    assert cloud.wait_ssh(writer.id, "cat /mark") == "here"
    cloud.wait_clean()
