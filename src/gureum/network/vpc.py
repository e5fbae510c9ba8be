"""One VPC on this host: brings its namespace from what it is to what its plan says. Blocking, one call at a
time.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import msgspec

from gureum.env import Env
from gureum.errors import NetworkError
from gureum.hostspec import PortKind
from gureum.network import (
    bundles,
    dns,
    elements,
    filters,
    flowlogs,
    flowsets,
    guard,
    links,
    namespaces,
    natgateway,
    routes,
    ruleset,
    vxlan,
)
from gureum.network.conntrack import forget_flows
from gureum.network.elements import Batch
from gureum.network.flowlogs import Reading
from gureum.network.names import Names
from gureum.network.namespaces import Transaction, command_batch, ip_batch, nft, visit
from gureum.network.plan import VpcPlan
from gureum.network.portplan import PortPlan
from gureum.network.replan import differs_in_rules
from gureum.network.routes import NOTHING, Change, Routing
from gureum.network.ruleset import Table, change_table, replace_table
from gureum.network.services import Sockets, listen
from gureum.network.shortcut import Shortcuts
from gureum.network.vxlan import Underlay

log = logging.getLogger(__name__)

APART_PORTS = 64
"""From so many ports of a new VPC on, it is worth making things side by side."""


class VpcNetwork:
    """``slot`` is the VPC's link to the host.

    ``build`` comes first, then ``converge``. Until the first ``converge``, and after one that failed, nothing
    is assumed: the next one looks at what is there and replaces the filter whole. Otherwise only differences
    to what was applied are made.
    """

    def __init__(self, env: Env, names: Names, network_id: int, slot: int) -> None:
        self.network_id = network_id
        self.slot = slot
        self.namespace = names.namespace(network_id)
        self._env = env
        self._names = names
        self._underlay = Underlay()
        self._routing: Routing | None = None
        self._plan: VpcPlan | None = None
        self._tables: tuple[Table, Table] | None = None
        self._untidy: Change | None = None
        """Of which what is stale is there yet."""
        self._compiler = bundles.Compiler()
        self._shortcuts = Shortcuts(self.namespace)
        # For flow logs: which sets are counted in, and what was read but not taken yet.
        self._generation = 0
        self._flows = Reading()

    @property
    def known(self) -> bool:
        return self._plan is not None

    @property
    def resolves(self) -> bool:
        """Whether a resolver was started for it."""
        return self._plan is not None and resolves(self._plan)

    def addresses(self, interface: str) -> tuple[str, ...]:
        """All addresses of a port, private and public."""
        if self._plan is None or interface not in self._plan.ports:
            raise NetworkError(f"port {interface} was not applied")
        port = self._plan.ports[interface]
        return (*port.private, *(each.public_ip for each in port.addresses if each.public_ip))

    def outside(self, interface: str) -> tuple[str, ...]:
        """Those of them that the host has to do with, too: public ones, and of IPv6."""
        known = self.addresses(interface)
        assert self._plan is not None
        publics = {each.public_ip for each in self._plan.ports[interface].addresses}
        return tuple(each for each in known if ":" in each or each in publics)

    def build(self, plan: VpcPlan, underlay: Underlay, linked: bool) -> None:
        """Have the namespace, its link to the host, and its device to the other hosts.

        ``linked``: the host's end of the link exists.
        """
        if self._plan is not None and underlay == self._underlay and self._resembles(self._plan, plan):
            return
        self.forget()
        new = links.build_vpc(self._names, plan, self.slot, linked)
        vxlan.ensure(self.namespace, plan.network_id, plan.number, underlay, new)
        # Nothing to look for, where nothing can be.
        self._routing = NOTHING if new else None
        self._underlay = underlay
        self._env.crashpoint("network.vpc.built")

    def converge(
        self, plan: VpcPlan, serving: frozenset[str], made: Callable[[], object] = lambda: None
    ) -> dict[str, Sockets]:
        """Make it so. Returns sockets for the ports that are not in ``serving``, by interface id. ``made`` is
        called when all taps are there, and nothing else perhaps.
        """
        old, tables, known = self._plan, self._tables, self._routing
        serves = serving >= served(plan)
        if plan == old and serves:
            return {}
        self.tidy()
        self.forget()
        if serves and old is not None and tables is not None and differs_in_rules(old, plan):
            changed = self._change_rules(old, plan, tables)
            self._env.crashpoint("network.rules.applied")
            self._plan, self._tables, self._routing = plan, changed, known
            return {}
        if natgateway.ensure(self._names, old, plan):
            self._env.crashpoint("network.nat.built")
        if old is None and plan.flow_logs:
            self._rescue_flows(plan)
        self._shortcuts.close(anew=old is None)
        link = self._names.link(self.slot)[0]
        routing = routes.wanted(plan, link)
        work = _Visit(
            self._env, old, plan, tables, partial(self._compile, plan), known, routing, serving, made
        )
        sockets = visit(self.namespace, work)
        try:
            if (
                old is None
                or dns.arguments(old, "") != dns.arguments(plan, "")
                or resolves(old) != resolves(plan)
            ):
                dns.converge(self.namespace, plan if resolves(plan) else None)
                self._env.crashpoint("network.resolver.started")
            elif resolves(plan) and dns.hosts(old) != dns.hosts(plan):
                dns.refresh(self.namespace, plan)
            # A port that stands by is waited for by a machine that comes, and has no traffic.
            later = work.is_large or not plan.ports
            self._shortcuts.open(plan, vxlan.inner_mtu(self._underlay, plan.number), later=later)
        except BaseException:
            for pair in sockets.values():
                pair.close()
            raise
        self._plan, self._tables, self._routing = plan, work.tables, routing
        self._untidy = work.changed
        return sockets

    def tidy(self) -> None:
        """Take away what nothing leads to any more. It need not be done before traffic passes."""
        change = self._untidy
        if change is not None and (change.stale or change.bridge_stale):
            visit(self.namespace, lambda: routes.tidy(change))
        self._untidy = None

    def _change_rules(self, old: VpcPlan, plan: VpcPlan, tables: tuple[Table, Table]) -> tuple[Table, Table]:
        """Returns the tables as they are then."""
        guarded, routed = tables
        sets = bundles.renewed_sets(old, plan, self._compiler)
        if sets is None:
            changed = self._compile_routed(plan)
            visit(self.namespace, lambda: change_tables(tables, (guarded, changed)))
            return guarded, changed
        changed, changes = ruleset.with_sets(routed, sets)
        batch = elements.transaction(changes)
        visit(self.namespace, lambda: elements.commit([batch]))
        return guarded, changed

    def _resembles(self, old: VpcPlan, plan: VpcPlan) -> bool:
        """Whether the namespace's own parts are the same, apart from subnets."""
        was, now = ((each.cidr, each.id, each.number, each.mtu, each.outside6) for each in (old, plan))
        return was == now

    def _compile(self, plan: VpcPlan) -> tuple[Table, Table]:
        return guard.guard_table(plan), self._compile_routed(plan)

    def _compile_routed(self, plan: VpcPlan) -> Table:
        link_address = self._names.link(self.slot)[1]
        return filters.filter_table(plan, self._names, link_address, self._generation, self._compiler)

    def take_flows(self) -> Reading:
        """What flow logs counted since the last time."""
        plan, tables = self._plan, self._tables
        if plan is not None and tables is not None and plan.flow_logs:
            full, flags = self._generation, flowsets.with_flags(plan)
            self._generation = 1 - full
            turned = msgspec.structs.replace(
                tables[1], chains={**tables[1].chains, **flowsets.chains(plan, self._generation)}
            )
            transaction = change_table(tables[1], turned)
            routing = self._routing
            self.forget()
            self._flows.add(visit(self.namespace, lambda: flowlogs.turn(transaction, full, flags)))
            self._plan, self._tables, self._routing = plan, (tables[0], turned), routing
        taken, self._flows = self._flows, Reading()
        return taken

    def _rescue_flows(self, plan: VpcPlan) -> None:
        """The tables are about to be replaced: read what was counted for an earlier agent, if any."""
        for generation in (0, 1):
            with contextlib.suppress(NetworkError):
                flags = flowsets.with_flags(plan)
                self._flows.add(visit(self.namespace, partial(flowlogs.read, generation, flags)))

    def forget(self) -> None:
        """Assume nothing any more."""
        self._plan = self._tables = self._routing = self._untidy = None


def served(plan: VpcPlan) -> set[str]:
    """The ports with a guest, which has DHCP and metadata."""
    return {port.id for port in plan.ports.values() if port.kind is PortKind.machine}


def resolves(plan: VpcPlan) -> bool:
    """Whether there is somebody to ask a resolver, or soon, and it is wanted: a guest that comes here should
    not wait for its start.
    """
    return plan.dns_support and bool(served(plan) or plan.standby)


class _Visit:
    """What ``converge`` does inside the namespace. The order keeps every moment safe:

    a port's filter is there before its device is up, and goes only after its guest's address is denied. What
    is routed is there before something leads to it, and goes after.
    """

    def __init__(
        self,
        env: Env,
        old: VpcPlan | None,
        plan: VpcPlan,
        old_tables: tuple[Table, Table] | None,
        compile: Callable[[], tuple[Table, Table]],
        old_routing: Routing | None,
        routing: Routing,
        serving: frozenset[str],
        made: Callable[[], object],
    ) -> None:
        self._env = env
        self._old = old
        self._plan = plan
        self._old_tables = old_tables
        self._compile = compile
        self.tables: tuple[Table, Table] | None = None
        self._old_routing = old_routing
        self._routing = routing
        self._serving = serving
        self._made = made
        self.changed: Change | None = None
        """Done, but for what is stale."""

    @property
    def is_large(self) -> bool:
        """Whether it is about all of many ports."""
        return self._old is None and len(self._plan.ports) >= APART_PORTS

    def __call__(self) -> dict[str, Sockets]:
        if self.is_large and self._old_routing is not None:
            return self._begin()
        self._change()
        here = {address for port in self._plan.ports.values() for address in port.private}
        forget_flows(filters.moved_addresses(self._old, self._plan), keep=here)
        return self._open_sockets()

    def _begin(self) -> dict[str, Sockets]:
        """All ports of a new namespace. Nothing passes there yet, so things are made side by side: while taps
        are made, the rules are compiled and ``nft`` reads them; then the guards of all taps and a filter
        without elements come into force, which lets nothing pass, and while devices come up and get
        their routes, the filter gets its elements.
        """
        ports = list(self._plan.ports.values())
        with ThreadPoolExecutor(2, thread_name_prefix="rules") as others, contextlib.ExitStack() as stack:
            compiled = others.submit(self._compile)
            read = others.submit(lambda: _emptied(compiled.result()))
            encoded = others.submit(lambda: _contents(compiled.result()))
            stack.callback(lambda: read.result().cancel())
            links.create_new_taps(ports)
            links.create_taps(self._plan.standby.values())
            self._made()
            self._serving = self._serving.difference(port.id for port in ports)
            self._env.crashpoint("network.port.created")
            self.tables = compiled.result()
            committed = others.submit(lambda: read.result().commit())
            stack.callback(committed.exception)
            sockets = self._open_sockets()
            undone = stack.enter_context(contextlib.ExitStack())
            for each in sockets.values():
                undone.callback(each.close)
            committed.result()
            self._env.crashpoint("network.rules.applied")
            filled = others.submit(lambda: _fill(encoded.result()))
            self._route(routes.change(NOTHING, self._routing), ports)
            self._env.crashpoint("network.port.routed")
            filled.result()
            undone.pop_all()
        return sockets

    def _change(self) -> None:
        self.tables = self._compile()
        wanted = {port.tap: port for port in self._plan.ports.values()}
        taps = {**{port.tap: port for port in self._plan.standby.values()}, **wanted}
        if self._old is None:
            empty = self._old_routing is not None
            present = set() if empty else links.taps()
            ready = set() if empty else links.ready_taps(self._plan.mtu)
        else:
            ready = {port.tap for port in self._old.ports.values()}
            present = ready.union(port.tap for port in self._old.standby.values())
        links.create_taps(taps[tap] for tap in sorted(taps.keys() - present))
        self._made()
        created = (wanted[tap] for tap in wanted.keys() - present)
        self._serving = self._serving.difference(port.id for port in created)
        self._env.crashpoint("network.port.created")
        first = self._first_tables(self.tables)
        self._filter(self._old_tables, first)
        self._env.crashpoint("network.rules.applied")
        routing = routes.present() if self._old_routing is None else self._old_routing
        change = routes.change(routing, self._routing)
        self._route(change, [wanted[tap] for tap in sorted(wanted.keys() - ready)])
        self._filter(first, self.tables)
        routes.remove(change)
        self.changed = change
        self._env.crashpoint("network.port.routed")
        ip_batch(links.removal_commands(present - taps.keys()))
        gone = filters.changed_addresses(self._old, self._plan)
        forget_flows(gone if self._old else routes.orphans(routing, self._plan))

    def _first_tables(self, tables: tuple[Table, Table]) -> tuple[Table, Table]:
        """The new filter, but ports that were there stay with the route table they had, until the one that
        they get is there.
        """
        guard, routed = tables
        if self._old_tables is None:
            return tables
        had = self._old_tables[1].sets["tables"].elements
        marks = routed.sets["tables"]
        elements = {tap: had.get(tap, table) for tap, table in marks.elements.items()}
        if elements == marks.elements:
            return tables
        sets = {**routed.sets, "tables": msgspec.structs.replace(marks, elements=elements)}
        return guard, msgspec.structs.replace(routed, sets=sets)

    def _filter(self, old: tuple[Table, Table] | None, new: tuple[Table, Table]) -> None:
        if old is None:
            nft("".join(replace_table(table) for table in new))
        elif old is not new:
            change_tables(old, new)

    def _route(self, change: Change, changed: list[PortPlan]) -> None:
        commands = [line for port in changed for line in links.port_commands(port, self._plan.mtu)]
        if self._old is not None:
            commands += links.change_router(self._old, self._plan)
        routes.apply(change, commands)

    def _open_sockets(self) -> dict[str, Sockets]:
        opened: dict[str, Sockets] = {}
        try:
            for port in self._plan.ports.values():
                if port.kind is PortKind.machine and port.id not in self._serving:
                    opened[port.id] = listen(self._plan, port)
        except BaseException:
            for pair in opened.values():
                pair.close()
            raise
        return opened


def change_tables(old: tuple[Table, Table], new: tuple[Table, Table]) -> None:
    """In one transaction. If nothing but elements is different, it costs what is different."""
    pairs = list(zip(old, new, strict=True))
    found = [ruleset.changed_elements(one, other) for one, other in pairs]
    changes = [change for each in found for change in each or ()]
    if None not in found and all(elements.supported(change.set) for change in changes):
        elements.commit([elements.transaction(changes)])
    else:
        nft("".join(change_table(one, other) for one, other in pairs))


def _emptied(tables: tuple[Table, Table]) -> Transaction:
    return Transaction("".join(replace_table(ruleset.emptied(table)) for table in tables))


class _Contents(NamedTuple):
    """What tables without elements lack: what ``nft`` has to tell the kernel, and ``doors``, without which
    nothing of a port passes.
    """

    batches: list[Batch]
    rest: str
    doors: Batch


def _contents(tables: tuple[Table, Table]) -> _Contents:
    changes = [change for table in tables for change in ruleset.contents(table) if change.come]
    told = [change for change in changes if elements.supported(change.set)]
    rest = [change for change in changes if not elements.supported(change.set)]
    return _Contents(
        list(elements.portions(change for change in told if change.key not in filters.DOORS)),
        ruleset.change_elements(rest),
        elements.transaction(change for change in told if change.key in filters.DOORS),
    )


def _fill(contents: _Contents) -> None:
    """ACLs and rules are whole before something is led to them."""
    elements.commit(contents.batches)
    nft(contents.rest)
    elements.commit([contents.doors])


def remove_vpc(names: Names, network_id: int) -> None:
    """Remove a VPC's namespace with everything in it, and its link. Repeats harmlessly."""
    namespace = names.namespace(network_id)
    if namespaces.exists(namespace):
        dns.converge(namespace, None)
        # A guest that still holds a tap would keep the namespace alive: take its device away first. And the
        # kernel, which takes a namespace apart later, makes no second VXLAN device of the same network.
        visit(
            namespace,
            lambda: ip_batch(links.removal_commands([*links.taps(attached=True), *vxlan.devices()])),
        )
    if network_id in links.uplinks(names):
        # Of a namespace that is being removed by somebody else it may go any moment.
        command_batch("ip", [f"link delete {names.uplink(network_id)}"], gone=True)
    namespaces.remove(namespace)
