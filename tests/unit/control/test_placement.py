from __future__ import annotations

from typing import Any

import pytest

from gureum.control.fleet import HOST_MEMORY_BYTES, MACHINE_MEMORY_BYTES
from gureum.control.placement import NoCapacity, NoHost, choose_host
from gureum.resources import HostState, InstanceState

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
