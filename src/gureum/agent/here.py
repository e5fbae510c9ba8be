"""Which host this agent is the agent of: its directory, its name, its place in the network.

Three kinds: the only host of a cloud on one machine, which is the machine as it is; one of several on a
machine, each in a network namespace; and a machine that joined the cloud of another.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from gureum.agent.agent import Identity
from gureum.cli.config import CloudConfig, JoinedConfig, host_dir
from gureum.errors import ConfigError, NetworkError
from gureum.files import make_directories
from gureum.network import fabric, namespaces, wireguard
from gureum.network.links import read_json


class Here(msgspec.Struct, frozen=True, kw_only=True):
    """``name`` is the process's; ``cloud_dir`` holds run/ with its ready file and the manager's socket.

    ``number``: which of the machine's hosts. ``uplink``: its device towards the other hosts, "" for an only
    host. ``joined``: the manager is on another machine. ``several``: it may be on this one or on another.
    ``index`` and ``public_cidr`` as in KernelNetwork.
    """

    name: str
    cloud_dir: Path
    directory: Path
    identity: Identity
    index: int
    public_cidr: str
    number: int = 0
    uplink: str = ""
    joined: bool = False
    several: bool = False
    namespace: str = ""
    """Of its network, "" if it is the machine's own."""

    @property
    def run(self) -> Path:
        return self.directory / "run"


def on_machine(state_dir: Path, number: int | None) -> Here:
    """The host of this number on the cloud's own machine, None for its only one.

    Of several, this process enters the host's network: threads and processes that it starts are there too.
    Raises GureumError.
    """
    config = CloudConfig.load(state_dir)
    if (number is None) != (config.hosts == 1) or not 0 <= (number or 0) < config.hosts:
        raise ConfigError(f"this cloud has {config.hosts} hosts on this machine; `gureum up` starts them")
    identity = Identity(
        cloud=config.name,
        host=f"host-{number or 0}",
        zone=config.zone_of(number or 0),
        boot_id=boot_id(),
        cpus=os.cpu_count() or 1,
        memory_bytes=memory_bytes() // config.hosts,
    )
    if number is None:
        return Here(
            name="agent",
            cloud_dir=state_dir,
            directory=state_dir,
            identity=with_uplink(identity, config.uplink, state_dir / "run") if config.uplink else identity,
            index=config.index,
            public_cidr=config.public_cidr,
            uplink=config.uplink,
            several=bool(config.agents and config.store),
        )
    directory = host_dir(state_dir, number)
    make_host_dir(directory)
    network = fabric.Fabric(
        config.index,
        config.public_cidr,
        state_dir / "run/fabric.lock",
        config.networks6,
        config.ipv6_prefix,
    )
    namespace = network.ensure(number)
    namespaces.enter(namespace)
    return Here(
        name=f"agent-{number}",
        cloud_dir=state_dir,
        directory=directory,
        identity=with_uplink(identity, fabric.UPLINK, directory / "run"),
        index=config.index,
        public_cidr=config.public_cidr,
        number=number,
        uplink=fabric.UPLINK,
        namespace=namespace,
    )


def on_joined(state_dir: Path) -> Here:
    """The host that this machine is in the cloud of another. Raises GureumError."""
    config = JoinedConfig.load(state_dir)
    identity = Identity(
        cloud=config.cloud,
        host=config.host,
        zone=config.zone,
        boot_id=boot_id(),
        cpus=os.cpu_count() or 1,
        memory_bytes=memory_bytes(),
    )
    return Here(
        name="agent",
        cloud_dir=state_dir,
        directory=state_dir,
        identity=with_uplink(identity, config.uplink, state_dir / "run"),
        index=config.index,
        public_cidr=config.public_cidr,
        uplink=config.uplink,
        joined=True,
    )


def make_host_dir(directory: Path) -> None:
    """Passable but not listable, as the state directory: each guest runs as a user of its own."""
    for path in (directory.parent, directory, directory / "run"):
        make_directories(path, 0o711)
        path.chmod(0o711)


def with_uplink(identity: Identity, uplink: str, run: Path) -> Identity:
    """With the device's first IPv4 address, at which other hosts reach this one, and the key in ``run`` for
    WireGuard. Raises NetworkError.
    """
    found = read_json("address", "show", "dev", uplink)
    addresses = [
        address["local"]
        for device in found
        for address in device["addr_info"]
        if address["family"] == "inet" and address["scope"] == "global"
    ]
    if not addresses:
        raise NetworkError(
            f"the uplink {uplink} has no IPv4 address, so other hosts could not reach this one"
        )
    return msgspec.structs.replace(
        identity,
        address=addresses[0],
        uplink_mtu=found[0]["mtu"],
        wireguard_key=wireguard.public_key(run / wireguard.KEY_FILE),
    )


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
