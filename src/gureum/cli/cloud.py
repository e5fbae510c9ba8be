"""A cloud as processes: start, stop, and what runs."""

import contextlib
import fcntl
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Network
from pathlib import Path

import msgspec

from gureum.cli import mounts
from gureum.cli.children import child_environment, little_process, run_all
from gureum.cli.config import (
    JOINED,
    LOOPBACK,
    CloudConfig,
    JoinedConfig,
    default_base,
    make_state_dir,
    naming,
    new_config,
)
from gureum.cli.output import MISSING, NOT_RUNNING, USAGE, CliError
from gureum.cli.processes import Identity, find, read_pid_file, rss_kib, stop
from gureum.cli.supervisor import WARDEN, is_daemon, off_file
from gureum.cli.supervisor import command as child_command
from gureum.errors import ConfigError, NetworkError
from gureum.network.fabric import Fabric
from gureum.san.ceph.cluster import MON, Cluster
from gureum.san.settings import SanSettings
from gureum.transport.tls import Address

AGENT_MODULE = "gureum.agent"
READY_TIMEOUT_S = 20.0
READY_TIMEOUT_PER_HOST_S = 2.0
STOP_TIMEOUT_S = 15.0
DAEMON_STOP_TIMEOUT_S = 20.0
FAILED_STARTS_MAX = 3
POLL_S = 0.02
GUEST = re.compile(rb"\bguest=(i-[0-9a-f]{17})\b")


@dataclass(frozen=True)
class Process:
    """One process of a cloud. `restarts` counts since its supervisor was started."""

    name: str
    pid: int | None
    rss_kib: int | None
    is_ready: bool
    is_off: bool
    """Its host is switched off."""
    restarts: int
    last_end: str


@dataclass(frozen=True)
class Cloud:
    state_dir: Path

    @property
    def run_dir(self) -> Path:
        return self.state_dir / "run"

    @property
    def log_dir(self) -> Path:
        return self.state_dir / "log"

    @property
    def exists(self) -> bool:
        return (self.state_dir / "config.json").exists()

    def joined(self) -> JoinedConfig | None:
        """What this machine is in the cloud of another, None if it is not. Raises CliError."""
        if not (self.state_dir / JOINED).exists():
            return None
        try:
            return JoinedConfig.load(self.state_dir)
        except ConfigError as error:
            raise CliError(str(error)) from error

    def require(self) -> None:
        """Raises CliError where there is neither a cloud nor a host of another."""
        if self.joined() is None:
            self.config()

    def config(self) -> CloudConfig:
        if not self.exists:
            if (joined := self.joined()) is not None:
                raise CliError(
                    f"this machine is only host {joined.host} of cloud {joined.cloud}",
                    f"the same command on the cloud's own machine, {joined.manager}",
                )
            todo = f"gureum up -d{naming(self.state_dir)}"
            raise CliError(f"there is no cloud in {self.state_dir}", todo, exit_code=NOT_RUNNING)
        try:
            return CloudConfig.load(self.state_dir)
        except ConfigError as error:
            raise CliError(str(error)) from error

    @property
    def roles(self) -> tuple[str, ...]:
        """The names of the processes that the supervisor starts."""
        if self.exists:
            config = self.config()
            agents = config.agent_roles if self.joined() is None else ("agent",)
            return (*config.manager_roles, *self._host_roles(agents))
        return ("manager", "agent") if self.joined() is None else self._host_roles(("agent",))

    def _host_roles(self, agents: tuple[str, ...]) -> tuple[str, ...]:
        """Agents, each with its host's warden if there is a storage cluster."""
        try:
            has_wardens = SanSettings.load(self.state_dir).kind == "ceph"
        except ConfigError as error:
            raise CliError(str(error)) from error
        wardens = tuple(agent.replace("agent", WARDEN) for agent in agents)
        return (*agents, *wardens) if has_wardens else agents

    @property
    def daemons(self) -> tuple[str, ...]:
        """The names of the processes of the cloud's own Ceph cluster, which the supervisor starts too."""
        return cluster.daemons if (cluster := self._cluster()) is not None else ()

    @property
    def all_daemons(self) -> tuple[str, ...]:
        """`daemons`, and those of OSDs that were let go."""
        return cluster.all_daemons if (cluster := self._cluster()) is not None else ()

    def _cluster(self) -> Cluster | None:
        try:
            return Cluster.of(self.state_dir)
        except ConfigError as error:
            raise CliError(str(error)) from error

    # ---- what runs

    def supervisor(self) -> Identity | None:
        return read_pid_file(self.run_dir / "supervisor.pid")

    def processes(self) -> list[Process]:
        return [self._process(name) for name in ("supervisor", *self.roles, *self.daemons)]

    def _process(self, name: str) -> Process:
        identity = read_pid_file(self.run_dir / f"{name}.pid")
        restarts, _, last_end = _read_text(self.run_dir / f"{name}.restarts").strip().partition(" ")
        return Process(
            name=name,
            pid=identity.pid if identity else None,
            rss_kib=rss_kib(identity.pid) if identity else None,
            is_ready=identity is not None
            and (name == "supervisor" or is_daemon(name) or self.is_ready(name, identity)),
            is_off=identity is None and os.path.exists(off_file(str(self.state_dir), name)),
            restarts=int(restarts) if restarts.isdigit() else 0,
            last_end=last_end,
        )

    def is_ready(self, role: str, identity: Identity) -> bool:
        """Whether the role's process says that it answers. What an earlier process said does not count."""
        return self._said(role).get("pid") == identity.pid

    def _said(self, role: str) -> dict[str, object]:
        try:
            said = json.loads((self.run_dir / f"{role}.ready").read_text())
        except (OSError, ValueError):
            return {}
        return said if isinstance(said, dict) else {}

    def leads(self, role: str) -> bool:
        """Whether this manager answers, and does not stand by."""
        said = self._said(role)
        identity = read_pid_file(self.run_dir / f"{role}.pid")
        return identity is not None and said.get("pid") == identity.pid and said.get("leads") is not False

    def is_running(self) -> bool:
        return self.supervisor() is not None or bool(self._left_running())

    def _left_running(self) -> list[Identity]:
        """Manager and agents that run, also those of an earlier number of hosts."""
        files = [*sorted(self.run_dir.glob("manager*.pid")), *sorted(self.run_dir.glob("agent*.pid"))]
        return [identity for file in files if (identity := read_pid_file(file))]

    def host_run_dirs(self) -> list[Path]:
        """The run directory of each host that the machine has or had."""
        return [self.run_dir, *sorted(self.state_dir.glob("hosts/*/run"))]

    def guests(self) -> list[str]:
        """Ids of this cloud's machines whose hypervisor process runs, whatever the manager knows of them."""
        machines = [run / "machines" for run in self.host_run_dirs()]
        return sorted(id for id in set(_guest_processes()) if any((path / id).is_dir() for path in machines))

    # ---- start

    def configure(self, **changes: str | int | None) -> CloudConfig:
        """Makes state directory and configuration where they are missing; applies what is not None."""
        try:
            make_state_dir(self.state_dir)
            base = default_base()
            with _locked(self.state_dir / "config.lock"):
                is_new = not self.exists
                config = new_config(self.state_dir, base) if is_new else CloudConfig.load(self.state_dir)
                wanted = {key: value for key, value in changes.items() if value is not None}
                changed = msgspec.structs.replace(config, **wanted)
                check_config(changed)
                if is_new or changed != config:
                    changed.save(self.state_dir)
        except ConfigError as error:
            raise CliError(str(error)) from error
        except OSError as error:
            raise CliError(
                f"{self.state_dir} cannot be used: {error.strerror}", "choose another with --state-dir"
            ) from error
        return changed

    def start(self, config: CloudConfig | None, progress: Callable[[str], None]) -> bool:
        """Starts what does not run and waits until all answer. False where everything ran already.

        ``config`` None: of a host of another machine's cloud.
        """
        with self.transition():
            if self.supervisor() is not None and all(
                process.is_ready or process.is_off for process in self.processes()
            ):
                return False
            if (present := self.supervisor()) is not None and not self._knows_roles(present):
                progress("the supervisor is of an older version, or another number of hosts: it is replaced")
                self.stop_processes()
            if self.supervisor() is None:
                # A manager without a supervisor holds the port, and is stopped by the new supervisor.
                if config is not None and not any(map(read_pid_file, self.run_dir.glob("manager*.pid"))):
                    check_port(config)
                self._spawn_supervisor()
            self._wait_ready(progress)
            return True

    def _knows_roles(self, supervisor: Identity) -> bool:
        """Whether it was started with all names that there are now: it starts no others."""
        try:
            command = Path(f"/proc/{supervisor.pid}/cmdline").read_text()
        except OSError:
            return False
        return all(repr(role) in command for role in self.roles)

    @contextlib.contextmanager
    def transition(self) -> Iterator[None]:
        """While the cloud is started or stopped: one at a time. Waits for the one under way."""
        mounts.share(self.state_dir)
        with _locked(self.run_dir / "up.lock"):
            yield

    def _spawn_supervisor(self) -> None:
        for file in self.run_dir.glob("*.restarts"):
            file.unlink(missing_ok=True)
        command = little_process("gureum.cli.supervisor", self.state_dir, *self.daemons, *self.roles)
        log = str(self.log_dir / "supervisor.log")
        os.posix_spawn(
            command[0],
            command,
            child_environment(),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )

    def _wait_ready(self, progress: Callable[[str], None]) -> None:
        began = time.monotonic()
        roles = self.roles
        timeout_s = READY_TIMEOUT_S + READY_TIMEOUT_PER_HOST_S * len(roles)
        waiting = ["supervisor", *roles]
        restarts_before = {role: self._process(role).restarts for role in roles}
        while waiting:
            if waiting[0] == "supervisor" and self.supervisor() is not None:
                waiting.pop(0)
            # What runs before the supervisor does is what another one left.
            for role in [role for role in waiting if waiting[0] != "supervisor"]:
                process = self._process(role)
                if process.is_off:
                    waiting.remove(role)
                    progress(f"{role} is off, as its host")
                elif process.is_ready:
                    waiting.remove(role)
                    progress(f"{role} answers after {time.monotonic() - began:.2f} s")
                elif process.restarts - restarts_before[role] >= FAILED_STARTS_MAX:
                    self._give_up(role, f"the {role} ends as soon as it starts (it {process.last_end})")
            if waiting and time.monotonic() - began > timeout_s:
                self._give_up(waiting[0], f"the {waiting[0]} does not answer after {timeout_s:.0f} s")
            if waiting:
                time.sleep(POLL_S)

    def _give_up(self, role: str, reason: str) -> None:
        last = "\n".join(f"  {line}" for line in last_lines(self.log_dir / f"{role}.log", 15))
        self.stop_processes()
        if not self.guests():
            self.stop_wardens()
            self.stop_daemons()
        raise CliError(
            f"the cloud did not start: {reason}",
            f"gureum logs --state-dir {self.state_dir}; gureum doctor",
            detail=f"The last lines of {self.log_dir / f'{role}.log'}:\n{last}",
        )

    # ---- stop

    def stop_processes(self) -> list[Identity]:
        """Stops supervisor, manager and agents; guests and their wardens go on. Returns those that had to be
        killed.
        """
        supervising = self.supervisor()
        killed = stop([supervising], STOP_TIMEOUT_S) if supervising else []
        if supervising:
            # Whoever started it is its parent for as long as they live.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(supervising.pid, os.WNOHANG)
        # What a killed supervisor left.
        return killed + stop(self._left_running(), STOP_TIMEOUT_S)

    def stop_wardens(self) -> list[Identity]:
        """When no guests are left. Returns those that had to be killed."""
        files = sorted(self.run_dir.glob(f"{WARDEN}*.pid"))
        killed = stop([each for file in files if (each := read_pid_file(file))], STOP_TIMEOUT_S)
        for file in (*files, *self.run_dir.glob(f"{WARDEN}*.ready")):
            file.unlink(missing_ok=True)
        return killed

    def running_daemons(self) -> dict[str, Identity]:
        """Those of the cloud's own Ceph cluster that run, with or without a supervisor."""
        found = {}
        for name in self.all_daemons:
            file = self.run_dir / f"{name}.pid"
            identity = read_pid_file(file) or find(child_command(name, str(self.state_dir)))
            if identity is not None:
                found[name] = identity
        return found

    def stop_daemons(self) -> list[Identity]:
        """Stops the cloud's own Ceph cluster, after its guests: OSDs tell the monitor, which is the last.

        Nothing must supervise it. Returns those that had to be killed.
        """
        running = self.running_daemons()
        last = running.pop(MON, None)
        killed = stop(running.values(), DAEMON_STOP_TIMEOUT_S)
        killed += stop([last], DAEMON_STOP_TIMEOUT_S) if last else []
        for name in self.all_daemons:
            (self.run_dir / f"{name}.pid").unlink(missing_ok=True)
        return killed

    def evacuate(self) -> None:
        """Powers the guests off, and takes networks, mounts and storage daemons of this cloud away.

        Raises CliError.
        """
        agents = [role for role in self.roles if role.partition("-")[0] == "agent"]
        failed = run_all({role: self._evacuation(role) for role in agents}, self.log_dir)
        if failed:
            role = failed[0]
            last = "\n".join(f"  {line}" for line in last_lines(self.log_dir / f"{role}.log", 10))
            raise CliError("not all guests could be powered off", "gureum down, once more", detail=last)
        self.stop_wardens()
        self.stop_daemons()
        if self.exists and (config := self.config()).hosts > 1:
            try:
                self.fabric(config).remove()
            except NetworkError as error:
                raise CliError(
                    f"the network between the hosts is not removed: {error}", "gureum down, once more"
                ) from error

    def _evacuation(self, role: str) -> list[str]:
        host = role.removeprefix("agent").lstrip("-")
        return [
            *(sys.executable, "-P", "-m", AGENT_MODULE, "--state-dir", str(self.state_dir)),
            *(("--host", host) if host else ()),
            "--evacuate",
        ]

    def fabric(self, config: CloudConfig) -> Fabric:
        return Fabric(
            config.index,
            config.public_cidr,
            self.run_dir / "fabric.lock",
            config.networks6,
            config.ipv6_prefix,
        )

    def has_fabric(self) -> bool:
        """Whether the network between several hosts is there, with or without processes."""
        return self.exists and bool(self.fabric(self.config()).namespaces())


def check_config(config: CloudConfig) -> None:
    """Raises CliError for an address or prefix that must not be served, or TLS files that are not there."""
    if (config.tls_cert is None) != (config.tls_key is None):
        raise CliError("--tls-cert and --tls-key belong together", exit_code=USAGE)
    for path in filter(None, (config.tls_cert, config.tls_key)):
        if not os.access(path, os.R_OK):
            raise CliError(f"{path} cannot be read", exit_code=USAGE)
    if config.ipv6_prefix and IPv6Network(config.ipv6_prefix).overlaps(IPv6Network(config.networks6[0])):
        raise CliError(
            f"--ipv6-prefix {config.ipv6_prefix}: VPCs have networks of {config.networks6[0]} without it, "
            "hidden ones",
            "choose one that is not of it",
            exit_code=USAGE,
        )
    if config.hosts > 1 and config.agents:
        raise CliError(
            "several hosts on this machine have a network of their own, which other machines do not reach",
            "either --hosts N, or --agents-address with --hosts 1 (off takes it away)",
            exit_code=USAGE,
        )
    if not config.hosts and not config.agents:
        raise CliError(
            "this machine has nothing but managers, which agents have to reach",
            "--agents-address ADDRESS:PORT",
            exit_code=USAGE,
        )
    if config.managers > 1 and not config.store:
        raise CliError(
            "several managers need a database that all of them reach",
            "add --store postgresql://USER@HOST/DATABASE; or --managers 1",
            exit_code=USAGE,
        )
    if config.host not in LOOPBACK and config.tls_cert is None:
        raise CliError(
            f"{config.host} is reachable from other machines, where anybody could read along without TLS",
            "add --tls-cert and --tls-key, or listen on 127.0.0.1",
            exit_code=USAGE,
        )


def check_port(config: CloudConfig) -> None:
    """Raises CliError where an address cannot be listened on."""
    _check_address(config.host, config.port, "--port")
    if config.agents:
        _check_address(*Address.parse(config.agents), "--agents-address")


def _check_address(host: str, port: int, option: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as error:
            raise CliError(
                f"{host} port {port} cannot be used: {error.strerror}",
                f"see who has it: ss -ltnp 'sport = :{port}'; or choose another with {option}",
            ) from error


def require_root() -> None:
    if os.geteuid() != 0:
        raise CliError(
            "a cloud makes networks and guests, which needs root",
            "run the same command with sudo",
            exit_code=MISSING,
        )


def last_lines(path: Path, count: int, bytes_max: int = 256 * 1024) -> list[str]:
    """The end of a log, read from its end."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - bytes_max))
            return file.read(bytes_max).decode(errors="replace").splitlines()[-count:] if count else []
    except OSError:
        return []


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _guest_processes() -> Iterator[str]:
    """The machines of all clouds that run: a guest's hypervisor names its machine on the command line."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            found = GUEST.search(command)
            if b"qemu-system" in command.partition(b"\0")[0] and found:
                yield found[1].decode()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
