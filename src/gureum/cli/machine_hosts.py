"""How many hosts a machine has: what may change that, and what must be gone first."""

import shutil
from pathlib import Path

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


def change(cloud: Cloud, hosts: int) -> None:
    """Prepare for so many hosts where there was another number. Raises CliError, saying what is in the way.

    A namespaced host belongs to one zone, an only host stands for all of them, and what is on a host's disk
    stays there: so hosts can be added at any time, all else needs hosts that are empty.
    """
    check_number(cloud.state_dir, hosts)
    if not cloud.exists or (config := cloud.config()).hosts == hosts:
        return
    if cloud.is_running():
        raise CliError(
            f"the cloud runs already, with --hosts {config.hosts}", f"gureum down, then up --hosts {hosts}"
        )
    store = cloud.state_dir / "store.db"
    if 1 < config.hosts < hosts or not exists(store):
        return
    if guests := cloud.guests():
        raise CliError(
            f"{len(guests)} guests run on the hosts that there are",
            "gureum down, then up again",
        )
    try:
        transact(store, lambda tx: _forget(tx, config, hosts))
    except StoreError as error:
        raise CliError(str(error)) from error
    if config.hosts > 1:
        note("taking the network between the hosts away ...")
    cloud.evacuate()
    for number in range(hosts, config.hosts):
        remove_directory(host_dir(cloud.state_dir, number))


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
    if config.hosts == 1:
        zone = config.zones[0]
        if elsewhere := await _of_other_zones(tx, zone):
            raise CliError(
                f"host-0 will be in {zone} only, and has {shown(elsewhere)} of other zones",
                f"terminate and delete them, or stay with --hosts {config.hosts}",
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


async def _of_other_zones(reader: Reader, zone: str) -> list[str]:
    """What a host that stood for every zone has of the others: there it could not run any more."""
    instances = [
        instance.id
        for instance in await reader.find(Instance)
        if instance.zone != zone and instance.state is not InstanceState.terminated
    ]
    return [*instances, *(volume.id for volume in await reader.find(Volume) if volume.zone != zone)]


def shown(ids: list[str]) -> str:
    more = f" and {len(ids) - SHOWN_MAX} more" if len(ids) > SHOWN_MAX else ""
    return ", ".join(ids[:SHOWN_MAX]) + more
