"""What is believed of the loads that hosts report."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gureum.control.loads import GAP_SECONDS, KNOWN_SECONDS, Loads, Use
from gureum.hostspec import HostReport
from gureum.loadspec import HostLoad, MachineLoad

GIB = 1 << 30
SAMPLE = 10.0


def report(number: int, cpus: float = 2.0, machines: Any = (), **values: Any) -> HostReport:
    load = HostLoad(
        number=number,
        cpus=cpus,
        memory_bytes=values.pop("memory", 4 * GIB),
        machines=dict(machines),
        **values,
    )
    return HostReport(
        cloud="c", host="host-0", boot_id="b", revision=1, cpus=4, memory_bytes=8 * GIB, load=load
    )


def told(loads: Loads, values: list[float], start: float = 0.0, **given: Any) -> float:
    """A machine's processors, a measurement each; returns when the last one was."""
    now = start
    for number, cpus in enumerate(values, 1):
        now = start + SAMPLE * number
        machine = MachineLoad(cpus=cpus, memory_bytes=GIB)
        loads.take(report(int(now), 3.0, {"i-1": machine}), {"i-1"}, given.get("moving", ()), now)
    return now


def test_at_first_the_mean_and_then_the_last_minutes() -> None:
    loads = Loads()
    now = told(loads, [1.0, 3.0])
    assert loads.machine("i-1") == Use(2.0, GIB)
    assert not loads.is_known("i-1", now)
    now = told(loads, [1.0] * 60, now)
    assert loads.machine("i-1").cpus == pytest.approx(1.0, abs=0.01)
    assert loads.is_known("i-1", now)
    assert loads.host("host-0", now) == Use(pytest.approx(2.0, abs=0.01), pytest.approx(3 * GIB))


def test_what_comes_and_goes_is_half_a_load() -> None:
    loads = Loads()
    seen = []
    now = 0.0
    for _ in range(40):
        now = told(loads, [2.0] * 3, now)
        seen.append(loads.machine("i-1").cpus)
        now = told(loads, [0.0] * 3, now)
        seen.append(loads.machine("i-1").cpus)
    assert all(0.8 < cpus < 1.2 for cpus in seen[20:])


def test_what_waits_counts_and_nothing_is_more_than_there_is() -> None:
    loads = Loads()
    machine = MachineLoad(cpus=1.0, waiting=0.5, memory_bytes=99 * GIB)
    loads.take(report(1, 99.0, {"i-1": machine}, memory=1 << 60), {"i-1"}, (), 0.0)
    assert loads.machine("i-1") == Use(1.5, 8 * GIB)
    besides = loads.host("host-0", 0.0)
    assert besides is not None
    assert besides.cpus == 3.0
    loads.take(report(2, 99.0, {"i-1": MachineLoad(waiting=1e12)}), {"i-1"}, (), 1e9)
    assert loads.machine("i-1").cpus == 4.0


def test_a_gap_begins_anew() -> None:
    loads = Loads()
    now = told(loads, [4.0] * 30)
    assert loads.host("host-0", now + GAP_SECONDS) is not None
    assert loads.host("host-0", now + GAP_SECONDS + 1) is None
    assert not loads.is_known("i-1", now + GAP_SECONDS + 1)
    now = told(loads, [0.0], now + GAP_SECONDS)
    assert loads.machine("i-1").cpus == 0.0
    assert not loads.is_known("i-1", now + KNOWN_SECONDS - 1)


def test_of_machines_that_move_or_are_elsewhere_nothing_is_learned() -> None:
    loads = Loads()
    now = told(loads, [1.0] * 3)
    told(loads, [4.0] * 3, now, moving={"i-1"})
    assert loads.machine("i-1").cpus == 1.0
    loads.take(report(99, 3.0, {"i-2": MachineLoad(cpus=3.0)}), {"i-1"}, (), 99.0)
    assert loads.machine("i-2") == Use()


def test_a_measurement_counts_once() -> None:
    loads = Loads()
    for now in (0.0, 1.0, 2.0):
        loads.take(report(1, 1.0, {"i-1": MachineLoad(cpus=1.0)}), {"i-1"}, (), now)
    loads.take(report(2, 1.0, {"i-1": MachineLoad(cpus=2.0)}), {"i-1"}, (), 3.0)
    assert loads.machine("i-1").cpus == 1.5


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1.0])
def test_what_is_no_measurement_is_passed_over(wrong: float) -> None:
    loads = Loads()
    loads.take(report(1, wrong), (), (), 0.0)
    loads.take(report(2, 1.0, {"i-1": MachineLoad(waiting=wrong)}), {"i-1"}, (), 0.0)
    loads.take(report(3, cpu_pressure=wrong), (), (), 0.0)
    assert loads.host("host-0", 0.0) is None


def test_what_is_gone_is_forgotten() -> None:
    loads = Loads()
    now = told(loads, [1.0])
    loads.forget(now + GAP_SECONDS + 1)
    assert loads.pressure("host-0") == Use()
    assert loads.machine("i-1").cpus == 1.0
    loads.forget(now + 61 * GAP_SECONDS)
    assert loads.machine("i-1") == Use()
