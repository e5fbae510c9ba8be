"""A cloud whose hosts encrypt what they send to each other, with real guests."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from gureum.images.manifest import ImageManifest
from gureum.network import wireguard

from .host import command_lines
from .realcloud import Item, RealCloud, opened
from .vpc.guests import Guest, booted
from .vpc.shells import Shells, shells

pytestmark = [
    pytest.mark.root,
    pytest.mark.qemu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not wireguard.carrier(), reason="neither kernel nor wireguard-go encrypts here"),
]

SECRET = b"not-for-the-network-between-hosts"
USER_DATA = f"""#!/bin/sh
mkdir -p /tmp/www
i=0
while [ $i -lt 3000 ]; do echo {SECRET.decode()}; i=$((i + 1)); done >/tmp/www/secret
httpd -p 0.0.0.0:8080 -h /tmp/www
echo serving >/dev/console
"""


@pytest.fixture
def cloud(tiny_image: ImageManifest) -> Iterator[RealCloud]:
    with opened(tiny_image, 2) as made:
        made.config = made.cloud.configure(encrypted=True)
        made.start()
        yield made
    assert programs(made) == set()


def programs(cloud: RealCloud) -> set[int]:
    """The processes that encrypt, where it is not the kernel."""
    mark = f"{wireguard.PROGRAM}\0gw{cloud.config.index}".encode()
    return {pid for pid, command in command_lines() if command.startswith(mark)}


def pair(cloud: RealCloud) -> tuple[Guest, Guest]:
    """One guest on each host; everything may reach them."""
    [group] = cloud.ec2.describe_security_groups(GroupNames=["default"])["SecurityGroups"]
    rule: Item = {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    cloud.ec2.authorize_security_group_ingress(GroupId=group["GroupId"], IpPermissions=[rule])
    ids = {}
    for zone in "ab":
        [id] = cloud.launch(Placement={"AvailabilityZone": f"us-east-1{zone}"}, UserData=USER_DATA)
        ids[zone] = id
    guests = booted(cloud, ids, {})
    return guests["a"], guests["b"]


class Network:
    """What passes by on the network between the hosts."""

    def __init__(self, device: str) -> None:
        self.frames: list[bytes] = []
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        self._socket.bind((device, 0))
        self._socket.settimeout(0.2)
        self._over = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._over:
            try:
                self.frames.append(self._socket.recv(70000))
            except TimeoutError:
                continue

    def between(self, addresses: set[str]) -> list[bytes]:
        """The end of it: what hosts sent to each other."""
        self._over = True
        self._thread.join(5)
        self._socket.close()
        packed = {socket.inet_aton(address) for address in addresses}
        return [
            frame
            for frame in self.frames
            if frame[12:14] == b"\x08\x00" and {frame[26:30], frame[30:34]} <= packed
        ]


def test_guests_on_two_hosts_over_wireguard(cloud: RealCloud) -> None:
    with shells(cloud) as sh:
        near, far = pair(cloud)
        hosts = cloud.fleet("describe_hosts")["Hosts"]
        running = programs(cloud)
        network = Network(f"gv{cloud.config.index}-0")
        for one, other in ((near, far), (far, near)):
            assert fetched(sh, one, other) == 3000
            assert sh.pings(one, other.private, "-s 1300")
        frames = network.between({host["Address"] for host in hosts})
        assert len(frames) > 100
        assert {(frame[23], frame[36:38]) for frame in frames} == {
            (socket.IPPROTO_UDP, wireguard.PORT.to_bytes(2, "big"))
        }
        assert not [frame for frame in frames if SECRET[:10] in frame]
        cloud.kill("agent-0", "agent-1")
        for _ in range(5):
            assert fetched(sh, near, far) == 3000
        assert programs(cloud) == running


def fetched(sh: Shells, guest: Guest, server: Guest) -> int:
    """How many lines of the other's page it got."""
    return int(sh.run(guest, f"wget -q -O - http://{server.private}:8080/secret | grep -c {SECRET.decode()}"))
