from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control.fleet import HOST_MEMORY_BYTES, MACHINE_MEMORY_BYTES
from gureum.control.placement import NoCapacity, NoHost, choose_host, explain, require_host
from gureum.resources import HostState, Instance, InstanceState
from gureum.store.base import Transaction

GIB = 1 << 30


async def chosen(bench: Any, instance: Any) -> str:
    async with bench.store.read() as reader:
        return (await choose_host(reader, instance)).id


async def test_the_host_with_the_most_free_memory(bench: Any, make: Any) -> None:
    await bench.put(
        make.host("host-0", memory_bytes=4 * GIB),
        make.host("host-1", memory_bytes=5 * GIB),
        make.host("host-2", memory_bytes=9 * GIB, state=HostState.down),
        make.host("host-3", memory_bytes=9 * GIB, zone="us-east-1b"),
    )
    new = make.instance("i-9", host=None)
    assert await chosen(bench, new) == "host-1"
    for number in range(2):
        state = InstanceState.stopping if number else InstanceState.running
        await bench.put(make.instance(f"i-{number}", host="host-1", state=state))
    assert await chosen(bench, new) == "host-0"


async def test_stopped_instances_take_no_room(bench: Any, make: Any) -> None:
    room = HOST_MEMORY_BYTES + GIB + MACHINE_MEMORY_BYTES
    await bench.put(make.host(memory_bytes=room), make.instance("i-0", state=InstanceState.stopped))
    assert await chosen(bench, make.instance("i-9", host=None)) == "host-0"
    await bench.put(make.instance("i-1", state=InstanceState.running))
    with pytest.raises(NoCapacity, match="2 vCPUs and 1 GiB"):
        await chosen(bench, make.instance("i-9", host=None))


async def test_the_host_and_each_hypervisor_keep_memory_for_themselves(bench: Any, make: Any) -> None:
    room = HOST_MEMORY_BYTES + GIB + MACHINE_MEMORY_BYTES
    await bench.put(make.host(memory_bytes=room - 1))
    with pytest.raises(NoCapacity, match="1 GiB"):
        await chosen(bench, make.instance("i-9", host=None))


async def test_volumes_bind(bench: Any, make: Any) -> None:
    await bench.put(
        make.host("host-0"), make.host("host-1", memory_bytes=99 * GIB), make.attached("vol-1", host="host-0")
    )
    assert await chosen(bench, make.instance(host=None)) == "host-0"
    await bench.put(make.attached("vol-2", host="host-1"))
    with pytest.raises(NoCapacity, match="different hosts"):
        await chosen(bench, make.instance(host=None))


async def test_no_host_is_told_from_no_room(bench: Any, make: Any) -> None:
    with pytest.raises(NoHost, match="has no host"):
        await chosen(bench, make.instance(host=None))
    await bench.put(make.host(state=HostState.down))
    with pytest.raises(NoHost, match="is up"):
        await chosen(bench, make.instance(host=None))


async def test_a_host_that_is_drained_takes_nothing(bench: Any, make: Any) -> None:
    await bench.put(make.host("host-0", draining=True, memory_bytes=99 * GIB), make.host("host-1"))
    assert await chosen(bench, make.instance(host=None)) == "host-1"
    await bench.put(make.attached("vol-1", host="host-0"))
    with pytest.raises(NoCapacity, match="host-0 cannot take it, being drained"):
        await chosen(bench, make.instance(host=None))


async def test_hosts_can_be_left_out_or_be_asked_for(bench: Any, make: Any) -> None:
    await bench.put(make.host("host-0"), make.host("host-1", memory_bytes=9 * GIB, accelerator="kvm"))
    new = make.instance(host=None)
    async with bench.store.read() as reader:
        assert (await choose_host(reader, new, excluding={"host-1": "is left"})).id == "host-0"
        with pytest.raises(NoCapacity, match="can take it now: host-0 is busy; host-1 is left"):
            await choose_host(reader, new, excluding={"host-0": "is busy", "host-1": "is left"})
        like = make.host("host-9", accelerator="kvm")
        assert (await choose_host(reader, new, like=like)).id == "host-1"
        assert (await require_host(reader, new, "host-0")).id == "host-0"
        with pytest.raises(NoCapacity, match="host host-0 runs guests by"):
            await require_host(reader, new, "host-0", like)
        with pytest.raises(NoCapacity, match="there is no host host-7"):
            await require_host(reader, new, "host-7")


async def test_the_host_that_an_instance_is_to_leave_is_no_other_host(bench: Any, make: Any) -> None:
    await bench.put(make.host("host-0", draining=True), make.host("host-1", zone="us-east-1b"))
    there = make.instance(host="host-0")
    own = {"host-0": "has it already"}
    async with bench.store.read() as reader:
        with pytest.raises(NoHost, match=r"^zone us-east-1a has no other host$"):
            await choose_host(reader, there, excluding=own)
    await bench.put(make.host("host-2", unfit="has lost its disk"))
    async with bench.store.read() as reader:
        expected = "^no other host of zone us-east-1a can take it now: host-2 has lost its disk$"
        with pytest.raises(NoCapacity, match=expected):
            await choose_host(reader, there, excluding=own)


async def test_transactions_at_once_never_share_room(bench: Any, make: Any) -> None:
    """Each chooses, lets the others have their turn, and only then writes."""
    room = HOST_MEMORY_BYTES + 2 * (GIB + MACHINE_MEMORY_BYTES)
    await bench.put(*(make.host(f"host-{number}", memory_bytes=room) for number in range(5)))
    await bench.put(*(make.instance(f"i-{number}", host=None) for number in range(14)))

    async def place(id: str) -> str | None:
        async def work(tx: Transaction) -> str | None:
            instance = await tx.get(Instance, id)
            assert instance is not None
            try:
                host = await choose_host(tx, instance)
            except NoCapacity:
                return None
            await asyncio.sleep(0)
            await tx.put(replace(instance, host=host.id))
            await asyncio.sleep(0)
            return host.id

        chosen: str | None = await bench.store.transact(work)
        return chosen

    chosen = await asyncio.gather(*(place(f"i-{number}") for number in range(14)))
    assert sorted(filter(None, chosen)) == sorted([f"host-{number}" for number in range(5)] * 2)
    assert chosen[10:] == [None] * 4


async def test_a_placement_that_was_not_committed_takes_no_room(bench: Any, make: Any) -> None:
    room = HOST_MEMORY_BYTES + GIB + MACHINE_MEMORY_BYTES
    await bench.put(make.host(memory_bytes=room), make.instance("i-1", host=None))

    async def work(tx: Transaction) -> None:
        instance = await tx.get(Instance, "i-1")
        assert instance is not None
        await tx.put(replace(instance, host="host-0"))
        with pytest.raises(NoCapacity):
            await choose_host(tx, make.instance("i-2", host=None))
        raise LookupError

    with pytest.raises(LookupError):
        await bench.store.transact(work)
    assert await chosen(bench, make.instance("i-2", host=None)) == "host-0"


async def test_it_is_explained(bench: Any, make: Any) -> None:
    await bench.put(make.host("host-0"), make.host("host-1", draining=True), make.attached(host="host-0"))
    async with bench.store.read() as reader:
        first, second = await explain(reader, make.instance(host=None))
    assert (first.host, first.fits, dict(first.weights)) == ("host-0", True, {"free memory": 7 * GIB})
    assert [name for name, _ in second.reasons] == ["storage", "draining"]
