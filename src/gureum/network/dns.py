"""A VPC's resolver: dnsmasq in its namespace, unprivileged.

Names like ip-10-0-0-5.ec2.internal and their reverses are computed from addresses, so the resolver has no
state: it is started with its whole configuration as arguments, and an agent that comes back recognises it
by them.
"""

from __future__ import annotations

import logging
import os
import select
import signal
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, ip_address
from pathlib import Path

from gureum.errors import NetworkError
from gureum.network import namespaces
from gureum.network.filters import RESOLVER_ADDRESS
from gureum.network.namespaces import command, visit
from gureum.network.plan import VpcPlan

log = logging.getLogger(__name__)

STOP_MILLISECONDS_MAX = 2000
_RESOLV_FILES = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")


def upstream() -> tuple[str, tuple[str, ...]]:
    """(file, IPv4 servers in it) of the host's resolvers that a namespace can reach; ("", ()) for none.

    A stub on the loopback device is out of reach; systemd-resolved has the real servers in a file of its own.
    """
    for path in _RESOLV_FILES:
        try:
            lines = Path(path).read_text(errors="replace").splitlines()
        except OSError:
            continue
        fields = (line.split() for line in lines)
        servers = [field[1] for field in fields if len(field) > 1 and field[0] == "nameserver"]
        usable = tuple(server for server in servers if _reachable(server))
        if usable:
            return path, usable
    return "", ()


def _reachable(server: str) -> bool:
    try:
        address = ip_address(server)
    except ValueError:
        return False
    return address.version == 4 and not address.is_loopback and not address.is_unspecified


def arguments(vpc: VpcPlan, resolv_file: str) -> list[str]:
    network = IPv4Network(vpc.cidr)
    return [
        "dnsmasq",
        "--conf-file=/dev/null",
        "--user=nobody",
        "--group=nogroup",
        "--pid-file=",
        "--bind-interfaces",
        f"--listen-address={vpc.dns}",
        f"--listen-address={RESOLVER_ADDRESS}",
        "--no-hosts",
        "--no-dhcp-interface=*",
        "--domain-needed",
        "--bogus-priv",
        "--cache-size=1000",
        "--dns-forward-max=150",
        f"--domain={vpc.domain}",
        f"--local=/{vpc.domain}/",
        f"--synth-domain={vpc.domain},{network},ip-",
        f"--resolv-file={resolv_file}" if resolv_file else "--no-resolv",
    ]


def converge(namespace: str, vpc: VpcPlan | None) -> None:
    """Have exactly the right resolver in the namespace; ``vpc`` None: none at all."""
    wanted = arguments(vpc, upstream()[0]) if vpc and vpc.dns_support else None
    own = namespaces.inode(namespace)
    running = [(pid, argv) for pid, inode, argv in _processes() if inode == own]
    keep = next((pid for pid, argv in running if argv == wanted), None)
    for pid, _ in running:
        if pid != keep:
            _stop(pid)
    if wanted and keep is None:
        visit(namespace, lambda: command(wanted))


def without_resolver(found: Iterable[str]) -> set[str]:
    """Those of the namespaces in which no dnsmasq runs."""
    running = {inode for _, inode, _ in _processes()}
    return {namespace for namespace in found if namespaces.inode(namespace) not in running}


def _processes() -> Iterator[tuple[int, int, list[str]]]:
    """(pid, inode of its network namespace, arguments) of every dnsmasq on the machine."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            if (entry / "comm").read_text() != "dnsmasq\n":
                continue
            inode = (entry / "ns/net").stat().st_ino
            argv = (entry / "cmdline").read_bytes().split(b"\0")[:-1]
        except OSError:
            continue
        yield int(entry.name), inode, [argument.decode(errors="replace") for argument in argv]


def _stop(pid: int) -> None:
    """End it and wait until its sockets are free."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if not poll.poll(STOP_MILLISECONDS_MAX):
            raise NetworkError(f"dnsmasq, process {pid}, does not end")
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)
