from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gureum import __version__
from gureum.errors import TransportError
from gureum.hostspec import HostSpec, MachineState, NetworkSpec, PortSpec, SubnetSpec, VpcSpec
from gureum.transport.messages import OF_NO_REPORT, Call, Hello, Reply, Report, Spec, Word
from gureum.transport.specs import Sender


async def next_of(link: Any, kind: type[Any]) -> Any:
    async with asyncio.timeout(30):
        while not isinstance(message := await link.receive(), kind):
            pass
    return message


async def connected(lab: Any) -> Any:
    lab.refuse = False
    await asyncio.sleep(3)
    return lab.links[-1]


def test_it_says_hello_reports_and_takes_specs(parts: Any) -> None:
    async def test(lab: Any) -> None:
        link = await connected(lab)
        assert (await next_of(link, Hello)).host == "h"
        first = await next_of(link, Report)
        assert (first.report.revision, first.report.sequence) == (0, 1)
        await link.send(Spec(lab.spec(parts.volume())))
        while not (report := (await next_of(link, Report)).report).volumes:
            pass
        assert report.revision == lab.revision

    parts.on_lab(test)


def test_that_no_manager_is_found_is_in_the_log_once(parts: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def test(lab: Any) -> None:
        await asyncio.sleep(60)
        link = await connected(lab)
        lab.refuse = True
        await link.send(Spec(lab.spec()))
        await asyncio.sleep(3)
        await link.close()
        await asyncio.sleep(60)
        said = [record for record in caplog.records if record.message == "no manager"]
        assert [record.levelname for record in said] == ["WARNING"] * 2

    parts.on_lab(test)


def test_a_network_that_was_left_half_made_is_not_said_to_be_there(parts: Any) -> None:
    async def test(lab: Any) -> None:
        link = await connected(lab)
        before = lab.spec()
        await link.send(Spec(before))
        await asyncio.sleep(3)
        assert lab.agent.report().network_revision == before.revision
        lab.wires.failing.add("h")
        await link.send(Spec(lab.spec(network=NetworkSpec(mtu=1400))))
        await asyncio.sleep(3)
        assert lab.agent.report().network_revision == 0
        # As before: but what the other has changed until it failed is still to be undone.
        again = lab.spec()
        await link.send(Spec(again))
        await asyncio.sleep(3)
        assert lab.agent.report().revision == again.revision
        assert lab.agent.report().network_revision == 0
        lab.wires.failing.clear()
        await asyncio.sleep(30)
        assert lab.agent.report().network_revision == again.revision

    parts.on_lab(test)


def test_it_connects_again_after_the_link_broke(parts: Any) -> None:
    async def test(lab: Any) -> None:
        link = await connected(lab)
        await link.close()
        await asyncio.sleep(5)
        assert len(lab.links) == 2

    parts.on_lab(test)


def test_a_manager_that_hangs_up_at_once_is_not_called_all_the_time(parts: Any) -> None:
    async def test(lab: Any) -> None:
        lab.refuse = False
        for _ in range(600):
            await asyncio.sleep(0.1)
            for link in lab.links:
                await link.close()
        assert 10 < len(lab.links) < 60

    parts.on_lab(test)


@pytest.mark.parametrize("turns", range(12))
def test_it_ends_when_it_is_told_to_while_the_link_breaks(parts: Any, turns: int) -> None:
    """Before Python 3.13 a task group that ends by an error forgets a cancellation that comes then."""

    async def test(lab: Any) -> None:
        link = await connected(lab)
        await next_of(link, Report)
        await link.close()
        for _ in range(turns):
            await asyncio.sleep(0)
        lab.task.cancel()
        await asyncio.sleep(5)
        assert lab.task.done()

    parts.on_lab(test)


def test_console_calls_are_answered(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), parts.volume())
        link = await connected(lab)
        await link.send(Call(id=1, method="console", machine="i-1", max_bytes=100))
        assert b"i-1 started" in (await next_of(link, Reply)).data
        await link.send(Call(id=2, method="console", machine="i-2", max_bytes=100))
        assert (await next_of(link, Reply)).data == b""
        await link.send(Call(id=3, method="format"))
        assert "unknown method" in (await next_of(link, Reply)).error

    parts.on_lab(test)


def test_it_ends_for_the_next_one_when_it_is_asked_to(parts: Any) -> None:
    """Only the one that is meant: a call that comes late ends no newer agent. Guests do not notice."""

    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), parts.volume())
        link = await connected(lab)
        before = lab.agent.report()
        assert (before.version, before.started) == (__version__, lab.agent.started)
        await link.send(Call(id=1, method="end-agent", data=b"1.0"))
        assert "another agent" in (await next_of(link, Reply)).error
        await asyncio.sleep(5)
        assert not lab.task.done()
        await link.send(Call(id=2, method="end-agent", data=repr(before.started).encode()))
        await asyncio.sleep(5)
        assert lab.task.done()
        assert lab.task.exception() is None
        assert lab.machines.running() == {"i-1": 1}
        lab.start()
        assert lab.agent.report().started != before.started

    parts.on_lab(test)


def test_an_older_spec_or_one_of_another_host_is_not_taken(
    parts: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(lab: Any) -> None:
        old = lab.spec()
        await lab.take(parts.machine(), parts.volume())
        lab.agent.take(old)
        assert f"passed over a spec of revision {old.revision}" in caplog.text
        await asyncio.sleep(3)
        assert lab.machines.running()
        with pytest.raises(TransportError):
            lab.agent.take(HostSpec(cloud="c", host="other", revision=1 << 40))

    parts.on_lab(test)


def test_the_last_spec_serves_the_network_and_starts_or_ends_nothing(parts: Any, tmp_path: Path) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), parts.volume())
        await lab.stop()
        lab.machines.reboot_host()
        lab.wires.ports.clear()
        lab.start()
        await asyncio.sleep(30)
        assert list(lab.wires.ports["h"]) == ["eni-1"]
        assert lab.agent.metadata("i-1") is not None
        assert not lab.machines.running()
        report = lab.agent.report()
        assert (report.revision, report.machines, report.volumes) == (0, (), ())
        await lab.take(parts.machine(), parts.volume())
        assert lab.machines.running()

    parts.on_lab(test, tmp_path / "agent.spec")


def test_a_damaged_last_spec_is_passed_over(parts: Any, tmp_path: Path) -> None:
    file = tmp_path / "agent.spec"
    file.write_bytes(b"\xc1 nonsense")

    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), parts.volume())
        assert lab.machines.running()

    parts.on_lab(test, file)


def test_a_network_that_fails_is_reported_and_tried_again(parts: Any) -> None:
    async def test(lab: Any) -> None:
        lab.wires.failing.add("h")
        await lab.take(parts.machine(), parts.volume())
        assert lab.seen().state is MachineState.starting
        assert any("network" in each for each in lab.agent.report().problems)
        lab.wires.failing.clear()
        await asyncio.sleep(20)
        assert lab.seen().state is MachineState.running
        assert lab.agent.report().problems == ()
        await lab.take(parts.volume(), network=NetworkSpec())
        assert lab.wires.ports["h"] == {}

    parts.on_lab(test)


def test_a_stopped_agent_leaves_guests_running_and_frees_the_pool(parts: Any) -> None:
    closed: list[str] = []

    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), parts.volume())

        async def close() -> None:
            closed.append("pool")

        lab.agent.disks.local.pool.close = close
        await lab.stop()
        assert lab.machines.running()

    parts.on_lab(test)
    assert closed == ["pool"]


def test_flows_of_a_port_are_given_and_taken(parts: Any) -> None:
    async def test(lab: Any) -> None:
        link = await connected(lab)
        port = PortSpec(id="eni-1", vpc="vpc-1", subnet="s", mac="02:00:00:00:00:01", private_ip="10.0.0.4")
        vpc = VpcSpec(
            id="vpc-1", network_id=1, cidr="10.0.0.0/16", subnets=(SubnetSpec(id="s", cidr="10.0.0.0/24"),)
        )
        await link.send(Spec(lab.spec(network=NetworkSpec(vpcs=(vpc,), ports=(port,)))))
        await asyncio.sleep(3)
        await link.send(Call(id=1, method="export-flows", interface="eni-1"))
        flows = (await next_of(link, Reply)).data
        assert flows
        await link.send(Call(id=2, method="import-flows", interface="eni-1", data=flows))
        assert (await next_of(link, Reply)).error == ""
        for number, method in enumerate(("export-flows", "import-flows"), 3):
            await link.send(Call(id=number, method=method, interface="eni-2", data=flows))
            assert "eni-2" in (await next_of(link, Reply)).error

    parts.on_lab(test)


def test_specs_come_as_changes(parts: Any) -> None:
    async def test(lab: Any) -> None:
        link, sender = await connected(lab), Sender()
        await link.send(sender.message(lab.spec(parts.volume())))
        newer = lab.spec(parts.volume())
        change = sender.message(newer)
        await link.send(change)
        await asyncio.sleep(3)
        assert lab.agent.report().revision == newer.revision
        # One of which the base never came: the link is of no use any more.
        sender.message(lab.spec())
        await link.send(sender.message(lab.spec()))
        await asyncio.sleep(3)
        assert len(lab.links) == 2

    parts.on_lab(test)


def test_where_managers_may_lead_elsewhere_one_that_falls_silent_is_left(parts: Any) -> None:
    async def test(lab: Any) -> None:
        link = await connected(lab)
        await link.send(Spec(lab.spec()))
        await asyncio.sleep(60)
        assert lab.links == [link]  # it is the only one
        managers = ("192.0.2.1:4567", "192.0.2.2:4567")
        await link.send(Spec(msgspec.structs.replace(lab.spec(), managers=managers[1:])))
        await asyncio.sleep(60)
        assert (lab.links, lab.agent.managers) == ([link], managers[1:])
        await link.send(Spec(msgspec.structs.replace(lab.spec(), managers=managers)))
        for _ in range(10):
            await asyncio.sleep(4)
            await link.send(Word(OF_NO_REPORT))
        assert lab.links == [link]
        assert lab.agent.managers == managers
        await asyncio.sleep(10)
        assert len(lab.links) > 1

    parts.on_lab(test)
