from __future__ import annotations

import logging
from datetime import UTC, datetime

from msgspec.structs import replace

from gureum.resources import Host, HostState, Instance, InstanceState, StateReason, Volume
from gureum.sim.run import simulate
from gureum.sim.timeline import Timeline, changes

INSTANCE = Instance(
    id="i-00000000000000001",
    reservation="r-1",
    type="t3.nano",
    image="ami-1",
    zone="a",
    launched=datetime.fromtimestamp(0, UTC),
    vpc="vpc-1",
    subnet="subnet-1",
)


def test_only_what_changed_is_told() -> None:
    stopping = replace(
        INSTANCE, state=InstanceState.stopping, host="host-1", state_reason=StateReason("X", "X: so it was")
    )
    assert list(changes(None, INSTANCE)) == [f"{INSTANCE.id}: pending, generation 1"]
    assert list(changes(INSTANCE, stopping)) == [f"{INSTANCE.id}: stopping, on host-1, because X: so it was"]
    assert list(changes(stopping, replace(stopping, key_name="other"))) == []
    assert list(changes(stopping, replace(stopping, host=None, state_reason=None))) == [
        f"{INSTANCE.id}: on -"
    ]
    assert list(changes(stopping, None)) == [f"{INSTANCE.id}: is forgotten"]


def test_hosts_and_volumes() -> None:
    host = Host(id="host-1", zone="a", state=HostState.up)
    assert list(changes(host, replace(host, draining=True))) == ["host-1: draining"]
    volume = Volume(
        id="vol-1", size_bytes=2**31, zone="a", created=datetime.fromtimestamp(0, UTC), pool="san", host="h"
    )
    assert list(changes(None, volume)) == ["vol-1: creating, kept by h, GiB 2, pool san"]


def test_ids_become_names_and_what_repeats_is_counted() -> None:
    timeline = Timeline()
    timeline.names[INSTANCE.id] = "web"
    timeline.entries = [
        (1.0, "call", f"stop {INSTANCE.id}"),
        (2.0, "call", "vol-00000000000000abc and vol-00000000000000abd"),
        (3.0, "warning", "again"),
        (4.0, "warning", "again"),
        (5.0, "warning", "again"),
    ]
    assert list(timeline.lines()) == [
        "     1.0  call      stop web",
        "     2.0  call      vol-1 and vol-2",
        "     3.0  warning   again",
        "     5.0  warning   (the same, 2 times more)",
    ]


def test_a_run_that_is_listened_to_is_the_run_that_is_not() -> None:
    level = logging.getLogger("gureum.sim").level
    for options in ({}, {"hosts": 3, "shared": True, "ha": True}):
        with Timeline() as timeline:
            heard = simulate(3, 30, **options)  # type: ignore[arg-type]
        assert heard.digest == simulate(3, 30, **options).digest  # type: ignore[arg-type]
        kinds = {kind for _, kind, _ in timeline.entries}
        assert {"call", "fault", "instance", "volume", "host", "process", "machine"} <= kinds
    assert logging.getLogger("gureum.sim").level == level
