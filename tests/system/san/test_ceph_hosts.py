"""A whole cloud with a storage cluster of its own: who reaches it, and what happens when it is stopped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gureum.bench.clouds import launcher
from gureum.cli import machine_hosts, storage
from gureum.cli.cloud import Cloud
from gureum.cli.config import CloudConfig, default_base
from gureum.cli.san_options import Choice
from gureum.network.fabric import UPLINK
from gureum.network.names import Names
from gureum.san.ceph.cluster import Cluster
from gureum.san.ceph.commands import ask
from gureum.san.ceph.pools import admin

from ..host import free_port
from .ceph_cluster import OSD_BYTES, TIMEOUT_S, until

pytestmark = [pytest.mark.root, pytest.mark.ceph]

CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close()"


def quiet(_text: str) -> None:
    return


def up(cloud: Cloud, hosts: int) -> CloudConfig:
    """What `gureum up --san ceph --hosts N` does."""
    machine_hosts.change(cloud, hosts)
    config = cloud.configure(hosts=hosts)
    storage.choose(cloud, Choice("ceph", osd_bytes=OSD_BYTES))
    storage.prepare(cloud, config, quiet)
    cloud.start(config, quiet)
    storage.settle(cloud, quiet)
    return config


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    directory = Path(tempfile.mkdtemp(prefix="gureum-san-", dir="/var/tmp"))
    directory.chmod(0o711)
    made = Cloud(directory / "cloud")
    made.configure(port=free_port())
    try:
        yield made
    finally:
        made.stop_processes()
        try:
            made.evacuate()
        finally:
            sweep(made)
            shutil.rmtree(directory, ignore_errors=True)
            for claim in (default_base() / "indexes").iterdir():
                if claim.is_symlink() and claim.readlink() == made.state_dir:
                    claim.unlink()


def sweep(cloud: Cloud) -> None:
    """Also where the cloud cannot end itself."""
    cloud.stop_daemons()
    config = cloud.config()
    cloud.fabric(config).remove()
    remove = [path.name for path in Path("/run/netns").glob(f"gm{config.index}[-.]*")]
    for name in remove:
        subprocess.run(["ip", "netns", "delete", name], check=False)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=TIMEOUT_S)


def connects(namespace: str, address: str, port: int) -> bool:
    command = ["ip", "netns", "exec", namespace, "python3", "-c", CONNECT, address, str(port)]
    return subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False).returncode == 0


@pytest.fixture
def guest(cloud: Cloud) -> Iterator[str]:
    """A namespace that is to host 0 what a VPC is, with a public address of a guest's."""
    config = cloud.configure(hosts=2)
    name = f"sanguest{config.index}"
    yield name
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def plug(config: CloudConfig, host: str, guest: str) -> None:
    names = Names(config.index, config.public_cidr)
    address, device = str(names.public[9]), names.uplink(9999)
    ip("netns", "add", guest)
    ip("-n", host, "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", guest)
    ip("-n", host, "address", "add", "169.254.200.1/30", "dev", device)
    ip("-n", host, "link", "set", device, "up")
    ip("-n", host, "route", "add", address, "dev", device)
    ip("-n", host, "neighbour", "add", "proxy", address, "dev", UPLINK)
    ip("-n", guest, "address", "add", f"{address}/32", "dev", "eth0")
    ip("-n", guest, "link", "set", "eth0", "up")
    ip("-n", guest, "route", "add", "169.254.200.1", "dev", "eth0")
    ip("-n", guest, "route", "add", "default", "via", "169.254.200.1", "dev", "eth0", "src", address)


def add_osd(cloud: Cloud) -> dict[str, Any]:
    """One more, as the cluster shows it."""
    command = [*launcher(), "san", "osd", "add", "--size", "1G", "--state-dir", str(cloud.state_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * TIMEOUT_S, check=False)
    assert "osd.3 is added" in done.stdout, done.stderr
    [dump] = ask(admin(Cluster(cloud.state_dir)), [{"prefix": "osd dump"}])
    [found] = [each for each in dump.document()["osds"] if each["osd"] == 3]
    return dict(found)


def test_hosts_reach_it_and_guests_do_not(cloud: Cloud, guest: str) -> None:
    config = up(cloud, 2)
    fabric = cloud.fabric(config)
    host = fabric.namespace(0)
    cluster = Cluster(cloud.state_dir)
    port = cluster.record().mon_port
    added = add_osd(cloud)
    assert added["public_addr"].startswith(f"{fabric.gateway}:")
    new_port = int(added["public_addr"].rpartition("/")[0].rpartition(":")[2])
    assert connects(host, fabric.gateway, new_port)
    settings = cluster.settings()
    rbd = ["rbd", "--conf", str(settings.conf), "--id", settings.user, "ls", settings.pool]
    listed = subprocess.run(
        ["ip", "netns", "exec", host, *rbd], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert listed.returncode == 0, listed.stderr
    cloud.stop_processes()  # an agent would put back what is taken away here
    plug(config, host, guest)
    assert not connects(guest, fabric.gateway, port)
    assert not connects(guest, fabric.gateway, new_port)
    # Two filters stand between them; without those the same guest gets there, so it was they.
    names = Names(config.index)
    ip("netns", "exec", host, "nft", "delete", "table", "inet", names.table)
    assert not connects(guest, fabric.gateway, port)
    subprocess.run(["nft", "delete", "table", "inet", fabric.table], check=True)
    assert connects(guest, fabric.gateway, port)


def test_another_number_of_hosts_moves_it(cloud: Cloud) -> None:
    up(cloud, 1)
    cluster = Cluster(cloud.state_dir)
    assert "v2:127.0.0.1:" in cluster.conf.read_text()
    cloud.stop_processes()
    cloud.evacuate()
    assert cloud.running_daemons() == {}
    config = up(cloud, 2)
    assert f"v2:{cloud.fabric(config).gateway}:" in cluster.conf.read_text()
    cloud.stop_processes()
    # What goes on without the cloud has the old address, and must not keep it.
    assert len(cloud.running_daemons()) == len(cloud.daemons)
    up(cloud, 1)
    assert "v2:127.0.0.1:" in cluster.conf.read_text()


def test_everything_killed_at_once(cloud: Cloud) -> None:
    config = up(cloud, 1)
    for name in ("supervisor", *cloud.roles, *cloud.daemons):
        os.kill(int((cloud.run_dir / f"{name}.pid").read_text().split()[0]), signal.SIGKILL)
    until(lambda: not cloud.is_running() and not cloud.running_daemons())
    storage.prepare(cloud, config, quiet)
    cloud.start(config, quiet)
    storage.settle(cloud, quiet)
    assert len(cloud.running_daemons()) == len(cloud.daemons)
