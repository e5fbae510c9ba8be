"""One VPC on this host: brings its namespace from what it is to what its plan says. Blocking, one call at a
time.
"""

from __future__ import annotations

import logging
import socket

import msgspec

from gureum.env import Env
from gureum.network import dhcpserver, dns, filters, imds, links, namespaces
from gureum.network.conntrack import forget_flows
from gureum.network.names import Names
from gureum.network.namespaces import command, ip_batch, nft, visit
from gureum.network.plan import PortPlan, VpcPlan
from gureum.network.ruleset import Table, change_table, replace_table

log = logging.getLogger(__name__)


class Sockets(msgspec.Struct, frozen=True):
    """What serves a port: bound to its tap."""

    dhcp: socket.socket
    metadata: socket.socket

    def close(self) -> None:
        self.dhcp.close()
        self.metadata.close()


class VpcNetwork:
    """``slot`` is the VPC's link to the host.

    Until the first ``converge``, and after one that failed, nothing is assumed: the next one looks at what is
    there and replaces the filter whole. Otherwise only differences to what was applied are made.
    """

    def __init__(self, env: Env, names: Names, network_id: int, slot: int) -> None:
        self.network_id = network_id
        self.slot = slot
        self.namespace = names.namespace(network_id)
        self._env = env
        self._names = names
        self._plan: VpcPlan | None = None
        self._tables: tuple[Table, Table] | None = None

    @property
    def known(self) -> bool:
        return self._plan is not None

    @property
    def resolves(self) -> bool:
        """Whether a resolver was started for it."""
        return self._plan is not None and self._plan.dns_support

    def converge(self, plan: VpcPlan, linked: bool, serving: frozenset[str]) -> dict[str, Sockets]:
        """Make it so. Returns sockets for the ports that are not in ``serving``, by interface id.

        ``linked``: the host's end of the link exists.
        """
        old, tables = self._plan, self._tables
        if plan == old and serving >= plan.ports.keys():
            return {}
        self._plan = self._tables = None
        if old is None or not self._resembles(old, plan):
            links.build_vpc(self._names, plan, self.slot, linked)
            self._env.crashpoint("network.vpc.built")
            old = tables = None
        new_tables = self._compile(plan)
        work = _Visit(self._env, old, plan, tables, new_tables, serving)
        sockets = visit(self.namespace, work)
        try:
            if (
                old is None
                or dns.arguments(old, "") != dns.arguments(plan, "")
                or old.dns_support != plan.dns_support
            ):
                dns.converge(self.namespace, plan)
                self._env.crashpoint("network.resolver.started")
        except BaseException:
            for pair in sockets.values():
                pair.close()
            raise
        self._plan, self._tables = plan, new_tables
        return sockets

    def _resembles(self, old: VpcPlan, plan: VpcPlan) -> bool:
        """Whether the namespace's own parts are the same, apart from subnets."""
        return (old.cidr, old.id) == (plan.cidr, plan.id)

    def _compile(self, plan: VpcPlan) -> tuple[Table, Table]:
        link_address = self._names.link(self.slot)[1]
        return filters.guard_table(plan), filters.filter_table(plan, self._names, link_address)

    def forget(self) -> None:
        """Assume nothing any more."""
        self._plan = self._tables = None


class _Visit:
    """What ``converge`` does inside the namespace. The order keeps every moment safe:

    a port's filter is there before its device is up, and goes only after its guest's address is denied.
    """

    def __init__(
        self,
        env: Env,
        old: VpcPlan | None,
        plan: VpcPlan,
        old_tables: tuple[Table, Table] | None,
        tables: tuple[Table, Table],
        serving: frozenset[str],
    ) -> None:
        self._env = env
        self._old = old
        self._plan = plan
        self._old_tables = old_tables
        self._tables = tables
        self._serving = serving

    def __call__(self) -> dict[str, Sockets]:
        wanted = {port.tap: port for port in self._plan.ports.values()}
        if self._old is None:
            present = links.taps()
            changed = list(wanted.values())
        else:
            present = {port.tap for port in self._old.ports.values()}
            changed = [port for port in wanted.values() if self._old.ports.get(port.id) != port]
        created = [wanted[tap] for tap in sorted(wanted.keys() - present)]
        links.create_taps(created)
        self._serving = self._serving.difference(port.id for port in created)
        self._env.crashpoint("network.port.created")
        self._filter()
        self._env.crashpoint("network.rules.applied")
        self._route(changed, sorted(present - wanted.keys()))
        self._env.crashpoint("network.port.routed")
        forget_flows(filters.changed_addresses(self._old, self._plan))
        return self._open_sockets()

    def _filter(self) -> None:
        if self._old_tables is None:
            nft("".join(replace_table(table) for table in self._tables))
        else:
            pairs = zip(self._old_tables, self._tables, strict=True)
            nft("".join(change_table(old, new) for old, new in pairs))

    def _route(self, changed: list[PortPlan], gone: list[str]) -> None:
        commands = [line for port in changed for line in links.port_commands(port)]
        if self._old is not None:
            commands = links.change_router(self._old, self._plan) + commands
        ip_batch(commands + links.removal_commands(gone))

    def _open_sockets(self) -> dict[str, Sockets]:
        opened: dict[str, Sockets] = {}
        try:
            for port in self._plan.ports.values():
                if port.id not in self._serving:
                    dhcp = dhcpserver.listen(port.tap)
                    try:
                        opened[port.id] = Sockets(dhcp, imds.listen(port.tap))
                    except BaseException:
                        dhcp.close()
                        raise
        except BaseException:
            for pair in opened.values():
                pair.close()
            raise
        return opened


def remove_vpc(names: Names, network_id: int) -> None:
    """Remove a VPC's namespace with everything in it, and its link. Repeats harmlessly."""
    namespace = names.namespace(network_id)
    if namespaces.exists(namespace):
        dns.converge(namespace, None)
        # A guest that still holds a tap would keep the namespace alive: take its device away first.
        visit(namespace, lambda: ip_batch(links.removal_commands(links.taps(attached=True))))
    if network_id in links.uplinks(names):
        command(["ip", "link", "delete", names.uplink(network_id)])
    namespaces.remove(namespace)
