"""Which type an instance should have: single cases, and that a constant load changes it once at most."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gureum.control.autosize import (
    GAP_SECONDS,
    GROW_SAMPLES,
    SAMPLE_SECONDS,
    SHRINK_SAMPLES,
    Level,
    Seen,
    Window,
    candidates,
    decide,
    within,
)
from gureum.resources import Autosize, AutosizeMode
from gureum.services.ec2.instance_types import TYPES, growth, machine_size
from gureum.sizespec import MachineSize

GIB = 1 << 30


def policy(smallest: str = "t3.small", largest: str = "t3.2xlarge", target: int = 60) -> Autosize:
    return Autosize(
        mode=AutosizeMode.automatic, target=target, smallest=smallest, largest=largest, cooldown=300
    )


def size(started: str = "t3.small", vcpus_min: int = 1) -> MachineSize:
    has, room = machine_size(started), growth(started)
    return MachineSize(
        vcpus=has.vcpus,
        memory_bytes=has.memory_bytes,
        vcpus_min=vcpus_min,
        vcpus_max=room.vcpus,
        memory_min_bytes=has.memory_bytes,
        memory_max_bytes=room.memory_bytes,
    )


def always(cpu: float, memory: float | None) -> Seen:
    level = Level(cpu, memory)
    return Seen(level, level, level)


@pytest.mark.parametrize(
    ("type", "cpu", "memory", "wanted"),
    [
        ("t3.large", 0.59, 0.59, ""),
        ("t3.large", 0.61, 0.10, "t3.xlarge"),
        ("t3.large", 1.00, 0.10, "t3.xlarge"),
        ("t3.small", 0.10, 0.61, "t3.medium"),
        ("t3.small", 0.10, 1.90, "t3.large"),
        ("t3.small", 0.61, 0.10, "t3.xlarge"),
        ("t3.xlarge", 0.10, 0.10, "t3.medium"),
        ("t3.xlarge", 0.26, 0.10, ""),
        ("t3.xlarge", 0.10, 0.26, ""),
        ("t3.xlarge", 0.25, 0.25, "t3.large"),
        ("t3.2xlarge", 1.00, 0.10, ""),
        ("t3.large", 0.10, None, ""),
        ("t3.xlarge", 0.10, None, ""),
        ("t3.large", 0.61, None, "t3.xlarge"),
        ("t3.micro", 0.01, 0.01, "t3.small"),
        ("m5.4xlarge", 0.01, 0.01, "t3.small"),
        ("m5.4xlarge", 0.50, 0.50, ""),
    ],
)
def test_the_smallest_that_is_enough(type: str, cpu: float, memory: float | None, wanted: str) -> None:
    everything = MachineSize(
        vcpus=1, memory_bytes=GIB, vcpus_max=99, memory_min_bytes=0, memory_max_bytes=999 * GIB
    )
    verdict = decide(policy(), type, everything, always(cpu, memory))
    assert (verdict.type, verdict.stopped) == (wanted, "")
    assert verdict.reason


def test_what_only_a_stop_can_give_is_said_and_what_is_near_is_done() -> None:
    wide = policy(largest="m5.4xlarge")
    verdict = decide(wide, "t3.large", size("t3.small"), always(0.1, 2.0))
    assert (verdict.type, verdict.stopped) == ("", "t3.2xlarge")
    assert verdict.reason.endswith(
        "It needs a stop to become that: its machine can have 1 to 2 vCPUs and 2 GiB to 8 GiB while it runs"
    )
    verdict = decide(wide, "t3.small", size("t3.small"), always(0.1, 9.0))
    assert (verdict.type, verdict.stopped) == ("t3.large", "t3.2xlarge")
    emulated = size("t3.small", vcpus_min=4)
    verdict = decide(wide, "t3.xlarge", emulated, always(0.1, 0.1))
    assert (verdict.type, verdict.stopped) == ("", "t3.medium")
    verdict = decide(wide, "t3.small", None, always(0.1, 0.9))
    assert (verdict.type, verdict.stopped) == ("", "t3.medium")
    assert "keeps its size while it runs" in verdict.reason


def test_families_of_the_bounds_and_its_own() -> None:
    found = [type.name for type in candidates(policy("t3.small", "m5.xlarge"), machine_size("t3.large"))]
    assert found == ["t3.small", "t3.medium", "t3.large", "m5.large", "t3.xlarge", "m5.xlarge"]
    found = [type.name for type in candidates(policy("t3.medium", "t3.large"), machine_size("c5.large"))]
    assert found == ["c5.large", "t3.medium", "t3.large"]


def test_percentiles_of_what_was_seen() -> None:
    window, now = Window(), 0.0

    def take(*samples: float) -> None:
        nonlocal now
        for share in samples:
            now += SAMPLE_SECONDS
            window.take(Level(share, share / 2), now)

    take(*[0.2] * (GROW_SAMPLES - 1))
    assert window.seen() == Seen()
    take(1.0)
    assert window.seen() == Seen(Level(0.2, 0.1), Level(0.2, 0.1))
    take(*[1.0] * 8)
    assert window.seen().median == Level(0.2, 0.1)
    take(1.0)
    assert window.seen().median == Level(1.0, 0.5)
    take(*[0.2] * SHRINK_SAMPLES)
    assert window.seen().peak == Level(0.2, 0.1)
    take(*[1.0] * (SHRINK_SAMPLES // 20))
    assert window.seen().peak == Level(0.2, 0.1)
    take(1.0)
    assert window.seen().peak == Level(1.0, 0.5)
    assert window.count == SHRINK_SAMPLES
    window.take(Level(0.5, None), now + 1)
    assert window.count == SHRINK_SAMPLES
    assert window.seen().median.memory is not None  # type: ignore[union-attr]
    window.take(Level(0.5, None), now + SAMPLE_SECONDS)
    assert window.seen().median.memory is None  # type: ignore[union-attr]
    window.take(Level(0.5, 0.5), now + 2 * GAP_SECONDS)
    assert window.count == 1


class Guest(NamedTuple):
    """What it wants of processors and memory, with ``noise`` up and down, as shares of that."""

    cpus: float
    gib: float
    noise: float = 0.0
    says: bool = True


class Machine:
    """One that is looked at and changed as the manager does it."""

    def __init__(self, type: str, bounds: Autosize, emulated: bool = False) -> None:
        self.type, self.bounds, self.emulated = type, bounds, emulated
        self.started = type
        self.changes: list[tuple[float, str]] = []
        self.window = Window()
        self.now = 0.0

    def run(self, guest: Guest, seconds: float, rng: random.Random) -> None:
        end, again = self.now + seconds, 0.0
        while self.now < end:
            self.now += SAMPLE_SECONDS
            has = machine_size(self.type)
            wobble = 1 + guest.noise * rng.uniform(-1, 1)
            cpu = min(1.0, guest.cpus * wobble / has.vcpus)
            memory = min(1.0, guest.gib * GIB * wobble / has.memory_bytes) if guest.says else None
            self.window.take(Level(cpu, memory), self.now)
            if self.now % 30 or self.now < again:
                continue
            room = size(self.started, vcpus_min=has.vcpus if self.emulated else 1)
            verdict = decide(self.bounds, self.type, room, self.window.seen())
            if verdict.type:
                assert within(self.bounds, TYPES[verdict.type])
                assert verdict.type != self.type
                self.type, self.window = verdict.type, Window()
                self.changes.append((self.now, verdict.type))
                again = self.now + self.bounds.cooldown


NAMES = sorted(TYPES)


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """Of any type between random bounds, or outside of them."""
    low, high = draw(st.sampled_from(NAMES)), draw(st.sampled_from(NAMES))
    least, most = TYPES[low], TYPES[high]
    if least.vcpus > most.vcpus or least.memory_bytes > most.memory_bytes:
        low = high
    bounds = policy(low, high, draw(st.integers(10, 90)))
    own = draw(st.sampled_from([type.name for type in candidates(bounds, TYPES[low])]))
    return Machine(
        draw(st.sampled_from([own, own, low, "t3.medium", "m5.2xlarge"])), bounds, draw(st.booleans())
    )


def cut_off(machine: Machine, guest: Guest) -> bool:
    """Whether the guest would use more than there is, so that it can't be seen what it wants."""
    has = machine_size(machine.type)
    return guest.cpus >= has.vcpus or guest.gib * GIB >= has.memory_bytes


@settings(max_examples=60, deadline=None)
@given(machines(), st.floats(0, 40), st.floats(0.1, 120), st.booleans())
def test_a_constant_load_changes_it_once_at_most(
    machine: Machine, cpus: float, gib: float, says: bool
) -> None:
    guest = Guest(cpus, gib, says=says)
    cut = cut_off(machine, guest)
    machine.run(guest, 2 * 3600, random.Random(1))
    if not cut:
        assert len(machine.changes) <= 1
    # More is seen of what was cut off with each growth: it may grow again, and never goes back.
    names = [name for _, name in machine.changes]
    assert len(set(names)) == len(names) <= 5


@settings(max_examples=30, deadline=None)
@given(machines(), st.floats(0.1, 8), st.floats(0.1, 30), st.integers(0, 99))
def test_a_load_that_wobbles_does_not_go_back_and_forth(
    machine: Machine, cpus: float, gib: float, seed: int
) -> None:
    guest = Guest(cpus, gib, noise=0.05)
    machine.run(guest, 3 * 3600, random.Random(seed))
    names = [machine.started, *(name for _, name in machine.changes)]
    assert len(set(names)) == len(names)


def test_a_load_that_comes_and_goes_makes_it_large_and_leaves_it_so() -> None:
    rng, machine = random.Random(1), Machine("t3.large", policy())
    for _ in range(20):
        machine.run(Guest(2.0, 1.0), 600, rng)
        machine.run(Guest(0.1, 1.0), 600, rng)
    assert [name for _, name in machine.changes] == ["t3.xlarge"]


def test_it_grows_in_minutes_and_shrinks_in_half_an_hour() -> None:
    rng, machine = random.Random(1), Machine("t3.large", policy())
    machine.run(Guest(0.3, 4.0), 300, rng)
    machine.run(Guest(1.9, 4.0), 150, rng)
    [(grew, name)] = machine.changes
    assert (name, grew <= 450) == ("t3.xlarge", True)
    machine.run(Guest(0.3, 4.0), 1200, rng)
    assert len(machine.changes) == 1
    machine.run(Guest(0.3, 4.0), 1200, rng)
    [_, (shrank, name)] = machine.changes
    assert name == "t3.large"
    assert shrank - grew >= SHRINK_SAMPLES * SAMPLE_SECONDS
