"""The Debian packages that gureum uses: the one list, by what they are for.

Standard library only: the launcher reads this before there is a virtual environment.
"""

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

DPKG_STATUS = Path("/var/lib/dpkg/status")
SYSTEM_PATH = os.pathsep.join(("/usr/sbin", "/sbin", "/usr/bin", "/bin"))


class Need(StrEnum):
    """What a package is needed for. A command of the CLI names its needs."""

    SETUP = "setup"  # to make the virtual environment
    RUN = "run"  # to run a cloud: guests, disks, networks
    IMAGE = "image"  # to build a machine image
    SAN = "san"  # to have disks in Ceph
    TEST = "test"  # to run the tests


@dataclass(frozen=True)
class Package:
    """A Debian package, and the programs that show it is there on a system without dpkg."""

    name: str
    needs: frozenset[Need]
    programs: tuple[str, ...]
    why: str


def _package(name: str, needs: str, programs: str, why: str) -> Package:
    return Package(name, frozenset(Need(need) for need in needs.split()), tuple(programs.split()), why)


PACKAGES: tuple[Package, ...] = (
    _package("python3-venv", "setup", "", "the virtual environment"),
    _package("qemu-system-x86", "run test", "qemu-system-x86_64", "runs the guests"),
    _package("qemu-utils", "run test", "qemu-img", "makes and grows disks"),
    _package("nftables", "run test", "nft", "security groups, NAT"),
    _package("dnsmasq-base", "run test", "dnsmasq", "private DNS names"),
    _package("iproute2", "run test", "ip", "network namespaces and taps"),
    _package("e2fsprogs", "run image test", "mkfs.ext4 debugfs", "makes and grows file systems"),
    _package("openssh-client", "run test", "ssh ssh-keygen", "logs in to guests"),
    _package("ceph-mon", "san test", "ceph-mon monmaptool osdmaptool", "the cluster's monitor"),
    _package("ceph-mgr", "san test", "ceph-mgr", "the cluster's manager"),
    _package("ceph-osd", "san test", "ceph-osd", "the cluster's disks"),
    _package("ceph-common", "san test", "ceph rbd", "asks the cluster"),
    _package("python3-rados", "san test", "ceph", "asks the cluster"),
    _package("python3-rbd", "san test", "rbd", "makes volumes and snapshots in Ceph"),
    _package("qemu-block-extra", "san test", "qemu-img rbd", "lets QEMU reach disks in Ceph"),
    _package("busybox", "test", "busybox", "plays guests in tests"),
    _package("curl", "test", "curl", "asks for metadata in tests"),
    _package("iputils-ping", "test", "ping", "asks guests for an answer in tests"),
    _package("wireguard-go", "test", "wireguard-go", "encrypts between hosts in tests"),
    _package("wireguard-tools", "test", "wg", "encrypts between hosts in tests"),
    _package("postgresql", "test", "postgres initdb psql", "holds the state in tests"),
)


def packages_for(needs: Iterable[Need]) -> list[Package]:
    wanted = frozenset(needs)
    return [package for package in PACKAGES if package.needs & wanted]


def installed(status: Path = DPKG_STATUS) -> frozenset[str] | None:
    """Names of the fully installed Debian packages, or None on a system without dpkg.

    Reads dpkg's own file (about 3 ms): asking dpkg-query costs ten times as much at each start.
    """
    try:
        text = status.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return frozenset(re.findall(r"^Package: (\S+)\nStatus: \S+ \S+ installed$", text, re.MULTILINE))


def has_programs(package: Package) -> bool:
    path = os.pathsep.join((os.environ.get("PATH", ""), SYSTEM_PATH))
    return bool(package.programs) and all(shutil.which(program, path=path) for program in package.programs)


def missing(needs: Iterable[Need], status: Path = DPKG_STATUS) -> list[Package]:
    """The packages that `needs` ask for and this machine has neither as a package nor as programs."""
    present = installed(status)

    def is_there(package: Package) -> bool:
        if present is not None and package.name in present:
            return True
        if package.name == "python3-venv":
            return _has_ensurepip()
        return has_programs(package)

    return [package for package in packages_for(needs) if not is_there(package)]


def _has_ensurepip() -> bool:
    """Debian's python3 has `venv` but not `ensurepip` until python3-venv is installed."""
    import importlib.util

    return importlib.util.find_spec("ensurepip") is not None


def apt_command(packages: Iterable[Package]) -> list[str]:
    names = [package.name for package in packages]
    return ["apt-get", "install", "-y", "--no-install-recommends", *names]


def by_hand(packages: Iterable[Package], *, sudo: bool = False) -> str:
    """The line for a person to run. A fresh machine has no package lists, and an old one's are stale."""
    prefix = "sudo " if sudo else ""
    return f"{prefix}apt-get update && {prefix}{' '.join(apt_command(packages))}"
