"""The manager with an agent played by the test, on virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control import manager as control
from gureum.control import reports
from gureum.control.hosts import LEASE_SECONDS
from gureum.control.manager import Manager
from gureum.env import Env
from gureum.errors import StoreError, TransportError
from gureum.hostspec import HostReport, HostSpec, MachineReport, MachineState
from gureum.resources import (
    ClientToken,
    Host,
    HostState,
    Instance,
    InstanceState,
    ManagerMachine,
    Permission,
    SecurityGroup,
    Vpc,
)
from gureum.services.operation import Cloud
from gureum.sim.link import SimLink, Weather, pair
from gureum.sim.loop import run
from gureum.store.base import Transaction
from gureum.store.sqlite import SqliteStore
from gureum.transport import messages
from gureum.transport.messages import Call, Hello, Reply, Report, Spec, SpecChange, Word
from gureum.transport.specs import Receiver

CLOUD = Cloud(name="c", account="1", region="r", zones=("ra",), public_cidr="198.18.0.0/24")


class Office:
    """A manager, its store, and links to it."""

    def __init__(self) -> None:
        self.store = SqliteStore.open(":memory:", threaded=False)
        env = Env(lambda: 1e9 + asyncio.get_running_loop().time(), random.Random(1), lambda _: None)
        self.manager = Manager(env, CLOUD, self.store)
        self.tasks = [asyncio.create_task(self.manager.run())]
        self.sequence = 0

    async def put(self, *records: Any) -> None:
        async def work(tx: Transaction) -> None:
            for record in records:
                await tx.put(record)

        await self.store.transact(work)

    async def get(self, kind: Any, id: str) -> Any:
        async with self.store.read() as reader:
            return await reader.get(kind, id)

    async def connect(self, host: str = "h", cloud: str = "c") -> SimLink:
        ours, theirs = pair(Weather(random.Random(1)))

        async def serve() -> None:
            try:
                await self.manager.serve(theirs)
            except TransportError:
                await theirs.close()

        self.tasks.append(asyncio.create_task(serve()))
        self.sequence = 0
        await ours.send(Hello(cloud=cloud, host=host, zone="", instance="x"))
        return ours

    async def report(
        self, link: SimLink, *machines: MachineReport, host: str = "h", revision: int = 0
    ) -> None:
        self.sequence += 1
        report = HostReport(
            cloud="c", host=host, boot_id="b", revision=revision, sequence=self.sequence, machines=machines
        )
        await link.send(Report(report))
        await asyncio.sleep(0.5)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.store.close()


def in_office(test: Callable[[Office], Awaitable[None]]) -> None:
    async def main() -> None:
        office = Office()
        await asyncio.sleep(0.1)
        await test(office)
        await office.close()

    run(main())


def running(make: Any, **values: Any) -> Any:
    return make.instance(host="h", **{"state": InstanceState.running, **values})


def says(state: MachineState, revision: int = 0) -> MachineReport:
    return MachineReport(id="i-1", generation=1, state=state, revision=revision)


async def newest_spec(link: SimLink) -> Any:
    spec = None
    try:
        async with asyncio.timeout(1):
            while True:
                if isinstance(message := await link.receive(), Spec):
                    spec = message.spec
    except TimeoutError:
        return spec


def test_a_host_gets_its_spec_and_every_newer_one(make: Any) -> None:
    async def test(office: Office) -> None:
        link = await office.connect()
        assert (await newest_spec(link)).machines == ()
        await office.put(running(make))
        assert [machine.id for machine in (await newest_spec(link)).machines] == ["i-1"]

    in_office(test)


def test_a_spec_that_nobody_acknowledges_is_sent_again(make: Any) -> None:
    async def test(office: Office) -> None:
        link = await office.connect()
        first = await newest_spec(link)
        await asyncio.sleep(control.RESEND_SECONDS)
        await office.report(link, revision=first.revision - 1)
        assert await newest_spec(link) is not None

    in_office(test)


def test_a_report_wakes_the_reconciler(make: Any) -> None:
    async def test(office: Office) -> None:
        await office.put(running(make, state=InstanceState.pending))
        link = await office.connect()
        await office.report(link, says(MachineState.running))
        assert (await office.get(Instance, "i-1")).state is InstanceState.running

    in_office(test)


def test_an_agent_that_was_restarted_is_heard_from_its_first_report(make: Any) -> None:
    async def test(office: Office) -> None:
        await office.put(running(make))
        link = await office.connect()
        for _ in range(20):
            await office.report(link, says(MachineState.running))
        link = await office.connect()
        await office.report(link, says(MachineState.crashed))
        assert (await office.get(Instance, "i-1")).state is InstanceState.stopping

    in_office(test)


def test_the_same_of_a_newer_spec_ends_what_waits_for_it(make: Any) -> None:
    async def test(office: Office) -> None:
        await office.put(running(make, state=InstanceState.stopping))
        version = (await office.get(Instance, "i-1")).version
        link = await office.connect()
        await office.report(link, says(MachineState.off, version - 1))
        assert (await office.get(Instance, "i-1")).state is InstanceState.stopping
        await office.report(link, says(MachineState.off, version))
        assert (await office.get(Instance, "i-1")).state is InstanceState.stopped

    in_office(test)


def test_a_silent_host_is_down_until_it_is_heard(make: Any) -> None:
    async def test(office: Office) -> None:
        link = await office.connect()
        await office.report(link)
        assert (await office.get(Host, "h")).state is HostState.up
        await asyncio.sleep(LEASE_SECONDS + control.TICK_SECONDS + 1)
        assert (await office.get(Host, "h")).state is HostState.down
        await office.report(link)
        assert (await office.get(Host, "h")).state is HostState.up

    in_office(test)


def test_strangers_are_refused(make: Any) -> None:
    async def test(office: Office) -> None:
        for link, host in ((await office.connect(cloud="other"), "h"), (await office.connect(), "another")):
            await office.report(link, host=host)
            assert link.closed
        _mute, theirs = pair(Weather(random.Random(1)))
        with pytest.raises(TransportError, match="said nothing"):
            await office.manager.serve(theirs)

    in_office(test)


def test_a_new_connection_of_a_host_replaces_the_old(make: Any) -> None:
    async def test(office: Office) -> None:
        old = await office.connect()
        await asyncio.sleep(1)
        new = await office.connect()
        await asyncio.sleep(1)
        assert old.closed
        assert not new.closed
        assert office.manager.sessions["h"].link is not old

    in_office(test)


def test_a_spec_that_can_not_be_made_is_tried_again_and_reports_are_heard(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = control.host_spec
    fails = [StoreError("disk"), ValueError("broken record")]

    async def host_spec(*arguments: Any) -> Any:
        if fails:
            raise fails.pop()
        return await right(*arguments)

    monkeypatch.setattr(control, "host_spec", host_spec)

    async def test(office: Office) -> None:
        link = await office.connect()
        await office.report(link)
        assert (await office.get(Host, "h")).state is HostState.up
        await asyncio.sleep(5)
        assert await newest_spec(link) is not None

    in_office(test)


def test_a_spec_that_is_too_large_leaves_the_link_up(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(office: Office) -> None:
        await office.put(running(make))
        monkeypatch.setattr(messages, "MESSAGE_BYTES_MAX", 300)
        link = await office.connect()
        await office.report(link)
        assert await newest_spec(link) is None
        assert not link.closed
        (problem,) = office.manager.problems("h")
        assert "over the bound of 300" in problem
        assert office.manager.problems("other") == ()
        monkeypatch.undo()
        await asyncio.sleep(control.TOO_LARGE_SECONDS)
        assert [machine.id for machine in (await newest_spec(link)).machines] == ["i-1"]
        assert office.manager.problems("h") == ()

    in_office(test)


def test_what_a_host_says_of_its_problems_is_kept(make: Any) -> None:
    async def test(office: Office) -> None:
        link = await office.connect()
        said = HostReport(cloud="c", host="h", boot_id="b", revision=0, sequence=1, problems=("no disk",))
        await link.send(Report(said))
        await asyncio.sleep(0.5)
        assert office.manager.problems("h") == ("no disk",)

    in_office(test)


def test_little_is_looked_at_by_the_word_of_a_host_that_does_not_have_it(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "STRANGE_MAX", 1)
    looked: list[tuple[str, str]] = []

    async def test(office: Office) -> None:
        await office.put(running(make), make.instance("i-2", host="other", state=InstanceState.running))
        monkeypatch.setattr(office.manager, "kick", lambda *key: looked.append(key))
        link = await office.connect()
        await office.report(link)
        await asyncio.sleep(1)
        looked.clear()
        others = (replace(says(MachineState.running), id=id) for id in ("i-0", "i-2", "i-unknown"))
        await office.report(link, says(MachineState.running), *others)
        assert {id for _, id in looked} == {"i-0", "i-1"}

    in_office(test)


def test_a_machine_that_died_while_no_manager_ran(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first report may come before the first spec is made."""

    async def never(*arguments: Any) -> Any:
        raise StoreError("disk")

    monkeypatch.setattr(control, "host_spec", never)

    async def test(office: Office) -> None:
        await office.put(running(make))
        link = await office.connect()
        await office.report(link, says(MachineState.crashed))
        assert (await office.get(Instance, "i-1")).state is InstanceState.stopping

    in_office(test)


def test_of_many_reports_the_newest_is_taken(make: Any) -> None:
    async def test(office: Office) -> None:
        await office.put(running(make))
        link = await office.connect()
        await asyncio.sleep(1)
        taken = []
        take = office.manager.observed.take
        office.manager.observed.take = lambda report: (taken.append(report.sequence), take(report))[1]
        for sequence in range(1, 1001):
            state = MachineState.crashed if sequence == 1000 else MachineState.running
            told = HostReport(
                cloud="c", host="h", boot_id="b", revision=0, sequence=sequence, machines=(says(state),)
            )
            await link.send(Report(told))
        await asyncio.sleep(10)
        assert taken[-1] == 1000
        assert len(taken) < 500
        assert not link.closed
        assert (await office.get(Instance, "i-1")).state is InstanceState.stopping

    in_office(test)


def test_one_broken_record_does_not_stop_the_others(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = control.STEPS["instance"]

    async def step(tx: Any, env: Any, observed: Any, id: str) -> None:
        if id == "i-0":
            raise ValueError("broken")
        await right(tx, env, observed, id)

    monkeypatch.setitem(control.STEPS, "instance", step)

    async def test(office: Office) -> None:
        await office.put(make.instance("i-0", host="h"), running(make, state=InstanceState.pending))
        link = await office.connect()
        await office.report(link, says(MachineState.running))
        assert (await office.get(Instance, "i-1")).state is InstanceState.running

    in_office(test)


def test_expired_client_tokens_go_however_many_there_are(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "TOKENS_SWEPT_MAX", 3)

    async def test(office: Office) -> None:
        for number in range(10):
            expires = 1e9 if number in (4, 8) else 2e9
            await office.put(ClientToken(id=f"t{number}", request="", output=b"", expires=expires))
        await asyncio.sleep(5 * control.SWEEP_SECONDS)
        async with office.store.read() as reader:
            left = {token.id for token in await reader.find(ClientToken)}
        assert left == {f"t{number}" for number in range(10) if number not in (4, 8)}

    in_office(test)


def test_console_asks_the_host_or_says_why_not(make: Any) -> None:
    async def test(office: Office) -> None:
        with pytest.raises(TransportError, match="not connected"):
            await office.manager.console("h", "i-1", 10)
        link = await office.connect()
        asked = asyncio.create_task(office.manager.console("h", "i-1", 10))
        while not isinstance(call := await link.receive(), Call):
            pass
        await link.send(Reply(id=call.id, data=b"login:"))
        assert await asked == b"login:"
        with pytest.raises(TransportError, match="did not answer"):
            await office.manager.console("h", "i-1", 10)

    in_office(test)


async def received(link: SimLink, receiver: Receiver) -> HostSpec:
    """What the agent knows when nothing more comes."""
    spec = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            while True:
                if isinstance(message := await link.receive(), Spec | SpecChange):
                    spec = receiver.take(message)
    assert spec is not None
    return spec


def test_of_a_change_of_rules_only_the_network_is_made(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(office: Office) -> None:
        group = SecurityGroup(id="sg-1", account="1", name="g", description="", vpc="vpc-1")
        port = make.interface(host="h", instance="i-1", groups=("sg-1",))
        vpc = Vpc(id="vpc-1", account="1", cidr="172.31.0.0/16", network_id=1)
        await office.put(vpc, group, running(make), port)
        receiver, link = Receiver(), await office.connect()
        before = await received(link, receiver)
        monkeypatch.setattr(control, "host_spec", None)
        rule = Permission(id="sgr-1", protocol="tcp", from_port=22, to_port=22, cidr="10.0.0.0/8")
        await office.put(replace(await office.get(SecurityGroup, "sg-1"), rules=(rule,)))
        after = await received(link, receiver)
        assert [each.from_port for each in after.network.groups[0].rules] == [22]
        assert after.revision > before.revision
        assert after.machines is before.machines
        assert after.network.ports is before.network.ports
        monkeypatch.undo()
        # Both at once, and nothing is lost.
        instance = await office.get(Instance, "i-1")
        await office.put(
            replace(await office.get(SecurityGroup, "sg-1"), rules=()), replace(instance, reboots=1)
        )
        last = await received(link, receiver)
        assert last.network.groups[0].rules == ()
        assert last.machines[0].reboots == 1

    in_office(test)


MACHINES = [
    ManagerMachine(id=id, agents=f"192.0.2.{number}:4567", endpoint=f"https://192.0.2.{number}:4566")
    for number, id in enumerate(("first", "second"), 1)
]


async def words(link: SimLink) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            while True:
                if isinstance(message := await link.receive(), Word):
                    found.append(message.sequence)
    return found


def test_hosts_learn_where_managers_may_lead_and_that_one_is_there(make: Any) -> None:
    async def test(office: Office) -> None:
        link = await office.connect()
        await office.put(MACHINES[0])
        assert (await newest_spec(link)).managers == ("192.0.2.1:4567",)
        await office.report(link)
        assert await words(link) == []  # nobody else would answer
        await office.put(MACHINES[1])
        link = await office.connect()
        assert (await newest_spec(link)).managers == ("192.0.2.1:4567", "192.0.2.2:4567")
        await office.report(link)
        assert await words(link) == [messages.OF_NO_REPORT]
        # One that may not lead any more says nothing: its hosts are to look for another.
        office.manager.leads = lambda: False
        await office.report(link)
        assert await words(link) == []
        office.manager.leads = lambda: True
        await office.store.transact(lambda tx: forget(tx, "first"))
        link = await office.connect()
        assert (await newest_spec(link)).managers == ("192.0.2.2:4567",)
        await office.report(link)
        assert await words(link) == []

    in_office(test)


async def forget(tx: Transaction, id: str) -> None:
    machine = await tx.get(ManagerMachine, id)
    assert machine is not None
    await tx.delete(machine)
