from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control import nat_gateways
from gureum.control.nat_gateways import PURGE_SECONDS
from gureum.hostspec import HostReport
from gureum.resources import Address, Host, HostState, NatGateway, NatGatewayState, NetworkInterface

NAT = "nat-1"


def report(bench: Any, revision: int, host: str = "host-0") -> None:
    """The host's network is as the spec of this revision says."""
    bench.observed.take(
        HostReport(cloud="test", host=host, boot_id="b", revision=revision, network_revision=revision)
    )


@pytest.fixture
async def nat(bench: Any, make: Any) -> Any:
    await bench.put(
        make.host("host-0", zone="us-east-1b"),
        make.host("host-1", zone="us-east-1a"),
        make.host("host-2", zone="us-east-1a", state=HostState.down),
        make.host("host-3", zone="us-east-1a", draining=True),
        NatGateway(
            id=NAT,
            vpc="vpc-1",
            subnet="subnet-1",
            zone="us-east-1a",
            interface="eni-1",
            created=datetime(2026, 1, 1, tzinfo=UTC),
        ),
        make.interface("eni-1", instance=None, type="nat_gateway", address="eipalloc-1"),
        Address(id="eipalloc-1", public_ip="198.18.0.4", interface="eni-1", association="eipassoc-1"),
    )

    async def step() -> NatGateway | None:
        await bench.store.transact(lambda tx: nat_gateways.reconcile(tx, bench.env, bench.observed, NAT))
        return await bench.find(NatGateway, NAT)  # type: ignore[no-any-return]

    return step


async def test_it_is_available_when_its_host_has_it(bench: Any, nat: Any) -> None:
    placed = await nat()
    assert (placed.state, placed.host) == (NatGatewayState.pending, "host-1")
    interface = await bench.get(NetworkInterface, "eni-1")
    assert interface.host == "host-1"
    report(bench, interface.version - 1, "host-1")
    assert (await nat()).state is NatGatewayState.pending
    report(bench, interface.version, "host-1")
    assert (await nat()).state is NatGatewayState.available


async def test_it_waits_for_a_host(bench: Any, nat: Any) -> None:
    await bench.store.transact(_remove(bench, "host-1"))
    assert (await nat()).host is None


@pytest.mark.parametrize("state", [NatGatewayState.pending, NatGatewayState.available])
async def test_it_leaves_a_host_that_is_drained(
    bench: Any, nat: Any, make: Any, state: NatGatewayState
) -> None:
    placed = await nat()
    if state is not placed.state:
        await bench.put(replace(placed, state=state))
    await bench.put(replace(await bench.get(Host, "host-1"), draining=True))
    assert (await nat()).host == "host-1", "there is no other"
    await bench.put(make.host("host-4", zone="us-east-1a"))
    moved = await nat()
    assert (moved.state, moved.host) == (state, "host-4")
    assert (await bench.get(NetworkInterface, "eni-1")).host == "host-4"


@pytest.mark.parametrize("lost", ["down", "removed"])
async def test_one_that_never_worked_leaves_a_host_that_is_lost(
    bench: Any, nat: Any, make: Any, lost: str
) -> None:
    await nat()
    if lost == "down":
        await bench.put(replace(await bench.get(Host, "host-1"), state=HostState.down))
    else:
        await bench.store.transact(_remove(bench, "host-1"))
    assert (await nat()).host == "host-1", "there is no other"
    await bench.put(make.host("host-4", zone="us-east-1a"))
    assert (await nat()).host == "host-4"
    interface = await bench.get(NetworkInterface, "eni-1")
    assert interface.host == "host-4"
    report(bench, interface.version, "host-1")
    assert (await nat()).state is NatGatewayState.pending
    report(bench, interface.version, "host-4")
    assert (await nat()).state is NatGatewayState.available


async def test_one_that_works_stays_on_a_host_that_is_down(bench: Any, nat: Any, make: Any) -> None:
    """It may work there still."""
    placed = await nat()
    await bench.put(
        replace(placed, state=NatGatewayState.available),
        replace(await bench.get(Host, "host-1"), state=HostState.down, draining=True),
        make.host("host-4", zone="us-east-1a"),
    )
    assert (await nat()).host == "host-1"


def _remove(bench: Any, id: str) -> Any:
    async def work(tx: Any) -> None:
        await tx.delete(await tx.get(Host, id))

    return work


async def test_it_goes_when_its_host_has_let_it_go(bench: Any, nat: Any) -> None:
    await nat()
    await bench.put(replace(await bench.get(NatGateway, NAT), state=NatGatewayState.deleting))
    assert (await nat()).state is NatGatewayState.deleting
    interface = await bench.get(NetworkInterface, "eni-1")
    assert interface.host is None
    report(bench, interface.version - 1, "host-1")
    assert (await nat()).state is NatGatewayState.deleting
    report(bench, interface.version, "host-1")
    assert (await nat()).state is NatGatewayState.deleted
    assert await bench.find(NetworkInterface, "eni-1") is None
    assert (await bench.get(Address, "eipalloc-1")).association == ""
    assert await nat() is not None
    bench.time += PURGE_SECONDS
    assert await nat() is None


async def test_what_else_changes_meanwhile_needs_no_other_word_of_the_host(bench: Any, nat: Any) -> None:
    """That host is sent no more of the interface: it is not there, and a newer spec may never come."""
    await nat()
    await bench.put(replace(await bench.get(NatGateway, NAT), state=NatGatewayState.deleting))
    await nat()
    interface = await bench.get(NetworkInterface, "eni-1")
    await bench.put(replace(interface, tags={"a": "b"}))
    report(bench, interface.version - 1, "host-1")
    assert (await nat()).state is NatGatewayState.deleting
    report(bench, interface.version, "host-1")
    assert (await nat()).state is NatGatewayState.deleted


async def test_a_host_that_was_removed_holds_nothing_back(bench: Any, nat: Any) -> None:
    await nat()
    await bench.put(replace(await bench.get(NatGateway, NAT), state=NatGatewayState.deleting))
    await nat()
    assert (await nat()).state is NatGatewayState.deleting
    await bench.store.transact(_remove(bench, "host-1"))
    assert (await nat()).state is NatGatewayState.deleted
