"""The parts of a run of faults: what is planned, what is judged, and what becomes of a guest's writes."""

from __future__ import annotations

import itertools
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gureum.bench.chaos import plan, settled
from gureum.bench.chaos.faults import MACHINE_KILLS_MAX, Faults
from gureum.bench.chaos.plan import HOST_KINDS, Fault
from gureum.bench.chaos.report import Happening, Report
from gureum.bench.chaos.traffic import Wanted
from gureum.bench.chaos.writers import Writer
from gureum.bench.checked_load import AREA_BYTES, BLOCK_BYTES, block, wrong_slots
from gureum.bench.copies import OVERLAPS_MAX, THAW_LOOKS_MAX, Copy, Judge
from gureum.cli.cloud import Cloud

ID = "i-0123456789abcdef0"
VOLUME = "vol-0123456789abcdef0"


def planned(seed: int, count: int) -> list[plan.Step]:
    return list(itertools.islice(plan.steps(seed), count))


def test_a_seed_is_a_plan() -> None:
    assert planned(7, 200) == planned(7, 200)
    assert planned(7, 20) != planned(8, 20)


def test_every_kind_of_fault_comes() -> None:
    steps = planned(1, 400)
    assert {fault.kind for step in steps for fault in step.faults} == set(plan.KINDS)
    assert {step.waits for step in steps} == {True, False}
    for step in steps:
        hosts = [fault for fault in step.faults if fault.kind in HOST_KINDS]
        assert len(hosts) < 3
        assert len({fault.target % 3 for fault in hosts}) == len(hosts)


def copy(pid: int, state: str = "S", host: int = 0, vcpu: float = 0.0, *, comes: bool = False) -> Copy:
    return Copy(ID, pid, host, pid, state, comes, vcpu)


def test_one_copy_is_well_and_so_is_one_that_is_held() -> None:
    judge = Judge()
    assert judge.look([copy(1)]) == []
    assert judge.look([copy(1, "T"), copy(2, host=1)]) == []
    assert judge.look([copy(1, "Z"), copy(2, host=1)]) == []


def test_the_old_copy_goes_on_when_the_new_one_starts() -> None:
    judge = Judge()
    judge.look([copy(1)])
    [said] = judge.look([copy(1), copy(2, host=1)])
    assert said == f"{ID} runs more than once: process 1 on host-0 (S), process 2 on host-1 (S)"
    assert judge.look([copy(1), copy(2, host=1)]) == []  # it was said


def test_a_held_copy_that_goes_on_has_to_end_soon() -> None:
    judge = Judge()
    judge.look([copy(1, "T")])
    judge.look([copy(1, "T"), copy(2, host=1)])
    looks = [judge.look([copy(1), copy(2, host=1)]) for _ in range(THAW_LOOKS_MAX + 1)]
    assert looks[:-1] == [[]] * THAW_LOOKS_MAX
    assert len(looks[-1]) == 1


def test_of_a_migration_one_guest_goes_on_at_a_time() -> None:
    def looks(both: bool) -> list[str]:
        judge, said = Judge(), list[str]()
        for number in range(OVERLAPS_MAX + 3):
            there = copy(2, host=1, vcpu=float(number) if both else 0.0, comes=True)
            said += judge.look([copy(1, vcpu=float(number)), there])
        return said

    assert looks(both=False) == []
    assert len(looks(both=True)) == 1


def test_what_a_slot_may_hold() -> None:
    area = block(256) + block(1) + block(2)[:100] + bytes(BLOCK_BYTES - 100)
    assert wrong_slots(area, {0: [0, 256], 1: [1]}) == []
    [lost] = wrong_slots(area, {0: [512]})
    assert lost.startswith("slot 0 is to hold 512")
    [torn] = wrong_slots(area, {2: [2, 258]})
    assert torn.startswith("slot 2")


HONEST = "dd if=/dev/stdin of={disk} bs=4096 seek=$((i % 256)) iflag=fullblock conv=notrunc 2>/dev/null"


@pytest.fixture
def guest(tmp_path: Path) -> Callable[[str], list[str]]:
    """How one comes into a guest whose shell writes blocks in this way."""

    def made(write: str) -> list[str]:
        disk = tmp_path / "disk"
        disk.write_bytes(bytes(AREA_BYTES))
        program = tmp_path / "ssh"
        loop = f"while read i; do printf '%-2048d%2047d\\n' $i $i | {write.format(disk=disk)}; echo $i; done"
        program.write_text(f"#!/bin/sh\necho ready\n{loop}\n")
        program.chmod(0o755)
        return [str(program)]

    return made


def written(ssh: list[str], disk: Path) -> tuple[Writer, list[str]]:
    """A writer that has written a little, and what it has to say at its end."""
    said: list[str] = []
    writer = Writer(ID, VOLUME, ssh, disk.read_bytes, said.append)
    writer.start()
    deadline = time.monotonic() + 60
    while len(writer.answered) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    writer.close()
    assert len(writer.answered) >= 3
    return writer, said


def test_what_a_guest_wrote_is_there(guest: Callable[[str], list[str]], tmp_path: Path) -> None:
    writer, said = written(guest(HONEST), tmp_path / "disk")
    assert said == []
    assert writer.checks == 2  # before and after
    assert writer.bytes_checked >= 3 * BLOCK_BYTES
    assert writer.longest_wait(writer.answered[0], writer.answered[-1]) == writer.longest_wait_of_all()


def test_what_a_guest_did_not_write_is_missed(guest: Callable[[str], list[str]], tmp_path: Path) -> None:
    writer, said = written(guest("cat >/dev/null"), tmp_path / "disk")
    assert len(said) == sum(numbers[0] >= 0 for numbers in writer.held.values())
    assert said[0].startswith(f"{ID}: {VOLUME}: what the guest wrote is not there: slot 0")


def instance(state: str = "running", type: str = "t3.nano") -> dict[str, Any]:
    return {"State": {"Name": state}, "InstanceType": type}


def test_instances_are_as_they_were_asked_for() -> None:
    wanted = Wanted()
    wanted.instances, wanted.types = {"i-1": "running", "i-2": None}, {"i-1": "t3.nano", "i-2": "t3.nano"}
    one = copy(1)._replace(instance="i-1")
    assert settled.instances(wanted, {"i-1": instance()}, [one]) == []
    assert settled.instances(wanted, {"i-1": instance(), "i-2": instance("terminated")}, [one]) == []
    [said] = settled.instances(wanted, {"i-1": instance(type="t3.micro")}, [one])
    assert said == "i-1 was to be a t3.nano, and is a t3.micro"
    assert settled.instances(wanted, {}, []) == [
        "i-1 was to be running, and is not there ",
        "i-1 has 0 running processes, as running",
    ]
    assert settled.instances(wanted, {"i-1": instance()}, [one, copy(2)._replace(instance="i-3")]) == [
        "i-3 has a process, and nobody launched it"
    ]


def test_volumes_and_snapshots_are_as_they_were_asked_for() -> None:
    free = {"State": "available", "Attachments": []}
    used = {"State": "in-use", "Attachments": [{"InstanceId": "i-1", "State": "attached"}]}
    wanted = {"vol-1": "i-1", "vol-2": "", "vol-3": None}
    assert settled.volumes(wanted, {"vol-1": used, "vol-2": free}) == []
    assert len(settled.volumes(wanted, {"vol-1": free, "vol-3": free})) == 3
    assert (
        settled.snapshots({"snap-1": "completed", "snap-2": None}, {"snap-1": {"State": "completed"}}) == []
    )
    assert settled.snapshots({"snap-1": "completed"}, {}) == ["snap-1 was to be completed, and is not there "]


def test_a_running_instances_volume_is_open_once() -> None:
    volume = {"Attachments": [{"InstanceId": "i-1"}]}
    running, stopped = {"i-1": instance()}, {"i-1": instance("stopped")}
    watcher = {"address": "10.0.0.1:0/1"}
    assert settled.watched("vol-1", volume, running, [watcher]) == []
    assert settled.watched("vol-1", volume, stopped, []) == []
    assert len(settled.watched("vol-1", volume, running, [watcher, watcher])) == 1
    assert len(settled.watched("vol-1", volume, stopped, [watcher])) == 1


def test_figures_are_of_faults_that_came_alone() -> None:
    def happening(kinds: tuple[str, ...], again: float, wait: float) -> Happening:
        return Happening(
            at=0.0, kinds=kinds, words="", again={ID: again}, waits={ID: wait}, well=wait + 1
        )  # fmt: skip

    report = Report(
        seed=1,
        happenings=[
            happening(("host killed",), 6.0, 20.0),
            happening(("host killed",), 7.0, 19.0),
            happening(("host killed", "osd killed"), 30.0, 90.0),
        ],
    )
    figures = {each.name: each.value for each in report.figures()}
    assert figures["host killed, 2 times alone: longest without an acknowledged write"] == 20.0
    assert figures["the same, until its instances' processes run again"] == 7.0


def test_a_machine_is_not_killed_more_often_than_it_is_started_again(tmp_path: Path) -> None:
    found: list[Copy] = []
    faults = Faults(Cloud(tmp_path), 3, lambda: found)
    fault = Fault("machine killed", 0, 0.0)
    assert faults.begin(fault) is None  # there is none
    for _ in range(MACHINE_KILLS_MAX):
        with subprocess.Popen(["sleep", "60"]) as process:
            found[:] = [copy(process.pid)]
            underway = faults.begin(fault)
        assert underway is not None
        assert (underway.instance, process.returncode) == (ID, -signal.SIGKILL)
        underway.close()
    with subprocess.Popen(["sleep", "60"]) as process:
        found[:] = [copy(process.pid)]
        assert faults.begin(fault) is None
        process.kill()
