"""`gureum doctor`: what this machine can do, why not where it cannot, and what to do about it.

Every check tries the thing itself where that is possible (a table in a network namespace, a port, a guest
under KVM) and leaves nothing behind.
"""

import asyncio
import importlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from gureum.cli import packages
from gureum.cli.config import CloudConfig
from gureum.cli.output import human_bytes
from gureum.errors import ConfigError
from gureum.san.settings import SanSettings

OK, WARN, FAIL = "ok", "warn", "fail"
COMMAND_TIMEOUT_S = 10.0
CAP_NET_ADMIN = 12
MEMORY_FAIL_BYTES = 512 << 20
MEMORY_WARN_BYTES = 2 << 30
DISK_FAIL_BYTES = 1 << 30
DISK_WARN_BYTES = 10 << 30
KVM_DEVICE = Path("/dev/kvm")
HUGEPAGES = Path("/sys/kernel/mm/hugepages")


class Finding(msgspec.Struct, frozen=True):
    """`status` is ok, warn (gureum works, with less) or fail (it does not). `todo` may be empty."""

    name: str
    status: str
    why: str
    todo: str = ""


def examine(state_dir: Path, host: str, port: int, config: CloudConfig | None = None) -> Iterator[Finding]:
    """Findings one by one, as they are made: the KVM probe takes up to 3 s."""
    for check in (root, debian_packages, kvm, namespaces, nftables, tun, hosts, cgroups, huge_pages, memory):
        yield _guarded(check.__name__, lambda check=check: check(state_dir))  # type: ignore[misc]
    yield _guarded("disk", lambda: disk(state_dir))
    yield _guarded("port", lambda: free_port(state_dir, host, port))
    if config is not None and config.store:
        yield _guarded("store", lambda: database(config))


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    """A check that cannot be carried out is a finding too."""
    try:
        return check()
    except (OSError, ValueError, ConfigError, subprocess.TimeoutExpired) as error:
        return Finding(name.replace("_", " "), WARN, f"could not be examined: {error}")


def root(_state_dir: Path) -> Finding:
    effective = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            effective = int(line.split()[1], 16)
    if os.geteuid() != 0:
        return Finding("root", FAIL, "networks and guests need root", "run gureum with sudo")
    if not effective >> CAP_NET_ADMIN & 1:
        return Finding(
            "root",
            FAIL,
            "root without CAP_NET_ADMIN: a container?",
            "start it with --privileged or --cap-add NET_ADMIN",
        )
    return Finding("root", OK, "root with CAP_NET_ADMIN")


def debian_packages(state_dir: Path) -> Finding:
    in_ceph = SanSettings.load(state_dir).kind == "ceph"
    lacking = packages.missing([packages.Need.RUN, *([packages.Need.SAN] if in_ceph else [])])
    for_images = [package for package in packages.missing([packages.Need.IMAGE]) if package not in lacking]
    if lacking:
        names = ", ".join(package.name for package in lacking)
        return Finding("packages", FAIL, f"missing: {names}", packages.by_hand(lacking + for_images))
    if for_images:
        names = ", ".join(package.name for package in for_images)
        return Finding(
            "packages",
            WARN,
            f"missing for `image build`: {names}",
            packages.by_hand(for_images),
        )
    return Finding("packages", OK, "all there")


def kvm(state_dir: Path) -> Finding:
    slow = "guests are emulated (TCG): they work, several times slower"
    if not KVM_DEVICE.exists():
        return Finding(
            "kvm",
            WARN,
            f"no /dev/kvm; {slow}",
            "switch on virtualization in the firmware, or nested virtualization in the outer machine",
        )
    if not os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        return Finding(
            "kvm", WARN, f"/dev/kvm may not be opened; {slow}", "run as root or join the group kvm"
        )
    try:
        probe = importlib.import_module("gureum.hypervisors.qemu.probe")
    except ModuleNotFoundError:
        return Finding("kvm", WARN, "/dev/kvm can be opened; whether a guest boots under it was not tried")
    with tempfile.TemporaryDirectory() as nothing_kept:
        verdict = asyncio.run(probe.probe_kvm(Path(nothing_kept)))
    if verdict.works:
        return Finding("kvm", OK, "a guest boots under KVM")
    return Finding(
        "kvm", WARN, f"{verdict.reason}; {slow}", "see dmesg; use a machine whose KVM can boot guests"
    )


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
        env={
            **os.environ,
            "PATH": os.pathsep.join((os.environ.get("PATH", ""), packages.SYSTEM_PATH)),
            "LC_ALL": "C",
        },
    )


@contextmanager
def scratch_namespace() -> Iterator[tuple[str, subprocess.CompletedProcess[str]]]:
    """A network namespace for as long as the block lasts: its name, and how making it went."""
    name = f"gureum-doctor-{os.getpid()}"
    made = _run("ip", "netns", "add", name)
    try:
        yield name, made
    finally:
        if made.returncode == 0:
            _run("ip", "netns", "delete", name)


def _not_tried(name: str, what: str) -> Finding | None:
    """The finding for checks that need root or a program that is not there."""
    if os.geteuid() != 0:
        return Finding(name, FAIL, "cannot be tried without root", "sudo gureum doctor")
    if shutil.which(what, path=os.pathsep.join((os.environ.get("PATH", ""), packages.SYSTEM_PATH))) is None:
        return Finding(name, FAIL, f"the program {what} is missing", "see packages")
    return None


VETH_PAIR = ("link", "add", "left", "type", "veth", "peer", "name", "right")


def namespaces(_state_dir: Path) -> Finding:
    if finding := _not_tried("namespaces", "ip"):
        return finding
    with scratch_namespace() as (name, made):
        done = made if made.returncode else _run("ip", "-n", name, *VETH_PAIR)
        if done.returncode:
            return Finding(
                "namespaces",
                FAIL,
                f"no network namespace with a veth pair: {done.stderr.strip()}",
                "needs CAP_SYS_ADMIN and CONFIG_NET_NS, CONFIG_VETH; in a container: --privileged",
            )
    return Finding("namespaces", OK, "a network namespace with a veth pair was made and removed")


NFT_TRIAL = (
    "add table inet doctor;"
    " add chain inet doctor c {{ type filter hook forward priority 0; }};"
    " add rule {rule}"
)


def nftables(_state_dir: Path) -> Finding:
    if finding := _not_tried("nftables", "nft"):
        return finding
    rules = {
        "stateful rules (conntrack)": "inet doctor c ct state established accept",
        "sets": "inet doctor c ip saddr { 10.0.0.1, 10.0.0.2 } accept",
    }
    with scratch_namespace() as (name, made):
        if made.returncode:
            return Finding("nftables", FAIL, "no network namespace to try it in", "see namespaces")
        for what, rule in rules.items():
            done = _run("ip", "netns", "exec", name, "nft", NFT_TRIAL.format(rule=rule))
            if done.returncode:
                return Finding(
                    "nftables",
                    FAIL,
                    f"no {what}: {done.stderr.strip().splitlines()[0] if done.stderr else 'nft failed'}",
                    "modprobe nf_tables nf_conntrack; in a container: --privileged",
                )
    return Finding("nftables", OK, "tables, sets and stateful rules work")


def tun(_state_dir: Path) -> Finding:
    if finding := _not_tried("tun", "ip"):
        return finding
    with scratch_namespace() as (name, made):
        if made.returncode:
            return Finding("tun", FAIL, "no network namespace to try it in", "see namespaces")
        done = _run("ip", "-n", name, "tuntap", "add", "dev", "tap0", "mode", "tap")
    if done.returncode:
        return Finding(
            "tun",
            FAIL,
            f"no tap device: {done.stderr.strip()}",
            "modprobe tun; in a container: --device /dev/net/tun",
        )
    return Finding("tun", OK, "a tap device was made and removed")


def cgroups(_state_dir: Path) -> Finding:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    controllers_v2 = Path("/sys/fs/cgroup/cgroup.controllers")
    offered = controllers_v2.read_text().split() if controllers_v2.exists() else []
    offered_v1 = {option for mount in mounts if mount[2] == "cgroup" for option in mount[3].split(",")}
    wanted = {"cpu", "memory", "pids"}
    found = {"2": wanted & set(offered), "1": wanted & offered_v1}
    version, present = max(found.items(), key=lambda item: len(item[1]))
    if present != wanted:
        lacking = ", ".join(sorted(wanted - present))
        return Finding(
            "cgroups",
            WARN,
            f"no controllers for {lacking}: such limits of guests are not enforced",
            "mount a cgroup v2 hierarchy on /sys/fs/cgroup",
        )
    return Finding("cgroups", OK, f"version {version} with cpu, memory, pids")


def huge_pages(_state_dir: Path) -> Finding:
    sizes = []
    for directory in sorted(HUGEPAGES.glob("hugepages-*kB")):
        total = int((directory / "nr_hugepages").read_text())
        free = int((directory / "free_hugepages").read_text())
        if total:
            sizes.append(f"{free} of {total} free of {directory.name.removeprefix('hugepages-')}")
    if sizes:
        return Finding("huge pages", OK, "; ".join(sizes))
    transparent = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if transparent.exists() and "[never]" not in transparent.read_text():
        return Finding("huge pages", OK, "transparent ones are on; none are reserved")
    return Finding(
        "huge pages",
        WARN,
        "none: large guests are somewhat slower",
        "sysctl vm.nr_hugepages=COUNT, 2 MiB each",
    )


def memory(_state_dir: Path) -> Finding:
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    why = f"{human_bytes(available)} available; a t3.nano takes 512 MiB"
    if available < MEMORY_FAIL_BYTES:
        return Finding("memory", FAIL, why, "stop other programs or add memory")
    if available < MEMORY_WARN_BYTES:
        return Finding("memory", WARN, why, "room for a few of the smallest instances only")
    return Finding("memory", OK, why)


def disk(state_dir: Path) -> Finding:
    place = next(path for path in (state_dir, *state_dir.parents) if path.exists())
    free = shutil.disk_usage(place).free
    why = f"{human_bytes(free)} free for {state_dir}"
    if free < DISK_FAIL_BYTES:
        return Finding("disk", FAIL, why, "free space, or choose another place with --state-dir")
    if free < DISK_WARN_BYTES:
        return Finding("disk", WARN, why, "enough for small instances; --state-dir chooses another place")
    return Finding("disk", OK, why)


def hosts(_state_dir: Path) -> Finding:
    """What several hosts need of the kernel."""
    if finding := _not_tried("hosts", "ip"):
        return finding
    trials = {
        "bridges": ("type", "bridge"),
        "veth pairs": ("type", "veth"),
        "VXLAN": ("type", "vxlan", "id", "1", "dstport", "4789", "gbp"),
        "WireGuard": ("type", "wireguard"),
    }
    with scratch_namespace() as (name, made):
        if made.returncode:
            return Finding("hosts", WARN, "no network namespace to try it in", "see namespaces")
        lacking = [
            what
            for what, kind in trials.items()
            if _run("ip", "-n", name, "link", "add", "trial", *kind).returncode
            or _run("ip", "-n", name, "link", "delete", "trial").returncode
        ]
    if lacking == ["WireGuard"] and shutil.which("wireguard-go"):
        return Finding("hosts", OK, "several work, also encrypted, slowly: by wireguard-go, not the kernel")
    if lacking == ["WireGuard"]:
        return Finding("hosts", OK, "several work; traffic between them cannot be encrypted: no WireGuard")
    if lacking:
        why = f"one only: this kernel has no {', '.join(lacking)}"
        return Finding("hosts", WARN, why, "modprobe bridge veth vxlan")
    return Finding("hosts", OK, "several work, also encrypted")


def database(config: CloudConfig) -> Finding:
    from gureum.cli.store import look

    found = look(config)
    assert found is not None
    if found.trouble:
        return Finding("store", FAIL, found.trouble)
    if found.dangers:
        names = " and ".join(found.dangers)
        return Finding(
            "store", WARN, f"{found.place}: a power cut may destroy it: {names} off", f"switch {names} on"
        )
    if found.alone:
        return Finding(
            "store",
            WARN,
            f"{found.place}: what only a lost server had is lost: none waits for another",
            "synchronous replication: synchronous_standby_names",
        )
    return Finding(
        "store", OK, f"{found.place}, PostgreSQL {found.version}; leads: {found.leader or 'nobody'}"
    )


def free_port(state_dir: Path, host: str, port: int) -> Finding:
    from gureum.cli.cloud import Cloud

    cloud = Cloud(state_dir)
    if cloud.exists and cloud.is_running() and cloud.config().port == port:
        return Finding("port", OK, f"{port} is this cloud's own")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return Finding(
                "port",
                FAIL,
                f"{host} port {port}: {error.strerror}",
                f"gureum up --port N; who has it: ss -ltnp 'sport = :{port}'",
            )
    return Finding("port", OK, f"{host} port {port} is free")
