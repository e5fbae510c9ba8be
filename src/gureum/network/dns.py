"""A VPC's resolver: dnsmasq in its namespace, unprivileged.

Names like ip-10-0-0-5.ec2.internal and their reverses are computed from addresses, so the resolver is started
with its whole configuration as arguments, and an agent that comes back recognises it by them. Only what
changes while guests ask is in a file: the public names that mean private addresses inside. It is read again
at a signal, so the resolver is there all the time.
"""

from __future__ import annotations

import logging
import os
import select
import signal
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path

from gureum.dns import private_name, public_domain
from gureum.errors import NetworkError
from gureum.network import namespaces
from gureum.network.filters import RESOLVER_ADDRESS, RESOLVER_ADDRESS6
from gureum.network.namespaces import command, visit
from gureum.network.plan import VpcPlan, interfaces

log = logging.getLogger(__name__)

STOP_MILLISECONDS_MAX = 2000
DIRECTORY = Path("/run/gureum/resolvers")
"""A file for each resolver, by its namespace. It lives as long as namespaces do, and anybody may read it."""
_PID, _NEW = ".pid", ".new"
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


def addresses(vpc: VpcPlan) -> tuple[str, ...]:
    """Where the resolver is asked."""
    return (vpc.dns, RESOLVER_ADDRESS, *((RESOLVER_ADDRESS6,) if vpc.cidrs6 else ()))


def servers(vpc: VpcPlan) -> tuple[str, ...]:
    """The name servers that guests are told of: its DHCP options, with the resolver where it is meant."""
    own = vpc.dns if vpc.dns_support else ""
    return tuple(found for server in vpc.dhcp.servers if (found := server or own))


def hosts(vpc: VpcPlan) -> str:
    """The VPC's own public names, which mean private addresses inside; as a hosts file.

    The first name of a line is the one that the address itself has.
    """
    if not vpc.dns_hostnames:
        return ""
    zone = public_domain(vpc.domain)
    pairs = sorted(
        (address.private_ip, address.public_ip)
        for interface in interfaces(vpc)
        for address in interface.addresses
        if address.public_ip
    )
    return "".join(
        f"{private} {private_name(private, vpc.domain)} ec2-{public.replace('.', '-')}.{zone}\n"
        for private, public in pairs
    )


def arguments(vpc: VpcPlan, resolv_file: str, hosts_file: str = "") -> list[str]:
    """Of the two domains this cloud is the authority: what it does not know of them there is not."""
    public = public_domain(vpc.domain)
    return [
        "dnsmasq",
        "--conf-file=/dev/null",
        "--user=nobody",
        "--group=nogroup",
        f"--pid-file={hosts_file}{_PID}",
        "--bind-interfaces",
        *(f"--listen-address={address}" for address in addresses(vpc)),
        "--no-hosts",
        f"--addn-hosts={hosts_file}",
        "--no-dhcp-interface=*",
        "--domain-needed",
        "--bogus-priv",
        "--cache-size=1000",
        "--dns-forward-max=150",
        f"--domain={vpc.domain}",
        f"--local=/{vpc.domain}/",
        f"--local=/{public}/",
        *(f"--synth-domain={vpc.domain},{network},ip-" for network in vpc.cidrs),
        f"--synth-domain={public},{vpc.public},ec2-",
        f"--resolv-file={resolv_file}" if resolv_file else "--no-resolv",
    ]


def converge(namespace: str, vpc: VpcPlan | None) -> None:
    """Have exactly the right resolver in the namespace; ``vpc`` None: none at all."""
    file = DIRECTORY / namespace
    wanted = arguments(vpc, upstream()[0], str(file)) if vpc and vpc.dns_support else None
    if vpc and wanted:
        _write(file, hosts(vpc))
    own = namespaces.inode(namespace)
    keep = None
    for pid, inode, argv in _processes():
        if (inode, argv) == (own, wanted) and keep is None:
            keep = pid
        elif inode == own or _reads(argv, file):
            _stop(pid)
    if wanted is None:
        _forget(file)
    elif keep is None:
        visit(namespace, lambda: command(wanted))
    else:
        # Also if the file is as it was: who wrote it may have died before saying so.
        _signal(keep, signal.SIGHUP)


def refresh(namespace: str, vpc: VpcPlan) -> None:
    """Tell the resolver that there is of other names only. Costs no look at all processes."""
    file = DIRECTORY / namespace
    try:
        pid = int(_pid_file(file).read_text())
        right = Path(f"/proc/{pid}/ns/net").stat().st_ino == namespaces.inode(namespace)
    except (OSError, ValueError):
        right = False
    if not right:
        converge(namespace, vpc)
        return
    _write(file, hosts(vpc))
    _signal(pid, signal.SIGHUP)


def remove_orphans(prefix: str) -> None:
    """End the resolvers of namespaces with such names that are no more: processes outlive a name."""
    orphans = [
        file
        for file in DIRECTORY.glob(f"{prefix}*")
        if not file.name.endswith((_PID, _NEW)) and not namespaces.exists(file.name)
    ]
    if not orphans:
        return
    for pid, _, argv in _processes():
        if any(_reads(argv, file) for file in orphans):
            _stop(pid)
    for file in orphans:
        _forget(file)


def _reads(argv: list[str], file: Path) -> bool:
    return f"--addn-hosts={file}" in argv


def _pid_file(file: Path) -> Path:
    return file.with_name(f"{file.name}{_PID}")


def _forget(file: Path) -> None:
    file.unlink(missing_ok=True)
    _pid_file(file).unlink(missing_ok=True)


def _write(file: Path, text: str) -> None:
    new = file.with_name(f"{file.name}{_NEW}")
    try:
        for directory in (DIRECTORY.parent, DIRECTORY):
            if not directory.exists():
                # Whatever the umask is: the resolver, which reads it again, is nobody.
                directory.mkdir()
                directory.chmod(0o755)
        new.write_text(text)
        new.chmod(0o644)
        new.replace(file)
    except OSError as error:
        raise NetworkError(f"cannot write {file}: {error.strerror}") from error


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
    _signal(pid, signal.SIGKILL, wait=True)


def _signal(pid: int, number: signal.Signals, wait: bool = False) -> None:
    """``wait``: until the process has ended. It may have ended before."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        signal.pidfd_send_signal(fd, number)
        if not wait:
            return
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if not poll.poll(STOP_MILLISECONDS_MAX):
            raise NetworkError(f"dnsmasq, process {pid}, does not end")
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)
