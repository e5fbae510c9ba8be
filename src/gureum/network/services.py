"""What serves the guest of a port: DHCP, metadata and, where its subnet has IPv6, DHCPv6 and a router's
advertisements. Each is a socket bound to the port's tap.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

import msgspec

from gureum.hostspec import Metadata
from gureum.network import dhcp6server, dhcpserver, imds, ra
from gureum.network.dhcp import Lease
from gureum.network.dhcp6 import Lease6
from gureum.network.dns import servers
from gureum.network.filters import RESOLVER_ADDRESS6
from gureum.network.plan import VpcPlan
from gureum.network.portplan import PortPlan
from gureum.network.tokens import Tokens


class Sockets(msgspec.Struct, frozen=True):
    """The last two where the port's subnet has IPv6."""

    dhcp: socket.socket
    metadata: socket.socket
    dhcp6: socket.socket | None = None
    router: socket.socket | None = None

    def close(self) -> None:
        for each in (self.dhcp, self.metadata, self.dhcp6, self.router):
            if each is not None:
                each.close()


def listen(plan: VpcPlan, port: PortPlan) -> Sockets:
    """In the calling thread's namespace."""
    kinds = [dhcpserver.listen, imds.listen]
    if plan.has_ipv6(port):
        kinds += [dhcp6server.listen, ra.listen]
    with contextlib.ExitStack() as made:
        sockets = Sockets(*[made.enter_context(contextlib.closing(kind(port.tap))) for kind in kinds])
        made.pop_all()
    return sockets


class PortServices:
    """The servers of one port. ``lookup`` returns the metadata of the port's instance."""

    def __init__(
        self,
        sockets: Sockets,
        plan: VpcPlan,
        port: PortPlan,
        lookup: Callable[[], Metadata | None],
        tokens: Tokens,
    ) -> None:
        self.network_id = plan.network_id
        self._id = port.id
        self._instance = port.instance
        self._dhcp = dhcpserver.DhcpServer(sockets.dhcp, lease(plan, port))
        self._metadata = imds.MetadataServer(sockets.metadata, lookup, tokens)
        self._dhcp6 = dhcp6server.Dhcp6Server(sockets.dhcp6, lease6(plan, port)) if sockets.dhcp6 else None
        self._router = ra.Advertiser(sockets.router, plan.mtu) if sockets.router else None

    def suits(self, plan: VpcPlan) -> bool:
        """Whether the plan still has its port, with the same instance and protocols."""
        port = plan.ports.get(self._id)
        if port is None or port.instance != self._instance:
            return False
        return plan.has_ipv6(port) is (self._router is not None)

    def update(self, plan: VpcPlan, port: PortPlan) -> None:
        """What is told from now on."""
        self._dhcp.lease = lease(plan, port)
        if self._dhcp6 is not None and self._router is not None:
            self._dhcp6.lease = lease6(plan, port)
            self._router.update(plan.mtu)

    def close(self) -> None:
        for each in (self._dhcp, self._metadata, self._dhcp6, self._router):
            if each is not None:
                each.close()


def lease(plan: VpcPlan, port: PortPlan) -> Lease:
    return Lease(
        mac=port.mac,
        address=port.private_ip,
        prefix=port.prefix,
        router=port.gateway,
        hostname=port.hostname,
        mtu=plan.mtu,
        domain=plan.dhcp.domain,
        servers=servers(plan),
        ntp=plan.dhcp.ntp,
        netbios=plan.dhcp.netbios,
        netbios_type=plan.dhcp.netbios_type,
    )


def lease6(plan: VpcPlan, port: PortPlan) -> Lease6:
    """A set of DHCP options can name servers by IPv4 only, so here it is the resolver or none."""
    own = plan.dns_support and "" in plan.dhcp.servers
    return Lease6(
        addresses=port.ipv6,
        servers=(RESOLVER_ADDRESS6,) if own else (),
        domain=plan.dhcp.domain,
    )
