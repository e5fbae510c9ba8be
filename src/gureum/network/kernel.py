"""The network of a host in its kernel: namespaces, taps, routes and nftables; no packet passes through here.

Each VPC has a network namespace in which each port is a tap of its own, with a route to the one address
behind it. There are no bridges: all traffic is routed, also between neighbours of one subnet, and so passes
one stateful filter. See docs/design/network.md.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from gureum.env import Env
from gureum.errors import NetworkError
from gureum.hostspec import Metadata, NetworkSpec
from gureum.network import dns, filters, links, namespaces
from gureum.network.base import MetadataLookup
from gureum.network.dhcp import Lease
from gureum.network.dhcpserver import DhcpServer
from gureum.network.imds import MetadataServer
from gureum.network.names import GUEST_MTU, Names, choose_slot, tap_name
from gureum.network.namespaces import command, ip_batch, nft, visit, write_sysctl
from gureum.network.plan import PortPlan, VpcPlan, make_plan
from gureum.network.ruleset import replace_table
from gureum.network.taps import open_tap
from gureum.network.tokens import Tokens, load_key
from gureum.network.vpc import Sockets, VpcNetwork, remove_vpc

log = logging.getLogger(__name__)

T = TypeVar("T")

WORK_SECONDS_MAX = 120.0
HOST_CHECK_SECONDS = 10.0


class _Served(msgspec.Struct):
    """A port with its servers. ``instance`` decides whose metadata it sees."""

    network_id: int
    instance: str
    dhcp: DhcpServer
    metadata: MetadataServer

    def close(self) -> None:
        self.dhcp.close()
        self.metadata.close()


class KernelNetwork:
    """Implements HostNetwork. ``index`` (0 to 63) tells the clouds on one machine apart.

    ``public_cidr`` are the cloud's public addresses; "" for 198.18.(4 x INDEX).0/22. ``run_dir`` exists; it
    holds the key of the metadata tokens, and nothing else: the kernel remembers what was built. Needs root.
    """

    def __init__(
        self, env: Env, cloud: str, index: int, run_dir: Path, metadata: MetadataLookup, public_cidr: str = ""
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", cloud):
            raise NetworkError(f"{cloud!r} is no name for a cloud")
        self._env = env
        self._cloud = cloud
        self._names = Names(index, public_cidr)
        self._run_dir = run_dir
        self._lookup = metadata
        self._lock = asyncio.Lock()
        # One thread: work that outlives its deadline still ends before the next begins.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._vpcs: dict[int, VpcNetwork] = {}
        self._ports: dict[str, int] = {}
        self._served: dict[str, _Served] = {}
        self._prepared = False
        self._routes: set[tuple[str, str]] = set()
        self._applied: NetworkSpec | None = None
        self._tokens: Tokens | None = None
        self._check_at = 0.0

    async def apply(self, spec: NetworkSpec) -> None:
        async with self._lock:
            if spec == self._applied and not await self._host_needs_repair():
                return
            self._applied = None
            plans = make_plan(spec, self._names.public)
            if self._tokens is None:
                self._tokens = Tokens(self._env, load_key(self._run_dir / "imds.key", self._env))
            present = await self._work(self._prepare_host)
            failures = await self._remove(present - plans.keys())
            failures += [error for plan in plans.values() if (error := await self._converge(plan))]
            await self._work(lambda: self._route_publics(plans.values()))
            self._ports = {port: id for id, plan in plans.items() for port in plan.ports}
            if failures:
                self._prepared = False
                raise NetworkError("; ".join(failures))
            self._applied = spec

    async def open_port(self, interface: str) -> int:
        async with self._lock:
            namespace = self._names.namespace(self._network_id(interface))
            return await self._work(lambda: visit(namespace, lambda: open_tap(tap_name(interface))))

    def mtu(self, interface: str) -> int:
        self._network_id(interface)
        return GUEST_MTU

    async def close(self) -> None:
        async with self._lock:
            self._stop_serving(self._served.keys())
            self._vpcs.clear()
            self._ports.clear()
            self._applied = None
            self._prepared = False
        self._executor.shutdown(wait=False)

    async def teardown(self) -> None:
        async with self._lock:
            self._applied = None
            await self._work(self._check_owner)
            self._stop_serving(self._served.keys())
            failures = await self._remove(await self._work(self._present))
            self._ports.clear()
            self._prepared = False
            if failures:
                raise NetworkError("; ".join(failures))
            await self._work(self._clear_host)

    def _network_id(self, interface: str) -> int:
        if interface not in self._ports:
            raise NetworkError(f"port {interface} was not applied")
        return self._ports[interface]

    async def _work(self, work: Callable[[], T]) -> T:
        """Run something that blocks."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(WORK_SECONDS_MAX):
                return await loop.run_in_executor(self._executor, work)
        except TimeoutError:
            raise NetworkError(f"the kernel did not answer within {WORK_SECONDS_MAX:g} s") from None

    def _present(self) -> set[int]:
        """The network ids of everything of this cloud that is here."""
        spaces = {self._names.network_id(name) for name in namespaces.names()}
        return {id for id in spaces if id is not None} | links.uplinks(self._names).keys()

    async def _host_needs_repair(self) -> bool:
        """Whether the host's filter (restarting a firewall service flushes all tables) or a resolver is gone.

        Looks every HOST_CHECK_SECONDS.
        """
        if self._env.now() < self._check_at:
            return False
        self._check_at = self._env.now() + HOST_CHECK_SECONDS
        return await self._work(self._look_at_host)

    def _look_at_host(self) -> bool:
        repair = False
        if f"table inet {self._names.table}" not in command(["nft", "list", "tables", "inet"]).splitlines():
            log.warning("the host's packet filter table %s is gone: making it again", self._names.table)
            self._prepared = False
            repair = True
        resolving = {vpc.namespace: vpc for vpc in self._vpcs.values() if vpc.resolves}
        for namespace in dns.without_resolver(resolving):
            log.warning("the resolver in %s is gone: starting it again", namespace)
            resolving[namespace].forget()
            repair = True
        return repair

    def _prepare_host(self) -> set[int]:
        """Once: the host's own part. Returns the network ids that are present."""
        if self._prepared:
            return set(self._vpcs)
        self._check_owner()
        write_sysctl("ipv4/ip_forward", "1")
        nft(replace_table(filters.host_table(self._names, self._cloud, dns.upstream()[1])))
        ip_batch([f"route replace unreachable {self._names.public}"])
        self._env.crashpoint("network.host.prepared")
        self._routes = links.public_routes(self._names)
        self._prepared = True
        return self._present()

    def _check_owner(self) -> None:
        """The index must not be in use by another cloud: everything of that one would be removed."""
        for line in command(["nft", "list", "table", "inet", self._names.table], fails=True).splitlines():
            if line.strip().startswith("comment ") and line.strip() != f'comment "{self._cloud}"':
                index = self._names.index
                raise NetworkError(
                    f"network index {index} belongs to another cloud ({line.strip()}); "
                    f"if that one is gone: nft delete table inet {self._names.table}"
                )

    async def _remove(self, network_ids: Iterable[int]) -> list[str]:
        """Returns what went wrong; what is left then is found again next time."""
        failures: list[str] = []
        for network_id in sorted(network_ids):
            self._stop_serving([id for id, s in self._served.items() if s.network_id == network_id])
            self._vpcs.pop(network_id, None)
            try:
                await self._work(partial(remove_vpc, self._names, network_id))
            except NetworkError as error:
                log.warning("VPC with network id %d is not removed: %s", network_id, error)
                failures.append(str(error))
                continue
            self._env.crashpoint("network.vpc.removed")
            device = self._names.uplink(network_id)
            self._routes = {route for route in self._routes if route[1] != device}
        return failures

    async def _converge(self, plan: VpcPlan) -> str:
        """Returns what went wrong, "" for nothing: one VPC's trouble is not another's."""
        serving = frozenset(id for id, s in self._served.items() if s.network_id == plan.network_id)
        gone = [
            id
            for id in serving
            if id not in plan.ports or plan.ports[id].instance != self._served[id].instance
        ]
        self._stop_serving(gone)
        try:
            sockets = await self._work(lambda: self._build(plan, serving.difference(gone)))
        except NetworkError as error:
            log.warning("VPC %s: %s", plan.id, error)
            return f"VPC {plan.id}: {error}"
        for id, port in plan.ports.items():
            self._serve(plan, port, sockets.get(id))
        return ""

    def _build(self, plan: VpcPlan, serving: frozenset[str]) -> dict[str, Sockets]:
        vpc = self._vpcs.get(plan.network_id)
        linked = True
        if vpc is None or not vpc.known:
            present = links.uplinks(self._names)
            linked = plan.network_id in present
            slots = {id: self._names.slot(address) for id, address in present.items() if address}
            slot = slots.get(plan.network_id)
            if slot is None:
                slot = choose_slot(plan.network_id, {used for used in slots.values() if used is not None})
            vpc = self._vpcs[plan.network_id] = VpcNetwork(self._env, self._names, plan.network_id, slot)
        return vpc.converge(plan, linked, serving)

    def _serve(self, plan: VpcPlan, port: PortPlan, sockets: Sockets | None) -> None:
        lease = Lease(
            mac=port.mac,
            address=port.private_ip,
            prefix=port.prefix,
            router=port.gateway,
            dns=plan.dns if plan.dns_support else "",
            domain=plan.domain,
            hostname=port.hostname,
            mtu=GUEST_MTU,
        )
        if sockets is None:
            self._served[port.id].dhcp.lease = lease
            return
        self._stop_serving({port.id} & self._served.keys())
        assert self._tokens is not None
        self._served[port.id] = _Served(
            network_id=plan.network_id,
            instance=port.instance,
            dhcp=DhcpServer(sockets.dhcp, lease),
            metadata=MetadataServer(sockets.metadata, self._metadata_of(port.instance), self._tokens),
        )

    def _metadata_of(self, instance: str) -> Callable[[], Metadata | None]:
        return lambda: self._lookup(instance)

    def _stop_serving(self, ports: Iterable[str]) -> None:
        for id in list(ports):
            self._served.pop(id).close()

    def _route_publics(self, plans: Iterable[VpcPlan]) -> None:
        was = self._routes
        routes = links.wanted_routes(self._names, plans)
        wanted = {route for route in routes if route in was or self._has_link(route[1])}
        gateways = {self._names.uplink(id): self._names.link(vpc.slot)[1] for id, vpc in self._vpcs.items()}
        commands = links.route_commands(was, wanted, gateways)
        if commands:
            self._prepared = False
            ip_batch(commands)
            self._prepared = True
        self._env.crashpoint("network.public.routed")
        self._routes = wanted

    def _has_link(self, device: str) -> bool:
        network_id = self._names.network_id(device)
        return network_id in self._vpcs and self._vpcs[network_id].known

    def _clear_host(self) -> None:
        for argv in (
            ["ip", "route", "delete", "unreachable", str(self._names.public)],
            ["nft", "delete", "table", "inet", self._names.table],
        ):
            command(argv, fails=True)
