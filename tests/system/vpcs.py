"""VPCs under test: made through the API, with guests that say who they are, and whom they saw, over HTTP."""

from __future__ import annotations

import contextlib
import http.server
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from typing import IO, Any, NamedTuple

import pytest

from gureum.network.namespaces import visit

from .realcloud import OPTIONS, GuestError, Item, RealCloud

PORT = 8080
TRY_SECONDS = 2
OUTSIDE = "gvpct-outside"
OUTSIDE_ADDRESS, ROUTER_ADDRESS = "203.0.113.2", "203.0.113.1"
"""Of the world outside, and of the machine there (RFC 5737)."""

USER_DATA = f"""#!/bin/sh
mkdir -p /tmp/www/cgi-bin
cat >/tmp/www/cgi-bin/who <<'END'
#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n%s %s\\n' NAME "$REMOTE_ADDR"
END
chmod 755 /tmp/www/cgi-bin/who
httpd -p {PORT} -h /tmp/www
echo serving >/dev/console
"""


class Guest(NamedTuple):
    """``jump`` is the guest through which it is logged in to, None for one with a public address."""

    id: str
    name: str
    private: str
    interface: str
    public: str = ""
    jump: Guest | None = None


class Vpc:
    """A VPC with a way to the Internet in its main route table; its default group lets everything in."""

    def __init__(self, cloud: RealCloud, cidr: str) -> None:
        self._ec2 = cloud.ec2
        self.cidr = cidr
        self.id: str = self._ec2.create_vpc(CidrBlock=cidr)["Vpc"]["VpcId"]
        of_vpc = [{"Name": "vpc-id", "Values": [self.id]}]
        self.table: str = self._ec2.describe_route_tables(Filters=of_vpc)["RouteTables"][0]["RouteTableId"]
        self.group: str = self._ec2.describe_security_groups(Filters=of_vpc)["SecurityGroups"][0]["GroupId"]
        self.gateway: str = self._ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        self._ec2.attach_internet_gateway(InternetGatewayId=self.gateway, VpcId=self.id)
        self._ec2.create_route(
            RouteTableId=self.table, DestinationCidrBlock="0.0.0.0/0", GatewayId=self.gateway
        )
        self._ec2.authorize_security_group_ingress(
            GroupId=self.group, IpPermissions=[{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
        )
        self.subnets: list[str] = []

    def subnet(self, cidr: str, zone: str) -> str:
        made = self._ec2.create_subnet(VpcId=self.id, CidrBlock=cidr, AvailabilityZone=f"us-east-1{zone}")
        self.subnets.append(made["Subnet"]["SubnetId"])
        return self.subnets[-1]

    def private_table(self, subnet: str) -> str:
        """A route table of the subnet's own, without any way out."""
        table: str = self._ec2.create_route_table(VpcId=self.id)["RouteTable"]["RouteTableId"]
        self._ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
        return table

    def new_group(self, name: str, *permissions: Item) -> str:
        """A security group with these ingress rules."""
        made = self._ec2.create_security_group(GroupName=name, Description=name, VpcId=self.id)
        if permissions:
            self._ec2.authorize_security_group_ingress(GroupId=made["GroupId"], IpPermissions=permissions)
        return str(made["GroupId"])


def allow(protocol: str, ports: tuple[int, int] = (-1, -1), *, cidr: str = "", group: str = "") -> Item:
    """A permission as EC2 writes it."""
    found: Item = {"IpProtocol": protocol, "FromPort": ports[0], "ToPort": ports[1]}
    if cidr:
        found["IpRanges"] = [{"CidrIp": cidr}]
    if group:
        found["UserIdGroupPairs"] = [{"GroupId": group}]
    return found


def launch(cloud: RealCloud, name: str, subnet: str, private: str, *, public: bool = True) -> str:
    """An instance in the subnet with this private address."""
    card = {
        "DeviceIndex": 0,
        "SubnetId": subnet,
        "PrivateIpAddress": private,
        "AssociatePublicIpAddress": public,
    }
    [id] = cloud.launch(NetworkInterfaces=[card], UserData=USER_DATA.replace("NAME", name))
    return id


def booted(cloud: RealCloud, names: dict[str, str], jumps: dict[str, str]) -> dict[str, Guest]:
    """The guests by name once all of them serve. ``names``: their ids; ``jumps``: by name the jump's name."""
    cloud.waiter("instance_running", InstanceIds=list(names.values()))
    guests: dict[str, Guest] = {}
    for name in sorted(names, key=lambda name: name in jumps):
        shown = cloud.instance(names[name])
        guests[name] = Guest(
            id=names[name],
            name=name,
            private=shown["PrivateIpAddress"],
            interface=shown["NetworkInterfaces"][0]["NetworkInterfaceId"],
            public=shown.get("PublicIpAddress", ""),
            jump=guests[jumps[name]] if name in jumps else None,
        )
    for name, id in names.items():
        cloud.wait(f"{name} to serve", lambda id=id: "serving" in cloud.console(id))
    return guests


class Shells:
    """Logins to guests, each over one connection that stays open: key exchanges cost emulated guests much."""

    def __init__(self, cloud: RealCloud) -> None:
        self._cloud = cloud
        self._paths: dict[str, str] = {}

    def _argv(self, guest: Guest, *options: str) -> list[str]:
        path = self._paths.setdefault(guest.id, str(self._cloud.directory / f"s{len(self._paths)}"))
        control = {"ControlMaster": "auto", "ControlPath": path, "ControlPersist": "120"}
        flags = [word for pair in {**OPTIONS, **control}.items() for word in ("-o", "=".join(pair))]
        if guest.jump is not None:
            proxy = " ".join(self._argv(guest.jump, "-W", "%h:%p"))
            flags += ["-o", f"ProxyCommand={proxy}"]
        address = guest.private if guest.jump else guest.public
        return ["ssh", "-F", "none", *flags, "-i", str(self._cloud.key_file), *options, f"root@{address}"]

    def run(self, guest: Guest, command: str, seconds: float = 60) -> str:
        """What the command prints. Raises GuestError."""
        try:
            done = subprocess.run(
                [*self._argv(guest), command],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise GuestError(f"{guest.name}: {command!r} did not end") from None
        if done.returncode:
            raise GuestError(f"{guest.name}: {command!r}: {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    @contextlib.contextmanager
    def running(self, guest: Guest, command: str) -> Iterator[subprocess.Popen[str]]:
        """The command while the block runs."""
        argv = [*self._argv(guest), command]
        with subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                yield process
            finally:
                process.terminate()

    def reached(self, guest: Guest, targets: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Of these addresses those that a page comes from: who served it, and whom it saw. All at once."""
        tries = " ".join(targets)
        answers = self.run(
            guest,
            f"for to in {tries}; do (timeout {TRY_SECONDS} wget -q -O - http://$to:{PORT}/cgi-bin/who "
            '| sed "s/^/$to /") 2>/dev/null & done; wait',
        )
        found = {}
        for line in answers.splitlines():
            target, name, saw = line.split()
            found[target] = name, saw
        return found

    def sees(self, guest: Guest, target: str) -> tuple[str, str] | None:
        return self.reached(guest, [target]).get(target)

    def pings(self, guest: Guest, target: str, options: str = "") -> bool:
        """Whether one of two echo requests is answered."""
        shown = self.run(guest, f"ping -c 2 -i 0.3 -W {TRY_SECONDS} {options} {target} 2>&1 || true")
        return " packets received" in shown and " 0 packets received" not in shown

    def close(self) -> None:
        for path in self._paths.values():
            argv = ["ssh", "-o", f"ControlPath={path}", "-O", "exit", "nowhere"]
            subprocess.run(argv, capture_output=True, timeout=10, check=False)


@contextlib.contextmanager
def shells(cloud: RealCloud) -> Iterator[Shells]:
    opened = Shells(cloud)
    try:
        yield opened
    finally:
        opened.close()


class Ticks:
    """The moments at which a running command printed a line."""

    def __init__(self, output: IO[str] | None) -> None:
        assert output is not None
        self.times: list[float] = []
        self._output = output
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(ValueError):
            for _ in self._output:
                self.times.append(time.monotonic())

    def after(self, moment: float) -> list[float]:
        return [tick - moment for tick in self.times if tick > moment]


def new_pings(target: str) -> str:
    """A command that begins a new flow ten times a second, and prints a line for each that is answered."""
    once = f"ping -c 1 -W 1 {target} 2>/dev/null | grep -q ' 1 packets received' && echo answered"
    return f"while :; do ({once}) & usleep 100000; done"


class _Who(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"outside {self.client_address[0]}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def outside_world() -> Iterator[None]:
    """A namespace behind the machine, to which it is a router; it serves a page as guests do."""
    subprocess.run(["ip", "netns", "delete", OUTSIDE], capture_output=True, check=False)
    _ip("netns", "add", OUTSIDE)
    try:
        _ip("link", "add", "gvpct0", "type", "veth", "peer", "name", "eth0", "netns", OUTSIDE)
        _ip("address", "add", f"{ROUTER_ADDRESS}/24", "dev", "gvpct0")
        _ip("link", "set", "gvpct0", "up")
        for words in ("link set lo up", f"address add {OUTSIDE_ADDRESS}/24 dev eth0", "link set eth0 up"):
            _ip("-n", OUTSIDE, *words.split())
        _ip("-n", OUTSIDE, "route", "add", "default", "via", ROUTER_ADDRESS)
        server = visit(OUTSIDE, lambda: http.server.ThreadingHTTPServer((OUTSIDE_ADDRESS, PORT), _Who))
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
    finally:
        _ip("netns", "delete", OUTSIDE)


def seen_from_outside(address: str, seconds: float = TRY_SECONDS) -> tuple[str, str] | None:
    """Who serves the page at this address, and whom it saw."""

    def get() -> tuple[str, str] | None:
        try:
            with urllib.request.urlopen(f"http://{address}:{PORT}/cgi-bin/who", timeout=seconds) as answer:
                name, saw = answer.read().decode().split()
                return name, saw
        except OSError:
            return None

    return visit(OUTSIDE, get)


def report(request: pytest.FixtureRequest, **figures: float) -> None:
    """Figures are told, not asserted: the machine may be busy."""
    for name, value in figures.items():
        request.node.user_properties.append((name, round(value, 3)))
