"""The storage of a cloud that is started: chosen once, and its Ceph cluster made, moved and waited for."""

from __future__ import annotations

import re
import shutil
import stat
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from gureum.cli import packages, volume_types
from gureum.cli.cloud import Cloud
from gureum.cli.config import LOOPBACK as LOOPBACKS
from gureum.cli.config import CloudConfig, make_state_dir
from gureum.cli.output import MISSING, CliError, human_bytes, note
from gureum.cli.san_options import OSD_BYTES_MIN, Choice
from gureum.cli.store import exists, transact
from gureum.errors import GureumError, PoolUnavailable
from gureum.files import make_directories
from gureum.resources import Snapshot, Volume
from gureum.san.ceph import bootstrap, existing, machine, making, pools
from gureum.san.ceph.cluster import LOOPBACK, OSDS_MAX, OSDS_MIN, Cluster, Record, new_uuid
from gureum.san.settings import SanSettings
from gureum.store.base import Transaction
from gureum.transport.tls import Address

OSD_BYTES_MAX_UNASKED = 32 << 30
FREE_SHARE = 3
POOL_TIMEOUT_S = 90.0
WELL_TIMEOUT_S = 15.0
"""A cluster in which a disk is missing for good should not hold up each start for longer."""
USABLE_TIMEOUT_S = 60.0
REACHED_TIMEOUT_S = 15.0
WILDCARDS = ("0.0.0.0", "::", "")
UNUSABLE = re.compile(r"[^\w./+@:=-]")
"""In a path in Ceph's configuration, such characters mean something or end it."""


def choose(cloud: Cloud, choice: Choice | None, types: Mapping[str, str] | None = None) -> None:
    """Checks and keeps what was chosen: a cloud's disks do not change their place by an option.

    ``types``: as of ``volume_types.parse``. A cluster of its own is made later. Raises CliError.
    """
    if choice is None and types is None:
        return
    try:
        before = SanSettings.load(cloud.state_dir)
        after = _settings(cloud, choice, before) if choice is not None else before
        if after != before:
            _refuse_change(cloud, before, after)
        if types is not None:
            after = volume_types.chosen(cloud, after, types)
        if after.kind == "ceph":
            require_packages()
        make_state_dir(cloud.state_dir)
        if after.conf == Cluster(cloud.state_dir).conf:
            _have_record(cloud, choice or Choice("ceph"))
        elif after.kind == "ceph":
            _require_good(after)
        if after != before:
            cloud.stop_daemons()  # those that went on without the cloud are not known as its own from here on
            after.save(cloud.state_dir)
    except (GureumError, OSError) as error:
        raise CliError(str(error)) from error


def word(cloud: Cloud, settings: SanSettings) -> str:
    """How it is said to --san."""
    if settings.kind == "local":
        return "local"
    if settings.conf == Cluster(cloud.state_dir).conf:
        return "ceph"
    return f"ceph:{settings.conf},pool={settings.pool},user={settings.user}"


def require_packages() -> None:
    if lacking := packages.missing([packages.Need.SAN]):
        names = ", ".join(package.name for package in lacking)
        raise CliError(
            f"disks in Ceph need packages that are missing: {names}",
            packages.by_hand(lacking),
            exit_code=MISSING,
        )


def _settings(cloud: Cloud, choice: Choice, before: SanSettings) -> SanSettings:
    """With the volume types of before, if the storage is the same."""
    if choice.kind == "local":
        after = SanSettings()
    elif choice.conf is None:
        after = Cluster(cloud.state_dir).settings()
    else:
        keyring = existing.find_keyring(choice.conf, choice.user)
        after = SanSettings("ceph", choice.conf, keyring, choice.user, choice.pool)
    return before if after == before.of_pool(before.pool) else after


def _refuse_change(cloud: Cloud, before: SanSettings, after: SanSettings) -> None:
    if not cloud.exists:
        return
    was, wanted = word(cloud, before), word(cloud, after)
    if cloud.is_running():
        raise CliError(
            f"the cloud runs already, with --san {was}; that stays, once it has volumes or snapshots",
            f"if it has none: gureum down, then gureum up --san {wanted}; else delete them first, or begin "
            "another cloud, with --state-dir",
        )
    store = cloud.state_dir / "store.db"
    if exists(store) and (things := transact(store, _count_disks)):
        raise CliError(
            f"this cloud has {things} volumes and snapshots in its storage, {was}; they do not move by "
            f"starting it with --san {wanted}",
            "gureum up without --san, and delete them first; or begin another cloud, with --state-dir",
        )


async def _count_disks(tx: Transaction) -> int:
    return len(await tx.find(Volume)) + len(await tx.find(Snapshot))


def _require_good(settings: SanSettings) -> None:
    """Raises CliError with all that is wrong with an existing cluster."""
    note(f"looking at the cluster of {settings.conf} ...")
    problems = existing.check(settings)
    for problem in problems:
        if not problem.is_fatal:
            note(f"  {problem.text}{f' ({problem.todo})' if problem.todo else ''}")
    fatal = [problem for problem in problems if problem.is_fatal]
    if fatal:
        detail = "\n".join(f"  {problem.text}\n    -> {problem.todo}" for problem in fatal[1:])
        raise CliError(fatal[0].text, fatal[0].todo, detail=detail)


# ---- a cluster of its own


def _have_record(cloud: Cloud, choice: Choice) -> None:
    """Decides once what the cluster is: its id, its monitor's port, its disks."""
    cluster = Cluster(cloud.state_dir)
    if cluster.exists:
        _refuse_other_disks(cluster.record(), choice)
        return
    if found := UNUSABLE.search(str(cloud.state_dir)):
        raise CliError(
            f"the state directory's path has {found[0]!r} in it, which Ceph's configuration cannot hold",
            "choose another with --state-dir",
        )
    if choice.devices:
        check_devices(choice.devices)
    index = cloud.configure().index
    make_directories(cluster.directory)
    record = Record(
        fsid=new_uuid(),
        mon_port=machine.choose_port(index, LOOPBACK),
        osds=len(choice.devices) or OSDS_MIN,
        osd_bytes=0 if choice.devices else choice.osd_bytes or default_osd_bytes(cloud.state_dir),
        devices=choice.devices,
    )
    cluster.create(record)


def _refuse_other_disks(record: Record, choice: Choice) -> None:
    asked = choice.osd_bytes or choice.devices
    if asked and (choice.osd_bytes, choice.devices) != (record.osd_bytes, record.devices):
        disks = ", ".join(record.devices) or f"{record.osds} files of {human_bytes(record.osd_bytes)}"
        raise CliError(
            f"the cluster was made with {disks}",
            "gureum up without --san-size and --san-device; gureum san osd changes its disks",
        )


def default_osd_bytes(state_dir: Path) -> int:
    """Of each of three sparse files: together they never ask for more than is free now."""
    free = shutil.disk_usage(state_dir).free
    size = min(OSD_BYTES_MAX_UNASKED, free // FREE_SHARE) >> 20 << 20
    if size < OSD_BYTES_MIN:
        raise CliError(
            f"{human_bytes(free)} are free for {state_dir}: too little for {OSDS_MIN} OSDs of 1 GiB",
            "free space, or choose another place with --state-dir",
        )
    return size


def check_devices(devices: tuple[str, ...]) -> None:
    """Raises CliError unless there are enough, each is a disk, and nothing is on any."""
    if not OSDS_MIN <= len(set(devices)) == len(devices) <= OSDS_MAX:
        raise CliError(
            f"three copies need {OSDS_MIN} to {OSDS_MAX} different devices, not {len(set(devices))}"
        )
    for device in devices:
        check_device(device)


def check_device(device: str, labels: Collection[str] = ()) -> None:
    """Raises CliError unless it is a disk and nothing is on it but an OSD that ``labels`` names."""
    try:
        if not stat.S_ISBLK(Path(device).stat().st_mode):
            raise CliError(f"{device} is no block device", "name a disk, as in /dev/sdb")
        with open(device, "rb") as disk:
            head = disk.read(making.LABEL_BYTES)
    except OSError as error:
        raise CliError(f"{device} cannot be read: {error.strerror}") from error
    if any(head) and making.label(head) not in labels:
        erase = f"dd if=/dev/zero of={device} bs=1M count=1 conv=fsync"  # wipefs leaves some of most labels
        raise CliError(f"there is something on {device}", f"if it may be lost: {erase}")


def bind_address(cloud: Cloud, config: CloudConfig) -> str:
    """Where the cloud's hosts reach the machine: nothing but its loopback where it is the only host."""
    if config.hosts > 1:
        return cloud.fabric(config).ensure_network()
    if not config.agents:
        return LOOPBACK
    host = Address.parse(config.agents).host
    if host in WILDCARDS:
        host = Address.parse(config.agents_url).host
    return LOOPBACK if host in LOOPBACKS else host


def prepare(cloud: Cloud, config: CloudConfig, progress: Callable[[str], None]) -> None:
    """Before the processes are started: have what the daemons need, at the address of today."""
    try:
        with cloud.transition():
            cluster = Cluster.of(cloud.state_dir)
            if cluster is None:
                return
            require_packages()
            address = bind_address(cloud, config)
            if bootstrap.needs_move(cluster, address):
                cloud.stop_daemons()
            if not cloud.running_daemons():
                _require_port(cluster, address)
            bootstrap.prepare(cluster, config.index, address, progress)
    except (GureumError, OSError) as error:
        raise CliError(f"the storage cluster cannot be made: {error}", "gureum up, once more") from error


def _require_port(cluster: Cluster, address: str) -> None:
    port = cluster.record().mon_port
    if not machine.is_free(address, port):
        raise CliError(
            f"{address} port {port}, the storage cluster's own, cannot be used",
            f"see who has it: ss -ltnp 'sport = :{port}'",
        )


def wait_reached(cloud: Cloud, progress: Callable[[str], None]) -> None:
    """Until all hosts that are up use it: before, they take no instances. What they say if they do not."""
    from gureum.cli import api

    until = time.monotonic() + REACHED_TIMEOUT_S
    while True:
        try:
            hosts = {host["HostId"]: host for host in api.hosts(cloud) if host["State"] == "up"}
        except CliError:  # the manager is asked by who comes next
            return
        away = {
            id: said for id, host in hosts.items() for said in host["Problems"] if said.startswith("pool ")
        }
        if not away or time.monotonic() > until:
            break
        time.sleep(0.2)
    for id, said in away.items():
        progress(f"{id} does not reach the storage yet: {said}")


def settle(cloud: Cloud, progress: Callable[[str], None]) -> None:
    """Once the processes run: have the pool, and wait until it can be used; at first, until all is well."""
    try:
        cluster = Cluster.of(cloud.state_dir)
        if cluster is None:
            return
        started = began = time.monotonic()
        further = SanSettings.load(cloud.state_dir).further
        if not pools.are_made(cluster, further):
            first = not cluster.pool_mark.exists()
            progress(
                "the cluster's daemons find each other ..." if first else "making the cluster's pools ..."
            )
            pools.have_pools(cluster, began + POOL_TIMEOUT_S, further)
            began = time.monotonic()
        pools.wait_joined(cluster, cluster.osds, began + WELL_TIMEOUT_S)
        status = pools.wait_for(cluster, pools.is_well, began + WELL_TIMEOUT_S)
        if not pools.is_usable(status):
            status = pools.wait_for(cluster, pools.is_usable, began + USABLE_TIMEOUT_S)
        said = status["health"]["status"]
        progress(f"storage: {said} after {time.monotonic() - started:.1f} s")
        if said != "HEALTH_OK":
            progress("  gureum san status says what is wrong")
    except PoolUnavailable as error:
        progress(f"storage: {error}; gureum logs mon.a says more. Guests wait until it does")
    except GureumError as error:
        raise CliError(str(error), "gureum up, once more; gureum logs mon.a") from error
