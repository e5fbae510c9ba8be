"""What of a cloud is not as it was asked for, as its API, its storage and the kernel show it."""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gureum.bench import disk_io
from gureum.bench.chaos.traffic import Wanted
from gureum.bench.clouds import wait
from gureum.bench.copies import HELD, Copy
from gureum.bench.leftovers import difference, namespaces
from gureum.bench.migration import ENDED
from gureum.bench.san_faults import SECONDS_MAX, well
from gureum.bench.servers import BenchError
from gureum.cli import api
from gureum.cli.cloud import Cloud
from gureum.cli.output import CliError
from gureum.cli.san import findings, pools
from gureum.errors import GureumError
from gureum.san.ceph.cluster import Cluster

RESIZING = ("resizing", "moving")
VOLUME = "vol-"
OTHER_VOLUME = "vol-ffffffff"
"""What is shown as the volume of an image's snapshot: the image is in the pool under its own name."""


class Shown:
    """All that the API shows. Raises CliError where it does not answer."""

    def __init__(self, cloud: Cloud) -> None:
        self.hosts = list(api.hosts(cloud))
        self.instances = {each["InstanceId"]: each for each in api.instances(cloud)}
        self.volumes = {
            each["VolumeId"]: each
            for page in api.pages(cloud, "ec2", "describe_volumes")
            for each in page["Volumes"]
        }
        self.snapshots = {
            each["SnapshotId"]: each
            for page in api.pages(cloud, "ec2", "describe_snapshots", OwnerIds=["self"])
            for each in page["Snapshots"]
            if each["VolumeId"].startswith(VOLUME) and each["VolumeId"] != OTHER_VOLUME
        }
        self.migrations = [
            each
            for page in api.pages(cloud, "fleet", "describe_instance_migrations")
            for each in page["InstanceMigrations"]
        ]
        self.sizes = [
            each
            for page in api.pages(cloud, "fleet", "describe_instance_sizes")
            for each in page["InstanceSizes"]
        ]


def unsettled(cloud: Cloud, wanted: Wanted, machines: Sequence[Copy]) -> list[str]:
    """What is not, or not yet, as it was asked for; nothing if all is."""
    wrong = [f"{each.name} does not run, or not well" for each in cloud.processes() if not each.is_ready]
    try:
        shown = Shown(cloud)
        if not well(cloud):
            wrong.append("the storage cluster is not well")
    except (GureumError, CliError) as error:
        return [*wrong, f"it does not answer: {error}"]
    return [
        *wrong,
        *away(shown.hosts),
        *(f"{each['HostId']}: {problem}" for each in shown.hosts for problem in each["Problems"]),
        *instances(wanted, shown.instances, machines),
        *volumes(wanted.volumes, shown.volumes),
        *snapshots(wanted.snapshots, shown.snapshots),
        *(
            f"{each['MigrationId']} of {each['InstanceId']} is {each['State']}"
            for each in shown.migrations
            if each["State"] not in ENDED
        ),
        *(
            f"{each['InstanceId']} becomes a {each['InstanceType']}: {each.get('Message', '')}"
            for each in shown.sizes
            if each["State"] in RESIZING
        ),
    ]


def away(hosts: Iterable[Mapping[str, Any]]) -> list[str]:
    return [f"{each['HostId']} is {each['State']}" for each in hosts if each["State"] != "up"]


def instances(wanted: Wanted, shown: Mapping[str, Mapping[str, Any]], machines: Sequence[Copy]) -> list[str]:
    running = defaultdict(list)
    for copy in machines:
        running[copy.instance].append(copy)
    wrong = []
    for id, state in wanted.instances.items():
        item = shown.get(id)
        found = item["State"]["Name"] if item else "terminated"
        if found != (state or "terminated"):
            why = item.get("StateTransitionReason", "") if item else ""
            wrong.append(
                f"{id} was to be {state or 'terminated'}, and is {found if item else 'not there'} {why}"
            )
        if item and state and item["InstanceType"] != wanted.types[id]:
            wrong.append(f"{id} was to be a {wanted.types[id]}, and is a {item['InstanceType']}")
        count = len([each for each in running.get(id, ()) if each.state not in HELD])
        if count != (state == "running"):
            wrong.append(f"{id} has {count} running processes, as {state or 'terminated'}")
    unknown = {copy.instance for copy in machines} - set(wanted.instances)
    return [*wrong, *(f"{id} has a process, and nobody launched it" for id in sorted(unknown))]


def volumes(wanted: Mapping[str, str | None], shown: Mapping[str, Mapping[str, Any]]) -> list[str]:
    wrong = []
    for id, instance in wanted.items():
        item = shown.get(id)
        if instance is None or item is None:
            if (instance is None) is not (item is None):
                wrong.append(f"{id} was {'deleted, and is there' if item else 'made, and is not there'}")
            continue
        at = [each["InstanceId"] for each in item["Attachments"] if each["State"] == "attached"]
        state = "in-use" if instance else "available"
        if item["State"] != state or at != ([instance] if instance else []):
            where = f"attached to {instance}" if instance else "available"
            wrong.append(f"{id} was to be {where}, and is {item['State']}: {item['Attachments']}")
    return wrong


def snapshots(wanted: Mapping[str, str | None], shown: Mapping[str, Mapping[str, Any]]) -> list[str]:
    wrong = []
    for id, state in wanted.items():
        found = shown[id]["State"] if id in shown else None
        if found != state:
            why = shown[id].get("StateMessage", "") if id in shown else ""
            wrong.append(f"{id} was to be {state or 'deleted'}, and is {found or 'not there'} {why}")
    return wrong


def storage(cloud: Cloud) -> list[str]:
    """Differences between what the API shows and what is in the pool, and who has what open."""
    try:
        shown = Shown(cloud)
        found = [
            each["Message"] for pool in pools(cloud) for each in findings(cloud, pool) if each["Problem"]
        ]
        settings = Cluster(cloud.state_dir).settings()
        images = json.loads(disk_io.rbd(settings, "ls", "--format", "json"))
        names = [name for name in images if name.startswith(VOLUME)]
        # A volume that was deleted is there as long as it has snapshots.
        kept = {each["VolumeId"] for each in shown.snapshots.values()}
        there = [name for name in names if name in shown.volumes or name not in kept]
        wrong = [
            *(f"gureum san check: {message}" for message in found),
            *difference("rbd ls: volume", shown.volumes, there),
        ]
        for name in sorted(set(names) & set(shown.volumes)):
            status = json.loads(disk_io.rbd(settings, "status", "--format", "json", name))
            wrong += watched(name, shown.volumes[name], shown.instances, status["watchers"])
        return wrong
    except (GureumError, CliError, subprocess.TimeoutExpired) as error:
        return [f"the storage cannot be looked at: {error}"]


def watched(
    name: str,
    volume: Mapping[str, Any],
    instances: Mapping[str, Mapping[str, Any]],
    watchers: Sequence[Mapping[str, Any]],
) -> list[str]:
    """A volume of a running instance is open once, any other one is not."""
    at = [instances[each["InstanceId"]]["State"]["Name"] for each in volume["Attachments"]]
    open_ = int("running" in at)
    if len(watchers) == open_:
        return []
    return [f"{name} is open {len(watchers)} times, not {open_}: {[each['address'] for each in watchers]}"]


def empty(cloud: Cloud) -> list[str]:
    """What is left in the pool of a cloud in which all was deleted."""
    try:
        images = json.loads(disk_io.rbd(Cluster(cloud.state_dir).settings(), "ls", "--format", "json"))
        trash = json.loads(
            disk_io.rbd(Cluster(cloud.state_dir).settings(), "trash", "ls", "--format", "json")
        )
    except (BenchError, subprocess.TimeoutExpired) as error:
        return [f"the storage cannot be looked at: {error}"]
    return [
        *(f"rbd ls: {name} is left" for name in images if name.startswith(VOLUME)),
        *(f"rbd trash ls: {each['name']} is left" for each in trash),
    ]


def delete_all(cloud: Cloud) -> None:
    """Raises BenchError and CliError where that is not possible."""
    shown = Shown(cloud)
    there = [id for id, each in shown.instances.items() if each["State"]["Name"] != "terminated"]
    if there:
        api.call(cloud, "ec2", "terminate_instances", InstanceIds=there)
    wait("all instances to end", lambda: _is_over(Shown(cloud).instances), SECONDS_MAX)
    for id in Shown(cloud).volumes:
        api.call(cloud, "ec2", "delete_volume", VolumeId=id)
    for id in Shown(cloud).snapshots:
        api.call(cloud, "ec2", "delete_snapshot", SnapshotId=id)

    def is_empty() -> bool:
        found = Shown(cloud)
        return not found.volumes and not found.snapshots

    wait("all volumes and snapshots to be gone", is_empty, SECONDS_MAX)


def _is_over(instances: Mapping[str, Mapping[str, Any]]) -> bool:
    return all(each["State"]["Name"] == "terminated" for each in instances.values())


def on_hosts(cloud: Cloud) -> list[str]:
    """What is left on the hosts of a cloud in which all was deleted."""
    machines = [path for run in cloud.host_run_dirs() for path in (run / "machines").glob("i-*")]
    return [
        *(f"machine {path}" for path in machines),
        *(f"process of {id}" for id in cloud.guests()),
        *(f"namespace {path.name}" for path in namespaces(cloud, "gm", "gn")),
    ]
