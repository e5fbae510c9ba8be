"""How many hosts a machine has: what may change that, and what must be gone first."""

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from msgspec.structs import replace

from gureum.cli.cloud import Cloud
from gureum.cli.config import HOST_PATH_MAX, HOSTS_MAX, CloudConfig, host_dir, make_state_dir
from gureum.cli.output import MISSING, USAGE, CliError, note
from gureum.cli.store import exists, transact
from gureum.errors import StoreError
from gureum.network import wireguard
from gureum.resources import (
    Host,
    Instance,
    InstanceState,
    NatGateway,
    NatGatewayState,
    Snapshot,
    Volume,
)
from gureum.store.base import Reader, Transaction

SHOWN_MAX = 5


def change(cloud: Cloud, hosts: int | None, zones: int | None = None) -> None:
    """Prepare for so many hosts in so many zones, None: as they are. Raises CliError for what is in the way.

    An only host stands for all zones, and what is on a host's disk stays there: so hosts can be added at any
    time where they are in as many zones as before, all else needs hosts that are empty.
    """
    if hosts is not None:
        check_number(cloud.state_dir, hosts)
    if not cloud.exists:
        return
    config = cloud.config()
    if not config.hosts:
        raise CliError(
            "this machine has only managers of the cloud",
            "gureum host join makes it a host, too",
            exit_code=USAGE,
        )
    after = replace(config, hosts=hosts or config.hosts, host_zones=zones or config.host_zones)
    if (after.hosts, after.host_zones) == (config.hosts, config.host_zones):
        return
    if cloud.is_running():
        raise CliError(
            f"the cloud runs already, with --hosts {config.hosts} --zones {config.host_zones}",
            f"gureum down, then up --hosts {after.hosts} --zones {after.host_zones}",
        )
    store = cloud.state_dir / "store.db"
    if not after.every_zone and exists(store):
        _transact(store, lambda tx: _require_zones(tx, config, after))
    if after.hosts != config.hosts:
        _change_hosts(cloud, config, after.hosts)


def _change_hosts(cloud: Cloud, config: CloudConfig, hosts: int) -> None:
    store = cloud.state_dir / "store.db"
    if 1 < config.hosts < hosts or not exists(store):
        return
    if guests := cloud.guests():
        raise CliError(
            f"{len(guests)} guests run on the hosts that there are",
            "gureum down, then up again",
        )
    _transact(store, lambda tx: _forget(tx, config, hosts))
    if config.hosts > 1:
        note("taking the network between the hosts away ...")
    cloud.evacuate()
    for number in range(hosts, config.hosts):
        remove_directory(host_dir(cloud.state_dir, number))


def _transact(store: Path, work: Callable[[Transaction], Awaitable[None]]) -> None:
    try:
        transact(store, work)
    except StoreError as error:
        raise CliError(str(error)) from error


def remove_directory(directory: Path) -> None:
    """Of a host that is no more; kept if its pool has volumes or snapshots that the store does not know."""
    records = directory / "pool/records"
    if [*records.glob("vol-*"), *records.glob("snap-*")]:
        note(f"{directory} is kept: there are volumes in its pool that this cloud does not know")
    else:
        shutil.rmtree(directory, ignore_errors=True)


def check_number(state_dir: Path, hosts: int) -> None:
    """Raises CliError for a number of hosts that this state directory cannot have."""
    if not 1 <= hosts <= HOSTS_MAX:
        raise CliError(f"a machine has 1 to {HOSTS_MAX} hosts, not {hosts}", exit_code=USAGE)
    longest = host_dir(state_dir, hosts - 1)
    if len(str(longest).encode()) > HOST_PATH_MAX:
        raise CliError(
            f"the path of a host's directory is longer than {HOST_PATH_MAX} bytes: {longest}",
            "choose a shorter one with --state-dir",
            exit_code=USAGE,
        )


def check_encryption(cloud: Cloud) -> None:
    """Raises CliError where this machine's hosts could not encrypt what they send to others."""
    make_state_dir(cloud.state_dir)
    if not wireguard.public_key(cloud.run_dir / wireguard.KEY_FILE):
        raise CliError(
            "traffic between hosts cannot be encrypted: wg is missing, or this kernel has no WireGuard "
            f"and {wireguard.PROGRAM} is missing",
            f"apt-get install wireguard-tools; modprobe wireguard, or the slower apt-get install "
            f"{wireguard.PROGRAM}; or --no-encrypt",
            exit_code=MISSING,
        )


async def _forget(tx: Transaction, config: CloudConfig, hosts: int) -> None:
    """Forget the hosts that will not be there any more. Raises CliError if something is on them."""
    leaving = [f"host-{number}" for number in range(hosts, config.hosts)]
    left = await things_on(tx, leaving)
    if left:
        raise CliError(
            f"{' to '.join(dict.fromkeys((leaving[0], leaving[-1])))} cannot go: {shown(left)} there",
            "terminate and delete them (or start with the hosts that you had), then try again",
        )
    for id in leaving:
        host = await tx.get(Host, id)
        if host is not None:
            await tx.delete(host)


async def things_on(reader: Reader, hosts: list[str]) -> list[str]:
    """Ids of the instances, volumes, snapshots and NAT gateways that are on these hosts."""
    instances = [
        instance.id
        for instance in await reader.find(Instance, host=hosts)
        if instance.state is not InstanceState.terminated
    ]
    volumes = [volume.id for volume in await reader.find(Volume, host=hosts)]
    snapshots = [snapshot.id for snapshot in await reader.find(Snapshot, host=hosts)]
    gateways = [
        gateway.id
        for gateway in await reader.find(NatGateway)
        if gateway.host in hosts and gateway.state is not NatGatewayState.deleted
    ]
    return [*instances, *volumes, *snapshots, *gateways]


async def _require_zones(reader: Reader, config: CloudConfig, after: CloudConfig) -> None:
    """What is in a zone has to have a host there. Raises CliError."""
    zones = {f"host-{number}": after.zone_of(number) for number in range(after.hosts)}

    changed = {
        f"host-{number}" for number in range(config.hosts) if config.zone_of(number) != after.zone_of(number)
    }

    def left_out(thing: Instance | Volume) -> bool:
        if thing.host is None:
            return thing.zone not in zones.values()
        return thing.host in changed and thing.zone != zones.get(thing.host, thing.zone)

    found: list[Instance | Volume] = [
        *(each for each in await reader.find(Instance) if each.state is not InstanceState.terminated),
        *await reader.find(Volume),
    ]
    if left := [each.id for each in found if left_out(each)]:
        raise CliError(
            f"a host is in one zone then, and {shown(left)} are on hosts of others",
            "terminate and delete them, or start with --zones 1: each host stands for all zones"
            if after.hosts != config.hosts
            else f"terminate and delete them, or stay with --zones {config.host_zones}",
        )


def shown(ids: list[str]) -> str:
    more = f" and {len(ids) - SHOWN_MAX} more" if len(ids) > SHOWN_MAX else ""
    return ", ".join(ids[:SHOWN_MAX]) + more
