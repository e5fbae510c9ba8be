from __future__ import annotations

from typing import Any

import pytest

from gureum.control.move import CannotMove, move_instance
from gureum.resources import HostState, Instance, InstanceState, NetworkInterface


async def moved(bench: Any, to: str = "host-1") -> Instance:
    return await bench.store.transact(lambda tx: move_instance(tx, "i-1", to))  # type: ignore[no-any-return]


async def test_interfaces_go_with_their_instance(bench: Any, make: Any) -> None:
    await bench.put(
        make.host("host-1"),
        make.instance(state=InstanceState.running, interfaces=("eni-1", "eni-2")),
        make.interface("eni-1", host="host-0"),
        make.interface("eni-2", private_ip="172.31.0.5"),
    )
    after = await moved(bench)
    interface = await bench.get(NetworkInterface, "eni-1")
    assert (after.host, interface.host) == ("host-1", "host-1")
    assert after.version == interface.version
    assert (await bench.get(NetworkInterface, "eni-2")).host is None
    assert await moved(bench) == after


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"zone": "us-east-1b"}, "not in zone"),
        ({"state": HostState.down}, "not up"),
        ({"draining": True}, "being drained"),
    ],
)
async def test_hosts_that_take_nothing(bench: Any, make: Any, values: dict[str, Any], why: str) -> None:
    await bench.put(make.host("host-1", **values), make.instance(state=InstanceState.running))
    with pytest.raises(CannotMove, match=why):
        await moved(bench)
    with pytest.raises(CannotMove, match="not up"):
        await moved(bench, "nowhere")


async def test_only_what_runs_is_moved(bench: Any, make: Any) -> None:
    await bench.put(make.host("host-1"), make.instance(state=InstanceState.stopped))
    with pytest.raises(CannotMove, match="not running"):
        await moved(bench)


async def test_what_cannot_move_has_not_moved_in_part(bench: Any, make: Any) -> None:
    """The caller may commit why it does not."""
    await bench.put(
        make.host("host-1"),
        make.instance(state=InstanceState.running, interfaces=("eni-1",)),
        make.interface("eni-1", host="host-0"),
        make.attached(pool="local"),
    )

    async def work(tx: Any) -> None:
        with pytest.raises(CannotMove, match="local pool"):
            await move_instance(tx, "i-1", "host-1")

    await bench.store.transact(work)
    assert (await bench.get(NetworkInterface, "eni-1")).host == "host-0"
