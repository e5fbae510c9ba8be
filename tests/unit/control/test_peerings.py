from __future__ import annotations

from typing import Any

import pytest

from gureum.control import peerings
from gureum.control.peerings import PURGE_SECONDS
from gureum.resources import PeeringConnection, PeeringState

ID = "pcx-1"


@pytest.fixture
def step(bench: Any) -> Any:
    async def run() -> PeeringConnection | None:
        await bench.store.transact(lambda tx: peerings.reconcile(tx, bench.env, bench.observed, ID))
        return await bench.find(PeeringConnection, ID)  # type: ignore[no-any-return]

    return run


def peering(**values: Any) -> PeeringConnection:
    return PeeringConnection(
        id=ID,
        number=1,
        requester="vpc-1",
        accepter="vpc-2",
        requester_account="1",
        accepter_account="1",
        **values,
    )


async def test_an_offer_expires_and_goes(bench: Any, step: Any) -> None:
    await bench.put(peering(expires=bench.time + 10))
    assert (await step()).state is PeeringState.pending_acceptance
    bench.time += 10
    assert (await step()).state is PeeringState.expired
    assert await step() is not None
    bench.time += PURGE_SECONDS
    assert await step() is None


async def test_one_that_was_deleted_is_shown_for_a_while(bench: Any, step: Any) -> None:
    await bench.put(peering(state=PeeringState.deleted))
    assert (await step()).purge_at == bench.time + PURGE_SECONDS
    bench.time += PURGE_SECONDS
    assert await step() is None


async def test_an_active_one_stays(bench: Any, step: Any) -> None:
    await bench.put(peering(state=PeeringState.active))
    bench.time += 100 * PURGE_SECONDS
    assert (await step()).state is PeeringState.active
