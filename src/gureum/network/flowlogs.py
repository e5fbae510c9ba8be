"""Flow logs: reads what the kernel counted, and writes it as lines of files, one file a flow log.

The lines are those of Amazon's flow logs (VPC User Guide, "Flow log records").
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from gureum.env import Env
from gureum.errors import NetworkError
from gureum.hostspec import FlowLogSpec
from gureum.network import flowsets
from gureum.network.acls import OUT
from gureum.network.flowsets import ACCEPT, FLAGS
from gureum.network.namespaces import command, nft
from gureum.network.plan import VpcPlan
from gureum.network.portplan import PortPlan

log = logging.getLogger(__name__)

DEFAULT_FORMAT = (
    "${version} ${account-id} ${interface-id} ${srcaddr} ${dstaddr} ${srcport} ${dstport} ${protocol} "
    "${packets} ${bytes} ${start} ${end} ${action} ${log-status}"
)
FILE_BYTES_MAX = 16 << 20
FILES_MAX = 4
"""A file that has become so large is renamed to .1, .1 to .2 and so on; this many are kept."""
_FIELD = re.compile(r"\$\{([a-z0-9-]+)\}")
_ELEMENT = re.compile(
    r'"?([\w.-]+)"? \. (\S+) \. (\S+) \. (\d+)(?: \. (\d+))?(?: counter packets (\d+) bytes (\d+))?'
)
_SKIPPED = re.compile(r'"?([\w.-]+)"? counter packets')
_VERSIONS = {
    3: ("vpc-id", "subnet-id", "instance-id", "tcp-flags", "type", "pkt-srcaddr", "pkt-dstaddr"),
    4: ("region", "az-id"),
    5: ("flow-direction",),
}
"""A line's version is that of its newest field."""
_PROTOCOLS = {"tcp": 6, "udp": 17}


class Flow(msgspec.Struct, frozen=True):
    """What a port sent (``egress``) or got in one direction of a flow. Ports are 0 where there are none."""

    tap: str
    egress: bool
    accepted: bool
    source: str
    target: str
    protocol: int
    source_port: int = 0
    target_port: int = 0


class Count(msgspec.Struct):
    packets: int = 0
    bytes: int = 0
    flags: int = 0


class Reading(msgspec.Struct):
    """``skipped``: taps some of whose flows had no room."""

    flows: dict[Flow, Count] = {}
    skipped: set[str] = set()

    def add(self, other: Reading) -> None:
        for flow, count in other.flows.items():
            sum = self.flows.setdefault(flow, Count())
            sum.packets += count.packets
            sum.bytes += count.bytes
            sum.flags |= count.flags
        self.skipped |= other.skipped


def read(generation: int, flags: bool) -> Reading:
    """What a generation of the sets in the calling thread's namespace holds. NetworkError if it has none."""
    found = Reading()
    for key in flowsets.keys(flags):
        verdict, direction, _, kind = key
        for values in _ELEMENT.findall(_listed(flowsets.name(generation, *key))):
            tap, source, target, one, other, packets, bytes = values
            plain = kind == "plain"
            protocol = int(one) if plain else _PROTOCOLS.get(kind, _PROTOCOLS["tcp"])
            ports = () if plain else (int(one), int(other))
            flow = Flow(tap, direction == OUT, verdict == ACCEPT, source, target, protocol, *ports)
            flag = FLAGS[kind][0] if kind in FLAGS else 0
            found.add(Reading({flow: Count(int(packets or 0), int(bytes or 0), flag)}))
    found.skipped.update(_SKIPPED.findall(_listed(flowsets.skipped(generation))))
    return found


def _listed(name: str) -> str:
    return command(["nft", "-nn", "list", "set", "inet", "gureum", name]).partition("elements = ")[2]


def turn(transaction: str, generation: int, flags: bool) -> Reading:
    """Count in the other generation from now on (``transaction``); read this one, and empty it."""
    nft(transaction)
    found = read(generation, flags)
    names = [*(flowsets.name(generation, *key) for key in flowsets.keys(flags)), flowsets.skipped(generation)]
    nft("".join(f"flush set inet gureum {name}\n" for name in names))
    return found


class FlowLogs:
    """Writes the flow logs of a host into ``directory``. ``take`` reads the flows of a VPC.

    The kernel goes on counting while no agent runs; the next one reads it.
    """

    def __init__(self, env: Env, directory: Path, take: Callable[[int], Awaitable[Reading]]) -> None:
        self._env = env
        self._directory = directory
        self._take = take
        self._covered: dict[int, dict[tuple[str, str], tuple[FlowLogSpec, PortPlan]]] = {}
        self._plans: dict[int, VpcPlan] = {}
        self._began: dict[int, float] = {}
        self._task: asyncio.Task[None] | None = None

    def cover(self, plans: Iterable[VpcPlan]) -> None:
        """Write for these from now on. Ports that are gone are written about once more."""
        self._plans = {plan.network_id: plan for plan in plans if plan.flow_logs}
        now = self._env.utcnow().timestamp()
        for id, plan in self._plans.items():
            self._began.setdefault(id, now)
            self._covered.setdefault(id, {}).update(_covered(plan))
        if self._plans and self._task is None:
            self._task = asyncio.create_task(self._run(), name="flow logs")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while self._plans:
            now = self._env.utcnow().timestamp()
            due = {id: self._began[id] + interval(plan) for id, plan in self._plans.items()}
            for id in [id for id, at in due.items() if at <= now]:
                await self.write(id)
                del due[id]
            # A new log may have a shorter interval.
            await asyncio.sleep(max(min([*(at - now for at in due.values()), 5.0]), 0.2))
        self._task = None

    async def write(self, network_id: int) -> None:
        """The lines of one VPC, from the last time until now."""
        plan = self._plans[network_id]
        try:
            reading = await self._take(network_id)
        except (NetworkError, KeyError) as error:
            # A VPC that could not be made, or is just going. Not at once again.
            self._began[network_id] = self._env.utcnow().timestamp()
            log.warning("flow logs of VPC %s are not read: %s", plan.id, error)
            return
        began, now = self._began[network_id], self._env.utcnow().timestamp()
        covered = self._covered[network_id]
        self._began[network_id], self._covered[network_id] = now, dict(_covered(plan))
        times = int(began), int(now)
        try:
            await asyncio.to_thread(self._append, covered.values(), plan.id, reading, times)
        except OSError as error:
            log.warning("flow logs of VPC %s are not written: %s", plan.id, error)

    def _append(
        self,
        covered: Iterable[tuple[FlowLogSpec, PortPlan]],
        vpc: str,
        reading: Reading,
        times: tuple[int, int],
    ) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        by_tap: dict[str, list[tuple[Flow, Count]]] = {}
        for flow, count in reading.flows.items():
            by_tap.setdefault(flow.tap, []).append((flow, count))
        ports: dict[str, list[tuple[FlowLogSpec, PortPlan]]] = {}
        for flow_log, port in covered:
            ports.setdefault(flow_log.id, []).append((flow_log, port))
        for id, pairs in ports.items():
            path = self._directory / f"{id}.log"
            if path.exists() and path.stat().st_size >= FILE_BYTES_MAX:
                _rotate(path)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "w") as file:
                for flow_log, port in pairs:
                    flows, skipped = by_tap.get(port.tap, ()), port.tap in reading.skipped
                    for line in lines(flow_log, vpc, port, flows, skipped, times):
                        file.write(f"{line}\n")


def _rotate(path: Path) -> None:
    for number in range(FILES_MAX - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number - 1}") if number > 1 else path
        if older.exists():
            older.rename(path.with_name(f"{path.name}.{number}"))


def interval(plan: VpcPlan) -> int:
    """The shortest that a log asks for: it is a maximum, as on EC2's own (Nitro) hosts."""
    return min(each.interval_seconds for each in plan.flow_logs)


def _covered(plan: VpcPlan) -> Iterator[tuple[tuple[str, str], tuple[FlowLogSpec, PortPlan]]]:
    for each in plan.flow_logs:
        for id in each.ports:
            yield (each.id, id), (each, plan.ports[id])


def lines(
    flow_log: FlowLogSpec,
    vpc: str,
    port: PortPlan,
    flows: Iterable[tuple[Flow, Count]],
    skipped: bool,
    times: tuple[int, int],
) -> Iterator[str]:
    """What a flow log says about a port from the one time to the other: at least one line."""
    template = flow_log.format or DEFAULT_FORMAT
    fields = _FIELD.findall(template)
    version = max([2, *(number for number, names in _VERSIONS.items() if set(names) & set(fields))])
    always = {
        "version": str(version),
        "account-id": flow_log.account,
        "interface-id": port.id,
        "vpc-id": vpc,
        "subnet-id": port.subnet,
        "instance-id": port.instance or "-",
        "region": flow_log.region or "-",
        "az-id": flow_log.zone_ids.get(port.id) or "-",
        "start": str(times[0]),
        "end": str(times[1]),
    }
    wanted = {"ALL": (True, False), "ACCEPT": (True,), "REJECT": (False,)}[flow_log.traffic]
    nothing = True
    for flow, count in flows:
        if flow.accepted in wanted and count.packets:
            nothing = False
            yield _line(fields, always | _values(flow, count))
    if skipped:
        yield _line(fields, always | {"log-status": "SKIPDATA"})
    elif nothing:
        yield _line(fields, always | {"log-status": "NODATA"})


def _line(fields: list[str], values: dict[str, str]) -> str:
    return " ".join(values.get(field, "-") for field in fields)


def _values(flow: Flow, count: Count) -> dict[str, str]:
    return {
        "srcaddr": flow.source,
        "dstaddr": flow.target,
        "pkt-srcaddr": flow.source,
        "pkt-dstaddr": flow.target,
        "srcport": str(flow.source_port),
        "dstport": str(flow.target_port),
        "protocol": str(flow.protocol),
        "packets": str(count.packets),
        "bytes": str(count.bytes),
        "action": "ACCEPT" if flow.accepted else "REJECT",
        "log-status": "OK",
        "type": "IPv6" if ":" in flow.source else "IPv4",
        "tcp-flags": str(count.flags),
        "flow-direction": "egress" if flow.egress else "ingress",
    }
