"""Hosts that are heard and whose only cable is out: the storage, too, is not reached from there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import pytest
from msgspec.structs import replace

from gureum.agent.holds import Holds
from gureum.agent.pool_volumes import PoolVolumes
from gureum.control import cuts
from gureum.hostspec import VolumeSpec
from gureum.resources import Host, HostState, Instance, InstanceState, Recovery, RecoveryPolicy, Volume
from gureum.san.fake_shared import FakeSharedPool
from gureum.services.ec2 import keepers
from gureum.sim.world import SimHost
from gureum.store.base import Transaction

from .test_ha import LOOK_SECONDS, RUNS_AGAIN_SECONDS, Losses, told
from .test_several import shared_by


def unplug(one: Losses, hosts: Iterable[SimHost], out: bool = True) -> None:
    for host in hosts:
        host.uplink_down = out
    one.world.cut_san(list(hosts), out)


async def stays(one: Losses, before: Instance, seconds: float) -> None:
    await one.watch(seconds)
    after = await one.get(Instance, before.id)
    assert (after.host, after.generation, after.leaving) == (before.host, before.generation, False)


def test_a_cable_is_out() -> None:
    async def story(one: Losses) -> None:
        before, host = await one.written()
        unplug(one, [host])
        await one.recovered(before, RUNS_AGAIN_SECONDS)
        assert (await one.get(Host, host.name)).state is HostState.up, "it is heard all the while"
        await one.watch(20)
        unplug(one, [host], False)
        await one.watch(40)
        assert (await one.get(Host, host.name)).schedulable

    told(story)


def test_all_that_is_on_the_host_runs_elsewhere_as_soon() -> None:
    async def story(one: Losses) -> None:
        before, host = await one.written()
        for other in one.world.hosts:
            await drain(one, other, other is not host)
        others = [await one.running() for _ in range(3)]
        for other in one.world.hosts:
            await drain(one, other, False)
        unplug(one, [host])
        began = asyncio.get_running_loop().time()
        for each in (before, *others):
            await one.recovered(each)
        assert asyncio.get_running_loop().time() < began + RUNS_AGAIN_SECONDS
        unplug(one, [host], False)

    told(story)


def test_a_cable_is_out_for_a_moment() -> None:
    async def story(one: Losses) -> None:
        before, host = await one.written()
        for _ in range(5):
            unplug(one, [host])
            await one.watch(2.4)
            unplug(one, [host], False)
            await stays(one, before, 2.5)

    told(story)


def test_the_storage_is_away_from_all_as_well() -> None:
    """Elsewhere it would be no better: its guest is ended only when others reach the storage again."""

    async def story(one: Losses) -> None:
        before, host = await one.written()
        others = [each for each in one.world.hosts if each is not host]
        one.world.cut_san(others, True)
        unplug(one, [host])
        await stays(one, before, 30)
        one.world.cut_san(others, False)
        await one.recovered(before, 30)
        unplug(one, [host], False)

    told(story)


def test_the_managers_own_cable_is_out() -> None:
    """It hears the one host that it is on, and all others have fallen silent."""

    async def story(one: Losses) -> None:
        before, host = await one.written()
        others = [each for each in one.world.hosts if each is not host]
        unplug(one, [host])
        for other in others:
            one.world.cut_manager(other, True, True)
        await stays(one, before, 30)
        for other in others:
            one.world.cut_manager(other, False, False)
        unplug(one, [host], False)

    told(story)


def test_a_cable_that_counts_as_out_before_others_are_silent_would_be_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fault put in on purpose: guests that could stay are ended."""
    monkeypatch.setattr(cuts, "UPLINK_SECONDS", 1.0)
    with pytest.raises(AssertionError):
        test_the_managers_own_cable_is_out()


def test_one_that_finds_no_room_meanwhile_and_is_terminated_leaves_nothing() -> None:
    async def story(one: Losses) -> None:
        before, host = await one.written()
        others = [each for each in one.world.hosts if each is not host]
        host.uplink_down = True  # the storage is reached: all is let go of

        async def leaving() -> bool:
            return bool((await one.get(Instance, before.id)).leaving)

        await one.until(leaving)
        for other in others:
            await drain(one, other)

        async def homeless() -> bool:
            now = await one.get(Instance, before.id)
            volume = await one.get(Volume, before.devices[0].volume)
            return now.host is None and now.leaving is False and volume.host is None

        await one.until(homeless)
        await one.watch(10)
        await one.change(await one.get(Instance, before.id), state=InstanceState.shutting_down)
        await one.watch(5)
        host.uplink_down = False
        for other in others:
            await drain(one, other, False)

    told(story)


def test_with_all_others_drained_nothing_is_ended() -> None:
    """It would start where it was, when the cable is in again."""

    async def story(one: Losses) -> None:
        before, host = await one.written()
        others = [each for each in one.world.hosts if each is not host]
        for other in others:
            await drain(one, other)
        host.uplink_down = True
        await stays(one, before, 10)
        await drain(one, others[0], False)
        await one.recovered(before)
        host.uplink_down = False
        for other in others:
            await drain(one, other, False)

    told(story)


async def drain(one: Losses, host: SimHost, draining: bool = True) -> None:
    async def work(tx: Transaction) -> None:
        record = await tx.get(Host, host.name)
        assert record is not None
        await tx.put(replace(record, draining=draining))

    await one.world.store.transact(work)


async def late_eviction(one: Losses) -> None:
    """It runs on a second host, which dies over taking the volume from the first, and comes back to that."""
    before, host = await one.written()
    [volume] = [device.volume for device in before.devices]
    assert one.world.san is not None
    one.world.san.delay_next("evict", 40)
    unplug(one, [host])

    async def placed() -> bool:
        return (await one.get(Instance, before.id)).host not in (None, host.name)

    await one.until(placed)
    unplug(one, [host], False)
    await asyncio.sleep(0.3)
    one.world.go_dark(one.host((await one.get(Instance, before.id)).host), 120)
    for other in one.world.hosts:
        await drain(one, other, other is not host)

    async def back() -> bool:
        now = await one.get(Instance, before.id)
        return bool(now.state == "running" and now.host == host.name)

    await one.until(back, 35)
    await one.watch(45)
    assert one.world.san.rbd[volume].holder == host.name
    for other in one.world.hosts:
        await drain(one, other, False)


def test_an_eviction_that_comes_late_takes_nothing_from_a_host_that_has_it_anew() -> None:
    told(late_eviction)


def test_an_eviction_of_whatever_a_host_has_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault put in on purpose: its guest is shut out, and its lock gone."""
    right = FakeSharedPool.evict
    monkeypatch.setattr(FakeSharedPool, "evict", lambda self, id, host, revision: right(self, id, host))
    with pytest.raises(AssertionError, match=r"holds it|fenced off"):
        told(late_eviction)


async def late_release(one: Losses, lose: Callable[[Losses, SimHost], Awaitable[None]]) -> None:
    """What the first host lets go of late, as it reaches the storage again, is the second one's by then."""
    before, host = await one.written()
    [volume] = [device.volume for device in before.devices]
    await lose(one, host)
    await one.recovered(before, 90)
    assert one.world.san is not None
    holder = one.world.san.rbd[volume].holder
    assert holder == (await one.get(Instance, before.id)).host
    one.world.san.delay_next("release_volume", 5)
    unplug(one, [host], False)
    end = asyncio.get_running_loop().time() + 60
    while asyncio.get_running_loop().time() < end:
        await asyncio.sleep(LOOK_SECONDS)
        await one.look()
        assert one.world.san.rbd[volume].holder == holder


@pytest.mark.parametrize("uplink", [True, False])
def test_a_release_that_comes_late_takes_nothing_from_the_next_host(uplink: bool) -> None:
    async def lose(one: Losses, host: SimHost) -> None:
        if uplink:
            unplug(one, [host])
        else:
            one.world.cut_san([host], True)

    told(lambda one: late_release(one, lose))


async def shared_anew(one: Losses, patch: pytest.MonkeyPatch, dies: bool = False) -> None:
    """A volume that several have is left behind on a host, and another instance there gets it while its
    keeper still hangs over taking it from that host. ``dies``: the host then, before the keeper goes on.
    """
    three = [await one.running() for _ in one.world.hosts]
    volume = await shared_by(one, three)
    keeper = (await one.get(Volume, volume)).host
    before = next(each for each in three if each.host != keeper)
    host, hangs, right = one.host(before.host), asyncio.Event(), FakeSharedPool.evict

    async def evict(self: FakeSharedPool, id: str, lost: str, revision: int | None = None) -> None:
        if (id, self._host) == (volume, keeper):
            await hangs.wait()
        await right(self, id, lost, revision)

    patch.setattr(FakeSharedPool, "evict", evict)

    async def lost() -> tuple[str, ...]:
        found: Volume = await one.get(Volume, volume)
        return found.lost

    unplug(one, [host])
    await one.recovered(before)
    unplug(one, [host], False)

    async def is_back() -> bool:
        return bool((await one.get(Host, host.name)).schedulable)

    await one.until(is_back)
    another = await one.running()
    assert another.host == host.name
    await one.call("AttachVolume", VolumeId=volume, InstanceId=another.id, Device="/dev/sdf")

    async def has() -> bool:
        return all(each.state == "attached" for each in (await one.get(Volume, volume)).attachments)

    await one.until(has)
    assert await lost() == (host.name,)
    if dies:
        await one.change(another, recovery=Recovery(policy=RecoveryPolicy.stop))  # nobody else opens it
        one.world.go_dark(host, 120)

        async def left() -> bool:
            return (await one.get(Instance, another.id)).host is None

        await one.until(left)
    else:
        await one.call("ModifyVolume", VolumeId=volume, Iops=200)  # its keeper is to do more than that
        await one.watch(3)
    hangs.set()

    async def done() -> bool:
        return not await lost()

    await one.until(done)
    assert one.world.san is not None
    image = one.world.san.rbd[volume]
    assert (host.name in image.evicted, host.name in image.sharers) == (dies, not dies)
    await one.watch(5)


@pytest.mark.parametrize("dies", [False, True])
def test_a_host_that_has_a_volume_anew_is_shut_out_if_it_is_lost_anew(
    monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    told(partial(shared_anew, patch=monkeypatch, dies=dies))


def test_an_eviction_of_what_was_opened_up_to_now_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault put in on purpose: by the keeper's present spec, and not by when the host was lost."""

    async def evict(self: Holds, pool: PoolVolumes, spec: VolumeSpec, revision: int) -> None:
        for host in spec.evict:
            await pool.pool.evict(spec.id, host, revision)

    monkeypatch.setattr(Holds, "evict", evict)
    with pytest.raises(AssertionError, match="shared by"):
        told(partial(shared_anew, patch=monkeypatch))


def test_a_keeper_that_does_not_hear_of_a_second_loss_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault put in on purpose: what it was to do is done, as it was told the same before."""
    right = keepers.lost

    def lost(volume: Volume, host: str, revision: int) -> Volume:
        return right(volume, host, volume.lost_at.get(host, revision))

    monkeypatch.setattr(keepers, "lost", lost)
    with pytest.raises(AssertionError, match=r"\(False, True\) == \(True, False\)"):
        told(partial(shared_anew, patch=monkeypatch, dies=True))
