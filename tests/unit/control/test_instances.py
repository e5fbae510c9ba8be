from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control import instances
from gureum.hostspec import MachineState
from gureum.migrationspec import MigrationPhase, MigrationReport
from gureum.resources import Address, Instance, InstanceState, NetworkInterface, Volume, VolumeState

State = InstanceState


async def test_a_new_instance_is_placed_with_its_volumes(bench: Any, make: Any) -> None:
    await bench.put(
        make.host(),
        make.instance(host=None),
        replace(make.attached(host=None), state=VolumeState.creating),
    )
    placed = await bench.step_instance()
    assert placed.host == "host-0"
    assert placed.state is State.pending
    assert (await bench.get(Volume, "vol-1")).host == "host-0"


async def test_without_room_the_launch_fails(bench: Any, make: Any) -> None:
    await bench.put(make.host(memory_bytes=1), make.instance(host=None))
    failed = await bench.step_instance()
    assert failed.state is State.shutting_down
    assert failed.state_reason.code == "Server.InsufficientInstanceCapacity"
    assert (await bench.step_instance()).state is State.terminated


async def test_with_no_host_up_the_launch_waits_a_while(bench: Any, make: Any) -> None:
    await bench.put(make.host(state="down"), make.instance(host=None))
    assert (await bench.step_instance()).state is State.pending
    bench.time += instances.HOST_SECONDS_MAX + 1
    assert (await bench.step_instance()).state is State.shutting_down


@pytest.mark.parametrize("state", [MachineState.running, MachineState.paused])
async def test_pending_runs_when_its_host_says_so(bench: Any, make: Any, state: MachineState) -> None:
    await bench.put(make.instance())
    assert (await bench.step_instance()).state is State.pending
    bench.machine(state=MachineState.starting)
    assert (await bench.step_instance()).state is State.pending
    bench.machine(state=state, revision=0)
    assert (await bench.step_instance()).state is State.running


async def test_another_generation_is_no_evidence(bench: Any, make: Any) -> None:
    await bench.put(make.instance(generation=2))
    bench.machine(generation=1)
    assert (await bench.step_instance()).state is State.pending
    bench.machine(generation=1, state=MachineState.off)
    assert (await bench.step_instance()).state is State.pending


async def test_a_first_start_that_fails_terminates_a_later_one_stops(bench: Any, make: Any) -> None:
    await bench.put(make.instance("i-1"), make.instance("i-2", generation=2))
    bench.machine("i-1", MachineState.crashed, message="no such kernel")
    bench.machine("i-2", MachineState.crashed, message="no such kernel", generation=2)
    first, later = await bench.step_instance("i-1"), await bench.step_instance("i-2")
    assert (first.state, later.state) == (State.shutting_down, State.stopping)
    assert "no such kernel" in first.state_reason.message
    assert first.force


async def test_a_volume_that_failed_fails_the_launch(bench: Any, make: Any) -> None:
    await bench.put(make.instance(), replace(make.attached("vol-1"), state=VolumeState.error, message="full"))
    failed = await bench.step_instance()
    assert failed.state is State.shutting_down
    assert "full" in failed.state_reason.message


@pytest.mark.parametrize("delete", [True, False])
async def test_a_failed_launch_deletes_only_what_is_to_go_with_it(
    bench: Any, make: Any, delete: bool
) -> None:
    failed = replace(make.attached("vol-1", delete=delete), state=VolumeState.error, message="full")
    await bench.put(make.instance(host=None, state=State.shutting_down), failed)
    assert (await bench.step_instance()).state is State.terminated
    left = await bench.get(Volume, "vol-1")
    assert left.state is (VolumeState.deleting if delete else VolumeState.error)
    assert (left.attachments, left.message) == ((), "full")


@pytest.mark.parametrize(
    ("behavior", "state"), [("stop", State.stopping), ("terminate", State.shutting_down)]
)
async def test_a_guest_that_shuts_down(bench: Any, make: Any, behavior: str, state: InstanceState) -> None:
    await bench.put(make.instance(state=State.running, shutdown_behavior=behavior))
    bench.machine(state=MachineState.shutdown)
    after = await bench.step_instance()
    assert after.state is state
    assert after.state_reason.code == "Client.InstanceInitiatedShutdown"
    assert after.force


async def test_a_guest_that_dies_is_stopped_with_the_reason(bench: Any, make: Any) -> None:
    await bench.put(make.instance(state=State.running))
    bench.machine(state=MachineState.crashed, message="killed")
    after = await bench.step_instance()
    assert after.state is State.stopping
    assert after.state_reason.code == "Server.InternalError"


async def test_silence_of_the_host_changes_nothing(bench: Any, make: Any) -> None:
    for state in (State.running, State.stopping, State.shutting_down):
        await bench.put(make.instance(f"i-{state}", state=state))
        before = await bench.get(Instance, f"i-{state}")
        assert await bench.step_instance(f"i-{state}") == before


async def test_a_held_guest_is_impaired_while_it_is(bench: Any, make: Any) -> None:
    await bench.put(make.instance(state=State.running))
    bench.machine(state=MachineState.paused, message="the pool is full")
    assert (await bench.step_instance()).impaired == "the pool is full"
    bench.machine(state=MachineState.running)
    assert (await bench.step_instance()).impaired == ""


@pytest.mark.parametrize("phase", [MigrationPhase.copying, MigrationPhase.completed])
async def test_a_guest_that_is_held_to_leave_is_not_impaired(
    bench: Any, make: Any, phase: MigrationPhase
) -> None:
    """It would keep it waiting: the store does one thing after the other."""
    before = make.instance(state=State.running, migration="mig-1")
    await bench.put(before)
    migration = MigrationReport(migration="mig-1", phase=phase)
    bench.machine(state=MachineState.paused, message="its guest is held", migration=migration)
    assert (await bench.step_instance()).impaired == ""
    bench.machine(state=MachineState.paused, message="the pool is full")
    assert (await bench.step_instance()).impaired == "the pool is full"


@pytest.mark.parametrize("state", [MachineState.off, MachineState.shutdown, MachineState.crashed])
async def test_stopped_needs_evidence_that_is_new_enough(bench: Any, make: Any, state: MachineState) -> None:
    await bench.put(make.instance(state=State.stopping))
    version = (await bench.get(Instance, "i-1")).version
    bench.machine(state=state, revision=version - 1)
    assert (await bench.step_instance()).state is State.stopping
    bench.machine(state=MachineState.running, revision=version)
    assert (await bench.step_instance()).state is State.stopping
    bench.machine(state=state, revision=version)
    assert (await bench.step_instance()).state is State.stopped


async def test_a_stop_gives_up_the_automatic_address_only(bench: Any, make: Any) -> None:
    await bench.put(
        make.instance(state=State.stopping),
        make.interface("eni-1", public_ip="198.18.0.4", auto_public=True),
        make.interface("eni-2", private_ip="172.31.0.5", public_ip="198.18.0.5", address="eipalloc-1"),
    )
    bench.machine(state=MachineState.off)
    await bench.step_instance()
    assert (await bench.get(NetworkInterface, "eni-1")).public_ip == ""
    assert (await bench.get(NetworkInterface, "eni-2")).public_ip == "198.18.0.5"


async def test_termination_lets_go_of_everything(bench: Any, make: Any) -> None:
    await bench.put(
        make.instance(state=State.shutting_down, private_ip="172.31.0.4", interfaces=("eni-1", "eni-2")),
        make.interface("eni-1"),
        make.interface("eni-2", private_ip="172.31.0.5", delete_on_termination=False, address="eipalloc-1"),
        Address(
            id="eipalloc-1",
            public_ip="198.18.0.9",
            association="eipassoc-1",
            interface="eni-2",
            instance="i-1",
            private_ip="172.31.0.5",
        ),
        make.attached("vol-1", delete=True),
        make.attached("vol-2"),
    )
    bench.machine(state=MachineState.off)
    after = await bench.step_instance()
    assert after.state is State.terminated
    assert (after.private_ip, after.interfaces, after.devices) == ("", (), ())
    assert await bench.find(NetworkInterface, "eni-1") is None
    kept = await bench.get(NetworkInterface, "eni-2")
    assert (kept.instance, kept.host, kept.address) == (None, None, "eipalloc-1")
    address = await bench.get(Address, "eipalloc-1")
    assert (address.association, address.interface, address.instance) == ("eipassoc-1", "eni-2", "")
    assert (await bench.get(Volume, "vol-1")).state is VolumeState.deleting
    free = await bench.get(Volume, "vol-2")
    assert (free.state, free.attachments) == (VolumeState.available, ())


async def test_a_terminated_instance_is_purged_in_its_time(bench: Any, make: Any) -> None:
    await bench.put(make.instance(state=State.terminated, purge_at=bench.time + 10))
    assert await bench.step_instance() is not None
    bench.time += 10
    assert await bench.step_instance() is None
    assert await bench.step_instance() is None


@pytest.mark.parametrize("state", list(State))
async def test_a_step_done_again_changes_nothing_more(bench: Any, make: Any, state: InstanceState) -> None:
    await bench.put(make.host(), make.instance(state=state, purge_at=bench.time + 10))
    for said in MachineState:
        bench.machine(state=said, revision=0)
        await bench.step_instance()
        once = await bench.get(Instance, "i-1")
        assert await bench.step_instance() == once


@pytest.mark.parametrize("delete", [True, False])
async def test_what_the_last_instance_says_counts(bench: Any, make: Any, delete: bool) -> None:
    several = make.attached(delete=True, multi_attach=True, pool="san", instances=["i-1", "i-2"])
    last = replace(several.attached_to("i-2"), delete_on_termination=delete)
    await bench.put(
        make.host(), make.instance(state=InstanceState.shutting_down), several.with_attachment(last)
    )
    bench.machine(state=MachineState.off)
    await bench.step_instance()
    kept = await bench.get(Volume, "vol-1")
    assert (kept.state, kept.instances) == (VolumeState.in_use, ("i-2",))
    await bench.put(make.instance("i-2", state=InstanceState.shutting_down, host=None))
    await bench.step_instance("i-2")
    after = await bench.get(Volume, "vol-1")
    assert after.state is (VolumeState.deleting if delete else VolumeState.available)
