"""The network of a host in its kernel: namespaces, taps, routes and nftables; no packet passes through here.

Each VPC has a network namespace in which each port is a tap of its own, with a route to the one address
behind it. There are no bridges: all traffic is routed, also between neighbours of one subnet, and so passes
one stateful filter. See docs/design/network.md.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from gureum.env import Env
from gureum.errors import NetworkError
from gureum.hostspec import Metadata, NetworkSpec
from gureum.network import dns, flows, links, namespaces, natgateway, peering
from gureum.network.base import MetadataLookup, PortsMade, ignore
from gureum.network.conntrack import forget_flows
from gureum.network.edge import Edge
from gureum.network.flowlogs import FlowLogs, Reading
from gureum.network.names import GUEST_MTU, Names, choose_slot, tap_name
from gureum.network.namespaces import visit
from gureum.network.plan import VpcPlan
from gureum.network.portplan import PortPlan
from gureum.network.replan import Planner, differs_in_rules
from gureum.network.services import PortServices, Sockets
from gureum.network.taps import open_tap
from gureum.network.tokens import Tokens, load_key
from gureum.network.vpc import VpcNetwork, remove_vpc, served
from gureum.network.vxlan import Underlay
from gureum.network.ways import NOWHERE, without6
from gureum.network.wireguard import KEY_FILE

log = logging.getLogger(__name__)

T = TypeVar("T")
_Made = Callable[[VpcPlan], object]
"""Told of a VPC whose ports that stand by have their taps."""

WORK_SECONDS_MAX = 120.0
HOST_CHECK_SECONDS = 10.0
ANNOUNCE_SECONDS = 1.0


class KernelNetwork:
    """Implements HostNetwork. ``index`` (0 to 63) tells the clouds on one machine apart.

    ``public_cidr`` are the cloud's public addresses; "" for 198.18.(4 x INDEX).0/22. ``run_dir`` exists; it
    holds the key of the metadata tokens, and nothing else: the kernel remembers what was built. Needs root.
    ``flow_logs``: the directory for flow logs, which is made with the first; None writes none.
    """

    def __init__(
        self,
        env: Env,
        cloud: str,
        index: int,
        run_dir: Path,
        metadata: MetadataLookup,
        public_cidr: str = "",
        host: int = 0,
        uplink: str = "",
        flow_logs: Path | None = None,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", cloud):
            raise NetworkError(f"{cloud!r} is no name for a cloud")
        self._env = env
        self._names = Names(index, public_cidr, host)
        self._run_dir = run_dir
        self._lookup = metadata
        self._lock = asyncio.Lock()
        # One thread: work that outlives its deadline still ends before the next begins.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._vpcs: dict[int, VpcNetwork] = {}
        self._ports: dict[str, int] = {}
        self._served: dict[str, PortServices] = {}
        self._edge = Edge(env, self._names, cloud, uplink)
        self._key_file = run_dir / KEY_FILE
        # By number, the pairs of VPCs that are joined; None: not known.
        self._peerings: set[int] | None = None
        self._applied: NetworkSpec | None = None
        self._planner = Planner(self._names.public)
        # What is in effect, whole; nothing, if that is not known.
        self._plans: dict[int, VpcPlan] = {}
        self._tokens: Tokens | None = None
        self._warned6 = False
        self._check_at = 0.0
        self._announcing: asyncio.Task[None] | None = None
        self._mtu = GUEST_MTU
        # By port that stands by and has its tap, though not all else is there yet: its VPC and MTU.
        self._coming: dict[str, tuple[int, int]] = {}
        self._flow_logs = FlowLogs(env, flow_logs, self._take_flows) if flow_logs else None

    async def apply(self, spec: NetworkSpec, made: PortsMade = ignore) -> None:
        if not namespaces.has_ipv6():
            spec = self._without6(spec)
        async with self._lock:
            if spec == self._applied and not await self._host_needs_repair():
                return
            self._applied = None
            plans = self._planner.plan(spec)
            if self._tokens is None:
                self._tokens = Tokens(self._env, load_key(self._run_dir / "imds.key", self._env))
            try:
                await self._make(spec, plans, self._noting(spec, made))
            except BaseException:
                self._assume_nothing()
                raise
            self._applied = spec

    def _without6(self, spec: NetworkSpec) -> NetworkSpec:
        less = without6(spec)
        if not self._warned6 and less.ports != spec.ports:
            self._warned6 = True
            log.warning("this kernel has no IPv6: its guests get none, whatever their VPCs have")
        return less

    async def deny_storage(self, storage: frozenset[str]) -> None:
        """Let guests not reach these addresses and networks, from now on. Raises NetworkError."""
        async with self._lock:
            if storage == self._edge.storage:
                return
            self._edge.storage = storage
            applied = self._applied
            if applied is None:  # the next spec has it done
                self._edge.known = False
                return
            try:
                await self._work(lambda: self._edge.prepare(applied))
            except BaseException:
                self._applied = None
                self._assume_nothing()
                raise

    def _noting(self, spec: NetworkSpec, made: PortsMade) -> _Made:
        """For the thread that makes taps."""
        loop = asyncio.get_running_loop()

        def note(plan: VpcPlan) -> None:
            self._coming.update((port, (plan.network_id, spec.mtu)) for port in plan.standby)
            made(frozenset(plan.standby))

        return lambda plan: loop.call_soon_threadsafe(note, plan)

    async def _make(self, spec: NetworkSpec, plans: dict[int, VpcPlan], made: _Made) -> None:
        if self._differs_in_rules(plans):
            await self._change_rules(plans)
            return
        self._plans = {}
        known = self._edge.known
        await self._work(lambda: self._edge.prepare(spec))
        underlay = await self._work(lambda: self._edge.underlay(spec, self._key_file))
        if not known:
            await self._work(lambda: dns.remove_orphans(self._names.namespace_prefix))
        present = set(self._vpcs) if known else await self._work(self._present)
        failures = await self._converge_all(plans, underlay, made)
        failures += await self._remove(present - plans.keys())
        await self._work(lambda: self._route_publics(plans.values()))
        if self._edge.unsaid and (self._announcing is None or self._announcing.done()):
            self._announcing = asyncio.create_task(self._announce_later())
        await self._work(self._tidy)
        gateways = {tap for plan in plans.values() for tap in natgateway.ports(plan)}
        await self._work(lambda: natgateway.remove(self._names, gateways))
        self._coming = {}
        self._ports = {port: id for id, plan in plans.items() for port in (*plan.ports, *plan.standby)}
        self._mtu = spec.mtu
        if self._flow_logs is not None:
            self._flow_logs.cover(plans.values())
        if failures:
            raise NetworkError("; ".join(failures))
        self._plans = plans

    async def _announce_later(self) -> None:
        """The host was silent when addresses came: say so when that has ended."""
        while self._edge.unsaid:
            await asyncio.sleep(ANNOUNCE_SECONDS)
            async with self._lock:
                try:
                    await self._work(self._edge.announce)
                except NetworkError as error:
                    log.warning("addresses that came here are not announced: %s", error)

    def _differs_in_rules(self, plans: dict[int, VpcPlan]) -> bool:
        """Whether the host has all that these plans say, but for rules of its ports."""
        return (
            self._edge.known
            and self._plans.keys() == plans.keys()
            and all(
                self._vpcs[id].known and differs_in_rules(self._plans[id], plan) for id, plan in plans.items()
            )
        )

    async def _change_rules(self, plans: dict[int, VpcPlan]) -> None:
        old, self._plans = self._plans, {}
        serving = frozenset(self._served)
        for id, plan in plans.items():
            if plan is not old[id]:
                await self._work(partial(self._vpcs[id].converge, plan, serving))
        self._plans = plans

    async def open_port(self, interface: str) -> int:
        if interface in self._coming:
            # What makes the rest of the network meanwhile has the lock, and the thread.
            namespace = self._names.namespace(self._coming[interface][0])
            return await asyncio.to_thread(visit, namespace, lambda: open_tap(tap_name(interface)))
        async with self._lock:
            namespace = self._names.namespace(self._network_id(interface))
            return await self._work(lambda: visit(namespace, lambda: open_tap(tap_name(interface))))

    async def export_flows(self, interface: str) -> bytes:
        """The host's own namespace, where this works, knows flows with the world outside, too."""
        async with self._lock:
            vpc = self._vpcs[self._network_id(interface)]

            def export() -> bytes:
                inside = visit(vpc.namespace, lambda: flows.export(vpc.addresses(interface)))
                outside = flows.export(vpc.outside(interface))
                return msgspec.msgpack.encode(flows.Carried(inside=inside, outside=outside))

            return await self._work(export)

    async def import_flows(self, interface: str, data: bytes) -> None:
        async with self._lock:
            vpc = self._vpcs[self._network_id(interface)]

            def restore() -> None:
                addresses, outside = vpc.addresses(interface), vpc.outside(interface)
                found = flows.carried(data)
                visit(vpc.namespace, lambda: flows.restore(addresses, found.inside))
                # Of when the port was here before.
                forget_flows(outside)
                flows.restore(outside, found.outside)

            await self._work(restore)

    async def _take_flows(self, network_id: int) -> Reading:
        async with self._lock:
            try:
                return await self._work(self._vpcs[network_id].take_flows)
            except BaseException:
                # Its filter is not known any more.
                self._applied = None
                raise

    def mtu(self, interface: str) -> int:
        if interface in self._coming:
            return self._coming[interface][1]
        self._network_id(interface)
        return self._mtu

    async def close(self) -> None:
        if self._announcing is not None:
            self._announcing.cancel()
        if self._flow_logs is not None:
            await self._flow_logs.close()
        async with self._lock:
            self._stop_serving(self._served.keys())
            self._vpcs.clear()
            self._ports.clear()
            self._applied = None
            self._assume_nothing()
        self._executor.shutdown(wait=False)

    async def teardown(self) -> None:
        if self._flow_logs is not None:
            await self._flow_logs.close()
        async with self._lock:
            self._applied = None
            await self._work(self._edge.check_owner)
            self._stop_serving(self._served.keys())
            failures = await self._remove(await self._work(self._present))
            await self._work(lambda: dns.remove_orphans(self._names.namespace_prefix))
            self._ports.clear()
            self._assume_nothing()
            if failures:
                raise NetworkError("; ".join(failures))
            await self._work(lambda: natgateway.remove(self._names, ()))
            await self._work(self._edge.clear)

    def _assume_nothing(self) -> None:
        self._coming = {}
        self._edge.known = False
        self._peerings = None
        self._plans = {}

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
        if self._edge.filter_is_gone():
            log.warning("the host's packet filter table %s is gone: making it again", self._names.table)
            self._edge.known = False
            repair = True
        if self._edge.carrier_is_gone():
            log.warning("what encrypts the traffic between hosts is gone: making it again")
            self._edge.known = False
            repair = True
        resolving = {vpc.namespace: vpc for vpc in self._vpcs.values() if vpc.resolves}
        for namespace in dns.without_resolver(resolving):
            log.warning("the resolver in %s is gone: starting it again", namespace)
            resolving[namespace].forget()
            repair = True
        return repair

    async def _converge_all(self, plans: dict[int, VpcPlan], underlay: Underlay, made: _Made) -> list[str]:
        """Returns what went wrong: one VPC's trouble is not another's, but where they are peers.

        First all namespaces are there, then what joins them, then what leads through it; what joined them
        and is no more goes last.
        """
        failures: dict[int, str] = {}
        for plan in plans.values():
            await self._try(failures, plan, partial(self._build, plan, underlay))
        joined = {id: _without_peers(plan, failures) for id, plan in plans.items() if id not in failures}
        for plan in joined.values():
            await self._try(failures, plan, partial(self._join, plan))
        for id, plan in joined.items():
            if id not in failures:
                await self._converge(failures, plan, made)
        good = [plan for id, plan in joined.items() if id not in failures]
        wanted = {number for plan in joined.values() for number in plan.peerings}
        if self._peerings is None or self._peerings - wanted:
            for plan in good:
                await self._try(failures, plan, partial(self._part, plan))
                self._env.crashpoint("network.peering.parted")
        self._peerings = wanted
        return [f"VPC {plans[id].id}: {error}" for id, error in failures.items()]

    async def _try(self, failures: dict[int, str], plan: VpcPlan, work: Callable[[], None]) -> None:
        try:
            await self._work(work)
        except NetworkError as error:
            log.warning("VPC %s: %s", plan.id, error)
            failures[plan.network_id] = str(error)

    def _build(self, plan: VpcPlan, underlay: Underlay) -> None:
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
        vpc.build(plan, underlay, linked)

    def _join(self, plan: VpcPlan) -> None:
        for number, each in plan.peerings.items():
            if self._peerings is None or number not in self._peerings or plan.mtu != self._mtu:
                peering.ensure(self._names, plan, each)
                self._env.crashpoint("network.peering.joined")

    def _part(self, plan: VpcPlan) -> None:
        kept = {each.device for each in plan.peerings.values()}
        peering.remove(self._names.namespace(plan.network_id), kept)

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
            self._edge.forget(self._names.uplink(network_id))
        return failures

    async def _converge(self, failures: dict[int, str], plan: VpcPlan, made: _Made) -> None:
        serving = frozenset(id for id, s in self._served.items() if s.network_id == plan.network_id)
        gone = [id for id in serving if not self._served[id].suits(plan)]
        self._stop_serving(gone)
        vpc = self._vpcs[plan.network_id]
        try:
            sockets = await self._work(
                lambda: vpc.converge(plan, serving.difference(gone), partial(made, plan))
            )
        except NetworkError as error:
            log.warning("VPC %s: %s", plan.id, error)
            failures[plan.network_id] = str(error)
            return
        for id in served(plan):
            self._serve(plan, plan.ports[id], sockets.get(id))

    def _serve(self, plan: VpcPlan, port: PortPlan, sockets: Sockets | None) -> None:
        if sockets is None:
            self._served[port.id].update(plan, port)
            return
        self._stop_serving({port.id} & self._served.keys())
        assert self._tokens is not None
        lookup = self._metadata_of(port.instance)
        self._served[port.id] = PortServices(sockets, plan, port, lookup, self._tokens)

    def _metadata_of(self, instance: str) -> Callable[[], Metadata | None]:
        return lambda: self._lookup(instance)

    def _stop_serving(self, ports: Iterable[str]) -> None:
        for id in list(ports):
            self._served.pop(id).close()

    def _tidy(self) -> None:
        for vpc in self._vpcs.values():
            if vpc.known:
                vpc.tidy()

    def _route_publics(self, plans: Iterable[VpcPlan]) -> None:
        plans = list(plans)
        known = {id: vpc for id, vpc in self._vpcs.items() if vpc.known}
        gateways = {self._names.uplink(id): self._names.link(vpc.slot)[1] for id, vpc in self._vpcs.items()}
        there = {self._names.uplink(id) for id in known}
        there |= {
            self._names.nat_uplink(tap)
            for plan in plans
            if plan.network_id in known
            for tap in natgateway.ports(plan)
        }
        self._edge.route(plans, gateways, there)


def _without_peers(plan: VpcPlan, failed: Collection[int]) -> VpcPlan:
    """The plan without peerings to VPCs whose namespaces could not be made: routes there lead nowhere."""
    lost = {each.device for each in plan.peerings.values() if each.peer in failed}
    if not lost:
        return plan
    return msgspec.structs.replace(
        plan,
        peerings={number: each for number, each in plan.peerings.items() if each.device not in lost},
        tables={
            number: {cidr: NOWHERE if hop.device in lost else hop for cidr, hop in hops.items()}
            for number, hops in plan.tables.items()
        },
    )
