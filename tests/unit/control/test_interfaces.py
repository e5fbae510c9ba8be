from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control import interfaces
from gureum.hostspec import MachineState
from gureum.resources import (
    Address,
    Instance,
    InterfaceAttachment,
    NetworkInterface,
)
from gureum.resources import InstanceState as State

ATTACHING, ATTACHED, DETACHING = InterfaceAttachment


async def stepped(bench: Any) -> NetworkInterface:
    after = await bench._step(interfaces.reconcile, NetworkInterface, "eni-2")
    assert after is not None
    return after  # type: ignore[no-any-return]


async def begin(bench: Any, make: Any, attachment: InterfaceAttachment, **instance: Any) -> None:
    await bench.put(
        make.instance(interfaces=("eni-1", "eni-2"), **{"state": State.running, **instance}),
        make.interface("eni-1"),
        make.interface(
            "eni-2",
            private_ip="172.31.0.5",
            host="host-0",
            device_index=1,
            attachment="eni-attach-2",
            attachment_state=attachment,
            delete_on_termination=False,
        ),
    )


async def test_attached_when_the_machine_has_it(bench: Any, make: Any) -> None:
    await begin(bench, make, ATTACHING)
    assert (await stepped(bench)).attachment_state is ATTACHING
    bench.machine(nics=("eni-1",))
    assert (await stepped(bench)).attachment_state is ATTACHING
    bench.machine(nics=("eni-1", "eni-2"), state=MachineState.starting)
    assert (await stepped(bench)).attachment_state is ATTACHING
    bench.machine(nics=("eni-1", "eni-2"), generation=2)
    assert (await stepped(bench)).attachment_state is ATTACHING
    bench.machine(nics=("eni-1", "eni-2"))
    after = await stepped(bench)
    assert (after.attachment_state, after.host) == (ATTACHED, "host-0")
    assert interfaces.settled(after)


async def test_attached_to_a_stopped_instance_at_once(bench: Any, make: Any) -> None:
    await begin(bench, make, ATTACHING, state=State.stopped)
    assert (await stepped(bench)).attachment_state is ATTACHED


async def test_free_when_a_report_of_a_new_enough_spec_lacks_it(bench: Any, make: Any) -> None:
    await begin(bench, make, DETACHING)
    record = await bench.get(NetworkInterface, "eni-2")
    bench.machine(nics=("eni-1", "eni-2"))
    assert (await stepped(bench)).instance == "i-1"
    bench.machine(nics=("eni-1",), revision=record.version - 1)
    after = await stepped(bench)
    assert (after.instance, after.host) == ("i-1", "host-0")  # its port stays as well
    bench.machine(nics=("eni-1",), revision=record.version)
    after = await stepped(bench)
    assert (after.instance, after.host, after.attachment, after.device_index) == (None, None, "", 0)
    assert (await bench.get(Instance, "i-1")).interfaces == ("eni-1",)
    assert interfaces.settled(after)


@pytest.mark.parametrize("gone", [{"state": State.stopped}, {"state": State.pending, "host": None}])
async def test_free_when_there_is_no_machine(bench: Any, make: Any, gone: dict[str, Any]) -> None:
    await begin(bench, make, DETACHING, **gone)
    assert (await stepped(bench)).instance is None


async def test_elastic_addresses_stay_with_it(bench: Any, make: Any) -> None:
    await begin(bench, make, DETACHING, state=State.stopped)
    record = await bench.get(NetworkInterface, "eni-2")
    await bench.put(
        Address(id="eipalloc-1", public_ip="198.18.0.9", interface="eni-2", instance="i-1"),
        replace(record, public_ip="198.18.0.9", address="eipalloc-1"),
    )
    after = await stepped(bench)
    assert (after.instance, after.public_ip, after.address) == (None, "198.18.0.9", "eipalloc-1")
    address = await bench.get(Address, "eipalloc-1")
    assert (address.interface, address.instance) == ("eni-2", "")


async def test_what_is_settled_is_left_alone(bench: Any, make: Any) -> None:
    await begin(bench, make, ATTACHED)
    before = await bench.get(NetworkInterface, "eni-2")
    bench.machine(nics=())
    assert await stepped(bench) == before
