"""Faults that are put into the code on purpose: the simulation must find each of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.agent.disks import Disks
from gureum.agent.machines import Machines
from gureum.control import instances, volumes
from gureum.control.observed import HostView, Observed
from gureum.hostspec import HostSpec, MachineReport, MachineSpec, VolumeReport, VolumeSpec
from gureum.hypervisors.base import MachineStatus
from gureum.hypervisors.fake import FakeHypervisor
from gureum.resources import Instance, NetworkInterface
from gureum.san.base import LiveDisk
from gureum.san.pool import LayeredPool
from gureum.san.records import VolumeRecord
from gureum.services.dispatch import Dispatcher
from gureum.store.base import Transaction
from gureum.store.sqlite.committer import Committer
from gureum.store.sqlite.view import WriteView

from .planted import first, violation

STEPS = 70
NEWEST = 1 << 60
FIRST = 10
"""Of a cloud's commits: so many make what is there in any case."""


def found(seeds: Iterable[int], pattern: str, steps: int = STEPS, **options: Any) -> None:
    """The first seed that finds anything must find this."""
    first(pattern, (violation(seed, steps, **options) for seed in seeds))


def test_the_agent_ignores_generations(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Machines._on

    async def on(self: Machines, spec: MachineSpec, status: MachineStatus | None) -> bool:
        if status is not None:
            status = replace(status, generation=spec.generation)
        return await right(self, spec, status)

    monkeypatch.setattr(Machines, "_on", on)
    found(range(10, 50), "is pending", hosts=3, shared=True, ha=True)


def test_the_manager_believes_stale_reports_of_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Observed.machine

    def machine(self: Observed, host: str | None, id: str, generation: int) -> MachineReport | None:
        seen = right(self, host, id, generation)
        return None if seen is None else replace(seen, revision=NEWEST)

    monkeypatch.setattr(Observed, "machine", machine)
    found(range(80), "which the store gives to|runs, and is")


def test_the_manager_believes_stale_reports_of_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Observed.volume

    def volume(self: Observed, host: str | None, id: str) -> VolumeReport | None:
        seen = right(self, host, id)
        return None if seen is None else replace(seen, revision=NEWEST)

    monkeypatch.setattr(Observed, "volume", volume)
    found(range(80), "in the pool or in the store only")


def test_the_manager_takes_silence_for_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    right = instances.is_off

    def is_off(instance: Instance, seen: MachineReport | None) -> bool:
        return seen is None or right(instance, seen)

    monkeypatch.setattr(instances, "is_off", is_off)
    found(range(80), "runs, and is")


def test_the_manager_is_deaf_to_a_restarted_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are numbered by each agent process anew."""
    right = Observed.take

    def take(self: Any, report: Any) -> Any:
        if report.sequence < self.hosts_last.get(report.host, 0):
            return []
        self.hosts_last[report.host] = report.sequence
        return right(self, report)

    monkeypatch.setattr(Observed, "hosts_last", {}, raising=False)
    monkeypatch.setattr(Observed, "take", take)
    found(range(80), "not at rest", steps=250)


def test_the_agent_deletes_volumes_by_omission(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Disks.take

    def take(self: Disks, spec: HostSpec) -> None:
        named = {volume.id for volume in spec.volumes}
        unknown = sorted(self.local.volumes.keys() - named)
        gone = tuple(VolumeSpec(id=id, size_bytes=1 << 30, present=False) for id in unknown)
        right(self, replace(spec, volumes=spec.volumes + gone))

    monkeypatch.setattr(Disks, "take", take)
    found(range(5), "was not kept")


def test_a_terminated_instance_keeps_its_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    async def let_go(tx: Transaction, interface: NetworkInterface) -> None:
        pass

    monkeypatch.setattr(instances, "let_go", let_go)
    found(range(80), r"belongs to i-[0-9a-f]+, which is gone|is on host-\d instead of \['None'\]")


def test_a_terminated_instance_keeps_its_elastic_address(monkeypatch: pytest.MonkeyPatch) -> None:
    async def let_go(tx: Transaction, interface: NetworkInterface) -> None:
        await tx.delete(interface)

    monkeypatch.setattr(instances, "let_go", let_go)
    found(range(80), "are associated on one side only")


def test_a_stopped_instance_keeps_its_public_address(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stopped(tx: Transaction, env: object, instance: Instance) -> None:
        await tx.put(replace(instance, state=instances.InstanceState.stopped, force=False))
        for interface in await tx.find(NetworkInterface, instance=instance.id):
            await tx.put(replace(interface, host=None))

    monkeypatch.setattr(instances, "_stopped", stopped)
    found(range(80), "that is stopped keeps")


def test_a_snapshot_is_rolled_back_after_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine writes to the new layer already: what it wrote is lost."""
    right = LayeredPool._settle
    began: set[str] = set()

    async def settle(self: LayeredPool, record: VolumeRecord, live: LiveDisk | None) -> VolumeRecord:
        if record.pending is not None and record.pending.overlay in began:
            record = replace(record, pending=None)
            await self._catalogue.save(record)
        elif record.pending is not None:
            began.add(record.pending.overlay)
        return await right(self, record, live)

    monkeypatch.setattr(LayeredPool, "_settle", settle)
    found(range(80), "contains|which the pool has not|on one side only", crash_at="fake.switch.done")


def test_a_snapshot_is_taken_beside_the_running_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    async def switch_layer(self: FakeHypervisor, id: str, volume: str, layer: object) -> None:
        pass

    monkeypatch.setattr(FakeHypervisor, "switch_layer", switch_layer)
    found(range(80), "contains|is frozen", crash_at="none")


def test_a_commit_is_acknowledged_and_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Committer.submit
    commits = 0

    def submit(self: Committer, view: WriteView) -> Any:
        nonlocal commits
        commits += bool(view.writes)
        if view.writes and commits % 23 == 0 and view.commits_as > FIRST:
            return None
        return right(self, view)

    monkeypatch.setattr(Committer, "submit", submit)
    found(range(80), "gone|was terminated|was stopped|on one side|in the pool or in the store|is there")


def test_client_tokens_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    async def write(self: Dispatcher, tx: Transaction, operation: Any, call: Any) -> Any:
        return await self._run(tx, operation, call)

    monkeypatch.setattr(Dispatcher, "_write", write)
    found(range(80), "client token")


def test_news_of_what_is_under_way_are_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report that says the same of a newer spec is evidence, and must wake who waits for it."""
    right = HostView.differing

    def differing(self: HostView, before: HostView | None) -> Any:
        return (news for news in right(self, before) if not news.renewed)

    monkeypatch.setattr(HostView, "differing", differing)
    found(range(40, 60), "is detaching|is deleting|is shutting-down", crash_at="none")


def test_a_failed_volume_is_never_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    right: Callable[..., Any] = volumes._created

    def created(volume: Any, seen: Any) -> Any:
        return right(volume, None if seen is not None and seen.error else seen)

    monkeypatch.setattr(volumes, "_created", created)
    found(range(80), "is creating|is pending")


def test_a_detached_disk_is_not_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    right: Callable[..., Awaitable[Any]] = volumes._attachment

    async def attachment(tx: Any, observed: Any, volume: Any, attachment: Any) -> Any:
        if attachment.state is volumes.AttachmentState.detaching:
            return volumes._detached(volume, attachment.instance)
        return await right(tx, observed, volume, attachment)

    monkeypatch.setattr(volumes, "_attachment", attachment)
    found(range(80), "which the store gives to|shows")
