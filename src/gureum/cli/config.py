"""A cloud's state directory and its configuration, STATE/config.json.

    STATE/config.json   this configuration, mode 0600: it holds the root credentials
    STATE/run/          pid files, ready files, sockets
    STATE/log/          logs of supervisor, manager and agents
    STATE/hosts/K/      what STATE is to host 0, to host K of several on this machine: run/, pool/

Imported by every process of a cloud: msgspec and the standard library only.
"""

import fcntl
import os
import re
import secrets
import shlex
import string
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import msgspec

from gureum.errors import ConfigError
from gureum.files import make_directories, sync, write_atomically

DEFAULT_PORT = 4566
DEFAULT_HOST = "127.0.0.1"
DEFAULT_REGION = "us-east-1"
ZONES = "abc"
INDEX_COUNT = 64
HOSTS_MAX = 64
# A UNIX socket's path has at most 107 bytes; the longest below a host's directory is
# /run/machines/i-0123456789abcdef0/console.
STATE_PATH_MAX = 60
HOST_PATH_MAX = 66
JOINED = "host.json"
AUTHORITY_DIRECTORY = "authority"
FIRST_MACHINE = "first"
"""The machine that the cloud was made on, among those with managers."""
ANY = ("0.0.0.0", "::", "")
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class CloudConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """What a cloud is, apart from what is in its store.

    name: lower-case letters, digits, "-"; no other cloud of this machine has it. account_id: 12 digits.
    index: 0 to 63, one per cloud of this machine, chooses its network ranges.
    tls_cert, tls_key: paths of PEM files, both or neither. hosts: how many compute hosts run on this machine;
    one uses the machine's own network, several have a network namespace each. host_zones: in how many zones
    several are, by turns; with 1 each stands for all zones. agents: ADDRESS:PORT for the
    agents of other machines, "" for none; agents_url: where they reach it; uplink: the device on which this
    machine's host reaches theirs. encrypted: what goes between hosts goes through WireGuard. ipv6_prefix: a
    network that is led to the hosts, from which VPCs get theirs; "" for none. store: the URL of the database
    that holds the cloud's state, without a password; "" for STATE/store.db. managers: how many run on this
    machine, of which one leads; several need such a database. machine: its name among those with managers.
    On one that joined with a manager hosts is 0, and public: the cloud's public addresses, which elsewhere
    follow from index; if it is a host, too, JoinedConfig says so.
    """

    name: str
    index: int
    account_id: str
    access_key_id: str
    secret_access_key: str
    port: int = DEFAULT_PORT
    host: str = DEFAULT_HOST
    region: str = DEFAULT_REGION
    tls_cert: str | None = None
    tls_key: str | None = None
    hosts: int = 1
    host_zones: int = len(ZONES)
    agents: str = ""
    agents_url: str = ""
    encrypted: bool = False
    ipv6_prefix: str = ""
    uplink: str = ""
    store: str = ""
    managers: int = 1
    machine: str = FIRST_MACHINE
    public: str = ""

    @classmethod
    def load(cls, state_dir: Path) -> Self:
        path = state_dir / "config.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        except msgspec.MsgspecError as error:
            raise ConfigError(f"{path} is damaged: {error}") from error

    def save(self, state_dir: Path) -> None:
        """Writes it whole and durably: the credentials in it exist nowhere else."""
        write_atomically(state_dir / "config.json", msgspec.json.format(msgspec.json.encode(self)) + b"\n")

    @property
    def public_cidr(self) -> str:
        """The cloud's public addresses: 1,022 of a range that nothing routes (RFC 2544)."""
        return self.public or f"198.18.{4 * self.index}.0/22"

    @property
    def networks6(self) -> tuple[str, ...]:
        """What the IPv6 networks of all VPCs are parts of."""
        # Not for the supervisor, which has this module, too.
        from gureum.network.names import local6

        local = str(local6(self.name, self.account_id, self.region))
        return (local, self.ipv6_prefix) if self.ipv6_prefix else (local,)

    @property
    def identity(self) -> str:
        """What a database is told that it belongs to."""
        return f"{self.name} of account {self.account_id}"

    @property
    def manager_roles(self) -> tuple[str, ...]:
        """The names of the managers' processes."""
        return ("manager", *(f"manager-{number}" for number in range(1, self.managers)))

    @property
    def agent_roles(self) -> tuple[str, ...]:
        """The names of the agents' processes, in the order of their hosts."""
        return ("agent",) if self.hosts == 1 else tuple(f"agent-{host}" for host in range(self.hosts))

    @property
    def zones(self) -> tuple[str, ...]:
        return tuple(f"{self.region}{letter}" for letter in ZONES)

    def zone_of(self, host: int) -> str:
        """The zone of one of the machine's hosts; "" for one that stands for all zones."""
        return "" if self.every_zone else self.zones[host % self.host_zones]

    @property
    def every_zone(self) -> bool:
        """Whether each of the machine's hosts stands for all zones."""
        return self.hosts == 1 or self.host_zones == 1

    @property
    def endpoint(self) -> str:
        return self._endpoint_at(DEFAULT_HOST if self.host in ("0.0.0.0", "") else self.host)

    @property
    def far_endpoint(self) -> str:
        """As other machines reach it, if they do."""
        far = urlsplit(self.agents_url).hostname
        return self._endpoint_at(far if far and self.host in ANY else self.host or DEFAULT_HOST)

    def _endpoint_at(self, host: str) -> str:
        host = f"[{host}]" if ":" in host else host
        return f"{'https' if self.tls_cert else 'http'}://{host}:{self.port}"


class JoinedConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """STATE/host.json of a host of another machine's cloud, whose certificate is in STATE/tls.

    index: as of a cloud, its own on this machine. manager: ADDRESS:PORT. expires: of the certificate, and
    renew_at: when to ask for the next (Unix times).
    """

    cloud: str
    host: str
    zone: str
    public_cidr: str
    index: int
    manager: str
    uplink: str
    expires: float
    renew_at: float

    @classmethod
    def load(cls, state_dir: Path) -> Self:
        path = state_dir / JOINED
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        except msgspec.MsgspecError as error:
            raise ConfigError(f"{path} is damaged: {error}") from error

    def save(self, state_dir: Path) -> None:
        write_atomically(state_dir / JOINED, msgspec.json.format(msgspec.json.encode(self)) + b"\n")


def default_base() -> Path:
    """Where clouds live: /var/lib/gureum for root, who can run guests; else the user's data directory."""
    if os.geteuid() == 0:
        return Path("/var/lib/gureum")
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "gureum"


def resolve_state_dir(chosen: Path | None) -> Path:
    """--state-dir, else $GUREUM_STATE, else the default. ConfigError where socket paths would not fit."""
    path = _named(chosen)
    if len(os.fsencode(path)) > STATE_PATH_MAX:
        raise ConfigError(f"the state directory's path is longer than {STATE_PATH_MAX} bytes: {path}")
    return path


def _named(chosen: Path | None) -> Path:
    environment = os.environ.get("GUREUM_STATE")
    path = chosen or (Path(environment) if environment else default_base() / "default")
    return path.expanduser().absolute()


def naming(state_dir: Path) -> str:
    """The option with which a command that is told to somebody is of the same cloud."""
    return "" if state_dir == _named(None) else f" --state-dir {shlex.quote(str(state_dir))}"


def host_dir(state_dir: Path, host: int) -> Path:
    """The directory of one of the machine's hosts, with its run/ and pool/."""
    return state_dir / "hosts" / str(host) if host else state_dir


def make_state_dir(state_dir: Path) -> None:
    """The directories. Passable (0711) but not listable by others: each guest runs as a user of its own."""
    for path, mode in ((state_dir, 0o711), (state_dir / "run", 0o711), (state_dir / "log", 0o700)):
        make_directories(path)
        path.chmod(mode)
    sync(state_dir)  # a configuration that is found may be from a process that was killed before it did


def new_config(state_dir: Path, base: Path) -> CloudConfig:
    """A cloud of its own: random root credentials, a random account, a free index. Not yet saved."""
    index, key = claim_index(state_dir, base), new_access_key()
    readable = re.sub(r"[^a-z0-9]+", "-", state_dir.name.lower()).strip("-")[:16] or "cloud"
    return CloudConfig(
        # The index makes it the only one of that name on this machine.
        name=f"{readable}-{index}",
        index=index,
        account_id=str(secrets.randbelow(9 * 10**11) + 10**11),
        access_key_id=key["access_key_id"],
        secret_access_key=key["secret_access_key"],
    )


def new_access_key() -> dict[str, str]:
    """Fields of CloudConfig."""
    alphabet = string.ascii_letters + string.digits + "+/"
    return {
        "access_key_id": "GU" + "".join(secrets.choice(string.ascii_uppercase + "234567") for _ in range(18)),
        "secret_access_key": "".join(secrets.choice(alphabet) for _ in range(40)),
    }


def claim_index(state_dir: Path, base: Path) -> int:
    """The index of this cloud, else the lowest that no cloud of this machine has.

    BASE/indexes/N is a link to the state directory. A claim whose state directory has gone is void; one that
    has no configuration yet is not: the cloud is about to save it. Raises ConfigError where all are taken.
    """
    indexes = base / "indexes"
    make_directories(indexes)
    descriptor = os.open(indexes, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # held for a few system calls, by each cloud when it is made
        return _claim(indexes, state_dir)
    finally:
        os.close(descriptor)


def _claim(indexes: Path, state_dir: Path) -> int:
    owners = {}
    for index in range(INDEX_COUNT):
        link = indexes / str(index)
        if link.is_symlink():
            owners[index] = Path(os.readlink(link))
    for index, owner in owners.items():
        if owner == state_dir:
            return index
    for index in range(INDEX_COUNT):
        owner = owners.get(index, state_dir)
        if owner != state_dir and owner.is_dir():
            continue
        link = indexes / str(index)
        link.unlink(missing_ok=True)
        link.symlink_to(state_dir)
        sync(indexes)  # lost, the index would be another cloud's too
        return index
    raise ConfigError(
        f"this machine has {INDEX_COUNT} clouds already; remove one of those listed in {indexes}"
    )
